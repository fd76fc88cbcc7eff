"""The reward of §3.3: scores from outside become one number a clip (Eq. 11 and 17). Knows no torch
and no scorer by name.

A scorer is anything that is called with a `Candidate` and gives a float, nan when it cannot score
the clip (a judge whose reply is of no use, a face that is not found). Nan is never replaced by a
number: the clip drops out, is counted, and too many of them end the run. A scorer that raises ends
the run at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from flowportrait import scoring
from flowportrait.arrays import Array
from flowportrait.config import Frozen
from flowportrait.errors import TrainingError
from flowportrait.files import JsonObject
from flowportrait.media import Sound
from flowportrait.records import Score
from flowportrait.scoring import Need, Sample, digest_of, score_row


@dataclass(frozen=True)
class Candidate:
    """A generated clip beside what it was made from.

    `frames` uint8 [f, h, w, 3], like `truth`, the real clip of this speech; `portrait` uint8 [h, w,
    3]; `mouth` is the box (left, top, right, bottom) of the portrait's mouth in px, where it is
    known. `points` [f, 68, 2] are the landmarks that the clip was made of and `true_points` those
    of the real clip, as (x, y) in [-1, 1] of the picture, where they are known. Without `frames`
    the clip was not decoded, because nothing that is asked looks at a pixel.
    """

    key: str
    frames: Array | None
    fps: float
    sound: Sound
    portrait: Array
    truth: Array | None = None
    mouth: tuple[int, int, int, int] | None = None
    points: Array | None = None
    true_points: Array | None = None


PAPER = {"perceptual": "lpips", "consistency": "raft-jitter"}
"""The paper's names of two rewards, and the scorers behind them."""


def scorer_of(name: str) -> str:
    """The scorer that a term's name stands for."""
    return PAPER.get(name, name)


Scorer = Callable[[Candidate], float]
"""One number for a clip; nan when it cannot be scored. Called from several threads at a time."""


@dataclass(frozen=True)
class Measure:
    """A scorer with what a run must know of it.

    Its number is what it measures, and `better` says which way is good: only the reward turns it
    round. `reads` says whether it looks at frames or at landmarks alone. A `monitor` watches for
    rewards that are cheated and can be in none. `waits` says that it waits for a server rather than
    computes, so that many can be under way.

    `of_points` is the number as a differentiable function of landmarks [f, 68, 2] made and true, as
    tensors, where there is one; nan where they say nothing.
    """

    scorer: Scorer
    better: Literal["higher", "lower"] = "higher"
    reads: Literal["frames", "points"] = "frames"
    monitor: bool = False
    waits: bool = False
    of_points: Callable[[Any, Any], Any] | None = None

    def __call__(self, candidate: Candidate) -> float:
        return self.scorer(candidate)

    def as_reward(self, values: Array) -> Array:
        """The values with a sign such that higher is better."""
        if self.better == "higher":
            return values
        return -values


class Term(Frozen):
    """One normalized term of Eq. 17: the mean of its scorers (Eq. 11), times `weight`."""

    scorers: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0)

    @property
    def name(self) -> str:
        """The joined names of its scorers."""
        return "+".join(self.scorers)


class RewardConfig(Frozen):
    """The composite of Eq. 17 with §3.3's weights, and what happens to clips without a score."""

    terms: tuple[Term, ...] = Field(
        (
            Term(scorers=("lip_sync", "expressiveness", "motion")),
            Term(scorers=("perceptual",), weight=0.2),
            Term(scorers=("consistency",), weight=0.2),
        ),
        min_length=1,
    )
    ddof: Literal[0, 1] = Field(
        0, description="delta degrees of freedom of the std over the batch. Unstated"
    )
    statistics: Literal["batch", "running"] = Field(
        "batch",
        description=(
            "mean and std for the normalization; running: those of earlier batches, so that a"
            " group can be rewarded before the batch is complete"
        ),
    )
    running_decay: float = Field(0.9, ge=0, lt=1, description="decay of the running statistics")
    unscored: Literal["sample", "group"] = Field(
        "sample", description="drop only a clip without a score (sample), or its whole group"
    )
    max_unscored_share: float = Field(
        0.1, ge=0, le=1, description="stop the run if a larger share of a batch has no score"
    )
    workers: int = Field(4, ge=1, description="number of scorers computed concurrently")
    judge_workers: int = Field(
        48, ge=1, description="number of clips judged concurrently, in addition to the workers"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> RewardConfig:
        """Refuses two terms of one name."""
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"terms {names}: duplicate term; merge the two and add their weights")
        return self

    @property
    def scorers(self) -> list[str]:
        """Every scorer that the terms name, once."""
        return list(dict.fromkeys(name for term in self.terms for name in term.scorers))


