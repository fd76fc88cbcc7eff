"""Conversion of published weights into a model directory, and back: `flowportrait convert` and
`export`.

`convert bagel` makes the directory with the generator and the image encoder; `convert wan` and
`convert whisper` (or `wav2vec2`) put the codec and the speech network in. Bytes are copied, never
computed, so what BAGEL's file held comes back out of `export` to the bit; and nothing larger than a
few megabytes is in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowportrait import registry
from flowportrait.convert_files import (
    INDEX,
    KEPT,
    NEW_FILE,
    OWN_FILE,
    SETTINGS,
    bagel_files,
    keep_files,
    opened_weights,
    put_file,
    saved_spec,
    settings_of,
    write_index,
)
from flowportrait.errors import CheckpointError, ConfigError, require
from flowportrait.files import JsonObject
from flowportrait.model import bagel
from flowportrait.model.blocks import INIT_STD
from flowportrait.model.embed import Connector
from flowportrait.model.mot import MoT
from flowportrait.modeldir import (
    CONFIG,
    ModelSpec,
    SamplingConfig,
    build_part,
    check_files,
)
from flowportrait.weights import (
    Held,
    Weight,
    difference,
    find_weights,
    read_header,
    shapes,
    write_weights,
)

Weights = dict[str, Weight]

SIZE_STEP_PX = 16
SAMPLING = SamplingConfig(
    evaluations=25, shift=3.0, window_latent_frames=151, prefix_latent_frames=2
)
WHISPER_SIZES = (
    "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins",
    "max_source_positions", "activation_function", "scale_embedding",
)  # fmt: skip


def convert_bagel(source: Path, out: Path, size_px: int = 384) -> ModelSpec:
    """A model directory from a folder of BAGEL-7B-MoT as published (ema.safetensors, or shards, and
    its two config files). What BAGEL has not starts fresh, and the directory says so.

    Raises CheckpointError for weights that are absent, damaged, or not exactly those of the sizes
    they tell.
    """
    if (out / CONFIG).exists():
        raise ConfigError(f"{out}: already contains a model; give another directory, or remove it")
    _require_size(size_px)
    files = bagel_files(source)
    weights: Weights = {}
    for file in files:
        weights |= read_header(file).weights
    language, vision = (settings_of(source / name) for name in SETTINGS)
    ours, seen = bagel.split(weights)
    try:
        model = bagel.generator_sizes(shapes(ours), language)
        image_encoder = {
            "type": "siglip",
            "size_px": size_px,
            **bagel.vision_sizes(shapes(seen), vision),
        }
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    spec = ModelSpec(
        name=out.name,
        model=model,
        codec={"type": "wan"},
        audio_encoder={"type": "whisper"},
        image_encoder=image_encoder,
        sampling=SAMPLING,
        size_px=size_px,
        untrained=(*bagel.NEW, *bagel.OTHER_LATENTS),
    )
    _require_bagel(model, image_encoder, ours, seen, source)
    if size_px > (most := SIZE_STEP_PX * model.latent_side):
        raise ConfigError(f"--size: got {size_px}; the maximum of this model is {most} px")
    kept = keep_files(source, files, out)
    if (source / OWN_FILE).is_file():
        new = read_header(source / OWN_FILE).weights
    else:
        new = _fresh_connector(spec)
    digests = {
        name: write_weights(out / name, own)
        for name, own in (
            ("model.safetensors", ours),
            (NEW_FILE, new),
            ("image_encoder.safetensors", seen),
        )
    }
    return saved_spec(spec.model_copy(update={"sha256": digests | kept}), out)


def _require_bagel(
    model,
    image_encoder: JsonObject,
    ours: Weights,
    seen: Weights,
    source: Path,
) -> None:
    """Raises CheckpointError for weights of other shapes than BAGEL's."""
    with torch.device("meta"):
        expected = {
            name: shape
            for name, shape in shapes(MoT(model).state_dict()).items()
            if not bagel.is_new(name)
        }
    encoder = build_part(registry.IMAGE_ENCODERS, image_encoder, empty=True)
    for got, wanted in ((ours, expected), (seen, shapes(encoder.state_dict()))):
        problem = difference(shapes(got), wanted)
        if problem:
            raise CheckpointError(f"{source}: {problem}; give BAGEL's published weights")


