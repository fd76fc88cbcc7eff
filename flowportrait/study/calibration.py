"""From a judge's scores to people's: a mapping that never falls, how well it foretells people it
has not seen.

Isotonic regression (Barlow et al. 1972): of all mappings that keep the judge's order, the one
nearest to the raters' means. Its error is that of cross-validation over whole samples, because the
versions of a sample share what is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from flowportrait.arrays import Array
from flowportrait.records import ASPECTS, Record
from flowportrait.study import intervals
from flowportrait.study.intervals import Figure
from flowportrait.study.results import StudyData
from flowportrait.study.systems import System

FOLDS = 10
MAPPING_DRAWS = 500
MOST_LEVELS = 32
_MIN_SAMPLES = 5


class Point(Record):
    """People's mean rating of clips to which the judge gives `score`."""

    score: float
    human: Figure


class Calibration(Record):
    """A mapping of one system's scores to the raters' means, for one aspect or for the mean of
    all.
    """

    system: str
    aspect: str = Field(description="empty: the mean of all aspects")
    clips: int
    samples: int
    folds: int
    points: list[Point] = Field(
        description="by rising score; between two of them lies a straight line"
    )
    error: Figure = Field(
        description="mean absolute error in points, each sample foretold from the others"
    )
    error_unmapped: Figure = Field(
        description="of the scores as they are; nan where they are no points from 1 to 5"
    )
    error_constant: Figure = Field(
        description="of the mean of the other samples: what knowing nothing gives"
    )
    offset: Figure = Field(
        description="mean of score minus people's; nan where scores are no points"
    )

    def mapped(self, scores: Array) -> Array:
        """The scores on people's scale; beyond the scores that were seen, the outermost point's."""
        return np.interp(
            scores, [p.score for p in self.points], [p.human.value for p in self.points]
        )


def isotonic(scores: Array, values: Array, weights: Array) -> Array:
    """The rising values nearest to `values` by weighted squares, all [n]; `scores` must rise
    strictly.

    Pool-adjacent-violators. Where a weight is 0 the value is that of the straight line between its
    neighbours.
    """
    return _pooled(weights, values, scores)


def _pooled(weights: Array, values: Array, scores: Array) -> Array:
    """Pools neighbours that violate the order until none does."""
    used = weights > 0
    blocks: list[list[float]] = []
    for value, weight in zip(values[used], weights[used], strict=True):
        blocks.append([float(value), float(weight), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, weight_sum, count = blocks.pop()
            before = blocks[-1]
            total = before[1] + weight_sum
            blocks[-1] = [
                (before[0] * before[1] + mean * weight_sum) / total,
                total,
                before[2] + count,
            ]
    fitted = np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])
    return np.interp(scores, scores[used], fitted)


def calibrate(
    system: System, data: StudyData, draws: int = MAPPING_DRAWS, seed: int = 0
) -> list[Calibration]:
    """The mappings of a system that gives scores: of the whole, then of each aspect that it tells
    apart.

    Empty for what compares, for metrics that need the truth's clip, and below five samples with
    both kinds of scores.
    """
    if system.values is None or system.needs_truth:
        return []
    return _calibrations(system, data, draws, seed)


def _calibrations(system: System, data: StudyData, draws: int, seed: int) -> list[Calibration]:
    """Calibrations of a system's score and of its parts."""
    tables = [("", system.values, data.sums() / len(ASPECTS))]
    tables += [
        (aspect, system.parts[aspect], data.table(aspect))
        for aspect in ASPECTS
        if aspect in system.parts
    ]
    made = (
        _calibration(system, aspect, scores, ratings, draws, seed)
        for aspect, scores, ratings in tables
    )
    return [one for one in made if one is not None]


