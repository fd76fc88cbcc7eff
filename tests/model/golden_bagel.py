"""The tiny BAGEL of tests/golden/bagel_tiny: its model, its numbers, its packed sequence."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowportrait.model.blocks import MoTConfig
from flowportrait.model.mask import Attend, allowed
from flowportrait.model.mot import MoT
from flowportrait.model.packed import Packed

FOLDER = Path(__file__).parents[1] / "golden" / "bagel_tiny"
START_OF_IMAGE, END_OF_IMAGE = 122, 123
CONFIG = MoTConfig(
    hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, mlp_size=128, vocab_size=128,
    rope_theta=1e6, latent_channels=4, latent_side=6, audio_dim=24, image_dim=32, image_side=8,
)  # fmt: skip


@cache
def numbers(name: str) -> dict[str, Tensor]:
    """All tensors of one golden file."""
    return load_file(FOLDER / f"{name}.safetensors")


def model() -> MoT:
    """The model with the golden weights; BAGEL has no audio connector, so that one stays random."""
    mot = MoT(CONFIG)
    weights = {
        name: value
        for name, value in numbers("weights").items()
        if not name.startswith("vit_model.")
    }
    missing, unexpected = mot.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("audio_connector.") for name in missing)
    return mot


def text(mot: MoT, ids: Tensor | list[int]) -> Tensor:
    """Embedded text tokens [n, d]."""
    return mot.language_model.model.embed_tokens(torch.as_tensor(ids))


def splits(lengths: Tensor, modes: Tensor) -> list[tuple[int, Attend]]:
    """Splits of one sample from the golden integers."""
    return [(int(n), Attend(int(mode))) for n, mode in zip(lengths, modes, strict=True)]


def native(mot: MoT, tokens: Tensor) -> Packed:
    """BAGEL's own layout: two samples of text, ViT, clean and noised latents."""
    golden = numbers("native_llm")
    samples, start = [], 0
    for total in golden["sample_lens"].tolist():
        end = start
        while total:
            total -= int(golden["split_lens"][end])
            end += 1
        samples.append(
            splits(golden["split_lens"][start:end], golden["attn_mode_codes"][start:end])
        )
        start = end
    return Packed(
        tokens,
        golden["position_ids"].float(),
        owned(golden["vae_indexes"], len(tokens)),
        allowed(samples),
    )


def owned(indexes: Tensor, total: int) -> Tensor:
    """True at the given places: the tokens of the generation expert."""
    return torch.zeros(total, dtype=torch.bool).index_fill(0, indexes, True)
