"""Scoring many clips: what to score, with what, into a file that survives a kill and is never scored twice.

Every score is appended as soon as it is known. Running the same command again goes on where the last run stopped; a
clip whose file has changed since is scored again, and its old score leaves the file when the run ends.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from flowportrait.config import Frozen, validate
from flowportrait.errors import ConfigError, DataError
from flowportrait.media import Clip
from flowportrait.records import ManifestRow, Score, read_jsonl
from flowportrait.registry import COMPARERS, SCORERS, Table, name_hint
from flowportrait.scoring import Comparer, Sample, Scorer, score_row
from flowportrait.scoring.asking import Judge, JudgeConfig
from flowportrait.scoring.cache import append_line
from flowportrait.scoring.metric import Metric, read_all
from flowportrait.scoring.reward import RewardConfig

VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".m4v")

Key = tuple[str, str, int]


class ScoringConfig(Frozen):
    """How to score: the judge that all judge systems share, and settings by scorer."""

    judge: JudgeConfig = JudgeConfig()
    scorers: dict[str, dict[str, Any]] = Field(default={}, description="by name; for judges, laid over [judge]")
    sets: dict[str, dict[str, Any]] = Field(default={}, description="settings of set metrics by name")
    reward: RewardConfig | None = Field(None, description="evaluate adds Eq. 17's reward of these terms")


@dataclass
class Summary:
    """What a run did."""

    scores: list[Score] = field(default_factory=list)
    kept: int = 0

    @property
    def unscored(self) -> list[Score]:
        """Those without a value."""
        return [score for score in self.scores if score.reason]


def find_samples(sources: Iterable[Path], truth: Path | None = None) -> list[Sample]:
    """The clips of videos, folders (all videos below) and manifests, each with its truth of the same name.

    A clip's id is its path as given, or its id in the manifest. Raises DataError: nothing there, or an id twice.
    """
    samples: dict[str, Sample] = {}
    for source in sources:
        for id_, video, name in _videos_of(source):
            known = samples.get(id_)
            if known is not None and known.clip.path != video:
                raise DataError(f"{source}: the id '{id_}' stands for {known.clip.path} already; ids must differ")
            samples[id_] = Sample(id_, Clip(video), _truth_of(name, truth))
    if not samples:
        raise DataError(f"nothing to score in {', '.join(map(str, sources))}; give {', '.join(VIDEO_SUFFIXES)} files")
    return list(samples.values())


def _videos_of(source: Path) -> Iterator[tuple[str, Path, Path]]:
    """(id, video, name to find its truth by) of all clips of one source."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
                yield path.as_posix(), path, path.relative_to(source)
    elif source.suffix == ".jsonl":
        for row in read_jsonl(source, ManifestRow):
            yield row.id, source.parent / row.video, Path(row.video)
    elif source.is_file():
        yield source.as_posix(), source, Path(source.name)
    else:
        raise DataError(f"{source}: no such file or folder; give a video, a folder of videos or a manifest (.jsonl)")


def _truth_of(name: Path, truth: Path | None) -> Clip | None:
    if truth is None:
        return None
    suffixes = (name.suffix, *VIDEO_SUFFIXES)
    found = next((path for suffix in suffixes if (path := (truth / name).with_suffix(suffix)).is_file()), None)
    return Clip(found) if found else None


def build_scorers(names: Iterable[str], config: ScoringConfig, answers: Path) -> list[Scorer]:
    """The scorers of these names; judge systems with the same settings share one judge, its rates and its budget."""
    judges: dict[str, Judge] = {}
    return [_built(SCORERS, name, config, answers, judges) for name in dict.fromkeys(names)]


def build_comparer(name: str, config: ScoringConfig, answers: Path) -> Comparer:
    """The comparer of this name; `ma` stands for `ma-comp`."""
    full = f"{name}-comp"
    return _built(COMPARERS, full if full in COMPARERS.names() else name, config, answers, {})


def _built(table: Table, name: str, config: ScoringConfig, answers: Path, judges: dict[str, Judge]) -> Any:
    for key in config.scorers:
        if key not in (known := {*SCORERS.names(), *COMPARERS.names()}):
            raise ConfigError(f"scorers.{key}: no such scorer; {name_hint(key, known)}")
    kind, settings = table.load(name), config.scorers.get(name, {})
    if isinstance(kind, type) and issubclass(kind, Metric):
        metric = kind(validate(kind.Config, settings, where=f"scorers.{name}"))
        # Weights that are not there stop the run before the first clip.
        metric.fingerprint  # noqa: B018
        return metric
    if not issubclass(kind.Config, JudgeConfig):
        return kind(validate(kind.Config, settings, where=f"scorers.{name}"))
    full = validate(kind.Config, config.judge.model_dump() | settings, where=f"scorers.{name}")
    key = full.model_dump_json()
    if key not in judges:
        judges[key] = Judge(full, answers)
    return kind(full, judge=judges[key])


