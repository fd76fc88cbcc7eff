"""Objectives of the forward process: no step is priced; the model is drawn toward clips that were
better than their siblings, and away from the worse, by Eq. 2 at any noise level.

`nft` is DiffusionNFT (arXiv:2509.16117): with v' the sampling policy's velocity, optimality r in
[0, 1] and target u = noise - data,

    r |(1 - b) v' + b v - u|^2 + (1 - r) |(1 + b) v' - b v - u|^2, over b.

`rwr` is reward-weighted regression: w |v - u|^2 with w = exp(A / temperature), 1 on average over a
group. Any sampler will do, at the price of one forward for every sibling.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.flow import interpolate
from flowportrait.sampling import Schedule, Velocity
from flowportrait.train.grpo import ObjectiveConfig
from flowportrait.train.rollout import Pass

PerSample = Float[Tensor, " g"]


def optimality(advantage: PerSample, limit: float) -> PerSample:
    """r in [0, 1]: one half for a clip like its siblings."""
    return (0.5 + 0.5 * advantage / limit).clamp(0, 1)


def nft_loss(v: Tensor, old: Tensor, target: Tensor, r: Tensor, strength: float) -> Tensor:
    """DiffusionNFT's loss of one clip, mean over its numbers."""
    toward = ((1 - strength) * old + strength * v - target).square().mean()
    away = ((1 + strength) * old - strength * v - target).square().mean()
    return (r * toward + (1 - r) * away) / strength


def matching_passes(
    velocity: Velocity,
    z0: Float[Tensor, "g ..."],
    rngs: list[torch.Generator],
    advantage: PerSample,
    scored: Bool[Tensor, " g"],
    schedule: Schedule,
    objective: ObjectiveConfig,
    old: dict[int, Tensor],
) -> Iterator[Pass]:
    """The forwards of a group, one for each scored sibling, at a time of the schedule and a noise
    that its generator draws. `old` keeps the sampling policy's velocities for further updates.
    """
    weights = (advantage / objective.rwr_temperature).exp()
    weights = weights / weights[scored].mean()
    for sibling, rng in enumerate(rngs):
        index = int(torch.randint(len(schedule), (), generator=rng))
        t = schedule.times[index]
        clean = z0[sibling : sibling + 1]
        noise = torch.randn(clean.shape, generator=rng, dtype=clean.dtype).to(clean.device)
        v = velocity(interpolate(clean, noise, torch.tensor(t)), t)
        before = old.setdefault(sibling, v.detach())
        if objective.kind == "nft":
            r = optimality(advantage[sibling], objective.advantage_limit)
            loss = nft_loss(v, before, noise - clean, r, objective.nft_strength)
        else:
            loss = weights[sibling] * (v - (noise - clean)).square().mean()
        counts = bool(scored[sibling])
        none = advantage[:0]
        yield Pass(loss * counts, none, none > 0, 0.0)
