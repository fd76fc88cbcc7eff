"""How far raters agree, and how sure a figure is: pure functions of numpy arrays.

`values` are [items, raters] with nan where a rater gave nothing. A statistic that is not defined on
what it gets (all values equal, nobody in common) is nan, never 0 or 1.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import DataError

TwoArrays = tuple[np.ndarray, np.ndarray]

Level = Literal["nominal", "ordinal", "interval"]


# ------------------------------------------------------------------------------------- agreement of
# raters


def krippendorff_alpha(values: Array, level: Level) -> float:
    """Krippendorff's alpha, at most 1, 0 at chance; items with fewer than two values are left
    out.
    """
    levels, coincidences = coincidences_of(values)
    return float(alpha_of(coincidences.sum(0), levels, level))


def coincidences_of(values: Array) -> TwoArrays:
    """(distinct values [v], pairs of values within each item [items, v, v], each item's summing to
    its raters).
    """
    values = np.asarray(values, float)
    known = np.isfinite(values)
    levels, inverse = np.unique(values[known], return_inverse=True)
    counts = np.zeros((len(values), len(levels)))
    np.add.at(counts, (np.nonzero(known)[0], inverse), 1)
    raters = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(levels))
    return levels, pairs / np.maximum(raters - 1, 1)[:, None, None] * (raters >= 2)[:, None, None]


def alpha_of(coincidences: Array, levels: Array, level: Level) -> Array:
    """Alpha from summed coincidences [..., v, v]: one number for each of the leading places."""
    marginal = coincidences.sum(-1)
    total = marginal.sum(-1)
    distance = _distance(marginal, levels, level)
    seen = (coincidences * distance).sum((-1, -2))
    chance = (marginal[..., :, None] * marginal[..., None, :] * distance).sum((-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 0, 1 - (total - 1) * seen / chance, math.nan)


def _distance(marginal: Array, levels: Array, level: Level) -> Array:
    """Squared differences between values, [..., v, v]."""
    if level == "nominal":
        return 1.0 - np.eye(len(levels))
    if level == "interval":
        return (levels[:, None] - levels) ** 2
    # Ordinal: values are as far apart as there are values between them, each end counting half.
    middle = np.cumsum(marginal, -1) - marginal / 2
    return (middle[..., :, None] - middle[..., None, :]) ** 2


def fleiss_kappa(values: Array) -> float:
    """Fleiss' kappa; every item needs all its raters. Raises ValueError for missing values."""
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError("Fleiss' kappa: missing values; leave incomplete items out")
    levels = np.unique(values)
    counts = (values[:, :, None] == levels).sum(1)
    raters = values.shape[1]
    if not len(values) or raters < 2:
        return math.nan
    agreed = ((counts**2).sum(1) - raters) / (raters * (raters - 1))
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    if chance == 1:
        return math.nan
    return float((agreed.mean() - chance) / (1 - chance))


def cohen_kappa(a: Array, b: Array, weights: Literal["none", "quadratic"] = "none") -> float:
    """Cohen's kappa of two raters over the items that both rated; quadratic weights for ordered
    scores.
    """
    a, b = _both_known(a, b)
    if not len(a):
        return math.nan
    levels = np.unique(np.concatenate([a, b]))
    table = np.zeros((len(levels), len(levels)))
    np.add.at(table, (np.searchsorted(levels, a), np.searchsorted(levels, b)), 1 / len(a))
    apart = (levels[:, None] - levels) ** 2 if weights == "quadratic" else 1.0 - np.eye(len(levels))
    chance = float((apart * np.outer(table.sum(1), table.sum(0))).sum())
    if chance == 0:
        return math.nan
    return 1 - float((apart * table).sum()) / chance


def pairwise_kappa(values: Array, weights: Literal["none", "quadratic"] = "none") -> Array:
    """Cohen's kappa of every two raters, [raters, raters]; nan on the diagonal."""
    raters = np.asarray(values).shape[1]
    table = np.full((raters, raters), math.nan)
    for i in range(raters):
        for j in range(i):
            table[i, j] = table[j, i] = cohen_kappa(values[:, i], values[:, j], weights)
    return table


def kendall_w(values: Array) -> float:
    """Kendall's W of concordance, 0 to 1, corrected for ties; items that someone did not rate are
    left out.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values).all(1)]
    items, raters = values.shape
    if items < 2 or raters < 2:
        return math.nan
    ranks = np.stack([midranks(column) for column in values.T], axis=1)
    spread = ((ranks.sum(1) - raters * (items + 1) / 2) ** 2).sum()
    ties = sum(float((counts**3 - counts).sum()) for counts in map(_tie_counts, values.T))
    most = raters**2 * (items**3 - items) - raters * ties
    if most == 0:
        return math.nan
    return float(12 * spread / most)


# --------------------------------------------------------------------------------------------
# correlations


def midranks(values: Array) -> Array:
    """Ranks from 1 on, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation over the items known in both."""
    a, b = _both_known(a, b)
    if len(a) < 2:
        return math.nan
    x = midranks(a) - (len(a) + 1) / 2
    y = midranks(b) - (len(b) + 1) / 2
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    if scale == 0:
        return math.nan
    return float((x * y).sum() / scale)


def kendall_tau_b(a: Array, b: Array) -> float:
    """Kendall's tau-b, corrected for ties, over the items known in both."""
    a, b = _both_known(a, b)
    # One row at a time: the whole matrix of pairs would not fit for long lists.
    agreed = sum(
        float(np.sum(np.sign(a[i + 1 :] - a[i]) * np.sign(b[i + 1 :] - b[i])))
        for i in range(len(a))
    )
    pairs = len(a) * (len(a) - 1) / 2
    untied = [
        pairs - float((counts * (counts - 1) / 2).sum()) for counts in map(_tie_counts, (a, b))
    ]
    scale = math.sqrt(untied[0] * untied[1])
    if scale == 0:
        return math.nan
    return agreed / scale


