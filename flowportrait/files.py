"""Files on disk: videos of a folder, digests, and atomic writing."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, NoReturn

from flowportrait.errors import DataError

JsonObject = dict[str, Any]
"""An object of JSON or a table of TOML."""
VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".m4v", ".ts", ".mts", ".flv", ".wmv",
    ".3gp",
)  # fmt: skip


def files_below(folder: Path) -> Iterator[Path]:
    """Files of a folder and of those below it, linked ones too, each folder once; also links that
    lead nowhere.

    Raises DataError for a folder that may not be looked into: what is in it must not vanish without
    a word.
    """

    def refuse(error: OSError) -> NoReturn:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}); make it readable or omit it"
        )

    seen = set()
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root, name) for name in files)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def json_text(value: object) -> str:
    """JSON in one line; numbers that JSON does not know, such as nan, become null."""
    return json.dumps(_known(value), allow_nan=False)


def _known(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_known(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def readable(name: str) -> str:
    """A file's name as text; bytes that are none become replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")


def ends_alike(a: str, b: str) -> bool:
    """Whether the shorter path is the end of the longer one, by at least a folder and a name."""
    parts = PurePath(a).parts
    others = PurePath(b).parts
    length = min(len(parts), len(others))
    return length >= 2 and parts[-length:] == others[-length:]


def sha256_of(path: Path) -> str:
    """Of a whole file; computed once for each state of it. Raises OSError: not there, or a pipe,
    which to open might wait for ever.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return _sha256(path, status.st_size, status.st_mtime_ns)


def file_digest(path: Path) -> str:
    """sha256 of a file; empty when it is not there or may not be read."""
    try:
        return sha256_of(path)
    except OSError:
        return ""


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


def link_or_copy(source: Path, place: Path) -> None:
    """The file under another name, too, on disk once where the disk has hard links; a file that is
    there goes. For files that are replaced and never changed in place. Raises OSError.
    """
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, place)


def replace(path: Path, content: bytes) -> None:
    """Writes a file atomically. Raises OSError, and leaves nothing behind."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: bytes) -> int:
    """Appends one line in one write and gives the size of the file then; a torn line before it is
    closed first. Raises DataError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            if size and os.pread(handle, 1, size - 1) != b"\n":
                os.write(handle, b"\n")
            os.write(handle, line)
            return os.lseek(handle, 0, os.SEEK_CUR)
        finally:
            os.close(handle)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def drop_torn_line(path: Path) -> None:
    """Removes an incomplete last line, left by a kill. Raises OSError."""
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        replace(path, content[: content.rfind(b"\n") + 1])


def named(argument: str | Path) -> tuple[str, Path]:
    """(NAME, path) of NAME=PATH, and ("", path) of a path alone or of one that is there as it
    stands.

    Raises DataError when the name or the path is missing.
    """
    text = str(argument)
    name, sign, path = text.partition("=")
    if not sign or Path(text).exists():
        return "", Path(text)
    if not name or not path:
        raise DataError(f"{text!r}: write PATH or NAME=PATH")
    return name, Path(path)
