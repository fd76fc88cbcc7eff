"""A whole performance: the speaking mouth, and head, eyes, brows and emotion that go with it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from flowportrait.arrays import Array, Rng
from flowportrait.media import FPS
from flowportrait.world.articulate import SpeakingStyle, Speech, articulate, close_lips, draw_style
from flowportrait.world.camera import Motion
from flowportrait.world.head import LipGap
from flowportrait.world.names import SHAPE, VISEME, weights
from flowportrait.world.phones import Phones

EMOTIONS = {
    "neutral": weights(),
    "happy": weights(
        mouthSmile=0.40, cheekSquint=0.35, eyeSquint=0.18, browInnerUp=0.1, mouthDimple=0.1
    ),
    "sad": weights(
        mouthFrown=0.42, browInnerUp=0.65, mouthShrugLower=0.22, eyeSquint=0.15, eyeLookDown=0.15
    ),
    "angry": weights(
        browDown=0.75,
        eyeSquint=0.25,
        noseSneer=0.28,
        mouthPress=0.12,
        mouthFrown=0.2,
        jawForward=0.15,
    ),
    "surprised": weights(browInnerUp=0.65, browOuterUp=0.6, eyeWide=0.35, jawOpen=0.05),
    "disgust": weights(
        noseSneer=0.55, browDown=0.35, mouthUpperUp=0.18, mouthFrown=0.15, eyeSquint=0.28
    ),
}
_EMOTION_SHARES = (0.40, 0.22, 0.10, 0.11, 0.10, 0.07)
_LOUDNESS_WINDOW_S = 0.06
_MAX_GAZE = 0.4
_RULED_BY_SPEECH = ("PP", "FF", "CH", "O", "U")
"""Visemes that an emotion's mouth gives way to."""


@dataclass(frozen=True)
class Manner:
    """Style of one person's motion: the mouth, and the liveliness of head, brows and eyes."""

    speaking: SpeakingStyle
    head: float
    brows: float
    blink_every_s: float
    nods: float
    glances: float
    """Share of looks that leave the viewer."""
    rest: dict[int, float]
    """The face when nothing is felt or said."""


class Performance(NamedTuple):
    """A performance to be filmed, with its ground truth."""

    motion: Motion
    speech: Speech
    blink: Array
    """[f] how far the lids are closed by a blink."""
    energy: Array
    """[f] loudness, about 1 in loud speech."""
    blink_times_s: list[float]
    emotion: str
    intensity: float


def draw_manner(seed: int) -> Manner:
    """The manner of the person of `seed`."""
    rng = np.random.default_rng([seed, 8])
    return Manner(
        speaking=draw_style(rng),
        head=float(rng.uniform(0.6, 1.3)),
        brows=float(rng.uniform(0.3, 1.0)),
        blink_every_s=float(rng.uniform(2.2, 4.5)),
        nods=float(rng.uniform(0.02, 0.08)),
        glances=float(rng.uniform(0.08, 0.25)),
        rest=weights(
            mouthSmile=float(rng.uniform(0.03, 0.13)), eyeSquint=float(rng.uniform(0.05, 0.25))
        ),
    )


def perform(
    rng: Rng,
    phones: Phones,
    samples: Array,
    sample_rate: int,
    manner: Manner,
    lips: LipGap,
) -> Performance:
    """Motion for a speech at 24 frames a second, round(seconds * 24) of them."""
    duration_s = len(samples) / sample_rate
    num_frames = max(1, round(duration_s * FPS))
    energy = loudness(samples, sample_rate, num_frames)
    speech = articulate(
        phones, duration_s, num_frames, gaussian_filter1d(energy, 1.2), manner.speaking
    )
    emotion = str(rng.choice(list(EMOTIONS), p=_EMOTION_SHARES))
    intensity = float(rng.uniform(0.5, 1.1))
    faces = (
        speech.faces
        + _emotion(rng, emotion, intensity, speech.visemes)
        + _brows(rng, energy, manner)
    )
    for index, weight in manner.rest.items():
        faces[:, index] += weight
    blink, blink_times_s = _blinks(rng, num_frames, manner)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        faces[:, SHAPE[name]] = np.maximum(faces[:, SHAPE[name]], blink)
    pose = _head(rng, energy, manner)
    gaze = _gaze(rng, pose, manner)
    _lids_follow(faces, gaze)
    faces = close_lips(np.clip(faces, 0, 1), speech.visemes, lips).astype(np.float32)
    motion = Motion(faces, pose, gaze, speech.tongue)
    return Performance(motion, speech, blink, energy, blink_times_s, emotion, intensity)


