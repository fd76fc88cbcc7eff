"""What the scorers say of real and generated clips, of clips spoiled on purpose, and of late sound.

    python -m bench.real_scorers CLIPS GRID --out table.jsonl [--seconds 4] [--jitter-frames 9] \\
        [--ladder 15]
    python -m bench.real_scorers --summary table.jsonl [--csv table.csv]

CLIPS holds `real__*` and `gen__*` videos; one whose name ends in `xyjy.mp4` shows five panels side
by side (a portrait and four generators over one sound). GRID is the corpus's speaker 1 as
`flowportrait` reads it; only its test split is looked at. Sound is shifted by 0 to 10 frames of 24
a second, or is another clip's of the same group. A table that was begun goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.data.sources import load_sources
from flowportrait.errors import FlowPortraitError
from flowportrait.media import Clip, Sound
from flowportrait.scoring.metrics import jitter, mediapipe, perceptual, pixel
from flowportrait.scoring.metrics.metric import Metric
from flowportrait.scoring.metrics.sync_small import SyncSmall
from flowportrait.scoring.metrics.view import CandidateView, Unscorable
from flowportrait.scoring.reward import Candidate

SIDE_PX = 256
PANELS = ("portrait", "SadTalker", "EchoMimic", "Hallo", "Sonic")
LATE_FRAMES = (0, 1, 2, 3, 5, 10)
SHIFT_FPS = 24
OTHER = "another sentence"
GRID_SOURCES = ("LipNet", "Deep-Learning-Based-Lip-Reading")
"""Repositories whose samples are GRID clips."""


def candidate(path: Path, seconds: float, panel: int | None = None) -> Candidate:
    """The first seconds of a file, its longer side at most 256 px; one of five panels if asked
    for.
    """
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
    """The same clip still, shaken by up to 2 px, blurred and drifting in colour, with itself as the
    truth.
    """
    rng, frames = np.random.default_rng(0), clip.frames
    small = frames.shape[2] // 4, frames.shape[1] // 4
    blurred = [
        np.asarray(Image.fromarray(f).resize(small).resize(frames.shape[2:0:-1])) for f in frames
    ]
    shaken = [np.roll(f, tuple(rng.integers(-2, 3, 2)), (0, 1)) for f in frames]
    drift = np.linspace(0, 24, len(frames))[:, None, None, None] * np.array([1.0, 0, -1.0])
    drifting = np.clip(frames + drift, 0, 255).astype(np.uint8)
    for name, made in (
        ("unspoiled", frames),
        ("still", np.stack([frames[0]] * len(frames))),
        ("shaken 2 px", np.stack(shaken)),
        ("blurred 4x", np.stack(blurred)),
        ("drifting in colour", drifting),
    ):
        yield replace(clip, key=name, frames=made, truth=frames)


def ladder(clip: Candidate, other: Candidate) -> Iterator[tuple[str, Candidate]]:
    """The same picture with sound that is late by so many frames, then with another clip's."""
    samples, per_frame = clip.sound.samples, round(16_000 / SHIFT_FPS)
    for late in LATE_FRAMES:
        shifted = np.concatenate([np.zeros(late * per_frame, np.float32), samples])[: len(samples)]
        yield str(late), replace(clip, sound=Sound(shifted, 16_000))
    yield OTHER, replace(clip, sound=Sound(np.resize(other.sound.samples, len(samples)), 16_000))


def said(view: CandidateView, metrics: Iterable[Metric], jitter_frames: int) -> dict:
    """Every metric's number with its parts, or its reason."""
    clip = view.candidate
    few = CandidateView(replace(clip, frames=clip.frames[:jitter_frames]))
    row: dict = {}
    for metric in metrics:
        try:
            reading = metric.read(few if metric.name == "raft-jitter" else view)
            row[metric.name] = {"value": reading.value, **reading.parts}
        except Unscorable as error:
            row[metric.name] = str(error)
    return row


class Heard(CandidateView):
    """A clip under another sound: what was seen of its frames is not looked for again."""

    def __init__(self, candidate: Candidate, seen: CandidateView):
        super().__init__(candidate)
        self._kept = {
            key: value
            for key, value in seen._kept.items()
            if key == "face" or key[0] == "sync-small lips"
        }


