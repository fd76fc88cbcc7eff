"""Speech without an engine: the user's own recordings, with word times (GRID's .align) or a
transcript (.txt).

Word times are read as three columns: start, end, word; in seconds, or in GRID's 25 000ths when they
are whole numbers. Within a word phones come from spelling and share its time; without word times
the words share the parts of the recording that are not silent. Lips then follow roughly, not to the
frame.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.arrays import Rng
from flowportrait.errors import DataError
from flowportrait.world.phones import SILENCE, VISEMES_OF, Phone, Phones, spoken
from flowportrait.world.sentences import Split, split_of
from flowportrait.world.speech import Utterance, Voice

_SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".mp4", ".mpg")
_GRID_TICKS_PER_S = 25_000
_SILENT_WORDS = ("sil", "sp", "<eps>", "")
_VOWELS = {
    "aa",
    "ae",
    "ah",
    "ao",
    "aw",
    "ax",
    "ay",
    "eh",
    "er",
    "ey",
    "ih",
    "iy",
    "ow",
    "oy",
    "uh",
    "uw",
}
_LEVEL_WINDOW_S = 0.02
_SILENT_LEVEL = 0.06
"""Of the loudest 20 ms."""


@dataclass(frozen=True)
class _Word:
    start_s: float
    end_s: float
    text: str


class Recordings:
    """A `Speaker` that plays a folder: NAME.wav (or another sound) beside NAME.align or NAME.txt.

    A recording belongs to a split by its text. `presentation` is not known and not asked for.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SOUNDS)
        self._paths = [path for path in found if self._words_file(path) is not None]
        if not self._paths:
            raise DataError(
                f"{folder}: no recording with a transcript; put NAME.wav beside NAME.align (start,"
                " end,"
                " word) or NAME.txt"
            )

    def utter(self, rng: Rng, presentation: str, split: Split, longest_s: float) -> Utterance:
        """See `Speaker`. Raises DataError when every recording is longer."""
        order = rng.permutation(len(self._paths))
        fitting = [self._paths[i] for i in order]
        # A recording of the right split first; where the folder has none, any.
        for path in sorted(fitting, key=lambda path: split_of(self._text(path)) != split):
            utterance = self._read(path)
            if utterance.duration_s <= longest_s:
                return utterance
        raise DataError(
            f"{self._folder}: every recording is over {longest_s} s; give a larger --longest"
        )

    @staticmethod
    def _words_file(path: Path) -> Path | None:
        """The transcript beside a recording, with times where there is one with them."""
        return next(
            (file for suffix in (".align", ".txt") if (file := path.with_suffix(suffix)).is_file()),
            None,
        )

    def _text(self, path: Path) -> str:
        """The words that a recording says."""
        file = self._words_file(path)
        if file.suffix == ".txt":
            return " ".join(file.read_text(encoding="utf-8").split())
        return " ".join(word.text for word in _read_words(file))

    def _read(self, path: Path) -> Utterance:
        """A recording with its words as phones in time, equally loud."""
        sound = media.read_audio(path)
        file = self._words_file(path)
        text = self._text(path)
        words = _read_words(file) if file.suffix == ".align" else _spread(text.split(), sound)
        samples = sound.samples * (0.8 / max(0.05, float(np.abs(sound.samples).max())))
        voice = Voice("recording", self._folder.name, 1.0, None)
        return Utterance(
            samples,
            sound.sample_rate,
            _phones(words, sound.duration_s),
            text,
            voice,
        )


def _read_words(path: Path) -> list[_Word]:
    """Raises DataError naming the line that cannot be meant."""
    words = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        try:
            start, end = (float(value) for value in columns[:2])
        except ValueError as error:
            raise DataError(f"{path}:{number}: got '{line}'; write start, end and word") from error
        scale = 1
        if columns[0].isdigit() and columns[1].isdigit():
            scale = _GRID_TICKS_PER_S
        word = ""
        if len(columns) > 2:
            word = columns[2]
        if word not in _SILENT_WORDS:
            words.append(_Word(start / scale, end / scale, word))
    return words


def _spread(texts: list[str], sound: media.Sound) -> list[_Word]:
    """Words over what is not silent, each as long as it has phones."""
    window = int(_LEVEL_WINDOW_S * sound.sample_rate)
    whole = len(sound.samples) // window * window
    level = np.abs(sound.samples[:whole]).reshape(-1, window).max(1)
    loud = level > _SILENT_LEVEL * level.max(initial=1e-6)
    spoken_s = np.concatenate([[0], np.cumsum(loud) * _LEVEL_WINDOW_S])
    share = np.cumsum([0, *(max(1, len(spoken(text))) for text in texts)]).astype(float)
    cuts = np.interp(
        share / share[-1] * spoken_s[-1], spoken_s, np.arange(len(spoken_s)) * _LEVEL_WINDOW_S
    )
    return [
        _Word(float(a), float(b), text) for a, b, text in zip(cuts, cuts[1:], texts, strict=False)
    ]


def _phones(words: list[_Word], duration_s: float) -> Phones:
    """Phones of words in time, silence between them; vowels get more of a word's time."""
    phones = [Phone(0.0, SILENCE)]
    for word in words:
        names = [name for name in spoken(word.text) if name in VISEMES_OF]
        share = np.cumsum([0, *(1.7 if name in _VOWELS else 1.0 for name in names)])
        starts = word.start_s + share[:-1] / max(share[-1], 1) * (word.end_s - word.start_s)
        phones += [
            Phone(round(float(start_s), 4), name)
            for start_s, name in zip(starts, names, strict=True)
        ]
        phones.append(Phone(round(word.end_s, 4), SILENCE))
    # A pause of no length, where one word runs into the next, is no silence.
    ends = [*(phone.start_s for phone in phones[1:]), duration_s]
    return [
        phone for phone, end_s in zip(phones, ends, strict=True) if end_s - phone.start_s > 1e-3
    ]
