"""How well judges and metrics agree with people: Table 1's accuracy, with its interval, and what
lies behind it.

On pairs whose winner all raters agree on: Acc = (right + ties / 2) / answered, Acc_nt = right /
(answered - ties), Cov = (answered - ties) / answered, so that Acc = Cov * Acc_nt + (1 - Cov) / 2. A
pair without an answer is counted as missing and enters none of them. Intervals are from resampling
whole samples, since the pairs of one share videos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from flowportrait.arrays import Array
from flowportrait.records import ASPECTS
from flowportrait.study import agreement, intervals
from flowportrait.study.alignment_record import (
    Accuracy,
    Alignment,
    AlignmentRow,
    Ceiling,
    Comparison,
    PairErrors,
    Position,
    Power,
    Scope,
)
from flowportrait.study.calibration import calibrate
from flowportrait.study.intervals import Figure
from flowportrait.study.results import (
    Preference,
    StudyData,
    all_pairs,
    consensus,
    votes,
    votes_by_scores,
)
from flowportrait.study.systems import System

ByScope = dict[Scope, np.ndarray]

WANTED_WIDTH = 0.04
"""Of the interval of an accuracy: two points to either side."""


@dataclass
class _Counts:
    """The counts behind one accuracy, by sample, and how to write it down when intervals
    are known.
    """

    said: Array
    human: Array

    def __post_init__(self) -> None:
        used = self.human != 0
        answered = used & np.isfinite(self.said)
        right = answered & (self.said == self.human)
        ties = answered & (self.said == 0)
        self.pairs = int(used.sum())
        self.missing = int((used & ~answered).sum())
        self.answered = answered.sum(1)
        self.right = right.sum(1)
        self.ties = ties.sum(1)

    def columns(self) -> tuple[list[Array], list[Array]]:
        """Numerators and denominators of Acc, Acc_nt and Cov, one number a sample."""
        firm = self.answered - self.ties
        return [self.right + self.ties / 2, self.right, firm], [self.answered, firm, self.answered]


def accuracies(counts: Sequence[_Counts], draws: int, seed: int) -> list[Accuracy]:
    """The accuracies with intervals, all from the same resamplings."""
    if not counts:
        return []
    columns = [c.columns() for c in counts]
    above = np.stack([column for tops, _ in columns for column in tops], axis=1).astype(float)
    below = np.stack([column for _, bottoms in columns for column in bottoms], axis=1).astype(float)
    drawn = intervals.resampled_ratios(above, below, intervals.resampled(len(above), draws, seed))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = above.sum(0) / below.sum(0)
    figures = [
        _figure(value, intervals.share_interval(above[:, k], below[:, k], drawn[:, k]))
        for k, value in enumerate(values)
    ]
    return _accuracies(counts, figures)


def _accuracies(counts: Sequence[_Counts], figures: Sequence[Figure]) -> list[Accuracy]:
    """Accuracies of scopes from what was counted, with intervals."""
    return [
        Accuracy(
            pairs=c.pairs,
            missing=c.missing,
            right=int(c.right.sum()),
            ties=int(c.ties.sum()),
            acc=figures[3 * k],
            acc_nt=figures[3 * k + 1],
            cov=figures[3 * k + 2],
        )
        for k, c in enumerate(counts)
    ]


def align(
    data: StudyData,
    systems: Sequence[System],
    *,
    preference: Preference = "ranking",
    draws: int = 10_000,
    seed: int = 0,
    wanted_width: float = WANTED_WIDTH,
    unknown_clips: Sequence[str] = (),
) -> Alignment:
    """Compares all systems with the raters. Every system has a row over all pairs and, where the
    study holds the truth, one without the pairs that contain it: metrics that need the truth are
    judged by that one.
    """
    human, reason = consensus(votes(data, preference), data.facts.raters_per_sample)
    scopes = _scopes(data)
    by_aspect = {aspect: _aspect_winners(data, aspect) for aspect in ASPECTS}
    wanted: list[tuple[System, Scope, str, _Counts]] = []
    for system in systems:
        for scope, inside in scopes.items():
            wanted.append((system, scope, "", _Counts(system.said, human * inside)))
            for aspect, said in system.aspects.items():
                wanted.append((system, scope, aspect, _Counts(said, by_aspect[aspect] * inside)))
    ceiling = _left_out(data, preference)
    found = accuracies(
        [counts for *_, counts in wanted] + [counts for _, counts in ceiling], draws, seed
    )
    known = {
        (id(system), scope, aspect): acc
        for (system, scope, aspect, _), acc in zip(wanted, found, strict=False)
    }
    rows = [
        _row(system, scope, scopes[scope], known, data, human)
        for system in systems
        for scope in scopes
    ]
    return Alignment(
        preference=preference,
        samples=len(human),
        possible=human.size,
        kept=int((human != 0).sum()),
        dropped={name: int((reason == name).sum()) for name in ("tie", "disagreement", "missing")},
        raters_per_sample=data.facts.raters_per_sample,
        draws=draws,
        rows=rows,
        comparisons=_comparisons(systems, human, scopes, draws, seed),
        calibration=[one for system in systems for one in calibrate(system, data, seed=seed)],
        power=[_power(row, wanted_width, human) for row in rows if row.default],
        ceiling=[
            Ceiling(rater=rater, accuracy=acc)
            for (rater, _), acc in zip(ceiling, found[len(wanted) :], strict=True)
        ],
        unknown_clips=list(unknown_clips)[:20],
        unknown_total=len(unknown_clips),
    )


def _scopes(data: StudyData) -> ByScope:
    """Which pairs count: all of them, and those without the truth."""
    pairs = all_pairs(len(data.versions))
    scopes: ByScope = {"all pairs": np.ones(len(pairs), int)}
    if data.facts.truth is not None:
        truth = data.versions.index(data.facts.truth)
        scopes["without the truth"] = (pairs != truth).all(1).astype(int)
    return scopes


def _default_scope(system: System, scopes: ByScope) -> Scope:
    if system.needs_truth and "without the truth" in scopes:
        return "without the truth"
    return "all pairs"


def _aspect_winners(data: StudyData, aspect: str) -> Array:
    """Winners of the pairs on which all raters agree for one aspect, by its scores."""
    said = votes_by_scores(data.table(aspect), all_pairs(len(data.versions)))
    return consensus(said, data.facts.raters_per_sample)[0]


def _left_out(data: StudyData, preference: Preference) -> list[tuple[str, _Counts]]:
    """Each rater as a system, against what all the others agree on."""
    said = votes(data, preference)
    result = []
    if data.facts.raters_per_sample < 2:
        return []
    for number, rater in enumerate(data.facts.raters):
        others, _ = consensus(np.delete(said, number, axis=2), data.facts.raters_per_sample - 1)
        # Sets that the rater was not asked about say nothing of the rater.
        seen = np.isfinite(said[:, :, number]).any(1, keepdims=True)
        result.append((rater, _Counts(said[:, :, number], others * seen)))
    return result


def _row(
    system: System,
    scope: Scope,
    inside: Array,
    known: dict[tuple[int, str, str], Accuracy],
    data: StudyData,
    human: Array,
) -> AlignmentRow:
    """All that is told of one system in one scope."""
    scopes = _scopes(data)
    row = AlignmentRow(
        system=system.name,
        kind=system.kind,
        better=system.better,
        needs_truth=system.needs_truth,
        scope=scope,
        default=scope == _default_scope(system, scopes),
        accuracy=known[id(system), scope, ""],
        aspects={aspect: known[id(system), scope, aspect] for aspect in system.aspects},
        by_pair=_by_pair(system, human, inside, data),
        position=_position(system.orders) if system.orders is not None else None,
    )
    if system.values is not None:
        return row.model_copy(update=_correlations(system, scope, data))
    return row


def _by_pair(system: System, human: Array, inside: Array, data: StudyData) -> list[PairErrors]:
    """How often a system errs about each two versions."""
    result = []
    for p, (i, j) in enumerate(all_pairs(len(data.versions))):
        if not inside[p]:
            continue
        used = human[:, p] != 0
        answered = used & np.isfinite(system.said[:, p])
        errors = int((answered & (system.said[:, p] == -human[:, p])).sum())
        ties = int((answered & (system.said[:, p] == 0)).sum())
        count = int(answered.sum())
        rate = (errors + ties / 2) / count if count else math.nan
        result.append(
            PairErrors(
                a=data.versions[i],
                b=data.versions[j],
                pairs=int(used.sum()),
                missing=int(used.sum()) - count,
                errors=errors,
                ties=ties,
                rate=_figure(rate, intervals.wilson(errors + ties / 2, count)),
            )
        )
    return result


def _position(orders: Array) -> Position:
    """How often the clip shown first wins, and how often the same clip wins in both orders."""
    shown = np.isfinite(orders)
    both = np.isfinite(orders).all(1)
    first = float(np.nansum(orders))
    count = int(shown.sum())
    # The same clip wins in both orders when it is first in one and second in the other.
    same = int((orders[both, 0] != orders[both, 1]).sum())
    twice = int(both.sum())
    return Position(
        shown=count,
        first_wins=_figure(first / count if count else math.nan, intervals.wilson(first, count)),
        both_orders=twice,
        consistent=_figure(same / twice if twice else math.nan, intervals.wilson(same, twice)),
    )


def _correlations(system: System, scope: Scope, data: StudyData) -> dict[str, object]:
    """Rank correlations of a system's scores with people's."""
    columns = [
        v
        for v, name in enumerate(data.versions)
        if scope == "all pairs" or name != data.facts.truth
    ]
    sums = data.sums()
    sign = 1 if system.better == "higher" else -1
    known = np.isfinite(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        human = (np.where(known, sums, 0).sum(2) / known.sum(2))[:, columns]
    values = sign * system.values[:, columns]
    both = np.isfinite(human) & np.isfinite(values)
    means = [
        [
            float(x[both[:, v], v].mean()) if both[:, v].any() else math.nan
            for v in range(len(columns))
        ]
        for x in (values, human)
    ]
    return {
        "spearman": agreement.spearman(values.ravel(), human.ravel()),
        "tau_b": agreement.kendall_tau_b(values.ravel(), human.ravel()),
        "spearman_versions": agreement.spearman(np.array(means[0]), np.array(means[1])),
        "means": {data.versions[v]: _known_mean(system.values[:, v]) for v in columns},
    }


def _known_mean(values: Array) -> float:
    """The mean of what is known, nan without any."""
    known = values[np.isfinite(values)]
    if len(known):
        return float(known.mean())
    return math.nan


def _comparisons(
    systems: Sequence[System],
    human: Array,
    scopes: ByScope,
    draws: int,
    seed: int,
) -> list[Comparison]:
    """Every two systems on what both answered, on the narrower of their default scopes."""
    above = []
    below = []
    made = []
    for a, b in combinations(systems, 2):
        narrow = scopes[_default_scope(a, scopes)] * scopes[_default_scope(b, scopes)]
        used = (human * narrow != 0) & np.isfinite(a.said) & np.isfinite(b.said)
        credit = [
            np.where(used, np.where(s.said == human, 1.0, np.where(s.said == 0, 0.5, 0.0)), 0)
            for s in (a, b)
        ]
        right = [used & (s.said == human) for s in (a, b)]
        above.append((credit[0] - credit[1]).sum(1))
        below.append(used.sum(1).astype(float))
        only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        made.append((a.name, b.name, int(used.sum()), only))
    if not made:
        return []
    drawn = intervals.resampled_ratios(
        np.stack(above, 1), np.stack(below, 1), intervals.resampled(len(human), draws, seed)
    )
    return [
        Comparison(
            a=a,
            b=b,
            pairs=count,
            mcnemar_p=intervals.mcnemar(*only),
            only_a=only[0],
            only_b=only[1],
            pairs_to_separate=intervals.pairs_to_separate(*only, count) if count else None,
            difference=_figure(
                above[k].sum() / count if count else math.nan,
                intervals.percentile_interval(drawn[:, k]),
            ),
        )
        for k, (a, b, count, only) in enumerate(made)
    ]


def _power(row: AlignmentRow, wanted: float, human: Array) -> Power:
    acc = row.accuracy.acc
    answered = row.accuracy.answered
    width = acc.high - acc.low
    if not (answered and width > 0):
        return Power(
            system=row.system, pairs=answered, width=math.nan, wanted=wanted, pairs_needed=None
        )
    needed = intervals.pairs_for_width(answered, width, wanted)
    missing = max(0, needed - answered)
    samples = int((human != 0).any(1).sum())
    return Power(
        system=row.system,
        pairs=answered,
        width=width,
        wanted=wanted,
        pairs_needed=needed,
        pairs_missing=missing,
        samples_missing=math.ceil(missing * samples / answered),
    )


def _figure(value: float, interval: intervals.Interval) -> Figure:
    return Figure(value=float(value), low=interval.low, high=interval.high)
