"""Metrics: scorers that compute. One decoding of a clip serves all of them.

A `Metric` gives each clip a number; a `SetMetric` compares two sets of clips. Both read a `View`,
which decodes what is asked for and keeps short clips while they are being read; long ones pass by
in blocks of frames. All metrics that look at one frame at a time (`FrameMetric`) share that
passage. Clips go through in parallel, and no more of them are in memory than there are workers. A
new metric is one class and one line in `registry.SCORERS` or `registry.SET_METRICS`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.cluster import Division
from flowportrait.config import Frozen
from flowportrait.errors import FlowPortraitError, MediaError
from flowportrait.files import JsonObject
from flowportrait.records import Score
from flowportrait.scoring import Need, Sample, digest_of, score_row
from flowportrait.scoring.metrics.view import Unscorable, View

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """A number, and what stands beside it: counts and figures without which it could mislead."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


class _Computed:
    """Common base of metrics of clips and of sets: settings, and all that decides their values."""

    name: ClassVar[str]
    unit: ClassVar[str]
    low: ClassVar[float]
    high: ClassVar[float]
    better: ClassVar[Literal["higher", "lower"]]
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})
    version: ClassVar[int] = 1
    """Raised when the same settings give other numbers than before."""

    class Config(Frozen):
        """No settings."""

    def __init__(self, config: Any = None):
        self.config = config or self.Config()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process as its settings; what it has loaded is loaded there anew."""
        return type(self), (self.config,)

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights in use; empty if there are none. Raises CheckpointError when they
        are not there.
        """
        return ""

    @cached_property
    def fingerprint(self) -> str:
        """Digest of settings, version and weights."""
        # The same weights at another path, or elsewhere at work, give the same scores.
        settings = self.config.model_dump(mode="json", exclude={"weights", "device"})
        return digest_of(self.name, self.version, settings, self.weights_sha256)

    def about_scores(self) -> JsonObject:
        """Facts of the metric in the record of every score, with or without a number."""
        return {
            "settings": self.config.model_dump(mode="json"),
            "weights_sha256": self.weights_sha256,
        }

    def provenance(self) -> JsonObject:
        """Facts that a report must state beside a number: settings, weights, version."""
        head = {"name": self.name, "version": self.version, "fingerprint": self.fingerprint}
        return head | self.about_scores()


class Metric(_Computed):
    """A `Scorer` that computes one clip at a time; a subclass declares itself and writes `read`."""

    looks_at_fps: float | None = None
    """Frame rate at which clips are read; None for the clip's own."""

    def read(self, view: View) -> Reading:
        """The number of one clip. Raises Unscorable or MediaError when there is none."""
        raise NotImplementedError

    def score(self, samples: Iterable[Sample]) -> Iterator[Score]:
        """See `Scorer`."""
        return read_all((sample, [self]) for sample in samples)


Job = tuple[Sample, Sequence[Metric]]


class FrameMetric(Metric):
    """A metric that looks at one frame at a time, or at one with its truth; a subclass writes
    `values` and `conclude`.

    All of them see a clip in one passage, whatever its length. One that needs a truth leaves the
    first frame out when its settings say `skip_first`.
    """

    def values(self, *frames: Array) -> Array:
        """Values of each frame of a block, float [n, ...]; given the truth's too if it is needed.
        May raise Unscorable.
        """
        raise NotImplementedError

    def conclude(self, values: Array) -> Reading:
        """The number of a clip by the values of its frames, of which there is at least one. May
        raise Unscorable.
        """
        raise NotImplementedError

    def read(self, view: View) -> Reading:
        """The number of one clip. Raises Unscorable or MediaError when there is none."""
        look_together([self], view)
        found = view.keep(self._key, dict)
        if isinstance(found, FlowPortraitError):
            raise found
        return self.conclude(found)

    @property
    def _key(self) -> Hashable:
        return "values", self.name, self.fingerprint


def look_together(metrics: Sequence[FrameMetric], view: View) -> None:
    """Keeps what all these metrics see, or why they cannot, in `view`: one passage of the frames,
    one of the pairs.
    """
    fresh = [metric for metric in metrics if not view.knows(metric._key)]
    paired = [metric for metric in fresh if "truth" in metric.needs]
    alone = [metric for metric in fresh if "truth" not in metric.needs]
    if alone:
        _look(alone, view, ((block,) for block in view.blocks()))
    if paired:
        _look(paired, view, view.pair_blocks())


def _look(metrics: Sequence[FrameMetric], view: View, blocks: Iterator[tuple[Array, ...]]) -> None:
    found: dict[FrameMetric, Any] = {metric: [] for metric in metrics}
    try:
        first = True
        for block in blocks:
            for metric in metrics:
                seen = found[metric]
                start = int(first and getattr(metric.config, "skip_first", False))
                if isinstance(seen, list) and len(block[0]) > start:
                    try:
                        seen.append(metric.values(*(part[start:] for part in block)))
                    except Unscorable as error:
                        found[metric] = error
            first = False
    except (Unscorable, MediaError) as error:
        found = dict.fromkeys(metrics, error)
    for metric, seen in found.items():
        if isinstance(seen, list):
            seen = np.concatenate(seen) if seen else Unscorable("has no frame after the first")
        view.keep(metric._key, lambda seen=seen: seen)


