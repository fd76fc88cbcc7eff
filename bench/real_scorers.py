"""What the scorers that need no truth say of real and generated clips, of clips spoiled on purpose, and of late sound.

    python -m bench.real_scorers CLIPS GRID --out table.jsonl [--seconds 3] [--jitter-frames 17]

CLIPS holds `real__*` and `gen__*` videos; one whose name ends in `xyjy.mp4` shows five panels side by side (a portrait
and four generators over one sound). GRID holds the clips of the ladder: sound late by 0 to 10 frames, or another's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.errors import FlowPortraitError
from flowportrait.media import Clip, Sound
from flowportrait.scoring import faces, motion, perceptual, pixel
from flowportrait.scoring.metric import CandidateView, Metric, Unscorable
from flowportrait.scoring.reward import Candidate

SIDE_PX = 256
PANELS = ("portrait", "SadTalker", "EchoMimic", "Hallo", "Sonic")
LATE_FRAMES = (0, 1, 2, 3, 5, 10)


def candidate(path: Path, seconds: float, panel: int | None = None) -> Candidate:
    """The first seconds of a file, its longer side made 256 px; one of five panels if asked for."""
    fps = Clip(path).fps
    shown = []
    for frame in islice(media.read_frames(path), round(seconds * fps)):
        picture = Image.fromarray(frame)
        if panel is not None:
            width = picture.width // len(PANELS)
            picture = picture.crop((panel * width, 0, (panel + 1) * width, picture.height))
        picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        shown.append(np.asarray(picture))
    sound = media.read_audio(path, 16_000, min_s=0.0).samples
    wanted = round(len(shown) / fps * 16_000)
    sound = np.pad(sound[:wanted], (0, max(0, wanted - len(sound))))
    name = path.stem if panel is None else f"five panels: {PANELS[panel]}"
    return Candidate(name, np.stack(shown), fps, Sound(sound, 16_000), shown[0])


def spoiled(clip: Candidate) -> Iterator[Candidate]:
    """The same clip still, shaken by up to 2 px, blurred and drifting in colour, with itself as the truth."""
    rng, frames = np.random.default_rng(0), clip.frames
    small = frames.shape[2] // 4, frames.shape[1] // 4
    blurred = [np.asarray(Image.fromarray(f).resize(small).resize(frames.shape[2:0:-1])) for f in frames]
    shaken = [np.roll(f, tuple(rng.integers(-2, 3, 2)), (0, 1)) for f in frames]
    drift = np.linspace(0, 24, len(frames))[:, None, None, None] * np.array([1.0, 0, -1.0])
    drifting = np.clip(frames + drift, 0, 255).astype(np.uint8)
    for name, made in (
        ("unspoiled", frames), ("still", np.stack([frames[0]] * len(frames))), ("shaken 2 px", np.stack(shaken)),
        ("blurred 4x", np.stack(blurred)), ("drifting in colour", drifting),
    ):  # fmt: skip
        yield replace(clip, key=f"spoiled: {name}", frames=made, truth=frames)


def ladder(clip: Candidate, other: Candidate) -> Iterator[Candidate]:
    """The same picture with sound that is late by so many frames, then with another sentence."""
    samples, per_frame = clip.sound.samples, round(16_000 / clip.fps)
    for late in LATE_FRAMES:
        shifted = np.concatenate([np.zeros(late * per_frame, np.float32), samples])[: len(samples)]
        yield replace(clip, key=f"sound late by {late}", sound=Sound(shifted, 16_000), truth=clip.frames)
    foreign = np.resize(other.sound.samples, len(samples))
    yield replace(clip, key="another sentence", sound=Sound(foreign, 16_000), truth=clip.frames)


def said(clip: Candidate, metrics: list[Metric], jitter_frames: int, known: dict[int, faces.Seen | None]) -> dict:
    """Every metric's number with its parts, or its reason."""
    whole = CandidateView(clip)
    few = CandidateView(replace(clip, frames=clip.frames[:jitter_frames]))
    # The rungs of the ladder show the same frames: their faces are looked for once.
    if id(clip.frames) in known:
        whole.keep("face", lambda: known[id(clip.frames)])
    row: dict = {"clip": clip.key}
    for metric in metrics:
        try:
            reading = metric.read(few if metric.name == "raft-jitter" else whole)
            row[metric.name] = {"value": reading.value, **reading.parts}
        except Unscorable as error:
            row[metric.name] = str(error)
    known[id(clip.frames)] = whole.keep("face", lambda: None)
    return row


def main() -> None:
    """One JSON line a clip, as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--jitter-frames", type=int, default=17)
    parser.add_argument("--jitter-px", type=int, default=256)
    parser.add_argument("--each", type=int, default=4, help="clips of each kind")
    options = parser.parse_args()
    jitter = motion.RaftJitter(motion.RaftJitter.Config(max_side_px=options.jitter_px))
    alone = [pixel.Sharpness(), pixel.ColourDrift(), faces.MouthLoudness(), faces.MouthInSilence(), faces.BlinkRate()]
    paired = [pixel.Ssim(), pixel.Psnr(), perceptual.PerceptualLite0()]
    known: dict[int, faces.Seen | None] = {}
    kept = []  # so that no two arrays have the same id
    with options.out.open("a") as file:
        for kind, clip in _all(options):
            metrics = {"late": [pixel.Ssim(), *alone[2:4]], "spoiled": [*paired, *alone[:2], jitter]}
            kept.append(clip.frames)
            row = said(clip, metrics.get(kind, [*alone, jitter]), options.jitter_frames, known)
            file.write(json.dumps({"kind": kind, **row}) + "\n")
            file.flush()
            print(clip.key, flush=True)


def _all(options: argparse.Namespace) -> Iterator[tuple[str, Candidate]]:
    grid = sorted(options.grid.glob("*.mp4"))
    step = max(1, len(grid) // (2 * options.each))
    loaded = [candidate(path, options.seconds) for path in grid[::step][: 2 * options.each]]
    for path in options.clips.glob("*xyjy.mp4"):
        yield from (("panel", candidate(path, options.seconds, panel)) for panel in range(len(PANELS)))
    yield from (
        ("spoiled", clip) for clip in spoiled(replace(loaded[0], frames=loaded[0].frames[: options.jitter_frames]))
    )
    for clip, other in zip(loaded[::2], loaded[1::2], strict=False):
        yield from (("late", shown) for shown in ladder(clip, other))
    for kind in ("real", "gen"):
        found = [path for path in sorted(options.clips.glob(f"{kind}__*.mp4")) if "xyjy" not in path.name]
        for path in found[:: max(1, len(found) // options.each)][: options.each]:
            try:
                yield kind, candidate(path, options.seconds)
            except FlowPortraitError as error:
                print(f"left out: {error}", flush=True)


if __name__ == "__main__":
    main()
