"""Scoring many clips: what to score, with what, into a file that survives a kill and is never
scored twice.

Every score is appended as soon as it is known. Running the same command again goes on where the
last run stopped; a clip whose file has changed since is scored again, and its old score leaves the
file when the run ends.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from flowportrait.clips import SamplePair
from flowportrait.cluster import Division
from flowportrait.config import Frozen, validate
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.files import JsonObject, readable
from flowportrait.progress import Progress
from flowportrait.records import Score, Verdict
from flowportrait.registry import COMPARERS, SCORERS, PartTable, name_hint
from flowportrait.scoring import Comparer, Sample, Scorer, score_row
from flowportrait.scoring.judges.asking import Judge, JudgeConfig
from flowportrait.scoring.metrics.metric import Metric, read_alike, read_all, read_apart
from flowportrait.scoring.metrics.view import NO_TRUTH
from flowportrait.scoring.reward import CompositeReward, RewardConfig, scorer_of
from flowportrait.scoring.scores import Key, RecordFile, both, key_of

STANDARD = ("ssim", "psnr", "perceptual-lite0", "sharpness", "colour-drift")
"""Scorers that need no download."""
PRESETS = {
    "standard": STANDARD,
    "paper": ("ssim", "psnr", "lpips", "raft-jitter", "lse-c", "lse-d"),
}
"""What stands for several scorers wherever scorers are named."""
TWO_AT_A_TIME = Division(workers=2)


class ScoringConfig(Frozen):
    """Settings of scoring: the judge that all judge systems share, and settings by scorer."""

    judge: JudgeConfig = JudgeConfig()
    scorers: dict[str, JsonObject] = Field(
        default={}, description="settings of scorers by name; those of judges override [judge]"
    )
    sets: dict[str, JsonObject] = Field(default={}, description="settings of set metrics by name")
    reward: RewardConfig | None = Field(
        None, description="also compute the reward of Eq. 17 over all clips of a run"
    )


@dataclass
class Summary:
    """Results of a run: scores, and how many were kept."""

    scores: list[Score] = field(default_factory=list)
    kept: int = 0

    @property
    def unscored(self) -> list[Score]:
        """Those without a value."""
        return [score for score in self.scores if score.reason]


def build_scorers(
    names: Iterable[str],
    config: ScoringConfig,
    answers: Path,
    missing: dict[str, str] | None = None,
) -> list[Scorer]:
    """The scorers of these names or presets; judge systems of the same settings share one judge,
    its rates, its budget.

    A [reward] table, or the name `reward`, adds the scorers of its terms and, last, the reward
    itself. Weights that are not there raise CheckpointError at once, or with `missing` are noted
    there by scorer, which is then left out.
    """
    names = list(names)
    known = {*SCORERS.names(), *PRESETS}
    for name in names:
        if name not in known:
            raise ConfigError(f"scorer: no '{name}'; {name_hint(name, known)}")
    for preset, scorers in PRESETS.items():
        names = [part for name in names for part in (scorers if name == preset else (name,))]
    judges: dict[str, Judge] = {}
    wanted = dict.fromkeys(names)
    reward = config.reward
    if CompositeReward.name in wanted or reward:
        reward = reward or RewardConfig()
        wanted.pop(CompositeReward.name, None)
        wanted |= dict.fromkeys(scorer_of(name) for name in reward.scorers)
        if CompositeReward.name in wanted:
            raise ConfigError(
                "reward.terms: 'reward' cannot be a term of itself; name other scorers"
            )
    built = []
    for name in wanted:
        with noted(name, missing):
            built.append(_built(SCORERS, name, config, answers, judges))
    lost = []
    if reward:
        lost = [name for name in map(scorer_of, reward.scorers) if name in (missing or {})]
    if reward and not lost:
        return [*built, CompositeReward(reward, built)]
    if missing is not None and lost:
        missing[CompositeReward.name] = f"needs {', '.join(lost)}"
    return built


@contextmanager
def noted(name: str, missing: dict[str, str] | None) -> Iterator[None]:
    """Notes weights that are not there under `name` in `missing`; without one the error goes on."""
    try:
        yield
    except CheckpointError as error:
        if missing is None:
            raise
        missing[name] = str(error)


def build_comparer(name: str, config: ScoringConfig, answers: Path) -> Comparer:
    """The comparer of this name; `ma` stands for `ma-comp`."""
    full = f"{name}-comp"
    return _built(
        COMPARERS,
        full if full in COMPARERS.names() else name,
        config,
        answers,
        {},
    )


def _built(
    table: PartTable, name: str, config: ScoringConfig, answers: Path, judges: dict[str, Judge]
) -> Any:
    for key in config.scorers:
        if key not in (known := {*SCORERS.names(), *COMPARERS.names()}):
            raise ConfigError(f"scorers.{key}: no such scorer; {name_hint(key, known)}")
    kind = table.load(name)
    settings = config.scorers.get(name, {})
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
    progress: Progress,
    division: Division = TWO_AT_A_TIME,
) -> Summary:
    """Scores all samples by all scorers into `out`, one JSON line each; what
    stands there already is kept.

    Metrics share one decoding of each clip and go through the clips in as many threads, or
    processes of a cluster, as the division has workers; judges come after them, and the reward,
    which takes all of these clips as one batch, last. Other runs may write into `out` at the same
    time.

    Raises DataError when `out` holds scores of a scorer with other settings, JudgeError when a
    judge stops the run.
    """
    file = RecordFile(out, Score, {scorer.name: scorer.fingerprint for scorer in scorers})
    parts = of_single_clips(scorers)
    current, by_name = (
        {sample.id: sample for sample in samples},
        {scorer.name: scorer for scorer in parts},
    )
    done = {
        key: score
        for key, score in file.found.items()
        if score.clip not in current
        or (
            _still_holds(score, current[score.clip], by_name.get(score.scorer))
            and not (retry_unscored and score.reason and score.scorer in by_name)
        )
    }
    wanted = [
        (s.id, scorer.name, r) for s in samples for scorer in parts for r in range(_repeats(scorer))
    ]
    missing = set(wanted) - done.keys()
    summary = Summary(kept=len(wanted) - len(missing))
    progress(len(wanted) - len(missing), len(wanted))
    for score in _all_scores(samples, parts, missing, division):
        key = key_of(score)
        if key in missing:
            file.append(score)
            done[key] = score
            missing.discard(key)
            progress(len(wanted) - len(missing), len(wanted))
    for reward in (scorer for scorer in scorers if isinstance(scorer, CompositeReward)):
        rows = {
            key_of(row): row
            for row in reward.of_batch(samples, [done[key] for key in wanted if key in done])
        }
        # Rewards of another batch must not stand beside these.
        done = {key: score for key, score in done.items() if score.scorer != reward.name} | rows
        summary.kept += sum(file.found.get(key) == row for key, row in rows.items())
        wanted += rows
    file.put_in_order(done, wanted)
    summary.scores = [done[key] for key in wanted if key in done]
    return summary


def of_single_clips(scorers: Iterable[Scorer]) -> list[Scorer]:
    """Those whose score of a clip is the same whatever else is scored: all but the reward."""
    return [scorer for scorer in scorers if not isinstance(scorer, CompositeReward)]


def _repeats(scorer: Scorer | Comparer) -> int:
    return getattr(scorer, "repeats", 1)


def compare_to_file(
    pairs: list[SamplePair],
    comparer: Comparer,
    out: Path,
    retry_unsaid: bool,
    progress: Progress,
) -> tuple[list[Verdict], int]:
    """The verdicts on all pairs, also in `out`, one JSON line each; and how many stood there
    already and were kept.

    Raises DataError when `out` holds verdicts of the comparer with other settings, JudgeError when
    the run must stop.
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
    wanted = [
        (both(a.id, b.id), comparer.name, r) for a, b in pairs for r in range(_repeats(comparer))
    ]
    missing = set(wanted) - done.keys()
    kept = len(wanted) - len(missing)
    lacking = {clips for clips, _, _ in missing}
    progress(kept, len(wanted))
    for verdict in comparer.compare(
        [pair for pair in pairs if both(pair[0].id, pair[1].id) in lacking]
    ):
        if (key := key_of(verdict)) in missing:
            file.append(verdict)
            done[key] = verdict
            missing.discard(key)
            progress(len(wanted) - len(missing), len(wanted))
    file.put_in_order(done, wanted)
    return [done[key] for key in wanted if key in done], kept


