"""Blind assignment: balanced in letters, load and order, repeatable from its seed; and the rubrics'
shape.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowportrait.errors import ConfigError
from flowportrait.records import ASPECTS
from flowportrait.study.rubric import RUBRICS
from flowportrait.study.tasks import StudyPlan, assign


@settings(max_examples=40, deadline=None)
@given(
    st.integers(6, 60),
    st.integers(2, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_every_plan_is_balanced(samples, versions, raters, per_sample, training, seed):
    per_sample = min(per_sample, raters)
    plan = StudyPlan(raters, per_sample, 0, training, seed)
    shown = assign(samples, versions, plan)
    assert shown == assign(samples, versions, plan)
    counted = Counter(s.sample for sets in shown for s in sets if s.kind == "study")
    trained = {s.sample for sets in shown for s in sets if s.kind == "training"}
    assert (
        set(counted.values()) == {per_sample}
        and len(counted) == samples - training
        and len(trained) == training
    )
    loads = [len(sets) for sets in shown]
    assert max(loads) - min(loads) <= 1
    for sets in shown:
        assert all(sorted(s.order) == list(range(versions)) for s in sets)
        assert [s.kind for s in sets[:training]] == ["training"] * training
        assert len({s.sample for s in sets}) == len(sets)
        # Under each letter every version stands equally often, up to the last block.
        table = np.zeros((versions, versions), int)
        for s in sets:
            table[np.arange(versions), s.order] += 1
        assert table.max() - table.min() <= 1


def test_repeats_come_late_and_under_other_letters():
    shown = assign(60, 4, StudyPlan(3, 3, num_repeats=20, seed=1))
    same = 0
    for sets in shown:
        places = {s.sample: k for k, s in enumerate(sets) if s.kind == "study"}
        repeats = [(k, s) for k, s in enumerate(sets) if s.kind == "repeat"]
        assert len(repeats) == 20 == len({s.sample for _, s in repeats})
        assert all(k - places[s.sample] >= 20 for k, s in repeats)
        same += sum(s.order == sets[places[s.sample]].order for _, s in repeats)
    assert same < 15  # by chance one in 24


def test_no_sample_is_always_seen_late():
    shown = assign(300, 4, StudyPlan(3, 3, seed=2))
    places = np.array(
        [
            [next(k for k, s in enumerate(sets) if s.sample == n) for sets in shown]
            for n in range(300)
        ]
    )
    # Independent orders would give a deviation of 50; rotated ones keep every sample's mean place
    # near the middle.
    assert places.mean(1).std() < 35 and abs(np.corrcoef(places.T)[0, 1]) < 0.6


def test_other_seeds_give_other_orders():
    assert assign(20, 4, StudyPlan(2, 2, seed=0)) != assign(20, 4, StudyPlan(2, 2, seed=1))


@pytest.mark.parametrize(
    ("samples", "versions", "plan", "words"),
    [
        (5, 1, StudyPlan(1, 1), "versions: 1"),
        (5, 27, StudyPlan(1, 1), "from 2 to 26"),
        (5, 4, StudyPlan(0, 1), "raters: 0"),
        (5, 4, StudyPlan(2, 3), "raters per sample: 3; from 1 to 2"),
        (5, 4, StudyPlan(2, 2, num_training=5), "training: 5"),
        (5, 4, StudyPlan(2, 2, num_repeats=2), "at most 1"),
        (5, 4, StudyPlan(2, 2, num_repeats=-1), "repeats: -1"),
    ],
)
def test_plans_that_cannot_be(samples, versions, plan, words):
    with pytest.raises(ConfigError, match=words):
        assign(samples, versions, plan)


def test_rubrics_have_the_papers_shape():
    assert tuple(rubric.aspect for rubric in RUBRICS) == ASPECTS and [r.table for r in RUBRICS] == [
        6,
        7,
        8,
    ]
    for rubric in RUBRICS:
        assert [grade.score for grade in rubric.grades] == [5, 4, 3, 2, 1]
        assert [grade.guideline for grade in rubric.grades] == [
            "Excellent",
            "Good",
            "Fair",
            "Poor",
            "Bad",
        ]
        assert len({tuple(grade.criteria) for grade in rubric.grades}) == 1
        texts = [text for grade in rubric.grades for text in grade.criteria.values()]
        assert len(set(texts)) == len(texts) and all(text.endswith(".") for text in texts)
    assert RUBRICS[2].grades[-1].criteria["Head Movement"] == "Head is completely static."
