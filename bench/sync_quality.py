"""How well `sync-small` tells matched sound from shifted and from other sound, on held-out clips
and on real videos.

    python -m bench.sync_quality --world DIR --grid DIR --videos DIR --out OUT [--limit 20]

Faces are tracked as the scorer does it, no label is read. World and GRID give their test splits,
VIDEOS is a folder of real__* and gen__* files of which the first 3 s are seen. Embeddings are kept
in OUT, so a second run only counts.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flowportrait import media
from flowportrait.data.sources import load_sources
from flowportrait.encoders.sync import shift_profile
from flowportrait.errors import FlowPortraitError
from flowportrait.media import Sound
from flowportrait.precision import matmul_precision
from flowportrait.scoring.metrics.sync_small import SHIPPED, Fit, lips_of, load_sync
from flowportrait.scoring.metrics.tracking import FPS, track_face
from flowportrait.scoring.metrics.view import CandidateView
from flowportrait.scoring.reward import Candidate
from flowportrait.sound import SPEECH_HZ

SHIFTS = (1, 2, 3, 5, 10)
REACH = 12
MAX_FRAMES = 72
GRID_SOURCES = (
    "LipNet",
    "Deep-Learning-Based-Lip-Reading",
)  # repositories whose samples are GRID clips
TRAINED_ON = "__bbaf2n"  # one of those samples is a clip of speaker 1 that was trained on


class Embedded(NamedTuple):
    """A clip's lips and sounds [n, d], one a frame."""

    name: str
    lips: torch.Tensor
    sounds: torch.Tensor


def clips(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """(group, file) of all that is looked at."""
    for group, found in (
        ("world", args.world and load_sources(world=args.world)),
        ("grid", args.grid and load_sources(grid=args.grid)),
    ):
        tested = [clip.video for clip in found or [] if clip.split == "test"]
        yield from (
            (group, path) for path in tested[:: max(1, len(tested) // args.limit)][: args.limit]
        )
    for path in sorted(args.videos.glob("*__*")) if args.videos else ():
        if path.stem.endswith(TRAINED_ON):
            continue
        group = "generated" if path.name.startswith("gen__") else "real"
        yield "real, GRID" if any(source in path.name for source in GRID_SOURCES) else group, path


def embedded(path: Path, kept: Path) -> Embedded:
    """Of the first 3 s of a video. Raises FlowPortraitError where the scorer would give a
    reason.
    """
    if not kept.is_file():
        frames = np.stack(list(itertools.islice(media.read_frames(path, fps=FPS), MAX_FRAMES)))
        samples, rate = media.read_audio(path, min_s=0.0)
        samples = media.resample(samples, rate, SPEECH_HZ)[: round(len(frames) / FPS * SPEECH_HZ)]
        view = CandidateView(
            Candidate(path.name, frames, FPS, Sound(samples, SPEECH_HZ), frames[0])
        )
        network = load_sync(SHIPPED)
        lips = lips_of(network, track_face(view))
        with torch.inference_mode(), matmul_precision("cpu"):
            count = min(len(lips), int(len(samples) / SPEECH_HZ * FPS))
            sounds = network.hear(network.sound.mels(torch.from_numpy(samples)[None]), count)[0]
        np.savez(kept, lips=lips[:count].numpy(), sounds=sounds.numpy())
    with np.load(kept) as stored:
        return Embedded(
            path.name, torch.from_numpy(stored["lips"]), torch.from_numpy(stored["sounds"])
        )


def row(group: str, found: list[Embedded]) -> str:
    """Shares of a group: true sound above the same shifted (either way), above others' sound;
    offset within one.
    """
    profiles = [shift_profile(one.lips, one.sounds, REACH) for one in found]
    beats = [
        np.mean([float(p[REACH] > p[REACH + k]) for p in profiles for k in (-shift, shift)])
        for shift in SHIFTS
    ]
    others = []
    for one, other in itertools.permutations(found, 2):
        count = min(len(one.lips), len(other.sounds))
        crossed = (one.lips[:count] * other.sounds[:count]).sum(-1).mean()
        others.append(float((one.lips[:count] * one.sounds[:count]).sum(-1).mean() > crossed))
    fits = [Fit(profile, len(one.lips)) for profile, one in zip(profiles, found, strict=True)]
    within = np.mean([abs(fit.offset) <= 1 for fit in fits])
    margin, confidence = (
        float(np.mean([getattr(fit, name) for fit in fits])) for name in ("margin", "confidence")
    )
    cells = [
        *(f"{share:.2f}" for share in (*beats, np.mean(others), within)),
        f"{margin:.3f}",
        f"{confidence:.3f}",
    ]
    return f"| {group} ({len(found)}) | " + " | ".join(cells) + " |"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--world", "--grid", "--videos"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20, help="clips of world and of grid")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Embedded]] = {}
    for group, path in clips(args):
        try:
            one = embedded(path, args.out / f"{path.stem}.npz")
        except FlowPortraitError as error:
            print(f"unscored: {path.name}: {error}", flush=True)
            continue
        groups.setdefault(group, []).append(one)
        fit = Fit(shift_profile(one.lips, one.sounds, REACH), len(one.lips))
        print(
            f"{group} {path.name}: margin {fit.margin:.3f}, confidence {fit.confidence:.3f}, offset"
            f" {fit.offset}",
            flush=True,
        )
    columns = [
        *(f"beats {shift}" for shift in SHIFTS),
        "beats others",
        "offset within 1",
        "margin",
        "confidence",
    ]
    print("\n| clips | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for group, found in groups.items():
        print(row(group, found))


if __name__ == "__main__":
    main()
