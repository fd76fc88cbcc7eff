"""The one reader of a dataset: its clips with their splits, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import DataError
from flowportrait.records import ManifestRow, read_jsonl

MANIFEST = "manifest.jsonl"
RENDERED_INDEX = "clips.jsonl"


def read_dataset(
    place: Path, split: Literal["train", "held_out", "test", "all"] = "all"
) -> list[SourceClip]:
    """The clips of a split, or all: those of a manifest, or of a folder that was prepared
    (`manifest.jsonl`) or rendered (`clips.jsonl`).

    Raises DataError: no dataset, or no clips in the split.
    """
    manifest = place
    if place.is_dir():
        manifest = place / MANIFEST
    if place.is_dir() and not manifest.is_file():
        if not (place / RENDERED_INDEX).is_file():
            raise DataError(
                f"{place}: neither {MANIFEST} nor {RENDERED_INDEX}; give a prepared or a rendered"
                " dataset"
            )
        clips = load_sources(world=place)
    else:
        clips = [_listed(row, manifest.parent) for row in read_jsonl(manifest, ManifestRow)]
    chosen = [clip for clip in clips if split in ("all", clip.split)]
    if not chosen and split != "all":
        raise DataError(
            f"{place}: no clips in the split '{split}'; give another --split: train, held_out,"
            " test or all"
        )
    return chosen


def _listed(row: ManifestRow, folder: Path) -> SourceClip:
    """The clip of a manifest's row. Prepared clips are cut around the face and carry no labels."""
    return SourceClip(
        key=row.id,
        source="manifest",
        video=folder / row.video,
        labels=None,
        identity=row.identity,
        voice=row.voice,
        text=row.text,
        split=row.split,
    )
