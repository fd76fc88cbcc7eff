"""Sampling groups to learn from (§3.2), and their loss. What siblings have in common is computed
once.

Siblings that start from the same noise are one latent until the first stochastic step draws them
apart, because the noise of Eq. 9 enters after the network was called. So the evaluations before the
window run once a group; the window's first evaluation does, too; and in the update its one forward
and backward pass serves all siblings: the loss of a group is a function of one mean. A latent that
siblings share is a batch of one here, and everything else follows from that: `Sharing` only says
when it is copied. Siblings apart are evaluated one by one, which makes every way of sharing equal
to the plain one to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.config import Frozen
from flowportrait.errors import TrainingError
from flowportrait.sampling import (
    Noise,
    Schedule,
    Transition,
    Velocity,
    cps_step,
    flow_sde_step,
)
from flowportrait.train.grpo import (
    ObjectiveConfig,
    guarded_log_ratio,
    kl_divergence,
    shift,
    step_weights,
    surrogate,
)

PerSample = Float[Tensor, " g"]
Steps = Float[Tensor, "s ..."]


class Sharing(Frozen):
    """Computations that are made once for a group. None of it changes a result; `prefix` and
    `window` need shared noise.
    """

    prefix: bool = True  # share the evaluations before the window
    window: bool = True  # share the window's first evaluation, in sampling and in the update
    condition: bool = True  # share keys and values of audio and portrait in all evaluations


@dataclass(frozen=True)
class RolloutPlan:
    """How one update samples: the same for all groups, siblings and ranks."""

    schedule: Schedule
    window: range
    eta: float
    trainable: range  # every evaluation that some window of the run can hold
    noise: Noise = "cps"

    @cached_property
    def digest(self) -> str:
        """A short hash, stored with what was sampled: an update must price the steps that were
        taken.
        """
        text = f"{self.schedule.digest} {self.window} {self.eta!r}"
        text += "" if self.noise == "cps" else f" {self.noise}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def step(self, index: int, zt: Tensor, v: Tensor) -> Transition:
        """Evaluation `index`: stochastic within the window, Euler's step outside (Mix-GRPO)."""
        times = self.schedule.times
        t = times[index]
        t_next = times[index + 1]
        if index not in self.window:
            return cps_step(zt, v, t, t_next)
        if self.noise == "cps":
            return cps_step(zt, v, t, t_next, self.eta)
        return flow_sde_step(zt, v, t, t_next, self.eta, times[1])


@dataclass(frozen=True)
class Step:
    """One stochastic step of a group: from `zt` (a batch of one where siblings share it) to
    `z_next`, with the log-probability that sampling gave to it, and the mean where the objective
    asks for it.
    """

    index: int
    zt: Steps
    z_next: Float[Tensor, "g ..."]
    log_prob: PerSample
    mean: Steps | None


@dataclass(frozen=True)
class Trajectories:
    """The part of a group that is kept until its update: the window's latents, those `last` before
    data, and the data they led to.
    """

    digest: str
    steps: tuple[Step, ...]
    last: Steps
    z0: Float[Tensor, "g ..."]


