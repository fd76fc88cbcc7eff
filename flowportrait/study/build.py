"""Making a study from folders of videos: which belong together, who sees what, and blind copies of
all clips.
"""

import errno
import json
import secrets
import shutil
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from flowportrait.errors import ConfigError, DataError, MediaError
from flowportrait.files import VIDEO_SUFFIXES, is_video
from flowportrait.progress import Progress
from flowportrait.study.blind import Blind, blind_copy
from flowportrait.study.store import DATABASE, MEDIA, VERSION, Study, make_database
from flowportrait.study.tasks import Showing, StudyPlan, assign

Videos = dict[str, Path]
VideosOfSets = dict[str, dict[str, Path]]
BlindCopies = dict[tuple[str, str], tuple[str, Blind]]

_LISTED = 5


@dataclass
class Created:
    """The result of `create`, with warnings for the user."""

    study: Study
    left_out: list[str] = field(default_factory=list)
    """Samples that some version lacks, each with those versions; samples with a clip that cannot be
    used, each with the reason.
    """
    warnings: list[str] = field(default_factory=list)


def find_sets(versions: Mapping[str, Path]) -> tuple[VideosOfSets, list[str]]:
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
                f"versions: {name!r} not a valid name; it must not be empty or contain > = @"
            )
    found = {name: _videos_below(folder) for name, folder in versions.items()}
    return _complete_sets(found, versions)


def _complete_sets(found, versions: Mapping[str, Path]) -> tuple[VideosOfSets, list[str]]:
    """Samples that every version has, and why others are left out. Raises DataError."""
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
    plan: StudyPlan,
    *,
    truth: str | None = None,
    incomplete: str = "refuse",
    progress: Progress = lambda done, total: None,
) -> Created:
    """Makes a self-contained study folder, whole or not at all.

    `incomplete`: whether samples that some version lacks are refused or skipped (and listed). A
    clip that cannot be used costs its sample alone, which is listed too.
    Raises ConfigError, DataError, MediaError.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory}: already exists; give a new folder")
    if truth is not None and truth not in versions:
        raise ConfigError(f"truth: no version '{truth}'; available: {', '.join(versions)}")
    if len(set(raters)) != len(raters) or not all(raters):
        raise ConfigError(f"raters: {', '.join(raters)}; names must differ and not be empty")
    sets, left_out = find_sets(versions)
    if left_out and incomplete == "refuse":
        raise DataError(
            f"{len(left_out)} samples are incomplete: {_listed(left_out)}; "
            "add the missing videos, or leave these samples out with --incomplete skip"
        )
    assign(len(sets), len(versions), plan)  # a plan that cannot be carried out shows at once
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / MEDIA).mkdir(parents=True)
    try:
        blinds, unusable = _copy_media(sets, partial / MEDIA, plan.seed, progress)
        sets, showings = _remaining(sets, unusable, plan)
        _fill(partial, list(versions), raters, plan, truth, sets, blinds, showings)
        if directory.is_dir():
            directory.rmdir()
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    left_out += [f"{sample}: {error}" for sample, error in unusable.items()]
    return Created(Study(directory), left_out, [*_coded_anew(blinds), *_telling(blinds)])


def _listed(lines: Sequence[str]) -> str:
    """A few of the lines, and how many more there are."""
    more = ""
    if len(lines) > _LISTED:
        more = f" and {len(lines) - _LISTED} more"
    return f"{'; '.join(lines[:_LISTED])}{more}"


def _remaining(
    sets: VideosOfSets, unusable: Mapping[str, MediaError], plan: StudyPlan
) -> tuple[VideosOfSets, list[list[Showing]]]:
    """The samples whose clips can all be used, and who sees them. Raises MediaError where none is
    left, ConfigError where too few are.
    """
    kept = {sample: videos for sample, videos in sets.items() if sample not in unusable}
    if not kept:
        raise next(iter(unusable.values()))
    try:
        return kept, assign(len(kept), len(next(iter(kept.values()))), plan)
    except ConfigError as error:
        lost = _listed([str(reason) for reason in unusable.values()])
        raise ConfigError(
            f"{error}; {len(unusable)} of {len(sets)} samples cannot be used: {lost}"
        ) from error


def _videos_below(folder: Path) -> Videos:
    """Videos of a folder by their names. Raises DataError for two of one name."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder of videos")
    videos: Videos = {}
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
    sets: VideosOfSets, folder: Path, seed: int, progress: Progress
) -> tuple[BlindCopies, dict[str, MediaError]]:
    """(file name, blind copy) by (sample, version), and why samples cannot be used, of which no
    copy stays. Copied in random order, as a folder's order tells, too.
    """
    clips = [(sample, version) for sample, videos in sets.items() for version in videos]
    blinds: BlindCopies = {}
    unusable: dict[str, MediaError] = {}
    for done, index in enumerate(np.random.default_rng([seed, 1]).permutation(len(clips)), start=1):
        sample, version = clips[index]
        if sample not in unusable:
            name = f"{secrets.token_hex(12)}.mp4"
            try:
                blinds[sample, version] = (name, blind_copy(sets[sample][version], folder / name))
            except MediaError as error:
                _raise_if_full(error, folder)
                unusable[sample] = error
                (folder / name).unlink(missing_ok=True)
        progress(done, len(clips))
    for key in [key for key in blinds if key[0] in unusable]:
        (folder / blinds.pop(key)[0]).unlink()
    return blinds, unusable


def _raise_if_full(error: BaseException, folder: Path) -> None:
    """Raises DataError where a clip could not be copied for want of room: that is not its fault."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{folder}: the disk is full; free some space") from error
        cause = cause.__cause__


def _fill(
    folder: Path,
    versions: list[str],
    raters: Sequence[str],
    plan: StudyPlan,
    truth: str | None,
    sets: VideosOfSets,
    blinds: BlindCopies,
    showings: list[list[Showing]],
) -> None:
    """Writes a study's tables."""
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
    _fill_tasks(raters, showings, db, clip_ids)
    db.execute("COMMIT")
    # The last connection to leave folds the log into the file, so that the folder can be copied as
    # it is.
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def _fill_tasks(raters: Sequence[str], showings: list[list[Showing]], db, clip_ids) -> None:
    """Writes what every rater is shown, in order."""
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


def _coded_anew(blinds: Mapping[tuple[str, str], tuple[str, Blind]]) -> list[str]:
    """Which clips had to be coded anew, a line for each version and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for (sample, version), (_, blind) in blinds.items():
        if blind.anew:
            found.setdefault((version, blind.anew), []).append(sample)
    return [
        f"{version}: {len(samples)} clips are coded anew as H.264 with AAC, as browsers would not "
        f"play them ({why}): {_listed(sorted(samples))}"
        for (version, why), samples in found.items()
    ]


def _telling(blinds: BlindCopies) -> list[str]:
    """Differences by which raters could tell versions apart, though they are blind."""
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
