"""Sources of a report: studies, score files and training runs, told apart by what lies in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from flowportrait.errors import DataError
from flowportrait.files import JsonObject, files_below, is_video
from flowportrait.records import Score, SetScore, read_jsonl
from flowportrait.study import results
from flowportrait.study.alignment_record import Alignment
from flowportrait.study.findings import Agreement
from flowportrait.study.results import StudyData
from flowportrait.study.store import DATABASE
from flowportrait.study.systems import Clips

ABLATION = "ablation"
"""The set whose scores stand in Table 5 beside the runs, such as those of the untuned model."""
_KINDS = (
    "a study, an exported study, a folder or file of scores, or the directory of a training run"
)


@dataclass
class StudySource:
    """A study and what was found in it."""

    name: str
    data: StudyData
    alignment: Alignment | None = None
    agreement: Agreement | None = None


@dataclass
class Scored:
    """The scores of one generator's videos on one set of samples."""

    generator: str
    set_name: str
    scores: list[Score] = field(default_factory=list)
    sets: list[SetScore] = field(default_factory=list)


ScoredAndRefused = tuple[list[Scored], list[Score]]


@dataclass
class TrainingRun:
    """A training run by reinforcement learning: its settings, its log, and scores of its videos if
    there are any.
    """

    label: str
    config: JsonObject
    log: list[JsonObject]
    scores: list[Score] = field(default_factory=list)
    directory: Path | None = None


@dataclass
class Sources:
    """Everything that was given."""

    studies: list[StudySource] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    runs: list[TrainingRun] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    """Folders of videos as they were given, which only the page plays."""
    given: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What readers should know of how the sources were read."""

    @property
    def truth(self) -> str | None:
        """The studies' name for the recording itself."""
        return next((s.data.facts.truth for s in self.studies if s.data.facts.truth), None)


def read(arguments: Sequence[str]) -> Sources:
    """The sources named as PATH, LABEL=PATH or LABEL@SET=PATH. Raises DataError for what is none of
    the kinds.
    """
    sources = Sources(given=list(arguments))
    files = []
    for argument in arguments:
        label, set_name, path = parsed(argument)
        if (path / DATABASE).is_file() or (path / results.FACTS).is_file():
            sources.studies.append(_study(label or path.name, path))
        elif (path / "log.jsonl").is_file() and (path / "config.json").is_file():
            sources.runs.append(_run(label or path.name, path, sources.notes))
        elif (path / "scores.jsonl").is_file() or (path.is_file() and path.suffix == ".jsonl"):
            files.append((label, set_name, path))
        elif path.is_dir() and any(map(is_video, files_below(path))):
            sources.videos.append(argument)
        elif not path.exists():
            raise DataError(f"{path}: no such file or folder; give {_KINDS}")
        else:
            raise DataError(f"{path}: is not an input of a report; give {_KINDS}")
    for label, set_name, path in files:
        sources.scored += _scored(label, set_name, path, sources.studies, sources.notes)
    _refuse_doubles(sources)
    return sources


def parsed(argument: str) -> tuple[str, str, Path]:
    """Label or "", set, and path of PATH, LABEL=PATH or LABEL@SET=PATH. Raises DataError."""
    head, sign, tail = argument.partition("=")
    if not sign or Path(argument).exists():
        return "", "in-domain", Path(argument)
    label, _, set_name = head.partition("@")
    if not label or not tail:
        raise DataError(f"{argument!r}: write PATH, LABEL=PATH or LABEL@SET=PATH")
    return label, set_name or "in-domain", Path(tail)


def _study(name: str, path: Path) -> StudySource:
    """A study with its alignment and agreement, where they are there."""
    return StudySource(
        name,
        results.load(path),
        _record(path / "align.json", Alignment),
        _record(path / "agreement.json", Agreement),
    )