@dataclass
class Statistics:
    """Mean and variance of each term, by name: of the batch at hand, or running over the ones
    before it.
    """

    moments: dict[str, tuple[float, float]] = field(default_factory=dict)

    def learn(
        self,
        values: Mapping[str, Array],
        decay: float,
        ddof: int = 0,
    ) -> None:
        """Moves toward a batch; what is new is taken as it is."""
        for name, value in values.items():
            fresh = (float(value.mean()), float(value.var(ddof=ddof)))
            known = self.moments.get(name, fresh)
            self.moments[name] = tuple(
                decay * a + (1 - decay) * b for a, b in zip(known, fresh, strict=True)
            )

    def normalise(self, name: str, value: Array) -> Array:
        """(R - mean) / std; 0 where the term does not vary."""
        std = self.std(name)
        if std:
            return (value - self.moments[name][0]) / std
        return np.zeros_like(value)

    def std(self, name: str) -> float:
        """Std of a term; 0 if it varies only by rounding."""
        mean, variance = self.moments[name]
        varies = variance > (1e-9 * max(abs(mean), 1e-300)) ** 2
        if varies:
            return math.sqrt(variance)
        return 0.0


@dataclass(frozen=True)
class Rewards:
    """`final` [n] is Eq. 17's, nan for clips that dropped out; `parts` the weighted terms it is the
    sum of; `scales` what a unit of each term counts, its weight over its std.
    """

    final: Array
    parts: dict[str, Array]
    num_unscored: int
    scales: dict[str, float] = field(default_factory=dict)

    def explained(self, group: Array) -> dict[str, float]:
        """The share of the rewards' variance within groups that each term brings; together 1 (nan
        if none varies).
        """
        scored = np.isfinite(self.final)
        total = _within(self.final[scored], group[scored])
        whole = float(total @ total)
        return {
            name: float(_within(part[scored], group[scored]) @ total) / whole if whole else math.nan
            for name, part in self.parts.items()
        }


def composite(
    scores: Mapping[str, Array],
    group: Array,
    config: RewardConfig,
    running: Statistics | None = None,
) -> Rewards:
    """Eq. 17 over a whole batch, all ranks together: `scores` [n] by scorer, `group` [n].

    R = sum of w (R_term - mean) / std, a term being the mean of its scorers (Eq. 11). Given
    `running` statistics, these normalise the batch and then learn from it. Raises TrainingError
    when too many clips are unscored.
    """
    raw = {
        term.name: np.mean([scores[name] for name in term.scorers], axis=0) for term in config.terms
    }
    unscored = ~np.isfinite(np.stack(list(raw.values()))).all(0)
    _refuse_too_many(unscored, scores, config)
    dropped = unscored
    if config.unscored == "group":
        dropped = np.isin(group, group[unscored])
    kept = {name: value[~dropped] for name, value in raw.items()}
    if running is None or not running.moments:
        statistics = Statistics()
        statistics.learn(kept, 0.0, config.ddof)
    else:
        statistics = running
    parts = {term.name: np.full(len(group), math.nan) for term in config.terms}
    for term in config.terms:
        parts[term.name][~dropped] = term.weight * statistics.normalise(term.name, kept[term.name])
    stds = {term.name: statistics.std(term.name) for term in config.terms}
    scales = {term.name: term.weight / (stds[term.name] or math.inf) for term in config.terms}
    if running is not None:
        running.learn(kept, config.running_decay, config.ddof)
    final = np.sum(list(parts.values()), axis=0)
    return Rewards(final, parts, int(unscored.sum()), scales)


