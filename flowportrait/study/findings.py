"""Findings of a study: what raters agree on, how consistent each is, and which version they find
how strong.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import Field

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.records import ASPECTS, Aspect, MaybeNumber, Ranking, Record
from flowportrait.study import agreement, intervals
from flowportrait.study.intervals import Figure
from flowportrait.study.results import (
    Preference,
    StudyData,
    all_pairs,
    consensus,
    ranking_votes,
    votes,
)

_STRENGTH_DRAWS = 1000
"""Each draw is a fit of its own."""


class AspectAgreement(Record):
    """Agreement of the raters' scores for one aspect."""

    aspect: Aspect
    clips: int = Field(description="with at least one score")
    complete: int = Field(description="with all planned raters")
    alpha_ordinal: Figure
    alpha_interval: Figure
    fleiss_kappa: MaybeNumber = Field(
        description="nominal, over complete clips with the same raters"
    )
    kappa_quadratic: dict[str, MaybeNumber] = Field(description="Cohen's, by pair of raters")
    same: Figure = Field(description="share of pairs of scores of a clip that are equal")
    within_one: Figure


class Strength(Record):
    """A version's Bradley-Terry strength, log odds around 0."""

    version: str
    strength: Figure


class RaterFacts(Record):
    """One rater: how much is done, how the scores lie, and how consistent they are when a set comes
    back.
    """

    rater: str
    answered: int
    left: int
    means: dict[str, MaybeNumber]
    ties: MaybeNumber = Field(description="share of ranked pairs without a strict order")
    repeats: int
    repeat_same: MaybeNumber = Field(description="share of scores that were given again")
    repeat_difference: MaybeNumber = Field(description="mean absolute difference of scores")
    repeat_order: MaybeNumber = Field(
        description="share of strictly ordered pairs that keep their order"
    )


class Kept(Record):
    """Number of pairs on which all raters agree, by the kind of preference."""

    preference: Preference
    possible: int
    kept: int
    dropped: dict[str, int]


class Agreement(Record):
    """The results of `study agreement`."""

    schema_version: Literal[1] = 1
    samples: int
    raters: int
    draws: int
    aspects: list[AspectAgreement]
    kendall_w: Figure = Field(
        description="of the orders, mean over sets that all planned raters ordered in full"
    )
    sets: int = Field(description="sets that this is over")
    pairs: list[Kept]
    strengths: list[Strength]
    tie: MaybeNumber = Field(default=math.nan, description="Davidson's nu")
    per_rater: list[RaterFacts]
    notes: list[str] = Field(description="what cannot be said, and why")


def find(data: StudyData, draws: int = 10_000, seed: int = 0) -> Agreement:
    """Everything about the raters of a study; what is not defined is nan and has a note."""
    notes: list[str] = []
    weights = intervals.resampled(len(data.facts.samples), draws, seed)
    w, sets = _concordance(data, weights)
    strengths, tie = _strengths(data, weights[:_STRENGTH_DRAWS], notes)
    if data.facts.raters_per_sample < 2:
        notes.append("one rater a sample: agreement between raters cannot be measured")
    for name, left in data.facts.unfinished.items():
        notes.append(f"{name} has {left} sets left")
    return Agreement(
        samples=len(data.facts.samples),
        raters=len(data.facts.raters),
        draws=draws,
        aspects=[_aspect(data, aspect, weights) for aspect in ASPECTS],
        kendall_w=w,
        sets=sets,
        pairs=[_kept(data, preference) for preference in ("ranking", "scores")],
        strengths=strengths,
        tie=tie,
        per_rater=[_rater(data, number) for number in range(len(data.facts.raters))],
        notes=notes,
    )


def _aspect(data: StudyData, aspect: Aspect, weights: Array) -> AspectAgreement:
    """Agreement about one aspect, with intervals over samples drawn anew."""
    table = data.table(aspect)
    samples, versions, raters = table.shape
    values = table.reshape(samples * versions, raters)
    levels, pairs = agreement.coincidences_of(values)
    by_sample = pairs.reshape(samples, versions, *pairs.shape[1:]).sum(1)
    drawn = np.tensordot(weights, by_sample, axes=1)
    known = np.isfinite(values).sum(1)
    complete = known >= max(2, data.facts.raters_per_sample)
    whole = [row[np.isfinite(row)] for row in values[complete]]
    even = len({len(row) for row in whole}) == 1
    names = data.facts.raters
    return AspectAgreement(
        aspect=aspect,
        clips=int((known > 0).sum()),
        complete=int(complete.sum()),
        alpha_ordinal=_alpha(by_sample, drawn, levels, "ordinal"),
        alpha_interval=_alpha(by_sample, drawn, levels, "interval"),
        fleiss_kappa=agreement.fleiss_kappa(np.stack(whole)) if even else math.nan,
        kappa_quadratic={
            f"{names[i]} / {names[j]}": agreement.cohen_kappa(
                values[:, i], values[:, j], "quadratic"
            )
            for i, j in combinations(range(raters), 2)
        },
        same=_near(table, 0, weights),
        within_one=_near(table, 1, weights),
    )


def _alpha(by_sample: Array, drawn: Array, levels: Array, level: agreement.Level) -> Figure:
    value = float(agreement.alpha_of(by_sample.sum(0), levels, level))
    return _figure(value, agreement.alpha_of(drawn, levels, level))


