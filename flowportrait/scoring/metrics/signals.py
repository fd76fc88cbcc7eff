"""Measurements of a talking face without a language model: the signals of the offline judge.

Each is one number a clip, from `sync-small`, the shipped landmarker, the face shapes read from its
landmarks, and optical flow of the framed face. All are in units of the face (distances between the
eyes) or of the clip (shares), so that size and frame rate do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.arrays import Array, Landmarks, PerFrame, PlacePerFrame, Values
from flowportrait.faces.landmarker import SIZE_PX
from flowportrait.scoring.metrics.blendshapes import eye_edges, face_shapes, upright
from flowportrait.scoring.metrics.jitter import jitter
from flowportrait.scoring.metrics.optical import face_flow, framed_light, head_flow
from flowportrait.scoring.metrics.sync_small import SyncSmall
from flowportrait.scoring.metrics.tracking import FPS, FaceTrack, mirror_error, track_face
from flowportrait.scoring.metrics.view import Unscorable, View

FrameMask = Bool[np.ndarray, " f"]

_BROWS = np.arange(17, 27)
_BROWS_AND_EYES = np.r_[17:27, 36:48]
_MOUTH = np.arange(48, 68)
_UPPER_LIP = [61, 62, 63]
_LOWER_LIP = [67, 66, 65]
_ANCHORS = [27, 28, 29, 30, 33, 36, 39, 42, 45]
_FLOW_PX = 64
_STILL_LEVELS = 0.15, 0.35
"""Of 255: a change of light below the first is none (codecs leave about 0.1), one above the second
always is one.
"""
_STILL_SHARE = (
    0.25  # of the change that nine frames in ten stay below: between the two levels this decides
)
# of the gaps between repeated frames, that are alike when a steady lower frame rate made them
_EVEN_SHARE = 0.7
# frames that a picture may stay, at most; below 12 frames a second even an even rate is no motion
_SLOWEST_EVEN = 2
_LATE = 0.05  # cosines that a frame of offset costs
_BLINK_DIP = 0.06, 6.0, 0.45
"""A blink lowers `eye_edges` by at least so much, so many deviations of noise, and so much of the
deepest blink.
"""
_BLINK_FRAMES = 25  # lids that stay down longer are no blink
_FEW = (8.0, 30.0)
_MANY = (8.0, 50.0)
"""Blinks a minute: people at rest, and people who talk (Bentivoglio et al. 1997 found 26 in
conversation).
"""
_TRUSTED = 0.07
_DOUBTED = 0.14
"""Distance of landmarks from those of the mirrored face: nearly all clips of the world are below
the first.
"""
_LEAST_FRAMES = 24


def sync_fit(view: View) -> float:
    """How much better the sound fits the lips near where it is than elsewhere, in cosines of
    `sync-small`.

    The greatest cosine over shifts, less the median, less 0.05 for every frame of its shift: sound
    that is late by two frames is better than sound that fits nowhere.
    """
    profile = SyncSmall().fit(view).profile.numpy()
    reach = len(profile) // 2
    late = _LATE * np.abs(np.arange(-reach, reach + 1))
    return float((profile - late).max() - np.median(profile))


def lip_life(view: View) -> float:
    """Spread of the gap between the inner lips within a clip, in eye distances: whether the mouth
    speaks at all.
    """
    points = _steadied(_long_enough(view))
    return float(_spread((points[:, _LOWER_LIP, 1] - points[:, _UPPER_LIP, 1]).mean(1)))


def jaw_life(view: View) -> float:
    """Spread of the face shape jawOpen within a clip, 1 being all of it."""
    return _shape_life(view, "jawOpen")


def lips_life(view: View) -> float:
    """Mean spread of the lips' own face shapes (mouthClose, mouthPress, mouthLowerDown and so on),
    the jaw's apart.
    """
    return _shape_life(view, "mouth")


def lid_life(view: View) -> float:
    """Maximum closing of the lids: the face shape eyeBlink's 99th percentile over its median."""
    paths = [path for name, path in _shapes(view).items() if name.startswith("eyeBlink")]
    return float(np.mean([np.percentile(path, 99) - np.median(path) for path in paths]))


