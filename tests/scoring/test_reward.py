"""Eq. 11 and 17 over a batch, what becomes of clips without a score, and scorers at work in
threads.
"""

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file

from flowportrait.errors import TrainingError
from flowportrait.scoring.desk import ScoringDesk
from flowportrait.scoring.reward import Measure, RewardConfig, Statistics, Term, columns, composite
from flowportrait.train.grpo import advantages

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "rl" / "advantage.safetensors")
GROUP = GOLDEN["composite/group_id"]
ASPECTS = ("lip_sync", "expressiveness", "motion")
NAN = float("nan")


@pytest.fixture
def scores():
    """The golden batch: 32 groups of 4."""
    names = dict(zip(ASPECTS, ("r_lip", "r_expr", "r_motion"), strict=True))
    names |= {"perceptual": "r_perceptual", "consistency": "r_consistency"}
    return {name: GOLDEN[f"composite/{key}"].copy() for name, key in names.items()}


@pytest.mark.parametrize("ddof", [0, 1])
def test_eq_17_and_then_eq_5_equal_the_closed_form(scores, ddof):
    rewards = composite(scores, GROUP, RewardConfig(ddof=ddof))
    assert_allclose(rewards.final, GOLDEN[f"composite/paper_eq17/ddof{ddof}/r_final"], atol=1e-12)
    expected = GOLDEN[f"composite/paper_eq17_then_eq5/ddof{ddof}/advantage"]
    assert_allclose(advantages(rewards.final, GROUP, ddof).values, expected, atol=1e-12)


def test_defaults_are_the_papers():
    terms = RewardConfig().terms
    assert [(term.scorers, term.weight) for term in terms] == [
        (ASPECTS, 1.0),
        (("perceptual",), 0.2),
        (("consistency",), 0.2),
    ]


def test_advantages_feel_no_shift_or_scale_of_a_scorer(scores):
    other = scores | {"perceptual": 100 * scores["perceptual"] - 7}
    one, two = (composite(s, GROUP, RewardConfig()).final for s in (scores, other))
    assert_allclose(one, two, atol=1e-9)


def test_a_clip_without_a_score_drops_out_and_changes_nothing_else(scores):
    scores["motion"][[3, 8]] = NAN
    rewards = composite(scores, GROUP, RewardConfig())
    rest = np.setdiff1d(np.arange(128), [3, 8])
    alone = composite(
        {name: value[rest] for name, value in scores.items()}, GROUP[rest], RewardConfig()
    )
    assert rewards.num_unscored == 2 and np.isnan(rewards.final[[3, 8]]).all()
    assert_allclose(rewards.final[rest], alone.final, atol=1e-12)


def test_or_takes_its_group_along(scores):
    scores["motion"][3] = NAN
    rewards = composite(scores, GROUP, RewardConfig(unscored="group"))
    assert np.isnan(rewards.final[:4]).all() and np.isfinite(rewards.final[4:]).all()
    assert rewards.num_unscored == 1


def test_too_many_without_a_score_stop_the_run(scores):
    scores["perceptual"][:13] = NAN
    with pytest.raises(
        TrainingError, match=r"13 of 128 clips have no score \('perceptual' gave none for 13\)"
    ):
        composite(scores, GROUP, RewardConfig())
    scores["perceptual"][12] = 0.1
    assert composite(scores, GROUP, RewardConfig()).num_unscored == 12
    with pytest.raises(TrainingError, match="128 of 128"):
        composite(
            scores | {"motion": np.full(128, NAN)}, GROUP, RewardConfig(max_unscored_share=1.0)
        )


def test_a_term_that_does_not_vary_says_nothing(scores):
    scores |= {name: np.full(128, 0.1) for name in ASPECTS}
    rewards = composite(scores, GROUP, RewardConfig())
    assert not rewards.parts["+".join(ASPECTS)].any() and np.isfinite(rewards.final).all()


def test_running_statistics_score_a_batch_by_the_ones_before(scores):
    config, running = RewardConfig(statistics="running", running_decay=0.5), Statistics()
    first = composite(scores, GROUP, config, running)
    assert_allclose(first.final, composite(scores, GROUP, config).final)
    doubled = {name: 2 * value for name, value in scores.items()}
    before = Statistics(dict(running.moments))
    part = composite(
        {name: value[:4] for name, value in doubled.items()}, GROUP[:4], config, before
    )
    whole = composite(doubled, GROUP, config, running)
    assert_allclose(part.final, whole.final[:4])  # a group alone is rewarded as within its batch
    mean, variance = running.moments["perceptual"]
    assert_allclose(mean, 1.5 * scores["perceptual"].mean())
    assert_allclose(variance, 2.5 * scores["perceptual"].var())


def test_who_explains_the_advantage(scores):
    shares = composite(scores, GROUP, RewardConfig()).explained(GROUP)
    assert_allclose(sum(shares.values()), 1.0)
    assert shares["+".join(ASPECTS)] > 0.8
    alone = composite(scores, GROUP, RewardConfig(terms=(Term(scorers=("motion",)),)))
    assert alone.explained(GROUP) == {"motion": 1.0}


def test_scorers_run_at_the_same_time_and_while_the_caller_goes_on():
    """The first clip's scorers wait for the second clip, which would never come if they held up the
    caller.
    """
    second = threading.Event()

    def patient(clip):
        if clip == "second":
            second.set()
        return float(second.wait(20))

    scorers = {"a": patient, "b": patient, "none": lambda clip: NAN}
    desk = ScoringDesk({name: Measure(scorer) for name, scorer in scorers.items()}, workers=4)
    for clip in ("first", "second", None):
        desk.submit(clip)
    rows = columns(desk.collect())
    assert rows["a"].tolist()[:2] == [1.0, 1.0] and rows["b"].tolist()[:2] == [1.0, 1.0]
    assert np.isnan(rows["none"]).all() and np.isnan(rows["a"][2])
    assert desk.collect() == []
    desk.close()


def test_a_scorer_that_breaks_is_not_a_score():
    def broken(clip):
        raise ZeroDivisionError

    desk = ScoringDesk({"broken": Measure(broken)}, workers=1)
    desk.submit("clip")
    with pytest.raises(ZeroDivisionError):
        desk.collect()
    desk.close()