def _calibration(
    system: System, aspect: str, scores: Array, ratings: Array, draws: int, seed: int
) -> Calibration | None:
    """How a score goes with people's ratings; None for too few samples or one score alone."""
    known = np.isfinite(ratings)
    with np.errstate(invalid="ignore", divide="ignore"):
        people = np.where(known, ratings, 0).sum(2) / known.sum(2)
    both = np.isfinite(scores) & np.isfinite(people)
    rows = np.nonzero(both)[0]
    x = scores[both]
    y = people[both]
    _, sample = np.unique(rows, return_inverse=True)
    count = int(sample.max()) + 1 if len(sample) else 0
    if count < _MIN_SAMPLES or len(np.unique(x)) < 2:
        return None
    sign = 1 if system.better == "higher" else -1
    levels, place = _levels(sign * x)
    weights = intervals.resampled(count, draws, seed)

    def fit(per_sample: Array) -> Array:
        return _fitted(levels, place, y, per_sample[sample])

    drawn = np.stack([fit(row) for row in weights])
    ends = [intervals.percentile_interval(column) for column in drawn.T]
    points = [
        Point(score=sign * float(level), human=Figure(value=float(value), low=low, high=high))
        for level, value, (low, high) in zip(levels, fit(np.ones(count)), ends, strict=True)
    ]
    folds = min(FOLDS, count)
    fold = np.random.default_rng(seed).permutation(count) % folds
    foretold = np.empty(len(y))
    constant = np.empty(len(y))
    for number in range(folds):
        learn = (fold != number).astype(float)
        held = fold[sample] == number
        foretold[held] = np.interp(sign * x[held], levels, fit(learn))
        constant[held] = np.average(y, weights=learn[sample])
    gaps = {"error": np.abs(foretold - y), "error_constant": np.abs(constant - y)}
    figures = {name: _mean(gap, sample, weights) for name, gap in gaps.items()}
    # Scores of another unit have no distance to ratings unless they are mapped to points.
    for name, gap in (("error_unmapped", np.abs(x - y)), ("offset", x - y)):
        figures[name] = Figure()
        if system.unit == "points":
            figures[name] = _mean(gap, sample, weights)
    return Calibration(
        system=system.name,
        aspect=aspect,
        clips=len(y),
        samples=count,
        folds=folds,
        points=sorted(points, key=lambda point: point.score),
        **figures,
    )


def _levels(scores: Array) -> tuple[Array, Array]:
    """(rising levels [l], the level of each score [n]): distinct scores, or where there are many,
    equal shares.
    """
    distinct, place = np.unique(scores, return_inverse=True)
    if len(distinct) <= MOST_LEVELS:
        return distinct, place
    place = np.searchsorted(
        np.quantile(scores, np.linspace(0, 1, MOST_LEVELS + 1)[1:-1]), scores, side="right"
    )
    taken, place = np.unique(place, return_inverse=True)
    counts = np.bincount(place, minlength=len(taken))
    return np.bincount(place, scores, len(taken)) / counts, place


def _fitted(levels: Array, place: Array, y: Array, weights: Array) -> Array:
    totals = np.bincount(place, weights, len(levels))
    sums = np.bincount(place, weights * y, len(levels))
    return isotonic(levels, sums / np.maximum(totals, 1e-300), totals)


def _mean(values: Array, sample: Array, weights: Array) -> Figure:
    """The mean with its interval from resampling samples."""
    sums = np.bincount(sample, values)
    counts = np.bincount(sample).astype(float)
    drawn = intervals.resampled_ratios(sums[:, None], counts[:, None], weights)[:, 0]
    return Figure(value=float(values.mean()), **intervals.percentile_interval(drawn)._asdict())


TABLE_HEAD = (
    "Method",
    "Aspect",
    "Clips",
    "Offset",
    "Error as is",
    "Error mapped",
    "Error of a constant",
)


def table_rows(found: Sequence[Calibration]) -> list[tuple[str, ...]]:
    """Cells for people, in points."""
    return [
        (
            one.system,
            one.aspect or "mean",
            str(one.clips),
            *(
                figure.shown
                for figure in (one.offset, one.error_unmapped, one.error, one.error_constant)
            ),
        )
        for one in found
    ]
