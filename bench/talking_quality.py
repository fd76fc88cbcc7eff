"""Whether lips follow a real voice: the first frame of a talking video says the video's own sound,
and is compared with the video.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import numpy as np

from bench.landmarks import FaceLandmarker, lip_opening, mouth_width
from bench.lip_quality import generate
from bench.material import FramedClip
from bench.measures import correlation, lag_curve, loudness, summary
from bench.sheets import strip, write_sheet
from flowportrait.generate import Pipeline
from flowportrait.media import FPS

SHEET_CLIPS = 8
RESAMPLES = 10_000
SHARE_WITH_FACE = 0.9


def measure_talking(
    clips: Iterable[FramedClip],
    pipeline: Pipeline,
    landmarker: FaceLandmarker,
    evaluations: int | None,
    out: Path,
) -> dict:
    """Figures over all clips with a 95 % interval of the means, a row per clip (worst first), and
    OUT/talking.png (true above generated). Clips whose face is lost in a tenth of their frames are
    named and left out.
    """
    rows, pictures, left_out = [], {}, []
    for clip in clips:
        true = landmarker.track(clip.frames)
        if true.valid.mean() < SHARE_WITH_FACE:
            left_out.append(clip.key)
            continue
        made = generate(pipeline, clip, evaluations)
        points = landmarker.track(made).landmarks68
        rows.append({"clip": clip.key, **_figures(clip, true.landmarks68, points)})
        pictures[clip.key] = (strip(clip.frames, 8), strip(made, 8))
        print(f"{clip.key}: r {rows[-1]['r']:.2f}, best lag {rows[-1]['best_lag']}", flush=True)
    rows.sort(key=lambda row: row["r"])
    chosen = np.unique(np.linspace(0, len(rows) - 1, SHEET_CLIPS).round().astype(int))
    sheet = []
    for row in (rows[i] for i in chosen):
        true, made = pictures[row["clip"]]
        sheet += [(f"{row['clip']}: true", true), (f"generated, r {row['r']:.2f}", made)]
    write_sheet(out / "talking.png", sheet)
    keys = [key for key in rows[0] if key not in ("clip", "best_lag")]
    return {key: _with_interval([row[key] for row in rows]) for key in keys} | {
        "share_best_lag_within_1_frame": fmean(abs(row["best_lag"]) <= 1 for row in rows),
        "left_out": left_out,
        "clips": rows,
    }


def _figures(clip: FramedClip, true68: np.ndarray, made68: np.ndarray) -> dict[str, float]:
    """`at_rest` is the 5th percentile of the opening, `spread` its standard deviation, both in eye
    distances; `made_to_loudness_r` higher than `true_to_loudness_r` means a mouth that only follows
    loudness.
    """
    frames = min(len(true68), len(made68))  # a sound may end a little before its pictures
    true68, made68 = true68[:frames], made68[:frames]
    true, made = lip_opening(true68), lip_opening(made68)
    curve = lag_curve(true, made)
    level = loudness(*clip.sound, len(true), FPS)
    wide = [mouth_width(points) for points in (true68, made68)]
    return {
        "r": curve.at_zero,
        "best_r": curve.best,
        "best_lag": curve.best_lag,
        "width_r": correlation(*wide),
        "true_to_loudness_r": correlation(level, true),
        "made_to_loudness_r": correlation(level, made),
        "true_spread": float(np.nanstd(true)),
        "made_spread": float(np.nanstd(made)),
        "true_width_spread": float(np.nanstd(wide[0])),
        "made_width_spread": float(np.nanstd(wide[1])),
        "true_at_rest": float(np.nanpercentile(true, 5)),
        "made_at_rest": float(np.nanpercentile(made, 5)),
    }


def _with_interval(values: list[float]) -> dict[str, float | int | list[float]]:
    """A summary with the 95 % interval of the mean (percentile bootstrap over the clips)."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return summary(values)
    draws = np.random.default_rng(0).choice(known, (RESAMPLES, len(known)))
    low, high = np.percentile(draws.mean(1), [2.5, 97.5])
    return summary(values) | {"interval": [float(low), float(high)]}
