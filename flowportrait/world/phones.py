"""Phones of English (ARPAbet, lower case, `pau` for silence), what they look like, and how others
write them.
"""

from typing import NamedTuple

import numpy as np

VISEMES_OF = {
    "pau": ("sil",), "p": ("PP",), "b": ("PP",), "m": ("PP",), "f": ("FF",), "v": ("FF",),
    "th": ("TH",), "dh": ("TH",), "t": ("DD",), "d": ("DD",), "k": ("kk",), "g": ("kk",),
    "ng": ("kk",), "hh": ("kk",), "ch": ("CH",), "jh": ("CH",), "sh": ("CH",), "zh": ("CH",),
    "s": ("SS",), "z": ("SS",), "n": ("nn",), "l": ("nn",), "r": ("RR",), "er": ("RR",),
    "aa": ("aa",), "ah": ("aa",), "ae": ("aa",), "eh": ("E",), "ax": ("E",), "ih": ("I",),
    "iy": ("I",), "y": ("I",), "ao": ("O",), "uh": ("U",), "uw": ("U",), "w": ("U",),
    "ay": ("aa", "I"), "aw": ("aa", "U"), "ey": ("E", "I"), "oy": ("O", "I"), "ow": ("O", "U"),
}  # fmt: skip
"""Diphthongs pass through two visemes."""

SILENCE = "pau"


class Phone(NamedTuple):
    """A phone from `start_s` until the next one starts."""

    start_s: float
    name: str


Phones = list[Phone]
TimedSpeech = tuple[np.ndarray, int, Phones]
"""Sound, its rate in Hz, and when each phone starts."""


_ESPEAK = {
    "aI": "ay", "aU": "aw", "eI": "ey", "OI": "oy", "oU": "ow", "aI@": "ay", "aU@": "aw",
    "i@": "iy", "e@": "eh", "O@": "ao", "o@": "ao", "U@": "uh", "A@": "aa", "3:": "er", "@L": "l",
    "@5": "ax", "tS": "ch", "dZ": "jh",
    "A:": "aa", "O:": "ao", "u:": "uw", "i:": "iy", "I2": "ih", "a#": "ah", "@2": "ax", "I#": "ih",
}  # fmt: skip
_ESPEAK_FIRST = {
    "p": "p", "b": "b", "m": "m", "f": "f", "v": "v", "T": "th", "D": "dh", "t": "t", "d": "d",
    "k": "k", "g": "g", "N": "ng", "h": "hh", "?": "hh", "x": "k", "S": "sh", "Z": "zh", "s": "s",
    "z": "z", "n": "n", "l": "l", "L": "l", "r": "r", "R": "r", "*": "d", "3": "er", "w": "w",
    "j": "y", "a": "ae", "A": "aa", "V": "ah", "0": "ao", "Q": "ao", "O": "ao", "o": "ow",
    "e": "eh", "E": "eh", "@": "ax", "i": "iy", "I": "ih", "y": "iy", "u": "uw", "U": "uh",
}  # fmt: skip


def from_espeak(mnemonic: str) -> str:
    """The phone for espeak-ng's mnemonic, stress marks and all."""
    plain = mnemonic.strip("',%=|")
    if not plain or plain.startswith("_"):
        return SILENCE
    return _ESPEAK.get(plain) or _ESPEAK_FIRST.get(plain[0], "ax")


