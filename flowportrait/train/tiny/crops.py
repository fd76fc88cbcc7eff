"""Training batches of the generator: crops of encoded clips with the sound of the whole clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.arrays import Rng
from flowportrait.tensors import Latents
from flowportrait.train.tiny.frames import ClipCache
from flowportrait.train.tiny.latents import LatentCache, LatentClip
from flowportrait.train.tiny.mels import Hearing, augment_mels

GROUP = 4  # video frames per latent frame
LIKE_GAP = 0.02  # eye distances between the lips of two portraits


@dataclass(frozen=True)
class LatentSource:
    """One source as the generator learns it; `share` of the draws."""

    cache: ClipCache
    latents: LatentCache
    hearing: Hearing
    share: float

    def of_split(self, split: str) -> list[LatentClip]:
        """Its encoded clips of one split."""
        return [clip for clip in self.latents.clips if clip.split == split]


Drawn = Sequence[tuple[LatentSource, LatentClip]]


@dataclass(frozen=True)
class Crops:
    """Crops of clips, all of one layout. The first `prefix` latent frames stand clean;
    `first_frame` is each crop's first video frame; the sound and the mouth shapes are those of the
    whole clip.
    """

    latents: Latents
    image: Float[Tensor, "b i d"]
    mels: Float[Tensor, "b 80 m"]
    shapes: Float[Tensor, "b f 27"]
    first_frame: list[int]
    prefix: int
    opening: bool
    kept_audio: Bool[Tensor, "b 1 1"]
    kept_image: Bool[Tensor, "b 1 1"]


def draw_clips(
    sources: list[LatentSource],
    split: str,
    count: int,
    rng: Rng,
    longer_than: int = 0,
) -> Drawn:
    """Random clips with more than `longer_than` latent frames, sources by their share."""
    shares = np.array([source.share for source in sources])
    drawn = []
    for index in rng.choice(len(sources), count, p=shares / shares.sum()):
        clips = [clip for clip in sources[index].of_split(split) if clip.num_latents > longer_than]
        drawn.append((sources[index], clips[rng.integers(len(clips))]))
    return drawn


def draw_crops(
    sources: list[LatentSource],
    rng: Rng,
    num_clips: int,
    length: int,
    prefix: int,
    drop_audio: float,
    drop_image: float,
    borrowed: float = 0.0,
) -> Crops:
    """Random crops of `length` latent frames: 40 % open their clip, and half of the others continue
    from `prefix` clean latent frames. A share of `borrowed` shows a face of another source.
    """
    opening = bool(rng.random() < 0.4)
    prefix = 0 if opening or rng.random() < 0.5 else prefix
    drawn = draw_clips(sources, "train", num_clips, rng, longer_than=length)
    latents = []
    first_frames = []
    images = []
    for source, clip in drawn:
        skip = 0 if opening else int(rng.integers(1, clip.num_latents - length + 1))
        rows = slice(clip.start + skip, clip.start + skip + length)
        image, scale = _portrait(source, clip, sources, borrowed, rng)
        latents.append(torch.from_numpy(source.latents.latents[rows]).float() * scale)
        first_frames.append(clip.first_frame + (GROUP * (skip - 1) + 1 if skip else 0))
        images.append(image)
    return Crops(
        latents=rearrange(torch.stack(latents), "b l c h w -> b c l h w"),
        image=torch.stack(images),
        mels=mels_of(drawn, rng),
        shapes=shapes_of(drawn),
        first_frame=first_frames,
        prefix=prefix,
        opening=opening,
        kept_audio=torch.from_numpy(rng.random((num_clips, 1, 1)) >= drop_audio),
        kept_image=torch.from_numpy(rng.random((num_clips, 1, 1)) >= drop_image),
    )


def _portrait(
    source: LatentSource,
    clip: LatentClip,
    sources: list[LatentSource],
    borrowed: float,
    rng: Rng,
) -> tuple[Float[Tensor, "i d"], float]:
    """Features of the portrait, and how much larger its face is than the clip's.

    A borrowed face is one of another source whose lips stand as far apart. Latents are movements
    from the portrait, so they fit it when they are as much larger as it is: real movement on
    rendered faces keeps the model from taking the one real speaker's looks for the cause.
    """
    others = [other for other in sources if other is not source]
    if others and rng.random() < borrowed:
        lender = others[rng.integers(len(others))].latents
        gap, size = (measure[clip.copy] for measure in source.latents.faces)
        gaps, sizes = lender.faces
        like = [c.copy for c in lender.clips if c.split == "train"]
        like = [copy for copy in like if abs(gaps[copy] - gap) < LIKE_GAP]
        if like:
            copy = like[rng.integers(len(like))]
            return torch.from_numpy(lender.image[copy]).float(), float(sizes[copy] / size)
    return torch.from_numpy(source.latents.image[clip.copy]).float(), 1.0


def mels_of(drawn: Drawn, rng: Rng | None) -> Float[Tensor, "b 80 m"]:
    """Mels of whole clips, padded with silence; augmented if `rng` is given."""
    mels = [source.hearing.mels[clip.clip] for source, clip in drawn]
    if rng is not None:
        mels = [augment_mels(m, rng) for m in mels]
    longest = max(m.shape[1] for m in mels)
    return torch.stack([F.pad(m, (0, longest - m.shape[1]), value=-3.0) for m in mels])


def shapes_of(drawn: Drawn) -> Float[Tensor, "b f 27"]:
    """Mouth shapes of whole clips, nan where unknown or past the end."""
    rows = []
    for source, clip in drawn:
        cached = source.cache.clips[clip.clip]
        rows.append(
            torch.from_numpy(
                source.hearing.shapes[cached.frame_start : cached.frame_start + cached.num_frames]
            )
        )
    longest = max(len(row) for row in rows)
    return torch.stack(
        [F.pad(row, (0, 0, 0, longest - len(row)), value=float("nan")) for row in rows]
    )
