"""The sources of a run of `prepare`: files and folders of footage, and lists of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from flowportrait import storage
from flowportrait.errors import ConfigError, DataError
from flowportrait.files import (
    VIDEO_SUFFIXES,
    files_below,
    is_video,
    readable,
)
from flowportrait.prepare.settings import SourceFile, SplitConfig
from flowportrait.records import (
    Record,
    read_jsonl,
)


class SourceRow(Record):
    """One line of a list of sources (.jsonl): a video with what is known of it."""

    video: str = Field(description="path, relative to the list")
    identity: str = Field(
        "", description="name of the person; it must be the same in all videos of that person"
    )
    voice: str = Field("", description="who is heard, where that is somebody else")
    text: str = ""
    licence: str = ""
    source: str = Field("", description="the collection")
    face_direction: str = Field(
        "", description="frontal, side, or another that is dropped (App. B)"
    )


def find_sources(
    paths: Sequence[Path], config: SplitConfig, out: Path
) -> tuple[list[SourceFile], int]:
    """The videos of files, folders (all below but `out`) and lists, and how many files of folders
    are no videos by their names.

    Raises DataError: nothing there, two of one name, or a name that is no text.
    """
    found: dict[str, SourceFile] = {}
    ignored = 0
    for path in paths:
        state = {}
        if storage.address_of(path) and path.suffix != ".jsonl":
            state = {path / name if name else path: at for name, at in storage.listed(path).items()}
            if not state:
                raise DataError(
                    f"{storage.address_of(path)}: no such file or folder; give a video or a folder"
                )
            videos = [file for file in sorted(state) if is_video(file)]
            ignored += len(state) - len(videos)
            rows = [
                (file.relative_to(path.parent).as_posix(), file, SourceRow(video=""))
                for file in videos
            ]
        elif path.is_dir():
            files = [file for file in sorted(files_below(path)) if not _is_below(file, out)]
            videos = [file for file in files if is_video(file)]
            ignored += len(files) - len(videos)
            root = path.resolve().name
            rows = [
                (f"{root}/{file.relative_to(path).as_posix()}", file, SourceRow(video=""))
                for file in videos
            ]
        elif path.suffix == ".jsonl":
            rows = [
                (row.video, path.parent / row.video, row)
                for row in read_jsonl(storage.fetched(path, alone=True), SourceRow)
            ]
        elif path.is_file():
            rows = [(path.name, path, SourceRow(video=""))]
        else:
            raise DataError(
                f"{path}: no such file or folder; give a video, a folder of videos or a list"
                " (.jsonl)"
            )
        _add(rows, found, config, state)
    if not found:
        raise DataError(
            f"no video in {', '.join(map(str, paths))}; give {', '.join(VIDEO_SUFFIXES)} files"
        )
    return list(found.values()), ignored


def _add(rows, found, config: SplitConfig, state) -> None:
    """Adds the sources of rows to those that are found. Raises DataError for two of one name."""
    for key, file, row in rows:
        if readable(key) != key:
            raise DataError(
                f"{readable(str(file))}: the name is not valid UTF-8; rename the file, or leave it"
                " out"
            )
        if key in found and found[key].path.resolve() != file.resolve():
            raise DataError(
                f"{file}: '{key}' is the name of {found[key].path} already; rename a folder or"
                " a file"
            )
        found[key] = dataclasses.replace(_source(key, file, row, config), state=state.get(file))


def _is_below(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _source(key: str, file: Path, row: SourceRow, config: SplitConfig) -> SourceFile:
    """The source of a file, with what its row says of it."""
    identity = row.identity or _identity(key, config)
    return SourceFile(
        key,
        file,
        identity,
        row.voice or identity,
        row.text,
        row.licence,
        row.source,
        row.face_direction,
    )


def _identity(key: str, config: SplitConfig) -> str:
    """Who is in a file, by its name, its folder or a pattern."""
    if config.identity == "file":
        return key
    if config.identity == "folder":
        return str(Path(key).parent)
    try:
        match = re.search(config.identity, key)
    except re.error as error:
        raise ConfigError(
            f"split.identity: got {config.identity!r}, not a valid regular expression ({error})"
        ) from error
    if match is None or not match.groups():
        raise ConfigError(
            f"split.identity: {config.identity!r} has no group or is not found in '{key}'; give"
            " file, folder, or an expression whose first group names the person"
        )
    return match[1]
