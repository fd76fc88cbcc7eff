"""Clips made worse by a known amount, to see whether a judge or a metric ranks them as they are.

One name, one function each; `strength` is a number in the unit the table states, 0 leaves the clip
as it is and more is worse. They work on frames uint8 [f, h, w, 3] and mono sound of any video.
Where the face lies is told by landmarks [f, 68, 2] (ground truth or measured); without them it is
taken to be framed as in Appendix B.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from flowportrait.arrays import Array, Rng
from flowportrait.errors import ConfigError
from flowportrait.media import Sound
from flowportrait.registry import name_hint

_MOUTH = np.arange(48, 68)
_UPPER_FACE = np.r_[17:31, 36:48]
"""Lips; brows, lids and the bridge of the nose, whose wings move with the upper lip."""
_ANCHORS = [27, 28, 29, 30, 33, 36, 39, 42, 45]
"""Landmarks that turn with the head and do not take part in expressions."""


class ClipInMemory(NamedTuple):
    """A clip in memory, with what a degradation may need to know of it."""

    frames: Array
    """uint8 [f, h, w, 3]"""
    sound: Sound
    fps: float
    landmarks: Array | None = None
    """[f, 68, 2] in pixels."""
    other_sound: Sound | None = None
    """Another sentence, for `foreign_speech`."""


@dataclass(frozen=True)
class Degradation:
    """A way of making a clip worse. `levels` are strengths from just visible to plain, in
    `unit`.
    """

    unit: str
    levels: tuple[float, ...]
    breaks: str
    """The aspect it hurts: lip_sync, expressiveness or motion; picture for all else."""
    apply: Callable[[ClipInMemory, float, Rng], ClipInMemory]


def degrade(footage: ClipInMemory, name: str, strength: float, seed: int = 0) -> ClipInMemory:
    """`footage` degraded; the same seed gives the same result. Raises ConfigError for a name that
    is not known.
    """
    if name not in DEGRADATIONS:
        raise ConfigError(f"degradation: no '{name}'; {name_hint(name, DEGRADATIONS)}")
    if strength == 0:
        return footage
    return DEGRADATIONS[name].apply(footage, strength, np.random.default_rng(seed))


def shifted_sound(footage: ClipInMemory, frames: float, rng: Rng) -> ClipInMemory:
    """Sound late by a number of frames (early when negative); silence fills up, the length
    stays.
    """
    samples = footage.sound.samples
    shift = round(frames / footage.fps * footage.sound.sample_rate)
    moved = np.zeros_like(samples)
    if shift >= 0:
        moved[shift:] = samples[: max(0, len(samples) - shift)]
    else:
        moved[:shift] = samples[-shift:]
    return footage._replace(sound=Sound(moved, footage.sound.sample_rate))


def foreign_speech(footage: ClipInMemory, share: float, rng: Rng) -> ClipInMemory:
    """The last `share` of the clip speaks another sentence, repeated or cut to fit, equally
    loud.
    """
    if footage.other_sound is None:
        raise ConfigError("foreign_speech: needs the sound of another sentence; give other_sound")
    if footage.other_sound.sample_rate != footage.sound.sample_rate:
        raise ConfigError("foreign_speech: the two sounds have different rates; resample one")
    samples = footage.sound.samples.copy()
    start = round(len(samples) * (1 - min(1.0, share)))
    other = np.resize(footage.other_sound.samples, len(samples) - start)
    loudness = np.std(samples) / (np.std(footage.other_sound.samples) + 1e-6)
    samples[start:] = np.clip(other * loudness, -1, 1)
    return footage._replace(sound=Sound(samples, footage.sound.sample_rate))


def frozen_face(footage: ClipInMemory, share: float, rng: Rng) -> ClipInMemory:
    """Each frame stays for the last `share` of the clip: 1 is a still picture."""
    frames = footage.frames.copy()
    first = round((len(frames) - 1) * (1 - min(1.0, share)))
    frames[first:] = frames[first]
    return footage._replace(frames=frames)


def frozen_mouth(footage: ClipInMemory, strength: float, rng: Rng) -> ClipInMemory:
    """The mouth of the first frame laid over all others, following the head; 0.5 lets half of its
    motion through.
    """
    return _held_region(footage, _MOUTH, strength)


def muted_expression(footage: ClipInMemory, strength: float, rng: Rng) -> ClipInMemory:
    """Brows and lids of the first frame laid over all others, lips spared; 0.5 lets half of their
    motion through.
    """
    return _held_region(footage, _UPPER_FACE, strength, spared=_MOUTH)


def jitter(footage: ClipInMemory, pixels: float, rng: Rng) -> ClipInMemory:
    """Every frame moved by a random offset with this deviation, borders repeated."""
    offsets = rng.normal(size=(len(footage.frames), 2)) * pixels
    moved = [
        _warped(frame, np.eye(2), offset)
        for frame, offset in zip(footage.frames, offsets, strict=True)
    ]
    return footage._replace(frames=np.stack(moved))


def colour_drift(footage: ClipInMemory, strength: float, rng: Rng) -> ClipInMemory:
    """Channels drift apart over the clip, by +-`strength` of their brightness at its end."""
    direction = rng.permutation([1.0, -0.5, -0.5])
    gain = 1 + strength * np.linspace(0, 1, len(footage.frames))[:, None] * direction
    drifted = footage.frames * gain[:, None, None].astype(np.float32)
    return footage._replace(frames=_as_8_bit(drifted))


def blur(footage: ClipInMemory, pixels: float, rng: Rng) -> ClipInMemory:
    """Gaussian blur with this deviation, at 256 px; smaller frames are blurred less, larger ones
    more.
    """
    sigma = pixels * footage.frames.shape[1] / 256
    blurred = gaussian_filter(footage.frames.astype(np.float32), (0, sigma, sigma, 0))
    return footage._replace(frames=_as_8_bit(blurred))


def dropped_frames(footage: ClipInMemory, share: float, rng: Rng) -> ClipInMemory:
    """This share of the frames is lost, and the frame before is shown in its place; the more, the
    same ones too.
    """
    lost = rng.random(len(footage.frames)) < share
    lost[0] = False
    shown = np.maximum.accumulate(np.where(lost, 0, np.arange(len(lost))))
    return footage._replace(frames=footage.frames[shown])


DEGRADATIONS: dict[str, Degradation] = {
    "shifted_sound": Degradation("frames", (1, 2, 4, 8, 16), "lip_sync", shifted_sound),
    "foreign_speech": Degradation(
        "share of the clip", (0.25, 0.5, 0.75, 1.0), "lip_sync", foreign_speech
    ),
    "frozen_mouth": Degradation(
        "share of the motion", (0.25, 0.5, 0.75, 1.0), "lip_sync", frozen_mouth
    ),
    "muted_expression": Degradation(
        "share of the motion", (0.25, 0.5, 0.75, 1.0), "expressiveness", muted_expression
    ),
    "frozen_face": Degradation("share of the clip", (0.25, 0.5, 0.75, 1.0), "motion", frozen_face),
    "jitter": Degradation("pixels", (0.25, 0.5, 1, 2, 4), "motion", jitter),
    "dropped_frames": Degradation(
        "share of the frames", (0.1, 0.25, 0.5, 0.75), "motion", dropped_frames
    ),
    "colour_drift": Degradation(
        "share of brightness", (0.05, 0.1, 0.2, 0.4), "picture", colour_drift
    ),
    "blur": Degradation("pixels at 256 px", (1, 2, 4, 8), "picture", blur),
}
"""All degradations by name."""


def _held_region(
    footage: ClipInMemory, region: Array, strength: float, spared: Array | None = None
) -> ClipInMemory:
    """Mixes a region of the first frame, moved with the head, into every frame, but for the
    landmarks `spared`.
    """
    frames = footage.frames
    landmarks = footage.landmarks
    if landmarks is None:
        landmarks = np.broadcast_to(
            _framed_landmarks(frames.shape[2], frames.shape[1]), (len(frames), 68, 2)
        )
    # Brows end where the face does, and what lies beside it must not turn with it; lips leave room
    # for an open mouth.
    mask = _soft_mask(
        landmarks[0, region], frames.shape[1:3], wider=1.35 if spared is None else 1.05
    )
    out = frames.astype(np.float32)
    for i in range(1, len(frames)):
        # Output pixels look up where they came from, so the map runs from frame i back to the
        # first.
        linear, offset = _similarity(landmarks[i, _ANCHORS], landmarks[0, _ANCHORS])
        amount = strength * np.clip(_warped(mask, linear, offset), 0, 1)[..., None]
        if spared is not None:
            # As they lie in this frame: lips rise and nostrils lie low, so the first frame's place
            # would not do.
            amount *= 1 - _soft_mask(landmarks[i, spared], frames.shape[1:3])[..., None]
        out[i] += amount * (_warped(frames[0], linear, offset).astype(np.float32) - out[i])
    return footage._replace(frames=_as_8_bit(out))


def _soft_mask(points: Array, shape: tuple[int, int], wider: float = 1.35) -> Array:
    """[h, w] 1 in an ellipse around points, falling off softly."""
    low = points.min(0)
    high = points.max(0)
    middle = (low + high) / 2
    # The jaw takes the lower lip further down than it rests.
    half = np.maximum((high - low) / 2 * [wider, 1.6], 2)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    distance = np.hypot((x - middle[0]) / half[0], (y - middle[1]) / half[1])
    return np.clip((1.35 - distance) / 0.35, 0, 1).astype(np.float32)


def _similarity(source: Array, target: Array) -> tuple[Array, Array]:
    """Matrix and offset in (y, x) of the turn, scale and shift that best bring points (x, y) onto
    others.
    """
    a = source[:, ::-1].astype(float)
    b = target[:, ::-1].astype(float)
    a_middle = a.mean(0)
    b_middle = b.mean(0)
    a = a - a_middle
    b = b - b_middle
    norm = (a**2).sum()
    along = (a * b).sum() / norm
    across = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    linear = np.array([[along, -across], [across, along]])
    return linear, b_middle - linear @ a_middle


def _warped(image: Array, linear: Array, offset: Array) -> Array:
    """An image whose pixel (y, x) is taken from linear @ (y, x) + offset."""
    planes = image
    if image.ndim == 2:
        planes = image[..., None]
    moved = [
        affine_transform(planes[..., c].astype(np.float32), linear, offset, order=1, mode="nearest")
        for c in range(planes.shape[-1])
    ]
    whole = np.stack(moved, -1)
    if image.ndim == 2:
        return whole[..., 0]
    return _as_8_bit(whole)


def _framed_landmarks(width: int, height: int) -> Array:
    """[68, 2] only the regions matter: brows and eyes, and a mouth, of a face that fills two thirds
    of the picture.
    """
    points = np.tile([width * 0.5, height * 0.5], (68, 1))
    points[17:48] = _corners(0.28, 0.36, 0.72, 0.50, 31) * [width, height]
    points[48:68] = _corners(0.38, 0.64, 0.62, 0.76, 20) * [width, height]
    return points


def _corners(left: float, top: float, right: float, bottom: float, count: int) -> Array:
    """[count, 2] the corners of a rectangle, over and over."""
    return np.resize(
        np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), (count, 2)
    )


def _as_8_bit(values: Array) -> Array:
    """Rounded, and kept between 0 and 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
