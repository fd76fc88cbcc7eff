"""Speech to lips: phones to visemes to ARKit weights, with co-articulation, and lips that close on
p, b and m.

Co-articulation is Cohen and Massaro's (1993): each viseme has a dominance that rises before it and
falls after it, and the face is their weighted mean. Speakers differ in how far, how early and how
sharply they move.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.head import LipGap
from flowportrait.world.names import SHAPE, VISEME, VISEMES, weights
from flowportrait.world.phones import VISEMES_OF, Phones

_OVERSAMPLED = 4
"""Points in time per frame; the middle two are averaged, as a shutter does."""

_FACES = {
    "sil": weights(),
    "PP": weights(mouthPress=0.18, mouthRollLower=0.20, mouthRollUpper=0.16),
    "FF": weights(jawOpen=0.05, mouthRollLower=0.50, mouthUpperUp=0.26, mouthShrugLower=0.12),
    "TH": weights(jawOpen=0.16, mouthLowerDown=0.26, mouthUpperUp=0.12, tongueOut=0.60),
    "DD": weights(jawOpen=0.10, mouthLowerDown=0.25, mouthUpperUp=0.15, mouthStretch=0.10),
    "kk": weights(jawOpen=0.15, mouthLowerDown=0.18, mouthUpperUp=0.10, mouthStretch=0.10),
    "CH": weights(jawOpen=0.07, mouthFunnel=0.55, mouthPucker=0.15, mouthLowerDown=0.12),
    "SS": weights(
        jawOpen=0.03, mouthStretch=0.28, mouthLowerDown=0.28, mouthUpperUp=0.20, mouthDimple=0.10
    ),
    "nn": weights(jawOpen=0.16, mouthLowerDown=0.24, mouthUpperUp=0.12),
    "RR": weights(jawOpen=0.12, mouthFunnel=0.35, mouthPucker=0.25, mouthLowerDown=0.10),
    "aa": weights(jawOpen=0.50, mouthLowerDown=0.22, mouthUpperUp=0.14),
    "E": weights(
        jawOpen=0.28, mouthStretch=0.22, mouthLowerDown=0.22, mouthUpperUp=0.15, mouthSmile=0.08
    ),
    "I": weights(
        jawOpen=0.14, mouthStretch=0.28, mouthSmile=0.22, mouthLowerDown=0.24, mouthUpperUp=0.14
    ),
    "O": weights(jawOpen=0.32, mouthFunnel=0.55, mouthPucker=0.25),
    "U": weights(jawOpen=0.12, mouthPucker=0.72, mouthFunnel=0.28),
}
_TABLE = np.zeros((len(VISEMES), len(SHAPE)))
for _name, _face in _FACES.items():
    _TABLE[VISEME[_name], list(_face)] = list(_face.values())

_DOMINANCE = {  # strength, seconds of rise and of fall
    "sil": (0.35, 0.10, 0.12), "PP": (2.6, 0.045, 0.05), "FF": (2.0, 0.05, 0.055),
    "TH": (0.9, 0.05, 0.06), "DD": (0.5, 0.05, 0.05), "kk": (0.4, 0.05, 0.05),
    "CH": (1.3, 0.075, 0.08), "SS": (0.9, 0.055, 0.06), "nn": (0.5, 0.05, 0.05),
    "RR": (0.9, 0.075, 0.08), "aa": (1.0, 0.075, 0.085), "E": (0.85, 0.07, 0.08),
    "I": (0.95, 0.07, 0.08), "O": (1.25, 0.085, 0.095), "U": (1.35, 0.09, 0.10),
}  # fmt: skip
_UNDERSHOOT_S = 0.11
"""Vowels shorter than about this do not reach their target."""
_GAPS_CM = {"PP": 0.0, "FF": 0.16, "sil": 0.02}
"""How far apart the lips may be at most."""
_ROUND = ["mouthFunnel", "mouthPucker"]
_SPREAD = [
    f"mouth{name}{side}"
    for name in ("Stretch", "Smile", "LowerDown", "UpperUp")
    for side in ("Left", "Right")
]
_PARTING = [f"mouth{name}{side}" for name in ("LowerDown", "UpperUp") for side in ("Left", "Right")]


@dataclass(frozen=True)
class SpeakingStyle:
    """Mouth motion of one person."""

    amplitude: float
    """Of the jaw."""
    rounding: float
    spreading: float
    lead_s: float
    """How far the lips run ahead of the sound."""
    breadth: float
    """Above 1 neighbouring sounds blur into each other more."""
    loudness: float
    """How much louder speech opens the jaw wider."""
    skew: float
    """Of the mouth towards one side."""


def draw_style(rng: Rng) -> SpeakingStyle:
    """A speaker's own way of moving the mouth."""
    return SpeakingStyle(
        amplitude=float(rng.uniform(0.75, 1.25)),
        rounding=float(rng.uniform(0.8, 1.2)),
        spreading=float(rng.uniform(0.8, 1.25)),
        lead_s=float(rng.uniform(-0.012, 0.025)),
        breadth=float(rng.uniform(0.8, 1.25)),
        loudness=float(rng.uniform(0.2, 0.4)),
        skew=float(np.clip(rng.normal() * 0.05, -0.12, 0.12)),
    )


class Segment(NamedTuple):
    """One viseme in time."""

    start_s: float
    end_s: float
    viseme: str


class Speech(NamedTuple):
    """Motion of the mouth, one row a frame."""

    visemes: Array
    """[f, 15] shares that sum to 1."""
    faces: Array
    """[f, 52]"""
    tongue: Array
    """[f] how far the tip of the tongue is raised."""
    segments: list[Segment]


