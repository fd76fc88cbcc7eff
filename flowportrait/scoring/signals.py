"""What can be measured of a talking face without a language model: the signals of the offline judge.

Each is one number a clip, from `sync-small`, the shipped landmarker, and how pixels of the framed face change. All are
in units of the face (distances between the eyes) or of the clip (shares), so that size and frame rate do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from flowportrait.scoring.metric import Unscorable, View
from flowportrait.scoring.sync_small import SyncSmall
from flowportrait.scoring.tracking import FPS, FaceTrack, track_face

_EYES = (slice(36, 42), slice(42, 48))
_UPPER_LIDS, _LOWER_LIDS = [37, 38, 43, 44], [41, 40, 47, 46]
_UPPER_LIP, _LOWER_LIP = [61, 62, 63], [67, 66, 65]
_ANCHORS = [27, 28, 29, 30, 33, 36, 39, 42, 45]
_STILL_LEVELS = (
    0.35  # mean change of light, of 255, below which a frame counts as the one before; codecs leave about 0.1
)
_FASTEST_BLINK = 0.6  # of the median lid opening: below it the eye is shut
_LEAST_FRAMES = 24


def sync_margin(view: View) -> float:
    """`sync-small`'s value: how much better the sound fits here than elsewhere, in cosines."""
    return SyncSmall().fit(view).margin


def lip_life(view: View) -> float:
    """Spread of the gap between the inner lips within a clip, in eye distances: whether the mouth speaks at all."""
    points = _upright(_long_enough(view))
    return float(_spread((points[:, _LOWER_LIP, 1] - points[:, _UPPER_LIP, 1]).mean(1)))


def brow_life(view: View) -> float:
    """Spread of the brows' height over the eyes within a clip, in eye distances."""
    points = _upright(_long_enough(view))
    heights = points[:, 17:27, 1].mean(1) - points[:, 36:48, 1].mean(1)
    return float(_spread(heights))


def lid_life(view: View) -> float:
    """Spread of the lids' opening within a clip, in eye distances; blinks count most."""
    return float(_spread(_lid_opening(_upright(_long_enough(view)))))


def upper_face_life(view: View) -> float:
    """How much lids and brows move within a clip: the lids' spread and half of the brows', in eye distances."""
    return lid_life(view) + brow_life(view) / 2


def still_share(view: View) -> float:
    """Minus the share of frames in which the place of the face is as it was in the frame before, pixel for pixel.

    Seen in the clip's own pixels, at a fixed place: a path that follows the face would move even over a still.
    """
    x, y, side = np.median(_long_enough(view).squares, 0).astype(int)
    light = view.frames_at(FPS)[:, y : y + side, x : x + side].mean(-1, dtype=np.float32)
    change = np.abs(np.diff(light, axis=0)).mean((1, 2))
    return -float((change < _STILL_LEVELS).mean())


def steadiness(view: View) -> float:
    """Minus the mean change of the head's speed, in sides of the face's square: nine points of the skull, 0 is even.

    Not over the speed as in Eq. 15: a head that hardly moves would be judged by the landmarker's noise alone.
    """
    track = _long_enough(view)
    path = track.places[:, _ANCHORS].mean(1)
    speed = np.diff(path, axis=0)
    change = np.linalg.norm(np.diff(speed, axis=0), axis=1).mean()
    return -float(change)


def head_life(view: View) -> float:
    """How far the head moves within a clip, in sides of the face's square."""
    path = _long_enough(view).places[:, _ANCHORS].mean(1)
    return float(np.hypot(*path.std(0)))


def blinks_per_minute(view: View) -> float:
    """Shut eyes that open again; 15 to 20 are usual, 0 in a short clip says little."""
    track = _long_enough(view)
    opening = _lid_opening(_upright(track))
    shut = opening < _FASTEST_BLINK * np.median(opening)
    return float((shut[1:] & ~shut[:-1]).sum() * 60 * FPS / len(opening))


SIGNALS: Mapping[str, Callable[[View], float]] = {
    signal.__name__: signal
    for signal in (
        sync_margin, lip_life, brow_life, lid_life, upper_face_life, still_share, steadiness, head_life,
        blinks_per_minute,
    )
}  # fmt: skip
"""All signals by name. Those that the judge reads are named by its calibration; there more is always better."""

SHOWN: Mapping[str, tuple[str, ...]] = {
    "lip_sync": (), "expressiveness": ("blinks_per_minute",), "motion": ("head_life",),
}  # fmt: skip
"""Signals that stand beside an aspect's score and do not enter it: too few seconds, or too much taste."""


def _long_enough(view: View) -> FaceTrack:
    track = track_face(view)
    if len(track.frames) < _LEAST_FRAMES:
        raise Unscorable(f"has {len(track.frames)} frames at 24 fps; the offline judge needs {_LEAST_FRAMES}")
    return track


def _upright(track: FaceTrack) -> Float[np.ndarray, "f 68 2"]:
    """Landmarks with the eyes level and one apart, smoothed over three frames against the landmarker's noise."""
    points = track.landmarks
    left, right = (points[:, eye].mean(1) for eye in _EYES)
    across = right - left
    size = np.linalg.norm(across, axis=1)
    cos, sin = (across[:, axis] / size for axis in (0, 1))
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    upright = np.einsum("fij,fkj->fki", turn, points - ((left + right) / 2)[:, None]) / np.median(size)
    padded = np.concatenate([upright[:1], upright, upright[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _lid_opening(points: np.ndarray) -> np.ndarray:
    return (points[:, _LOWER_LIDS, 1] - points[:, _UPPER_LIDS, 1]).mean(1)


def _spread(path: np.ndarray) -> float:
    """Distance of the 5th and 95th percentile, the slow drift of a turning head taken away."""
    reach = 24
    kernel = np.ones(2 * reach + 1) / (2 * reach + 1)
    drift = np.convolve(np.pad(path, reach, mode="reflect"), kernel, mode="valid")
    low, high = np.percentile(path - drift, (5, 95))
    return high - low
