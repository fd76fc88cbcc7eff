"""Objectives of the forward process: their gradients in closed form, and that they teach."""

import pytest
import torch
from torch.testing import assert_close

from flowportrait.sampling import Schedule
from flowportrait.train.grpo import ObjectiveConfig
from flowportrait.train.matching import matching_passes, nft_loss, optimality

SHAPE = (3, 4)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, at):
    value = at.clone().requires_grad_()
    loss(value).backward()
    return value.grad


@pytest.mark.parametrize("strength", [0.1, 1.0, 2.0])
def test_on_policy_nft_follows_its_optimality(strength):
    """At v = v' its gradient is 2 (2 r - 1) (v - u) / n, whatever the strength."""
    old, target = drawn(0, *SHAPE), drawn(1, *SHAPE)
    for r in (0.0, 0.3, 0.5, 1.0):
        found = gradient(lambda v: nft_loss(v, old, target, torch.tensor(r), strength), old)  # noqa: B023
        assert_close(found, 2 * (2 * r - 1) * (old - target) / old.numel())


def test_nft_of_the_best_clip_is_flow_matching():
    v, old, target = drawn(0, *SHAPE), drawn(1, *SHAPE), drawn(2, *SHAPE)
    assert_close(nft_loss(v, old, target, torch.tensor(1.0), 1.0), (v - target).square().mean())


def test_optimality_lies_between_0_and_1():
    found = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0]), 5.0)
    assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0]))


@pytest.mark.parametrize("kind", ["nft", "rwr"])
def test_clips_draw_the_model_by_their_advantage(kind):
    """Two clips at -1 and 1: the velocity of a policy of one number moves toward the better one."""
    z0 = torch.tensor([[-1.0], [1.0]])
    objective = ObjectiveConfig(kind=kind, advantage_limit=1.0, rwr_temperature=0.5)
    rngs = [torch.Generator().manual_seed(i) for i in range(2)]
    for better in (0, 1):
        mean = torch.zeros(1, requires_grad=True)  # v = (zt - mean) / t is the one to `mean`
        velocity = lambda zt, t: (zt - mean) / t  # noqa: E731, B023
        advantage = torch.tensor([1.0, -1.0] if better == 0 else [-1.0, 1.0])
        both = torch.ones(2, dtype=torch.bool)
        passes = matching_passes(
            velocity, z0, rngs, advantage, both, Schedule(4, 3.0), objective, {}
        )
        sum(part.loss for part in passes).backward()
        assert torch.sign(-mean.grad) == torch.sign(z0[better])


def test_weights_of_regression_are_one_on_average():
    z0, rngs = drawn(3, 3, 5), [torch.Generator().manual_seed(i) for i in range(3)]
    even = ObjectiveConfig(kind="rwr", rwr_temperature=1e9)
    scored = torch.tensor([True, True, False])
    passes = list(
        matching_passes(
            lambda zt, t: 0 * zt, z0, rngs, torch.tensor([1.0, -1.0, 0.0]).double(), scored,
            Schedule(1), even, {},
        )
    )  # fmt: skip
    noises = [torch.Generator().manual_seed(i) for i in range(3)]
    for part, noise, clean, counts in zip(passes, noises, z0, scored, strict=True):
        torch.randint(1, (), generator=noise)
        target = torch.randn(1, 5, generator=noise, dtype=torch.float64) - clean
        assert_close(part.loss, target.square().mean() * counts)
