"""Making a study from folders of videos: which belong together, who sees what, and blind copies of
all clips.
"""

import json
import secrets
import shutil
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from flowportrait.errors import ConfigError, DataError
from flowportrait.files import VIDEO_SUFFIXES, is_video
from flowportrait.study.blind import Blind, blind_copy
from flowportrait.study.store import DATABASE, MEDIA, VERSION, Study, make_database
from flowportrait.study.tasks import Plan, Showing, assign

_LISTED = 5


@dataclass
class Created:
    """What `create` made, with what the user should know of it."""

    study: Study
    left_out: list[str] = field(default_factory=list)
    """Samples that some version lacks, each with those versions."""
    warnings: list[str] = field(default_factory=list)


def find_sets(versions: Mapping[str, Path]) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """(sample -> version -> video of all complete sets, the others in words), matched by name below
    each folder.

    Raises DataError: fewer than two versions, a folder missing or empty, one name twice, no
    complete set.
    """
    if len(versions) < 2:
        raise ConfigError(
            "versions: a study compares at least two; give --versions NAME=DIR twice or more"
        )
    for name in versions:
        if not name or set(name) & set(">=@≥"):
            raise ConfigError(
                f"versions: {name!r} cannot be a name; it must not be empty or hold > = @"
            )
    found = {name: _videos_below(folder) for name, folder in versions.items()}
    samples = sorted({sample for videos in found.values() for sample in videos})
    sets = {
        sample: {name: videos[sample] for name, videos in found.items() if sample in videos}
        for sample in samples
    }
    left_out = [
        f"{sample}: not in {', '.join(name for name in versions if name not in videos)}"
        for sample, videos in sets.items()
        if len(videos) < len(versions)
    ]
    complete = {sample: videos for sample, videos in sets.items() if len(videos) == len(versions)}
    if not complete:
        raise DataError(
            f"no sample has all of {', '.join(versions)}; the same name must be in each folder"
        )
    return complete, left_out


def create(
    directory: Path,
    versions: Mapping[str, Path],
    raters: Sequence[str],
    plan: Plan,
    *,
    truth: str | None = None,
    incomplete: str = "refuse",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Created:
    """Makes a self-contained study folder, whole or not at all.

    `incomplete`: whether samples that some version lacks are refused or skipped (and listed).
    Raises ConfigError, DataError, MediaError.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory}: is there already; give a new folder")
    if truth is not None and truth not in versions:
        raise ConfigError(f"truth: no version '{truth}'; there are {', '.join(versions)}")
    if len(set(raters)) != len(raters) or not all(raters):
        raise ConfigError(f"raters: {', '.join(raters)}; names must differ and not be empty")
    sets, left_out = find_sets(versions)
    if left_out and incomplete == "refuse":
        more = f" and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
        raise DataError(
            f"{len(left_out)} samples are incomplete: {'; '.join(left_out[:_LISTED])}{more}; "
            "add the missing videos, or leave these samples out with --incomplete skip"
        )
    showings = assign(len(sets), len(versions), plan)
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / MEDIA).mkdir(parents=True)
    try:
        blinds = _copy_media(sets, partial / MEDIA, plan.seed, progress)
        _fill(partial, list(versions), raters, plan, truth, sets, blinds, showings)
        if directory.is_dir():
            directory.rmdir()
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Created(Study(directory), left_out, _telling(blinds))


def _videos_below(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder of videos")
    videos: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if is_video(path) and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in videos:
                raise DataError(
                    f"{path}: {videos[name]} has the same name; each sample needs one video"
                )
            videos[name] = path
    if not videos:
        raise DataError(f"{folder}: holds no videos; give {', '.join(VIDEO_SUFFIXES)} files")
    return videos


def _copy_media(
    sets: dict[str, dict[str, Path]], folder: Path, seed: int, progress: Callable[[int, int], None]
) -> dict[tuple[str, str], tuple[str, Blind]]:
    """(file name, blind copy) by (sample, version); copied in random order, as a folder's order
    tells, too.
    """
    clips = [(sample, version) for sample, videos in sets.items() for version in videos]
    blinds = {}
    for done, index in enumerate(np.random.default_rng([seed, 1]).permutation(len(clips)), start=1):
        sample, version = clips[index]
        name = f"{secrets.token_hex(12)}.mp4"
        blinds[sample, version] = (name, blind_copy(sets[sample][version], folder / name))
        progress(done, len(clips))
    return blinds


def _fill(
    folder: Path,
    versions: list[str],
    raters: Sequence[str],
    plan: Plan,
    truth: str | None,
    sets: dict[str, dict[str, Path]],
    blinds: dict[tuple[str, str], tuple[str, Blind]],
    showings: list[list[Showing]],
) -> None:
    facts = {
        "schema_version": VERSION,
        "versions": versions,
        "truth": truth,
        "plan": asdict(plan),
        "raters_per_sample": plan.raters_per_sample,
    }
    db = make_database(folder / DATABASE)
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO facts VALUES (?, ?)",
        [(name, json.dumps(value)) for name, value in facts.items()],
    )
    db.executemany("INSERT INTO sample VALUES (?, ?)", enumerate(sets))
    clip_ids = {}
    for number, (sample, videos) in enumerate(sets.items()):
        for version, source in videos.items():
            name, blind = blinds[sample, version]
            row = db.execute(
                "INSERT INTO clip (sample, version, file, duration_s, source, source_sha256,"
                " sha256) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    version,
                    name,
                    blind.duration_s,
                    str(source.resolve()),
                    blind.source_sha256,
                    blind.sha256,
                ),
            )
            clip_ids[number, versions.index(version)] = row.lastrowid
    for rater, (name, shown) in enumerate(zip(raters, showings, strict=True)):
        db.execute("INSERT INTO rater VALUES (?, ?, ?)", (rater, name, secrets.token_urlsafe(16)))
        for position, showing in enumerate(shown):
            task = secrets.token_urlsafe(9)
            db.execute(
                "INSERT INTO task VALUES (?, ?, ?, ?, ?)",
                (task, rater, position, showing.sample, showing.kind),
            )
            db.executemany(
                "INSERT INTO item VALUES (?, ?, ?, ?)",
                [
                    (secrets.token_urlsafe(9), task, letter, clip_ids[showing.sample, version])
                    for letter, version in zip(string.ascii_uppercase, showing.order, strict=False)
                ],
            )
    db.execute("COMMIT")
    # The last connection to leave folds the log into the file, so that the folder can be copied as
    # it is.
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def _telling(blinds: dict[tuple[str, str], tuple[str, Blind]]) -> list[str]:
    """What raters could tell versions apart by, though they are blind."""
    by_version: dict[str, set[tuple]] = {}
    for (_, version), (_, blind) in blinds.items():
        by_version.setdefault(version, set()).add((blind.width, blind.height, round(blind.fps, 2)))
    kinds = {version: sorted(seen) for version, seen in by_version.items()}
    if len({tuple(seen) for seen in kinds.values()}) == 1:
        return []
    words = "; ".join(
        f"{version} {', '.join(f'{w}x{h} at {fps:g} fps' for w, h, fps in seen[:3])}"
        for version, seen in kinds.items()
    )
    return [f"versions differ in size or frame rate, which raters may learn to see: {words}"]