@dataclass(frozen=True)
class SetReading:
    """A distance of two sets, what stands beside it, and what to be warned of."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class SetMetric(_Computed):
    """Compares a set of clips with another; a subclass writes `features` and `compare`."""

    def features(self, view: View) -> Array:
        """Features that are kept of one clip, float [n, d]. Raises Unscorable or MediaError when
        there is nothing.
        """
        raise NotImplementedError

    def compare(self, made: Sequence[Array], truth: Sequence[Array]) -> SetReading:
        """The distance of two sets by the features of their clips. Raises Unscorable when there are
        too few.
        """
        raise NotImplementedError


def read_all(jobs: Iterable[Job], workers: int = 2) -> Iterator[Score]:
    """The scores of all samples, each by its metrics, clip by clip as they are done."""
    return in_parallel(_rows, jobs, workers)


def read_apart(jobs: Iterable[Job], division: Division) -> Iterator[Score]:
    """Reads clips in processes of a cluster. A clip that crashed two of them has no score."""
    jobs = list(jobs)
    metrics = {metric.name: metric for _, own in jobs for metric in own}
    tasks = [(sample, tuple(metric.name for metric in own)) for sample, own in jobs]
    for (sample, names), rows in division.compute(_Reader(metrics), tasks):
        lost = "ended both processes that looked at it; try it again with --retry-unscored"
        yield from rows or (
            score_row(metrics[name], sample, reason=lost, **metrics[name].about_scores())
            for name in names
        )


@dataclass(frozen=True)
class _Reader:
    """Metrics by name, as they are sent to a process."""

    metrics: Mapping[str, Metric]

    def __call__(self, task: tuple[Sample, tuple[str, ...]]) -> list[Score]:
        """The scores of one clip by the metrics of these names."""
        sample, names = task
        return _rows((sample, [self.metrics[name] for name in names]))


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads each of which may use its share of those that torch computes with."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ThreadPoolExecutor(workers, "metric")
    share = max(1, torch.get_num_threads() // workers)
    return ThreadPoolExecutor(workers, "metric", torch.set_num_threads, (share,))


def in_parallel(
    work: Callable[[T], Sequence[Any]], jobs: Iterable[T], workers: int
) -> Iterator[Any]:
    """All that `work` gives for the jobs, as it is done; a job starts when another has ended and
    been taken.

    The workers share the threads that torch computes with, where torch is in use at all.
    """
    waiting = iter(jobs)
    with _pool(workers) as pool:
        running = {pool.submit(work, job) for _, job in zip(range(workers), waiting, strict=False)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for ended in done:
                yield from ended.result()
                running |= {
                    pool.submit(work, job) for _, job in zip(range(1), waiting, strict=False)
                }


def _rows(job: Job) -> list[Score]:
    """Scores of a sample by each metric."""
    sample, metrics = job
    # Before it is looked at: a file that is replaced meanwhile is then scored again the next time.
    sample.sha256, sample.truth_sha256  # noqa: B018
    view = View(sample)
    look_together([metric for metric in metrics if isinstance(metric, FrameMetric)], view)
    return [_row(metric, view) for metric in metrics]


def _row(metric: Metric, view: View) -> Score:
    """The score of a view by one metric, or the reason why there is none."""
    sample = view.sample
    about = metric.about_scores() | {"source": _source(view, metric)}
    try:
        reading = metric.read(view)
    except (Unscorable, MediaError) as error:
        return score_row(
            metric,
            sample,
            reason=" ".join(str(error).split()),
            **about,
        )
    if not math.isfinite(reading.value):
        return score_row(
            metric, sample, reason=f"{metric.name} is {reading.value} for this clip", **about
        )
    model = metric.weights_sha256[:16]
    about["warnings"] = list(dict.fromkeys(view.warnings))
    return score_row(metric, sample, reading.value, parts=dict(reading.parts), model=model, **about)


def read_alike(score: Score, sample: Sample) -> bool:
    """Whether the video of a metric's score was read as it would be today: by this reader, or as a
    plain file, which all versions of it read alike."""
    if not score.source or score.source.get("reader") == media.READER_VERSION:
        return True
    clips = [sample.clip, sample.truth] if score.truth_sha256 and sample.truth else [sample.clip]
    try:
        return all(media.is_plain(clip.path) for clip in clips)
    except MediaError:
        return False


def _source(view: View, metric: Metric) -> dict[str, float]:
    """Facts of the video; none of one that cannot be read."""
    try:
        facts = view.sample.clip.facts
    except MediaError:
        return {}
    return {
        "fps": facts.fps,
        "num_frames": facts.num_frames,
        "duration_s": facts.duration_s,
        "looked_at_fps": metric.looks_at_fps or facts.fps,
        "reader": float(media.READER_VERSION),
    }
