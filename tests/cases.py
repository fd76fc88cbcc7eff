"""Files as people really have them, which lie beside the repository: what each is, and what every
command makes of it."""

from dataclasses import dataclass
from pathlib import Path

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


def table() -> str:
    """The table of docs/bad-inputs.md."""
    rows = "\n".join(f"| {case.name} | {case.what} | {case.right} |" for case in CASES)
    return (
        "# Files that are odd and not wrong\n\nEach of these is read as the film it was made from,"
        " by `score`, `evaluate`, `compare`, `generate`, `encode`,\n`prepare`, `study create` and"
        " the page of `serve`. `tests/cases.py` makes the table; `tests/test_cases.py`\ntries"
        " every line where the files are there.\n\n| file | what it is | what becomes of it"
        f" |\n|---|---|---|\n{rows}\n"
    )
