"""Scoring many clips: what to score, with what, into a file that survives a kill and is never scored twice.

Every score is appended as soon as it is known. Running the same command again goes on where the last run stopped; a
clip whose file has changed since is scored again, and its old score leaves the file when the run ends.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from flowportrait.config import Frozen, validate
from flowportrait.errors import ConfigError, DataError
from flowportrait.media import Clip
from flowportrait.records import ManifestRow, Score, Verdict, read_jsonl
from flowportrait.registry import COMPARERS, SCORERS, Table, name_hint
from flowportrait.scoring import Comparer, Sample, Scorer, score_row
from flowportrait.scoring.asking import Judge, JudgeConfig
from flowportrait.scoring.metric import NO_TRUTH, Metric, read_all
from flowportrait.scoring.reward import CompositeReward, RewardConfig, scorer_of
from flowportrait.scoring.scores import Key, RecordFile, both, key_of

VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".m4v")

STANDARD = ("ssim", "psnr", "perceptual-lite0", "sharpness", "colour-drift")
"""Scorers that need no download."""
PRESETS = {"standard": STANDARD, "paper": ("ssim", "psnr", "lpips", "raft-jitter", "lse-c", "lse-d")}
"""What stands for several scorers wherever scorers are named."""


class ScoringConfig(Frozen):
    """How to score: the judge that all judge systems share, and settings by scorer."""

    judge: JudgeConfig = JudgeConfig()
    scorers: dict[str, dict[str, Any]] = Field(default={}, description="by name; for judges, laid over [judge]")
    sets: dict[str, dict[str, Any]] = Field(default={}, description="settings of set metrics by name")
    reward: RewardConfig | None = Field(None, description="adds Eq. 17's reward over all clips of a run")


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
    """The clips of videos, folders (all videos below) and manifests, each with its truth.

    A clip's id is its path as given, or its id in the manifest. Its truth is the video of the same name below the
    folder `truth`, or the row of the same id or video name in the manifest `truth`. Raises DataError: nothing there, or
    an id twice.
    """
    samples: dict[str, Sample] = {}
    truths = _Truths(truth) if truth else None
    for source in sources:
        for id_, video, name in _videos_of(source):
            known = samples.get(id_)
            if known is not None and known.clip.path != video:
                raise DataError(f"{source}: the id '{id_}' stands for {known.clip.path} already; ids must differ")
            samples[id_] = Sample(id_, Clip(video), truths.of(id_, name) if truths else None)
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


def find_pairs(a: Path, b: Path) -> tuple[list[tuple[Sample, Sample]], list[str]]:
    """The clips of two videos, or those of the same name in two folders or of the same id in two manifests; and the
    names that only one of them has. Raises DataError: nothing there, or nothing of the same name."""
    for path in (a, b):
        if not path.exists():
            raise DataError(f"{path}: no such file; give two videos, two folders or two manifests")
    if a.is_dir() != b.is_dir() or (a.suffix == ".jsonl") != (b.suffix == ".jsonl"):
        raise DataError(f"{a}, {b}: not of the same kind; give two videos, two folders or two manifests")
    alone = a.is_file() and a.suffix != ".jsonl"
    sides = [{} if alone else {_pair_name(path, *found): found[1] for found in _videos_of(path)} for path in (a, b)]
    if alone:
        sides = [{"": a}, {"": b}]
    shared = [name for name in sides[0] if name in sides[1]]
    if not shared:
        raise DataError(f"{a}, {b}: no video of one has the name of one of the other; nothing to compare")
    pairs = [tuple(Sample(side[name].as_posix(), Clip(side[name])) for side in sides) for name in shared]
    return pairs, sorted(sides[0].keys() ^ sides[1].keys())


def _pair_name(source: Path, id_: str, video: Path, name: Path) -> str:
    return id_ if source.suffix == ".jsonl" else name.with_suffix("").as_posix()


class _Truths:
    """Ground-truth videos, in a folder or a manifest. Raises DataError when it is neither."""

    def __init__(self, source: Path):
        if not source.is_dir() and source.suffix != ".jsonl":
            raise DataError(f"{source}: no such folder; --truth takes a folder of videos or a manifest (.jsonl)")
        self.source, self._rows = source, {}
        if not source.is_dir():
            for id_, video, name in _videos_of(source):
                self._rows |= {id_: video, name.with_suffix("").as_posix(): video}

    def of(self, id_: str, name: Path) -> Clip | None:
        """The truth of a clip by its id or its name."""
        if self.source.is_dir():
            suffixes = (name.suffix, *VIDEO_SUFFIXES)
            tried = ((self.source / name).with_suffix(suffix) for suffix in suffixes)
            found = next((path for path in tried if path.is_file()), None)
        else:
            found = self._rows.get(id_) or self._rows.get(name.with_suffix("").as_posix())
        return Clip(found) if found else None


def build_scorers(names: Iterable[str], config: ScoringConfig, answers: Path) -> list[Scorer]:
    """The scorers of these names or presets; judge systems of the same settings share one judge, its rates, its budget.

    A [reward] table, or the name `reward`, adds the scorers of its terms and, last, the reward itself.
    """
    for preset, scorers in PRESETS.items():
        names = [part for name in names for part in (scorers if name == preset else (name,))]
    judges: dict[str, Judge] = {}
    wanted, reward = dict.fromkeys(names), config.reward
    if CompositeReward.name in wanted or reward:
        reward = reward or RewardConfig()
        wanted.pop(CompositeReward.name, None)
        wanted |= dict.fromkeys(scorer_of(name) for name in reward.scorers)
        if CompositeReward.name in wanted:
            raise ConfigError("reward.terms: 'reward' cannot be a term of itself; name other scorers")
    built = [_built(SCORERS, name, config, answers, judges) for name in wanted]
    return [*built, CompositeReward(reward, built)] if reward else built


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

    Metrics share one decoding of each clip and go through the clips in `workers` threads; judges come after them, and
    the reward, which takes all of these clips as one batch, last. Other runs may write into `out` at the same time.

    Raises DataError when `out` holds scores of a scorer with other settings, JudgeError when a judge stops the run.
    """
    file = RecordFile(out, Score, {scorer.name: scorer.fingerprint for scorer in scorers})
    parts = [scorer for scorer in scorers if not isinstance(scorer, CompositeReward)]
    current, by_name = {sample.id: sample for sample in samples}, {scorer.name: scorer for scorer in parts}
    done = {
        key: score
        for key, score in file.found.items()
        if score.clip not in current
        or (
            _still_holds(score, current[score.clip], by_name.get(score.scorer))
            and not (retry_unscored and score.reason and score.scorer in by_name)
        )
    }
    wanted = [(s.id, scorer.name, r) for s in samples for scorer in parts for r in range(_repeats(scorer))]
    missing = set(wanted) - done.keys()
    summary = Summary(kept=len(wanted) - len(missing))
    for score in _all_scores(samples, parts, missing, workers):
        key = key_of(score)
        if key in missing:
            file.append(score)
            done[key] = score
            missing.discard(key)
            progress(len(wanted) - len(missing), len(wanted))
    for reward in (scorer for scorer in scorers if isinstance(scorer, CompositeReward)):
        rows = reward.of_batch(samples, [done[key] for key in wanted if key in done])
        done |= {key_of(row): row for row in rows}
        wanted += [key_of(row) for row in rows]
    file.put_in_order(done, wanted)
    summary.scores = [done[key] for key in wanted if key in done]
    return summary


