"""Calibrates the offline judge on ladders of known damage, and shows where it fails.

    python -m bench.offline_judge measure --world DIR... --out RUN [--clips 20]
        signals of held-out clips, degraded
    python -m bench.offline_judge measure --world LONG --out RUN --seconds 20 \\
        --ladders muted_expression --signals blink_luck blinks_per_minute
        the same of long clips, for blinks
    python -m bench.offline_judge fit --out RUN [--write]
        the table, and how it orders the ladders
    python -m bench.offline_judge look VIDEO... --out RUN
        scores of the first 3 s of any videos

`measure` goes on where it stopped; LONG comes from `bench.long_clips`. `fit --write` replaces
flowportrait/scoring/metrics/offline_calibration.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bench.face_shapes import one_by_one
from flowportrait import media
from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import FlowPortraitError
from flowportrait.media import Sound
from flowportrait.scoring import ASPECTS
from flowportrait.scoring.metrics import offline, signals
from flowportrait.scoring.metrics.sync_small import SHIPPED
from flowportrait.scoring.metrics.view import CandidateView, View
from flowportrait.scoring.reward import Candidate
from flowportrait.world.degrade import DEGRADATIONS, ClipInMemory, degrade

# Which ladders fit which signal. A signal is only asked about the damage it is meant to see.
FITTED = {
    "lip_sync": {
        "sync_fit": ("shifted_sound", "foreign_speech"),
        "lip_life": ("frozen_mouth",),
        "jaw_life": ("frozen_mouth",),
    },
    "expressiveness": {
        "upper_face_flow": ("muted_expression",),
        "brow_flow": ("muted_expression",),
        "blink_luck": ("muted_expression",),
    },
    "motion": {
        "still_share": ("frozen_face", "dropped_frames"),
        "steadiness": ("jitter",),
        "flow_evenness": ("jitter",),
    },
}
FITTED_LONG = ("blink_luck",)
"""Signals that say something only of clips of more than LONG_S, and are fitted to those alone.

Of their ladders the last step counts: half a blink is a blink.
"""
LONG_S = 10.0
SHORT_S = 3.0
LIPS = ("sync-small lips", SHIPPED)  # under which the scorer keeps its embeddings of a clip's lips


def held_out(worlds: list[Path], count: int) -> list[SourceClip]:
    """As many clips of each world, of people that nothing was trained on: one of each, held-out
    voices first.
    """
    chosen = []
    for number, world in enumerate(worlds):
        clips = [clip for clip in load_sources(world=world) if clip.split != "train"]
        share = (count + number) // len(worlds)
        chosen += one_by_one(sorted(clips, key=lambda clip: clip.split != "test"), share)
    return chosen


def footage(clip: SourceClip, other: SourceClip, seconds: float = SHORT_S) -> ClipInMemory:
    """The beginning of a clip of the world with its landmarks and another's sound."""
    frames = np.stack(list(media.read_frames(clip.video)))[: round(seconds * media.FPS)]
    samples, rate = media.read_audio(clip.video, min_s=0.0)
    count = round(len(frames) / media.FPS * rate)
    landmarks = np.load(clip.labels)["landmarks68"].astype(np.float32)[: len(frames)]
    foreign, foreign_rate = media.read_audio(other.video, min_s=0.0)
    if foreign_rate != rate:
        foreign = media.resample(foreign, foreign_rate, rate)
    return ClipInMemory(
        frames, Sound(samples[:count], rate), media.FPS, landmarks, Sound(foreign, rate)
    )


