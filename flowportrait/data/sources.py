"""The two training sources of the tiny model, read as one list of `SourceClip`.

`world`: rendered clips with exact ground truth (a folder of KEY.mp4, KEY.npz and clips.jsonl).
`grid`: GRID corpus speakers (Cooke et al. 2006, CC BY 4.0; a folder of KEY.mp4 and INDEX.csv), with
landmarks and blendshapes measured by `bench/label_faces.py` (a folder of KEY.npz), without which
its clips carry no labels.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowportrait.errors import DataError
from flowportrait.records import Split

RENDERED_SPLITS: dict[str, Split] = {"train": "train", "validation": "held_out", "test": "test"}
"""The words of `clips.jsonl` and of caches, and the splits they mean."""

HELD_OUT_FLITE = ("kal16",)
HELD_OUT_KOKORO = "jf_nezumi"
HELD_OUT_ESPEAK_LOCALE = "en-gb-x-rp"


@dataclass(frozen=True)
class SourceClip:
    """One clip with sound. `split` is by identity, and no voice or sentence of the test split is
    trained on.
    """

    key: str
    source: Literal["world", "grid", "manifest"]
    video: Path
    labels: Path | None
    identity: str
    voice: str
    text: str
    split: Split


def load_sources(
    world: Path | Sequence[Path] = (), grid: Path | None = None, grid_labels: Path | None = None
) -> list[SourceClip]:
    """All usable clips of every split; raises DataError when a folder lacks its
    index.
    """
    clips = _read_worlds(
        [Path(world)] if isinstance(world, (str, Path)) else [Path(root) for root in world]
    )
    if grid:
        clips += _read_grid(Path(grid), Path(grid_labels) if grid_labels else None)
    if not clips:
        raise DataError(
            "training data: no source given; name at least one of data.world and data.grid"
        )
    return clips


def _read_worlds(roots: list[Path]) -> list[SourceClip]:
    """Rendered clips; those that would leak a voice or a sentence of the test are left out."""
    found = [(root, record) for root in roots for record in _records(root)]
    test_texts = {record["text"] for _, record in found if _split(record) == "test"}
    clips = []
    for root, record in found:
        split = _split(record)
        voice, held_out = _voice(record["voice"])
        if split == "train" and (held_out or record["text"] in test_texts):
            continue  # would leak a voice or a sentence
        if split == "test" and not held_out:
            split = "held_out"
        clips.append(
            SourceClip(
                key=record["key"],
                source="world",
                video=root / f"{record['key']}.mp4",
                labels=root / f"{record['key']}.npz",
                identity=f"world-{record['identity']['seed']}",
                voice=voice,
                text=record["text"],
                split=split,
            )
        )
    return clips


def _records(root: Path) -> list[dict]:
    """The lines of a rendered folder's index. Raises DataError where there is none."""
    index = root / "clips.jsonl"
    if not index.is_file():
        raise DataError(
            f"{root}: no clips.jsonl; expected a folder of rendered clips (`flowportrait world"
            " render`)"
        )
    return [json.loads(line) for line in index.read_text().splitlines()]


def _split(record: dict) -> Split:
    """The record's own split; without one, the split by the seed of the identity."""
    by_seed = {9: "test", 8: "validation"}.get(record["identity"]["seed"] % 10, "train")
    split = record.get("split", by_seed)
    if split not in RENDERED_SPLITS:
        raise DataError(
            f"{record['key']}: got split '{split}'; give one of {', '.join(RENDERED_SPLITS)}"
        )
    return RENDERED_SPLITS[split]


def _voice(voice: dict) -> tuple[str, bool]:
    """Name of a voice and whether it is held out. A Kokoro blend counts as its strongest
    component.
    """
    engine = voice["engine"].split()[0]
    name = voice["name"]
    if engine == "flite":
        return f"flite-{name}", name in HELD_OUT_FLITE
    if engine == "festival":
        return f"festival-{name}", name.startswith("kal")  # flite's kal16 is the same speaker
    if engine == "recording":
        return f"recording-{name}", False
    if engine.lower().startswith("kokoro"):
        shares = dict(part.split("=") for part in name.removeprefix("blend:").split(","))
        strongest = max(shares, key=lambda component: float(shares[component]))
        return f"kokoro-{strongest}", strongest == HELD_OUT_KOKORO
    return f"espeak-{name}", name.startswith(HELD_OUT_ESPEAK_LOCALE)


def _read_grid(root: Path, labels: Path | None) -> list[SourceClip]:
    index = root / "INDEX.csv"
    if not index.is_file():
        raise DataError(f"{root}: no INDEX.csv; expected a folder of GRID clips with their index")
    clips = []
    for row in csv.DictReader(index.open()):
        label = labels / f"{row['clip']}.npz" if labels else None
        clips.append(
            SourceClip(
                key=f"grid_{row['clip']}",
                source="grid",
                video=root / f"{row['clip']}.mp4",
                labels=label if label and label.is_file() else None,
                identity="grid-s1",
                voice="grid-s1",
                text=row["words"],
                split=_sentence_split(row["words"]),
            )
        )
    return clips


def _sentence_split(words: str) -> Split:
    """One speaker only, so GRID is held out by sentence."""
    bucket = hashlib.sha256(words.encode()).digest()[0] % 20
    return {0: "test", 1: "held_out"}.get(bucket, "train")
