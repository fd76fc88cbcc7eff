"""Encoded datasets: latents and frozen condition features of clips, in shards of safetensors.

    DATASET/encoded.json      what made it, and the sizes that a model must agree with
    DATASET/encoded.jsonl     one `EncodedClip` a line
    DATASET/shard-00000.safetensors, ...   float16 tensors ID/audio [a, d],
                              ID/image.P [i, d], ID/latents.P [c, l, h, w]

A shard is written beside its place and renamed; its own records lie in its head, so an encoding
that was killed goes on with the shards that are not there. Reading maps the files: a clip costs its
own bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import safe_open
from torch import Tensor

from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import DataError
from flowportrait.files import replace
from flowportrait.records import EncodedClip, read_jsonl, write_jsonl
from flowportrait.weights import save_tensors

HEADER = "encoded.json"
INDEX = "encoded.jsonl"


class EncodedHeader(Frozen):
    """Facts that all clips of an encoded dataset share."""

    made_of: str = Field(description="digest of the codec and encoders used")
    model: str = Field(description="name of the model they belong to")
    settings: dict[str, float] = Field(description="settings of the encoding")
    channels: int
    rows: int = Field(description="number of rows of latent cells in a frame")
    cols: int
    temporal_stride: int
    fps: float
    audio_dim: int
    image_dim: int
    image_rows: int
    image_cols: int


def shard_path(root: Path, number: int) -> Path:
    """Path of a shard of a dataset."""
    return root / f"shard-{number:05d}.safetensors"


def write_shard(
    path: Path, tensors: Mapping[str, Tensor], clips: Sequence[EncodedClip], left_out: Sequence[str]
) -> None:
    """Writes a shard with its clips and the reasons for which others were left out; it is there
    whole or not at all.
    """
    head = {"clips": [clip.model_dump() for clip in clips], "left_out": list(left_out)}
    save_tensors(path, tensors, {"head": json.dumps(head)})


def finish(root: Path, shards: Sequence[Path]) -> tuple[list[EncodedClip], list[str]]:
    """Writes the index of a dataset whose shards are all there. Gives its clips, and why others
    were left out.
    """
    clips = []
    left_out = []
    for path in shards:
        with safe_open(path, "pt") as file:
            head = json.loads(file.metadata()["head"])
        clips += [EncodedClip.model_validate(clip) for clip in head["clips"]]
        left_out += head["left_out"]
    # Parts that end at the same moment all write it, and the same.
    write_jsonl(root / INDEX, clips)
    return clips, left_out


def begin(root: Path, header: EncodedHeader) -> None:
    """Makes the directory, or finds that it was begun in the same way. Raises DataError where it
    was not.
    """
    path = root / HEADER
    if path.is_file():
        known = load_recipe(path, EncodedHeader)
        if known != header:
            settings = ", ".join(f"{name} {value:g}" for name, value in known.settings.items())
            raise DataError(
                f"{root}: was started with another model or other settings ({known.model},"
                f" {settings}); give"
                " another -o"
            )
        return
    root.mkdir(parents=True, exist_ok=True)
    replace(path, (json.dumps(header.model_dump(mode="json"), indent=2) + "\n").encode())


@dataclass(frozen=True)
class EncodedSet:
    """A finished encoded dataset. Raises DataError where it is not finished."""

    root: Path

    @cached_property
    def header(self) -> EncodedHeader:
        """Sizes and origin."""
        if not (self.root / INDEX).is_file():
            raise DataError(
                f"{self.root}: no {INDEX}; give a dataset that `flowportrait encode` has finished"
            )
        return load_recipe(self.root / HEADER, EncodedHeader)

    @cached_property
    def clips(self) -> list[EncodedClip]:
        """All clips, in the order of the dataset that was encoded."""
        if self.header:
            return list(read_jsonl(self.root / INDEX, EncodedClip))
        return []

    def read(self, clip: EncodedClip, portrait: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [c, l, h, w], audio features [a, d] and image features [i, d] of a clip,
        float32.
        """
        file = _opened(self.root / clip.shard)
        latents = f"latents.{portrait if clip.latents_each else 0}"
        names = latents, "audio", f"image.{portrait}"
        return tuple(file.get_tensor(f"{clip.id}/{name}").float() for name in names)


@lru_cache(maxsize=256)
def _opened(shard: Path) -> safe_open:
    """A mapped shard; a dataset may have more of them than a process may have open."""
    return safe_open(shard, "pt")


def half(values: Float[Tensor, "..."], what: str) -> Float[Tensor, "..."]:
    """Converts to float16. Raises DataError for values that are not finite."""
    stored = values.to("cpu", torch.float16).contiguous()
    if not torch.isfinite(stored).all():
        raise DataError(f"{what}: not finite in float16; remove the clip, or check the encoder")
    return stored
