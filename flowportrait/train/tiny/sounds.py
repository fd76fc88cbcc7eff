"""Disturbances of a voice on its way: noise, a telephone, music, somebody else who speaks."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

from flowportrait.arrays import Rng
from flowportrait.sound import SPEECH_HZ

NUM_PIECES = 12
Samples = Float[np.ndarray, " s"]


def disturb(voice: Samples, other: Samples, rng: Rng) -> Samples:
    """A voice with none, one or several disturbances; `other` is the second speaker."""
    if rng.random() < 0.35:
        voice = mixed(voice, noise(len(voice), rng), float(rng.uniform(5, 30)))
    if rng.random() < 0.15:
        voice = mixed(voice, music(len(voice), rng), float(rng.uniform(5, 25)))
    if rng.random() < 0.2:
        voice = mixed(
            voice, np.roll(other, int(rng.integers(len(voice)))), float(rng.uniform(12, 30))
        )
    if rng.random() < 0.15:
        voice = reverberated(voice, rng)
    if rng.random() < 0.25:
        voice = through_telephone(voice, rng.uniform(200, 400), rng.uniform(3000, 4000))
    return voice.astype(np.float32)


def mixed(voice: Samples, other: Samples, decibels: float) -> Samples:
    """Both together, the voice so many decibels louder; silence stays silence."""
    own = float(np.sqrt(np.mean(np.square(voice))))
    theirs = float(np.sqrt(np.mean(np.square(other))))
    if own < 1e-5 or theirs < 1e-5:
        return voice
    return voice + other * (own / theirs * 10 ** (-decibels / 20))


def noise(count: int, rng: Rng) -> Samples:
    """Noise between white and brown."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    slope = rng.uniform(0, 1)
    return np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope, count)


def music(count: int, rng: Rng) -> Samples:
    """A stretch of one of a few pieces."""
    piece = _piece(int(rng.integers(NUM_PIECES)))
    return np.resize(np.roll(piece, int(rng.integers(len(piece)))), count)


@cache
def _piece(seed: int) -> Samples:
    """Eight seconds of chords of three tones with harmonics, struck about twice a second."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(8 * SPEECH_HZ)
    at = 0
    while at < len(sound):
        since = np.arange(len(sound) - at) / SPEECH_HZ
        chord = np.zeros(len(since))
        for semitone in rng.choice([0, 3, 4, 7, 10, 12], 3, replace=False):
            hz = 110 * 2 ** ((semitone + rng.integers(24)) / 12)
            for harmonic in range(1, 5):
                chord += np.sin(2 * np.pi * hz * harmonic * since) / harmonic**1.5
        sound[at:] += chord * np.exp(-since * rng.uniform(1, 6))
        at += int(rng.uniform(0.25, 0.8) * SPEECH_HZ)
    return sound


def reverberated(voice: Samples, rng: Rng) -> Samples:
    """In a room: the voice and a decaying tail of 0.1 to 0.4 s."""
    length = int(rng.uniform(0.1, 0.4) * SPEECH_HZ)
    tail = rng.normal(size=length) * np.exp(-5 * np.arange(length) / length)
    size = 1 << (len(voice) + length - 1).bit_length()
    echo = np.fft.irfft(np.fft.rfft(voice, size) * np.fft.rfft(tail, size), size)[: len(voice)]
    return mixed(voice, echo, float(rng.uniform(3, 15)))


def through_telephone(voice: Samples, low_hz: float = 300, high_hz: float = 3400) -> Samples:
    """Only frequencies between two bounds."""
    spectrum = np.fft.rfft(voice)
    hz = np.fft.rfftfreq(len(voice), 1 / SPEECH_HZ)
    spectrum[(hz < low_hz) | (hz > high_hz)] = 0
    return np.fft.irfft(spectrum, len(voice))
