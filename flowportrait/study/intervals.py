"""Intervals of a figure, and numbers of pairs that make them narrow enough."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from flowportrait.arrays import Array
from flowportrait.records import MaybeNumber, Record

Z_95 = 1.959963984540054
"""The normal's 97.5 % point."""


Z_80_POWER = 0.8416212335729143
"""The normal's 80 % point."""


_DRAWN_AT_ONCE = 1 << 18
"""Clusters that are drawn in one go; it changes no draw."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class Figure(Record):
    """A number with its 95 % interval; nan where there is none."""

    value: MaybeNumber = math.nan
    low: MaybeNumber = math.nan
    high: MaybeNumber = math.nan

    @property
    def shown(self) -> str:
        """The number with its interval for a table, a dash where there is none."""
        if not math.isfinite(self.value):
            return "—"
        interval = ""
        if math.isfinite(self.low):
            interval = f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.value:.2f}{interval}"


def wilson(successes: float, count: int) -> Interval:
    """Wilson's 95 % interval of the share of successes among `count` independent cases."""
    if count == 0:
        return Interval(math.nan, math.nan)
    share = successes / count
    z2 = Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Interval(middle - half, middle + half)


def resampled(num_clusters: int, draws: int, seed: int = 0) -> Array:
    """How often each cluster is in each bootstrap draw, float64 [draws, clusters].

    Clusters are samples: the pairs of one sample share videos, so they are drawn together.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((draws, num_clusters))
    at_once = max(1, _DRAWN_AT_ONCE // max(1, num_clusters))
    for start in range(0, draws, at_once):
        rows = counts[start : start + at_once]
        drawn = rng.integers(0, num_clusters, rows.shape)
        # Each row counts in numbers of its own, so that one count serves all of them.
        drawn += np.arange(len(rows))[:, None] * num_clusters
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return counts


def resampled_ratios(above: Array, below: Array, weights: Array) -> Array:
    """sum(above) / sum(below) in every draw, [draws, figures], of what each cluster adds, both
    [clusters, figures].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ above) / (weights @ below)


def percentile_interval(draws: Array) -> Interval:
    """The middle 95 % of the draws that have a value; nan when more than 5 % have none."""
    known = draws[np.isfinite(draws)]
    if len(known) < max(1, 0.95 * len(draws)):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(known, (0.025, 0.975))
    return Interval(float(low), float(high))


def mean_figure(values: Array, draws: int) -> Figure:
    """The mean of independent values [n] with its interval from resampling them; without one below
    two values.
    """
    if not len(values):
        return Figure()
    low = high = math.nan
    if len(values) > 1:
        low, high = percentile_interval(resampled(len(values), draws) @ values / len(values))
    return Figure(value=float(values.mean()), low=low, high=high)


def sign_flip_p(differences: Array, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that paired differences [n] lie around 0: how often random signs give as large a
    sum.

    Exact up to 12 differences, where all signs are tried; else from `draws` of them, never below 1
    / (draws + 1).
    """
    apart = np.abs(differences[differences != 0])
    seen = abs(float(differences.sum())) - 1e-12 * float(apart.sum())
    if not len(apart):
        return 1.0
    if len(apart) <= 12:
        signs = 1.0 - 2 * ((np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart))) & 1)
        return float((np.abs(signs @ apart) >= seen).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, draws, 1000):
        signs = rng.integers(0, 2, (min(1000, draws - start), len(apart))) * 2.0 - 1
        hits += int((np.abs(signs @ apart) >= seen).sum())
    return (hits + 1) / (draws + 1)


def share_interval(above: Array, below: Array, draws: Array) -> Interval:
    """Of a share sum(above) / sum(below) over clusters, from its resamplings.

    Where every case went the same way resampling sees no doubt at all; then Wilson's, each cluster
    counted as one case.
    """
    interval = percentile_interval(draws)
    clusters = int((below > 0).sum())
    if not clusters or interval.low < interval.high:
        return interval
    return wilson(above.sum() / below.sum() * clusters, clusters)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p that two judges are right equally often, from the cases where only one of
    them is.
    """
    count = only_first + only_second
    least = min(only_first, only_second)
    if count == 0:
        return 1.0
    log_half = count * math.log(2)
    terms = [
        math.exp(
            math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - log_half
        )
        for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(terms))


def pairs_for_width(pairs: int, width: float, wanted: float) -> int:
    """How many pairs make an interval `wanted` wide when `pairs` of the same kind make it `width`
    wide.

    Widths go with one over the root of the number. The width that is known holds how strongly the
    pairs of a sample depend on each other, so this does, too. Raises ValueError for widths that are
    not above 0.
    """
    if not (width > 0 and wanted > 0):
        raise ValueError(f"widths must be above 0: {width}, {wanted}")
    return math.ceil(pairs * (width / wanted) ** 2 - 1e-9)


def pairs_to_separate(only_first: int, only_second: int, pairs: int) -> int | None:
    """How many independent pairs McNemar's test needs to find the difference that is seen, at 5 %
    with 80 % power.

    By the normal approximation (Connor, Biometrics 43, 1987). None where both are right equally
    often.
    """
    shares = only_first / pairs, only_second / pairs
    discordant = sum(shares)
    difference = abs(shares[0] - shares[1])
    if difference == 0:
        return None
    spread = math.sqrt(max(0.0, discordant - difference**2))
    return math.ceil(((Z_95 * math.sqrt(discordant) + Z_80_POWER * spread) / difference) ** 2)
