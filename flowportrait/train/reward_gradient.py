"""The reward's own gradient, sent back through the last evaluation: DRaFT with K = 1
(arXiv:2309.17400), ReFL (arXiv:2304.05977).

Where every measure of a reward is a differentiable function of landmarks, a clip need not be
compared with its siblings: the codec says where its points are, the measure what they are worth.
This is no policy gradient, Eq. 7 takes no part, and a judge has no gradient to give. Siblings are
samples like any others; the evaluations before the last one are taken as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.flow import predict_z0
from flowportrait.sampling import Velocity
from flowportrait.scoring.reward import Measure
from flowportrait.tensors import LandmarkTrack
from flowportrait.train.grpo import kl_divergence
from flowportrait.train.prompts import points_of
from flowportrait.train.rlbatch import Group
from flowportrait.train.rlstate import RlSession
from flowportrait.train.rollout import Pass
from flowportrait.train.run import Figures


def reward_gradient_passes(
    velocity: Velocity,
    last: Float[Tensor, "g ..."],
    t: float,
    worth: Callable[[Tensor], Tensor],
    scored: Bool[Tensor, " g"],
    base: Velocity | None = None,
    kl_weight: float = 0.0,
    signs: Float[Tensor, " g"] | None = None,
) -> Iterator[Pass]:
    """The forwards of a group, one for each sibling from the latents `last` that its last
    evaluation, at time `t`, is given; minus what its clean latents are `worth` (times their
    `signs`), plus Eq. 7's KL to those of the `base`, with a std of 1.
    """
    none = torch.zeros(0, device=last.device)
    for sibling, zt in enumerate(last.split(1)):
        v = velocity(zt, t)
        z0 = predict_z0(zt, v, t)
        kl = v.new_zeros(1)
        if base is not None:
            with torch.no_grad():
                untuned = predict_z0(zt, base(zt, t), t)
            kl = kl_divergence(z0, untuned, 1.0)
        # With nothing to learn, too: sharded weights are gathered by all ranks together.
        sign = 1.0 if signs is None else float(signs[sibling])
        loss = kl_weight * kl.sum() - sign * worth(z0) if scored[sibling] else 0 * v.sum()
        yield Pass(loss, none, none > 0, float(kl.detach().mean()))


def worth_of(
    points: LandmarkTrack,
    true: LandmarkTrack,
    measures: Mapping[str, Measure],
    weights: Mapping[str, float],
) -> Tensor:
    """Eq. 17 of a clip up to a constant: its measures, each times its weight over the batch's
    std.
    """
    count = min(len(points), len(true))
    made = points[:count]
    true = true[:count]
    signs = {name: 1.0 if measures[name].better == "higher" else -1.0 for name in weights}
    numbers = [
        signs[name] * weight * measures[name].of_points(made, true.to(made))
        for name, weight in weights.items()
    ]
    return torch.stack(numbers).sum()


def clip_worth(session: RlSession, group: Group, scales: Figures, z0: Tensor) -> Tensor:
    """The reward of clean latents of a group as `generate` shows them, differentiable;
    `scales` by term.
    """
    config = session.config
    pipeline = session.pipeline
    shown = pipeline.settled(group.clip, z0, group.rest)
    weights = dict.fromkeys(config.reward.scorers, 0.0)
    for term in config.reward.terms:
        for name in term.scorers:
            weights[name] += scales[term.name] / len(term.scorers)
    true = torch.from_numpy(group.true_points)
    points = points_of(pipeline, group.clip, shown)
    return worth_of(points, true, session.measures, weights)


def signs_of_control(seed: int, update: int, group: int, size: int) -> Float[Tensor, " g"]:
    """A control's sign for each of the `size` siblings of a group: half of what they are worth is
    turned round, so that over the prompts they teach nothing.
    """
    rng = np.random.default_rng([seed, update, group, 7])
    return torch.from_numpy(rng.permutation(np.arange(size) % 2 * 2.0 - 1.0))
