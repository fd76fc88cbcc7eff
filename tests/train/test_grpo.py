"""Eq. 5, 7 and 8 against the numbers of official implementations, and the properties they must
have.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from flowportrait.sampling import Schedule, Transition, pull
from flowportrait.train.grpo import (
    advantages,
    guarded_log_ratio,
    kl_divergence,
    shift,
    step_weights,
    surrogate,
)

GOLDEN_DIR = Path(__file__).parents[1] / "golden"
ADVANTAGE = load_file(GOLDEN_DIR / "rl" / "advantage.safetensors")
POLICY = load_file(GOLDEN_DIR / "rl" / "policy_loss.safetensors")
CASES = sorted({name.split("/")[0] for name in ADVANTAGE} - {"composite"})
LOSSES = sorted({name.rpartition("/")[0] for name in POLICY if "/f64/" in name})
FOUR = np.repeat(0, 4)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_advantages_equal_the_closed_form(case, ddof):
    reward, group = (ADVANTAGE[f"{case}/{name}"].numpy() for name in ("reward", "group_id"))
    expected = ADVANTAGE[f"{case}/closed_form/ddof{ddof}"].numpy()
    assert_close(
        advantages(reward, group, ddof).values, np.nan_to_num(expected), atol=1e-9, rtol=1e-9
    )


def test_ties_are_exact_zeros_and_counted():
    """In float32 0.1 minus the mean of 0.1s is not 0, and a group without a difference would train
    at full strength.
    """
    found = advantages(np.array([0.1] * 12 + [1.0, 2.0, 3.0, 4.0]), np.array([0] * 12 + [1] * 4))
    assert not found.values[:12].any() and found.values[12:].all()
    assert (found.tied, found.dropped, found.num_groups) == (1, 0, 2)


def test_a_group_is_judged_against_itself_and_shift_and_scale_do_not_matter():
    reward, group = np.random.default_rng(0).normal(size=12), np.repeat([5, 3, 9], 4)
    values = advantages(reward, group).values
    assert_close(advantages(3 * reward + 7, group).values, values)
    order = np.random.default_rng(1).permutation(12)
    assert_close(advantages(reward[order], group[order]).values, values[order])
    assert_close([values[group == g].sum() for g in (3, 5, 9)], [0.0] * 3)


def test_what_has_no_score_drops_out():
    nan = float("nan")
    found = advantages(np.array([1.0, 2.0, 3.0, nan, 5.0, nan, nan, nan]), np.repeat([0, 1], 4))
    assert_close(found.values[:3], advantages(np.array([1.0, 2, 3]), FOUR[:3]).values)
    assert not found.values[3:].any() and found.dropped == 1
    assert found.scored.tolist() == [True, True, True, False] + [False] * 4


def test_a_floor_keeps_small_differences_small():
    """Where the large reward ties, the small one's noise must not come out at full strength."""
    reward = np.array([0.0, 0.0, 0.0, 0.01, -2.0, 2.0, -2.0, 2.0])
    plain, floored = (
        advantages(reward, np.repeat([0, 1], 4), std_floor=f).values for f in (0.0, 0.5)
    )
    assert np.abs(plain[:4]).max() > 1.7 and np.abs(floored[:4]).max() < 0.02
    assert_close(plain[4:], floored[4:])


@pytest.mark.parametrize("case", [case for case in LOSSES if not case.startswith("exact_edges")])
def test_loss_and_gradient_equal_verl_omni(case):
    golden = {
        name: POLICY[f"{case}/{name}"].double()
        for name in ("new_logp", "adv", "loss", "grad_new_logp")
    }
    new = golden["new_logp"].requires_grad_()
    epsilon = float(case.split("/")[2].removeprefix("eps"))
    loss = -surrogate(new - POLICY["old_logp"], golden["adv"].clamp(-5, 5), epsilon).mean()
    loss.backward()
    assert_close(loss, golden["loss"][0], atol=1e-12, rtol=1e-9)
    assert_close(new.grad, golden["grad_new_logp"], atol=1e-12, rtol=1e-9)