def _both_known(a: Array, b: Array) -> TwoArrays:
    """The values at places where both are numbers."""
    a = np.asarray(a, float)
    b = np.asarray(b, float)
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]


def _tie_counts(values: Array) -> Array:
    return np.unique(values, return_counts=True)[1].astype(float)


# ------------------------------------------------------------------------------------- strengths
# from pairs


class BradleyTerry(NamedTuple):
    """Bradley-Terry strengths on the log scale, mean 0."""

    theta: Array
    """[versions]; a difference of 1 means odds of e."""
    tie: float
    """Davidson's nu: two equal versions tie with probability nu / (2 + nu)."""
    standard_errors: Array
    """[versions] as if all pairs were independent."""


def bradley_terry(wins: Array, ties: Array | None = None) -> BradleyTerry:
    """Maximum likelihood strengths from counts `wins[i, j]` of i over j; `ties` symmetric (Davidson
    1970).

    Raises DataError where a version (or a group) never loses or never wins: its strength has no
    bound.
    """
    wins = np.asarray(wins, float)
    count = len(wins)
    ties = np.zeros_like(wins) if ties is None else np.asarray(ties, float)
    _check_bounded(wins + ties, wins)
    pairs = np.array([(i, j) for i in range(count) for j in range(i + 1, count)])
    i, j = pairs.T
    outcomes = np.stack([wins[i, j], wins[j, i], ties[i, j]], axis=1)
    with_ties = bool(outcomes[:, 2].any())
    # Log-linear: the three outcomes of a pair have utilities theta_i, theta_j and log nu + their
    # mean.
    design = np.zeros((len(pairs), 3, count + 1))
    rows = np.arange(len(pairs))
    design[rows, 0, i] = design[rows, 1, j] = 1
    design[rows, 2, i] = design[rows, 2, j] = 0.5
    design[:, 2, count] = 1
    if not with_ties:
        design = design[:, :2, :count]
        outcomes = outcomes[:, :2]
    parameters, information = _newton(design, outcomes)
    covariance = np.linalg.pinv(information)
    theta = parameters[:count] - parameters[:count].mean()
    centre = np.eye(count) - 1 / count
    errors = np.sqrt(np.diag(centre @ covariance[:count, :count] @ centre))
    return BradleyTerry(theta, math.exp(parameters[count]) if with_ties else 0.0, errors)


def _newton(design: Array, outcomes: Array) -> TwoArrays:
    """(parameters, information) of a multinomial logit; concave, so that halved Newton steps always
    arrive.
    """
    parameters = np.zeros(design.shape[2])
    totals = outcomes.sum(1)

    def look(at: Array) -> tuple[float, Array]:
        utility = design @ at
        log_p = utility - np.logaddexp.reduce(utility, axis=1, keepdims=True)
        return float((outcomes * log_p).sum()), np.exp(log_p)

    value, p = look(parameters)
    for _ in range(100):
        gradient = np.einsum("ko,kop->p", outcomes - totals[:, None] * p, design)
        mean = np.einsum("ko,kop->kp", p, design)
        information = np.einsum("k,ko,kop,koq->pq", totals, p, design, design) - np.einsum(
            "k,kp,kq->pq", totals, mean, mean
        )
        step = np.linalg.pinv(information) @ gradient
        if np.abs(step).max() < 1e-12:
            break
        scale = 1.0
        while scale > 1e-8 and look(parameters + scale * step)[0] < value - 1e-12 * abs(value):
            scale /= 2
        parameters = parameters + scale * step
        value, p = look(parameters)
    return parameters, information


def _check_bounded(beats: Array, wins: Array) -> None:
    """Raises DataError when a strength would have no bound, or there is no winner at all."""
    reach = (beats > 0) | np.eye(len(beats), dtype=bool)
    for k in range(len(beats)):
        reach |= reach[:, k : k + 1] & reach[k : k + 1, :]
    if not reach.all():
        raise DataError(
            "Bradley-Terry: a version never loses to, or is never compared with, the others; no"
            " strength"
        )
    if not wins.any():
        raise DataError("Bradley-Terry: every pair is a tie; no strength")


# --------------------------------------------------------------------------------------- how sure a
# figure is
