"""Speech with exact phone times: from flite, espeak-ng, Festival, Kokoro, or from the user's own
recordings.

Three engines are programs of the system (`apt install flite espeak-ng festival festvox-kdlpc16k`),
Kokoro comes with the extra 'kokoro' and needs espeak-ng for its spelling; what they speak belongs
to nobody.
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import which
from typing import NamedTuple, Protocol

import numpy as np

from flowportrait import media
from flowportrait.arrays import Array, Rng
from flowportrait.errors import ConfigError, MediaError, MissingDependency
from flowportrait.registry import name_hint
from flowportrait.world.espeak import espeak_library, say_with_espeak
from flowportrait.world.festival import festival_voice_is_installed, say_with_festival
from flowportrait.world.kokoro import draw_blend, kokoro_is_installed, say_with_kokoro
from flowportrait.world.phones import SILENCE, Phone, Phones, TimedSpeech
from flowportrait.world.sentences import Split, draw_sentence

MARGIN_S = 0.15
"""Silence before and after every utterance."""
_TRIES = 30
_LETTERS_PER_S = 17
"""About as fast as anyone speaks; a sentence that is too long even so is not tried."""
_FLITE_VOICES = {"f": ("slt",), "m": ("rms", "awb")}
_FLITE_HELD_OUT = "kal16"
_ESPEAK_VARIANTS = {
    "m": ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "Michael", "Denis", "Andy", "Lee"),
    "f": (
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "Annie",
        "Alicia",
        "Andrea",
        "linda",
        "steph",
        "belinda",
        "anika",
    ),
}
_ESPEAK_LOCALES = ("en-us", "en-gb", "en-gb-scotland", "en-029")
_ESPEAK_HELD_OUT = "en-gb-x-rp"
_FESTIVAL_VOICE = "ked_diphone"
"""A man's. Its other English voice, kal, is flite's held-out speaker."""
_AUTO = ("flite", "espeak-ng")
"""Festival has one voice, and Kokoro takes longer than drawing the frames: these speak only when
asked for.
"""
_INSTALL = {
    "auto": "apt install flite espeak-ng", "flite": "apt install flite",
    "espeak-ng": "apt install espeak-ng", "festival": "apt install festival festvox-kdlpc16k",
    "kokoro": "pip install 'flowportrait[kokoro]'` and `apt install espeak-ng",
}  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """A voice. `rate` and `pitch` are in the synthesizer's own units."""

    engine: str
    name: str
    rate: float
    pitch: float | None

    def as_dict(self) -> dict:
        """Plain values, for the record."""
        return asdict(self)


class Utterance(NamedTuple):
    """Mono speech, peak 0.8, with its phones; silence included."""

    samples: Array
    sample_rate: int
    phones: Phones
    text: str
    voice: Voice

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / self.sample_rate


class Speaker(Protocol):
    """Says something: the same generator state and arguments give the same utterance."""

    def utter(self, rng: Rng, presentation: str, split: Split, longest_s: float) -> Utterance:
        """An utterance of at most `longest_s`, by a voice that suits the person and belongs to the
        split.
        """


def make_speaker(voice: str) -> Speaker:
    """The speaker for `--voice`: auto, flite, espeak-ng, festival, kokoro, or a folder of
    recordings.

    Raises MissingDependency when a program is not installed, ConfigError when the name means
    nothing.
    """
    if Path(voice).is_dir():
        from flowportrait.world.recordings import Recordings

        return Recordings(Path(voice))
    installed = {
        "flite": which("flite") is not None,
        "espeak-ng": espeak_library() is not None,
        "festival": which("festival") is not None and festival_voice_is_installed(_FESTIVAL_VOICE),
        "kokoro": kokoro_is_installed() and which("espeak-ng") is not None,
    }
    return _synthesizers(voice, installed)


def _synthesizers(voice: str, installed: dict[str, bool]) -> Speaker:
    """Engines of the name that are installed. Raises ConfigError or MissingDependency."""
    if voice not in ("auto", *installed):
        raise ConfigError(
            f"--voice: no '{voice}'; {name_hint(voice, ('auto', *installed))}, or a folder of"
            " recordings"
        )
    engines = [name for name in (_AUTO if voice == "auto" else (voice,)) if installed[name]]
    if not engines:
        wanted = "flite and espeak-ng are" if voice == "auto" else f"{voice} is"
        raise MissingDependency(
            f"--voice {voice}: {wanted} not installed; `{_INSTALL[voice]}`, or give a folder of"
            " recordings"
        )
    return Synthesizers(engines)


