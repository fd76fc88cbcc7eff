"""The arithmetic of the bench: plain numpy on frames, landmarks and sound. Nothing here knows a
model.
"""

from dataclasses import dataclass

import numpy as np

from bench.landmarks import LEFT_EYE, RIGHT_EYE, eye_distance

MAX_LAG_FRAMES = 6
MIN_PAUSE_S = 0.3
CLOSED = 0.25
PAUSE_EDGE_S = 0.1
"""Cut from both ends of a pause: lips close after the last sound and open before the next one,
rightly so.
"""

MOUTH = slice(48, 68)
# Points that speech moves little: brows, nose and eyes (the jaw line follows the mouth).
UPPER_FACE = np.r_[17:48]


def psnr(true: np.ndarray, made: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames [f, h, w, 3], from the clip's mean squared
    error.

    `mask` bool [f, h, w] limits it to a region; nan where that is empty.
    """
    squared = np.square((true.astype(np.float32) - made.astype(np.float32)) / 255).mean(-1)
    picked = squared if mask is None else squared[mask]
    return float(-10 * np.log10(picked.mean() + 1e-10)) if picked.size else float("nan")


def feature_masks(landmarks68: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the mouth and of both eyes, bool [f, h, w] each, a little larger than their
    points.
    """
    mouth = _box_mask(landmarks68[:, MOUTH], size_px)
    eyes = _box_mask(landmarks68[:, RIGHT_EYE], size_px) | _box_mask(
        landmarks68[:, LEFT_EYE], size_px
    )
    return mouth, eyes


def _box_mask(points: np.ndarray, size_px: int) -> np.ndarray:
    axis = np.arange(size_px) + 0.5
    low, high = points.min(1), points.max(1)
    # An eye or closed mouth is a flat slit; half its width is the least height that shows it.
    width = high[:, :1] - low[:, :1]
    margin = np.concatenate([0.15 * width, np.maximum(0.3 * (high - low)[:, 1:], 0.15 * width)], 1)
    low, high = low - margin, high + margin
    across = (axis >= low[:, :1]) & (axis <= high[:, :1])
    down = (axis >= low[:, 1:]) & (axis <= high[:, 1:])
    return down[:, :, None] & across[:, None, :]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of two series [n], without the frames where one is nan; nan when one is
    constant.
    """
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True)
class LagCurve:
    """Correlation of two series at lag 0, and at the lag where it is highest."""

    at_zero: float
    best: float
    best_lag: int  # frames; positive: the made series comes late


def lag_curve(true: np.ndarray, made: np.ndarray, max_lag: int = MAX_LAG_FRAMES) -> LagCurve:
    """Correlation of `true` [n] and `made` [n] over lags of up to `max_lag` frames."""
    num = min(len(true), len(made))
    true, made = true[:num], made[:num]
    by_lag = {}
    for lag in range(-max_lag, max_lag + 1):
        early, late = max(0, -lag), max(0, lag)
        by_lag[lag] = correlation(true[early : num - late], made[late : num - early])
    known = {lag: r for lag, r in by_lag.items() if np.isfinite(r)}
    if not known:
        return LagCurve(float("nan"), float("nan"), max_lag + 1)
    best_lag = max(known, key=lambda lag: known[lag])
    return LagCurve(by_lag[0], known[best_lag], best_lag)


def pause_frames(
    segments: list[tuple[float, float, str]], num_frames: int, fps: float
) -> list[np.ndarray]:
    """Frame indices well inside each pause; `segments` are (start_s, end_s, viseme), "sil" is
    silence.
    """
    pauses: list[list[float]] = []
    for start, end, viseme in segments:
        if viseme != "sil":
            continue
        if pauses and abs(pauses[-1][1] - start) < 1e-3:
            pauses[-1][1] = end
        else:
            pauses.append([start, end])
    times = (np.arange(num_frames) + 0.5) / fps
    inside = [
        np.flatnonzero((times > start + PAUSE_EDGE_S) & (times < end - PAUSE_EDGE_S))
        for start, end in pauses
        if end - start >= MIN_PAUSE_S
    ]
    return [frames for frames in inside if len(frames) >= 2]


def stillness(opening: np.ndarray, pauses: list[np.ndarray]) -> dict[str, float]:
    """How much the mouth moves in pauses relative to the rest of the clip: 0 is still, 1 is as in
    speech.

    `peak_to_peak` compares with speech's 5th to 95th percentile, `speed` is of changes from frame
    to frame.
    """
    silent = np.zeros(len(opening), bool)
    for frames in pauses:
        silent[frames[frames < len(opening)]] = True
    steps = np.abs(np.diff(opening))
    both_silent, both_speech = silent[1:] & silent[:-1], ~(silent[1:] | silent[:-1])
    if not both_silent.any() or not both_speech.any():
        return {"peak_to_peak": float("nan"), "speed": float("nan")}
    low, high = np.nanpercentile(opening[~silent], [5, 95])
    spans = [np.ptp(opening[frames[frames < len(opening)]]) for frames in pauses]
    return {
        "peak_to_peak": float(np.nanmean(spans) / max(high - low, 1e-6)),
        "speed": float(np.nanmean(steps[both_silent]) / max(np.nanmean(steps[both_speech]), 1e-6)),
    }


def closures(
    opening: np.ndarray, segments: list[tuple[float, float, str]], fps: float
) -> tuple[int, int]:
    """How many of the sounds p, b and m (viseme "PP") shut the lips, and how many there are.

    Lips count as shut where, within a frame of the sound, they are at most a quarter as far apart
    as in the clip's most open twentieth.
    """
    limit = CLOSED * np.nanpercentile(opening, 95)
    shut, count = 0, 0
    for start, end, viseme in segments:
        first, stop = max(0, int(start * fps) - 1), int(np.ceil(end * fps)) + 1
        part = opening[first:stop]
        if viseme != "PP" or not np.isfinite(part).any():
            continue
        count, shut = count + 1, shut + bool(np.nanmin(part) <= limit)
    return shut, count


def loudness(samples: np.ndarray, sample_rate: int, num_frames: int, fps: float) -> np.ndarray:
    """Root mean square of mono sound around each frame [n], over two frames' time."""
    window = round(2 * sample_rate / fps)
    power = np.convolve(np.square(samples, dtype=np.float64), np.full(window, 1 / window), "same")
    centres = ((np.arange(num_frames) + 0.5) / fps * sample_rate).astype(int)
    return np.sqrt(np.maximum(power[np.minimum(centres, len(power) - 1)], 0))


def sharpness(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels of uint8 frames [f, h, w, 3], in grey
    levels.
    """
    grey = frames.astype(np.float32).mean(-1)
    return float((np.abs(np.diff(grey, axis=1)).mean() + np.abs(np.diff(grey, axis=2)).mean()) / 2)


def shape_distance(landmarks68: np.ndarray, portrait68: np.ndarray) -> np.ndarray:
    """How far brows, eyes and nose [f] are from the portrait's [68, 2], in eye distances.

    The head may move: each frame is laid on the portrait by the best shift, turn and scale first.
    """
    target = portrait68[UPPER_FACE]
    distances = [_residual(points[UPPER_FACE], target) for points in landmarks68]
    return np.array(distances) / eye_distance(portrait68[None])[0]


def _residual(points: np.ndarray, target: np.ndarray) -> float:
    """Root mean square distance after the best similarity transform (complex least squares)."""
    if not np.isfinite(points).all():
        return float("nan")
    source = (points - points.mean(0)) @ np.array([1, 1j])
    goal = (target - target.mean(0)) @ np.array([1, 1j])
    factor = np.vdot(source, goal) / np.vdot(source, source)
    return float(np.sqrt(np.mean(np.abs(factor * source - goal) ** 2)))


def upper_face_colour(frames: np.ndarray, landmarks68: np.ndarray) -> np.ndarray:
    """Mean RGB [f, 3] in 0..255 of the box from brows to nose tip; nan where there is no face."""
    colours = np.full((len(frames), 3), np.nan, np.float32)
    size = np.array(frames.shape[2:0:-1])
    for i, points in enumerate(landmarks68):
        if not np.isfinite(points).all():
            continue
        low = np.clip(points[UPPER_FACE].min(0), 0, size - 2).astype(int)
        high = np.clip(points[UPPER_FACE].max(0), low + 1, size).astype(int)
        colours[i] = frames[i, low[1] : high[1], low[0] : high[0]].reshape(-1, 3).mean(0)
    return colours


def summary(values: list[float]) -> dict[str, float | int]:
    """Mean, median, extremes and count of the numbers among `values`; all nan when there are
    none.
    """
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {
            "mean": float("nan"),
            "median": float("nan"),
            "min": float("nan"),
            "max": float("nan"),
            "n": 0,
        }
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "min": float(known.min()),
        "max": float(known.max()),
        "n": len(known),
    }
