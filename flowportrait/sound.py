"""Sound as samples: its rate, other rates, one channel of several, and what can hardly have been
meant by it.

Samples are float32 in [-1, 1], [s] when mono and [s, channels] otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import av
import numpy as np

from flowportrait.arrays import Array

SPEECH_HZ = 16_000
"""The rate at which networks, metrics and preparing hear speech."""

_CANCELLED = 0.2  # of the louder channel's level: mixed speech below it is lost
_SILENT = 1e-3  # -60 dB of full scale
_HEARD = 3e-3  # -50 dB
_WINDOW_S, _STEP_S = 1.0, 0.05  # over which levels are compared, and measured
_QUIET = 0.1  # -20 dB of the level of the recording's speech
_FLOOR = 4.0  # times the noise between words, before it is taken for speech
_LEAST_QUIET_S = 1.5


class _Samples(NamedTuple):
    samples: Array
    sample_rate: int


class Sound(_Samples):
    """The pair (samples, rate in Hz): float32 in [-1, 1], [s] or [s, channels].

    `warnings` holds one line for each thing about them that can hardly have been meant.
    """

    warnings: tuple[str, ...]

    def __new__(cls, samples: Array, sample_rate: int, warnings: Iterable[str] = ()) -> Sound:
        sound = super().__new__(cls, samples, sample_rate)
        sound.warnings = tuple(warnings)
        return sound

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / self.sample_rate


def resample(audio: Array, from_hz: int, to_hz: int) -> Array:
    """`audio` [s] or [s, channels] at another rate, round(s * to_hz / from_hz) samples, without
    delay."""
    if from_hz == to_hz:
        return audio
    length = round(len(audio) * to_hz / from_hz)
    planes = np.ascontiguousarray(audio.reshape(len(audio), -1).T, dtype=np.float32)
    layout = "mono" if len(planes) == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=to_hz)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    frame.sample_rate = from_hz
    parts = [out.to_ndarray() for out in (*resampler.resample(frame), *resampler.resample(None))]
    joined = np.concatenate([*parts, np.zeros((len(planes), length), np.float32)], axis=1)[
        :, :length
    ]
    if audio.ndim == 1:
        return joined[0]
    return joined.T


def to_mono(samples: Array) -> tuple[Array, int | None]:
    """`samples` [s] or [s, channels] as float32 [s], the mean of the channels; where they cancel
    out in it, the louder channel alone, and its number."""
    if samples.ndim == 1:
        return samples.astype(np.float32), None
    mixed = samples.mean(axis=1).astype(np.float32)
    louder = better_channel(level_of(mixed), [level_of(channel) for channel in samples.T])
    if louder is None:
        return (mixed, None)
    return (samples[:, louder].astype(np.float32), louder)


def heard(samples: Array, sample_rate: int, to_hz: int) -> Array:
    """Sound [s] or [s, channels] as a model hears it: mono at `to_hz`, float32 [s].

    Where nothing in it reaches -60 dB of full scale it is silence, all zeros: models level each
    recording by itself, and would take the hiss of a muted microphone for speech.
    """
    mono = to_mono(samples)[0]
    return resample(np.zeros_like(mono) if is_silent(mono) else mono, sample_rate, to_hz)


def level_of(samples: Array) -> float:
    """The root mean square of the samples."""
    if samples.size:
        return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return 0.0


def better_channel(mixed: float, levels: list[float]) -> int | None:
    """Which channel to hear where the mixture's level says that speech cancels out in it; None
    where it does not."""
    loudest = max(levels, default=0.0)
    if loudest > _SILENT and mixed < _CANCELLED * loudest:
        return levels.index(loudest)
    return None


def said_of_channel(name: str, channel: int, num_channels: int) -> str:
    """The warning that one channel is heard instead of the mixture."""
    side = ("left", "right")[channel] if num_channels == 2 else f"number {channel + 1}"
    return f"{name}: its channels cancel out when they are mixed; the {side} one alone is heard"


def is_silent(samples: Array) -> bool:
    """Whether the sound never reaches -60 dB of full scale."""
    return bool(np.abs(samples).max(initial=0) < _SILENT)


def is_heard(samples: Array) -> bool:
    """Whether the sound reaches -50 dB of full scale anywhere."""
    return bool(np.abs(samples).max(initial=0) >= _HEARD)


def quiet_speech(samples: Array, sample_rate: int) -> tuple[float, float, float] | None:
    """Where somebody speaks far below the level of the recording: start and end in seconds of the
    longest such stretch, and by how many dB; None where nobody does. A stretch counts when it lasts
    1.5 s at least, its level rises and falls as that of speech does, and it stands out from the
    noise of the recording."""
    mono = to_mono(samples)[0]
    step = max(1, round(_STEP_S * sample_rate))
    count = len(mono) // step
    if count < 2 * _LEAST_QUIET_S / _STEP_S:
        return None
    levels = np.sqrt(
        np.mean(np.square(mono[: count * step].reshape(count, step), dtype=np.float64), axis=1)
    )
    window = round(_WINDOW_S / _STEP_S)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(levels, window // 2, mode="edge"), window
    )[:count]
    return _longest_quiet(around, levels)


def _longest_quiet(around: Array, levels: Array) -> tuple[float, float, float] | None:
    """The longest stretch of quiet speech: start, end and level in dB below the usual one."""
    high = np.percentile(around, 85, axis=1)
    low = np.percentile(around, 15, axis=1)
    usual = np.percentile(levels, 95)
    noise = np.percentile(levels, 5)
    quiet = (high < _QUIET * usual) & (high > _FLOOR * max(noise, 1e-5)) & (high > 2 * low)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(int)))
    runs = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    start, end = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    if (end - start) * _STEP_S < _LEAST_QUIET_S:
        return None
    return start * _STEP_S, end * _STEP_S, float(20 * np.log10(usual / np.median(high[start:end])))
