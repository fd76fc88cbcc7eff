"""Scorers that a training run names in its reward, as measures of a `Candidate` with a declared
direction.

`perceptual` is LPIPS (Eq. 12-13), `consistency` RAFT's jitter (Eq. 14-16), of both less is better;
`lip_sync`, `expressiveness` and `motion` are the judge's three aspects (Eq. 11 is their mean, which
the reward's term takes). Every other scorer can be named as well.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.config import validate
from flowportrait.errors import ConfigError, MediaError
from flowportrait.registry import JUDGE_BACKENDS, SCORERS, PartTable, name_hint
from flowportrait.scoring import Sample, Scorer
from flowportrait.scoring.judges.asking import JudgeConfig
from flowportrait.scoring.judges.backends import DEFAULT_BACKEND
from flowportrait.scoring.judges.canary import check_senses
from flowportrait.scoring.judges.presets import backend_of
from flowportrait.scoring.judges.systems import ScoreSystem
from flowportrait.scoring.metrics.metric import Metric
from flowportrait.scoring.metrics.view import CandidateView, Unscorable
from flowportrait.scoring.reward import PAPER, Candidate, CompositeReward, Measure, scorer_of
from flowportrait.scoring.run import ScoringConfig, build_scorers


def build_measures(
    names: Iterable[str], own: PartTable, config: ScoringConfig, answers: Path
) -> dict[str, Measure]:
    """Measures of candidates by these names: entries of the table `own`, else scorers.

    Raises ConfigError for a name that neither has, CheckpointError for weights that are not there.
    """
    names = list(names)
    scorers = _scorers_of(names, own)
    config = config.model_copy(update={"reward": None})
    by_name = {scorer.name: scorer for scorer in build_scorers(scorers.values(), config, answers)}
    judged = _Loop()
    views = Views()
    return {
        name: _measure(by_name[scorers[name]], judged, views)
        if name in scorers
        else named(own, name)
        for name in names
    }


def require_rewards(names: Iterable[str], own: PartTable) -> None:
    """Raises ConfigError for a name that neither the table `own` nor the scorers have, and for a
    monitor.
    """
    names = list(names)
    _scorers_of(names, own)
    for name in names:
        if name in own.names() and named(own, name).monitor:
            raise ConfigError(
                f"reward.terms: '{name}' is a monitor against reward hacking; name it in"
                " watch.monitors, and another measure here"
            )


def require_gradients(names: Iterable[str], own: PartTable) -> None:
    """Raises ConfigError where one of the names is not a differentiable function of landmarks."""
    known = [name for name in own.names() if named(own, name).of_points]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"objective.kind gradient: '{name}' has no gradient; take {', '.join(known)}, or "
                "another objective"
            )


def require_budget(names: Iterable[str], own: PartTable, config: ScoringConfig) -> None:
    """Raises ConfigError where one of the names uses a paid judge and nothing says how
    much it may spend: a training run asks thousands of times.
    """
    for name in _scorers_of(names, own).values():
        judge = judge_of(name, config)
        if judge is None:
            continue
        spec = backend_of(judge.preset, judge.backend)
        backend = JUDGE_BACKENDS.load(str(spec.get("type", DEFAULT_BACKEND)))
        paid = getattr(backend, "costs_money", False) or judge.prices is not None
        if paid and judge.budget.max_tokens is None and judge.budget.max_usd is None:
            raise ConfigError(
                f"scoring.judge.budget: {name} uses a paid judge; give max_tokens or "
                "max_usd (flowportrait plan says what a run needs), or an open judge: scoring.judge"
            )


def judge_of(name: str, config: ScoringConfig) -> JudgeConfig | None:
    """The settings of the judge that a scorer asks; None for one that computes."""
    kind = SCORERS.load(name)
    settings = getattr(kind, "Config", None)
    if not (isinstance(settings, type) and issubclass(settings, JudgeConfig)):
        return None
    values = config.judge.model_dump() | config.scorers.get(name, {})
    return validate(settings, values, where=f"scorers.{name}")


def named(own: PartTable, name: str) -> Measure:
    """An entry of a table of measures. A plain function, such as one of another package, is a
    measure of frames of which more is better.
    """
    found = own.load(name)
    if isinstance(found, Measure):
        return found
    return Measure(found)


def _scorers_of(names: Iterable[str], own: PartTable) -> dict[str, str]:
    """The scorer behind each name that is not in the table `own`. Raises ConfigError."""
    scorers = {name: scorer_of(name) for name in names if name not in own.names()}
    single = set(SCORERS.names()) - {CompositeReward.name}
    for name, scorer in scorers.items():
        if scorer not in single:
            known = {*own.names(), *single, *PAPER}
            raise ConfigError(f"{own.kind}: no '{name}'; {name_hint(name, known)}")
    return scorers


def _measure(scorer: Scorer, loop: _Loop, views: Views) -> Measure:
    """The scorer as a measure of candidates in memory."""
    if isinstance(scorer, Metric):
        return Measure(MetricMeasure(scorer, views), scorer.better)
    if isinstance(scorer, ScoreSystem):
        return Measure(JudgeMeasure(scorer, loop), scorer.better, waits=True)
    raise ConfigError(f"reward: '{scorer.name}' is neither a metric nor a judge; name one that is")


class Views:
    """The views of the last candidates: all metrics of one share what was found in it, such as its
    face.
    """

    def __init__(self, kept: int = 8):
        self._views: list[CandidateView] = []
        self._kept = kept
        self._lock = threading.Lock()

    def of(self, candidate: Candidate) -> CandidateView:
        """The view of this very candidate: keys may come again, so nothing else is taken for the
        same.
        """
        with self._lock:
            view = next((view for view in self._views if view.candidate is candidate), None)
            if view is None:
                view = CandidateView(candidate)
                # A desk works on as many clips at a time as it has threads, the oldest first.
                self._views = [*self._views, view][-self._kept :]
            return view


class MetricMeasure:
    """A metric's number of a candidate; nan when it has none."""

    def __init__(self, metric: Metric, views: Views):
        self.metric = metric
        self._views = views

    def __call__(self, candidate: Candidate) -> float:
        try:
            return self.metric.read(self._views.of(candidate)).value
        except Unscorable:
            return math.nan


