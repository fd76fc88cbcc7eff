"""Watching lips while the generator trains: the loss hardly tells whether they move with the
sound.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from flowportrait.arrays import Array
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.encoders.mel import MelEncoder
from flowportrait.faces.landmarks import lip_opening
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mot import MoT
from flowportrait.precision import matmul_precision
from flowportrait.sampling import Schedule, sample
from flowportrait.train.run import Figures
from flowportrait.train.tiny.crops import LatentSource


@torch.inference_mode()
def lip_figures(
    model: MoT,
    audio_encoder: MelEncoder,
    codec: PortraitCodec,
    source: LatentSource,
    max_length: int,
    shift: float,
    num_clips: int = 16,
) -> Figures:
    """Correlation of lip opening per frame, generated against true, on held-out clips; generated
    lips are those of the landmarks that the latents stand for. `spread_of_true` is how far they
    move, against the truth.
    """
    held_out = source.of_split("held_out")
    held_out = held_out[:: max(1, len(held_out) // num_clips)][:num_clips]
    length = min(max_length, min(clip.num_latents for clip in held_out))
    made = []
    true = []
    for number, clip in enumerate(held_out):
        rows = slice(clip.start, clip.start + length)
        z0 = rearrange(
            torch.from_numpy(source.latents.latents[rows]).float(), "l c h w -> 1 c l h w"
        )
        grid = TokenGrid.of_latents(z0, model.config.patch, opening=True)
        audio = audio_encoder.encode(
            source.hearing.mels[clip.clip][None], clip.first_frame + grid.num_frames
        )
        image = torch.from_numpy(source.latents.image[clip.copy][None]).float()
        with matmul_precision("cpu"):
            condition = model.condition(audio[:, clip.first_frame :], image, grid)

        def velocity(zt: Tensor, t: float, condition=condition, grid=grid) -> Tensor:
            with matmul_precision("cpu"):
                return model.velocity(zt, torch.full((1, grid.latent_frames), t), condition, grid)

        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(number))
        portrait = torch.from_numpy(source.latents.portrait[clip.copy][None])
        landmarks = codec.landmarks_of(sample(velocity, noise, Schedule(8, shift)), portrait)
        made.append(lip_opening(landmarks.flatten(0, 2).numpy()))
        true.append(source.latents.opening[rows].flatten())
    made = np.stack(made)
    true = np.stack(true)
    return {
        "r_lips": mean_correlation(made, true),
        "spread_of_true": float(np.std(made) / np.std(true)),
    }


def mean_correlation(a: Array, b: Array) -> float:
    """Mean over rows of the correlation of two arrays, where both are known and vary; nan if
    nowhere.
    """
    values = []
    for x, y in zip(a, b, strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() > 8 and x[known].std() > 1e-6 and y[known].std() > 1e-6:
            values.append(np.corrcoef(x[known], y[known])[0, 1])
    if values:
        return float(np.mean(values))
    return float("nan")
