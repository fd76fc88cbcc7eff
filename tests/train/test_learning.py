"""The method learns, and learns from the reward: a toy policy with an analytic reward, and the same
under shuffled advantages.
"""

import numpy as np
import pytest
import torch

from flowportrait.sampling import Schedule, WindowRule, sample
from flowportrait.train.grpo import ObjectiveConfig, advantages
from flowportrait.train.rollout import RolloutPlan, first_noise, passes, rng_for, roll_out

GROUPS, SIZE, EVALUATIONS, UPDATES = 6, 4, 6, 40
TARGET = torch.tensor([1.5, -1.0])
PAPER = ObjectiveConfig()
ALL = torch.ones(SIZE, dtype=torch.bool)


def velocity_of(mean):
    """The exact velocity of data that is normal around `mean` with variance 1: what a perfect
    network would give.
    """

    def velocity(zt, t):
        return -mean + (t - (1 - t)) / ((1 - t) ** 2 + t**2) * (zt - (1 - t) * mean)

    return velocity


def reward(z0):
    """Higher near the target."""
    return -(z0 - TARGET).square().sum(-1).double().numpy()


def held_out(mean):
    z1 = torch.randn(256, 2, generator=torch.Generator().manual_seed(9))
    return float(reward(sample(velocity_of(mean.detach()), z1, Schedule(EVALUATIONS, 1.0))).mean())


def tuned(objective=PAPER, window=1, shuffle=None):
    """Held-out rewards before and after the updates; `shuffle` is the seed of shuffled
    advantages.
    """
    mean = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([mean], lr=0.05, betas=(0.9, 0.95), weight_decay=0.0)
    before, rule = held_out(mean), WindowRule(width=window)
    for update in range(UPDATES):
        plan = RolloutPlan(
            Schedule(EVALUATIONS, 1.0), rule.at(0, update, EVALUATIONS), 0.5, range(EVALUATIONS - 1)
        )
        groups = []
        for number in range(GROUPS):
            z1 = first_noise((2,), 0, update, number, SIZE, shared=True)
            rngs = [rng_for(0, update, number, sibling) for sibling in range(SIZE)]
            groups.append(roll_out(velocity_of(mean), z1, rngs, plan, objective))
        rewards = np.concatenate([reward(group.z0) for group in groups])
        values = advantages(rewards, np.repeat(range(GROUPS), SIZE)).values
        if shuffle is not None:
            np.random.default_rng([shuffle, update]).shuffle(values)
        for turn in range(objective.updates_per_rollout):
            optimizer.zero_grad()
            for group, row in zip(
                groups, torch.from_numpy(values).float().split(SIZE), strict=True
            ):
                for part in passes(
                    velocity_of(mean), group, row, ALL, plan, objective, on_policy=turn == 0
                ):
                    part.loss.backward()
            optimizer.step()
    return before, held_out(mean)


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(),
        ObjectiveConfig(updates_per_rollout=2, ratio_epsilon=0.2),
        ObjectiveConfig(ratio_norm="guard"),
        ObjectiveConfig(step_weight="even", logprob_variance="2std2"),
    ],
    ids=["paper", "two updates a rollout", "guard", "even"],
)
def test_reward_rises(objective):
    before, after = tuned(objective)
    assert before < -4 and after > -2


def test_reward_rises_in_a_wider_window():
    before, after = tuned(window=3)
    assert before < -4 and after > -2


def test_reward_does_not_rise_under_shuffled_advantages():
    """A random walk: it may come nearer by luck, so the mean of several is asked."""
    before, learnt = tuned()
    walks = [tuned(shuffle=seed)[1] for seed in range(5)]
    assert np.mean(walks) - before < 0.3 * (learnt - before)