def test_gradient_stops_where_clipping_says():
    """Outside 1 +- eps a good clip is not pushed further and a bad one not pulled further; the
    other way both are.
    """
    log_ratio = torch.tensor([0.1, -0.1, 0.1, -0.1], requires_grad=True)
    surrogate(log_ratio, torch.tensor([1.0, 1.0, -1.0, -1.0]), 1e-3).sum().backward()
    assert [g != 0 for g in log_ratio.grad] == [False, True, True, False]


def test_guard_equals_verl_omni():
    """Theirs is computed in float32, clipped at 2e-6 and divided by dt."""
    golden = {
        name.removeprefix("guard/"): value.double()
        for name, value in POLICY.items()
        if "guard/" in name
    }
    std = float(golden["std"].mean() * golden["sqrt_dt"].mean())
    shifted = shift(golden["new_mean"], golden["old_mean"])
    log_ratio = guarded_log_ratio(golden["new_logp"] - golden["old_logp"], shifted, std, "2std2")
    loss = -surrogate(log_ratio, golden["adv"], 2e-6).mean() / 0.2**2
    assert_close(loss, golden["loss"][0], atol=3e-6, rtol=0)


@pytest.mark.parametrize("variance", ["none", "2std2"])
def test_guard_centres_the_ratio_and_gives_it_one_unit(variance):
    old, new, spreads = torch.zeros(1, 4000), torch.full((1, 4000), 0.02), []
    for std in (0.1, 0.5):
        drawn = std * torch.randn(2000, 4000, generator=torch.Generator().manual_seed(0))
        steps = Transition(new, std), Transition(old, std)
        ratio = steps[0].log_prob(drawn, "mean", variance) - steps[1].log_prob(
            drawn, "mean", variance
        )
        guarded = guarded_log_ratio(ratio, shift(new, old), std, variance)
        assert abs(guarded.mean()) < 0.1 * guarded.std() < abs(ratio.mean()) / std
        spreads.append(float(guarded.std()))
    assert_close(spreads[0], spreads[1], rtol=1e-4, atol=0)


def test_kl_is_that_of_normal_distributions_and_trains():
    mean, other = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    mean.requires_grad_()
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, 0.3), torch.distributions.Normal(other, 0.3)
    )
    kl = kl_divergence(mean, other, 0.3)
    assert_close(kl, exact.mean((1, 2)))
    kl.sum().backward()
    assert mean.grad.abs().min() > 0


def test_step_weights():
    schedule, trainable = Schedule(15, 3.0), range(14)
    assert step_weights("none", schedule, 0.5, trainable) == [1.0] * 15
    for kind in ("noise_level", "even"):
        assert_close(np.mean(step_weights(kind, schedule, 0.5, trainable)[:14]), 1.0)
    noise = step_weights("noise_level", schedule, 0.5, trainable)
    assert noise == sorted(noise, reverse=True) and noise[14] == 0
    even = step_weights("even", schedule, 0.5, trainable)
    strength = [
        t_next * abs(pull(t, t_next, 0.5)) * w
        for (t, t_next), w in zip(schedule, even, strict=True)
    ]
    assert_close(strength[:14], [strength[0]] * 14)


def test_how_strongly_each_evaluation_trains():
    """2 std |d mu / d v| at the paper's setting: the middle of a run trains three times as strongly
    as its start.
    """
    std = np.sin(np.pi / 4)
    strength = [2 * t_next * std * abs(pull(t, t_next, 0.5)) for t, t_next in Schedule(15, 3.0)]
    expected = [
        0.032,
        0.043,
        0.054,
        0.065,
        0.075,
        0.085,
        0.093,
        0.100,
        0.105,
        0.106,
        0.103,
        0.093,
        0.074,
        0.044,
        0.0,
    ]
    assert_close(strength, expected, atol=6e-4, rtol=0)
