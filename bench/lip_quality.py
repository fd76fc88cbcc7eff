"""Whether the mouth says what is heard: lip opening of generated clips against the truth."""

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import numpy as np

from bench.landmarks import FaceLandmarker, lip_opening
from bench.material import AS_TRAINED, FramedClip
from bench.measures import closures, lag_curve, pause_frames, psnr, sharpness, stillness, summary
from bench.sheets import strip, write_sheet
from flowportrait.generate import Pipeline
from flowportrait.media import FPS, Sound

SHEET_CLIPS = 8
SILENCE_CLIPS = 8
SPEECH_S, SILENCE_S, SILENCE_EDGE_S = 2.0, 1.5, 0.2


def generate(pipeline: Pipeline, clip: FramedClip, evaluations: int | None = None) -> np.ndarray:
    """Frames [f, s, s, 3] of the clip's first frame saying the clip's sound."""
    return pipeline.generate(
        clip.frames[0], clip.sound, evaluations=evaluations, **AS_TRAINED
    ).frames


def measure_lips(
    clips: Iterable[FramedClip],
    pipeline: Pipeline,
    landmarker: FaceLandmarker,
    evaluations: int | None,
    out: Path,
) -> dict:
    """Figures over all clips, a row per clip, and OUT/lips.png (true above generated, worst
    first).
    """
    rows, pictures = [], {}
    for clip in clips:
        made = generate(pipeline, clip, evaluations)
        rows.append({"clip": clip.key, **_lip_figures(clip, made, landmarker)})
        pictures[clip.key] = (strip(clip.frames, 8), strip(made, 8))
        print(f"{clip.key}: r {rows[-1]['r']:.2f}, best lag {rows[-1]['best_lag']}", flush=True)
    rows.sort(key=lambda row: row["r"])
    sheet = []
    for row in [
        rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, SHEET_CLIPS).round().astype(int))
    ]:
        true, made = pictures[row["clip"]]
        sheet += [(f"{row['clip']}: true", true), (f"generated, r {row['r']:.2f}", made)]
    write_sheet(out / "lips.png", sheet)
    keys = [key for key in rows[0] if key not in ("clip", "best_lag")]
    within = fmean(abs(row["best_lag"]) <= 1 for row in rows)
    return {key: summary([row[key] for row in rows]) for key in keys} | {
        "share_best_lag_within_1_frame": within,
        "clips": rows,
    }


def _lip_figures(
    clip: FramedClip, made: np.ndarray, landmarker: FaceLandmarker
) -> dict[str, float]:
    """Both clips are seen by the same landmarker; its agreement with the ground truth is given
    beside.
    """
    seen = lip_opening(landmarker.track(clip.frames).landmarks68)
    generated = lip_opening(landmarker.track(made).landmarks68)
    curve = lag_curve(seen, generated)
    row = {"r": curve.at_zero, "best_r": curve.best, "best_lag": curve.best_lag}
    row["opening_range"] = float(np.nanstd(generated) / np.nanstd(seen))
    if clip.landmarks68 is not None:
        truth = lip_opening(clip.landmarks68)
        row["r_to_ground_truth"] = lag_curve(truth, generated).at_zero
        row["r_landmarker_to_ground_truth"] = lag_curve(truth, seen).at_zero
    if clip.segments is not None:
        pauses = pause_frames(clip.segments, len(generated), FPS)
        for name, opening in (("true", seen), ("generated", generated)):
            row |= {
                f"pause_{key}_{name}": value for key, value in stillness(opening, pauses).items()
            }
            shut, count = closures(opening, clip.segments, FPS)
            row |= {f"p_b_m_shut_{name}": shut / count if count else float("nan")}
    return row


def measure_silence(
    clips: list[FramedClip], pipeline: Pipeline, landmarker: FaceLandmarker, evaluations: int | None
) -> dict:
    """Stillness in 1.5 s of digital silence between two stretches of speech.

    The rendered clips' own pauses are short, and even their true mouths are not quite still in
    them.
    """
    rows = []
    for clip in clips:
        samples, rate = clip.sound
        speech, silence = (
            samples[: round(SPEECH_S * rate)],
            np.zeros(round(SILENCE_S * rate), np.float32),
        )
        sound = Sound(np.concatenate([speech, silence, speech]), rate)
        frames = pipeline.generate(
            clip.frames[0], sound, evaluations=evaluations, **AS_TRAINED
        ).frames
        start = len(speech) / rate + SILENCE_EDGE_S
        stop = (len(speech) + len(silence)) / rate - SILENCE_EDGE_S
        times = (np.arange(len(frames)) + 0.5) / FPS
        inside = np.flatnonzero((times > start) & (times < stop))
        rows.append(stillness(lip_opening(landmarker.track(frames).landmarks68), [inside]))
    return {key: summary([row[key] for row in rows]) for key in rows[0]}


def measure_curve(
    clips: list[FramedClip],
    pipeline: Pipeline,
    landmarker: FaceLandmarker,
    evaluations: list[int],
    out: Path,
) -> list[dict]:
    """A row per number of evaluations: lips, sharpness (truth: 1), closeness to the finest run,
    time.
    """
    finest = {clip.key: generate(pipeline, clip, max(evaluations)) for clip in clips}
    openings = {clip.key: lip_opening(landmarker.track(clip.frames).landmarks68) for clip in clips}
    rows, sheet = [], []
    for count in sorted(evaluations):
        started = time.perf_counter()
        made = {clip.key: generate(pipeline, clip, count) for clip in clips}
        seconds = time.perf_counter() - started
        curves = [
            lag_curve(openings[key], lip_opening(landmarker.track(frames).landmarks68))
            for key, frames in made.items()
        ]
        rows.append(
            {
                "evaluations": count,
                "lip_r": fmean(curve.at_zero for curve in curves),
                "lip_best_r": fmean(curve.best for curve in curves),
                "sharpness": fmean(sharpness(made[c.key]) / sharpness(c.frames) for c in clips),
                "psnr_to_finest": fmean(psnr(finest[key], frames) for key, frames in made.items()),
                "real_time_factor": seconds / sum(len(frames) / FPS for frames in made.values()),
            }
        )
        sheet.append((f"{count} evaluations", strip(made[clips[0].key], 8)))
        print(rows[-1], flush=True)
    write_sheet(out / "curve.png", [("truth", strip(clips[0].frames, 8)), *sheet])
    return rows