def groups(options: argparse.Namespace) -> dict[str, list[Path]]:
    """The videos of CLIPS and the test split of GRID by kind."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(options.clips.glob("*__*")):
        kind = "generated" if path.name.startswith("gen__") else "real"
        kind = "GRID, other files" if any(source in path.name for source in GRID_SOURCES) else kind
        found["panels" if path.stem.endswith("xyjy") else kind].append(path)
    grid = [clip.video for clip in load_sources(grid=options.grid) if clip.split == "test"]
    found["GRID, held-out"] = grid[:: max(1, len(grid) // options.each)][: options.each]
    return found


def rows(options: argparse.Namespace, done: set[tuple[str, str, str]]) -> Iterator[dict]:
    """One row a clip, then the ladder."""
    shake = jitter.RaftJitter()
    alone: list[Metric] = [pixel.Sharpness(), pixel.ColourDrift(), shake]
    heard: list[Metric] = [SyncSmall(), mediapipe.MouthLoudness(), mediapipe.MouthInSilence()]
    seen: list[Metric] = [mediapipe.BlinkRate()]
    if options.sface:
        seen.append(mediapipe.Identity(mediapipe.Identity.Config(sface=options.sface)))
    found = groups(options)
    panels = [(path, panel) for path in found.pop("panels", []) for panel in range(len(PANELS))]
    known = [("panels", path, panel) for path, panel in panels]
    known += [(kind, path, None) for kind, paths in found.items() for path in paths]
    for kind, path, panel in known:
        name = path.stem if panel is None else PANELS[panel]
        if ("clip", kind, name) in done:
            continue
        try:
            view = CandidateView(candidate(path, options.seconds, panel))
            numbers = said(view, [*alone, *heard, *seen], options.jitter_frames)
        except FlowPortraitError as error:
            numbers = {"unread": str(error)}
        yield {"table": "clip", "kind": kind, "clip": name, "late": "", **numbers}
    truths: list[Metric] = [pixel.Ssim(), pixel.Psnr(), perceptual.PerceptualLite0()]
    whole = candidate(found["GRID, held-out"][0], options.seconds)
    for clip in spoiled(replace(whole, frames=whole.frames[: 2 * options.jitter_frames])):
        if ("spoiled", "GRID, held-out", clip.key) not in done:
            numbers = said(CandidateView(clip), [*truths, *alone], options.jitter_frames)
            yield {
                "table": "spoiled",
                "kind": "GRID, held-out",
                "clip": clip.key,
                "late": "",
                **numbers,
            }
    for kind, paths in found.items():
        yield from _ladders(kind, paths[: options.ladder], heard, options, done)


def _ladders(
    kind: str,
    paths: list[Path],
    heard: list[Metric],
    options: argparse.Namespace,
    done: set[tuple[str, str, str]],
) -> Iterator[dict]:
    for path, other in zip(paths, [*paths[1:], *paths[:1]], strict=True):
        if ("ladder", kind, path.stem) in done:
            continue
        try:
            clip, foreign = (candidate(p, options.seconds) for p in (path, other))
        except FlowPortraitError as error:
            print(f"left out: {error}", flush=True)
            continue
        seen = CandidateView(clip)
        rungs = []
        for late, shifted in ladder(clip, foreign):
            view = Heard(shifted, seen) if rungs else seen
            rungs.append({"late": late, **said(view, heard, 0)})
        yield from ({"table": "ladder", "kind": kind, "clip": path.stem, **rung} for rung in rungs)


# ------------------------------------------------------------------------------------------------
# summary

COLUMNS = (
    ("sync-small", "value"), ("sync-small", "offset"), ("mouth-loudness", "value"),
    ("mouth-loudness", "best"), ("mouth-loudness", "lag"), ("mouth-in-silence", "value"),
    ("blink-rate", "blinks"), ("identity", "value"), ("raft-jitter", "value"),
    ("raft-jitter", "mean_flow_px"), ("sharpness", "value"), ("sharpness", "to_first"),
    ("colour-drift", "value"), ("ssim", "value"), ("psnr", "value"), ("perceptual-lite0", "value"),
)  # fmt: skip


def number(row: dict, metric: str, part: str) -> float:
    """A metric's number of a row, nan where it has none."""
    found = row.get(metric)
    return found[part] if isinstance(found, dict) else math.nan


