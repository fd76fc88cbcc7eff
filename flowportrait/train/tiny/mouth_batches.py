"""Batches of the mouth painter's training: random stretches of patches, augmented."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowportrait.codecs.mouth_net import PATCH_WIDTH, SkullFrame, lip_maps, opening_map
from flowportrait.faces.landmarks import MIRRORED
from flowportrait.train.tiny.mouth_patches import FINE, STRETCH, MouthPatches


class Patches(NamedTuple):
    """A batch: frames of stretches `shown` and `true` [n, 3, 192, 224] in [-1, 1], the maps of
    their `lips` [n, 2, 96, 112] and `fine_lips` [n, 2, 192, 224], where true `teeth` [n, 1, 192,
    224] are seen, how far places are within the
    `opening` [n, 1, 96, 112], and the portrait with its lips. `coarser` is how many pixels of a
    patch one pixel of its clip takes.
    """

    shown: Tensor
    true: Tensor
    lips: Tensor
    fine_lips: Tensor
    teeth: Tensor
    opening: Tensor
    portrait: Tensor
    portrait_lips: Tensor
    coarser: int

    def at_own_size(
        self, made: Float[Tensor, "n 3 192 224"]
    ) -> tuple[Float[Tensor, "n 3 y x"], Float[Tensor, "n 3 y x"], Float[Tensor, "n 2 y x"]]:
        """Painted and true patches and the lips' maps at the resolution of the clips."""
        return tuple(F.avg_pool2d(x, self.coarser) for x in (made, self.true, self.fine_lips))


def draw(
    pool: MouthPatches, split: str, rng: np.random.Generator, size: tuple[int, int], augment: bool
) -> Patches:
    """Random stretches of a split; `size` is their number and that of successive frames in each.
    They are recoloured, mirrored and blurred together where they are augmented.
    """
    num_stretches, num_frames = size
    rows = np.flatnonzero(np.array(pool.split) == split)
    chosen = rng.choice(rows, num_stretches)
    start = int(rng.integers(0, STRETCH - num_frames + 1))
    frames = slice(start, start + num_frames)
    shown, true = (
        _floats(part[chosen][:, frames]).flatten(0, 1) for part in (pool.shown, pool.true)
    )
    portrait = _floats(pool.portrait[chosen]).repeat_interleave(num_frames, 0)
    landmarks = torch.from_numpy(pool.landmarks[chosen][:, frames]).flatten(0, 1)
    own = torch.from_numpy(pool.portrait_landmarks[chosen]).repeat_interleave(num_frames, 0)
    teeth = _teeth(true)
    if augment:
        landmarks = landmarks + _tremble(rng, landmarks)
        shown, true, portrait = _recoloured(rng, shown, true, portrait)
        if rng.random() < 0.5:
            shown, true, portrait = (x.flip(-1) for x in (shown, true, portrait))
            teeth = teeth.flip(-1)
            landmarks, own = _mirrored(landmarks), _mirrored(own)
    # Frames are cut where the landmarks say; the maps are those of the points in that frame.
    where = SkullFrame.of(landmarks)
    return Patches(
        shown=shown,
        true=true,
        portrait=portrait,
        lips=lip_maps(where, landmarks),
        fine_lips=lip_maps(where, landmarks, FINE),
        teeth=teeth,
        opening=opening_map(where, landmarks),
        portrait_lips=lip_maps(SkullFrame.of(own), own),
        coarser=_coarser(int(pool.size_px[chosen].min())),
    )


def _teeth(frames: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 1 y x"]:
    """1 where a rendered mouth shows teeth, which are light and have little colour."""
    light = (frames + 1) / 2
    most, least = light.amax(1, keepdim=True), light.amin(1, keepdim=True)
    return ((most > 0.35) & (most - least < 0.3 * most)).float()


def _coarser(size_px: int) -> int:
    """Pixels of a patch for one pixel of frames of this size, at most as many as are there: 1, 2 or
    4.
    """
    return max(1, *(n for n in (1, 2, 4) if n * size_px * PATCH_WIDTH <= 1.05 * FINE[1]))


def _tremble(rng: np.random.Generator, landmarks: Tensor) -> Tensor:
    """Errors of lips that a generator draws: about half a pixel of 128."""
    return (
        torch.from_numpy(rng.normal(0, 0.006, landmarks.shape)).float()
        * torch.tensor([1.0 if point >= 48 else 0.0 for point in range(68)])[:, None]
    )


def _mirrored(landmarks: Float[Tensor, "n 68 2"]) -> Float[Tensor, "n 68 2"]:
    return landmarks[:, MIRRORED] * torch.tensor([-1.0, 1.0])


def _recoloured(rng: np.random.Generator, *pictures: Tensor) -> list[Tensor]:
    """The same contrast, brightness, saturation and gain of each colour for all; sometimes grey,
    sometimes blurred.
    """
    gain = torch.from_numpy(rng.normal(1, 0.12, (1, 3, 1, 1))).float()
    offset = torch.from_numpy(rng.normal(0, 0.1, (1, 3, 1, 1))).float() + float(rng.normal(0, 0.1))
    saturation = 0.0 if rng.random() < 0.08 else float(rng.uniform(0.6, 1.3))
    changed = []
    for x in pictures:
        grey = x.mean(1, keepdim=True)
        changed.append((gain * (grey + saturation * (x - grey)) + offset).clamp(-1, 1))
    if rng.random() < 0.3:  # portraits that are smaller than the patch
        share = rng.uniform(0.4, 0.9)
        for index in (0, 2):
            small = F.interpolate(changed[index], scale_factor=share, mode="area")
            changed[index] = F.interpolate(
                small, changed[index].shape[-2:], mode="bilinear", align_corners=False
            )
    return changed


def _floats(patches: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(patches, -1, -3))).float() / 127.5 - 1
