"""What every scorer says of real, generated and deliberately spoiled clips, and where it is wrong.

    python -m bench.scorer_study CLIPS_DIR -o STUDY_DIR [--scorers a,b,c] [--seconds 4]

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

from bench.material import files_of
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
NUM_SPOILED = 6
SAMPLE_RATE = 48_000
SPOILED_BY = [name for name, kind in DEGRADATIONS.items() if kind.breaks != "lip_sync" or name == "frozen_mouth"]
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
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    make_sets(options.clips, options.out, options.seconds)
    names, refused = usable(options.scorers.split(",") if options.scorers else computing())
    text = [f"# Scorers on {options.clips.name}", "", *refused, ""]
    for part in ("clips", "ladder", "spoiled"):
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


def make_sets(source: Path, out: Path, seconds: float) -> None:
    """Writes the three sets; what is there already stays."""
    videos = files_of([source], (".mp4", ".mpg"))
    for path in videos:
        for name, footage in cut(path, seconds):
            keep(out / "clips" / f"{name}.mp4", footage)
    real = sorted((out / "clips" / "real").iterdir())
    chosen = [real[i] for i in np.linspace(0, len(real) - 1, NUM_SPOILED).round().astype(int)]
    for index, path in enumerate(chosen):
        footage = read(path, seconds)
        other = read(chosen[index - 1], seconds).sound
        footage = footage._replace(other_sound=other)
        for frames in LADDER_FRAMES:
            keep(out / "ladder" / f"{frames:02} frames late" / path.name, degrade(footage, "shifted_sound", frames))
        keep(out / "ladder" / "other sentence" / path.name, degrade(footage, "foreign_speech", 1.0))
        keep(out / "truth" / path.name, footage)
        for name in SPOILED_BY:
            for level in DEGRADATIONS[name].levels[::2]:
                keep(out / "spoiled" / f"{name} {level:g}" / path.name, degrade(footage, name, level))


def cut(path: Path, seconds: float) -> list[tuple[str, Footage]]:
    """(group/name, footage) of a video, of each of its panels where there are five."""
    footage = read(path, seconds)
    stem = re.sub(r"^(real|gen)__", "", path.stem)
    height, width = footage.frames.shape[1:3]
    if width == len(PANELS) * height:
        panels = np.split(footage.frames, len(PANELS), axis=2)
        return [(f"panel {i} {name}/{stem}", footage._replace(frames=panels[i])) for i, name in enumerate(PANELS)]
    maker = next((maker for part, maker in GENERATORS.items() if part in stem), "generated")
    return [(f"{'real' if path.name.startswith('real__') else maker}/{stem}", footage)]


def read(path: Path, seconds: float) -> Footage:
    """The first seconds, with even sides and sound at 48 kHz of the same length."""
    fps = Clip(path).fps
    frames = np.stack(list(islice(read_frames(path), round(seconds * fps))))
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    samples, rate = read_audio(path)
    length = round(len(frames) / fps * SAMPLE_RATE)
    samples = np.pad(resample(samples, rate, SAMPLE_RATE), (0, length))[:length]
    return Footage(frames[:, :height, :width], Sound(samples, SAMPLE_RATE), fps)


def keep(path: Path, footage: Footage) -> None:
    """Writes a clip that is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, footage.frames, footage.fps, footage.sound.samples, SAMPLE_RATE, {})


# ------------------------------------------------------------------------------------------------- the tables


def scored(out: Path, part: str, names: list[str]) -> list[Score]:
    """All scores of a set; one scorer after the other, so that each can be stopped and added to."""
    rows: list[Score] = []
    for name in names:
        if ("truth" in SCORERS.load(name).needs) and part != "spoiled":
            continue
        file = out / "scores" / f"{part}-{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        # Truths are found by names below a source, so every folder is a source.
        folders = [str(folder) for folder in sorted((out / part).iterdir())]
        code = run(["score", *folders, "--truth", str(out / "truth"), "--scorers", name, "-o", str(file)])
        if code:
            raise SystemExit(code)
        rows += read_jsonl(file, Score)
    return rows


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
