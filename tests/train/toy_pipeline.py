"""A whole pipeline of toy size with fake parts, and what its runs need."""

import torch

from flowportrait import precision, registry
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.mot import MoT
from flowportrait.modeldir import ModelSpec, SamplingConfig, build_part, save_model
from flowportrait.registry import PartTable
from flowportrait.train import rl

PARTS = {"type": "fake"}
SPEC = ModelSpec(
    name="toy",
    codec=PARTS,
    audio_encoder=PARTS,
    image_encoder=PARTS,
    size_px=32,
    sampling=SamplingConfig(
        evaluations=3, shift=2.0, window_latent_frames=4, prefix_latent_frames=1
    ),
    model=MoTConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        mlp_size=24,
        vocab_size=0,
        rope_theta=100.0,
        positions_per_second=24.0,
        latent_channels=4,
        latent_side=3,
        audio_dim=2,
        image_dim=3,
        image_side=2,
    ),
)
FAULTS = {name: f"fake_measures:{name}" for name in ("sometimes", "never", "even", "falling")}


def use_fake_parts(replace):
    """Registers the fakes; `replace(module, name, value)` is setattr or a monkeypatch's."""
    for name, kind, part in [
        ("CODECS", "codec", "FakeCodec"),
        ("AUDIO_ENCODERS", "audio encoder", "FakeAudioEncoder"),
        ("IMAGE_ENCODERS", "image encoder", "FakeImageEncoder"),
    ]:
        replace(registry, name, PartTable(kind, {"fake": f"fake_parts:{part}"}))
    replace(precision, "fast_bf16", lambda device: False)  # comparisons to 1e-5 ask for float32
    replace(rl, "MEASURES", PartTable("measure", {**registry.MEASURES.builtins, **FAULTS}))


def save_toy(directory):
    """A model directory with random weights; the codec shows them well."""
    torch.manual_seed(0)
    model = MoT(SPEC.model)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    parts = {
        "model": model,
        "codec": build_part(registry.CODECS, PARTS),
        "audio_encoder": build_part(registry.AUDIO_ENCODERS, PARTS),
        "image_encoder": build_part(registry.IMAGE_ENCODERS, PARTS),
    }
    save_model(directory, SPEC, parts)
    return directory