# Spellings and their phones, longest first; rough, but what the lips do follows them.
_SPELLINGS = {
    "tion": "sh ax n", "ough": "ao", "augh": "ao", "eigh": "ey", "tch": "ch", "dge": "jh",
    "igh": "ay", "sch": "s k", "air": "eh r", "ear": "ih r", "eer": "ih r", "oor": "ao r",
    "our": "aw r", "ch": "ch", "sh": "sh", "th": "th", "ph": "f", "wh": "w", "ck": "k", "ng": "ng",
    "qu": "k w", "wr": "r", "kn": "n", "gn": "n", "mb": "m", "ee": "iy", "ea": "iy", "oo": "uw",
    "ou": "aw", "ow": "ow", "oa": "ow", "oi": "oy", "oy": "oy", "ai": "ey", "ay": "ey", "au": "ao",
    "aw": "ao", "ew": "uw", "ie": "iy", "ei": "ey", "ey": "iy", "ue": "uw", "ui": "uw",
    "ar": "aa r", "er": "er", "ir": "er", "ur": "er", "or": "ao r", "bb": "b", "cc": "k", "dd": "d",
    "ff": "f", "gg": "g", "ll": "l", "mm": "m", "nn": "n", "pp": "p", "rr": "r", "ss": "s",
    "tt": "t", "zz": "z", "a": "ae", "b": "b", "c": "k", "d": "d", "e": "eh", "f": "f", "g": "g",
    "h": "hh", "i": "ih", "j": "jh", "k": "k", "l": "l", "m": "m", "n": "n", "o": "ao", "p": "p",
    "q": "k", "r": "r", "s": "s", "t": "t", "u": "ah", "v": "v", "w": "w", "x": "k s", "y": "iy",
    "z": "z",
}  # fmt: skip
_WORDS = {
    "the": "dh ax", "a": "ax", "i": "ay", "you": "y uw", "to": "t uw", "of": "ah v",
    "one": "w ah n", "two": "t uw", "eight": "ey t", "are": "aa r", "was": "w aa z",
    "said": "s eh d", "what": "w ah t", "who": "hh uw", "they": "dh ey", "this": "dh ih s",
    "that": "dh ae t", "with": "w ih dh", "please": "p l iy z", "by": "b ay", "my": "m ay",
    "he": "hh iy", "she": "sh iy", "we": "w iy", "me": "m iy", "be": "b iy", "now": "n aw",
    "again": "ax g eh n", "soon": "s uw n", "blue": "b l uw", "white": "w ay t",
    "green": "g r iy n", "do": "d uw", "no": "n ow", "go": "g ow", "so": "s ow",
    "zero": "z ih r ow", "nine": "n ay n", "five": "f ay v",
}  # fmt: skip
_LONG = {"a": "ey", "e": "iy", "i": "ay", "o": "ow", "u": "uw"}
_VOWELS = "aeiou"


def spoken(word: str) -> list[str]:
    """Phones of an English word by its spelling; a letter alone is named as in the alphabet."""
    word = "".join(letter for letter in word.lower() if letter.isalpha())
    if word in _WORDS:
        return _WORDS[word].split()
    if len(word) == 1:
        return _letter_name(word)
    silent_e = len(word) > 3 and word[-1] == "e" and word[-2] not in _VOWELS and word[-3] in _VOWELS
    phones = []
    at = 0
    end = len(word) - silent_e
    while at < end:
        if silent_e and at == end - 2 and word[at] in _VOWELS:
            phones.append(_LONG[word[at]])
            at += 1
            continue
        size = next(size for size in (4, 3, 2, 1) if word[at : min(at + size, end)] in _SPELLINGS)
        phones += _SPELLINGS[word[at : min(at + size, end)]].split()
        at += min(size, end - at)
    return phones


def _letter_name(letter: str) -> list[str]:
    """Phones of a letter as it is called in the alphabet."""
    if letter in "bcdegptvz":
        return [*({"c": ["s"], "g": ["jh"], "e": []}.get(letter, [letter])), "iy"]
    names = {
        "a": "ey",
        "f": "eh f",
        "h": "ey ch",
        "i": "ay",
        "j": "jh ey",
        "k": "k ey",
        "l": "eh l",
        "m": "eh m",
        "n": "eh n",
        "o": "ow",
        "q": "k y uw",
        "r": "aa r",
        "s": "eh s",
        "u": "y uw",
        "w": "d ah b ax l y uw",
        "x": "eh k s",
        "y": "w ay",
    }
    return names.get(letter, "ax").split()
