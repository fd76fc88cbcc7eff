"""What every scorer says of real, generated and deliberately spoiled clips, and where it is wrong.

    python -m bench.scorer_study CLIPS_DIR -o STUDY_DIR [--scorers a,b,c] [--parts clips,ladder,spoiled]
        [--seconds 4] [--side 256] [--spoil 6]

CLIPS_DIR holds real__*.mp4 and gen__*.mp4 with sound. Three sets of clips are made of it and scored by `flowportrait
score`, so the command goes on where it was stopped: *clips* (the first seconds of each; a clip of five panels is cut
into them), *ladder* (the sound late by 1 to 10 frames, another sentence) and *spoiled* (made worse by a known amount,
with the clip itself as the truth). STUDY_DIR/study.md gets the tables.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from bench.material import VIDEO_KINDS, files_of
from flowportrait.cli import run
from flowportrait.errors import FlowPortraitError
from flowportrait.media import Clip, Sound, read_audio, read_frames, resample, write_video
from flowportrait.records import Score, read_jsonl
from flowportrait.registry import SCORERS
from flowportrait.scoring.judges import ScoreSystem
from flowportrait.scoring.run import ScoringConfig, build_scorers
from flowportrait.world.degrade import DEGRADATIONS, Footage, degrade

PANELS = ("portrait", "SadTalker", "EchoMimic", "Hallo", "Sonic")
"""From left to right in the clip whose width is five times its height."""

LADDER_FRAMES = (0, 1, 2, 3, 5, 10)
SAMPLE_RATE = 48_000
SPOILED_BY = [
    (name, level)
    for name, kind in DEGRADATIONS.items()
    if kind.breaks != "lip_sync" or name == "frozen_mouth"
    for level in kind.levels[::2]
]
"""Every second level of what spoils the picture; the sound's turn is the ladder."""

