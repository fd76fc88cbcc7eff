"""Model directories: config.json and one safetensors file for each part that has weights.

`save_model` writes them, `load_parts` reads them; what a directory holds is known here and nowhere
else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowportrait import media, registry
from flowportrait.config import Frozen, load_recipe, read_values, save_resolved, validate
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.files import JsonObject, sha256_of
from flowportrait.model.blocks import TEXT, MoTConfig
from flowportrait.model.mot import MoT
from flowportrait.model.offload import place, wait_aside
from flowportrait.model.quantize import Quantization, quantize
from flowportrait.precision import fast_bf16
from flowportrait.weights import Weight, difference, load_into, read_header, save_tensors, shapes

CONFIG = "config.json"
CPU = torch.device("cpu")
PARTS = ("model", "codec", "audio_encoder", "image_encoder")
"""What a model directory holds weights of."""


class SamplingConfig(Frozen):
    """Default sampling settings of a model. The paper's 25 steps are 25 evaluations here."""

    evaluations: int = Field(25, ge=1, description="network evaluations per window")
    shift: float = Field(
        3.0,
        gt=0,
        description=(
            "time shift of the sampling schedule. Unstated in the paper; 3 is BAGEL's at inference"
        ),
    )
    window_latent_frames: int = Field(
        16, ge=1, description="number of latent frames sampled jointly"
    )
    prefix_latent_frames: int = Field(
        2, ge=1, description="number of these that are taken from the previous window"
    )
    lips: float = Field(
        1.0,
        ge=1,
        le=2,
        description="factor on the sampled opening of the lips when frames are decoded; few "
        "evaluations give averages, which move less than people do",
    )
    lip_width: float | None = Field(
        None, ge=1, le=3, description="the same for the width of the mouth; that of lips by default"
    )

    @model_validator(mode="after")
    def _window_moves_on(self) -> SamplingConfig:
        """Refuses a window that would not get further than what it repeats."""
        if self.prefix_latent_frames >= self.window_latent_frames:
            raise ValueError(
                f"prefix_latent_frames {self.prefix_latent_frames}: must be smaller than "
                f"window_latent_frames {self.window_latent_frames}"
            )
        return self


class ModelSpec(Frozen):
    """config.json of a model directory. A part is `{type, ...}`: its registered name and its
    `Config`.
    """

    schema_version: Literal[1] = 1
    name: str
    model: MoTConfig
    codec: JsonObject
    audio_encoder: JsonObject
    image_encoder: JsonObject
    sampling: SamplingConfig = SamplingConfig()
    size_px: int = Field(128, gt=0, description="side of the square video")
    fps: float = Field(media.FPS, gt=0)
    sha256: dict[str, str] = Field(
        default={},
        description=(
            "digest of each file, written by save_spec; that of config.json covers its other keys"
        ),
    )
    untrained: tuple[str, ...] = Field(
        (), description="prefixes of the names of weights that have not been trained yet"
    )


def load_parts(
    name_or_directory: str | Path,
    names: Sequence[str],
    device: str = "auto",
    offload: bool = False,
    wide: bool = True,
    quantization: Quantization | None = None,
) -> tuple[ModelSpec, dict[str, nn.Module]]:
    """The description of a model directory, and the parts of it that are asked for, frozen. What
    text alone needs is read for training (`wide`) alone. Raises as `load`.
    """
    where = find_device(device)
    directory = registry.find_model(name_or_directory)
    spec = load_spec(directory)
    textless = spec.model if wide else spec.model.model_copy(update={"vocab_size": 0})
    built = spec.model_copy(update={"model": textless})
    parts = {name: _built(name, built) for name in names}
    for name, module in parts.items():
        parked = offload and name == "model"
        packed = quantization if name == "model" else None
        if name == "model" and not wide and fast_bf16(where.type):
            half = _stay_short(module)
        else:
            half = frozenset()
        if module.state_dict():
            _load_weights(module, directory, name, built, CPU if offload or packed else where, half)
        module.eval().requires_grad_(False)
        if packed:
            quantize(module, packed)
        if parked:
            place(module, where)
        elif offload and name.endswith("_encoder"):
            wait_aside(module, where)
        else:
            module.to(where)
    return spec, parts


def _built(name: str, spec: ModelSpec) -> nn.Module:
    """A part that waits for its weights; what is large and has nothing but weights takes no memory
    before they come.
    """
    if name == "model":
        small = (
            spec.model.hidden_size < 512
        )  # meta imports torch's compiler: two seconds that no small model repays
        with torch.device("cpu" if small else "meta"):
            return MoT(spec.model)
    encoders = {"audio_encoder": registry.AUDIO_ENCODERS, "image_encoder": registry.IMAGE_ENCODERS}
    table = registry.CODECS if name == "codec" else encoders[name]
    return build_part(table, getattr(spec, name), empty=True)


def _stay_short(model: MoT) -> frozenset[str]:
    """The weights of matrix products that run in bf16; times are embedded in float32."""
    return frozenset(
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and not name.startswith("time_embedder")
        for own, _ in module.named_parameters(recurse=False)
    )


