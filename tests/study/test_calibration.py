"""From a judge's scores to people's, two judges side by side, and how many pairs are still to be
rated.
"""

import json
import math

import numpy as np
import pytest
from test_alignment import make, same, score

from flowportrait import cli
from flowportrait.records import ASPECTS, write_jsonl
from flowportrait.study import intervals
from flowportrait.study.alignment import align
from flowportrait.study.calibration import calibrate, isotonic
from flowportrait.study.results import export
from flowportrait.study.systems import System

VERSIONS = ["a", "b", "c"]


def test_isotonic_is_the_nearest_rising_line():
    rng = np.random.default_rng(0)
    scores, weights = np.arange(6.0), rng.uniform(0.5, 2, 6)
    for _ in range(20):
        values = rng.normal(size=6)
        fitted = isotonic(scores, values, weights)
        assert (np.diff(fitted) >= -1e-12).all()
        assert np.average(fitted, weights=weights) == pytest.approx(
            np.average(values, weights=weights)
        )
        error = (weights * (fitted - values) ** 2).sum()
        rising = np.sort(rng.normal(size=(2000, 6)), axis=1)
        assert error <= (weights * (rising - values) ** 2).sum(1).min() + 1e-12
    assert isotonic(scores, np.array([3.0, 1, 2, 9, 5, 7]), np.ones(6)) == pytest.approx(
        [2, 2, 2, 7, 7, 7]
    )
    assert isotonic(np.arange(3.0), np.array([1.0, 9, 3]), np.array([1.0, 0, 1])) == pytest.approx(
        [1, 2, 3]
    )


def rated(num_samples, seed=0):
    """(study, true quality [samples, versions], 1 to 5): three raters see it through noise of their
    own.
    """
    rng = np.random.default_rng(seed)
    quality = rng.integers(1, 6, (num_samples, len(VERSIONS)))
    scores = {
        (rater, f"s{k}", version): tuple(
            int(np.clip(quality[k, v] + rng.integers(-1, 2), 1, 5)) for _ in ASPECTS
        )
        for rater in ("r0", "r1", "r2")
        for k in range(num_samples)
        for v, version in enumerate(VERSIONS)
    }
    orders = [
        same(" > ".join(VERSIONS[v] for v in np.argsort(-row, kind="stable"))) for row in quality
    ]
    return make(orders, VERSIONS, scores, truth=""), quality


def judge_of(values, unit="points", better="higher", name="judge"):
    return System(
        name, "scores", np.zeros((len(values), 3)), values=values, unit=unit, better=better
    )


def test_a_saturated_judge_is_mapped_to_peoples_scale():
    study, quality = rated(120)
    saturated = np.where(quality >= 3, 5.0, 4.0)
    (found,) = calibrate(judge_of(saturated), study)
    low, high = found.points
    assert (low.score, high.score) == (4, 5) and low.human.value < 2 < 3.5 < high.human.value
    assert low.human.low < low.human.value < low.human.high
    # Mapped, it foretells the raters of unseen samples far better than as it is, and better than
    # knowing nothing.
    assert found.error.high < found.error_constant.low < found.error_unmapped.low
    assert found.offset.low > 1
    assert list(found.mapped(np.array([1.0, 4.5, 9.0]))) == pytest.approx(
        [low.human.value, (low.human.value + high.human.value) / 2, high.human.value]
    )


def test_a_judge_that_knows_nothing_is_no_better_than_a_constant_on_unseen_samples():
    study, quality = rated(120)
    noise = np.random.default_rng(1).normal(size=quality.shape)
    (found,) = calibrate(judge_of(noise, unit="dB"), study)
    assert len(found.points) == 32 and found.error.value > 0.97 * found.error_constant.value
    assert math.isnan(found.error_unmapped.value) and math.isnan(found.offset.value)


def test_lower_is_better_is_mapped_falling_and_few_samples_are_not_mapped():
    study, quality = rated(60)
    (found,) = calibrate(judge_of(-quality.astype(float), unit="1", better="lower"), study)
    assert [point.score for point in found.points] == [-5, -4, -3, -2, -1]
    assert all(
        a.human.value > b.human.value for a, b in zip(found.points, found.points[1:], strict=False)
    )
    few, quality = rated(4)
    assert calibrate(judge_of(quality.astype(float)), few) == []


def test_how_many_pairs_are_missing():
    # Four times the pairs halve an interval; 1,000 independent pairs at one half are 6.2 points
    # wide.
    assert intervals.pairs_for_width(1000, 0.08, 0.04) == 4000
    wilson = intervals.wilson(500, 1000)
    assert 2200 < intervals.pairs_for_width(1000, wilson.high - wilson.low, 0.04) < 2500
    with pytest.raises(ValueError):
        intervals.pairs_for_width(10, 0.1, 0)
    # Power by simulation: at that many pairs the exact test finds the difference in about 80 % of
    # cases.
    needed = intervals.pairs_to_separate(120, 80, 1000)
    drawn = np.random.default_rng(0).multinomial(needed, (0.12, 0.08, 0.8), 400)
    assert 0.74 < np.mean([intervals.mcnemar(int(a), int(b)) < 0.05 for a, b, _ in drawn]) < 0.86
    assert intervals.pairs_to_separate(7, 7, 100) is None


def test_align_says_what_is_still_to_be_rated():
    study, quality = rated(60)
    said = np.sign(
        quality[:, [0, 0, 1]]
        - quality[:, [1, 2, 2]]
        + np.random.default_rng(2).normal(0, 2, (60, 3))
    )
    system = System("judge", "scores", said.astype(float), values=quality.astype(float))
    found = align(study, [system], draws=300, wanted_width=0.02)
    (power,) = found.power
    assert power.pairs == 180 and power.pairs_needed == pytest.approx(
        180 * (power.width / 0.02) ** 2, abs=1
    )
    assert (
        power.pairs_missing == power.pairs_needed - 180
        and power.samples_missing >= power.pairs_missing / 3
    )
    assert align(study, [system], draws=300, wanted_width=0.9).power[0].pairs_missing == 0


def test_two_judges_in_one_table(tmp_path, capsys, monkeypatch):
    study, quality = rated(20)
    export(study, tmp_path / "study")
    rows = {
        name: [
            score(version, f"s{k}", parts=(value, value, value), scorer="mas-ma").model_copy(
                update={"unit": "points"}
            )
            for k in range(20)
            for v, version in enumerate(VERSIONS)
            for value in [int(quality[k, v]) if name == "old" else int(6 - quality[k, v])]
        ]
        for name in ("old", "new")
    }
    for name, scores in rows.items():
        write_jsonl(tmp_path / f"{name}.jsonl", scores)
    monkeypatch.chdir(tmp_path)

    def aligned(*files):
        words = ["flowportrait", "study", "align", "study", "--draws", "200", "--scores", *files]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0

    assert aligned("old.jsonl", "new.jsonl") == 2
    assert "or names to compare them: NAME=FILE" in capsys.readouterr().err
    assert aligned("Gemini 3.8=old.jsonl", "omni=new.jsonl") == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "study" / "align.json").read_text())
    assert {row["system"] for row in found["rows"]} == {"mas-ma (Gemini 3.8)", "mas-ma (omni)"}
    (compared,) = found["comparisons"]
    assert compared["only_a"] > 0 == compared["only_b"] and compared["mcnemar_p"] < 1e-6
    assert {one["aspect"] for one in found["calibration"]} == {"", *ASPECTS}
    assert "McNemar p" in printed and "points wide" in printed and "Error mapped" in printed
    assert aligned("=old.jsonl") == 2
