"""The reward's own gradient: of the measures themselves, through the last evaluation, and in a run
of the shipped model.
"""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from flowportrait.errors import ConfigError
from flowportrait.registry import MEASURES
from flowportrait.scoring.rewards import named, require_gradients
from flowportrait.train import rl
from flowportrait.train.reward_gradient import (
    reward_gradient_passes,
    signs_of_control,
    worth_of,
)

DIFFERENTIABLE = [
    "landmark_closeness",
    "landmark_expression",
    "landmark_lip_level",
    "landmark_lip_size",
    "landmark_lips",
    "landmark_motion",
    "landmark_mouth_width",
    "landmark_steadiness",
]


def faces(seed, frames=9):
    """A random face whose points move a little, and whose lips open and close."""
    rng = np.random.default_rng(seed)
    points = np.repeat(rng.uniform(-0.4, 0.4, (1, 68, 2)), frames, 0)
    points[:, 36:42], points[:, 42:48] = (-0.2, -0.1), (0.2, -0.1)
    points[:, 48:68] = (0.0, 0.3)
    points[:, 48, 0] -= 0.15 + rng.uniform(0, 0.05, frames)
    points[:, 54, 0] += 0.15
    points[:, 65:68, 1] += rng.uniform(0, 0.1, frames)[:, None]
    return torch.from_numpy(points + rng.normal(0, 0.01, points.shape))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_measures_give_their_gradient(name):
    made, true = faces(0).requires_grad_(), faces(1)
    measure = named(MEASURES, name).of_points
    assert torch.autograd.gradcheck(lambda points: measure(points, true), (made,))


def test_rewards_without_a_gradient_are_refused():
    known = [name for name in MEASURES.names() if named(MEASURES, name).of_points]
    assert sorted(known) == DIFFERENTIABLE
    require_gradients(DIFFERENTIABLE, MEASURES)
    with pytest.raises(ConfigError, match="'lip_truth' has no gradient; take landmark_"):
        require_gradients(["landmark_lips", "lip_truth"], MEASURES)


def test_what_a_clip_is_worth():
    made, true = faces(0, frames=8), faces(1)
    measures = {name: named(MEASURES, name) for name in DIFFERENTIABLE}
    weights = {"landmark_lips": 2.0, "landmark_closeness": 0.5}
    parts = {name: measures[name].of_points(made, true[:8]) for name in weights}
    expected = 2.0 * parts["landmark_lips"] + 0.5 * parts["landmark_closeness"]
    assert_close(worth_of(made, true, measures, weights), expected)


def test_a_control_turns_half_of_each_group_round():
    drawn = [signs_of_control(3, update, group, 4) for update in range(9) for group in range(3)]
    assert all(sorted(signs.tolist()) == [-1, -1, 1, 1] for signs in drawn)
    assert len({tuple(signs.tolist()) for signs in drawn}) > 3
    assert_close(drawn[4], signs_of_control(3, 1, 1, 4))
    mean = torch.zeros(1, requires_grad=True)
    found = reward_gradient_passes(
        lambda zt, t: (zt - mean) / t,
        torch.randn(4, 1),
        0.9,
        lambda z0: -(z0 - 2.0).square().sum(),
        torch.ones(4, dtype=torch.bool),
        signs=drawn[0],
    )
    sum(one.loss for one in found).backward()
    assert_close(mean.grad, torch.zeros(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", [-2.0, 3.0])
def test_the_policy_moves_to_what_is_worth_more(target):
    """A policy of one number m, whose clean latents are m whatever it is given."""
    mean = torch.zeros(1, requires_grad=True)
    last, t = torch.randn(3, 1), 0.9
    scored = torch.tensor([True, True, False])
    found = list(
        reward_gradient_passes(
            lambda zt, t: (zt - mean) / t, last, t, lambda z0: -(z0 - target).square().sum(), scored
        )
    )
    assert_close(torch.stack([one.loss for one in found]).detach(), target**2 * scored.float())
    sum(one.loss for one in found).backward()
    assert_close(mean.grad, torch.tensor([-2 * target * 2]))


def test_kl_to_the_base_holds_the_policy_back():
    """The gradient of (m - 3)^2 + w (m - b)^2 / 2 at m, where the base gives b."""
    mean, base, weight = torch.tensor([1.0], requires_grad=True), 0.5, 4.0
    last, t = torch.randn(1, 1), 0.9
    (found,) = reward_gradient_passes(
        lambda zt, t: (zt - mean) / t,
        last,
        t,
        lambda z0: -(z0 - 3.0).square().sum(),
        torch.tensor([True]),
        lambda zt, t: (zt - base) / t,
        weight,
    )
    found.loss.backward()
    assert found.kl == pytest.approx((1.0 - base) ** 2 / 2)
    assert_close(mean.grad, torch.tensor([2 * (1.0 - 3.0) + weight * (1.0 - base)]))


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_world):
    """Two updates of the shipped model on clips of half a second."""
    directory = tmp_path_factory.mktemp("runs") / "lips"
    path = directory.with_suffix(".toml")
    path.write_text(
        f'model = "tiny"\nrecompute = false\n[run]\ndirectory = "{directory}"\nnum_updates = 2\n'
        f'[prompts]\nworld = "{small_world}"\nmax_latent_frames = 4\n[objective]\n'
        'kind = "gradient"\n[watch]\nnum_clips = 1\nnum_videos = 0\nmonitors = []\n'
        "[rollout]\nevaluations = 2\nshift = 12.0\ngroup_size = 2\nnum_groups = 2\n"
        "[reward]\nmax_unscored_share = 0.9\n"
        "terms = [{scorers = ['landmark_lips']}, {scorers = ['landmark_closeness']}]\n"
    )
    return rl.train(path, [], resume=None)


def test_a_run_of_the_shipped_model(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    updates = [row for row in rows if "event" not in row]
    assert [row["update"] for row in updates] == [1, 2]
    assert all(row["gradient_norm"] > 0 for row in updates)
    assert all("ratio_mean" not in row for row in updates)  # nothing is priced
    assert rows[-1]["event"] == "look" and rows[-1]["landmark_closeness"] is not None