def score_to_file(
    samples: list[Sample],
    scorers: list[Scorer],
    out: Path,
    retry_unscored: bool,
    progress: Callable[[int, int], None],
    workers: int = 2,
) -> Summary:
    """Scores all samples by all scorers into `out`, one JSON line each; what stands there already is kept.

    Metrics share one decoding of each clip and go through the clips in `workers` threads; judges come after them.

    Raises DataError when `out` holds scores of a scorer with other settings, JudgeError when a judge stops the run.
    """
    old = _read_scores(out, scorers)
    current = {sample.id: sample for sample in samples}
    done = {
        key: score
        for key, score in old.items()
        if score.clip not in current
        or (_unchanged(score, current[score.clip]) and not (retry_unscored and score.reason))
    }
    repeats = {scorer.name: getattr(scorer, "repeats", 1) for scorer in scorers}
    wanted = [(s.id, scorer.name, r) for s in samples for scorer in scorers for r in range(repeats[scorer.name])]
    missing = set(wanted) - done.keys()
    summary = Summary(kept=len(wanted) - len(missing))
    for score in _all_scores(samples, scorers, missing, workers):
        key = (score.clip, score.scorer, score.repeat)
        if key in missing:
            append_line(out, score.model_dump_json().encode() + b"\n")
            done[key] = score
            missing.discard(key)
            progress(len(wanted) - len(missing), len(wanted))
    _write_in_order(out, done, wanted)
    summary.scores = [done[key] for key in wanted if key in done]
    return summary


def _all_scores(samples: list[Sample], scorers: list[Scorer], missing: set[Key], workers: int) -> Iterator[Score]:
    """The missing scores: what cannot be scored at once, then metrics clip by clip, then judges one by one."""
    lacking = {(id_, name) for id_, name, _ in missing}
    metrics: dict[str, list[Metric]] = {}
    judged: dict[str, list[Sample]] = {}
    for sample in samples:
        for scorer in scorers:
            if (sample.id, scorer.name) not in lacking:
                continue
            if problem := _unusable(scorer, sample):
                yield score_row(scorer, sample, reason=problem)
            elif isinstance(scorer, Metric):
                metrics.setdefault(sample.id, []).append(scorer)
            else:
                judged.setdefault(scorer.name, []).append(sample)
    yield from read_all(((sample, metrics[sample.id]) for sample in samples if sample.id in metrics), workers)
    for scorer in scorers:
        if scorer.name in judged:
            yield from scorer.score(judged[scorer.name])


def _unusable(scorer: Scorer, sample: Sample) -> str:
    """Why a sample cannot be scored at all; empty when it can be tried."""
    if "truth" in scorer.needs and sample.truth is None:
        return "no truth; give --truth DIR with a video of the same name"
    return "" if sample.clip.path.is_file() else f"{sample.clip.path}: no such file"


def _read_scores(out: Path, scorers: list[Scorer]) -> dict[Key, Score]:
    """The scores in the file so far; a torn last line is dropped."""
    if not out.exists():
        return {}
    text = out.read_bytes()
    if not text.endswith(b"\n"):
        _replace(out, text[: text.rfind(b"\n") + 1])
    fingerprints = {scorer.name: scorer.fingerprint for scorer in scorers}
    scores = {}
    for score in read_jsonl(out, Score):
        if fingerprints.get(score.scorer, score.fingerprint) != score.fingerprint:
            raise DataError(
                f"{out}: holds scores of {score.scorer} with other settings, model or prompts; give another -o"
            )
        scores[score.clip, score.scorer, score.repeat] = score
    return scores


def _unchanged(score: Score, sample: Sample) -> bool:
    """Whether the files are still those that were scored; a video that was not there is looked for again."""
    truth_is_same = not score.truth_sha256 or score.truth_sha256 == sample.truth_sha256
    return bool(score.sha256) and score.sha256 == sample.sha256 and truth_is_same


def _write_in_order(out: Path, done: dict[Key, Score], wanted: list[Key]) -> None:
    """The same scores, each once: those of other clips first, then the wanted ones in the order asked for."""
    asked_for = set(wanted)
    ordered = [score for key, score in done.items() if key not in asked_for]
    ordered += [done[key] for key in wanted if key in done]
    _replace(out, "".join(score.model_dump_json() + "\n" for score in ordered).encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
