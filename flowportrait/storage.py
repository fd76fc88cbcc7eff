"""Folders and files in object storage (`s3://`, `gs://` and whatever else fsspec opens): copied to
this machine before they are read, and sent there when they are whole.

A copy lies under its address in the user's cache and has the size and the time of what it is a copy
of, by which is known, as rsync knows it, whether one of them has changed. Two commands that name
the same address share it. A folder that is written goes on where it ended, on whatever machine;
where a command was stopped, what it has not sent waits on this one. Paths on this machine pass
through unchanged.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from flowportrait.errors import DataError, require

FileState = tuple[int, int]

_ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")  # pathlib makes one slash of two
_INDEXES = ("report.html", "encoded.jsonl", "manifest.jsonl")
"""Files that say what else there is: they are sent last."""
EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}
"""Packages that open a kind of storage, and the extras that bring them."""


def address_of(path: str | Path) -> str | None:
    """The address that a path stands for, such as s3://bucket/folder; None for one of this
    machine.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None or Path(path).exists():
        return None
    return f"{found[1]}://{found[2].rstrip('/')}"


def name_of(path: Path) -> str:
    """A file's name for people: its address where it is a copy, else its path."""
    try:
        kind, *rest = path.absolute().relative_to(_cache()).parts
    except ValueError:
        return path.as_posix()
    return f"{kind}://{'/'.join(rest)}"


def fetched(path: Path, alone: bool = False) -> Path:
    """The copy of a file or folder, brought up to date; a path of this machine as it is. A manifest
    (.jsonl) comes with its folder, where its files are, unless it is wanted `alone`.

    Raises DataError where there is nothing or where it cannot be read, MissingDependency without
    the package that opens it.
    """
    address = address_of(path)
    if address is None:
        return path
    if path.suffix == ".jsonl" and not alone:
        return fetched(path.parent) / path.name
    return _fetch(address)


def _fetch(address: str) -> Path:
    """Brings the content of an address here. Raises DataError."""
    place = _place(address)
    with _locked(place), _told(address):
        found = _Remote.at(address)
        if _beside(place, "unsent").exists():
            raise DataError(
                f"{address}: is incomplete because the run that writes it was interrupted; finish"
                " that run first"
            )
        if not found.files:
            raise DataError(
                f"{address}: no such file or folder; give a file or a folder with files"
            )
        found.pull(place)
    return place


@contextmanager
def written(out: Path) -> Iterator[Path]:
    """Where to write what is meant for `out`. At an address that is a copy of what is there; when
    all went well, what has changed is sent, and what says what there is comes last.
    """
    address = address_of(out)
    if address is None:
        yield out
        return
    place = _place(address)
    unsent = _beside(place, "unsent")
    with _locked(place):
        with _told(address):
            found = _Remote.at(address)
            if not unsent.exists():
                found.pull(place)
        unsent.touch()
        yield place
        with _told(address):
            found.push(place)
        unsent.unlink()


def listed(folder: Path) -> dict[str, FileState]:
    """Of each file below an address, by its path there: bytes, and nanoseconds of its last change.
    Nothing is fetched. Raises as `fetched`.
    """
    address = str(address_of(folder))
    with _told(address):
        return dict(_Remote.at(address).files)


@contextmanager
def at_hand(path: Path, folder: Path) -> Iterator[Path]:
    """A file on this machine: itself, or a copy in `folder` that goes afterwards, where there is
    anything to copy. Raises as `fetched`.
    """
    address = address_of(path)
    if address is None:
        yield path
        return
    with TemporaryDirectory(dir=folder) as own:
        place = Path(own, PurePosixPath(address).name)
        with _told(address):
            _Remote.at(address).pull(place)
        yield place