def write_csv(table: list[dict], path: Path) -> None:
    """Everything, one line a clip and rung."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "table",
                "kind",
                "clip",
                "late",
                *(f"{m}.{p}".removesuffix(".value") for m, p in COLUMNS),
            ]
        )
        for row in table:
            numbers = (number(row, *column) for column in COLUMNS)
            shown = ["" if math.isnan(value) else f"{value:.4g}" for value in numbers]
            writer.writerow([row["table"], row["kind"], row["clip"], row["late"], *shown])


def summary(table: list[dict]) -> Iterator[str]:
    """Medians by kind, the panels, the spoiled clip and the ladder, as Markdown."""
    clips = [row for row in table if row["table"] == "clip"]
    kinds = dict.fromkeys(row["kind"] for row in clips if row["kind"] != "panels")
    names = COLUMNS[:13]
    yield "| clips | " + " | ".join(f"{m} {p}".removesuffix(" value") for m, p in names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for kind in kinds:
        of_kind = [row for row in clips if row["kind"] == kind]
        yield (
            f"| {kind} ({len(of_kind)}) | "
            + " | ".join(_middle(of_kind, *column) for column in names)
            + " |"
        )
    for table_name, kind in (("clip", "panels"), ("spoiled", "GRID, held-out")):
        for row in table:
            if (row["table"], row["kind"]) == (table_name, kind):
                numbers = (number(row, *column) for column in COLUMNS)
                yield (
                    f"| {row['clip']} | "
                    + " | ".join("" if math.isnan(v) else f"{v:.3f}" for v in numbers)
                    + " |"
                )
    yield from _ladder_summary([row for row in table if row["table"] == "ladder"])


def _middle(some: list[dict], metric: str, part: str) -> str:
    """Median, quartiles, and of how many."""
    values = np.array([number(row, metric, part) for row in some])
    values = values[np.isfinite(values)]
    if not len(values):
        return "none"
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.3g} ({low:.3g} to {high:.3g}; {len(values)})"


def _ladder_summary(table: list[dict]) -> Iterator[str]:
    rungs = [*map(str, LATE_FRAMES), OTHER]
    for kind in dict.fromkeys(row["kind"] for row in table):
        by_clip: dict[str, dict[str, dict]] = defaultdict(dict)
        for row in table:
            if row["kind"] == kind:
                by_clip[row["clip"]][row["late"]] = row
        for metric, part in (
            ("sync-small", "value"),
            ("mouth-loudness", "value"),
            ("mouth-in-silence", "value"),
        ):
            numbers = np.array(
                [[number(rows[r], metric, part) for r in rungs] for rows in by_clip.values()]
            )
            numbers = numbers[np.isfinite(numbers).all(1)]
            if len(numbers):
                sign = -1 if metric == "mouth-in-silence" else 1
                better = (sign * numbers[:, :1] > sign * numbers).mean(0)
                cells = (
                    f"{m:.3f}, {b:.2f}" for m, b in zip(np.median(numbers, 0), better, strict=True)
                )
                yield f"| {metric}, {kind} ({len(numbers)}) | " + " | ".join(cells) + " |"
        for metric, part, sign in (("sync-small", "offset", -1), ("mouth-loudness", "lag", 1)):
            found = np.array(
                [
                    [sign * number(rows[r], metric, part) for r in rungs[:-1]]
                    for rows in by_clip.values()
                ]
            )
            found = found[np.isfinite(found).all(1)]
            if len(found):
                scale = np.array(LATE_FRAMES)
                near = (np.abs(found - found[:, :1] - scale) <= 1).mean(0)
                right = (np.abs(found - scale) <= 1).mean(0)
                cells = (f"{r:.2f} ({n:.2f})" for r, n in zip(right, near, strict=True))
                yield (
                    f"| {metric} says the delay to a frame, {kind} ({len(found)}) | "
                    + " | ".join(cells)
                    + " | |"
                )


def main() -> None:
    """One JSON line a clip, as it is done; or a summary of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, nargs="?")
    parser.add_argument("grid", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--jitter-frames", type=int, default=9)
    parser.add_argument("--each", type=int, default=20, help="GRID clips")
    parser.add_argument("--ladder", type=int, default=15, help="clips of each kind")
    parser.add_argument("--sface", type=Path)
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    if options.summary:
        table = [json.loads(line) for line in options.summary.read_text().splitlines()]
        print(*summary(table), sep="\n")
        if options.csv:
            write_csv(table, options.csv)
        return
    done = set()
    if options.out.exists():
        earlier = [json.loads(line) for line in options.out.read_text().splitlines()]
        done = {(row["table"], row["kind"], row["clip"]) for row in earlier}
    with options.out.open("a") as file:
        for row in rows(options, done):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row["kind"], row["clip"], row["late"], flush=True)


if __name__ == "__main__":
    main()
