"""Mel cepstra as python_speech_features makes them, on which SyncNet and Light-ASD were trained."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from flowportrait.arrays import Array, Pcm
from flowportrait.sound import SPEECH_HZ

STRIDE, LENGTH, FFT, FILTERS, CEPSTRA, LIFTER = 160, 400, 512, 26, 13, 22  # in samples and numbers


def mfcc(samples: Pcm) -> Float[np.ndarray, "n 13"]:
    """Mel cepstra at 100 Hz of 16 kHz sound **in int16 scale**, the first replaced by the log
    energy.

    The defaults of python_speech_features: 25 ms rectangular windows, 26 filters to
    8 kHz, sine lifter. Sound in [-1, 1] would shift the first number by 2 ln 32768 and change every
    LSE unseen.
    """
    if samples.dtype != np.int16:
        raise TypeError(f"mfcc: got {samples.dtype} samples; give int16")
    signal = samples.astype(np.float64)
    signal = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    count = 1 if len(signal) <= LENGTH else 1 + math.ceil((len(signal) - LENGTH) / STRIDE)
    signal = np.pad(signal, (0, max(0, (count - 1) * STRIDE + LENGTH - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(signal, LENGTH)[::STRIDE][:count]
    power = np.square(np.abs(np.fft.rfft(windows, FFT))) / FFT
    return _cepstra_of(power)


def _cepstra_of(power: Array) -> Array:
    """Liftered cepstra [n, 13] of power spectra; the first is the log of the energy."""
    tiny = np.finfo(float).eps
    energy = np.maximum(power.sum(1), tiny)
    logs = np.log(np.maximum(power @ _filters().T, tiny))
    n = np.arange(FILTERS)
    cosines = np.cos(np.pi / FILTERS * (n + 0.5) * np.arange(CEPSTRA)[:, None]) * math.sqrt(
        2 / FILTERS
    )
    cepstra = logs @ cosines.T
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    cepstra[:, 0] = np.log(energy)
    return cepstra


def _filters() -> Float[np.ndarray, "26 257"]:
    """Triangles evenly spaced on the mel scale, their corners on whole bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + SPEECH_HZ / 2 / 700), FILTERS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SPEECH_HZ)
    bins = np.arange(FFT // 2 + 1)
    left, middle, right = (corners[i : i + FILTERS, None] for i in range(3))
    rising = (bins - left) / (middle - left)
    falling = (right - bins) / (right - middle)
    inside_left = (bins >= left) & (bins < middle)
    inside_right = (bins >= middle) & (bins < right)
    return np.where(inside_left, rising, np.where(inside_right, falling, 0.0))
