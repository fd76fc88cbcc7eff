"""Phones of English (ARPAbet, lower case, `pau` for silence), what they look like, and how others
write them.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
VISEMES_OF = {phone: tuple(visemes.split()) for phone, visemes in _TABLES["visemes"].items()}
"""Diphthongs pass through two visemes."""

SILENCE = "pau"
_VOWELS = "aeiou"


class Phone(NamedTuple):
    """A phone from `start_s` until the next one starts."""

    start_s: float
    name: str


Phones = list[Phone]
TimedSpeech = tuple[np.ndarray, int, Phones]
"""Sound, its rate in Hz, and when each phone starts."""


def from_espeak(mnemonic: str) -> str:
    """The phone for espeak-ng's mnemonic, stress marks and all."""
    plain = mnemonic.strip("',%=|")
    if not plain or plain.startswith("_"):
        return SILENCE
    if plain in _TABLES["espeak"]:
        return _TABLES["espeak"][plain]
    return _TABLES["espeak_first"].get(plain[0], "ax")


def spoken(word: str) -> list[str]:
    """Phones of an English word by its spelling; a letter alone is named as in the alphabet."""
    word = "".join(letter for letter in word.lower() if letter.isalpha())
    if word in _TABLES["words"]:
        return _TABLES["words"][word].split()
    if len(word) == 1:
        return _TABLES["letters"].get(word, "ax").split()
    if _ends_in_silent_e(word):
        return _spelt(word[:-1], long_before_last=True)
    return _spelt(word, long_before_last=False)


def _ends_in_silent_e(word: str) -> bool:
    """Whether the word ends in a vowel, a consonant and an e that only makes the vowel long."""
    if len(word) <= 3 or word[-1] != "e":
        return False
    return word[-2] not in _VOWELS and word[-3] in _VOWELS


def _spelt(letters: str, long_before_last: bool) -> list[str]:
    """Phones of letters, the longest known spelling first. A vowel right before the last letter is
    long where that is said and no longer spelling covers it.
    """
    spellings = _TABLES["spellings"]
    phones = []
    left = letters
    while left:
        if long_before_last and len(left) == 2 and left[0] in _VOWELS:
            phones.append(_TABLES["before_silent_e"][left[0]])
            left = left[1:]
            continue
        size = next(size for size in (4, 3, 2, 1) if left[:size] in spellings)
        phones += spellings[left[:size]].split()
        left = left[size:]
    return phones