def _require_size(size_px: int) -> None:
    """Videos are cut into patches of 2 x 2 latent cells of 8 x 8 px: another side would be rounded
    down in silence, or not fit the portrait's.
    """
    if size_px % SIZE_STEP_PX:
        below = size_px // SIZE_STEP_PX * SIZE_STEP_PX
        raise ConfigError(
            f"--size: got {size_px}; a multiple of {SIZE_STEP_PX}: {below} or"
            f" {below + SIZE_STEP_PX}"
        )


def _fresh_connector(spec: ModelSpec) -> Weights:
    """The connector of speech as the model starts it, always the same."""
    config = spec.model
    connector = Connector(config.audio_dim, config.hidden_size, config.audio_layers)
    rng = torch.Generator()
    rng.manual_seed(0)
    for name, p in connector.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(p, std=INIT_STD, generator=rng)
        else:
            nn.init.zeros_(p)
    return {f"audio_connector.{name}": Held(p.detach()) for name, p in connector.named_parameters()}


def convert_wan(source: Path, out: Path) -> ModelSpec:
    """Puts the Wan-VAE into a model directory, from Wan2.1_VAE.pth or from a folder of
    diffusers.
    """
    spec = opened_weights(out)
    weights = find_weights(source)
    settings = source / "config.json" if source.is_dir() else None
    if settings is not None:
        values = settings_of(settings)
        if values.get("is_residual") or values.get("num_res_blocks", 2) != 2:
            raise CheckpointError(
                f"{settings}: belongs to another network; give the VAE of Wan 2.1"
            )
        codec = {
            "width": values["base_dim"],
            "channels": values["z_dim"],
            "multipliers": values["dim_mult"],
            "latent_mean": values["latents_mean"],
            "latent_std": values["latents_std"],
        }
    else:
        weights = _diffusers_names(weights)
        for name in ("encoder.conv_in.weight", "post_quant_conv.weight"):
            if name not in weights:
                raise CheckpointError(
                    f"{source}: no tensor '{name}' of a Wan-VAE; give Wan2.1_VAE.pth"
                )
        codec = {
            "width": weights["encoder.conv_in.weight"].shape[0],
            "channels": weights["post_quant_conv.weight"].shape[0],
        }
    if codec["channels"] != spec.model.latent_channels:
        raise ConfigError(
            f"{source}: {codec['channels']} latent channels, the generator has"
            f" {spec.model.latent_channels}; give a codec with that many"
        )
    return put_file(out, spec, "codec", {"type": "wan", **codec}, weights, source)


def _diffusers_names(weights: Mapping[str, Weight]) -> Weights:
    """The tensors of the published file under diffusers' names; those that have them already keep
    them.
    """
    require("diffusers", extra="bagel")
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    if "conv1.weight" in weights:
        return convert_wan_vae_to_diffusers(dict(weights))
    return dict(weights)


