"""Sharing in a group changes no result: siblings to the last bit, gradients to 1e-6; and it saves
what it should.
"""

import itertools

import pytest
import torch
from torch.testing import assert_close

from flowportrait.errors import TrainingError
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mot import MoT
from flowportrait.sampling import Schedule, WindowRule
from flowportrait.train.grpo import ObjectiveConfig
from flowportrait.train.rl import choose_trained
from flowportrait.train.rollout import RolloutPlan, Sharing, first_noise, passes, rng_for, roll_out

GRID = TokenGrid(latent_frames=2, rows=2, cols=2, image_rows=2, image_cols=2)
SHAPE = (4, 2, 4, 4)
ADVANTAGE = torch.tensor([1.0, -1.5, 0.2, 0.3])
ALL = torch.ones(4, dtype=torch.bool)
PLAIN = Sharing(prefix=False, window=False, condition=False)
OFF_POLICY = ObjectiveConfig(ratio_epsilon=0.5)


@pytest.fixture(scope="module")
def model():
    """A Mixture of Transformers of toy size whose velocity is not zero."""
    torch.manual_seed(0)
    config = MoTConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        mlp_size=48,
        vocab_size=0,
        latent_channels=4,
        latent_side=4,
        audio_dim=8,
        image_dim=8,
        image_side=4,
    )
    mot = MoT(config).eval()
    torch.nn.init.normal_(mot.llm2vae.weight, std=0.2)
    choose_trained(mot, "generation")
    return mot


@pytest.fixture(scope="module")
def features():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(1, GRID.num_frames, 8, generator=rng), torch.randn(1, 4, 8, generator=rng)


def velocity_of(model, features, shared=True):
    """(zt, t) -> velocity, counting its calls by batch size."""
    known = model.condition(*features, GRID) if shared else None

    def velocity(zt, t):
        velocity.calls += 1
        condition = known or model.condition(*features, GRID)
        return model.velocity(zt, torch.full((len(zt), GRID.latent_frames), t), condition, GRID)

    velocity.calls = 0
    return velocity


def plan_of(start=2, width=1, evaluations=6):
    return RolloutPlan(
        Schedule(evaluations, 3.0), range(start, start + width), 0.5, range(evaluations - 1)
    )


def sampled(velocity, sharing, plan, objective=OFF_POLICY):
    z1 = first_noise(SHAPE, 0, 0, 0, 4, shared=True)
    return roll_out(velocity, z1, [rng_for(0, 0, 0, i) for i in range(4)], plan, objective, sharing)


def gradients(model, velocity, group, plan, objective=OFF_POLICY, scored=ALL, **options):
    model.zero_grad()
    losses = []
    for part in passes(velocity, group, ADVANTAGE, scored, plan, objective, **options):
        part.loss.backward(retain_graph=True)
        losses.append(float(part.loss.detach()))
    return sum(losses), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


