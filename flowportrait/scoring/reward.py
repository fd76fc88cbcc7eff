"""The reward of §3.3: scores from outside become one number a clip (Eq. 11 and 17). Knows no torch and no scorer.

A scorer is anything that is called with a `Candidate` and gives a float, nan when it cannot score the clip (a judge
whose reply is of no use, a face that is not found). Nan is never replaced by a number: the clip drops out, is
counted, and too many of them end the run. A scorer that raises ends the run at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from flowportrait.config import Frozen
from flowportrait.errors import TrainingError
from flowportrait.media import Sound


@dataclass(frozen=True)
class Candidate:
    """A generated clip beside what it was made from.

    `frames` uint8 [f, h, w, 3], like `truth`, the real clip of this speech; `portrait` uint8 [h, w, 3]; `mouth` is the
    box (left, top, right, bottom) of the portrait's mouth in px, where it is known.
    """

    key: str
    frames: np.ndarray
    fps: float
    sound: Sound
    portrait: np.ndarray
    truth: np.ndarray | None = None
    mouth: tuple[int, int, int, int] | None = None


Scorer = Callable[[Candidate], float]
"""One number for a clip; nan when it cannot be scored. Called from several threads at a time."""


class Term(Frozen):
    """One normalised reward of Eq. 17: the mean of its scorers (Eq. 11), times `weight`."""

    scorers: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0)

    @property
    def name(self) -> str:
        """Its scorers' names, joined."""
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
    ddof: Literal[0, 1] = Field(0, description="Unstated: of the std within the batch")
    statistics: Literal["batch", "running"] = Field(
        "batch", description="running: of earlier batches, so that a group can be rewarded before the batch is complete"
    )
    running_decay: float = Field(0.9, ge=0, lt=1)
    unscored: Literal["sample", "group"] = Field(
        "sample", description="what drops out with an unscored clip: the clip, or its group"
    )
    max_unscored_share: float = Field(0.1, ge=0, le=1, description="of a batch; above it the run stops")
    workers: int = Field(4, ge=1, description="scorers that run at the same time")

    @model_validator(mode="after")
    def _names_differ(self) -> RewardConfig:
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"terms {names}: two are the same; give one of them the sum of the weights")
        return self

    @property
    def scorers(self) -> list[str]:
        """Every scorer that the terms name, once."""
        return list(dict.fromkeys(name for term in self.terms for name in term.scorers))


@dataclass
class Statistics:
    """Mean and variance of each term, by name: of the batch at hand, or running over the ones before it."""

    moments: dict[str, tuple[float, float]] = field(default_factory=dict)

    def learn(self, values: Mapping[str, np.ndarray], decay: float, ddof: int = 0) -> None:
        """Moves toward a batch; what is new is taken as it is."""
        for name, value in values.items():
            fresh = (float(value.mean()), float(value.var(ddof=ddof)))
            known = self.moments.get(name, fresh)
            self.moments[name] = tuple(decay * a + (1 - decay) * b for a, b in zip(known, fresh, strict=True))

    def normalise(self, name: str, value: np.ndarray) -> np.ndarray:
        """(R - mean) / std; 0 where the term does not vary."""
        mean, variance = self.moments[name]
        varies = variance > (1e-9 * max(abs(mean), 1e-300)) ** 2
        return (value - mean) / math.sqrt(variance) if varies else np.zeros_like(value)


@dataclass(frozen=True)
class Rewards:
    """`final` [n] is Eq. 17's, nan for clips that dropped out; `parts` the weighted terms it is the sum of."""

    final: np.ndarray
    parts: dict[str, np.ndarray]
    num_unscored: int

    def explained(self, group: np.ndarray) -> dict[str, float]:
        """The share of the rewards' variance within groups that each term brings; together 1 (nan if none varies)."""
        scored = np.isfinite(self.final)
        total = _within(self.final[scored], group[scored])
        whole = float(total @ total)
        return {
            name: float(_within(part[scored], group[scored]) @ total) / whole if whole else math.nan
            for name, part in self.parts.items()
        }


def composite(
    scores: Mapping[str, np.ndarray], group: np.ndarray, config: RewardConfig, running: Statistics | None = None
) -> Rewards:
    """Eq. 17 over a whole batch, all ranks together: `scores` [n] by scorer, `group` [n].

    R = sum of w (R_term - mean) / std, a term being the mean of its scorers (Eq. 11). Given `running` statistics, these
    normalise the batch and then learn from it. Raises TrainingError when too many clips are unscored.
    """
    raw = {term.name: np.mean([scores[name] for name in term.scorers], axis=0) for term in config.terms}
    unscored = ~np.isfinite(np.stack(list(raw.values()))).all(0)
    _refuse_too_many(unscored, scores, config)
    dropped = np.isin(group, group[unscored]) if config.unscored == "group" else unscored
    kept = {name: value[~dropped] for name, value in raw.items()}
    if running is None or not running.moments:
        statistics = Statistics()
        statistics.learn(kept, 0.0, config.ddof)
    else:
        statistics = running
    parts = {term.name: np.full(len(group), math.nan) for term in config.terms}
    for term in config.terms:
        parts[term.name][~dropped] = term.weight * statistics.normalise(term.name, kept[term.name])
    if running is not None:
        running.learn(kept, config.running_decay, config.ddof)
    return Rewards(np.sum(list(parts.values()), axis=0), parts, int(unscored.sum()))


def _refuse_too_many(unscored: np.ndarray, scores: Mapping[str, np.ndarray], config: RewardConfig) -> None:
    if unscored.mean() <= config.max_unscored_share and not unscored.all():
        return
    failures = {name: int((~np.isfinite(scores[name])).sum()) for name in config.scorers}
    worst = max(failures, key=failures.get)
    raise TrainingError(
        f"reward: {unscored.sum()} of {len(unscored)} clips have no score ('{worst}' gave none for {failures[worst]}); "
        f"allowed is a share of {config.max_unscored_share}; mend the scorer, then resume"
    )


def _within(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Deviations from the mean of the group."""
    _, index = np.unique(group, return_inverse=True)
    return values - (np.bincount(index, values) / np.maximum(np.bincount(index), 1))[index]


class ScoringDesk:
    """Scores candidates in threads while the caller goes on; `collect` gives what is due, in order of submission."""

    def __init__(self, scorers: Mapping[str, Scorer], workers: int):
        self.scorers = dict(scorers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scorer")
        self._due: list[dict[str, Future[float]]] = []

    def submit(self, candidate: Candidate | None) -> None:
        """Takes a clip to be scored by all scorers; None stands for a clip that came out unusable, never scored."""
        jobs = {} if candidate is None else self.scorers
        self._due.append({name: self._threads.submit(scorer, candidate) for name, scorer in jobs.items()})

    def collect(self) -> list[dict[str, float]]:
        """The scores of every clip submitted since the last time, waiting for those that are not ready."""
        due, self._due = self._due, []
        return [{name: float(jobs[name].result()) if jobs else math.nan for name in self.scorers} for jobs in due]

    def close(self) -> None:
        """Lets the threads go; what was not collected is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def columns(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Rows of scores as float64 arrays by scorer."""
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}
