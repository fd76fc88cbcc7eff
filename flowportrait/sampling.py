"""The sampler (§3.2): from noise at t = 1 to data at t = 0, by Euler steps or by Eq. 9's stochastic
ones.

A step is a value: `Transition(mean, std)` can draw the next latent and can price a given one. The
same `cps_step` makes it in rollout and in update, so that both speak of the same distribution.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from flowportrait.config import Frozen
from flowportrait.errors import ConfigError
from flowportrait.flow import predict_z0, predict_z1, shift_time
from flowportrait.tensors import PerClip

Noised = Float[Tensor, "b ..."]

Velocity = Callable[[Tensor, float], Tensor]
"""(zt, t) to velocity, same shape as zt. One call is one evaluation of the network, guidance
apart.
"""

Reduction = Literal["mean", "sum"]
Variance = Literal["none", "2std2"]
Noise = Literal["cps", "flow-sde"]
"""Which stochastic step a window takes: Eq. 9's, or Flow-GRPO's."""


@dataclass(frozen=True)
class Schedule:
    """The times of a sampling run: `evaluations` steps from t = 1 to t = 0, moved toward noise by
    `shift`.
    """

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

    mean: Noised
    std: float

    def draw(self, rng: torch.Generator | None = None) -> Noised:
        """A next latent. Without noise (std 0) it is the mean and `rng` is not touched."""
        if self.std == 0:
            return self.mean
        shape = self.mean.shape
        device = self.mean.device
        return self.mean + self.std * torch.randn(
            shape, generator=rng, device=device, dtype=self.mean.dtype
        )

    def draw_each(self, rngs: Sequence[torch.Generator]) -> Float[Tensor, "g ..."]:
        """One next latent for each (CPU) generator: around the mean they all share, or each around
        its own.
        """
        assert len(self.mean) in (1, len(rngs))
        shape = self.mean.shape[1:]
        dtype = self.mean.dtype
        noise = torch.stack(
            [
                torch.randn(
                    shape,
                    generator=rng,
                    dtype=dtype,
                )
                for rng in rngs
            ]
        )
        return self.mean + self.std * noise.to(self.mean.device)

    def log_prob(
        self,
        z_next: Noised,
        reduction: Reduction = "mean",
        variance: Variance = "none",
    ) -> PerClip:
        """Eq. 10: minus the MEAN over elements of the squared deviation, without variance; at least
        float32.

        The mean keeps the size of the ratio independent of resolution and length. A sum over 2
        std^2 is the true log-density up to a constant; under it every ratio of a video's million
        numbers explodes. A mean of one latent that several next ones share broadcasts.
        """
        squared = (z_next.to(self.mean.dtype) - self.mean).square().flatten(1)
        deviation = squared.mean(dim=1) if reduction == "mean" else squared.sum(dim=1)
        return -deviation * price(self.std, variance)


def price(std: float, variance: Variance) -> float:
    """The factor of squared deviations in `Transition.log_prob`: 1, or 1 / (2 std^2)."""
    if variance == "none":
        return 1.0
    return 1 / (2 * std**2)


def cps_step(zt: Noised, v: Noised, t: float, t_next: float, eta: float = 0.0) -> Transition:
    """Coefficients-preserving step from `t` to `t_next` (Eq. 9); `eta` in [0, 1], 0 is exactly
    Euler's step.

    The noise level of the next latent is `t_next` whatever `eta` is; the last step has std 0.
    """
    assert 0 <= eta <= 1  # beyond, the cosine turns negative
    zt = _at_least_float32(zt)
    v = _at_least_float32(v)
    if eta == 0:  # the same point as below; written so that it equals Euler's step to the last bit
        return Transition(zt + (t_next - t) * v, 0.0)
    angle = eta * math.pi / 2
    mean = (1 - t_next) * predict_z0(zt, v, t) + t_next * math.cos(angle) * predict_z1(zt, v, t)
    return Transition(mean, t_next * math.sin(angle))


def flow_sde_step(
    zt: Noised,
    v: Noised,
    t: float,
    t_next: float,
    eta: float,
    first: float,
) -> Transition:
    """A step of the SDE whose marginals are those of the flow (Flow-GRPO, arXiv:2505.05470, Eq. 9):
    the drift -v - s^2 / (2 t) (zt + (1 - t) v) and noise of variance s^2 a unit of time, with
    s^2 = eta^2 t / (1 - t). At t = 1, where s is infinite, it is taken at `first`, the schedule's
    second time, as there.
    """
    zt = _at_least_float32(zt)
    v = _at_least_float32(v)
    variance = eta**2 * _odds(t, first)
    step = t - t_next
    drift = v + variance / (2 * t) * (zt + (1 - t) * v)
    return Transition(zt - step * drift, math.sqrt(variance * step))


def _odds(t: float, first: float) -> float:
    return t / (1 - (first if t == 1 else t))


def noise_of(kind: Noise, t: float, t_next: float, eta: float, first: float) -> float:
    """Std of a stochastic step."""
    if kind == "cps":
        return t_next * math.sin(eta * math.pi / 2)
    return eta * math.sqrt(_odds(t, first) * (t - t_next))


def pull(t: float, t_next: float, eta: float, kind: Noise = "cps", first: float = 1.0) -> float:
    """d mean / d v of a step: how far a change of the velocity moves the mean of the next one."""
    if kind == "cps":
        return -t * (1 - t_next) + (1 - t) * t_next * math.cos(eta * math.pi / 2)
    return (t_next - t) * (1 + eta**2 * _odds(t, first) * (1 - t) / (2 * t))


class WindowRule(Frozen):
    """Which evaluations of a run are stochastic (Mix-GRPO, arXiv:2507.21802); all others are Euler
    steps.

    A window is a function of (seed, update) alone: the same for all siblings, on every rank and
    after a resume. It never holds the last evaluation, whose step has no noise and so nothing to
    learn from. Where the window lies is Unstated in the paper; random covers every evaluation
    without a phase of the run that sees but one.
    """

    kind: Literal["fixed", "random", "progressive"] = "random"
    width: int = Field(1, ge=1, description="number of stochastic evaluations, W of §4.1")
    first: int = Field(0, ge=0, description="first evaluation that a window may contain")
    last: int | None = Field(
        None, ge=0, description="last evaluation that a window may contain; none: the last but one"
    )
    hold_updates: int = Field(
        25, ge=1, description="progressive: number of updates before the window moves"
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="progressive: number of evaluations by which the window moves; none: its width",
    )
    rollback: bool = Field(
        True,
        description="progressive: restart at the beginning after the end; false: stay at the end",
    )

    def starts(self, evaluations: int) -> range:
        """Every first evaluation a window can have. Raises ConfigError when there is none."""
        last = evaluations - 2 if self.last is None else self.last
        if last > evaluations - 2 or self.first + self.width - 1 > last:
            raise ConfigError(
                f"window: width {self.width} within evaluations {self.first} to {last} of"
                f" {evaluations}; it must fit and end at {evaluations - 2} or before, since the"
                " last evaluation adds no noise"
            )
        return range(self.first, last - self.width + 2)

    def at(self, seed: int, update: int, evaluations: int) -> range:
        """The indices of the stochastic evaluations of `update`."""
        starts = self.starts(evaluations)
        if self.kind == "fixed":
            start = starts[0]
        elif self.kind == "random":
            start = starts[int(np.random.default_rng([seed, update, 2]).integers(len(starts)))]
        else:
            places = starts[:: self.stride or self.width]
            moves = update // self.hold_updates
            start = places[moves % len(places) if self.rollback else min(moves, len(places) - 1)]
        return range(start, start + self.width)


def guided(conditional: Velocity, unconditional: Velocity, scale: float) -> Velocity:
    """Classifier-free guidance, v_u + scale (v_c - v_u); one pass, the conditional one, at scale
    1.
    """
    if scale == 1.0:
        return conditional

    def velocity(zt: Tensor, t: float) -> Tensor:
        without = unconditional(zt, t)
        return without + scale * (conditional(zt, t) - without)

    return velocity


def sample(
    velocity: Velocity,
    z1: Noised,
    schedule: Schedule,
    eta: float = 0.0,
    rng: torch.Generator | None = None,
    on_step: Callable[[], None] | None = None,
) -> Noised:
    """The data that noise `z1` becomes along `schedule`; the state stays float32 under any
    autocast.
    """
    z = _at_least_float32(z1)
    for t, t_next in schedule:
        z = cps_step(z, velocity(z, t), t, t_next, eta).draw(rng)
        if on_step:
            on_step()
    return z


def _at_least_float32(z: Tensor) -> Tensor:
    if z.dtype == torch.float64:
        return z
    return z.float()
