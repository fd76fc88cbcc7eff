"""Sound as the audio encoder learns it: recordings with what a large speech network heard in them,
and with the mouth shapes spoken, where a face was seen.

The teacher hears each recording as it is. The pupil hears it faster or slower, through a telephone,
under noise, music or another voice, and is asked for the same: so it learns what does not matter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowportrait.arrays import Array, Rng
from flowportrait.errors import DataError
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Sound
from flowportrait.train.tiny.sounds import disturb

TEACHER_HZ = 50
FRAME_HZ = 24
TEMPO = 0.12
"""Standard deviation of the logarithm of how much faster a recording is played."""


@dataclass(frozen=True)
class Lesson:
    """One recording's places in the arrays of its folder."""

    sample: int
    num_samples: int
    teacher: int
    frame: int
    num_frames: int


@dataclass(frozen=True)
class LessonBatch:
    """Crops of recordings; `heard` and `shapes` stand at 24 a second, nan where not known."""

    audio: Sound
    heard: Float[Tensor, "b f t"]
    shapes: Float[Tensor, "b f 27"]


class Lessons:
    """A folder that `python -m bench.teach` wrote: audio.npy int16 at 16 kHz, teach.npy float16
    [n, t] at 50 Hz, shapes.npy float16 [n, 27] at 24 Hz (may lack), index.json.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        if not (self.root / "index.json").is_file():
            raise DataError(f"{root}: no index.json; give a folder written by bench.teach")
        index = json.loads((self.root / "index.json").read_text())
        self.audio = np.load(self.root / "audio.npy", mmap_mode="r")
        self.teacher = np.load(self.root / "teach.npy", mmap_mode="r")
        self._read_lessons(index)
        held_out = index.get("held_out", [False] * len(self.lessons))
        self.by_split = {
            "train": [x for x, h in zip(self.lessons, held_out, strict=True) if not h],
            "held_out": [x for x, h in zip(self.lessons, held_out, strict=True) if h],
        }

    def _read_lessons(self, index: dict) -> None:
        """Where each lesson starts in the arrays of sounds, teachers and shapes."""
        shapes = self.root / "shapes.npy"
        self.shapes = np.load(shapes, mmap_mode="r") if shapes.is_file() else None
        counts = index["samples"], index["teacher"], index["frames"]
        starts = [np.concatenate([[0], np.cumsum(count)[:-1]]) for count in counts]
        self.lessons = [
            Lesson(int(a), int(n), int(t), int(f), int(m))
            for a, n, t, f, m in zip(
                starts[0], counts[0], starts[1], starts[2], counts[2], strict=True
            )
        ]

    @property
    def teacher_size(self) -> int:
        """Numbers of a vector of the teacher."""
        return self.teacher.shape[1]

    def sound(
        self,
        lesson: Lesson,
        start: int,
        count: int,
    ) -> Float[np.ndarray, " s"]:
        """Samples in [-1, 1] of a recording; silence before and behind it."""
        low = max(0, start)
        high = min(lesson.num_samples, start + count)
        out = np.zeros(count, np.float32)
        part = self.audio[lesson.sample + low : lesson.sample + max(low, high)]
        out[low - start : low - start + len(part)] = part.astype(np.float32) / 32768
        return out

    def crop(
        self, lesson: Lesson, start_s: float, num_frames: int, tempo: float
    ) -> tuple[Array, Array, Array]:
        """Sound, teacher's vectors and mouth shapes of a stretch that is played `tempo` times as
        fast.
        """
        times = start_s + np.arange(num_frames) / FRAME_HZ * tempo
        count = round(num_frames / FRAME_HZ * SPEECH_HZ)
        first = int(start_s * SPEECH_HZ)
        source = self.sound(lesson, first, int(count * tempo) + 2)
        played = np.interp(np.arange(count) * tempo, np.arange(len(source)), source)
        return self._crop_of(lesson, times, num_frames, played)

    def _crop_of(
        self, lesson: Lesson, times, num_frames: int, played
    ) -> tuple[Array, Array, Array]:
        ends = lesson.num_samples / SPEECH_HZ
        known = times < ends
        rows = -(-lesson.num_samples // (SPEECH_HZ // TEACHER_HZ))
        heard = _between(self.teacher, lesson.teacher, rows, times * TEACHER_HZ)
        heard[~known] = np.nan
        if self.shapes is None or not lesson.num_frames:
            shapes = np.full((num_frames, 27), np.nan, np.float32)
        else:
            shapes = _between(
                self.shapes,
                lesson.frame,
                lesson.num_frames,
                times * FRAME_HZ,
            )
            shapes[times * FRAME_HZ > lesson.num_frames - 1] = np.nan
        return played.astype(np.float32), heard, shapes


def _between(rows: Array, first: int, count: int, places: Array) -> Array:
    """Rows of a stretch at places that lie between them."""
    low = np.clip(places.astype(int), 0, count - 1)
    high = np.minimum(low + 1, count - 1)
    share = (places - low)[:, None].clip(0, 1)
    return (
        rows[first + low].astype(np.float32) * (1 - share)
        + rows[first + high].astype(np.float32) * share
    ).astype(np.float32)


def draw_lessons(
    folder: Lessons,
    split: str,
    num_crops: int,
    seconds: float,
    rng: Rng,
    disturbed: bool = True,
) -> LessonBatch:
    """Random crops of a folder. Disturbed ones are played at another tempo and under noises, the
    others as they are.
    """
    num_frames = round(seconds * FRAME_HZ)
    crops = []
    lessons = folder.by_split[split] or folder.lessons
    for lesson in (lessons[i] for i in rng.integers(len(lessons), size=num_crops)):
        tempo = 1.0
        if disturbed:
            tempo = float(np.exp(rng.normal(0, TEMPO)))
        spare_s = lesson.num_samples / SPEECH_HZ - seconds * tempo
        crops.append(folder.crop(lesson, float(rng.uniform(0, max(spare_s, 0))), num_frames, tempo))
    sounds, heard, shapes = zip(*crops, strict=True)
    if disturbed:
        others = [sounds[i] for i in rng.permutation(num_crops)]
        sounds = [disturb(s, o, rng) for s, o in zip(sounds, others, strict=True)]
    return LessonBatch(*(torch.from_numpy(np.stack(part)) for part in (sounds, heard, shapes)))