def _repeats(scorer: Scorer | Comparer) -> int:
    return getattr(scorer, "repeats", 1)


def compare_to_file(
    pairs: list[tuple[Sample, Sample]],
    comparer: Comparer,
    out: Path,
    retry_unsaid: bool,
    progress: Callable[[int, int], None],
) -> tuple[list[Verdict], int]:
    """The verdicts on all pairs, also in `out`, one JSON line each; and how many stood there already and were kept.

    Raises DataError when `out` holds verdicts of the comparer with other settings, JudgeError when the run must stop.
    """
    file = RecordFile(out, Verdict, {comparer.name: comparer.fingerprint})
    current = {both(a.id, b.id): [a.sha256, b.sha256] for a, b in pairs}
    done = {
        key: verdict
        for key, verdict in file.found.items()
        if key[0] not in current
        or verdict.system != comparer.name
        or (verdict.sha256 == current[key[0]] and not (retry_unsaid and verdict.reason))
    }
    wanted = [(both(a.id, b.id), comparer.name, r) for a, b in pairs for r in range(_repeats(comparer))]
    missing = set(wanted) - done.keys()
    kept = len(wanted) - len(missing)
    lacking = {clips for clips, _, _ in missing}
    for verdict in comparer.compare([pair for pair in pairs if both(pair[0].id, pair[1].id) in lacking]):
        if (key := key_of(verdict)) in missing:
            file.append(verdict)
            done[key] = verdict
            missing.discard(key)
            progress(len(wanted) - len(missing), len(wanted))
    file.put_in_order(done, wanted)
    return [done[key] for key in wanted if key in done], kept


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
                about = scorer.about_scores() if isinstance(scorer, Metric) else {}
                yield score_row(scorer, sample, reason=problem, **about)
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
        return NO_TRUTH
    return "" if sample.clip.path.is_file() else f"{sample.clip.path}: no such file"


def _still_holds(score: Score, sample: Sample, scorer: Scorer | None) -> bool:
    """Whether clip and truth are those that were scored; a video or truth that was not there is looked for again.

    Where no truth is given this time, numbers that had one stay; so do those of scorers that are not asked (None).
    """
    if score.sha256 != sample.sha256:
        return False
    needs_truth = score.truth_sha256 if scorer is None else "truth" in scorer.needs
    if needs_truth and sample.truth and score.truth_sha256 != sample.truth_sha256:
        return False
    if scorer is None:
        return True
    return bool(score.sha256) and (bool(score.reason) or getattr(scorer, "still_has", lambda _: True)(sample))
