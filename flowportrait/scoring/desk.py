"""Scoring beside sampling: measures of a batch at work in threads while the next one is sampled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from flowportrait.scoring.reward import Candidate, Measure


class ScoringDesk:
    """Scores candidates in threads while the caller goes on; `collect` gives what is due, in order
    of submission. Scorers that wait for a server have `waiting` threads of their own.
    """

    def __init__(self, measures: Mapping[str, Measure], workers: int, waiting: int = 48):
        self.measures = dict(measures)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scorer")
        self._waiting = ThreadPoolExecutor(waiting, thread_name_prefix="judge")
        self._due: list[dict[str, Future[float] | None]] = []

    def submit(self, candidate: Candidate | None, names: Iterable[str] | None = None) -> None:
        """Takes a clip to be scored under `names`, or by all; None stands for a clip that came out
        unusable, never scored.
        """
        wanted = self.measures if names is None else names
        jobs = {name: self._begun(self.measures[name], candidate) for name in wanted}
        self._due.append(jobs)

    def _begun(self, measure: Measure, candidate: Candidate | None) -> Future[float] | None:
        if candidate is None:
            return None
        return (self._waiting if measure.waits else self._threads).submit(measure, candidate)

    def collect(self) -> list[dict[str, float]]:
        """The scores of every clip submitted since the last time, waiting for those that are not
        ready.
        """
        due = self._due
        self._due = []
        return [
            {name: float(job.result()) if job else math.nan for name, job in jobs.items()}
            for jobs in due
        ]

    def close(self) -> None:
        """Lets the threads go; what was not collected is dropped."""
        for threads in (self._threads, self._waiting):
            threads.shutdown(wait=False, cancel_futures=True)