CHOICES = itertools.product([True, False], repeat=3)
WAYS = [Sharing(prefix=p, window=w, condition=c) for p, w, c in CHOICES if p or not w]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("sharing", WAYS, ids=str)
def test_every_way_of_sharing_equals_the_plain_path(model, features, sharing, width):
    plan = plan_of(width=width)
    plain = sampled(velocity_of(model, features, shared=False), PLAIN, plan)
    group = sampled(velocity_of(model, features, sharing.condition), sharing, plan)
    assert torch.equal(group.z0, plain.z0)
    for step, expected in zip(group.steps, plain.steps, strict=True):
        assert torch.equal(step.z_next, expected.z_next) and torch.equal(
            step.log_prob, expected.log_prob
        )
    loss, found = gradients(model, velocity_of(model, features, sharing.condition), group, plan)
    expected_loss, expected = gradients(model, velocity_of(model, features, False), plain, plan)
    assert_close(loss, expected_loss)
    assert found.keys() == expected.keys() and any(
        value.abs().max() > 1e-4 for value in found.values()
    )
    for name, value in found.items():
        assert_close(value, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_sharing_is_exact_off_policy_too(model, features):
    """After an update the ratios differ and some are clipped; the weights then leave the plain
    mean.
    """
    plan, objective = plan_of(), ObjectiveConfig(ratio_epsilon=1e-5)
    groups = {
        s: sampled(velocity_of(model, features), s, plan, objective) for s in (Sharing(), PLAIN)
    }
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model.llm2vae.weight.add_(0.01)
    found = {
        s: gradients(
            model, velocity_of(model, features), groups[s], plan, objective, on_policy=False
        )
        for s in groups
    }
    outside = [
        part.outside
        for part in passes(
            velocity_of(model, features),
            groups[PLAIN],
            ADVANTAGE,
            ALL,
            plan,
            objective,
            on_policy=False,
        )
    ]
    model.load_state_dict(weights, strict=False)
    assert torch.cat(outside).any()
    for name, value in found[Sharing()][1].items():
        assert_close(value, found[PLAIN][1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("sharing", "width", "evaluations", "forwards"),
    [
        (PLAIN, 1, 60, 4),
        (Sharing(window=False), 1, 7 + 4 * 8, 4),
        (Sharing(), 1, 8 + 4 * 7, 1),
        (PLAIN, 3, 60, 12),
        (Sharing(), 3, 8 + 4 * 7, 9),
    ],
)
def test_evaluations_of_a_group_at_the_papers_setting(
    model, features, sharing, width, evaluations, forwards
):
    plan = plan_of(start=7, width=width, evaluations=15)
    velocity = velocity_of(model, features)
    group = sampled(velocity, sharing, plan)
    assert velocity.calls == evaluations
    velocity.calls = 0
    gradients(model, velocity, group, plan)
    assert velocity.calls == forwards


def test_only_the_windows_latents_are_kept(model, features):
    group = sampled(velocity_of(model, features), Sharing(), plan_of(width=3))
    assert [len(step.zt) for step in group.steps] == [1, 4, 4]
    assert group.steps[1].zt is group.steps[0].z_next and all(
        step.mean is None for step in group.steps
    )


def test_siblings_differ_by_their_noise_alone(model, features):
    group = sampled(velocity_of(model, features), Sharing(), plan_of())
    assert all(
        not torch.equal(group.z0[i], group.z0[j]) for i, j in itertools.combinations(range(4), 2)
    )
    z1 = first_noise(SHAPE, 0, 0, 0, 4, shared=True)
    same = roll_out(
        velocity_of(model, features),
        z1,
        [rng_for(0, 0, 0, 1), rng_for(0, 0, 0, 1)],
        plan_of(),
        OFF_POLICY,
    )
    assert torch.equal(same.z0[0], same.z0[1]) and torch.equal(same.z0[0], group.z0[1])


def test_own_noise_for_each_sibling(model, features):
    z1 = first_noise(SHAPE, 0, 0, 0, 4, shared=False)
    assert len(z1) == 4 and not torch.equal(z1[0], z1[1])
    group = roll_out(
        velocity_of(model, features),
        z1,
        [rng_for(0, 0, 0, i) for i in range(4)],
        plan_of(),
        OFF_POLICY,
    )
    assert len(group.steps[0].zt) == 4


def test_noise_is_a_function_of_its_key():
    draw = lambda *key: torch.randn(3, generator=rng_for(*key)).tolist()  # noqa: E731
    keys = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0, 0), (0, 0, 0, 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys) and draw(0, 5, 2) == draw(0, 5, 2)


def test_the_first_ratio_is_exactly_one_or_the_run_stops(model, features):
    plan = plan_of()
    group = sampled(velocity_of(model, features), Sharing(), plan)
    part = next(passes(velocity_of(model, features), group, ADVANTAGE, ALL, plan, OFF_POLICY))
    assert not part.log_ratio.any() and not part.outside.any()

    def other_kernel(zt, t):
        return velocity_of(model, features)(zt, t) * (1 + 1e-5)

    with pytest.raises(
        TrainingError, match="first ratio is off 1 by .* set objective.old_log_prob = 'update'"
    ):
        next(passes(other_kernel, group, ADVANTAGE, ALL, plan, OFF_POLICY))
    own = ObjectiveConfig(old_log_prob="update")
    assert not next(passes(other_kernel, group, ADVANTAGE, ALL, plan, own)).log_ratio.any()
    later = next(passes(other_kernel, group, ADVANTAGE, ALL, plan, own, on_policy=False))
    assert not later.log_ratio.any()  # what the first pass found is the old log-probability now


def test_a_sibling_without_a_score_leaves_no_trace(model, features):
    """Nor may its latents, should they be broken."""
    plan, scored = plan_of(), torch.tensor([True, True, True, False])
    found = {}
    for sharing in (Sharing(), PLAIN):
        group = sampled(velocity_of(model, features), sharing, plan)
        group.steps[0].z_next[3] = float("nan")
        found[sharing] = gradients(model, velocity_of(model, features), group, plan, scored=scored)
    for name, value in found[Sharing()][1].items():
        assert torch.isfinite(value).all()
        assert_close(value, found[PLAIN][1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kl_to", ["old", "base"])
def test_kl_trains_towards_its_policy(model, features, kl_to):
    """KL to the old policy has neither value nor gradient until an update is made; KL to another
    one has both.
    """
    plan, objective = plan_of(), ObjectiveConfig(kl_weight=10.0, kl_to=kl_to)
    group = sampled(velocity_of(model, features), Sharing(), plan, objective)
    base = lambda zt, t: velocity_of(model, features)(zt, t).detach() * 0.9  # noqa: E731
    nothing = torch.zeros(4)
    [part] = passes(velocity_of(model, features), group, nothing, ALL, plan, objective, base)
    model.zero_grad()
    part.loss.backward()
    gradient = model.llm2vae.weight.grad.abs().max()
    assert (part.kl > 0, gradient > 0) == (kl_to == "base", kl_to == "base")


def test_guard_keeps_the_old_mean_and_starts_at_one(model, features):
    plan, objective = plan_of(width=2), ObjectiveConfig(ratio_norm="guard")
    group = sampled(velocity_of(model, features), Sharing(), plan, objective)
    assert [len(step.mean) for step in group.steps] == [1, 4]
    loss, found = gradients(model, velocity_of(model, features), group, plan, objective)
    assert_close(loss, 0.0, atol=1e-6, rtol=0)  # the advantages add up to 0
    assert found["llm2vae.weight"].abs().max() > 0


def test_a_trajectory_is_priced_by_the_plan_that_made_it(model, features):
    group = sampled(velocity_of(model, features), Sharing(), plan_of(start=2))
    with pytest.raises(AssertionError):
        next(
            passes(
                velocity_of(model, features), group, ADVANTAGE, ALL, plan_of(start=3), OFF_POLICY
            )
        )
    assert (
        len({plan_of().digest, plan_of(3).digest, plan_of(2, 2).digest, plan_of(2, 1, 7).digest})
        == 4
    )


def test_random_windows_of_a_run_cost_what_the_algebra_says():
    """(s + 1) + 4 (14 - s), on average over the starts a window can have: 37.5 evaluations of
    60.
    """
    starts = WindowRule().starts(15)
    assert sum((s + 1) + 4 * (14 - s) for s in starts) / len(starts) == 37.5