def _near(table: Array, apart: int, weights: Array) -> Figure:
    """Share of pairs of scores of the same clip that lie at most `apart` apart."""
    near = np.zeros(len(table))
    count = np.zeros(len(table))
    for i, j in combinations(range(table.shape[2]), 2):
        difference = np.abs(table[:, :, i] - table[:, :, j])
        near += (difference <= apart).sum(1)
        count += np.isfinite(difference).sum(1)
    return _ratio(near, count, weights)


def _concordance(data: StudyData, weights: Array) -> tuple[Figure, int]:
    """Kendall's W of rankings, and over how many samples."""
    samples = {name: i for i, name in enumerate(data.facts.samples)}
    orders: dict[str, list[list[int]]] = {}
    for ranking in data.rankings:
        place = {name: number for number, group in enumerate(ranking.groups) for name in group}
        if ranking.repeat == 0 and len(place) == len(data.versions):
            orders.setdefault(ranking.sample, []).append([place[name] for name in data.versions])
    sums = np.zeros(len(samples))
    counts = np.zeros(len(samples))
    for sample, ranked in orders.items():
        if len(ranked) >= max(2, data.facts.raters_per_sample):
            w = agreement.kendall_w(np.array(ranked, float).T)
            if math.isfinite(w):
                sums[samples[sample]], counts[samples[sample]] = w, 1
    return _ratio(sums, counts, weights), int(counts.sum())


def _strengths(data: StudyData, weights: Array, notes: list[str]) -> tuple[list[Strength], float]:
    """Strengths of the versions by Bradley and Terry, and their parameter for ties."""
    said = votes(data)
    count = len(data.versions)
    wins = np.zeros((len(said), count, count))
    ties = np.zeros((len(said), count, count))
    for p, (i, j) in enumerate(all_pairs(count)):
        wins[:, i, j], wins[:, j, i] = (said[:, p] == 1).sum(1), (said[:, p] == -1).sum(1)
        ties[:, i, j] = ties[:, j, i] = (said[:, p] == 0).sum(1)
    try:
        found = agreement.bradley_terry(wins.sum(0), ties.sum(0))
    except DataError as error:
        notes.append(str(error))
        return [Strength(version=name, strength=Figure()) for name in data.versions], math.nan
    try:
        drawn = np.array(
            [
                agreement.bradley_terry(*(np.tensordot(row, x, axes=1) for x in (wins, ties))).theta
                for row in weights
            ]
        )
        intervals = [intervals.percentile_interval(column) for column in drawn.T]
    except DataError:
        # Leaving out the draws without an answer would cut off just the ends that matter.
        notes.append(
            "strengths: resampling meets versions that never lose; intervals are as if pairs were"
            " independent"
        )
        half = intervals.Z_95 * found.standard_errors
        intervals = [
            intervals.Interval(*ends)
            for ends in zip(found.theta - half, found.theta + half, strict=True)
        ]
    return [
        Strength(version=name, strength=Figure(value=float(found.theta[k]), low=low, high=high))
        for k, (name, (low, high)) in enumerate(zip(data.versions, intervals, strict=True))
    ], found.tie


def _kept(data: StudyData, preference: Preference) -> Kept:
    """How many pairs have a consensus, and why others have none."""
    winner, reason = consensus(votes(data, preference), data.facts.raters_per_sample)
    dropped = {name: int((reason == name).sum()) for name in ("tie", "disagreement", "missing")}
    return Kept(
        preference=preference, possible=winner.size, kept=int((winner != 0).sum()), dropped=dropped
    )


def _rater(data: StudyData, number: int) -> RaterFacts:
    """The answers of one rater, and how often they were the same twice."""
    name = data.facts.raters[number]
    first, again = (
        np.stack([data.table(aspect, repeat)[:, :, number] for aspect in ASPECTS])
        for repeat in (0, 1)
    )
    both = np.isfinite(first) & np.isfinite(again)
    difference = np.abs(first - again)[both]
    own: dict[tuple[str, int], Ranking] = {
        (r.sample, r.repeat): r for r in data.rankings if r.rater == name
    }
    ordered = np.array(
        [ranking_votes(r, data.versions) for (_, repeat), r in own.items() if repeat == 0]
    )
    kept = [
        a == b
        for (sample, repeat), ranking in own.items()
        if repeat and (sample, 0) in own
        for a, b in zip(
            *(ranking_votes(r, data.versions) for r in (own[sample, 0], ranking)), strict=True
        )
        if a in (1, -1)
    ]
    return RaterFacts(
        rater=name,
        answered=len(own),
        left=data.facts.unfinished.get(name, 0),
        means={aspect: _mean(first[k]) for k, aspect in enumerate(ASPECTS)},
        ties=_mean(np.where(np.isfinite(ordered), ordered == 0, math.nan))
        if len(ordered)
        else math.nan,
        repeats=sum(repeat > 0 for _, repeat in own),
        repeat_same=_mean((difference == 0).astype(float)),
        repeat_difference=_mean(difference),
        repeat_order=_mean(np.array(kept, float)),
    )


def _mean(values: Array) -> float:
    """The mean of what is known, nan without any."""
    known = values[np.isfinite(values)]
    if len(known):
        return float(known.mean())
    return math.nan


def _ratio(above: Array, below: Array, weights: Array) -> Figure:
    """A share with its interval over samples drawn anew."""
    if not below.sum():
        return Figure()
    drawn = intervals.resampled_ratios(above[:, None], below[:, None], weights)[:, 0]
    return Figure(
        value=above.sum() / below.sum(), **intervals.share_interval(above, below, drawn)._asdict()
    )


def _figure(value: float, draws: Array) -> Figure:
    return Figure(value=float(value), **intervals.percentile_interval(draws)._asdict())