def upper_face_flow(view: View) -> float:
    """Motion of brows and lids relative to the head: RMS of their flow, in eye distances per
    second.
    """
    moves = face_motion(view)
    power = _mean_over(moves.own.square().sum(1), moves, _BROWS_AND_EYES)
    return float(power.mean().sqrt() / moves.eyes_px * moves.fps)


def brow_flow(view: View) -> float:
    """How brows rise and fall against the head, as a whole: deviation of their speed, in eye
    distances a second.
    """
    moves = face_motion(view)
    return float(_mean_over(moves.own[:, 1], moves, _BROWS).std() / moves.eyes_px * moves.fps)


def blink_luck(view: View) -> float:
    """How usual it is to blink so often in so many seconds: 0 is usual, -1 happens to one person in
    ten.

    The chance of so few blinks or fewer, or of so many or more, doubled, under the rates that
    people have; its logarithm to the base 10. Three seconds without a blink are -0.1, twenty are
    -1.7.
    """
    return surprise(len(blinks(eyes(view))), len(eyes(view)) / FPS)


def still_share(view: View) -> float:
    """Minus the share of frames in which the place of the face is as it was in the frame before,
    pixel for pixel.

    Seen in the clip's own pixels, at a fixed place: a path that follows the face would move even
    over a still. Frames that a steady lower rate repeats (15 pictures a second stored as 30) do not
    count.
    """
    repeats = find_repeats(view)
    return -float((repeats.still & ~repeats.even).sum() / max(1, (~repeats.even).sum()))


def steadiness(view: View) -> float:
    """Minus the mean change of the change of the head's speed from frame to frame, in eye
    distances; 0 is even.

    Not over the speed as in Eq. 15: a head that hardly moves would be judged by noise alone.
    """
    return -float(np.linalg.norm(np.diff(face_motion(view).shift, n=2, axis=0), axis=1).mean())


def flow_evenness(view: View) -> float:
    """Minus the jitter of the face's flow (Eq. 14-16, norms averaged over the face), of 64 px and
    with an epsilon of 1.

    Own flow and the head's together, by Lucas and Kanade; `raft-jitter` is the paper's.
    """
    moves = face_motion(view)
    # So that a mean over all pixels is one over the face.
    return -float(jitter(moves.whole * (moves.face / moves.face.mean()), "means", 1.0).mean())


def mean_flow(view: View) -> float:
    """Motion of the face including the head, in eye distances per second."""
    moves = face_motion(view)
    speed = (moves.whole.norm(dim=1) * moves.face).sum((1, 2)) / moves.face.sum()
    return float(speed.mean() / moves.eyes_px * moves.fps)


def head_life(view: View) -> float:
    """Range of head motion within a clip, in sides of the face's square."""
    path = _long_enough(view).places[:, _ANCHORS].mean(1)
    return float(np.hypot(*path.std(0)))


def blinks_per_minute(view: View) -> float:
    """Shut eyes that open again; 15 to 20 are usual, 0 in a short clip says little."""
    return len(blinks(eyes(view))) * 60 * FPS / len(eyes(view))


def pictures_per_second(view: View) -> float:
    """The frame rate that is seen: 24 less the frames that a steady lower rate repeats."""
    even = find_repeats(view).even
    return FPS * (1 - float(even.mean()))


SIGNALS: Mapping[str, Callable[[View], float]] = {
    signal.__name__: signal
    for signal in (
        sync_fit, lip_life, jaw_life, lips_life, lid_life, upper_face_flow, brow_flow, blink_luck,
        still_share, steadiness, flow_evenness, mean_flow, head_life, blinks_per_minute,
        pictures_per_second,
    )
}  # fmt: skip
"""All signals by name. Those that the judge reads are named by its calibration; there more is
always better.
"""

SHOWN: Mapping[str, tuple[str, ...]] = {
    "lip_sync": (), "expressiveness": ("lid_life", "blinks_per_minute"),
    "motion": ("head_life", "mean_flow", "pictures_per_second"),
}  # fmt: skip
"""Signals that stand beside an aspect's score and do not enter it: more of them is not always
better.
"""


