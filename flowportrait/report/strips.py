"""Frames of the same clip by several models, a row each, as in Figures 4, 7 and 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.files import is_video
from flowportrait.report.drawing import Drawn, canvas, finished
from flowportrait.report.sources import Sources, TrainingRun, parsed

FRAMES = 8
SAMPLES = "samples"
"""Where a training run keeps the videos of its looks, a folder for each."""


@dataclass(frozen=True)
class Strip:
    """One row: whose video, and which."""

    label: str
    video: Path


def from_paths(arguments: Sequence[str], clips: Sequence[str], count: int = FRAMES) -> Drawn:
    """Rows for every clip in turn, of videos named as LABEL=PATH: a video, a folder of videos, or
    a training run, whose last look is shown. Without `clips` the first two that all have.

    Raises DataError for what is none of these, or lacks a clip.
    """
    sources = [_videos(*named) for named in map(_label_and_path, arguments)]
    if all(len(videos) == 1 for _, videos in sources) and not clips:
        rows = [Strip(label, next(iter(videos.values()))) for label, videos in sources]
        return drawn_strips(7, rows, count)
    return _strips_of(sources, clips, count)


def _strips_of(sources: list, clips: Sequence[str], count: int) -> Drawn:
    """Rows of frames of the clips that all sources share, one row for each source."""
    shared = [name for name in sources[0][1] if all(name in videos for _, videos in sources)]
    wanted = list(clips) or shared[:2]
    if not wanted:
        raise DataError("strips: no clip is in all sources; give videos with the same file names")
    rows = []
    for name in wanted:
        for label, videos in sources:
            if name not in videos:
                raise DataError(
                    f"{label}: no clip '{name}'; clips in all sources:"
                    f" {', '.join(shared) or 'none'}"
                )
            rows.append(Strip(f"{label}, {name}", videos[name]))
    return drawn_strips(7, rows, count)


def of_runs(sources: Sources) -> Drawn:
    """Figure 8: a held-out clip before the first update, and after the last of every run."""
    drawn = Drawn(8, "A held-out clip under different post-training")
    looks = {run.label: looks_of(run) for run in sources.runs}
    first = next((found[0] for found in looks.values() if found), None)
    name = None if first is None else next(iter(sorted(first.glob("*.mp4"))), None)
    if name is None:
        drawn.reason = "no training run with sample videos was given"
        return drawn
    rows = [Strip("before post-training", name)]
    for label, found in looks.items():
        if found and (found[-1] / name.name).is_file():
            rows.append(Strip(f"{label}, update {int(found[-1].name)}", found[-1] / name.name))
    return drawn_strips(8, rows, title=drawn.title)


def looks_of(run: TrainingRun) -> list[Path]:
    """The folders of a run's looks that hold videos, in order."""
    if run.directory is None:
        return []
    return [look for look in sorted((run.directory / SAMPLES).glob("*")) if any(look.glob("*.mp4"))]


def drawn_strips(
    number: int,
    rows: Sequence[Strip],
    count: int = FRAMES,
    title: str = "The same moments by different models",
) -> Drawn:
    """One picture of all rows; every row shows the same moments, those of the shortest clip."""
    drawn = Drawn(number, title, rows=len(rows))
    videos = [media.Clip(row.video).facts for row in rows]
    moments = np.linspace(0, min(facts.duration_s for facts in videos), count, endpoint=False)
    figure, axes = canvas(len(rows), width=1.35 * count, height=1.55 * len(rows), across=False)
    for axis, row, facts in zip(axes, rows, videos, strict=True):
        wanted = np.minimum(moments * facts.fps, facts.num_frames - 1).astype(int)
        axis.imshow(np.concatenate(_frames(row.video, wanted), axis=1), aspect="equal")
        axis.set_title(row.label, fontsize=9, loc="left", pad=2)
        axis.axis("off")
    return finished(drawn, figure)


def _frames(video: Path, wanted: Array) -> list[Array]:
    """The frames of these numbers, all as high as the first."""
    found = {}
    for number, frame in enumerate(media.read_frames(video)):
        if number in wanted:
            found[number] = frame
        if number >= wanted[-1]:
            break
    last = max(found)
    return [found[min(number, last)] for number in wanted.tolist()]


def _label_and_path(argument: str) -> tuple[str, Path]:
    label, _, path = parsed(argument)
    return label or path.stem, path


def _videos(label: str, path: Path) -> tuple[str, dict[str, Path]]:
    """The videos behind a path, by their names without suffix."""
    if path.is_file() and is_video(path):
        return label, {path.stem: path}
    if (path / SAMPLES).is_dir():
        looks = [look for look in sorted((path / SAMPLES).glob("*")) if any(look.glob("*.mp4"))]
        path = looks[-1] if looks else path
    videos = {video.stem: video for video in sorted(path.glob("*")) if is_video(video)}
    if not videos:
        raise DataError(f"{path}: contains no video; give a video, a folder of videos or a run")
    return label, videos
