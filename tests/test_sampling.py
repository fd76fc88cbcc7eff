"""Schedule, Transition, Eq. 9-10 and guidance. Golden numbers: flow_grpo's CPS step in float64."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from flowportrait import flow
from flowportrait.errors import ConfigError
from flowportrait.sampling import (
    Schedule,
    Transition,
    WindowRule,
    cps_step,
    flow_sde_step,
    guided,
    noise_of,
    pull,
    sample,
)

GOLDEN_DIR = Path(__file__).parent / "golden" / "rl"
GOLDEN = load_file(GOLDEN_DIR / "cps_steps.safetensors")
SCHEDULES = load_file(GOLDEN_DIR / "schedules.safetensors")
WINDOWS = load_file(GOLDEN_DIR / "windows.safetensors")
CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def latents(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("evaluations", [1, 2, 25])
def test_schedule_counts_evaluations(evaluations, shift):
    schedule = Schedule(evaluations, shift)
    steps = list(schedule)
    assert len(steps) == len(schedule) == evaluations
    assert steps[0][0] == 1 and steps[-1][1] == 0
    assert all(end == start for (_, end), (start, _) in zip(steps, steps[1:], strict=False))
    assert all(t > t_next for t, t_next in steps)


def test_schedule_digest_names_the_times():
    assert Schedule(10, 3.0).digest == Schedule(10, 3.0).digest
    assert len({Schedule(10, 3.0).digest, Schedule(10, 1.0).digest, Schedule(11, 3.0).digest}) == 3


@pytest.mark.parametrize("eta", ["0.0", "0.5", "1.0"])
@pytest.mark.parametrize("step", [0, 7, 14])
def test_cps_step_equals_flow_grpo(step, eta):
    times = GOLDEN["sigmas/f64"].tolist()
    case = f"vid/step{step:02}/eta{eta}/f64/"
    golden = {
        name.removeprefix(case): value for name, value in GOLDEN.items() if name.startswith(case)
    }
    z, v, eps, v_new = (GOLDEN[f"in/vid/{name}"].double() for name in ("z", "v", "eps", "v_new"))
    v_new.requires_grad_()
    old = cps_step(z, v, times[step], times[step + 1], float(eta))
    new = cps_step(z, v_new, times[step], times[step + 1], float(eta))
    assert_close(old.mean, golden["mean_old"], **CLOSE)
    assert_close(torch.full((2,), old.std, dtype=torch.float64), golden["std"].double(), **CLOSE)
    assert_close(old.mean + old.std * eps, golden["prev"], **CLOSE)
    assert_close(old.log_prob(golden["prev"]), golden["logp_old"], **CLOSE)
    log_prob = new.log_prob(golden["prev"])
    assert_close(log_prob, golden["logp_new"], **CLOSE)
    log_prob.sum().backward()
    assert_close(v_new.grad, golden["grad_v_new"], **CLOSE)


def test_schedule_equals_flow_grpo():
    assert_close(
        torch.tensor(Schedule(15, 3.0).times, dtype=torch.float64), GOLDEN["sigmas/f64"], **CLOSE
    )


def test_eta_zero_is_euler_to_the_last_bit():
    zt, v = latents(2, 3, 4, 5), latents(2, 3, 4, 5).flip(0)
    step = cps_step(zt, v, 0.8, 0.7, eta=0.0)
    assert step.std == 0 and torch.equal(step.draw(), zt + (0.7 - 0.8) * v)


def test_small_eta_tends_to_euler():
    zt, v = latents(2, 3, 4, 5).double(), latents(2, 3, 4, 5).flip(0).double()
    near, euler = (cps_step(zt, v, 0.8, 0.7, eta) for eta in (1e-9, 0.0))
    assert_close(near.mean, euler.mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_last_step_has_no_noise(eta):
    step = cps_step(latents(1, 3), latents(1, 3), 0.1, 0.0, eta)
    assert step.std == 0 and torch.equal(step.draw(), step.mean)


def test_noise_level_is_kept():
    """cos^2 + sin^2: with perfect predictions the next latent has the noise of its time, whatever
    eta is.
    """
    z0, z1 = torch.zeros(1, 200_000), latents(1, 200_000)
    zt, v = flow.interpolate(z0, z1, 0.9), flow.target_velocity(z0, z1)
    drawn = cps_step(zt, v, 0.9, 0.6, eta=0.7).draw(torch.Generator().manual_seed(1))
    assert abs(drawn.std().item() - 0.6) < 5e-3


def test_log_prob_is_a_mean_and_keeps_float32():
    step = Transition(torch.zeros(2, 3, 4), std=0.5)
    assert step.log_prob(torch.full((2, 3, 4), 2.0)).tolist() == [-4.0, -4.0]
    half = latents(1, 4).bfloat16()
    assert cps_step(half, half, 1.0, 0.5, 0.5).mean.dtype == torch.float32


def test_draw_follows_the_generator():
    step = cps_step(latents(1, 8), latents(1, 8), 0.9, 0.8, eta=0.5)
    one, same, other = (step.draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert_close(step.std, 0.8 * math.sin(math.pi / 4))


def counting(scale: float):
    """A velocity `scale * z` that counts its calls."""

    def velocity(zt, t):
        velocity.calls += 1
        return scale * zt

    velocity.calls = 0
    return velocity


def test_guidance_of_one_is_one_pass():
    conditional, unconditional = counting(2.0), counting(1.0)
    guided(conditional, unconditional, 1.0)(latents(2), 0.5)
    assert (conditional.calls, unconditional.calls) == (1, 0)


def test_guidance_extrapolates():
    conditional, unconditional = counting(2.0), counting(1.0)
    assert_close(guided(conditional, unconditional, 3.0)(latents(2), 0.5), 4.0 * latents(2))
    assert (conditional.calls, unconditional.calls) == (1, 1)


def test_sample_calls_once_per_evaluation_and_reaches_the_data():
    """The exact velocity of one data point leads there from any noise."""
    z0 = latents(1, 2, 3)
    calls = []

    def velocity(zt, t):
        calls.append(t)
        return (zt - z0) / t

    reached = sample(velocity, torch.randn(1, 2, 3), Schedule(7, 3.0))
    assert_close(reached, z0)
    assert len(calls) == 7


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_equal_those_of_peers(name):
    """BAGEL counts points, Mix-GRPO and diffusers evaluations; diffusers with its sigmas given
    shifts once.
    """
    source, count, shift, _ = name.split("/")
    number = int(count.removeprefix("points").removeprefix("steps"))
    schedule = Schedule(
        number - 1 if source == "bagel" else number, float(shift.removeprefix("shift"))
    )
    assert_close(torch.tensor(schedule.times), SCHEDULES[name], **CLOSE)


def test_log_prob_options_differ_by_known_factors():
    step, z_next = Transition(latents(2, 3, 4), std=0.5), torch.zeros(2, 3, 4)
    plain = step.log_prob(z_next)
    assert_close(step.log_prob(z_next, "sum"), 12 * plain)
    assert_close(step.log_prob(z_next, "mean", "2std2"), 2 * plain)
    density = torch.distributions.Normal(step.mean, step.std)
    difference = step.log_prob(z_next, "sum", "2std2") - density.log_prob(z_next).sum((1, 2))
    assert_close(difference[0], difference[1])  # the log-density up to a constant


def test_siblings_drawn_from_a_shared_mean_differ_as_their_noise_does():
    step = cps_step(latents(1, 8), latents(1, 8), 0.9, 0.8, eta=0.5)
    rngs = [torch.Generator().manual_seed(seed) for seed in (1, 2, 1)]
    drawn = step.draw_each(rngs)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[:1], step.draw(torch.Generator().manual_seed(1)))
    each = torch.cat([step.log_prob(z[None]) for z in drawn])
    assert torch.equal(step.log_prob(drawn), each)


def test_pull_is_the_derivative_of_the_mean():
    v = latents(1, 1).double().requires_grad_()
    cps_step(latents(1, 1).double(), v, 0.7, 0.6, 0.5).mean.sum().backward()
    assert_close(v.grad.item(), pull(0.7, 0.6, 0.5))
    assert_close(pull(0.7, 0.6, 0.0), 0.6 - 0.7)


@pytest.mark.parametrize(
    "name", [name for name in sorted(WINDOWS) if "/w1/" in name or "overlap1" in name]
)
def test_progressive_windows_are_mix_grpos(name):
    """Where theirs stop short at the end, ours stay whole; these cases never do."""
    width, overlap = int(name.split("/w")[1][0]), "overlap1" in name
    rule = WindowRule(
        kind="progressive", width=width, stride=1 if overlap else None, hold_updates=3, last=12
    )
    theirs = [row for row in WINDOWS[name].tolist()]
    if any(-1 in row for row in theirs):
        theirs = theirs[: next(i for i, row in enumerate(theirs) if -1 in row)]
    assert len(theirs) >= 24
    assert [list(rule.at(0, update, 15)) for update in range(len(theirs))] == theirs


@pytest.mark.parametrize("kind", ["fixed", "random", "progressive"])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_windows_fit_reach_everything_and_miss_the_last_evaluation(kind, width):
    rule = WindowRule(kind=kind, width=width, hold_updates=1, stride=1)
    windows = [rule.at(7, update, 15) for update in range(300)]
    assert all(
        len(window) == width and window.start >= 0 and window.stop <= 14 for window in windows
    )
    assert {index for window in windows for index in window} == set(
        range(width if kind == "fixed" else 14)
    )
    assert windows == [rule.at(7, update, 15) for update in range(300)]


def test_random_windows_follow_seed_and_update_alone():
    rule = WindowRule()
    assert [rule.at(1, u, 15) for u in range(50)] != [rule.at(2, u, 15) for u in range(50)]


def test_progressive_windows_stay_at_the_end_or_begin_again():
    stay = WindowRule(kind="progressive", hold_updates=1, rollback=False, last=2)
    again = stay.model_copy(update={"rollback": True})
    assert [stay.at(0, u, 15).start for u in range(5)] == [0, 1, 2, 2, 2]
    assert [again.at(0, u, 15).start for u in range(5)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("values", [{"width": 15}, {"last": 14}, {"first": 13, "width": 2}])
def test_a_window_that_cannot_be_is_refused(values):
    with pytest.raises(ConfigError, match="must fit and end at 13 or before"):
        WindowRule(**values).at(0, 0, 15)


def test_flow_sde_is_flow_grpos_step():
    """The published arithmetic, written with its own letters."""
    z, v = (torch.randn(2, 5, dtype=torch.float64) for _ in range(2))
    times = Schedule(6, 3.0).times
    for sigma, after in itertools.pairwise(times[:-1]):
        dt = after - sigma
        std_t = 0.7 * math.sqrt(sigma / (1 - (times[1] if sigma == 1 else sigma)))
        mean = z * (1 + std_t**2 / (2 * sigma) * dt)
        mean = mean + v * (1 + std_t**2 * (1 - sigma) / (2 * sigma)) * dt
        step = flow_sde_step(z, v, sigma, after, 0.7, times[1])
        assert_close(step.mean, mean)
        assert step.std == pytest.approx(std_t * math.sqrt(-dt))
        assert step.std == pytest.approx(noise_of("flow-sde", sigma, after, 0.7, times[1]))
        moved = flow_sde_step(z, v + 1e-3, sigma, after, 0.7, times[1]).mean - step.mean
        assert_close(
            moved, torch.full_like(z, 1e-3 * pull(sigma, after, 0.7, "flow-sde", times[1]))
        )


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_flow_sde_keeps_the_marginals_of_the_flow(eta):
    """Data of variance 0.25: with the exact velocity, and steps small enough, the variance at every
    time is that of the straight path, (1 - t)^2 / 4 + t^2.
    """
    spread = lambda t: (1 - t) ** 2 / 4 + t**2  # noqa: E731
    times = torch.linspace(0.95, 0.1, 4001, dtype=torch.float64).tolist()
    variance = spread(times[0])
    for t, after in itertools.pairwise(times):
        z = torch.ones(1, 1, dtype=torch.float64)
        step = flow_sde_step(z, z * (t - (1 - t) / 4) / spread(t), t, after, eta, 1.0)
        variance = float(step.mean) ** 2 * variance + step.std**2
    assert variance == pytest.approx(spread(0.1), rel=2e-3)
