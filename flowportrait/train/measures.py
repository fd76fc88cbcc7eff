"""Simple measurable scorers of a generated clip: small-scale rewards, and monitors that no reward
should hold.

They need no network and no weights, and they are stand-ins, not the paper's rewards: lips are read
as the darkness of the portrait's mouth box, jitter as change of change of pixels. Light and colours
are in levels of 0 to 255.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from flowportrait.arrays import Array
from flowportrait.scoring.reward import Candidate, Measure

monitor = partial(Measure, monitor=True)

MOUTH = (0.30, 0.62, 0.70, 0.88)
"""Left, top, right, bottom of the mouth in a portrait framed as the training clips are, in shares
of the picture.
"""

LEAST_SPREAD = 0.5
"""Levels by which darkness must vary to count as moving lips; below, correlations tend to 0."""


@Measure
def lip_truth(clip: Candidate) -> float:
    """Correlation of mouth darkness with that of the real clip; nan without one, or where its mouth
    stands still.
    """
    if clip.truth is None:
        return math.nan
    return _correlation(_darkness(clip, clip.frames), _darkness(clip, clip.truth))


@Measure
def lip_loudness(clip: Candidate) -> float:
    """Correlation of mouth darkness with loudness (log level of each frame's sound); nan for an
    even sound.
    """
    samples, rate = clip.sound
    mono = samples
    if samples.ndim == 2:
        mono = samples.mean(axis=1)
    moments = np.linspace(0, len(clip.frames) / clip.fps * rate, len(clip.frames) + 1).astype(int)
    level = [
        math.log10(float(np.square(part).mean()) + 1e-6) if len(part) else -6.0
        for part in _parts(mono, moments)
    ]
    return _correlation(_darkness(clip, clip.frames), 20 * np.array(level))


@Measure
def smoothness(clip: Candidate) -> float:
    """Minus jitter. A still clip is the smoothest of all, so never a reward by itself."""
    return -jitter(clip)


@Measure
def closeness(clip: Candidate) -> float:
    """Minus the mean distance of pixels to the real clip at a quarter of the size; nan without
    one.
    """
    if clip.truth is None:
        return math.nan
    count = min(len(clip.frames), len(clip.truth))
    return -float(np.abs(_small(clip.frames[:count]) - _small(clip.truth[:count])).mean())


@partial(monitor, better="higher")
def motion_px(clip: Candidate) -> float:
    """How far the picture moves, in px per frame, seen as change in time over change in space
    (normal flow).
    """
    if len(clip.frames) < 2:
        return math.nan
    light = _light(clip.frames)
    across = np.abs(np.diff(light, axis=2)).mean()
    down = np.abs(np.diff(light, axis=1)).mean()
    return float(np.abs(np.diff(light, axis=0)).mean() / (math.hypot(across, down) + 1e-6))


@partial(monitor, better="lower")
def jitter(clip: Candidate) -> float:
    """Change of change over change, after Eq. 15 but of pixels at a quarter of the size: 0 for even
    motion, up to 2.
    """
    if len(clip.frames) < 3:
        return math.nan
    change = np.diff(_small(clip.frames), axis=0)
    return float(np.abs(np.diff(change, axis=0)).mean() / (np.abs(change).mean() + 0.05))


@partial(monitor, better="lower")
def colour_drift(clip: Candidate) -> float:
    """Distance of the mean colours of the first and of the last quarter, in levels."""
    count = max(1, len(clip.frames) // 4)
    first = clip.frames[:count].astype(np.float32).mean((0, 1, 2))
    last = clip.frames[-count:].astype(np.float32).mean((0, 1, 2))
    return float(np.linalg.norm(last - first))


@partial(monitor, better="lower")
def difference_energy(clip: Candidate) -> float:
    """Mean squared difference of consecutive frames, in levels squared; nan for a single frame."""
    if len(clip.frames) > 1:
        return float(np.square(np.diff(_light(clip.frames), axis=0)).mean())
    return math.nan


@partial(monitor, better="higher")
def sharpness(clip: Candidate) -> float:
    """Variance of the Laplacian, in levels squared; falls when pictures blur, rises when they
    grain.
    """
    light = _light(clip.frames)
    centre = light[:, 1:-1, 1:-1]
    around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    return float((around - 4 * centre).var(axis=(1, 2)).mean())


def _darkness(clip: Candidate, frames: Array) -> Array:
    """Minus the mean light of the mouth box, one number a frame: an open mouth is dark."""
    height, width = frames.shape[1:3]
    shares = [int(share * side) for share, side in zip(MOUTH, (width, height) * 2, strict=True)]
    left, top, right, bottom = clip.mouth or shares
    return -_light(frames[:, top:bottom, left:right]).mean((1, 2))


def _correlation(seen: Array, known: Array) -> float:
    """Correlation where `known` varies, else nan; 0 for a `seen` that stands still, without a jump
    on the way.
    """
    count = min(len(seen), len(known))
    seen = seen[:count] - seen[:count].mean()
    known = known[:count] - known[:count].mean()
    if count < 3 or known.std() < LEAST_SPREAD:
        return math.nan
    return float((seen * known).mean() / (math.hypot(seen.std(), LEAST_SPREAD) * known.std()))


def _parts(samples: Array, moments: Array) -> list[Array]:
    return [samples[start:stop] for start, stop in zip(moments[:-1], moments[1:], strict=True)]


def _light(frames: Array) -> Array:
    return frames.mean(axis=-1, dtype=np.float32)


def _small(frames: Array) -> Array:
    """Colours [f, h/4, w/4, 3] averaged over blocks of 4 x 4."""
    count, height, width, _ = frames.shape
    whole = frames[:, : height // 4 * 4, : width // 4 * 4]
    return whole.reshape(
        count,
        height // 4,
        4,
        width // 4,
        4,
        3,
    ).mean((2, 4), dtype=np.float32)