def _record(path: Path, kind: type[Any]) -> Any:
    """A record of this kind, None without the file. Raises DataError for one that is damaged."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path}: {where}: {first['msg']}; create it again with `study align` or `study"
            " agreement`"
        ) from error


def _run(label: str, path: Path, notes: list[str]) -> TrainingRun:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path / 'config.json'}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or "rollout" not in config:
        raise DataError(f"{path}: not a reinforcement-learning run (no rollout in config.json)")
    found = next(
        (p for p in (path / "scores.jsonl", path / "evaluation" / "scores.jsonl") if p.is_file()),
        None,
    )
    return TrainingRun(
        label,
        config,
        list(_log(path / "log.jsonl", notes)),
        list(read_jsonl(found, Score)) if found else [],
        path,
    )


def _log(path: Path, notes: list[str]) -> Iterator[JsonObject]:
    """The rows of a run's log. A kill may leave half of a line, to which a run that goes on may
    have added its next one: such lines are left out, and noted.
    """
    lines = path.read_bytes().splitlines()
    torn = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                continue  # perhaps it is still being written
            if not line.startswith(b"{"):
                raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
            torn.append(number)
            continue
        if isinstance(row, dict):
            yield row
    if torn:
        notes.append(f"{path}: line {', '.join(map(str, torn))} was torn by a kill; left out")


def _scored(
    label: str, set_name: str, path: Path, studies: list[StudySource], notes: list[str]
) -> Iterator[Scored]:
    """One entry for each version of a study that knows the clips, and one for each folder of the
    rest.

    With a label all of it is one generator's.
    """
    file = path / "scores.jsonl" if path.is_dir() else path
    scores = [score for score in read_jsonl(file, Score) if not score.scorer.endswith(":features")]
    sets_file = file.with_name("sets.jsonl")
    sets = []
    if sets_file.is_file() and path.is_dir():
        sets = list(read_jsonl(sets_file, SetScore))
    if label:
        yield Scored(label, set_name, scores, sets)
        return
    versions, rest = _by_version(scores, set_name, studies)
    yield from versions
    folders: dict[str, list[Score]] = {}
    for score in rest:
        folders.setdefault(PurePath(score.clip).parent.as_posix(), []).append(score)
    names = _ends(list(folders))
    if versions and folders:
        notes.append(f"{file}: {', '.join(names)}: no version of a study; shown by themselves")
    own = {found.generator for found in sets if found.generator}
    if not versions and len(folders) < 2 and not own:
        yield Scored(path.stem if path.is_file() else path.name, set_name, rest, sets)
        return
    for name, found in zip(names, folders.values(), strict=True):
        yield Scored(name, set_name, found, [one for one in sets if one.generator == name])
    for name in sorted(own - set(names)):
        yield Scored(name, set_name, [], [one for one in sets if one.generator == name])


def _ends(folders: list[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [PurePath(folder).parts for folder in folders]
    length = 1
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) or "." for part in parts]


def _by_version(scores: list[Score], set_name: str, studies: list[StudySource]) -> ScoredAndRefused:
    """(entries by version of the study that knows most of the clips, the scores of clips that it
    does not know).
    """
    return _best_study(scores, studies, set_name)


def _best_study(scores: list[Score], studies: list[StudySource], set_name: str) -> ScoredAndRefused:
    """The study that knows most of the clips: its versions, and the scores that are left."""
    best: ScoredAndRefused = ([], scores)
    for study in studies:
        clips = Clips(study.data)
        places = [clips.find(score.clip, score.sha256) for score in scores]
        rest = [score for score in scores if score.clip in clips.unknown]
        if len(rest) < len(best[1]):
            versions = [
                Scored(
                    version,
                    set_name,
                    [s for s, at in zip(scores, places, strict=True) if at and at[1] == number],
                )
                for number, version in enumerate(study.data.versions)
            ]
            best = (versions, rest)
    return best


def _refuse_doubles(sources: Sources) -> None:
    """One generator's scores on a set may come from several files, but each score only once."""
    known: dict[tuple[str, str, str, str, int], Score] = {}
    for scored in sources.scored:
        for score in scored.scores:
            key = (scored.generator, scored.set_name, score.clip, score.scorer, score.repeat)
            if known.setdefault(key, score) != score:
                raise DataError(
                    f"{scored.generator}: two different scores of {score.clip} by {score.scorer};"
                    " give one file per scorer"
                )
    labels = [run.label for run in sources.runs]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise DataError(f"two runs have the name '{twice}'; label them with LABEL=PATH")
