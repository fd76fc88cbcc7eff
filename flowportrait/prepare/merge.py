"""Parts of a preparation become the dataset that one run would have made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowportrait.config import load_recipe
from flowportrait.errors import DataError
from flowportrait.files import JsonObject, link_or_copy, replace
from flowportrait.prepare import dataset, parts
from flowportrait.prepare.journal import PreparedSource
from flowportrait.prepare.parts import PartFile
from flowportrait.prepare.settings import PrepareConfig
from flowportrait.records import read_jsonl


@dataclass(frozen=True)
class _Finished:
    """A part that is done."""

    root: Path
    file: PartFile
    config: PrepareConfig
    records: list[PreparedSource]
    report: JsonObject


def merge(roots: Sequence[Path], out: Path) -> dataset.Prepared:
    """Joins all parts of a preparation into the dataset `out`; clips are linked where the disk can,
    and copied where it cannot. The same call goes on after a kill.

    Raises DataError where parts are lacking, doubled, unfinished, or of other sources, settings or
    weights.
    """
    found = sorted((_open(root) for root in roots), key=lambda part: part.file.part.number)
    _require_fit(found)
    return _joined(found, out)


def _joined(found, out: Path) -> dataset.Prepared:
    """Writes the joined dataset."""
    first = found[0]
    with dataset.held(out):
        dataset.begin(out, first.config, _fingerprint(first))
        records = {record.key: (part.root, record) for part in found for record in part.records}
        for root, record in records.values():
            for clip in record.clips:
                link_or_copy(root / clip.video, out / clip.video)
        ordered = [records[key][1] for key in sorted(records)]
        lines = [record.model_dump_json() + "\n" for record in ordered]
        replace(out / "journal.jsonl", "".join(lines).encode())
        unchecked = first.report["not_checked"]
        ignored = first.report["ignored_files"]
        result = dataset.Prepared(out, ordered, 0, ignored, unchecked, first.config)
        dataset.finish(result)
    return result


def _open(root: Path) -> _Finished:
    """A finished part. Raises DataError for what is none."""
    if not (root / parts.FILE).is_file():
        raise DataError(
            f"{root}: not a part of a dataset; give folders written by `prepare --part`"
        )
    if not (root / "manifest.jsonl").is_file():
        raise DataError(f"{root}: unfinished; run its `prepare --part` again until it completes")
    file = load_recipe(root / parts.FILE, PartFile)
    config = load_recipe(root / "config.json", PrepareConfig)
    records = list(read_jsonl(root / "journal.jsonl", PreparedSource))
    newest = list({record.key: record for record in records}.values())
    for record in newest:
        for clip in record.clips:
            if not (root / clip.video).is_file():
                raise DataError(f"{root / clip.video}: missing; run its `prepare --part` again")
    report = json.loads((root / "report.json").read_text(encoding="utf-8"))
    return _Finished(root, file, config, newest, report)


def _require_fit(found: list[_Finished]) -> None:
    first = found[0]
    for part in found[1:]:
        if part.file.part.of != first.file.part.of:
            raise DataError(
                f"{part.root}: is {part.file.part}, {first.root} is {first.file.part}; give parts"
                " of one"
            )
        if part.file.sources != first.file.sources:
            raise DataError(
                f"{part.root}: was made from other sources than {first.root}; all parts need the"
                " same"
                " list"
            )
        if _fingerprint(part) != _fingerprint(first) or part.config != first.config:
            raise DataError(
                f"{part.root}: was made with other settings or weights than {first.root}; make it"
                " again"
            )
    _require_all(found, first)


def _require_all(found, first) -> None:
    """Raises DataError for parts that are lacking or there twice."""
    numbers = [part.file.part.number for part in found]
    for part, before in zip(found[1:], found, strict=False):
        if part.file.part.number == before.file.part.number:
            raise DataError(f"{part.root}: is {part.file.part}, as is {before.root}; leave one out")
    lacking = sorted(set(range(1, first.file.part.of + 1)) - set(numbers))
    if lacking:
        raise DataError(
            f"part {lacking[0]} of {first.file.part.of} is not among {len(found)} parts; give all"
            " of them"
        )
    count = sum(len(part.records) for part in found)
    if count != first.file.num_sources:
        raise DataError(
            f"{first.root} and the others hold {count} sources where {first.file.num_sources} were"
            " listed; run each `prepare --part` again until it completes"
        )


def _fingerprint(part: _Finished) -> str:
    """Of the settings and weights; a part without sources has those of its config.json alone."""
    if part.records:
        return part.records[0].fingerprint
    return part.config.fingerprint