def trust(view: View) -> float:
    """How far the face is tracked well, from 0 to 1, by how the landmarks of the mirrored face
    differ from them.
    """
    _long_enough(view)
    error = view.keep("mirror error", lambda: mirror_error(track_face(view)))
    return float(np.clip((_DOUBTED - error) / (_DOUBTED - _TRUSTED), 0, 1))


class FaceMotion(NamedTuple):
    """Flow of a framed face, in px of 64, between pictures that differ: `whole`, and `own` without
    the rigid head's.
    """

    whole: Float[Tensor, "n 2 64 64"]
    own: Float[Tensor, "n 2 64 64"]
    trust: Float[Tensor, "n 64 64"]
    face: Float[Tensor, "64 64"]
    """1 within the face."""
    shift: Float[np.ndarray, "n 2"]
    """Of the head in the clip, in eye distances a picture."""
    points: Float[np.ndarray, "68 2"]
    """Median landmarks, in px of 64."""
    eyes_px: float
    fps: float
    """Pictures a second."""


def face_motion(view: View) -> FaceMotion:
    """The flow of a clip's face, computed once for all signals."""
    return view.keep(
        "face motion", lambda: _face_motion(_long_enough(view), find_repeats(view).even)
    )


def _face_motion(track: FaceTrack, even: FrameMask) -> FaceMotion:
    """How the face moves within itself, apart from the head's own motion."""
    shown = np.concatenate([[True], ~even])
    points = np.median(track.landmarks, 0) * (_FLOW_PX / SIZE_PX)
    eyes_px = float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))
    face = _ellipse(points, np.arange(68), (1.0, 1.15))
    whole, sure = face_flow(framed_light(track.frames[shown], _FLOW_PX))
    weight = sure * face * (1 - _ellipse(points, _MOUTH, (1.4, 1.8)))
    head = head_flow(whole, weight)
    mean = (head * weight[:, None]).sum((2, 3)) / weight.sum((1, 2)).clamp(min=1e-6)[:, None]
    # The square follows the face: what it does is the head's too.
    follows = np.diff(track.squares[shown, :2], axis=0) / track.squares[0, 2] * _FLOW_PX
    shift = (mean.numpy() + follows) / eyes_px
    return FaceMotion(
        whole, whole - head, sure, face, shift, points, eyes_px, FPS * len(whole) / len(even)
    )


class Repeats(NamedTuple):
    """Which frames, from the second on, show the `still` frame before; `even` ones are a steady
    lower rate's.
    """

    still: FrameMask
    even: FrameMask


def find_repeats(view: View) -> Repeats:
    """The repeated frames of a clip."""
    return view.keep("repeats", lambda: _find_repeats(view))


def _find_repeats(view: View) -> Repeats:
    """Which frames show the same as those before them."""
    x, y, side = np.median(_long_enough(view).squares, 0).astype(int)
    frames = chain.from_iterable(view.blocks(FPS))
    light = (frame[y : y + side, x : x + side].mean(-1, dtype=np.float32) for frame in frames)
    change = np.array([np.abs(after - before).mean() for before, after in pairwise(light)])
    still = change < np.clip(_STILL_SHARE * np.percentile(change, 90), *_STILL_LEVELS)
    return Repeats(still, even_repeats(still))


def even_repeats(still: FrameMask) -> FrameMask:
    """Those repeats that come at even distances, when most do: one picture in four, say, from first
    to last.
    """
    at = np.flatnonzero(still)
    gaps = np.diff(at)
    even = np.zeros_like(still)
    if len(gaps) < 4:
        return even
    pairs = [(gap, gap + 1) for gap in range(_SLOWEST_EVEN, int(gaps.max()) + 1)]
    best = max(pairs, key=lambda pair: np.isin(gaps, pair).sum(), default=(0, 0))
    alike = np.isin(gaps, best)
    if alike.mean() >= _EVEN_SHARE:
        even[at[:-1][alike]] = even[at[1:][alike]] = True
    return even


