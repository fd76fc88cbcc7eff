"""Sound and video files, read with FFmpeg's libraries: opened safely, their tracks
chosen, one clock for both.

Time is counted in seconds from the first picture that is shown, whatever the file calls that
moment: start offsets and edit lists of both tracks are in it. Whatever a library throws becomes a
MediaError of one line. Nothing is decoded here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
from av.stream import Disposition

from flowportrait.errors import MediaError
from flowportrait.files import JsonObject

LIBRARY_ERRORS = (
    av.FFmpegError, OSError, EOFError, ValueError, ArithmeticError, MemoryError,
    NotImplementedError,
)  # fmt: skip
"""What FFmpeg's libraries and their binding raise on files; a UnicodeDecodeError is a
ValueError."""

MAX_PIXELS = 1 << 26
"""Larger pictures are refused: a head of a few bytes may promise any size, and memory is taken for
it."""

T = TypeVar("T")
# Opening a file decodes a picture of its tracks to know them: a cover of 400 KB can be a gigabyte.
_NO_PICTURES = {"max_pixels": "1"}
_LOOKED_AT_BYTES = 1 << 19  # of a file, before FFmpeg must know its format (it is 1 << 20 at most)
FIRST_PACKETS = 64  # among which the picture shown first is, however a codec reorders them


# ------------------------------------------------------------------------------------------------
# opening


def readable_file(path: str | Path, kinds: str) -> Path:
    """`path` when it is a file that can be opened; `kinds` are the words for what is wanted. Raises
    MediaError."""
    path = Path(path)
    try:
        if path.is_dir():
            raise MediaError(f"{path}: is a folder; give the path of {kinds}")
        if not path.exists():
            raise MediaError(f"{path}: no such file; give the path of {kinds}")
        # To open a pipe waits until somebody writes into it.
        if not path.is_file():
            raise MediaError(
                f"{path}: is a pipe or a device; write it to a file first, and give {kinds}"
            )
        if path.stat().st_size == 0:
            raise MediaError(f"{path}: the file is empty; give {kinds}")
        if not os.access(path, os.R_OK):
            raise MediaError(f"{path}: permission denied; make the file readable")
    except (OSError, ValueError) as error:  # a name too long for the disk, or with a zero byte
        raise MediaError(f"{path}: cannot be accessed ({one_line(error)}); give {kinds}") from error
    return path


def url_of(path: str | Path) -> str:
    """A file's name for FFmpeg, which takes the start of `out:1.mp4` as a protocol."""
    return f"file:{path}"


@contextmanager
def opened(path: Path, kinds: str, pictures: bool = True) -> Iterator[av.container.InputContainer]:
    """A file opened for reading. Without `pictures` none is decoded to know its tracks. Raises
    MediaError."""
    options = {"max_pixels": str(MAX_PIXELS)} if pictures else _NO_PICTURES
    with told(f"{path}: cannot be read", f"give {kinds}"):
        container = _open(path, options)
    with container:
        yield container


def _open(path: Path, options: dict[str, str]) -> av.container.InputContainer:
    """PyAV up to 18 refuses titles that are no UTF-8 unless told otherwise; 19 takes them and knows
    no such argument."""
    known: JsonObject = {"options": options, "format": _format_behind_tag(path)}
    if int(av.__version__.split(".")[0]) < 19:
        known["metadata_errors"] = "replace"
    return av.open(url_of(path), **known)


def _format_behind_tag(path: Path) -> str | None:
    """FFmpeg's name of what follows an ID3 tag that is longer than what FFmpeg looks at, as tags
    with large covers are: it would go by the file's name, which uploads do not have. None for all
    other files. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(10)
        length = 0
        for seven_bits in head[6:]:
            length = length << 7 | seven_bits & 0x7F
        if head[:3] != b"ID3" or length < _LOOKED_AT_BYTES:
            return None
        file.seek(len(head) + length)
        start = file.read(4)
    if start == b"fLaC":
        return "flac"
    if start[:1] == b"\xff" and start[1:2] in (b"\xf0", b"\xf1", b"\xf8", b"\xf9"):
        return "aac"
    return "mp3"


@contextmanager
def told(what: str, advice: str) -> Iterator[None]:
    """Turns what a library raises inside into the MediaError "`what` (its words); `advice`". Only
    calls of libraries belong inside: errors of our own must not be taken for errors of a file."""
    try:
        yield
    except LIBRARY_ERRORS as error:
        raise MediaError(f"{what} ({one_line(error)}); {advice}") from error


def each(items: Iterable[T], what: str, advice: str) -> Iterator[T]:
    """The `items` of a library's iterator; what it raises becomes a MediaError as in `told`."""
    items = iter(items)
    while True:
        with told(what, advice):
            item = next(items, None)
        if item is None:
            return
        yield item


def one_line(error: Exception) -> str:
    """A library's message, without paths and line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


# -------------------------------------------------------------------------------------------------
# tracks


def picture_tracks(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The video tracks, without covers and thumbnails."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & still]


def track(
    container: av.container.InputContainer, kind: str, path: Path, number: int | None = None
) -> Any:
    """The track of a kind ("audio" or "video") that players take: the first marked as default, else
    the first; or the one with this `number` among them.

    Raises MediaError where there is none, or none whose codec is known here.
    """
    streams = picture_tracks(container) if kind == "video" else list(container.streams.audio)
    if not streams:
        raise MediaError(
            f"{path}: has no {'sound' if kind == 'audio' else 'picture'} track; give another file"
        )
    stream = default_track(streams) if number is None else streams[number]
    return _usable(stream, path, kind)


def _usable(stream: av.stream.Stream, path: Path, kind: str) -> Any:
    """The track, if its codec and sizes can be used. Raises MediaError."""
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path}: unsupported {kind} codec; re-encode the file as H.264 with AAC")
    if kind == "audio" and not (context.sample_rate and context.channels):
        raise MediaError(f"{path}: damaged sound (no rate or no channels); give another file")
    if kind == "video" and context.width * context.height > MAX_PIXELS:
        raise MediaError(
            f"{path}: pictures over {MAX_PIXELS / 1e6:.0f} megapixels per frame; downscale the"
            " video"
        )
    return stream


def default_track(streams: list[Any]) -> Any:
    """The track that players take: the one marked as default, else the first."""
    return next(
        (stream for stream in streams if stream.disposition & Disposition.default), streams[0]
    )


def rational(value: Any) -> Fraction:
    """A Fraction of what PyAV calls rational (its own type since 19); 0 for none."""
    if value and value.denominator:
        return Fraction(value.numerator, value.denominator)
    return Fraction(0)


# --------------------------------------------------------------------------------------------------
# clock


# ------------------------------------------------------------------------------------------- the
# frame rule