def rng_for(seed: int, update: int, *key: int) -> torch.Generator:
    """A CPU generator of its own for each key: (group,) for a group's first noise, (group, sibling)
    for a sibling's steps. The same on every rank, device and after a resume.
    """
    state = np.random.SeedSequence([seed, update, 3, len(key), *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def first_noise(
    shape: Sequence[int], seed: int, update: int, group: int, size: int, shared: bool
) -> Tensor:
    """z1 of a group: [1, ...] if siblings share it, [size, ...] if not."""
    if shared:
        return torch.randn((1, *shape), generator=rng_for(seed, update, group))
    return torch.stack(
        [torch.randn(shape, generator=rng_for(seed, update, group, i, 1)) for i in range(size)]
    )


@torch.no_grad()
def roll_out(
    velocity: Velocity,
    z1: Steps,
    rngs: Sequence[torch.Generator],
    plan: RolloutPlan,
    objective: ObjectiveConfig,
    sharing: Sharing = Sharing(),  # noqa: B008 (frozen)
) -> Trajectories:
    """Samples one sibling for each of `rngs` from the noise `z1`, deterministic outside the
    window.
    """
    together = 0 if not sharing.prefix else plan.window.start + sharing.window
    z = z1
    steps = []
    for index, (t, _) in enumerate(plan.schedule):
        if index >= together and len(z) < len(rngs):
            z = z.expand(len(rngs), *z.shape[1:])
        last = z
        step = plan.step(index, z, _one_by_one(velocity, z, t))
        if index not in plan.window:
            z = step.mean
            continue
        z_next = step.draw_each(rngs)
        log_prob = step.log_prob(z_next, objective.logprob_reduction, objective.logprob_variance)
        steps.append(
            Step(index, z, z_next, log_prob, step.mean if objective.needs_old_mean else None)
        )
        z = z_next
    return Trajectories(plan.digest, tuple(steps), last, z)


def _one_by_one(velocity: Velocity, z: Tensor, t: float) -> Tensor:
    return torch.cat([velocity(z[i : i + 1], t) for i in range(len(z))])


@dataclass(frozen=True)
class Pass:
    """One forward of the update: its `loss`, which is to be sent backward, and what it saw of each
    sibling.
    """

    loss: Tensor
    log_ratio: PerSample
    outside: Tensor  # whether the ratio lay outside 1 +- epsilon
    kl: float


def passes(
    velocity: Velocity,
    group: Trajectories,
    advantage: PerSample,
    scored: Bool[Tensor, " g"],
    plan: RolloutPlan,
    objective: ObjectiveConfig,
    base: Velocity | None = None,
    on_policy: bool = True,
) -> Iterator[Pass]:
    """The forwards that make a group's loss, minus Eq. 7 summed over its scored siblings and
    averaged over the window.

    A step from a shared latent is one forward for all siblings; the others are one for each.
    `on_policy` says that no update has been made since sampling: the ratio is then 1, which is
    checked. `base` is the velocity a KL to it needs.
    """
    assert group.digest == plan.digest
    weights = step_weights(
        objective.step_weight, plan.schedule, plan.eta, plan.trainable, plan.noise
    )
    everyone = torch.arange(len(scored))
    times = plan.schedule.times
    for step in group.steps:
        weight = weights[step.index] / len(group.steps)
        for place, zt in enumerate(step.zt.split(1)):
            siblings = everyone if len(step.zt) == 1 else everyone[place : place + 1]
            siblings = siblings[scored[siblings].cpu()]
            # With nothing to learn, too: sharded weights are gathered by all ranks together.
            v = velocity(zt, times[step.index])
            if not len(siblings):
                yield Pass(0 * v.sum(), advantage[:0], advantage[:0] > 0, 0.0)
                continue
            transition = plan.step(step.index, zt, v)
            drawn = _Drawn(step, place, siblings, advantage[siblings], weight)
            yield _priced(drawn, transition, plan, objective, base, on_policy)


@dataclass(frozen=True)
class _Drawn:
    """The `siblings` that one transition of a step has drawn, from its latent number `place`."""

    step: Step
    place: int
    siblings: Tensor
    advantage: Float[Tensor, " s"]
    weight: float

    @property
    def old_mean(self) -> Tensor | None:
        means = self.step.mean
        if means is None:
            return None
        return means[self.place : self.place + 1]


def _priced(
    drawn: _Drawn,
    new: Transition,
    plan: RolloutPlan,
    objective: ObjectiveConfig,
    base: Velocity | None,
    on_policy: bool,
) -> Pass:
    """Eq. 7 of siblings whose step is now the transition `new`."""
    step = drawn.step
    siblings = drawn.siblings
    log_prob = new.log_prob(
        step.z_next[siblings], objective.logprob_reduction, objective.logprob_variance
    )
    if on_policy and objective.old_log_prob == "update":
        step.log_prob[siblings] = log_prob.detach()
    log_ratio = log_prob - step.log_prob[siblings]  # Eq. 8
    if on_policy:
        _check_on_policy(log_ratio)
    guarded = _normalised(log_ratio, new, drawn.old_mean, objective)
    gain = surrogate(guarded, drawn.advantage, objective.ratio_epsilon)
    kl = _divergence(drawn, new, plan, objective, base)
    loss = -drawn.weight * (gain - objective.kl_weight * kl).sum()
    outside = guarded.detach().expm1().abs() > objective.ratio_epsilon
    return Pass(loss, log_ratio.detach(), outside, float(kl.detach().mean()))


def _divergence(
    drawn: _Drawn,
    new: Transition,
    plan: RolloutPlan,
    objective: ObjectiveConfig,
    base: Velocity | None,
) -> Tensor:
    """Eq. 7's KL of the transition to that of the old policy or of the base; 0 where none is
    asked for.
    """
    if not objective.kl_weight:
        return new.mean.new_zeros(1)
    other = drawn.old_mean
    if objective.kl_to == "base":
        index = drawn.step.index
        zt = drawn.step.zt[drawn.place : drawn.place + 1]
        with torch.no_grad():
            other = plan.step(index, zt, base(zt, plan.schedule.times[index])).mean
    return kl_divergence(new.mean, other, new.std)


def _check_on_policy(log_ratio: Tensor) -> None:
    """The first ratio of an update is exactly 1: sampling and training speak of the same
    distribution.
    """
    off = float(log_ratio.detach().abs().max())
    if off != 0 and np.isfinite(off):
        raise TrainingError(
            f"objective: the first ratio is off 1 by {off:.2g}, so sampling and training run"
            " different kernels; run both in the same precision and mode, or set"
            " objective.old_log_prob = 'update'"
        )


def _normalised(
    log_ratio: Tensor, new: Transition, old_mean: Tensor | None, objective: ObjectiveConfig
) -> Tensor:
    if objective.ratio_norm == "none":
        return log_ratio
    shifted = shift(new.mean, old_mean, objective.logprob_reduction)
    return guarded_log_ratio(log_ratio, shifted, new.std, objective.logprob_variance)