def _all_scores(
    samples: list[Sample], scorers: list[Scorer], missing: set[Key], division: Division
) -> Iterator[Score]:
    """The missing scores: what cannot be scored at once, then metrics clip by clip, then judges one
    by one.
    """
    lacking = {(id_, name) for id_, name, _ in missing}
    metrics: dict[str, list[Metric]] = {}
    judged: dict[str, list[Sample]] = {}
    for sample in samples:
        for scorer in scorers:
            if (sample.id, scorer.name) not in lacking:
                continue
            if problem := _unusable(scorer, sample):
                about = {}
                if isinstance(scorer, Metric):
                    about = scorer.about_scores()
                yield score_row(scorer, sample, reason=problem, **about)
            elif isinstance(scorer, Metric):
                metrics.setdefault(sample.id, []).append(scorer)
            else:
                judged.setdefault(scorer.name, []).append(sample)
    jobs = [(sample, metrics[sample.id]) for sample in samples if sample.id in metrics]
    if division.engine == "local":
        yield from read_all(jobs, division.workers)
    else:
        yield from read_apart(jobs, division)
    for scorer in scorers:
        if scorer.name in judged:
            yield from scorer.score(judged[scorer.name])


def _unusable(scorer: Scorer, sample: Sample) -> str:
    """Why a sample cannot be scored at all; empty when it can be tried."""
    if "truth" in scorer.needs and sample.truth is None:
        return NO_TRUTH
    for clip in (sample.clip, sample.truth):
        if clip and readable(str(clip.path)) != str(clip.path):
            return f"{readable(str(clip.path))}: its name is not written in UTF-8; rename it"
    path = sample.clip.path
    if path.exists() and not path.is_file():
        return f"{path}: is a pipe or a device; write it to a file"
    if path.is_file():
        return ""
    return f"{path}: no such file"


def _still_holds(score: Score, sample: Sample, scorer: Scorer | None) -> bool:
    """Whether clip and truth are those that were scored; a video or truth that was not there is
    looked for again.

    Where no truth is given this time, numbers that had one stay; so do those of scorers that are
    not asked (None).
    """
    if score.sha256 != sample.sha256:
        return False
    needs_truth = score.truth_sha256 if scorer is None else "truth" in scorer.needs
    if needs_truth and sample.truth and score.truth_sha256 != sample.truth_sha256:
        return False
    if scorer is None:
        return True
    if isinstance(scorer, Metric) and not read_alike(score, sample):
        return False
    return bool(score.sha256) and (
        bool(score.reason) or getattr(scorer, "still_has", lambda _: True)(sample)
    )
