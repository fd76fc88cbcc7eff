"""The sampler (§3.2): from noise at t = 1 to data at t = 0, by Euler steps or by Eq. 9's stochastic ones.

A step is a value: `Transition(mean, std)` can draw the next latent and can price a given one. The same
`cps_step` makes it in rollout and in update, so that both speak of the same distribution.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from flowportrait.flow import predict_z0, predict_z1, shift_time

Velocity = Callable[[Tensor, float], Tensor]
"""(zt, t) to velocity, same shape as zt. One call is one evaluation of the network, guidance apart."""


@dataclass(frozen=True)
class Schedule:
    """The times of a sampling run: `evaluations` steps from t = 1 to t = 0, moved toward noise by `shift`."""

    evaluations: int
    shift: float = 1.0

    def __post_init__(self) -> None:
        assert self.evaluations >= 1 and self.shift > 0

    @property
    def times(self) -> list[float]:
        """The `evaluations + 1` times, falling from 1 to 0."""
        even = torch.linspace(1, 0, self.evaluations + 1, dtype=torch.float64)
        return shift_time(even, self.shift).tolist()

    def __len__(self) -> int:
        return self.evaluations

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """The steps as pairs (t, t_next)."""
        return pairwise(self.times)

    @property
    def digest(self) -> str:
        """A short hash of the times, stored beside whatever was sampled with them."""
        return hashlib.sha256(json.dumps(self.times).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Transition:
    """The normal distribution of the next latent, one std for all its elements."""

    mean: Float[Tensor, "b ..."]
    std: float

    def draw(self, rng: torch.Generator | None = None) -> Float[Tensor, "b ..."]:
        """A next latent. Without noise (std 0) it is the mean and `rng` is not touched."""
        if self.std == 0:
            return self.mean
        shape, device = self.mean.shape, self.mean.device
        return self.mean + self.std * torch.randn(shape, generator=rng, device=device, dtype=self.mean.dtype)

    def log_prob(self, z_next: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Eq. 10: minus the MEAN over elements of the squared deviation, without variance; at least float32.

        The mean keeps the size of the ratio independent of resolution and length.
        """
        deviation = z_next.to(self.mean.dtype) - self.mean
        return -deviation.square().flatten(1).mean(dim=1)


def cps_step(
    zt: Float[Tensor, "b ..."], v: Float[Tensor, "b ..."], t: float, t_next: float, eta: float = 0.0
) -> Transition:
    """Coefficients-preserving step from `t` to `t_next` (Eq. 9); `eta` in [0, 1], 0 is exactly Euler's step.

    The noise level of the next latent is `t_next` whatever `eta` is; the last step has std 0.
    """
    zt, v = _at_least_float32(zt), _at_least_float32(v)
    if eta == 0:  # the same point as below; written so that it equals Euler's step to the last bit
        return Transition(zt + (t_next - t) * v, 0.0)
    angle = eta * math.pi / 2
    mean = (1 - t_next) * predict_z0(zt, v, t) + t_next * math.cos(angle) * predict_z1(zt, v, t)
    return Transition(mean, t_next * math.sin(angle))


def guided(conditional: Velocity, unconditional: Velocity, scale: float) -> Velocity:
    """Classifier-free guidance, v_u + scale (v_c - v_u); one pass, the conditional one, at scale 1."""
    if scale == 1.0:
        return conditional

    def velocity(zt: Tensor, t: float) -> Tensor:
        without = unconditional(zt, t)
        return without + scale * (conditional(zt, t) - without)

    return velocity


def sample(
    velocity: Velocity,
    z1: Float[Tensor, "b ..."],
    schedule: Schedule,
    eta: float = 0.0,
    rng: torch.Generator | None = None,
    on_step: Callable[[], None] | None = None,
) -> Float[Tensor, "b ..."]:
    """The data that noise `z1` becomes along `schedule`; the state stays float32 under any autocast."""
    z = _at_least_float32(z1)
    for t, t_next in schedule:
        z = cps_step(z, velocity(z, t), t, t_next, eta).draw(rng)
        if on_step:
            on_step()
    return z


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
