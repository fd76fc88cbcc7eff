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
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.cluster import Division
from flowportrait.config import Frozen
from flowportrait.errors import FlowPortraitError, MediaError
from flowportrait.records import Score
from flowportrait.scoring import Need, Sample, digest_of, score_row
from flowportrait.scoring.reward import Candidate

SAMPLE_RATE = 16_000
BLOCK_FRAMES = 16
KEPT_BYTES = 256 * 2**20
"""Frames of a clip beyond this are decoded again for whoever looks at them next instead of kept."""
NO_TRUTH = "no truth; give --truth with a video of the same name"
T = TypeVar("T")
Blocks = Iterator[np.ndarray]
"""Frames in order, uint8 [n, h, w, 3] with n at most `BLOCK_FRAMES`; all but the last of the same
length.
"""


class Unscorable(FlowPortraitError):
    """Why a clip has no score by a metric; becomes the score's `reason`."""


@dataclass(frozen=True)
class Reading:
    """A number, and what stands beside it: counts and figures without which it could mislead."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


class View:
    """A clip as metrics look at it. Raises MediaError for what cannot be read.

    `blocks` and `pair_blocks` take little memory whatever the clip's length; `frames`, `truth` and
    `frames_at` hold all of it at once. A short clip is decoded once for all of them.
    """

    is_upright: ClassVar[bool] = False
    """Whether the head is known to be upright, so that nobody needs to look."""

    def __init__(self, sample: Sample):
        self.sample = sample
        self.warnings: list[str] = []
        """What can hardly have been meant by what has been looked at so far."""
        self._kept: dict[Hashable, Any] = {}
        self._lock = threading.RLock()

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames, uint8 [f, h, w, 3]."""
        return np.concatenate(list(self.blocks()))

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.sample.clip.fps

    @cached_property
    def _is_even(self) -> bool:
        return self.sample.clip.is_even

    @cached_property
    def sound(self) -> np.ndarray:
        """Mono sound at 16 kHz, float32 [s]. Raises Unscorable when there is none."""
        if not self.sample.clip.facts.has_sound:
            raise Unscorable("has no sound track")
        sound = media.read_audio(self.sample.clip.path, min_s=0.0)
        self.warnings += sound.warnings
        return media.resample(sound.samples, sound.sample_rate, SAMPLE_RATE)

    @cached_property
    def pcm(self) -> np.ndarray:
        """The same in whole levels, int16 [s], to the sample what the field's scripts let ffmpeg
        write.
        """
        if not self.sample.clip.facts.has_sound:
            raise Unscorable("has no sound track")
        return media.read_pcm(self.sample.clip.path, SAMPLE_RATE)

    @cached_property
    def truth(self) -> np.ndarray:
        """Frames of the truth on the clip's own clock, uint8 [f, h, w, 3]. Raises Unscorable when
        there is none.
        """
        if self.sample.truth is None:
            raise Unscorable(NO_TRUTH)
        return np.concatenate(list(self.truth_blocks()))

    def blocks(self, fps: float | None = None) -> Blocks:
        """The frames block by block; with `fps`, by time at that rate, as `frames_at` gives them.

        Frames that come unevenly are always taken by time, at their mean rate where no other is
        asked for.
        """
        if not self._is_even:
            fps = fps or self.fps
        elif fps is not None and abs(fps - self.fps) < 1e-3:
            fps = None
        yield from self._blocks(
            ("blocks", fps), lambda: media.read_frames(self.sample.clip.path, fps=fps)
        )

    def truth_blocks(self) -> Blocks:
        """The frames of `truth` block by block. Raises Unscorable when there is none."""
        truth = self.sample.truth
        if truth is None:
            raise Unscorable(NO_TRUTH)
        yield from self._blocks("truth blocks", lambda: media.read_frames(truth.path, fps=self.fps))

    def pair_blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`pairs` block by block. What is wrong with their length shows at the end: Unscorable."""
        num_made = num_truth = 0
        for made, truth in zip_longest(self.blocks(), self.truth_blocks()):
            if made is not None and truth is not None and not num_made:
                self._warn_of_turn(made[0], truth[0])
            num_made += 0 if made is None else len(made)
            num_truth += 0 if truth is None else len(truth)
            if made is not None and truth is not None:
                count = min(len(made), len(truth))
                yield _same_size(made[:count], truth[:count])
        if abs(num_truth - num_made) > self.fps:
            raise Unscorable(
                f"lasts {num_made} frames, its truth {num_truth} on the same clock; cut them alike"
            )

    def _warn_of_turn(self, made: np.ndarray, truth: np.ndarray) -> None:
        turns = _turns_between(made, truth)
        if turns and not any(": its truth is turned" in line for line in self.warnings):
            self.warnings.append(
                f"{self.sample.clip.path.name}: its truth is turned against it by "
                f"{90 * min(turns, 4 - turns)} degrees; turn one of the videos"
            )

    def _blocks(self, key: Hashable, read: Callable[[], Iterator[np.ndarray]]) -> Blocks:
        if key in self._kept:
            yield from self._kept[key]
            return
        kept: list[np.ndarray] | None = []
        num_bytes, frames = 0, read()
        while block := list(islice(frames, BLOCK_FRAMES)):
            stacked = np.stack(block)
            num_bytes += stacked.nbytes
            if kept is not None:
                kept.append(stacked)
            if num_bytes > KEPT_BYTES:
                kept = None
            yield stacked
        if kept is not None:
            self._kept[key] = kept

    def frames_at(self, fps: float) -> np.ndarray:
        """The frames by time, not by index, at another rate: 24 frames shown as 25 would drift by
        one a second.
        """
        if abs(fps - self.fps) < 1e-3:
            return self.frames
        return self.keep(("frames", fps), lambda: np.concatenate(list(self.blocks(fps))))

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames and those of the truth at the same times, uint8 [f, h, w, 3] each.

        The larger of two sizes is made as small as the other. Raises Unscorable when their shapes
        differ or they last differently by more than a second.
        """
        made, truth = zip(*self.pair_blocks(), strict=True)
        return np.concatenate(made), np.concatenate(truth)

    def knows(self, key: Hashable) -> bool:
        """Whether something is kept under `key`."""
        return key in self._kept

    def keep(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once for all metrics of this clip that ask under the same
        `key`.
        """
        with self._lock:
            if key not in self._kept:
                self._kept[key] = compute()
            return self._kept[key]


class CandidateView(View):
    """A clip that a training run has just made, as metrics look at it; `Candidate` holds all of
    it.
    """

    is_upright = True

    def __init__(self, candidate: Candidate):
        super().__init__(Sample(candidate.key, media.Clip(Path(candidate.key))))
        self.candidate = candidate

    @property
    def frames(self) -> np.ndarray:
        """All frames, uint8 [f, h, w, 3]."""
        return self.candidate.frames

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.candidate.fps

    @cached_property
    def sound(self) -> np.ndarray:
        """Mono sound at 16 kHz, float32 [s]."""
        samples, rate = self.candidate.sound
        return media.resample(media.to_mono(samples)[0], rate, SAMPLE_RATE)

    @cached_property
    def pcm(self) -> np.ndarray:
        """The same in whole levels, int16 [s]."""
        return (self.sound * 32768).round().clip(-32768, 32767).astype(np.int16)

    @property
    def truth(self) -> np.ndarray:
        """Frames of the truth, uint8 [f, h, w, 3]. Raises Unscorable when there is none."""
        if self.candidate.truth is None:
            raise Unscorable(NO_TRUTH)
        return self.candidate.truth

    def blocks(self, fps: float | None = None) -> Blocks:
        """The frames block by block."""
        return _cut(self.frames if fps is None else self.frames_at(fps))

    def truth_blocks(self) -> Blocks:
        """The frames of the truth block by block."""
        return _cut(self.truth)

    def frames_at(self, fps: float) -> np.ndarray:
        """The frames by time at another rate, the nearest of each moment."""
        return self.frames[media.nearest_frames(len(self.frames), self.fps, fps)]


def _cut(frames: np.ndarray) -> Blocks:
    for start in range(0, len(frames), BLOCK_FRAMES):
        yield frames[start : start + BLOCK_FRAMES]


def _same_size(made: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (h, w), (true_h, true_w) = made.shape[1:3], truth.shape[1:3]
    if (h, w) == (true_h, true_w):
        return made, truth
    if abs(w / h - true_w / true_h) > 0.02 * w / h:
        raise Unscorable(
            f"is {w}x{h}, its truth {true_w}x{true_h}: not the same shape; cut them alike"
        )
    if h < true_h:
        return made, _resized(truth, w, h)
    return _resized(made, true_w, true_h), truth


_ALIKE, _UNLIKE = 0.9, 0.5


def _turns_between(made: np.ndarray, truth: np.ndarray) -> int:
    """Quarter turns by which the one of two pictures is clearly the other turned; 0 where they are
    not that.
    """
    small = [
        np.asarray(Image.fromarray(frame).convert("L").resize((16, 16), Image.Resampling.BOX))
        for frame in (made, truth)
    ]
    if any(picture.std() == 0 for picture in small):
        return 0
    likeness = [
        np.corrcoef(np.rot90(small[0], turns).ravel(), small[1].ravel())[0, 1] for turns in range(4)
    ]
    best = int(np.argmax(likeness))
    return best if likeness[best] > _ALIKE and likeness[0] < _UNLIKE else 0


def _resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
            for frame in frames
        ]
    )


def at_most(frames: np.ndarray, side_px: int) -> np.ndarray:
    """The frames [f, h, w, 3], made smaller where their longer side exceeds `side_px`."""
    height, width = frames.shape[1:3]
    scale = side_px / max(height, width)
    return frames if scale >= 1 else _resized(frames, round(width * scale), round(height * scale))


class _Computed:
    """What metrics of clips and of sets share: their settings, and what decides their numbers."""

    name: ClassVar[str]
    unit: ClassVar[str]
    low: ClassVar[float]
    high: ClassVar[float]
    better: ClassVar[Literal["higher", "lower"]]
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})
    version: ClassVar[int] = 1
    """Raised when the same settings give other numbers than before."""

    class Config(Frozen):
        """Nothing to set."""

    def __init__(self, config: Any = None):
        self.config = config or self.Config()

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process as its settings; what it has loaded is loaded there anew."""
        return type(self), (self.config,)

    @property
    def weights_sha256(self) -> str:
        """Of the weights that are used; empty when there are none. Raises CheckpointError when they
        are not there.
        """
        return ""

    @cached_property
    def fingerprint(self) -> str:
        """Digest of settings, version and weights."""
        # The same weights at another path, or elsewhere at work, give the same scores.
        settings = self.config.model_dump(mode="json", exclude={"weights", "device"})
        return digest_of(self.name, self.version, settings, self.weights_sha256)

    def about_scores(self) -> dict[str, Any]:
        """What the record of every score holds of the metric, with or without a number."""
        return {
            "settings": self.config.model_dump(mode="json"),
            "weights_sha256": self.weights_sha256,
        }

    def provenance(self) -> dict[str, Any]:
        """What a report must say about a number: settings, weights, version."""
        head = {"name": self.name, "version": self.version, "fingerprint": self.fingerprint}
        return head | self.about_scores()


class Metric(_Computed):
    """A `Scorer` that computes one clip at a time; a subclass declares itself and writes `read`."""

    looks_at_fps: float | None = None
    """The rate at which it looks at every clip; None for the clip's own."""

    def read(self, view: View) -> Reading:
        """The number of one clip. Raises Unscorable or MediaError when there is none."""
        raise NotImplementedError

    def score(self, samples: Iterable[Sample]) -> Iterator[Score]:
        """See `Scorer`."""
        return read_all((sample, [self]) for sample in samples)


class FrameMetric(Metric):
    """A metric that looks at one frame at a time, or at one with its truth; a subclass writes
    `values` and `conclude`.

    All of them see a clip in one passage, whatever its length. One that needs a truth leaves the
    first frame out when its settings say `skip_first`.
    """

    def values(self, *frames: np.ndarray) -> np.ndarray:
        """Of each frame of a block, float [n, ...]; given the truth's too if it is needed. May
        raise Unscorable.
        """
        raise NotImplementedError

    def conclude(self, values: np.ndarray) -> Reading:
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


def _look(
    metrics: Sequence[FrameMetric], view: View, blocks: Iterator[tuple[np.ndarray, ...]]
) -> None:
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
            seen = np.concatenate(seen) if seen else Unscorable("no frame is left behind the first")
        view.keep(metric._key, lambda seen=seen: seen)


@dataclass(frozen=True)
class SetReading:
    """A distance of two sets, what stands beside it, and what to be warned of."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class SetMetric(_Computed):
    """Compares a set of clips with another; a subclass writes `features` and `compare`."""

    def features(self, view: View) -> np.ndarray:
        """What is kept of one clip, float [n, d]. Raises Unscorable or MediaError when there is
        nothing.
        """
        raise NotImplementedError

    def compare(self, made: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> SetReading:
        """The distance of two sets by the features of their clips. Raises Unscorable when there are
        too few.
        """
        raise NotImplementedError


def read_all(jobs: Iterable[tuple[Sample, Sequence[Metric]]], workers: int = 2) -> Iterator[Score]:
    """The scores of all samples, each by its metrics, clip by clip as they are done."""
    return in_parallel(_rows, jobs, workers)


def read_apart(
    jobs: Iterable[tuple[Sample, Sequence[Metric]]], division: Division
) -> Iterator[Score]:
    """The same in processes of a cluster. A clip that ended two of them has no score."""
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


def in_parallel(
    work: Callable[[T], Sequence[Any]], jobs: Iterable[T], workers: int
) -> Iterator[Any]:
    """All that `work` gives for the jobs, as it is done; a job starts when another has ended and
    been taken.

    The workers share the threads that torch computes with, where torch is in use at all.
    """
    waiting, torch = iter(jobs), sys.modules.get("torch")
    share = [max(1, torch.get_num_threads() // workers)] if torch else []
    begin = torch.set_num_threads if torch else None
    with ThreadPoolExecutor(workers, "metric", begin, tuple(share)) as pool:
        running = {pool.submit(work, job) for _, job in zip(range(workers), waiting, strict=False)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for ended in done:
                yield from ended.result()
                running |= {
                    pool.submit(work, job) for _, job in zip(range(1), waiting, strict=False)
                }


def _rows(job: tuple[Sample, Sequence[Metric]]) -> list[Score]:
    sample, metrics = job
    # Before it is looked at: a file that is replaced meanwhile is then scored again the next time.
    sample.sha256, sample.truth_sha256  # noqa: B018
    view = View(sample)
    look_together([metric for metric in metrics if isinstance(metric, FrameMetric)], view)
    return [_row(metric, view) for metric in metrics]


def _row(metric: Metric, view: View) -> Score:
    sample, about = view.sample, metric.about_scores() | {"source": _source(view, metric)}
    try:
        reading = metric.read(view)
    except (Unscorable, MediaError) as error:
        return score_row(metric, sample, reason=" ".join(str(error).split()), **about)
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
    """What is known of the video; nothing of one that cannot be read."""
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