class CompositeReward:
    """Eq. 17 over all clips of a run as one batch; its parts are the weighted terms that it is the
    sum of.
    """

    name = "reward"
    unit = "std"
    low = -math.inf
    high = math.inf
    better = "higher"
    needs: ClassVar[frozenset[Need]] = frozenset()
    Config = RewardConfig

    def __init__(self, config: RewardConfig, scorers: Sequence[scoring.Scorer]):
        self.config = config
        self.scorers = {
            name: next(s for s in scorers if s.name == scorer_of(name)) for name in config.scorers
        }

    @property
    def fingerprint(self) -> str:
        """Digest of the terms and of their scorers; the batch stands in the records."""
        return digest_of(
            self._settings(), {name: scorer.fingerprint for name, scorer in self.scorers.items()}
        )

    def provenance(self) -> JsonObject:
        """Facts that a report must state about it."""
        return {"name": self.name, "fingerprint": self.fingerprint, "settings": self._settings()}

    def score(self, samples: Iterable[Sample]) -> Iterator[Score]:
        """See `scoring.Scorer`; the number of a clip depends on the others."""
        samples = list(samples)
        scorers = dict.fromkeys(self.scorers.values())
        yield from self.of_batch(
            samples, [row for scorer in scorers for row in scorer.score(samples)]
        )

    def of_batch(self, samples: Sequence[Sample], scores: Iterable[Score]) -> list[Score]:
        """The rewards of these clips by the scores of their terms; a clip that lacks one has
        none.
        """
        found: dict[tuple[str, str], list[Score]] = {}
        for score in scores:
            found.setdefault((score.clip, score.scorer), []).append(score)
        columns = {
            name: [self._value(sample, name, found) for sample in samples] for name in self.scorers
        }
        values = {
            name: np.array([value for value, _ in column]) for name, column in columns.items()
        }
        complete = np.isfinite(np.stack(list(values.values()))).all(0)
        lacking = [
            "; ".join(f"{name}: {column[i][1]}" for name, column in columns.items() if column[i][1])
            for i in range(len(samples))
        ]
        if complete.sum() < 2:
            alone = "no other clip of this run has all scores; a batch needs two"
            return [
                score_row(self, sample, reason=why or alone)
                for sample, why in zip(samples, lacking, strict=True)
            ]
        config = self.config.model_copy(update={"max_unscored_share": 1.0, "unscored": "sample"})
        rewards = composite(values, np.zeros(len(samples), int), config)
        scored = {name: column[complete] for name, column in values.items()}
        spread = {
            name: [float(c.mean()), float(c.std(ddof=self.config.ddof))]
            for name, c in scored.items()
        }
        settings = self._settings() | {"batch_clips": int(complete.sum()), "mean_and_std": spread}
        return [
            score_row(self, sample, reason=why, settings=settings)
            if why
            else score_row(
                self,
                sample,
                float(rewards.final[i]),
                settings=settings,
                parts={term: float(part[i]) for term, part in rewards.parts.items()},
            )
            for i, (sample, why) in enumerate(zip(samples, lacking, strict=True))
        ]

    def _settings(self) -> JsonObject:
        return self.config.model_dump(mode="json", include={"terms", "ddof"})

    def _value(
        self, sample: Sample, name: str, found: Mapping[tuple[str, str], list[Score]]
    ) -> tuple[float, str]:
        """A clip's number by one scorer, its repeats averaged, more is better; else nan and the
        reason.
        """
        rows = found.get((sample.id, scorer_of(name)), [])
        values = [row.value for row in rows if not row.reason]
        if not values:
            return math.nan, rows[0].reason if rows else "no score"
        sign = -1.0
        if self.scorers[name].better == "higher":
            sign = 1.0
        return sign * sum(values) / len(values), ""


def _refuse_too_many(unscored: Array, scores: Mapping[str, Array], config: RewardConfig) -> None:
    """Raises TrainingError when more clips lack a score than is allowed."""
    if unscored.mean() <= config.max_unscored_share and not unscored.all():
        return
    failures = {name: int((~np.isfinite(scores[name])).sum()) for name in config.scorers}
    worst = max(failures, key=failures.get)
    raise TrainingError(
        f"reward: {unscored.sum()} of {len(unscored)} clips have no score ('{worst}' gave none for"
        f" {failures[worst]}); allowed is a share of {config.max_unscored_share}; fix the scorer,"
        " then resume"
    )


def _within(values: Array, group: Array) -> Array:
    """Deviations from the mean of the group."""
    _, index = np.unique(group, return_inverse=True)
    return values - (np.bincount(index, values) / np.maximum(np.bincount(index), 1))[index]


def columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Rows of scores as float64 arrays by scorer."""
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}
