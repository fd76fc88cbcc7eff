"""The view that metrics have of a clip: its frames and sound, decoded once for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.errors import FlowPortraitError
from flowportrait.scoring import Sample
from flowportrait.scoring.reward import Candidate
from flowportrait.sound import SPEECH_HZ

T = TypeVar("T")
BLOCK_FRAMES = 16


KEPT_BYTES = 256 * 2**20
"""Frames of a clip beyond this are decoded again for whoever looks at them next instead of kept."""


NO_TRUTH = "no truth; give --truth with a video of the same name"


Blocks = Iterator[np.ndarray]
"""Frames in order, uint8 [n, h, w, 3] with n at most `BLOCK_FRAMES`; all but the last of the same
length.
"""


class Unscorable(FlowPortraitError):
    """Why a clip has no score by a metric; becomes the score's `reason`."""


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
    def frames(self) -> Array:
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
    def sound(self) -> Array:
        """Mono sound at 16 kHz, float32 [s]. Raises Unscorable when there is none."""
        if not self.sample.clip.facts.has_sound:
            raise Unscorable("has no sound track")
        sound = media.read_audio(self.sample.clip.path, min_s=0.0)
        self.warnings += sound.warnings
        return media.resample(sound.samples, sound.sample_rate, SPEECH_HZ)

    @cached_property
    def pcm(self) -> Array:
        """The same in whole levels, int16 [s], to the sample what the field's scripts let ffmpeg
        write.
        """
        if not self.sample.clip.facts.has_sound:
            raise Unscorable("has no sound track")
        return media.read_pcm(self.sample.clip.path, SPEECH_HZ)

    @cached_property
    def truth(self) -> Array:
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

    def pair_blocks(self) -> Iterator[tuple[Array, Array]]:
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
                f"lasts {num_made} frames, its truth {num_truth} at the same frame rate; cut both"
                " to the same length"
            )

    def _warn_of_turn(self, made: Array, truth: Array) -> None:
        """Notes, once, that one of two videos is rotated."""
        turns = _turns_between(made, truth)
        if turns and not any(": its truth is turned" in line for line in self.warnings):
            self.warnings.append(
                f"{self.sample.clip.path.name}: its truth is rotated relative to it by "
                f"{90 * min(turns, 4 - turns)} degrees; rotate one of the videos"
            )

    def _blocks(self, key: Hashable, read: Callable[[], Iterator[Array]]) -> Blocks:
        """Frames block by block, from memory where they are kept, and kept where they fit."""
        if key in self._kept:
            yield from self._kept[key]
            return
        kept: list[Array] | None = []
        num_bytes = 0
        frames = read()
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

    def frames_at(self, fps: float) -> Array:
        """The frames by time, not by index, at another rate: 24 frames shown as 25 would drift by
        one a second.
        """
        if abs(fps - self.fps) < 1e-3:
            return self.frames
        return self.keep(("frames", fps), lambda: np.concatenate(list(self.blocks(fps))))

    @cached_property
    def pairs(self) -> tuple[Array, Array]:
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
        """The result of `compute`, computed once for all metrics of this clip that ask under the
        same `key`.
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
    def frames(self) -> Array:
        """All frames, uint8 [f, h, w, 3]."""
        return self.candidate.frames

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.candidate.fps

    @cached_property
    def sound(self) -> Array:
        """Mono sound at 16 kHz, float32 [s]."""
        samples, rate = self.candidate.sound
        return media.resample(media.to_mono(samples)[0], rate, SPEECH_HZ)

    @cached_property
    def pcm(self) -> Array:
        """The same in whole levels, int16 [s]."""
        return (self.sound * 32768).round().clip(-32768, 32767).astype(np.int16)

    @property
    def truth(self) -> Array:
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

    def frames_at(self, fps: float) -> Array:
        """The frames by time at another rate, the nearest of each moment."""
        return self.frames[media.nearest_frames(len(self.frames), self.fps, fps)]


def _cut(frames: Array) -> Blocks:
    for start in range(0, len(frames), BLOCK_FRAMES):
        yield frames[start : start + BLOCK_FRAMES]


def _same_size(made: Array, truth: Array) -> tuple[Array, Array]:
    """Both videos at the truth's size. Raises Unscorable when their shapes differ."""
    (h, w), (true_h, true_w) = made.shape[1:3], truth.shape[1:3]
    if (h, w) == (true_h, true_w):
        return made, truth
    if abs(w / h - true_w / true_h) > 0.02 * w / h:
        raise Unscorable(
            f"is {w}x{h}, its truth {true_w}x{true_h}: different shapes; crop both in the same way"
        )
    if h < true_h:
        return made, _resized(truth, w, h)
    return _resized(made, true_w, true_h), truth


_ALIKE = 0.9
_UNLIKE = 0.5


def _turns_between(made: Array, truth: Array) -> int:
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
    if likeness[best] > _ALIKE and likeness[0] < _UNLIKE:
        return best
    return 0


def _resized(frames: Array, width: int, height: int) -> Array:
    """Frames at this size (Lanczos)."""
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
            for frame in frames
        ]
    )


def at_most(frames: Array, side_px: int) -> Array:
    """The frames [f, h, w, 3], made smaller where their longer side exceeds `side_px`."""
    height, width = frames.shape[1:3]
    scale = side_px / max(height, width)
    if scale >= 1:
        return frames
    return _resized(frames, round(width * scale), round(height * scale))