def articulate(
    phones: Phones,
    duration_s: float,
    num_frames: int,
    loudness: Array,
    style: SpeakingStyle,
) -> Speech:
    """Lips for phones; `loudness` [f] is about 1 in loud speech and 0 in silence."""
    segments = viseme_segments(phones, duration_s)
    count = num_frames * _OVERSAMPLED
    times = (np.arange(count) + 0.5) / count * duration_s
    shares = _co_articulated(segments, times, style)
    visemes = _closures_sharpened(shares.reshape(num_frames, _OVERSAMPLED, -1)[:, 1:3].mean(1))
    faces = visemes @ _TABLE
    faces[:, SHAPE["jawOpen"]] *= style.amplitude * (
        0.78 + style.loudness * np.clip(loudness, 0, 1.2)
    )
    return _in_style(faces, style, visemes, segments)


def _in_style(faces, style: SpeakingStyle, visemes, segments) -> Speech:
    """The speech in a person's style: rounder or wider lips, a skew, closed lips that hold the jaw
    up.
    """
    faces[:, [SHAPE[name] for name in _ROUND]] *= style.rounding
    faces[:, [SHAPE[name] for name in _SPREAD]] *= style.spreading
    closing = 1.3 * visemes[:, VISEME["PP"]]
    faces[:, SHAPE["jawOpen"]] *= 1 - 0.85 * np.clip(closing, 0, 1)
    faces[:, [SHAPE[name] for name in _PARTING]] *= 1 - np.clip(closing, 0, 1)[:, None]
    speaking = 1 - visemes[:, VISEME["sil"]]
    faces[:, SHAPE["mouthRight" if style.skew > 0 else "mouthLeft"]] += abs(style.skew) * speaking
    tongue = 0.6 * visemes[:, VISEME["TH"]] + 0.9 * visemes[:, [VISEME["nn"], VISEME["DD"]]].sum(1)
    return Speech(
        visemes,
        np.clip(faces, 0, 1),
        np.clip(tongue, 0, 1),
        segments,
    )


def viseme_segments(phones: Phones, duration_s: float) -> list[Segment]:
    """Visemes in time, without gaps from 0 to `duration_s`; a diphthong is two halves."""
    segments: list[Segment] = []
    ends = [*(phone.start_s for phone in phones[1:]), duration_s]
    if not phones or phones[0].start_s > 0:
        segments.append(
            Segment(0.0, min(phones[0].start_s, duration_s) if phones else duration_s, "sil")
        )
    for phone, end_s in zip(phones, ends, strict=False):
        visemes = VISEMES_OF[phone.name]
        cuts = np.linspace(phone.start_s, min(end_s, duration_s), len(visemes) + 1)
        segments += [
            Segment(float(a), float(b), v)
            for a, b, v in zip(cuts, cuts[1:], visemes, strict=False)
            if b > a
        ]
    return segments


def _co_articulated(segments: list[Segment], times: Array, style: SpeakingStyle) -> Array:
    """[t, 15] shares of the visemes."""
    dominance = np.zeros((len(times), len(VISEMES)))
    ahead = times + style.lead_s
    for start_s, end_s, viseme in segments:
        strength, rise_s, fall_s = _DOMINANCE[viseme]
        before = np.maximum(0, start_s - ahead) / (rise_s * style.breadth)
        after = np.maximum(0, ahead - end_s) / (fall_s * style.breadth)
        if viseme not in _GAPS_CM:
            strength *= min(1.0, 0.35 + (end_s - start_s) / _UNDERSHOOT_S)
        dominance[:, VISEME[viseme]] += strength * np.exp(-(before**1.4) - after**1.4)
    return dominance / np.maximum(dominance.sum(1, keepdims=True), 1e-6)


def _closures_sharpened(shares: Array) -> Array:
    """Shares in which the two closures are reached in full even between open vowels."""
    sharp = shares.copy()
    lips = VISEME["PP"]
    teeth = VISEME["FF"]
    sharp[:, lips] = np.clip(1.7 * shares[:, lips], 0, 1)
    sharp[:, teeth] = np.minimum(np.clip(1.3 * shares[:, teeth], 0, 1), 1 - sharp[:, lips])
    others = np.setdiff1d(np.arange(len(VISEMES)), [lips, teeth])
    left = 1 - sharp[:, lips] - sharp[:, teeth]
    sharp[:, others] *= (left / np.maximum(1 - shares[:, lips] - shares[:, teeth], 1e-6))[:, None]
    return sharp


def close_lips(faces: Array, visemes: Array, lips: LipGap) -> Array:
    """Faces [f, 52] whose lips meet where the visemes want it, whatever head and emotion part them.

    The opening is linear in the weights, so the mouthClose that brings it down to what is allowed
    is solved for.
    """
    closed = faces.copy()
    limited = {
        viseme: visemes[:, VISEME[viseme]] * (1.4 if viseme == "PP" else 1.0) for viseme in _GAPS_CM
    }
    total = sum(limited.values())
    allowed = sum(share * _GAPS_CM[viseme] for viseme, share in limited.items()) / np.maximum(
        total, 1e-6
    )
    excess = np.maximum(0, lips.of(faces) - allowed) * np.clip(total, 0, 1)
    close = SHAPE["mouthClose"]
    closed[:, close] = np.clip(closed[:, close] - excess / min(lips.per_shape[close], -0.5), 0, 1)
    return closed
