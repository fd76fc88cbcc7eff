"""Files as people really have them, which lie beside the repository: what each is, and what every
command makes of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowportrait import media

FOLDER = Path(__file__).parents[2] / "shared" / "cases"


@dataclass(frozen=True)
class Case:
    """A file of `FOLDER`. `like` is the file whose results it has; `half_turn`: but for lying
    upside down."""

    name: str
    what: str
    right: str
    like: str = "good.mp4"
    playable: bool = True  # in a browser, from an mp4
    half_turn: bool = False


CASES = [
    Case(
        "mpeg_ps.mpg",
        "an MPEG program stream, as GRID is distributed",
        "read; a study codes it anew, as browsers do not play MPEG-2",
        playable=False,
    ),
    Case(
        "latin1_title.mp4",
        "a title that is no UTF-8",
        "read; titles are not looked at",
    ),
    Case(
        "late_sound.mp4",
        "sound that starts 0.4 s late by the container's clock",
        "0.4 s of silence, then the sound",
        like="late_sound_in_samples.mp4",
    ),
    Case(
        "late_sound_in_samples.mp4",
        "the same delay in the samples; sound 0.4 s longer than the picture",
        "read; a study takes it",
        like="late_sound_in_samples.mp4",
    ),
    Case(
        "phone_rotated.mp4",
        "stored sideways, turned by the display matrix",
        "turned as the matrix says, which is upside down; faces are scored "
        "turned upright, with a warning",
        half_turn=True,
    ),
    Case(
        "starts_at_1.4s.ts",
        "an MPEG-TS whose clock begins at 1.4 s",
        "time begins with the first picture",
    ),
    Case(
        "no_duration.webm",
        "no duration in the head, as browsers record",
        "length and rate by its packets; a study codes it anew, as browsers do "
        "not play VP8 from an mp4",
        playable=False,
    ),
    Case(
        "antiphase.wav",
        "stereo, one channel the negative of the other",
        "the left channel is heard, with a warning",
        like="good.wav",
    ),
]
VIDEOS = [case for case in CASES if not case.name.endswith(".wav")]


def shift_s(heard: media.Sound, said: media.Sound) -> float:
    """By how many seconds `heard` comes later."""
    a, b = (media.resample(sound.samples, sound.sample_rate, 16_000) for sound in (heard, said))
    length = 2 ** int(np.ceil(np.log2(len(a) + len(b))))
    lag = int(np.fft.irfft(np.fft.rfft(a, length) * np.fft.rfft(b, length).conj()).argmax())
    return (lag if lag < length // 2 else lag - length) / 16_000


WARNINGS = [
    ("a sound whose channels cancel out when mixed", "its channels cancel out when they are mixed"),
    ("a sound in which nothing reaches -60 dB of full scale", "its sound is silence"),
    ("a silent default track beside one that speaks", "the default one of its"),
    ("somebody who speaks 20 dB below the rest", "quieter than the rest"),
    ("a head rolled by more than 12 degrees", "portrait: the head is rolled by"),
    ("a head turned by more than 45 degrees", "portrait: the head is turned by about"),
    (
        "a mouth beyond the picture's edge",
        "portrait: the mouth is cut off by the picture's edge",
    ),
    ("a picture too dark to see much", "portrait: underexposed"),
    ("shut eyes", "portrait: the eyes are closed and stay so"),
    ("several faces", "faces found; the largest is used"),
    ("a small face", "it will look soft"),
    (
        "a video whose head lies on its side or upside down, when its face is scored",
        "the head lies",
    ),
    ("a truth that is turned against the clip", "its truth is rotated relative to it by"),
    ("a clip of a study that browsers would not play", "are coded anew as H.264 with AAC"),
]
"""What is gone on with, and the words that say so."""


def warnings_table() -> str:
    """The table of warnings of docs/bad-inputs.md."""
    rows = "\n".join(f"| {what} | ... {words} ... |" for what, words in WARNINGS)
    return (
        "# Warnings\n\nThe work continues, and a line on stderr, next to the result, on the page of"
        " `serve` and in the records of scores gives the warning.\n\n| what |"
        f" `warning: ...` |\n|---|---|\n{rows}\n"
    )


def table() -> str:
    """The table of docs/bad-inputs.md."""
    rows = "\n".join(f"| {case.name} | {case.what} | {case.right} |" for case in CASES)
    return (
        "# Files that are odd and not wrong\n\nEach of these is read as the film it was made from,"
        " by `score`, `evaluate`, `compare`, `generate`, `encode`,\n`prepare`, `study create` and"
        " the page of `serve`. `tests/cases.py` makes the table; `tests/test_cases.py`,\n"
        "`tests/scoring/test_odd_clips.py` and `tests/web/test_odd_uploads.py` try every line where"
        " the files are there.\n\n| file | what it is | what becomes of it"
        f" |\n|---|---|---|\n{rows}\n"
    )
