"""Flow-GRPO's objective (§3.2, Eq. 5, 7, 8) as pure functions, and the named choices around it.

Nothing here samples, scores or trains. Letters: A advantage, r ratio, mu the mean of a transition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from flowportrait.arrays import Rng, Values
from flowportrait.config import Frozen
from flowportrait.sampling import Noise, Reduction, Schedule, Variance, noise_of, price, pull
from flowportrait.tensors import PerClip

TIE = 1e-6
"""Rewards of a group that differ by no more than this, relative to the batch's largest, are
tied.
"""

StepWeight = Literal["none", "noise_level", "even"]


class ObjectiveConfig(Frozen):
    """Eq. 5 and 7 with what the paper leaves open."""

    kind: Literal["policy", "nft", "rwr", "gradient"] = Field(
        "policy",
        description="policy: Eq. 7; nft: DiffusionNFT (arXiv:2509.16117); rwr: reward-weighted "
        "regression; gradient: backpropagation through the reward (DRaFT-1, arXiv:2309.17400), "
        "for rewards that are functions of landmarks. The last three take one forward pass per "
        "sibling",
    )
    nft_strength: float = Field(1.0, gt=0, description="beta of DiffusionNFT")
    rwr_temperature: float = Field(
        1.0, gt=0, description="temperature of the weights exp(A / temperature)"
    )
    ratio_epsilon: float = Field(1e-3, gt=0, lt=1, description="clipping threshold of §4.1")
    ddof: Literal[0, 1] = Field(
        0,
        description=(
            "divide the group's variance by G (0, Flow-GRPO) or G - 1 (1, Mix-GRPO). Unstated"
        ),
    )
    std_floor: float = Field(
        0.0,
        ge=0,
        description=(
            "minimum std of a group as a share of the batch's; above 0, small differences in "
            "reward are not amplified to full advantages. Unstated; 0 is Eq. 5 as written"
        ),
    )
    advantage_limit: float = Field(
        5.0,
        gt=0,
        description=(
            "advantages are clipped to this. Unstated; other implementations use 5, which G = 4 "
            "cannot reach"
        ),
    )
    logprob_reduction: Reduction = Field(
        "mean",
        description=(
            "reduction of the log-probability over elements. Unstated in Eq. 10; ratio_epsilon "
            "assumes mean"
        ),
    )
    logprob_variance: Variance = Field(
        "none",
        description=(
            "scaling of the squared error in the log-probability. Unstated: Eq. 10 is only a "
            "proportionality"
        ),
    )
    old_log_prob: Literal["rollout", "update"] = Field(
        "rollout",
        description=(
            "update: recompute it in the first pass of the update, for when sampling and training"
            " use different kernels"
        ),
    )
    ratio_norm: Literal["none", "guard"] = Field(
        "none", description="normalization of the ratio; guard: GRPO-Guard, arXiv:2510.22319"
    )
    step_weight: StepWeight = Field(
        "none",
        description="weight of an evaluation's loss. noise_level: by its noise (TempFlow-GRPO, "
        "arXiv:2508.04324); even: equal gradient size for every evaluation",
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the KL term, beta of Eq. 7. Unstated; 0 needs no reference network",
    )
    kl_to: Literal["old", "base"] = Field(
        "old",
        description=(
            "reference of the KL term. old: Eq. 7 as written, zero in the first update after "
            "a rollout; base: the untuned model, as in other implementations"
        ),
    )
    updates_per_rollout: int = Field(
        1, ge=1, description="Unstated; at 1 the ratio is always 1 and Eq. 7 never clips"
    )

    shuffled: bool = Field(
        False,
        description="control experiment: permute the advantages within each group at random; with "
        "kind gradient, negate half of a group's rewards",
    )

    @property
    def matches(self) -> bool:
        """Whether it is one of the forward process, which learns from clean latents."""
        return self.kind in ("nft", "rwr")

    @property
    def needs_old_mean(self) -> bool:
        """Whether the means of the sampling policy must be kept."""
        return self.ratio_norm == "guard" or (self.kl_weight > 0 and self.kl_to == "old")


@dataclass(frozen=True)
class Advantages:
    """`values` [n] float64, 0 where nothing can be learnt; `scored` [n]; `tied` and `dropped` count
    groups.
    """

    values: Values
    scored: np.ndarray
    num_groups: int
    tied: int
    dropped: int


def advantages(
    rewards: Values,
    group: Int[np.ndarray, " n"],
    ddof: int = 0,
    std_floor: float = 0.0,
) -> Advantages:
    """Eq. 5: A = (R - mean) / std within each group, in float64.

    A tied group gets exact zeros. A nan reward drops out of its group; fewer than two that remain
    drop the group.
    """
    rewards = np.asarray(rewards, np.float64)
    scored = np.isfinite(rewards)
    values = np.zeros_like(rewards)
    tie = TIE * max(np.abs(rewards[scored]).max(initial=0.0), np.finfo(np.float64).tiny)
    floor = 0.0
    if std_floor and scored.any():
        floor = std_floor * rewards[scored].std()
    names = np.unique(group)
    tied = 0
    dropped = 0
    for name in names:
        members = np.flatnonzero((group == name) & scored)
        if len(members) < 2:
            scored[members] = False
            dropped += 1
        elif np.ptp(rewards[members]) <= tie:
            tied += 1
        else:
            deviation = rewards[members] - rewards[members].mean()
            values[members] = deviation / max(rewards[members].std(ddof=ddof), floor)
    return Advantages(values, scored, len(names), tied, dropped)


def shuffled(advantage: Advantages, group: Int[np.ndarray, " n"], rng: Rng) -> Advantages:
    """The same advantages in a random order within each group: what a run gains without learning
    from its rewards.
    """
    values = advantage.values.copy()
    for name in np.unique(group):
        members = np.flatnonzero((group == name) & advantage.scored)
        values[members] = values[rng.permutation(members)]
    return replace(advantage, values=values)


def surrogate(log_ratio: PerClip, advantage: PerClip, epsilon: float) -> PerClip:
    """Eq. 7's first term, min(r A, clip(r, 1 - eps, 1 + eps) A), with r of Eq. 8 given as its
    logarithm.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


