"""Files of published weights: opened, copied byte by byte, and written with their index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowportrait import registry
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.files import JsonObject, sha256_of
from flowportrait.modeldir import (
    CONFIG,
    ModelSpec,
    build_part,
    load_spec,
    save_spec,
)
from flowportrait.weights import (
    Weight,
    difference,
    read_header,
    require_all_shards,
    shapes,
    write_weights,
)

BAGEL_FILE = "ema.safetensors"
FLUX_FILE = "ae.safetensors"


OWN_FILE = "flowportrait.safetensors"  # beside BAGEL's: weights that it has not


SETTINGS = ("llm_config.json", "vit_config.json")


INDEX = "*.safetensors.index.json"


KEPT = "bagel"  # folder of a model directory: what of the source is neither weight nor ours


NEW_FILE = "model-new.safetensors"


def keep_files(source: Path, files: list[Path], out: Path) -> dict[str, str]:
    """Keeps the files that `export` writes besides the weights; returns their digests by name."""
    (out / KEPT).mkdir(parents=True, exist_ok=True)
    for path in (*(source / name for name in SETTINGS), *sorted(source.glob(INDEX))):
        shutil.copyfile(path, out / KEPT / path.name)
    for file in files:
        (out / KEPT / f"{file.name}.header").write_text(read_header(file).text, encoding="utf-8")
    return {f"{KEPT}/{path.name}": sha256_of(path) for path in sorted((out / KEPT).iterdir())}


def bagel_files(source: Path) -> list[Path]:
    """The files with BAGEL's weights, without those of its codec."""
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder; give the published folder of BAGEL-7B-MoT")
    if (source / BAGEL_FILE).is_file():
        return [source / BAGEL_FILE]
    files = [
        file
        for file in sorted(source.glob("*.safetensors"))
        if file.name not in (FLUX_FILE, OWN_FILE)
    ]
    if not files:
        raise CheckpointError(
            f"{source}: no {BAGEL_FILE} (29.2 GB); download it from"
            " huggingface.co/ByteDance-Seed/BAGEL-7B-MoT"
        )
    require_all_shards(files)
    return files


def settings_of(path: Path) -> JsonObject:
    """Settings in a JSON file of the weights. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; download it from the source of the weights")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error


def write_index(kept: Path, path: Path, total_bytes: int | None) -> Path:
    """The index of the shards as it was; with another total where their numbers take another."""
    text = kept.read_text(encoding="utf-8")
    values = json.loads(text)
    if total_bytes is not None and "total_size" in values.get("metadata", {}):
        values["metadata"]["total_size"] = total_bytes
        text = json.dumps(values, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def opened_weights(directory: Path) -> ModelSpec:
    """A model directory that `convert bagel` has made. Raises ConfigError."""
    if not (directory / CONFIG).is_file():
        raise ConfigError(
            f"{directory}: contains no model; create one with: flowportrait convert bagel FOLDER -o"
            f" {directory}"
        )
    return load_spec(directory)


def put_file(
    out: Path,
    spec: ModelSpec,
    name: str,
    part: Mapping[str, Any],
    weights: Mapping[str, Weight],
    source: Path,
) -> ModelSpec:
    """Writes the weights of a part, which must be exactly its own, and says so in config.json."""
    tables = {"codec": registry.CODECS, "audio_encoder": registry.AUDIO_ENCODERS}
    with torch.device("meta"):
        wanted = shapes(build_part(tables[name], part).state_dict())
    problem = difference(shapes(weights), wanted)
    if problem:
        raise CheckpointError(f"{source}: {problem}; give the published weights")
    file = f"{name}.safetensors"
    digest = write_weights(out / file, weights)
    changes = {name: dict(part), "sha256": {**spec.sha256, file: digest}}
    return saved_spec(spec.model_copy(update=changes), out)


def saved_spec(spec: ModelSpec, out: Path) -> ModelSpec:
    """Writes the description of a model; gives it as it is read back."""
    save_spec(spec, out)
    return load_spec(out)
