"""`flowportrait prepare`: many sources into one dataset, a journal that survives a kill, and a
report of every second.

What one source became is one line of the journal, written when its clips are whole. The same
command goes on where the journal ends; a source whose file has changed since is prepared again. The
manifest is written last.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from flowportrait.cluster import ENGINES, Part
from flowportrait.config import load_recipe, save_resolved
from flowportrait.errors import ConfigError, DataError, require
from flowportrait.files import (
    JsonObject,
    drop_torn_line,
    replace,
)
from flowportrait.media import FPS
from flowportrait.pages import markdown_rows
from flowportrait.prepare import parts
from flowportrait.prepare.footage_list import find_sources
from flowportrait.prepare.journal import REASONS, SOURCE_FIELDS, PreparedClip, PreparedSource
from flowportrait.prepare.parts import PartFile
from flowportrait.prepare.settings import PrepareConfig, SourceFile, SplitConfig, split_of
from flowportrait.prepare.source import STAGES, Preparer
from flowportrait.prepare.workers import prepare_all, prepare_all_on_ray
from flowportrait.progress import Progress
from flowportrait.records import ManifestRow, read_jsonl, write_jsonl
from flowportrait.registry import name_hint

_JOURNAL = "journal.jsonl"
_MANIFEST = "manifest.jsonl"
_CONFIG = "config.json"


@dataclass(frozen=True)
class Prepared:
    """The dataset after a run. `records` are those of all runs into it, by key; `kept` sources of
    this run stood in the journal before.
    """

    out: Path
    records: list[PreparedSource]
    kept: int
    ignored: int
    unchecked: list[str]
    config: PrepareConfig

    def rows(self) -> list[ManifestRow]:
        """The manifest, in the order of the sources' names."""
        return [
            _row(record, clip, self.config.split)
            for record in self.records
            for clip in record.clips
        ]


def prepare(
    paths: Sequence[Path],
    out: Path,
    config: PrepareConfig,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    engine: str = "local",
    part: Part | None = None,
) -> Prepared:
    """Prepares the sources, or a part of them, into the dataset `out`, where the same call goes on.
    `engine` is "local" or "ray": which processes compute. The result is the same.

    Raises DataError: no sources, `out` is a file, in use, or was made with other settings;
    CheckpointError: weights are missing; MediaError: it cannot be written; MissingDependency: no
    ray.
    """
    if engine == "ray":
        require("ray", extra="ray")
    sources, ignored = find_sources(paths, config.split, out)
    part_file = None
    if part:
        part_file = PartFile.of_sources(part, [source.key for source in sources])
    sources = part.of_list(sorted(sources, key=lambda source: source.key)) if part else sources
    config = config.settled()
    preparer = Preparer(config, out)
    preparer.load()
    unchecked = [
        *preparer.filters.unchecked,
        *(["active speaker"] if preparer.network is None else []),
    ]
    compute = prepare_all if engine == "local" else prepare_all_on_ray
    with held(out):
        begin(out, config, preparer.fingerprint, part_file)
        records = {record.key: record for record in read_jsonl(out / _JOURNAL, PreparedSource)}
        missing = [
            source for source in sources if not _is_done(source, records.get(source.key), out)
        ]
        done = kept = len(sources) - len(missing)
        # What was loaded to be checked need not travel to the workers.
        for source, record in compute(Preparer(config, out), missing, workers):
            record = record or source.record(preparer.fingerprint).crashed()
            _append(out / _JOURNAL, record)
            records[source.key] = record
            progress(done := done + 1, len(sources))
        ordered = [records[key] for key in sorted(records)]
        result = Prepared(out, ordered, kept, ignored, unchecked, config)
        finish(result)
    return result


@contextmanager
def held(out: Path) -> Iterator[None]:
    """`out` for this run alone."""
    if out.is_file():
        raise DataError(f"{out}: is a file; give a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise DataError(
            f"{out}: another run is writing to it; wait for it to end, or give another -o"
        ) from error
    except OSError as error:
        raise DataError(f"{out}: is not writable ({error.strerror}); give another -o") from error
    try:
        yield
    finally:
        lock.release()


def begin(out: Path, config: PrepareConfig, fingerprint: str, part: PartFile | None = None) -> None:
    """An orderly folder for a dataset, or a part of one. Raises DataError for one that holds
    something else.
    """
    settings = out / _CONFIG
    journal = out / _JOURNAL
    _require_own_folder(out, journal)
    if journal.exists():
        drop_torn_line(journal)
        _require_same_settings(out, fingerprint)
    # The journal comes first: it tells the next run that the folder is ours.
    journal.touch()
    parts.settle(out, part)
    shutil.rmtree(out / "work", ignore_errors=True)
    for folder in ("clips", "work"):
        (out / folder).mkdir(exist_ok=True)
    save_resolved(config, settings)


def _require_same_settings(out: Path, fingerprint: str) -> None:
    """Raises DataError for a dataset that was begun with other settings or weights."""
    for record in read_jsonl(out / _JOURNAL, PreparedSource):
        if record.fingerprint != fingerprint:
            raise DataError(
                f"{out}: was made with other settings or weights ({out / _CONFIG}); give another -o"
            )


def _require_own_folder(out: Path, journal) -> None:
    """Raises DataError for a folder of something else."""
    others = [path.name for path in out.iterdir() if path.name != ".lock"]
    if others and not journal.exists():
        raise DataError(
            f"{out}: holds {others[0]} and is not a dataset of `prepare`; give an empty or a new"
            " folder"
        )