def convert_speech(
    kind: str, source: Path, out: Path, layers: str | tuple[int, ...] | None = None
) -> ModelSpec:
    """Puts a speech network ("whisper" or "wav2vec2") into a model directory, from a folder as
    published. The generator's connector to it starts fresh.
    """
    spec = opened_weights(out)
    if NEW_FILE not in spec.sha256:
        raise ConfigError(
            f"{out}: this model was trained with its own speech network; start from `convert bagel`"
        )
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder; give one with config.json and the weights")
    network = settings_of(source / "config.json")
    if kind == "whisper":
        network = {name: network[name] for name in WHISPER_SIZES if name in network}
    else:
        network = {name: value for name, value in network.items() if _tells_sizes(name)}
    part: JsonObject = {"type": kind, "network": network}
    if kind == "wav2vec2" and (source / "preprocessor_config.json").is_file():
        part["levels"] = bool(
            settings_of(source / "preprocessor_config.json").get("do_normalize", True)
        )
    if layers is not None:
        part["layers"] = layers
    encoder = build_part(registry.AUDIO_ENCODERS, part, empty=True)
    wanted = encoder.state_dict().keys()
    found = {
        _network_name(kind, network, name): weight for name, weight in find_weights(source).items()
    }
    spec = put_file(
        out, spec, "audio_encoder", part, {k: v for k, v in found.items() if k in wanted}, source
    )
    num_layers = 1 if encoder.layers == "last" else len(encoder.layers)
    sizes = spec.model.model_copy(update={"audio_dim": encoder.dim, "audio_layers": num_layers})
    spec = spec.model_copy(update={"model": sizes})
    digest = write_weights(out / NEW_FILE, _fresh_connector(spec))
    untrained = tuple(dict.fromkeys((*bagel.NEW, *spec.untrained)))
    return saved_spec(
        spec.model_copy(
            update={"sha256": {**spec.sha256, NEW_FILE: digest}, "untrained": untrained}
        ),
        out,
    )


def layers_named(text: str | None) -> str | tuple[int, ...] | None:
    """The layers of a speech network that a command line names: "last", "all", or numbers."""
    if text is None or text in ("last", "all"):
        return text
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--layers: got '{text}'; give last, all, or numbers such as 8,16,24"
        ) from None


def _tells_sizes(name: str) -> bool:
    """Whether an entry of a published config.json is about the network rather than about where it
    came from.
    """
    return not name.startswith("_") and name not in (
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
    )


def _network_name(kind: str, network: Mapping[str, Any], name: str) -> str:
    """A published tensor's name here: networks lie within larger ones, and normed weights had other
    names once.
    """
    for outer in (
        ("model.encoder.", "encoder.") if kind == "whisper" else (f"{network.get('model_type')}.",)
    ):
        if name.startswith(outer):
            name = name.removeprefix(outer)
            break
    for old, new in (("conv.weight_g", "original0"), ("conv.weight_v", "original1")):
        name = name.replace(old, f"conv.parametrizations.weight.{new}")
    return f"network.{name}"


def export(directory: Path, out: Path) -> list[Path]:
    """BAGEL's own files from a model directory that came from them, trained further or not, and
    gives what was written.

    Weights that BAGEL has not go into a file of their own, if they were trained. Codec and speech
    network are not changed by any training here, so they are where they were. Raises ConfigError
    for a model that is no BAGEL.
    """
    spec = opened_weights(directory)
    headers = sorted((directory / KEPT).glob("*.header"))
    if not headers:
        raise ConfigError(
            f"{directory}: was not converted from BAGEL; only such models can be exported"
        )
    check_files(directory, spec, ("model", "image_encoder", KEPT))
    model: Weights = {}
    for file in sorted(directory.glob("model*.safetensors")):
        model |= read_header(file).weights
    left = bagel.join(model, read_header(directory / "image_encoder.safetensors").weights)
    out.mkdir(parents=True, exist_ok=True)
    written, same = [], True
    for header in headers:
        text = header.read_text(encoding="utf-8")
        names = [name for name in json.loads(text) if name != "__metadata__"]
        lacking = [name for name in names if name not in left]
        if lacking:
            raise CheckpointError(
                f"{directory}: lacks '{lacking[0]}'; download the whole model directory again"
            )
        written.append(out / header.name.removesuffix(".header"))
        write_weights(written[-1], {name: left.pop(name) for name in names}, text)
        same = same and read_header(written[-1]).text == text
    for path in sorted((directory / KEPT).glob(INDEX)):
        total = sum(
            weight.size_bytes for file in written for weight in read_header(file).weights.values()
        )
        written.append(write_index(path, out / path.name, None if same else total))
    if left and not set(bagel.NEW) <= set(spec.untrained):
        written.append(out / OWN_FILE)
        write_weights(written[-1], left)
    for name in SETTINGS:
        written.append(out / name)
        shutil.copyfile(directory / KEPT / name, written[-1])
    return written
