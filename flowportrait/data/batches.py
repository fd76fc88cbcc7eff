"""Training batches drawn from a `ClipCache`. A batch is a function of (seed, update) alone: resuming needs no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowportrait.data.augment import apply_look, draw_look, move_landmarks, region_weight
from flowportrait.data.cache import CachedClip, ClipCache
from flowportrait.data.landmarks import lid_opening, lip_opening


@dataclass(frozen=True)
class CodecBatch:
    """Groups of four frames with their portrait, in [-1, 1], and the weight of each pixel in the loss."""

    portrait: Float[Tensor, "b 3 h w"]
    groups: Float[Tensor, "b l 4 3 h w"]
    weight: Float[Tensor, "b l 4 1 h w"]
    openings: Float[Tensor, "b l 4 2"]  # of lips and lids, see `data/landmarks.py`; nan where not labelled


@dataclass(frozen=True)
class Pool:
    """Clips to draw from: caches with their share of the draws."""

    caches: Sequence[ClipCache]
    shares: Sequence[float]
    split: str = "train"

    def draw(self, rng: np.random.Generator) -> tuple[ClipCache, CachedClip]:
        """A random clip of the split; caches are drawn by their share."""
        cache = self.caches[rng.choice(len(self.caches), p=np.asarray(self.shares) / sum(self.shares))]
        candidates = [clip for clip in cache.clips if clip.split == self.split]
        return cache, candidates[rng.integers(len(candidates))]


def codec_batch(
    pool: Pool,
    rng: np.random.Generator,
    num_clips: int,
    num_groups: int,
    size_px: int,
    mouth_weight: float,
    eye_weight: float,
    strength: float = 1.0,
) -> CodecBatch:
    """Random stretches of `4 num_groups` frames; the first group of a quarter of them is one frame four times, as the
    first latent frame of a clip is. Half of the portraits are the clip's first frame, half any frame of it."""
    samples = [
        _codec_sample(pool, rng, num_groups, size_px, mouth_weight, eye_weight, strength) for _ in range(num_clips)
    ]
    return CodecBatch(*(torch.stack(column) for column in zip(*samples, strict=True)))


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
    moved = move_landmarks(look, landmarks[1:], cache.size_px, size_px)
    weight = region_weight(torch.from_numpy(moved), size_px, mouth_weight, eye_weight)
    openings = torch.from_numpy(np.stack([lip_opening(moved), lid_opening(moved)], -1)).float()
    return (
        pictures[0],
        pictures[1:].unflatten(0, (num_groups, 4)),
        weight[:, None].unflatten(0, (num_groups, 4)),
        openings.unflatten(0, (num_groups, 4)),
    )