def shift(mean: Tensor, other: Tensor, reduction: Reduction = "mean") -> PerClip:
    """Squared distance of two means of a transition, reduced over elements as the log-probability
    is.
    """
    squared = (mean - other).square().flatten(1)
    if reduction == "mean":
        return squared.mean(1)
    return squared.sum(1)


def kl_divergence(mean: Tensor, other: Tensor, std: float) -> PerClip:
    """KL of two transitions of one `std`, (mu - mu')^2 / (2 std^2), mean over elements. `std` is
    the whole std of the step, so no time difference enters.
    """
    return shift(mean, other) / (2 * std**2)


def guarded_log_ratio(
    log_ratio: PerClip,
    shifted: PerClip,
    std: float,
    variance: Variance = "none",
) -> PerClip:
    """GRPO-Guard's ratio normalisation: centred, and in one unit at every noise level.

    log r of a step is -c (shift) on average and spreads by 2 c std (c as in `price`): the first is
    added back, the second divided out. For c = 1 / (2 std^2) this is the published (log r + shift /
    (2 std^2)) std.
    """
    c = price(std, variance)
    return (log_ratio + c * shifted) / (2 * c * std)


def step_weights(
    kind: StepWeight, schedule: Schedule, eta: float, trainable: range, step: Noise = "cps"
) -> list[float]:
    """A weight for every evaluation of `schedule`, 1 on average over the `trainable` ones.

    How strongly an evaluation trains is 2 std |d mu / d v|: three times as strong in the middle of
    a run as at its start. `noise_level` weighs by std, `even` by the inverse of that strength.
    """
    if kind == "none":
        return [1.0] * len(schedule)
    first = schedule.times[1]
    noise = np.array([noise_of(step, t, t_next, eta, first) for t, t_next in schedule])
    pulls = [pull(t, t_next, eta, step, first) for t, t_next in schedule]
    strength = 2 * noise * np.abs(pulls)
    if kind == "noise_level":
        chosen = noise
    else:
        chosen = np.divide(1, strength, where=strength > 0, out=noise * 0)
    return (chosen / chosen[list(trainable)].mean()).tolist()
