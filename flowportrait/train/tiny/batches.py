"""Training batches drawn from a `ClipCache`. A batch is a function of (seed, update) alone:
resuming needs no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowportrait.arrays import Rng
from flowportrait.data.augment import apply_look, draw_look, move_landmarks, region_weight
from flowportrait.errors import DataError
from flowportrait.tensors import Pictures
from flowportrait.train.tiny.frames import CachedClip, ClipCache

LandmarksOfClips = Float[Tensor, "b n 68 2"]


@dataclass(frozen=True)
class CodecBatch:
    """Groups of four frames with their portrait, in [-1, 1], and the weight of each pixel in the
    loss.
    """

    portrait: Pictures
    groups: Float[Tensor, "b l 4 3 h w"]
    weight: Float[Tensor, "b l 4 1 h w"]
    landmarks: LandmarksOfClips  # of the portrait and of every frame, (x, y) in [-1, 1]


@dataclass(frozen=True)
class Pool:
    """Clips to draw from: caches with their share of the draws."""

    caches: Sequence[ClipCache]
    shares: Sequence[float]
    split: str = "train"

    def draw(self, rng: Rng) -> tuple[ClipCache, CachedClip]:
        """A random clip of the split whose every frame has landmarks; caches are drawn by their
        share.
        """
        cache = self.caches[
            rng.choice(len(self.caches), p=np.asarray(self.shares) / sum(self.shares))
        ]
        candidates = [
            clip for clip in cache.clips if clip.split == self.split and cache.tracked(clip)
        ]
        if not candidates:
            raise DataError(
                f"{cache.root}: no clip of the split '{self.split}' has landmarks; label the clips"
                " first"
            )
        return cache, candidates[rng.integers(len(candidates))]


def codec_batch(
    pool: Pool,
    rng: Rng,
    num_clips: int,
    num_groups: int,
    size_px: int,
    mouth_weight: float,
    eye_weight: float,
    strength: float = 1.0,
) -> CodecBatch:
    """Random stretches of `4 num_groups` frames; the first group of a quarter of them is one frame
    four times, as the first latent frame of a clip is. Half of the portraits are the clip's first
    frame, half any frame of it.
    """
    samples = [
        _codec_sample(pool, rng, num_groups, size_px, mouth_weight, eye_weight, strength)
        for _ in range(num_clips)
    ]
    return CodecBatch(*(torch.stack(column) for column in zip(*samples, strict=True)))


def landmark_groups(
    pool: Pool, rng: Rng, count: int
) -> tuple[Float[Tensor, "n 68 2"], Float[Tensor, "n 4 68 2"]]:
    """Landmarks in [-1, 1] of random portraits and of four frames in a row of the same clips,
    framed at random.
    """
    drawn = []
    for _ in range(count):
        cache, clip = pool.draw(rng)
        start = int(rng.integers(0, clip.num_frames - 3))
        indices = clip.frame_start + np.array(
            [rng.integers(clip.num_frames), *range(start, start + 4)]
        )
        look = draw_look(rng, cache.landmarks[clip.frame_start], cache.size_px, bend=0.0)
        drawn.append(
            torch.from_numpy(move_landmarks(look, cache.landmarks[indices], cache.size_px, 2) - 1)
        )
    points = torch.stack(drawn)
    return points[:, 0], points[:, 1:]


def _codec_sample(pool, rng, num_groups, size_px, mouth_weight, eye_weight, strength):
    cache, clip = pool.draw(rng)
    start = int(rng.integers(0, clip.num_frames - 4 * num_groups + 1))
    offsets = start + np.arange(4 * num_groups)
    if rng.random() < 0.25:
        offsets[:4] = offsets[3]
    portrait = 0 if rng.random() < 0.5 else int(rng.integers(clip.num_frames))
    indices = clip.frame_start + np.concatenate([[portrait], offsets])
    landmarks = cache.landmarks[indices]
    look = draw_look(rng, cache.landmarks[clip.frame_start], cache.size_px, strength)
    pictures = apply_look(look, cache.frames[indices], size_px)
    moved = move_landmarks(look, landmarks, cache.size_px, size_px)
    weight = region_weight(torch.from_numpy(moved[1:]), size_px, mouth_weight, eye_weight)
    return (
        pictures[0],
        pictures[1:].unflatten(0, (num_groups, 4)),
        weight[:, None].unflatten(0, (num_groups, 4)),
        torch.from_numpy(moved / (size_px / 2) - 1),
    )