def eyes(view: View) -> PlacePerFrame:
    """Opening of the eyes in every frame, relative to the usual one."""

    def read() -> Array:
        track = _long_enough(view)
        return eye_edges(track.frames, track.landmarks)

    return view.keep("eyes", read)


def blinks(openness: PlacePerFrame) -> list[int]:
    """Frames at which the eyes have just shut."""
    both = openness.mean(1)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(both, _BLINK_FRAMES // 2, mode="edge"), _BLINK_FRAMES
    )
    dip = np.median(around, -1) - both
    # Of white noise, second differences have sqrt(6) of its deviation, and their median size is
    # 0.67 of theirs.
    noise = np.median(np.abs(np.diff(both, n=2))) / 0.67 / math.sqrt(6)
    least, deviations, share = _BLINK_DIP
    shut = dip > max(least, deviations * noise, share * np.percentile(dip, 99.5))
    return np.flatnonzero(shut[1:] & ~shut[:-1]).tolist()


def surprise(count: int, seconds: float) -> float:
    """Logarithm to the base 10 of the doubled chance of so few, or so many, blinks; at most 0."""
    few, many = (np.linspace(*rates, 45) * seconds / 60 for rates in (_FEW, _MANY))
    chance = min(_at_most(count, few).mean(), 1 - _at_most(count - 1, many).mean())
    return min(0.0, math.log10(max(2 * chance, 1e-9)))


def _at_most(count: int, expected: Values) -> Values:
    """The chance of so many events or fewer where so many are expected (Poisson)."""
    numbers = np.arange(count + 1)
    ways = np.array([math.lgamma(number + 1) for number in numbers])
    return np.exp(numbers * np.log(expected)[:, None] - expected[:, None] - ways).sum(1)


def _long_enough(view: View) -> FaceTrack:
    """The tracked face. Raises Unscorable for a clip that is too short."""
    track = track_face(view)
    if len(track.frames) < _LEAST_FRAMES:
        raise Unscorable(
            f"has {len(track.frames)} frames at 24 fps; the offline judge needs {_LEAST_FRAMES}"
        )
    return track


def _shape_life(view: View, *beginnings: str) -> float:
    """Mean spread of the face shapes whose names begin so."""
    paths = [path for name, path in _shapes(view).items() if name.startswith(beginnings)]
    return float(np.mean([_spread(_smooth(path)) for path in paths]))


def _shapes(view: View) -> dict[str, PerFrame]:
    return view.keep("face shapes", lambda: face_shapes(_long_enough(view).landmarks, eyes(view)))


def _steadied(track: FaceTrack) -> Landmarks:
    """Upright landmarks, smoothed over three frames against the landmarker's noise."""
    return _smooth(upright(track.landmarks))


def _smooth(path: Array) -> Array:
    padded = np.concatenate([path[:1], path, path[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _mean_over(
    values: Float[Tensor, "n 64 64"], moves: FaceMotion, part: Array
) -> Float[Tensor, " n"]:
    """Mean over a part of the face, where the flow is to be trusted."""
    weight = moves.trust * _ellipse(moves.points, part, (1.0, 1.3))
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)


def _ellipse(points: Array, part: Array, wider: tuple[float, float]) -> Float[Tensor, "64 64"]:
    """1 within the ellipse around landmarks, so many times their width and height."""
    low = points[part].min(0)
    high = points[part].max(0)
    middle = (low + high) / 2
    half = np.maximum((high - low) / 2 * wider, 2)
    y, x = np.mgrid[:_FLOW_PX, :_FLOW_PX] + 0.5
    inside = np.hypot((x - middle[0]) / half[0], (y - middle[1]) / half[1]) <= 1
    return torch.from_numpy(inside.astype(np.float32))


def _spread(path: Array) -> float:
    """Distance of the 5th and 95th percentile, the slow drift of a turning head taken away."""
    reach = 24
    kernel = np.ones(2 * reach + 1) / (2 * reach + 1)
    drift = np.convolve(np.pad(path, reach, mode="reflect"), kernel, mode="valid")
    low, high = np.percentile(path - drift, (5, 95))
    return high - low