class JudgeMeasure:
    """A judge's score of a candidate, shown to it as an mp4 with its sound; nan for an answer that
    is of no use.

    Raises JudgeError when the run must stop.
    """

    def __init__(self, system: ScoreSystem, loop: _Loop):
        self.system = system
        self._loop = loop

    def __call__(self, candidate: Candidate) -> float:
        with tempfile.TemporaryDirectory(prefix="flowportrait-") as folder:
            path = Path(folder) / "clip.mp4"
            try:
                _write(path, candidate)
            except MediaError:
                return math.nan
            return self._loop.run(self.system, Sample(candidate.key, media.Clip(path)))


def _write(path: Path, candidate: Candidate) -> None:
    """Writes a candidate as a video file, its sound as long as its frames."""
    samples, rate = candidate.sound
    wanted = round(len(candidate.frames) / candidate.fps * rate)
    missing = max(0, wanted - len(samples))
    sound = np.pad(samples[:wanted], [(0, missing), *[(0, 0)] * (samples.ndim - 1)])
    media.write_video(path, candidate.frames, candidate.fps, sound, rate, {})


class _Loop:
    """One event loop in a thread of its own, where every judge stays open; measures are called from
    many threads.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: Mapping[int, asyncio.Task] = {}

    def run(self, system: ScoreSystem, sample: Sample) -> float:
        """The score of one clip, nan when there is none."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True, name="judge").start()
        return asyncio.run_coroutine_threadsafe(self._scored(system, sample), self._loop).result()

    async def _scored(self, system: ScoreSystem, sample: Sample) -> float:
        """The score of a sample by a judge that is opened once."""
        judge = system.judge
        if id(judge) not in self._opened:
            self._opened = {
                **self._opened,
                id(judge): asyncio.ensure_future(_open(judge)),
            }
        await self._opened[id(judge)]
        return (await system.score_one(sample, 0)).value


async def _open(judge) -> None:
    await judge.__aenter__()
    await check_senses(judge)
