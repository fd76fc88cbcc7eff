"""espeak-ng through its C library, which tells when each phone starts; loaded only when it is
installed.
"""

import ctypes
from ctypes.util import find_library
from functools import lru_cache

import numpy as np

from flowportrait.arrays import Array
from flowportrait.world.phones import Phone, Phones, TimedSpeech, from_espeak

_RETRIEVAL = 1
_PHONEME_EVENTS = 0x1
_NO_EXIT = 0x8000
_PHONEME_EVENT = 7
_LAST_EVENT = 0
_RATE = 1
_PITCH = 3
_UTF8 = 1
_QUIET = 0.02
_STEP_S = 0.005
_LONGEST_CLOSURE = 16
"""Steps that a stop's closure may last before its burst."""


class _Id(ctypes.Union):
    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def espeak_library() -> str | None:
    """The library's file name; None when espeak-ng is not installed."""
    return find_library("espeak-ng")


class _Espeak:
    def __init__(self, library: str):
        self._library = ctypes.CDLL(library)
        self.sample_rate = self._library.espeak_Initialize(
            _RETRIEVAL, 200, None, _PHONEME_EVENTS | _NO_EXIT
        )
        self._callback = _Callback(self._collect)  # kept alive, the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)
        self._parts: list[Array] = []
        self._phones: Phones = []

    def _collect(self, samples, count: int, events) -> int:
        """Keeps samples and phones as the library hands them over; 0 lets it go on."""
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != _LAST_EVENT:
            if events[i].type == _PHONEME_EVENT:
                name = bytes(events[i].id.string).split(b"\0")[0].decode("utf-8", "replace")
                if name:
                    self._phones.append(Phone(events[i].audio_ms / 1000, from_espeak(name)))
            i += 1
        return 0

    def say(
        self,
        text: str,
        voice: str,
        rate: int,
        pitch: int,
    ) -> tuple[Array, Phones]:
        """Samples of the text and its phones, in order of time."""
        self._parts = []
        self._phones = []
        self._library.espeak_SetVoiceByName(voice.encode())
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        said = text.encode()
        self._library.espeak_Synth(said, len(said) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._parts).astype(np.float32) / 32768, sorted(self._phones)


@lru_cache(maxsize=1)
def _engine(library: str) -> _Espeak:
    return _Espeak(library)


def say_with_espeak(text: str, voice: str, rate: int, pitch: int) -> TimedSpeech:
    """Samples, their rate and the phones; `rate` in words per minute, `pitch` from 0 to 99."""
    engine = _engine(espeak_library())
    samples, phones = engine.say(text, voice, rate, pitch)
    return samples, engine.sample_rate, _closures_first(phones, samples, engine.sample_rate)


def _closures_first(phones: Phones, samples: Array, rate: int) -> Phones:
    """Voiceless stops from the start of their closure: espeak tells of them at the burst."""
    step = int(_STEP_S * rate)
    level = np.sqrt((samples[: len(samples) // step * step].reshape(-1, step) ** 2).mean(1))
    moved: Phones = []
    for phone in phones:
        start_s = phone.start_s
        if phone.name in ("p", "t", "k"):
            burst = first = int(start_s / _STEP_S) - 1
            while (
                first > 0
                and burst - first < _LONGEST_CLOSURE
                and level[min(first, len(level) - 1)] < _QUIET
            ):
                first -= 1
            earliest = moved[-1].start_s + 0.01 if moved else 0.0
            start_s = min(start_s, max(earliest, start_s - (burst - first) * _STEP_S))
        moved.append(Phone(start_s, phone.name))
    return moved
