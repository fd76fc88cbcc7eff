"""Which clips are meant: videos, folders and manifests, each clip with its truth, or two of one
name as a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flowportrait import storage
from flowportrait.errors import DataError
from flowportrait.files import VIDEO_SUFFIXES, file_digest, files_below, is_video, named, readable
from flowportrait.media import Clip
from flowportrait.records import ManifestRow, read_jsonl


@dataclass(frozen=True)
class Sample:
    """A clip under the name that its scores carry, with the ground-truth clip where there is
    one.
    """

    id: str
    clip: Clip
    truth: Clip | None = None
    generator: str = ""
    """Who made it: the source it was found in."""
    item: str = ""
    """Its name within that source, by which the clips of several generators pair."""

    @cached_property
    def sha256(self) -> str:
        """sha256 of the video file; empty if it is missing."""
        return file_digest(self.clip.path)

    @cached_property
    def truth_sha256(self) -> str:
        """sha256 of the truth's file; empty if there is none."""
        if self.truth:
            return file_digest(self.truth.path)
        return ""


SamplePair = tuple[Sample, Sample]


class Found(NamedTuple):
    """A video of a source: its id, where it lies, and the names that its truth may have, the
    likeliest first.
    """

    id: str
    video: Path
    names: tuple[Path, ...]


def find_samples(sources: Iterable[Path], truth: Path | None = None) -> list[Sample]:
    """The clips of videos, folders (all videos below) and manifests, each with its truth.

    A source may be NAME=PATH; NAME is then the generator of its clips, else the source's own name,
    as far as that is needed to tell it from others. A clip's id is its path as given, or its id in
    the manifest. Its truth is the video of the same name below the folder `truth`, or the row of
    the same id or video name in the manifest `truth`. Raises
    DataError: nothing there, or an id twice.
    """
    samples: dict[str, Sample] = {}
    truths = None
    if truth:
        truths = _Truths(storage.fetched(truth))
    given = [(name, storage.fetched(path)) for name, path in map(named, sources)]
    for (_, source), generator in zip(given, _generators(given), strict=True):
        for found in videos_of(source):
            known = samples.get(found.id)
            if known is not None and known.clip.path != found.video:
                raise DataError(
                    f"{source}: the id '{found.id}' already refers to {known.clip.path}; ids must"
                    " differ"
                )
            true = truths.of(found) if truths else None
            samples[found.id] = Sample(
                found.id, Clip(found.video), true, generator, _pair_name(source, found)
            )
    if not samples:
        raise DataError(
            f"no video in {', '.join(map(str, sources))}; give {', '.join(VIDEO_SUFFIXES)} files"
        )
    return list(samples.values())


def _generators(given: Sequence[tuple[str, Path]]) -> list[str]:
    """A name for each source: the one it was given, else the end of its folder's path that tells it
    from others.
    """
    homes = [
        (path if path.is_dir() or path.suffix == ".jsonl" else path.parent).absolute()
        for _, path in given
    ]
    places = {
        home: home.with_suffix("").parts if home.suffix == ".jsonl" else home.parts
        for home in homes
    }
    length = 1
    while len({parts[-length:] for parts in places.values()}) < len(places) and length < 50:
        length += 1
    own = (readable("/".join(places[home][-length:])) for home in homes)
    return [name or end for (name, _), end in zip(given, own, strict=True)]


def videos_of(source: Path) -> Iterator[Found]:
    """All clips of one source. Raises DataError: no file, or a folder that cannot be listed."""
    if source.is_dir():
        # A link that leads nowhere is a clip without a file, and is said to be one.
        for path in sorted(files_below(source)):
            if is_video(path):
                yield Found(readable(storage.name_of(path)), path, (path.relative_to(source),))
    elif source.suffix == ".jsonl":
        rows = list(read_jsonl(source, ManifestRow))
        names = Counter(Path(row.video).name for row in rows)
        for row in rows:
            whole = Path(row.video)
            inside = not whole.is_absolute() and ".." not in whole.parts
            alone = names[whole.name] == 1
            yield Found(
                row.id, source.parent / row.video, (whole,) * inside + (Path(whole.name),) * alone
            )
    elif source.is_file():
        yield Found(readable(storage.name_of(source)), source, (Path(source.name),))
    else:
        raise DataError(
            f"{source}: no such file or folder; give a video, a folder of videos or a manifest"
            " (.jsonl)"
        )


def find_pairs(a: Path, b: Path) -> tuple[list[SamplePair], list[str]]:
    """The clips of two videos, or those of the same name in two folders or of the same id in two
    manifests; and the names that only one of them has. Raises DataError: nothing there, or nothing
    of the same name.
    """
    for path in (a, b):
        if not path.exists():
            raise DataError(f"{path}: no such file; give two videos, two folders or two manifests")
    if a.is_dir() != b.is_dir() or (a.suffix == ".jsonl") != (b.suffix == ".jsonl"):
        raise DataError(
            f"{a}, {b}: of different kinds; give two videos, two folders or two manifests"
        )
    alone = a.is_file() and a.suffix != ".jsonl"
    sides = [
        {} if alone else {_pair_name(path, found): found.video for found in videos_of(path)}
        for path in (a, b)
    ]
    if alone:
        sides = [{"": a}, {"": b}]
    return _paired(sides, a, b)


def _paired(sides: list[dict[str, Path]], a: Path, b: Path) -> tuple[list[SamplePair], list[str]]:
    """Pairs of one name, and names that only one side has. Raises DataError."""
    shared = [name for name in sides[0] if name in sides[1]]
    if not shared:
        raise DataError(
            f"{a}, {b}: no video names in common; give folders with the same file names"
        )
    pairs = [
        tuple(Sample(readable(side[name].as_posix()), Clip(side[name])) for side in sides)
        for name in shared
    ]
    return pairs, sorted(sides[0].keys() ^ sides[1].keys())


def _pair_name(source: Path, found: Found) -> str:
    if source.suffix == ".jsonl":
        return found.id
    return readable(found.names[0].with_suffix("").as_posix())


class _Truths:
    """Ground-truth videos, in a folder, its manifest if it has one, or a manifest. Raises DataError
    when it is none.
    """

    def __init__(self, source: Path):
        if not source.is_dir() and (source.suffix != ".jsonl" or not source.is_file()):
            raise DataError(
                f"{source}: no such folder; --truth takes a folder of videos or a manifest (.jsonl)"
            )
        self.source = source
        self._ids = {}
        self._names = {}
        listed = source / "manifest.jsonl" if source.is_dir() else source
        for found in videos_of(listed) if listed.is_file() else []:
            if self._ids.setdefault(found.id, found.video) != found.video:
                raise DataError(
                    f"{source}: the id '{found.id}' appears twice; give each truth video its own id"
                )
            self._names |= {name.with_suffix("").as_posix(): found.video for name in found.names}

    def of(self, found: Found) -> Clip | None:
        """The truth of a clip by its id or one of its names."""
        video = None
        if self.source.is_dir():
            suffixes = (found.video.suffix, *VIDEO_SUFFIXES)
            tried = (
                (self.source / name).with_suffix(suffix)
                for name in found.names
                for suffix in suffixes
            )
            video = next((path for path in tried if path.is_file()), None)
        if video is None:
            keys = (found.id, *(name.with_suffix("").as_posix() for name in found.names))
            video = next(
                (known for key in keys if (known := self._ids.get(key) or self._names.get(key))),
                None,
            )
            if video and self.source.is_dir() and not video.is_file():
                video = None
        return Clip(video) if video else None