class _Remote:
    """The content of an address; `files` by their paths below it, "" for the address itself."""

    def __init__(self, system: Any, root: str):
        self._system = system
        self._root = root
        system.invalidate_cache()
        found = system.find(root, detail=True)
        self.files: dict[str, FileState] = {
            _below(root, name): (int(about["size"]), _changed_ns(about))
            for name, about in found.items()
            if about.get("type") == "file" and not _is_hidden(_below(root, name))
        }

    @classmethod
    def at(cls, address: str) -> _Remote:
        """A remote place. Raises MissingDependency without the package for its kind."""
        fsspec = require("fsspec", extra="s3")
        kind = address.partition("://")[0]
        if kind in EXTRAS:
            package, extra = EXTRAS[kind]
            require(package, extra=extra)
        return cls(*fsspec.core.url_to_fs(address))

    def pull(self, place: Path) -> None:
        """Makes `place` a copy. What is in it and no longer there goes."""
        for name in _own_files(place):
            if name not in self.files:
                (place / name).unlink()
        missing = {
            name: about for name, about in self.files.items() if _state(place / name) != about
        }
        parts = [_beside(place / name, "part") for name in missing]
        for part in parts:
            part.parent.mkdir(parents=True, exist_ok=True)
        if missing:
            self._system.get([self._path(name) for name in missing], [str(part) for part in parts])
        for (name, (_, changed_ns)), part in zip(missing.items(), parts, strict=True):
            os.utime(part, ns=(changed_ns, changed_ns))
            os.replace(part, place / name)

    def push(self, place: Path) -> None:
        """Sends what `place` has that was not there as it is, and removes what it no longer has."""
        own = [""] if place.is_file() else _own_files(place)
        changed = [name for name in own if self.files.get(name) != _state(place / name)]
        for is_last in (False, True):
            names = [name for name in changed if (Path(name).name in _INDEXES) == is_last]
            if names:
                paths = [str(place / name) for name in names]
                self._system.put(paths, [self._path(name) for name in names])
        gone = [self._path(name) for name in self.files if name not in own]
        if gone:
            self._system.rm(gone)
        sent = _Remote(self._system, self._root).files
        for name in changed:
            os.utime(place / name, ns=(sent[name][1],) * 2)

    def _path(self, name: str) -> str:
        if name:
            return f"{self._root}/{name}"
        return self._root


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "flowportrait" / "storage"


def _place(address: str) -> Path:
    """Where the copy of an address lies. Raises DataError for one that leads elsewhere."""
    kind, _, rest = address.partition("://")
    if ".." in PurePosixPath(rest).parts:
        raise DataError(f"{address}: points outside its bucket; remove the '..'")
    return _cache() / kind / rest


def _locked(place: Path) -> FileLock:
    place.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(_beside(place, "storage"))


def _below(root: str, name: str) -> str:
    if name == root:
        return ""
    return PurePosixPath(name).relative_to(root).as_posix()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _own_files(place: Path) -> list[str]:
    names = (path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    return sorted(name for name in names if not _is_hidden(name))


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def state_of(path: Path) -> FileState | None:
    """Bytes and nanoseconds of the last change of a file, here or at an address; None for what is
    none. Raises as `fetched`.
    """
    if address_of(path) is None:
        return _state(path)
    return listed(path).get("")


def _state(path: Path) -> FileState | None:
    """Size and time of a file; None where there is none."""
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _changed_ns(about: Mapping[str, Any]) -> int:
    """When a file was changed; the systems of fsspec call it differently, some not at all."""
    when = next((about[key] for key in ("LastModified", "mtime", "updated") if about.get(key)), 0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    return round(seconds) * 10**9


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns errors of storage libraries into a DataError."""
    try:
        yield
    except (OSError, ValueError, *_refusals()) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{address}: cannot be read or written ({told}); check the address and your access"
            " rights"
        ) from error


def _refusals() -> list[type[Exception]]:
    """Errors beside OSError of the packages that are in use."""
    known = {"botocore.exceptions": "BotoCoreError", "google.auth.exceptions": "GoogleAuthError"}
    loaded = ((sys.modules.get(module), name) for module, name in known.items())
    return [getattr(module, name) for module, name in loaded if module]