def loudness(samples: Array, sample_rate: int, num_frames: int) -> Array:
    """[f] root mean square around each frame's middle, 1 at the clip's 95th percentile."""
    window = int(_LOUDNESS_WINDOW_S * sample_rate)
    power = np.concatenate([[0], np.cumsum(np.pad(samples.astype(np.float64), window // 2) ** 2)])
    middle = ((np.arange(num_frames) + 0.5) / num_frames * len(samples)).astype(int)
    level = np.sqrt((power[np.minimum(middle + window, len(power) - 1)] - power[middle]) / window)
    return level / (np.percentile(level, 95) + 1e-6)


def _smooth(rng: Rng, count: int, hz: float, size: float) -> Array:
    """[count] smooth noise with movement up to about `hz` and a deviation of `size`."""
    sigma = FPS / (2 * np.pi * hz)
    wave = gaussian_filter1d(rng.normal(size=count + 80), sigma, mode="reflect")[40 : 40 + count]
    # Filtering white noise with a Gaussian leaves this deviation.
    return wave * size * np.sqrt(2 * sigma * np.sqrt(np.pi))


def _emotion(rng, emotion: str, intensity: float, visemes: Array) -> Array:
    """[f, 52] weights of an emotion, its strength wandering; its mouth gives way to speech."""
    faces = np.zeros((len(visemes), len(SHAPE)))
    level = np.clip(intensity * (0.8 + 0.25 * _smooth(rng, len(visemes), 0.5, 1)), 0, 1.3)
    ruled = np.clip(visemes[:, [VISEME[name] for name in _RULED_BY_SPEECH]].sum(1), 0, 1)
    mouth = {index for name, index in SHAPE.items() if name.startswith("mouth")}
    for index, weight in EMOTIONS[emotion].items():
        faces[:, index] = weight * level * (1 - 0.5 * ruled if index in mouth else 1)
    return faces


def _brows(rng, energy: Array, manner: Manner) -> Array:
    """Brows rise on stressed syllables and wander a little."""
    faces = np.zeros((len(energy), len(SHAPE)))
    stress = gaussian_filter1d(np.clip(energy - 0.75, 0, 1), 2.0)
    faces[:, SHAPE["browInnerUp"]] = stress * manner.brows + np.clip(
        _smooth(rng, len(energy), 0.4, 0.06), 0, 1
    )
    for side in ("Left", "Right"):
        faces[:, SHAPE[f"browOuterUp{side}"]] = 0.8 * stress * manner.brows
    return faces


def _blinks(rng, num_frames: int, manner: Manner) -> tuple[Array, list[float]]:
    """[f] how far the lids are down, and when blinks start."""
    times = (np.arange(num_frames) + 0.5) / FPS
    blink = np.zeros(num_frames)
    starts = []
    start_s = rng.uniform(0.15, 1.8)
    while start_s < num_frames / FPS:
        down_s = rng.uniform(0.07, 0.10)
        up_s = rng.uniform(0.12, 0.2)
        since = times - start_s
        rising = np.clip(1 - (since - down_s - 0.02) / up_s, 0, 1)
        blink = np.maximum(
            blink, np.where(since < 0, 0, np.where(since < down_s, since / down_s, rising))
        )
        starts.append(float(start_s))
        start_s += rng.gamma(3.0, manner.blink_every_s / 3) + 0.5
    return blink, starts


def _head(rng, energy: Array, manner: Manner) -> Array:
    """[f, 6] slow turning, and nods that go with the loudness."""
    count = len(energy)
    lively = manner.head
    nod = gaussian_filter1d(energy, 2.5)
    yaw = rng.normal() * 0.09 + _smooth(rng, count, 0.35, 0.08) + _smooth(rng, count, 1.1, 0.015)
    pitch = rng.normal() * 0.035 + _smooth(rng, count, 0.4, 0.04) + (nod - nod.mean()) * manner.nods
    roll = rng.normal() * 0.025 + _smooth(rng, count, 0.3, 0.04)
    shift = [_smooth(rng, count, 0.25, size) for size in (0.35, 0.22, 0.5)]
    return np.stack([yaw, pitch, roll, *shift], 1) * lively


def _gaze(rng, pose: Array, manner: Manner) -> Array:
    """[f, 2] jumps between looks, most of them at the viewer; the eyes make up for the head's
    turn.
    """
    gaze = np.zeros((len(pose), 2))
    at = np.zeros(2)
    time_s = 0.0
    away = False
    while (start := int(time_s * FPS)) < len(pose):
        gaze[start:] = at
        # Looks away are short.
        time_s += rng.uniform(0.25, 0.7) if away else rng.gamma(2.0, 0.6) + 0.3
        away = not away and rng.random() < manner.glances
        if away:
            at = np.array([rng.choice([-0.26, 0.26]), rng.normal() * 0.08])
        else:
            at = rng.normal(size=2) * [0.05, 0.03]
    gaze = gaussian_filter1d(gaze, 0.45, axis=0)
    gaze += np.stack([-0.8 * pose[:, 0], 0.8 * pose[:, 1]], 1)
    return np.clip(gaze, -_MAX_GAZE, _MAX_GAZE)


def _lids_follow(faces: Array, gaze: Array) -> None:
    """Adds lids that go up and down with the eyes."""
    up = gaze[:, 1] / _MAX_GAZE
    for side in ("Left", "Right"):
        faces[:, SHAPE[f"eyeLookUp{side}"]] += 0.6 * np.clip(up, 0, 1)
        faces[:, SHAPE[f"eyeLookDown{side}"]] += 0.6 * np.clip(-up, 0, 1)