def measure(args: argparse.Namespace) -> None:
    """One JSON line for every clip, degradation and level; the face is looked for in the clean clip
    alone.
    """
    path = args.out / "signals.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    done = {} if args.again else measured(path)
    clips = held_out(args.world, args.clips)
    for number, clip in enumerate(clips):
        whole = footage(clip, clips[(number + 1) % len(clips)], args.seconds)
        clean = view_of(clip.key, whole)
        for name, strength in [
            ("none", 0.0),
            *((n, s) for n in args.ladders for s in DEGRADATIONS[n].levels),
        ]:
            wanted = args.signals or (
                list(signals.SIGNALS) if args.all or name == "none" else asked_about(name)
            )
            known = done.get((clip.key, name, strength), {})
            if "reason" in known or set(wanted) <= known.keys():
                continue
            worse = whole if name == "none" else degrade(whole, name, strength, seed=number)
            view = clean if name == "none" else view_of(clip.key, worse)
            if view is not clean:
                keep_what_stays(view, clean, worse.frames is whole.frames, "sync_fit" in wanted)
            about = {
                "clip": clip.key,
                "identity": clip.identity,
                "voice": clip.voice,
                "seconds": args.seconds,
            }
            row = about | {"degradation": name, "strength": strength, **read_signals(view, wanted)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(f"{number + 1}/{len(clips)} clips", flush=True)


def asked_about(ladder: str) -> list[str]:
    """The signals of the aspects that a ladder hurts, those it is not fitted to included; all for
    the picture's.
    """
    aspect = DEGRADATIONS[ladder].breaks
    return list(FITTED.get(aspect, signals.SIGNALS))


def keep_what_stays(view: View, clean: View, same_frames: bool, lips: bool) -> None:
    """Lets a damaged clip's view know where the clean one's face is and, if only the sound differs,
    what was seen.
    """
    track = signals.track_face(clean)
    view.keep("face squares", lambda: track.squares)
    if same_frames:
        view.keep("face track", lambda: track)
        view.keep("face motion", lambda: signals.face_motion(clean))
        view.keep("repeats", lambda: signals.find_repeats(clean))
        view.keep("eyes", lambda: signals.eyes(clean))
    if same_frames and lips:
        signals.sync_fit(clean)
        view.keep(LIPS, lambda: clean.keep(LIPS, dict))


def measured(path: Path) -> dict[tuple[str, str, float], dict]:
    """The rows of a file by clip, degradation and strength; a later row lays its signals over an
    earlier one's.
    """
    rows: dict[tuple[str, str, float], dict] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        row = json.loads(line)
        key = row["clip"], row["degradation"], row["strength"]
        rows[key] = rows.get(key, {}) | row
    return rows


def view_of(key: str, clip: ClipInMemory) -> CandidateView:
    """Footage as scorers look at it."""
    return CandidateView(Candidate(key, clip.frames, clip.fps, clip.sound, clip.frames[0]))


def read_signals(view: View, names: list[str]) -> dict[str, float | str]:
    """The signals of these names, or the reason why there are none."""
    values = {"trust": round(signals.trust(view), 3)}
    for name in names:
        try:
            values[name] = round(signals.SIGNALS[name](view), 5)
        except FlowPortraitError as error:
            values["reason"] = str(error)
    return values


def fit(args: argparse.Namespace) -> None:
    """Fits the table on all measured clips; every person is scored by a table that was fitted to
    the others.
    """
    rows = list(measured(args.out / "signals.jsonl").values())
    clips = sorted({row["clip"] for row in rows})
    scored = []
    for person in sorted({row["identity"] for row in rows}):
        table = fit_table([row for row in rows if row["identity"] != person])
        scored += [
            row | {a: rated(row, table[a]) for a in ASPECTS}
            for row in rows
            if row["identity"] == person
        ]
    for title, long in (("", False), ("long clips", True)):
        if some := [row for row in scored if is_long(row) == long]:
            people, voices = ({row[name] for row in some} for name in ("identity", "voice"))
            print(
                f"\n{title} {len({r['clip'] for r in some})} clips, {len(people)} people,"
                f" {len(voices)} voices\n"
            )
            report(some)
    if args.write:
        made = {
            "made_by": "python -m bench.offline_judge fit --write",
            "clips": clips,
            "rows": len(rows),
        }
        text = json.dumps(made | {"aspects": fit_table(rows)}, indent=1)
        offline.CALIBRATION.write_text(text + "\n")
        print(f"written: {offline.CALIBRATION}")


def fit_table(rows: list[dict]) -> dict[str, dict[str, list[list[float]]]]:
    """Knots of every signal: isotonic regression of the ladders' own scores, 5 for clean clips, 1
    for the last step.
    """
    table: dict[str, dict[str, list[list[float]]]] = {}
    for aspect, by_signal in FITTED.items():
        table[aspect] = {}
        for signal, ladders in by_signal.items():
            of_length = [r for r in rows if is_long(r) == (signal in FITTED_LONG)]
            used = [r for r in of_length if r["degradation"] in ("none", *ladders) and signal in r]
            if signal in FITTED_LONG:
                used = [r for r in used if target(r) in (1.0, 5.0)]
            values = np.array([r[signal] for r in used])
            targets = np.array([target(r) for r in used])
            # Clean clips weigh as much as one step of each ladder does together.
            weights = np.array([len(ladders) if r["degradation"] == "none" else 1.0 for r in used])
            table[aspect][signal] = knots(values, targets, weights)
    return table


def is_long(row: dict) -> bool:
    """Whether a row is of a long clip, where blinks can be counted."""
    return row["seconds"] > LONG_S


def target(row: dict) -> float:
    """5 for a clean clip, 1 for the last step of a ladder, evenly between."""
    if row["degradation"] == "none":
        return 5.0
    levels = DEGRADATIONS[row["degradation"]].levels
    return 5 - 4 * (levels.index(row["strength"]) + 1) / len(levels)


def knots(values: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> list[list[float]]:
    """A rising curve through (value, target): pools of adjacent violators, then stretched to reach
    1 and 5.
    """
    order = np.argsort(values, kind="stable")
    pools: list[list[float]] = []  # sum of weights, of weighted values, of weighted targets
    for value, goal, weight in zip(values[order], targets[order], weights[order], strict=True):
        pools.append([weight, weight * value, weight * goal])
        while len(pools) > 1 and pools[-2][2] / pools[-2][0] >= pools[-1][2] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    x = np.array([p[1] / p[0] for p in pools])
    y = np.array([p[2] / p[0] for p in pools])
    # A mean of noisy steps never reaches the ends: the lowest pool is a 1, the highest a 5.
    y = 1 + 4 * (y - y[0]) / (y[-1] - y[0]) if y[-1] > y[0] else np.full_like(y, 3.0)
    marks = np.linspace(1, 5, 9)
    return [[round(float(np.interp(mark, y, x)), 5), float(mark)] for mark in marks]


def rated(row: dict, table: dict[str, list[list[float]]]) -> float:
    """The aspect's score of one measured row, nan where a signal is lacking."""
    there = {name: points for name, points in table.items() if name in row}
    if is_long(row):
        there = {name: points for name, points in there.items() if name in FITTED_LONG}
    elif there.keys() < table.keys():
        return math.nan
    return offline.combined(row, there, row.get("trust", 1.0)) if there else math.nan


def report(scored: list[dict]) -> None:
    """Markdown: one line a ladder, and what each signal follows."""
    ladders = [name for name in DEGRADATIONS if any(row["degradation"] == name for row in scored)]
    clean = [row for row in scored if row["degradation"] == "none"]
    print(
        "clean: "
        + ", ".join(f"{aspect} {mean(row[aspect] for row in clean):.2f}" for aspect in ASPECTS)
    )
    print(
        "\n| damage | hurts | mean score by step | pairs in order | clean beats last step | falls"
        " at the last step: ",
        end="",
    )
    print(" | ".join(ASPECTS) + " |\n|---|---|---|---|---|" + "---|" * len(ASPECTS))
    for name in ladders:
        breaks = DEGRADATIONS[name].breaks
        for aspect in ASPECTS if breaks == "picture" else (breaks,):
            print(f"| {name} | {breaks} | " + ladder_line(scored, clean, name, aspect) + " |")
    print("\n| signal | " + " | ".join(ladders) + " |\n|---|" + "---|" * len(ladders))
    for signal in (name for name in signals.SIGNALS if any(name in row for row in scored)):
        print(
            f"| {signal} | " + " | ".join(f"{order(scored, n, signal):.2f}" for n in ladders) + " |"
        )


def ladder_line(scored: list[dict], clean: list[dict], name: str, aspect: str) -> str:
    """What happens to an aspect down a ladder, and at its end to all of them against the same clips
    undamaged.
    """
    steps = {strength: [] for strength in DEGRADATIONS[name].levels}
    for row in scored:
        if row["degradation"] == name:
            steps[row["strength"]].append(row)
    last = steps[DEGRADATIONS[name].levels[-1]]
    before = {row["clip"]: row for row in clean}
    scores = ", ".join(f"{mean(row[aspect] for row in rows):.2f}" for rows in steps.values())
    beats = mean(float(before[row["clip"]][aspect] > row[aspect]) for row in last)
    falls = [mean(before[row["clip"]][a] - row[a] for row in last) for a in ASPECTS]
    shown = " | ".join("" if math.isnan(fall) else f"{fall:.2f}" for fall in falls)
    return f"{scores} | {order(scored, name, aspect):.2f} | {beats:.2f} | {shown}"


def mean(values: Iterable[float]) -> float:
    """Of those that are numbers; nan when there are none."""
    return float(np.mean([value for value in values if not math.isnan(value)] or [math.nan]))


def order(scored: list[dict], name: str, value: str) -> float:
    """Share of pairs of steps of one ladder of one clip, clean included, that `value` has in order;
    0.5 is chance.
    """
    right = []
    for clip in {row["clip"] for row in scored}:
        steps = sorted(
            (r["strength"], r[value])
            for r in scored
            if r["clip"] == clip
            and r["degradation"] in ("none", name)
            and value in r
            and not math.isnan(r[value])
        )
        right += [
            1.0 if a[1] > b[1] else 0.5 if a[1] == b[1] else 0.0
            for i, a in enumerate(steps)
            for b in steps[i + 1 :]
        ]
    return float(np.mean(right)) if right else math.nan


def look(args: argparse.Namespace) -> None:
    """One JSON line a video: its signals, its scores, or the reason why there are none."""
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "look.jsonl"
    done = (
        {json.loads(line)["clip"] for line in path.read_text().splitlines()}
        if path.is_file()
        else set()
    )
    for video in args.videos:
        if video.name in done:
            continue
        row: dict[str, object] = {"clip": video.name}
        try:
            view = beginning(video)
            row |= {aspect: round(offline.rate(view, aspect).value, 3) for aspect in ASPECTS}
            row |= read_signals(view, list(signals.SIGNALS))
        except FlowPortraitError as error:
            row["reason"] = str(error)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def beginning(video: Path) -> CandidateView:
    """The first 3 s of a video."""
    frames = np.stack(
        list(itertools.islice(media.read_frames(video, fps=media.FPS), round(SHORT_S * media.FPS)))
    )
    samples, rate = media.read_audio(video, min_s=0.0)
    sound = Sound(samples[: round(len(frames) / media.FPS * rate)], rate)
    return CandidateView(Candidate(video.name, frames, media.FPS, sound, frames[0]))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for function in (measure, fit, look):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(run=function)
        if function is measure:
            command.add_argument("--world", type=Path, nargs="+", required=True)
            command.add_argument("--clips", type=int, default=20)
            command.add_argument("--seconds", type=float, default=SHORT_S)
            command.add_argument(
                "--ladders", nargs="+", choices=DEGRADATIONS, default=list(DEGRADATIONS)
            )
            command.add_argument("--signals", nargs="+", choices=signals.SIGNALS)
            command.add_argument(
                "--all",
                action="store_true",
                help="all signals of all ladders, to see what they leak",
            )
            command.add_argument(
                "--again", action="store_true", help="measure anew, as after another training"
            )
        if function is fit:
            command.add_argument("--write", action="store_true")
        if function is look:
            command.add_argument("videos", type=Path, nargs="+")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
