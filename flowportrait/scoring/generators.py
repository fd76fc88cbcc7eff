"""Results by who made the clips: each generator's mean, and every two generators on the clips that
both have.

Clips of one name (their path below the source that was given) are versions of one sample: the same
speech and portrait by different generators. Differences are taken within samples; intervals
resample samples, and p is that of the paired sign-flip test: were both equally good, each
difference might as well have the other sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from flowportrait.pages import short
from flowportrait.records import Score
from flowportrait.scoring import Sample, Scorer
from flowportrait.study import intervals
from flowportrait.study.intervals import Figure

DRAWS = 2000


@dataclass(frozen=True)
class Standing:
    """One generator by one scorer."""

    generator: str
    scorer: str
    mean: Figure
    scored: int
    unscored: int


@dataclass(frozen=True)
class Difference:
    """Two generators by one scorer, on the samples that both have a number for."""

    scorer: str
    a: str
    b: str
    samples: int
    difference: Figure
    p: float
    better: str
    """The one that is better on average; empty when they are equal."""


def generators_of(samples: Iterable[Sample]) -> list[str]:
    """The generators of the clips, in the order given."""
    return list(dict.fromkeys(sample.generator for sample in samples))


def standings(
    samples: Sequence[Sample], scores: Iterable[Score], scorers: Sequence[Scorer]
) -> list[Standing]:
    """Every generator by every scorer; repeats of a clip are averaged first."""
    table = _table(samples, scores)
    return _standings(scorers, samples, table)


def _standings(scorers: Sequence[Scorer], samples: Sequence[Sample], table) -> list[Standing]:
    """Every generator's mean by every scorer, with its interval."""
    made = []
    for scorer in scorers:
        for generator in generators_of(samples):
            asked = sum(sample.generator == generator for sample in samples)
            values = np.array(list(table.get((scorer.name, generator), {}).values()))
            mean = intervals.mean_figure(values, DRAWS)
            made.append(
                Standing(
                    generator,
                    scorer.name,
                    mean,
                    len(values),
                    asked - len(values),
                )
            )
    return made


def differences(
    samples: Sequence[Sample], scores: Iterable[Score], scorers: Sequence[Scorer]
) -> list[Difference]:
    """Every two generators by every scorer; empty for those that share no sample."""
    table = _table(samples, scores)
    return _differences(scorers, samples, table)


def _differences(scorers: Sequence[Scorer], samples: Sequence[Sample], table) -> list[Difference]:
    """Every two generators by every scorer, over the items that both made."""
    made = []
    for scorer in scorers:
        for a, b in combinations(generators_of(samples), 2):
            values = [table.get((scorer.name, generator), {}) for generator in (a, b)]
            shared = sorted(values[0].keys() & values[1].keys())
            if not shared:
                continue
            apart = np.array([values[0][item] - values[1][item] for item in shared])
            figure = intervals.mean_figure(apart, DRAWS)
            sign = 1 if scorer.better == "higher" else -1
            better = "" if figure.value == 0 else a if sign * figure.value > 0 else b
            p = intervals.sign_flip_p(apart)
            made.append(Difference(scorer.name, a, b, len(shared), figure, p, better))
    return made


def _table(
    samples: Sequence[Sample], scores: Iterable[Score]
) -> dict[tuple[str, str], dict[str, float]]:
    """By (scorer, generator): the mean value of each sample."""
    known = {sample.id: sample for sample in samples}
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for score in scores:
        if not score.reason and (sample := known.get(score.clip)):
            found.setdefault((score.scorer, sample.generator), {}).setdefault(
                sample.item, []
            ).append(score.value)
    return {
        key: {item: float(np.mean(v)) for item, v in items.items()} for key, items in found.items()
    }


def shown(figure: Figure, signed: bool = False) -> str:
    """A number with its interval, for people."""
    sign = ""
    if signed and figure.value > 0:
        sign = "+"
    interval = ""
    if np.isfinite(figure.low):
        interval = f" ({short(figure.low)} to {short(figure.high)})"
    return f"{sign}{short(figure.value)}{interval}"


def standing_rows(found: Sequence[Standing]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(head, rows): a column for each generator, a row for each scorer."""
    generators = list(dict.fromkeys(one.generator for one in found))
    cells = {(one.scorer, one.generator): one for one in found}
    rows = []
    for scorer in dict.fromkeys(one.scorer for one in found):
        row = [scorer]
        for generator in generators:
            one = cells[scorer, generator]
            lost = ""
            if one.unscored:
                lost = f", {one.unscored} unscored"
            row.append(
                f"{shown(one.mean)}, n {one.scored}{lost}" if one.scored else f"no score{lost}"
            )
        rows.append(tuple(row))
    return ("scorer", *generators), rows


DIFFERENCE_HEAD = ("scorer", "A", "B", "samples", "A - B", "p", "better")


def difference_rows(found: Sequence[Difference]) -> list[tuple[str, ...]]:
    """Cells for people."""
    return [
        (
            d.scorer,
            d.a,
            d.b,
            str(d.samples),
            shown(d.difference, signed=True),
            f"{d.p:.3g}",
            d.better or "equal",
        )
        for d in found
    ]
