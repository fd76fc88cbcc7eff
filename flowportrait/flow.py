"""Rectified flow (§3.1, Eq. 1-4): the straight path between data and noise, and how its times are
drawn.

**t = 0 is data, t = 1 is noise.** `z0` is data, `z1` noise, `zt` the point between them, `v` the
velocity.

Letters of tensor shapes, everywhere in flowportrait:
    b batch   c channels   d features   n tokens   s audio samples   f video frames
    l latent frames   h w height and width (pixels of frames, cells of latents)
    a audio tokens   i image tokens

A time `t` given with latents is a number or a tensor that broadcasts against them; `over_latents`
brings the times of a batch, one per latent frame, into that shape.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Time = Tensor | float


def over_latents(t: Float[Tensor, "b l"]) -> Float[Tensor, "b 1 l 1 1"]:
    """Times per latent frame, shaped to broadcast against latents [b, c, l, h, w]."""
    return rearrange(t, "b l -> b 1 l 1 1")


def interpolate(z0: Tensor, z1: Tensor, t: Time) -> Tensor:
    """The point at time `t` in [0, 1] of the line from data `z0` to noise `z1` (Eq. 1)."""
    return (1 - t) * z0 + t * z1


def target_velocity(z0: Tensor, z1: Tensor) -> Tensor:
    """The velocity that the network learns to predict: noise minus data, the same at every time
    (Eq. 2).
    """
    return z1 - z0


def predict_z0(zt: Tensor, v: Tensor, t: Time) -> Tensor:
    """The data that velocity `v` at `zt` points back to (Eq. 3)."""
    return zt - t * v


def predict_z1(zt: Tensor, v: Tensor, t: Time) -> Tensor:
    """The noise that velocity `v` at `zt` comes from (Eq. 4)."""
    return zt + (1 - t) * v


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Times moved toward noise by `shift` >= 1 with both ends fixed: s t / (1 + (s - 1) t)."""
    return shift * t / (1 + (shift - 1) * t)


def draw_times(
    shape: tuple[int, ...],
    shift: float,
    generator: torch.Generator | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Training times in (0, 1): the sigmoid of a standard normal draw, shifted. float32."""
    normal = torch.randn(shape, generator=generator, device=device)
    return shift_time(torch.sigmoid(normal), shift)