GENERATORS = {
    "jixiaozhong": "Sonic", "AniTalker": "AniTalker", "EDTalk": "EDTalk", "dreamtalk": "DreamTalk",
    "styletalk": "StyleTalk",
}  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scorers", help="a,b,c; by default all that compute")
    parser.add_argument("--parts", default="clips,ladder,spoiled")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    parser.add_argument("--side", type=int, default=256, help="px; taller clips are made smaller")
    parser.add_argument("--spoil", type=int, default=6, help="how many real clips make up the ladder and the spoiled")
    options = parser.parse_args()
    parts = options.parts.split(",")
    names, refused = usable(options.scorers.split(",") if options.scorers else computing())
    if "clips" in parts:
        write_clips(options)
    if {"ladder", "spoiled"} & set(parts):
        write_spoiled(options, parts)
    text = [f"# Scorers on {options.clips.name}", "", *refused, ""]
    for part in parts:
        text += [f"## {part.capitalize()}", "", *table(scored(options.out, part, names), names), ""]
    (options.out / "study.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def computing() -> list[str]:
    """The scorers that are no judges."""
    return [name for name in SCORERS.names() if not issubclass(SCORERS.load(name), ScoreSystem)]


def usable(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those whose weights and packages are there, and a line on each of the others."""
    good, refused = [], []
    for name in names:
        try:
            (scorer,) = build_scorers([name], ScoringConfig(), Path("unused"))
            # A fingerprint holds the weights' sha256, so this is where missing ones show.
            if scorer.fingerprint:
                good.append(name)
        except FlowPortraitError as error:
            refused.append(f"- not measured: {name}: {error}")
    return good, refused


# ------------------------------------------------------------------------------------------------- the clips


def write_clips(options: argparse.Namespace) -> None:
    """The first seconds of every video, panels apart, in a folder for each maker; what is there already stays."""
    for path in files_of([options.clips], VIDEO_KINDS):
        for name, footage in cut(path, options.seconds, options.side):
            keep(options.out / "clips" / f"{name}.mp4", footage)


def write_spoiled(options: argparse.Namespace, parts: list[str]) -> None:
    """Some real clips, spread over all, with their sound late and with their pictures made worse."""
    real = files_of([options.clips], VIDEO_KINDS, prefix="real__")
    chosen = [real[i] for i in np.linspace(0, len(real) - 1, options.spoil).round().astype(int)]
    footages = [read(path, options.seconds, options.side) for path in chosen]
    for index, (path, footage) in enumerate(zip(chosen, footages, strict=True)):
        name = f"{path.stem}.mp4"
        footage = footage._replace(other_sound=footages[index - 1].sound)
        keep(options.out / "truth" / name, footage)
        if "ladder" in parts:
            for frames in LADDER_FRAMES:
                keep(
                    options.out / "ladder" / f"{frames:02} frames late" / name,
                    degrade(footage, "shifted_sound", frames),
                )
            keep(options.out / "ladder" / "other sentence" / name, degrade(footage, "foreign_speech", 1.0))
        if "spoiled" in parts:
            for kind, level in SPOILED_BY:
                keep(options.out / "spoiled" / f"{kind} {level:g}" / name, degrade(footage, kind, level))


def cut(path: Path, seconds: float, side: int) -> list[tuple[str, Footage]]:
    """(group/name, footage) of a video, of each of its panels where there are five."""
    footage = read(path, seconds, side)
    stem = re.sub(r"^(real|gen)__", "", path.stem)
    height, width = footage.frames.shape[1:3]
    if width == len(PANELS) * height:
        panels = np.split(footage.frames, len(PANELS), axis=2)
        return [(f"panel {i} {name}/{stem}", footage._replace(frames=panels[i])) for i, name in enumerate(PANELS)]
    maker = next((maker for part, maker in GENERATORS.items() if part in stem), "generated")
    return [(f"{'real' if path.name.startswith('real__') else maker}/{stem}", footage)]


def read(path: Path, seconds: float, side: int) -> Footage:
    """The first seconds at a height of at most `side`, both sides even, with sound at 48 kHz of the same length."""
    fps = Clip(path).fps
    frames = np.stack([at_height(frame, side) for frame in islice(read_frames(path), round(seconds * fps))])
    samples, rate = read_audio(path)
    length = round(len(frames) / fps * SAMPLE_RATE)
    samples = np.pad(resample(samples, rate, SAMPLE_RATE), (0, length))[:length]
    return Footage(frames, Sound(samples, SAMPLE_RATE), fps)


def at_height(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame made smaller to that height, its sides even."""
    height, width = frame.shape[:2]
    scale = min(1.0, side / height)
    # The width of five panels stays five heights.
    size = tuple(round(length * scale / 2) * 2 for length in (width, height))
    return (
        frame if size == (width, height) else np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
    )


def keep(path: Path, footage: Footage) -> None:
    """Writes a clip that is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, footage.frames, footage.fps, footage.sound.samples, SAMPLE_RATE, {})


# ------------------------------------------------------------------------------------------------- the tables


def scored(out: Path, part: str, names: list[str]) -> list[Score]:
    """All scores of a set; what stands in its file already is kept."""
    names = [name for name in names if part == "spoiled" or "truth" not in SCORERS.load(name).needs]
    # Truths are found by names below a source, so every folder is a source.
    folders = [str(folder) for folder in sorted((out / part).iterdir())]
    file = out / f"{part}.jsonl"
    code = run(["score", *folders, "--truth", str(out / "truth"), "--scorers", ",".join(names), "-o", str(file)])
    if code:
        raise SystemExit(code)
    return [row for row in read_jsonl(file, Score) if row.scorer in names]


def table(rows: list[Score], names: list[str]) -> list[str]:
    """Markdown: a row for each folder of clips, a column for each scorer, means over scored clips."""
    cells: dict[str, dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[Path(row.clip).parent.name][row.scorer].append(row)
    shown = [name for name in names if any(name in row for row in cells.values())]
    lines = [f"| set | clips | {' | '.join(shown)} |", "|---|---|" + "---|" * len(shown)]
    for group in sorted(cells):
        count = max(map(len, cells[group].values()))
        lines.append(f"| {group} | {count} | " + " | ".join(cell(cells[group][name]) for name in shown) + " |")
    return lines


def cell(rows: list[Score]) -> str:
    """The mean, and how many clips have no score."""
    values = [row.value for row in rows if not row.reason]
    lacking = f" ({len(rows) - len(values)} unscored)" if len(values) < len(rows) else ""
    return f"{np.mean(values):.4g}{lacking}" if values else f"none{lacking}"


if __name__ == "__main__":
    main()