def _is_done(source: SourceFile, record: PreparedSource | None, out: Path) -> bool:
    """Whether the journal holds this source as it is now, with all its clips. One that crashed is
    tried again.
    """
    if record is None or any(dropped.reason == "crashed" for dropped in record.dropped):
        return False
    same = source.record(record.fingerprint)
    known = record.model_dump(include=set(SOURCE_FIELDS))
    return known == same.model_dump(include=set(SOURCE_FIELDS)) and all(
        (out / c.video).is_file() for c in record.clips
    )


def _append(journal: Path, record: PreparedSource) -> None:
    with journal.open("ab", buffering=0) as file:
        file.write(record.model_dump_json().encode() + b"\n")
        os.fsync(file.fileno())


def _row(record: PreparedSource, clip: PreparedClip, config: SplitConfig) -> ManifestRow:
    """The line of the manifest about a clip."""
    # What is said in a whole source is not what is said in a part of it.
    text = ""
    if len(record.clips) == 1:
        text = record.text
    return ManifestRow(
        id=clip.id,
        video=clip.video,
        num_frames=clip.num_frames,
        fps=FPS,
        size_px=clip.size_px,
        sample_rate_hz=clip.sample_rate_hz,
        split=split_of(record.identity, config),
        identity=record.identity,
        voice=record.voice,
        text=text,
        source=record.collection,
        licence=record.licence,
    )


def finish(result: Prepared) -> None:
    """Manifest, report, and no file that is in neither."""
    rows = result.rows()
    wanted = {row.video for row in rows}
    for path in (result.out / "clips").iterdir():
        if f"clips/{path.name}" not in wanted:
            path.unlink()
    shutil.rmtree(result.out / "work", ignore_errors=True)
    write_jsonl(result.out / _MANIFEST, rows)
    summary = summarize(result)
    replace(result.out / "report.json", (json.dumps(summary, indent=2) + "\n").encode())
    replace(result.out / "report.md", markdown(summary, result).encode())


def summarize(result: Prepared) -> JsonObject:
    """Seconds in, out and dropped by reason, processor seconds by stage, and what was not
    checked.
    """
    seconds = Counter[str]()
    sources = Counter[str]()
    for record in result.records:
        for reason in {dropped.reason for dropped in record.dropped}:
            sources[reason] += 1
        for dropped in record.dropped:
            seconds[dropped.reason] += dropped.end_s - dropped.start_s
    rows = result.rows()
    seconds_in = math.fsum(record.duration_s for record in result.records)
    return {
        "flowportrait": version("flowportrait"),
        "settings": result.config.model_dump(mode="json"),
        "fingerprint": (
            result.records[0].fingerprint if result.records else result.config.fingerprint
        ),
        "sources": len(result.records),
        "sources_without_clips": sum(not record.clips for record in result.records),
        "ignored_files": result.ignored,
        "clips": len(rows),
        "seconds_in": round(seconds_in, 3),
        "seconds_out": round(math.fsum(row.duration_s for row in rows), 3),
        "dropped": {
            name: {"seconds": round(seconds[name], 3), "sources": sources[name]}
            for name in REASONS
            if sources[name]
        },
        "splits": {
            split: {
                "clips": sum(row.split == split for row in rows),
                "identities": len({row.identity for row in rows if row.split == split}),
            }
            for split in ("train", "held_out")
        },
        "computing_s": {
            stage: round(
                math.fsum(record.computing_s.get(stage, 0.0) for record in result.records), 2
            )
            for stage in STAGES
        },
        "not_checked": result.unchecked,
    }


def markdown(summary: JsonObject, result: Prepared) -> str:
    """The report for people."""
    seconds_in, lines = summary["seconds_in"], ["# Prepared dataset", ""]
    lines.append(
        f"{summary['sources']} sources, {seconds_in:.1f} s: {summary['clips']} clips,"
        f" {summary['seconds_out']:.1f} s."
    )
    if summary["not_checked"]:
        lines += ["", f"**Not checked: {', '.join(summary['not_checked'])}.**"]
    share = 100 / seconds_in if seconds_in else 0.0
    reasons = [
        [
            name,
            f"{found['seconds']:.1f}",
            f"{found['seconds'] * share:.1f} %",
            str(found["sources"]),
        ]
        for name, found in summary["dropped"].items()
    ]
    lines += (
        ["", *markdown_rows(["dropped because", "seconds", "share", "in sources"], reasons)]
        if reasons
        else []
    )
    per_second = [
        [stage, f"{spent:.1f}", f"{spent / seconds_in:.3f}" if seconds_in else "-"]
        for stage, spent in summary["computing_s"].items()
    ]
    lines += ["", *markdown_rows(["stage", "processor seconds", "per second of video"], per_second)]
    notes = [note for record in result.records for note in record.notes]
    lines += (
        ["", "## What is wrong with files", "", *(f"- {note}" for note in notes)] if notes else []
    )
    return "\n".join(lines) + "\n"


def command(
    paths: Sequence[Path],
    out: Path,
    *,
    config: Path | None,
    overrides: Sequence[str],
    engine: str,
    workers: int,
    part: str | None,
    progress: Progress,
) -> JsonObject:
    """`flowportrait prepare`; gives the report's numbers."""
    if engine not in ENGINES:
        raise ConfigError(f"--engine: no '{engine}'; {name_hint(engine, ENGINES)}")
    settings = load_recipe(config, PrepareConfig, overrides)
    own = None
    if part is not None:
        own = Part.named(part)
    result = prepare(paths, out, settings, workers, progress, engine, own)
    return summarize(result) | {"output": str(out), "kept_sources": result.kept}
