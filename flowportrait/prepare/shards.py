"""A prepared dataset as WebDataset shards: tar files of a clip (`.mp4`) and its row of the manifest
(`.json`) each, as trainings elsewhere read them, and such files as a dataset again.

Clips are numbered, because WebDataset takes what stands before the first dot of a name for the
clip's key; what a clip is called stands in its row.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from flowportrait.errors import DataError
from flowportrait.files import is_video
from flowportrait.records import ManifestRow, read_jsonl, write_jsonl

MANIFEST = "manifest.jsonl"


def pack(dataset: Path, out: Path, shard_bytes: int) -> list[Path]:
    """Writes clips-000000.tar and on into the folder `out`, each with clips of about so many bytes,
    at least one; the same dataset gives the same bytes.

    Raises DataError: no prepared dataset, a clip is not there, or `out` holds something else.
    """
    if not (dataset / MANIFEST).is_file():
        raise DataError(f"{dataset}: no {MANIFEST}; give a prepared dataset")
    if out.exists() and (not out.is_dir() or any(path.suffix != ".tar" for path in out.iterdir())):
        raise DataError(
            f"{out}: not empty and not a folder of shards; give an empty or a new folder"
        )
    return _pack_all(dataset, out, shard_bytes)


def _pack_all(dataset: Path, out: Path, shard_bytes: int) -> list[Path]:
    """Writes all shards and removes those of an earlier run."""
    rows = list(read_jsonl(dataset / MANIFEST, ManifestRow))
    for row in rows:
        if not (dataset / row.video).is_file():
            raise DataError(f"{dataset / row.video}: missing; prepare the dataset again")
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = [_pack_shard(dataset, out, *shard) for shard in _shards(dataset, rows, shard_bytes)]
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); give another -o") from error
    for path in out.iterdir():
        if path not in made:
            path.unlink()
    return made


def _shards(
    dataset: Path, rows: list[ManifestRow], shard_bytes: int
) -> Iterator[tuple[int, int, list[ManifestRow]]]:
    """Number, number of the first clip, and rows of each shard."""
    number = 0
    first = 0
    held = []
    size = 0
    for index, row in enumerate(rows):
        own = (dataset / row.video).stat().st_size
        if held and size + own > shard_bytes:
            yield number, first, held
            number = number + 1
            first = index
            held = []
            size = 0
        held.append(row)
        size += own
    if held:
        yield number, first, held


def _pack_shard(
    dataset: Path,
    out: Path,
    number: int,
    first: int,
    rows: list[ManifestRow],
) -> Path:
    place = out / f"clips-{number:06d}.tar"
    part = place.with_name(f".{place.name}.part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as shard:
        for key, row in enumerate(rows, first):
            video = dataset / row.video
            about = row.model_dump_json().encode()
            with video.open("rb") as file:
                shard.addfile(_member(f"{key:09d}.mp4", video.stat().st_size), file)
            shard.addfile(_member(f"{key:09d}.json", len(about)), io.BytesIO(about))
    part.replace(place)
    return place


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member


def unpack(shards: Path, out: Path) -> tuple[int, int]:
    """Makes of a folder of shards, or of one, a folder `out`: a dataset where every clip has a row
    of a manifest beside it, else a folder of videos to be prepared. Gives the numbers of clips and
    of rows.

    Raises DataError: no shards, one that cannot be read, or `out` is not empty.
    """
    files = sorted(shards.glob("*.tar")) if shards.is_dir() else [shards]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{shards}: contains no shards; give a .tar file or a folder of them")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; give an empty or a new folder")
    (out / "clips").mkdir(parents=True)
    return _unpack_all(files, out)


def _unpack_all(files: list[Path], out: Path) -> tuple[int, int]:
    """Unpacks shards in order; gives videos and rows."""
    rows: list[ManifestRow] = []
    count = 0
    for file in files:
        videos, own = _unpack_shard(file, out / "clips")
        count += len(videos)
        rows += [
            own[key].model_copy(update={"video": f"clips/{video.name}"})
            for key, video in videos.items()
            if key in own
        ]
    if len(rows) == count:
        write_jsonl(out / MANIFEST, rows)
    return count, len(rows)


def _unpack_shard(file: Path, clips: Path) -> tuple[dict[str, Path], dict[str, ManifestRow]]:
    """Videos and rows by the key that they share; what is neither is left out."""
    videos: dict[str, Path] = {}
    rows: dict[str, ManifestRow] = {}
    try:
        with tarfile.open(file) as shard:
            for member in shard:
                key, _, suffix = PurePosixPath(member.name).name.partition(".")
                content = shard.extractfile(member)
                if content is None:
                    continue
                if is_video(Path(member.name)):
                    videos[key] = _free_name(clips, f"{file.stem}-{key}.{suffix.lower()}")
                    with videos[key].open("wb") as place:
                        shutil.copyfileobj(content, place)
                elif suffix == "json" and (row := _row(content.read())):
                    rows[key] = row
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{file}: cannot be read as a shard ({error}); download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{file} to {clips}: cannot be copied ({error.strerror})") from error
    return videos, rows


def _free_name(clips: Path, name: str) -> Path:
    place = clips / name
    if place.exists():
        raise DataError(
            f"{place}: two videos in the shards have this name; give them different keys"
        )
    return place


def _row(content: bytes) -> ManifestRow | None:
    """A row of a manifest; None for what others have written beside their videos."""
    try:
        return ManifestRow.model_validate_json(content)
    except ValidationError:
        return None
