"""Scorers as the rewards that a training run names: a `Candidate` goes in, a number comes out, more
is better.

`perceptual` is minus LPIPS (Eq. 12-13), `consistency` minus RAFT's jitter (Eq. 14-16); `lip_sync`,
`expressiveness` and `motion` are the judge's three aspects (Eq. 11 is their mean, which the
reward's term takes). Every other scorer can be named as well and enters with minus where less is
better.
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
from flowportrait.errors import ConfigError, MediaError
from flowportrait.registry import SCORERS, Table, name_hint
from flowportrait.scoring import Sample, Scorer
from flowportrait.scoring.judges.canary import check_senses
from flowportrait.scoring.judges.systems import ScoreSystem
from flowportrait.scoring.metrics.metric import CandidateView, Metric, Unscorable
from flowportrait.scoring.reward import PAPER, Candidate, CompositeReward, scorer_of
from flowportrait.scoring.reward import Scorer as Measure
from flowportrait.scoring.run import ScoringConfig, build_scorers


def build_measures(
    names: Iterable[str], own: Table, config: ScoringConfig, answers: Path
) -> dict[str, Measure]:
    """What scores candidates under these names: functions of the table `own`, else scorers.

    Raises ConfigError for a name that neither has, CheckpointError for weights that are not there.
    """
    names = list(names)
    scorers = {name: scorer_of(name) for name in names if name not in own.names()}
    single = set(SCORERS.names()) - {CompositeReward.name}
    for name, scorer in scorers.items():
        if scorer not in single:
            known = {*own.names(), *single, *PAPER}
            raise ConfigError(f"{own.kind}: no '{name}'; {name_hint(name, known)}")
    config = config.model_copy(update={"reward": None})
    by_name = {scorer.name: scorer for scorer in build_scorers(scorers.values(), config, answers)}
    built = {name: by_name[scorer] for name, scorer in scorers.items()}
    judged, views = _Loop(), Views()
    return {
        name: _measure(built[name], judged, views) if name in built else own.load(name)
        for name in names
    }


def _measure(scorer: Scorer, loop: _Loop, views: Views) -> Measure:
    if isinstance(scorer, Metric):
        return MetricMeasure(scorer, views)
    if isinstance(scorer, ScoreSystem):
        return JudgeMeasure(scorer, loop)
    raise ConfigError(
        f"reward: '{scorer.name}' is neither a metric nor a judge; a training run cannot ask it"
    )


class Views:
    """The views of the last candidates: all metrics of one share what was found in it, such as its
    face.
    """

    def __init__(self, kept: int = 8):
        self._views: list[CandidateView] = []
        self._kept, self._lock = kept, threading.Lock()

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
    """A metric's number of a candidate, with minus where less is better; nan when it has none."""

    def __init__(self, metric: Metric, views: Views):
        self.metric, self._views = metric, views
        self._sign = 1.0 if metric.better == "higher" else -1.0

    def __call__(self, candidate: Candidate) -> float:
        try:
            return self._sign * self.metric.read(self._views.of(candidate)).value
        except Unscorable:
            return math.nan


class JudgeMeasure:
    """A judge's score of a candidate, shown to it as an mp4 with its sound; nan for an answer that
    is of no use.

    Raises JudgeError when the run must stop.
    """

    def __init__(self, system: ScoreSystem, loop: _Loop):
        self.system, self._loop = system, loop

    def __call__(self, candidate: Candidate) -> float:
        with tempfile.TemporaryDirectory(prefix="flowportrait-") as folder:
            path = Path(folder) / "clip.mp4"
            try:
                _write(path, candidate)
            except MediaError:
                return math.nan
            return self._loop.run(self.system, Sample(candidate.key, media.Clip(path)))


def _write(path: Path, candidate: Candidate) -> None:
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
        judge = system.judge
        if id(judge) not in self._opened:
            self._opened = {**self._opened, id(judge): asyncio.ensure_future(_open(judge))}
        await self._opened[id(judge)]
        return (await system.score_one(sample, 0)).value


async def _open(judge) -> None:
    await judge.__aenter__()
    await check_senses(judge)
