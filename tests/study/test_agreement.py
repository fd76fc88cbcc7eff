"""Statistics against golden numbers of other programs, against definitions, and on what they cannot
be had from.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowportrait.errors import DataError
from flowportrait.study import agreement, intervals

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "scorers" / "statistics.json").read_text()
)
RATINGS = np.array(GOLDEN["ratings_20x3"], float)


def _with_missing():
    values = RATINGS.copy()
    values[3, 1] = values[7, 0] = math.nan
    return values


def _wins():
    wins = np.zeros((4, 4))
    for winner, loser in GOLDEN["bt_pairs(winner,loser)"]:
        wins[winner, loser] += 1
    return wins


COMPUTED = {
    "krippendorff_nominal": lambda: agreement.krippendorff_alpha(RATINGS, "nominal"),
    "krippendorff_ordinal": lambda: agreement.krippendorff_alpha(RATINGS, "ordinal"),
    "krippendorff_interval": lambda: agreement.krippendorff_alpha(RATINGS, "interval"),
    "krippendorff_interval_missing(3,1),(7,0)": lambda: agreement.krippendorff_alpha(
        _with_missing(), "interval"
    ),
    "fleiss_kappa": lambda: agreement.fleiss_kappa(RATINGS),
    "kendall_tau_b_r0_r1": lambda: agreement.kendall_tau_b(RATINGS[:, 0], RATINGS[:, 1]),
    "spearman_r0_r1": lambda: agreement.spearman(RATINGS[:, 0], RATINGS[:, 1]),
    "bradley_terry_mle(mean0)": lambda: agreement.bradley_terry(_wins()).theta,
    "wilson95_MAS-MA 65.6% of 4501": lambda: intervals.wilson(round(0.656 * 4501), 4501),
    "wilson95_MA-Comp 66.6% of 4501": lambda: intervals.wilson(round(0.666 * 4501), 4501),
}


def test_every_golden_number_is_held():
    assert set(COMPUTED) == set(GOLDEN) - {"ratings_20x3", "bt_pairs(winner,loser)"}


@pytest.mark.parametrize("name", COMPUTED)
def test_golden(name):
    np.testing.assert_allclose(COMPUTED[name](), GOLDEN[name], rtol=0, atol=1e-9)


def test_the_published_example_with_missing_values():
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers,
    # twelve units.
    n = math.nan
    data = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
            [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
        ]
    ).T
    assert round(agreement.krippendorff_alpha(data, "nominal"), 3) == 0.743
    assert round(agreement.krippendorff_alpha(data, "ordinal"), 3) == 0.815
    assert round(agreement.krippendorff_alpha(data, "interval"), 3) == 0.849


values = st.lists(st.lists(st.integers(1, 5), min_size=3, max_size=3), min_size=3, max_size=12).map(
    lambda rows: np.array(rows, float)
)


@settings(max_examples=60, deadline=None)
@given(values, st.permutations(range(3)), st.randoms())
def test_order_of_raters_and_items_does_not_matter(ratings, order, random):
    rows = random.sample(range(len(ratings)), len(ratings))
    other = ratings[rows][:, order]
    for level in ("nominal", "ordinal", "interval"):
        a, b = (agreement.krippendorff_alpha(x, level) for x in (ratings, other))
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(agreement.kendall_w(ratings), agreement.kendall_w(other), atol=1e-12)
    np.testing.assert_allclose(
        agreement.fleiss_kappa(ratings), agreement.fleiss_kappa(other), atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(values)
def test_tau_by_its_definition_and_w_of_two_raters(ratings):
    a, b = ratings[:, 0], ratings[:, 1]
    pairs = list(itertools.combinations(range(len(a)), 2))
    agreed = sum(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs)
    scale = math.sqrt(sum(a[i] != a[j] for i, j in pairs) * sum(b[i] != b[j] for i, j in pairs))
    expected = agreed / scale if scale else math.nan
    np.testing.assert_allclose(agreement.kendall_tau_b(a, b), expected, atol=1e-12)
    if len(set(a)) == len(a) and len(set(b)) == len(b):
        # Without ties W of two raters is (rho + 1) / 2.
        np.testing.assert_allclose(
            agreement.kendall_w(ratings[:, :2]), (agreement.spearman(a, b) + 1) / 2
        )


def test_full_agreement_and_none():
    same = np.repeat(np.array([[1.0], [3], [5], [2]]), 3, axis=1)
    assert agreement.krippendorff_alpha(same, "ordinal") == agreement.fleiss_kappa(same) == 1
    assert (
        agreement.kendall_w(same) == pytest.approx(1)
        and agreement.cohen_kappa(same[:, 0], same[:, 1]) == 1
    )
    assert agreement.cohen_kappa(np.array([1, 5.0]), np.array([5, 1.0])) < 0


@pytest.mark.parametrize(
    "ratings", [np.full((4, 3), 3.0), np.full((4, 3), math.nan), np.full((4, 1), 2.0)]
)
def test_what_is_not_defined_is_nan(ratings):
    assert math.isnan(agreement.krippendorff_alpha(ratings, "ordinal"))
    assert math.isnan(agreement.kendall_w(ratings))
    assert math.isnan(agreement.spearman(ratings[:, 0], ratings[:, 0]))
    assert math.isnan(agreement.kendall_tau_b(ratings[:, 0], ratings[:, 0]))
    assert math.isnan(agreement.cohen_kappa(ratings[:, 0], ratings[:, 0]))


def test_fleiss_refuses_missing_values():
    with pytest.raises(ValueError, match="missing"):
        agreement.fleiss_kappa(_with_missing())


def test_davidson_strengths_are_where_the_likelihood_is_largest():
    rng = np.random.default_rng(0)
    wins = rng.integers(1, 20, (4, 4)).astype(float)
    ties = rng.integers(0, 9, (4, 4)).astype(float)
    ties, wins = np.triu(ties, 1) + np.triu(ties, 1).T, wins * (1 - np.eye(4))
    found = agreement.bradley_terry(wins, ties)

    def log_likelihood(theta, nu):
        total = 0.0
        for i, j in itertools.combinations(range(4), 2):
            a, b = math.exp(theta[i]), math.exp(theta[j])
            both = nu * math.sqrt(a * b)
            whole = math.log(a + b + both)
            total += wins[i, j] * (theta[i] - whole) + wins[j, i] * (theta[j] - whole)
            total += ties[i, j] * (math.log(both) - whole)
        return total

    best = log_likelihood(found.theta, found.tie)
    for k in range(4):
        for step in (-1e-3, 1e-3):
            assert log_likelihood(found.theta + step * np.eye(4)[k], found.tie) < best
    assert (
        log_likelihood(found.theta, found.tie * 1.001)
        < best
        > log_likelihood(found.theta, found.tie * 0.999)
    )


def test_unbounded_strengths_are_refused():
    with pytest.raises(DataError, match="never loses"):
        agreement.bradley_terry(np.array([[0, 5], [0, 0]]))
    with pytest.raises(DataError, match="every pair is a tie"):
        agreement.bradley_terry(np.zeros((2, 2)), np.array([[0, 3], [3, 0]]))


def test_mcnemar_is_the_sign_test():
    assert intervals.mcnemar(0, 0) == 1
    assert intervals.mcnemar(5, 5) == 1
    assert intervals.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert intervals.mcnemar(9, 1) == intervals.mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert 0 < intervals.mcnemar(2100, 2400) < 1e-4


def test_clusters_make_wider_intervals_than_independent_cases():
    rng = np.random.default_rng(1)
    right = np.repeat(rng.random(200) < 0.6, 6).reshape(
        200, 6
    )  # all six pairs of a sample share their fate
    weights = intervals.resampled(200, 2000)
    draws = intervals.resampled_ratios(
        right.sum(1, keepdims=True), np.full((200, 1), 6.0), weights
    )[:, 0]
    clustered, naive = (
        intervals.percentile_interval(draws),
        intervals.wilson(right.sum(), right.size),
    )
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(math.sqrt(6), rel=0.12)
