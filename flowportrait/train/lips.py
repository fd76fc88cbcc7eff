"""Watching lips while the generator trains: the loss hardly tells whether they move with the sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from flowportrait.data.crops import Source
from flowportrait.encoders.mel import MelEncoder
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mot import MoT
from flowportrait.sampling import Schedule, sample


@torch.inference_mode()
def lip_figures(
    model: MoT, audio_encoder: MelEncoder, source: Source, max_length: int, shift: float, num_clips: int = 12
) -> dict[str, float]:
    """Correlation of lip opening, generated against true, on validation clips: read off the latents by a linear probe
    that was fitted on true latents (its own correlation on validation clips is `r_probe`)."""
    probe = LipProbe.fit(source)
    held_out = source.of_split("validation")[:: max(1, len(source.of_split("validation")) // num_clips)][
        :num_clips
    ]
    length = min(max_length, min(clip.num_latents for clip in held_out))
    made, true, read = [], [], []
    for number, clip in enumerate(held_out):
        rows = slice(clip.start, clip.start + length)
        z0 = rearrange(torch.from_numpy(source.latents.latents[rows]).float(), "l c h w -> 1 c l h w")
        grid = TokenGrid.of_latents(z0, model.config.patch, opening=True)
        audio = audio_encoder.encode(source.hearing.mels[clip.clip][None], clip.first_frame + grid.num_frames)
        image = torch.from_numpy(source.latents.image[clip.copy][None]).float()
        condition = model.condition(audio[:, clip.first_frame :], image, grid)

        def velocity(zt: Tensor, t: float, condition=condition, grid=grid) -> Tensor:
            return model.velocity(zt, torch.full((1, grid.latent_frames), t), condition, grid)

        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(number))
        drawn = sample(velocity, noise, Schedule(8, shift))
        made.append(probe(drawn[0].transpose(0, 1).numpy()))
        read.append(probe(z0[0].transpose(0, 1).numpy()))
        true.append(source.latents.opening[rows])
    made, read, true = np.stack(made), np.stack(read), np.stack(true)
    return {
        "r_lips": mean_correlation(made, true),
        "r_probe": mean_correlation(read, true),
        "spread_of_true": float(np.std(made) / np.std(read)),
    }


@dataclass(frozen=True)
class LipProbe:
    """Ridge regression from the lower half of a latent frame to lip opening."""

    weights: np.ndarray
    mean: np.ndarray
    offset: float

    @classmethod
    def fit(cls, source: Source, ridge: float = 300.0, num_rows: int = 6000) -> LipProbe:
        rows = np.concatenate([np.arange(c.start, c.start + c.num_latents) for c in source.of_split("train")])
        rows = rows[np.isfinite(source.latents.opening[rows])]
        rows = np.random.default_rng(0).choice(rows, min(num_rows, len(rows)), replace=False)
        x, y = _lower_half(source.latents.latents[rows]), source.latents.opening[rows].astype(np.float64)
        mean, offset = x.mean(0), y.mean()
        x = x - mean
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - offset))
        return cls(weights, mean, float(offset))

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Lip opening of latent frames [n, c, h, w]."""
        return (_lower_half(latents) - self.mean) @ self.weights + self.offset


def _lower_half(latents: np.ndarray) -> np.ndarray:
    height, width = latents.shape[-2:]
    part = latents[:, :, height // 2 : height - 2, width // 4 : -width // 4]
    return part.reshape(len(latents), -1).astype(np.float64)


def mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of the correlation of two arrays, where both are known and vary; nan if nowhere."""
    values = []
    for x, y in zip(a, b, strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() > 8 and x[known].std() > 1e-6 and y[known].std() > 1e-6:
            values.append(np.corrcoef(x[known], y[known])[0, 1])
    return float(np.mean(values)) if values else float("nan")