def save_model(
    directory: str | Path,
    spec: ModelSpec,
    parts: Mapping[str, nn.Module],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a model directory: config.json and one safetensors file for each of `parts` that has
    weights.

    `parts` are model, codec, audio_encoder and image_encoder. Weights are kept as `dtype`; loading
    turns them back into float32.
    """
    assert parts.keys() == set(PARTS)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name, module in parts.items():
        weights = {
            key: (
                value.detach()
                .cpu()
                .to(dtype if value.is_floating_point() else value.dtype)
                .contiguous()
            )
            for key, value in module.state_dict().items()
        }
        if weights:
            digests[f"{name}.safetensors"] = save_tensors(
                directory / f"{name}.safetensors", weights
            )
    save_spec(spec.model_copy(update={"sha256": digests}), directory)


def load_spec(directory: Path) -> ModelSpec:
    """The description in a model directory. Raises CheckpointError where it cannot be read, or
    where its config.json is not what was written; one that names no digest of its own is taken as
    it is.
    """
    path = directory / CONFIG
    try:
        spec = load_recipe(path, ModelSpec)
        own = spec.sha256.get(CONFIG)
        if own is not None and own != _digest_of_values(read_values(path)):
            raise CheckpointError(
                f"{path}: does not match its sha256; download it again, or, if it was changed on"
                f" purpose, remove '{CONFIG}' from its sha256"
            )
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    return spec


def describe(
    name_or_directory: str | Path, toward: str | Path | None = None, share: float = 0.5
) -> ModelSpec:
    """Description of a model, or of the mixture `share` of the way `toward` another, without
    reading any weights. Raises as `load_spec`.
    """
    one = load_spec(registry.find_model(name_or_directory))
    if toward is None:
        return one
    return mixed(one, load_spec(registry.find_model(toward)), share)


def mixed(one: ModelSpec, other: ModelSpec, share: float) -> ModelSpec:
    """Of weights that are `share` of the way from `one` to `other`."""
    name = f"{one.name} {1 - share:g} + {other.name} {share:g}"
    digests = one.sha256 | {f"toward/{file}": digest for file, digest in other.sha256.items()}
    return one.model_copy(update={"name": name, "sha256": digests})


def save_spec(spec: ModelSpec, directory: Path) -> None:
    """Writes config.json with a digest of itself among those of the files."""
    files = {name: digest for name, digest in spec.sha256.items() if name != CONFIG}
    values = spec.model_copy(update={"sha256": files}).model_dump(mode="json")
    sealed = spec.model_copy(update={"sha256": {**files, CONFIG: _digest_of_values(values)}})
    save_resolved(sealed, directory / CONFIG)


def check_files(directory: Path, spec: ModelSpec, names: Sequence[str] = ("",)) -> None:
    """Raises CheckpointError where a file that config.json names, and whose name begins with one of
    `names`, is not there or is another.
    """
    for name, expected in spec.sha256.items():
        path = directory / name
        if name == CONFIG or not name.startswith(tuple(names)):
            continue
        if not path.is_file():
            raise CheckpointError(
                f"{path}: missing, but named in {CONFIG}; download the whole model directory again"
            )
        if sha256_of(path) != expected:
            raise CheckpointError(
                f"{path}: does not match its sha256 in {CONFIG}; download the file again"
            )


def _digest_of_values(values: Mapping[str, Any]) -> str:
    """Of what stands in a config.json, however it is laid out, but for this digest."""
    files = {name: digest for name, digest in values.get("sha256", {}).items() if name != CONFIG}
    return hashlib.sha256(
        json.dumps({**values, "sha256": files}, sort_keys=True).encode()
    ).hexdigest()


def build_part(
    table: registry.PartTable, part: Mapping[str, Any], empty: bool = False
) -> nn.Module:
    """The part that a `{type, ...}` spec describes, with fresh weights or, where it can be,
    `empty`. ConfigError.
    """
    values = dict(part)
    if "type" not in values:
        raise ConfigError(f"{table.kind}: no 'type' given; {registry.name_hint('', table.names())}")
    kind = table.load(values.pop("type"))
    config = validate(kind.Config, values, where=f"{table.kind} '{part['type']}'")
    with torch.device("meta") if empty and getattr(kind, "builds_empty", False) else nullcontext():
        return kind(config)


def _load_weights(
    module: nn.Module,
    directory: Path,
    name: str,
    spec: ModelSpec,
    device: torch.device,
    half: frozenset[str],
) -> None:
    """Fills `module` from its file or files, which must hold exactly its tensors and have their
    recorded digests.
    """
    check_files(directory, spec, (name,))
    files = sorted(directory.glob(f"{name}*.safetensors"))
    whole = directory / f"{name}.safetensors"
    if not files:
        how = getattr(module, "weights_from", "get the whole model directory again")
        raise CheckpointError(f"{whole}: missing; {how}")
    weights: dict[str, Weight] = {}
    for path in files:
        weights |= read_header(path).weights
    if name == "model" and not spec.model.vocab_size:
        weights = {own: weight for own, weight in weights.items() if not own.startswith(TEXT)}
    problem = difference(shapes(weights), shapes(module.state_dict()))
    if problem:
        raise CheckpointError(
            f"{whole}: {problem}; file and config.json must come from the same model"
        )
    load_into(module, weights, device, half)


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU."""
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available.get(name.split(":")[0], False):
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise ConfigError(f"device: got '{name}'; usable here: auto, {usable}")
    return torch.device(name)


def mix_weights(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights `share` of the way from `one` to `other`, which must have the same names and
    shapes.
    """
    return {name: torch.lerp(value, other[name], share) for name, value in one.items()}