@dataclass(frozen=True)
class Synthesizers:
    """Draws an engine, a voice and a sentence, until the utterance is short enough."""

    engines: Sequence[str]
    flite_share: float = 0.7

    def utter(self, rng: Rng, presentation: str, split: Split, longest_s: float) -> Utterance:
        """See `Speaker`. Raises ConfigError when no sentence is that short."""
        voice = self._voice(rng, presentation, split)
        letters_per_s = _LETTERS_PER_S
        for _ in range(_TRIES):
            text = _short_sentence(rng, split, (longest_s - 2 * MARGIN_S) * letters_per_s)
            samples, rate, phones = say(text, voice)
            utterance = _framed(samples, rate, phones, text, voice)
            if utterance.duration_s <= longest_s:
                return utterance
            # Now it is known how fast this voice is.
            letters_per_s = 1.05 * len(text) / (utterance.duration_s - 2 * MARGIN_S)
        raise ConfigError(
            f"--longest: got {longest_s}, too short for any sentence; give at least 2"
        )

    def _voice(self, rng: Rng, presentation: str, split: Split) -> Voice:
        """A voice of an engine, among those for the split; rate and pitch are the person's."""
        # The test split speaks with voices of its own; the only one of flite is a man's.
        held_out = split == "test"
        if self.engines == [
            "festival"
        ]:  # no voice to hold out: a test split of its own would not be one
            low, high = (85, 130) if presentation == "m" else (130, 190)
            return Voice(
                "festival",
                _FESTIVAL_VOICE,
                float(rng.uniform(0.85, 1.2)),
                float(rng.uniform(low, high)),
            )
        if self.engines == ["kokoro"]:
            return Voice(
                "kokoro",
                draw_blend(rng, presentation, held_out),
                float(rng.uniform(0.9, 1.15)),
                None,
            )
        flite = "flite" in self.engines and not (
            held_out and presentation == "f" and len(self.engines) > 1
        )
        if flite and (len(self.engines) == 1 or rng.random() < self.flite_share):
            names = (_FLITE_HELD_OUT,) if held_out else _FLITE_VOICES[presentation]
            low, high = (90, 125) if presentation == "m" else (160, 205)
            return Voice(
                "flite",
                str(rng.choice(names)),
                float(rng.uniform(0.9, 1.15)),
                float(rng.uniform(low, high)),
            )
        locale = _ESPEAK_HELD_OUT if held_out else str(rng.choice(_ESPEAK_LOCALES))
        variant = str(rng.choice(_ESPEAK_VARIANTS[presentation]))
        low, high = (30, 60) if presentation == "m" else (45, 75)
        rate = int(rng.integers(140, 185))
        pitch = int(rng.integers(low, high))
        return Voice("espeak-ng", f"{locale}+{variant}", rate, pitch)


def _short_sentence(rng: Rng, split: Split, max_letters: float) -> str:
    """The first sentence drawn that is short enough, or the last of many tries."""
    for _ in range(200):
        text = draw_sentence(rng, split)
        if len(text) <= max_letters:
            break
    return text


def say(text: str, voice: Voice) -> TimedSpeech:
    """Samples, their rate and the phones of a sentence."""
    if voice.engine.startswith("flite"):
        return _say_with_flite(text, voice)
    if voice.engine == "festival":
        return say_with_festival(text, voice.name, voice.rate, voice.pitch or 110)
    if voice.engine == "kokoro":
        return say_with_kokoro(text, voice.name, voice.rate)
    return say_with_espeak(
        text,
        voice.name,
        int(voice.rate),
        int(voice.pitch or 50),
    )


def _say_with_flite(text: str, voice: Voice) -> TimedSpeech:
    """Samples, rate and phones from the program `flite`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = [
            "flite",
            "-voice",
            voice.name,
            "-psdur",
            "-t",
            text,
            "-o",
            str(path),
            "--setf",
            f"duration_stretch={voice.rate}",
        ]
        if voice.pitch:
            command += ["--setf", f"int_f0_target_mean={voice.pitch}"]
        done = subprocess.run(command, capture_output=True, text=True)
        ends = [(name, float(end_s)) for name, end_s in re.findall(r"(\S+):([\d.]+)", done.stdout)]
        if done.returncode != 0 or not ends:
            raise MediaError(
                f"flite: cannot say '{text}' ({done.stderr.strip() or 'no phones told'}); install"
                " it again"
            )
        samples, rate = media.read_audio(path)
    starts = [0.0, *(end_s for _, end_s in ends[:-1])]
    return (
        samples,
        rate,
        [Phone(start_s, name) for start_s, (name, _) in zip(starts, ends, strict=True)],
    )


def _framed(samples: Array, rate: int, phones: Phones, text: str, voice: Voice) -> Utterance:
    """With a margin of silence around it, at the same loudness as all others."""
    margin = np.zeros(round(MARGIN_S * rate), np.float32)
    peak = max(0.05, float(np.abs(samples).max()))
    later = [Phone(round(phone.start_s + MARGIN_S, 4), phone.name) for phone in phones]
    end_s = round(MARGIN_S + len(samples) / rate, 4)
    phones = [Phone(0.0, SILENCE), *later, Phone(end_s, SILENCE)]
    return Utterance(
        np.concatenate([margin, samples * (0.8 / peak), margin]), rate, phones, text, voice
    )
