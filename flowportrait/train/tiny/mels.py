"""Training data of the audio encoder before anything is generated: log-mels and the face shapes
spoken with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowportrait.arrays import Rng
from flowportrait.encoders.mel import MelEncoder
from flowportrait.train.tiny.frames import ClipCache

Mel = Float[Tensor, "80 m"]

MOUTH_SHAPES = slice(22, 49)  # jaw and mouth among the 52 ARKit names in alphabetical order


@dataclass(frozen=True)
class Hearing:
    """All sound of a cache as log-mels, and its mouth shapes in units of their spread (nan: not
    labelled).
    """

    mels: list[Mel]
    shapes: Float[np.ndarray, "frames 27"]

    @classmethod
    def of(cls, cache: ClipCache, encoder: MelEncoder) -> Hearing:
        """Mels of every clip of the cache, in its order."""
        mels = [
            encoder.mels(torch.from_numpy(cache.audio_of(clip))[None])[0] for clip in cache.clips
        ]
        shapes = cache.arkit[:, MOUTH_SHAPES]
        return cls(mels, (shapes - np.nanmean(shapes, 0)) / (np.nanstd(shapes, 0) + 0.02))


def augment_mels(mels: Mel, rng: Rng) -> Mel:
    """Another voice, microphone and room: warped mel axis, tilted and rippled spectrum, raised
    noise floor, holes.
    """
    num_mels = len(mels)
    bins = torch.arange(num_mels, dtype=torch.float32) * float(np.exp(rng.normal(0, 0.09)))
    low = bins.floor().long().clamp(0, num_mels - 1)
    high = (low + 1).clamp(max=num_mels - 1)
    mels = torch.lerp(mels[low], mels[high], (bins - low).clamp(0, 1)[:, None])
    ripple = torch.from_numpy(rng.normal(0, 0.22, (1, 1, 6))).float()
    mels = mels + F.interpolate(ripple, num_mels, mode="linear", align_corners=True)[0, 0][:, None]
    return _with_noise(rng, mels, num_mels)


def _with_noise(rng: Rng, mels: Mel, num_mels: int) -> Mel:
    """Spectra under noise of a random level, at times with a band left out."""
    floor = -3.0
    if rng.random() < 0.6:
        floor = float(rng.uniform(-3.2, -1.0))
    mels = (
        torch.logaddexp(
            mels * 3,
            torch.full_like(mels, floor * 3)
            + 0.5 * torch.from_numpy(rng.normal(size=mels.shape)).float(),
        )
        / 3
    )
    if rng.random() < 0.5:
        hole = int(rng.integers(num_mels - 10))
        mels[hole : hole + int(rng.integers(2, 10))] = -1.0
    return mels.clamp(-3, 3)
