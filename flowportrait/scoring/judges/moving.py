"""From one judge to another: how far two judges agree on the clips that both have scored, and how
they are offset.

Everything is taken over clips that both scored; intervals resample samples, because the versions of
one sample share what is said and who is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.records import Record, Score
from flowportrait.study import agreement, intervals
from flowportrait.study.intervals import Figure

DRAWS = 1000


class Match(Record):
    """Two judges by one scorer, as a whole (`part` empty) or for one aspect."""

    scorer: str
    part: str = ""
    clips: int
    samples: int
    only_old: int
    only_new: int
    offset: Figure
    """Mean of new minus old."""
    spread: Figure
    """Mean absolute difference."""
    same: Figure
    """Share of clips with the same score."""
    spearman: Figure
    kappa: Figure
    """Cohen's with quadratic weights."""


class _Pairs(NamedTuple):
    """Scores of the clips that both judges have, float [n], and the sample of each, int [n]."""

    old: Array
    new: Array
    sample: Array


def match(old: Iterable[Score], new: Iterable[Score], seed: int = 0) -> list[Match]:
    """Pairs of scores by common scorer, the overall one first. Raises DataError when they share no
    scored clip.
    """
    tables = [_table(scores) for scores in (old, new)]
    found = []
    for key in tables[0]:
        before = tables[0][key]
        after = tables[1].get(key, {})
        shared = sorted(before.keys() & after.keys())
        if shared:
            names = {
                stem: k for k, stem in enumerate(dict.fromkeys(before[clip][1] for clip in shared))
            }
            pairs = _Pairs(
                *(
                    np.array(column)
                    for column in zip(
                        *((before[c][0], after[c][0], names[before[c][1]]) for c in shared),
                        strict=True,
                    )
                )
            )
            lost = len(before) - len(shared), len(after) - len(shared)
            found.append(_matched(*key, pairs, *lost, seed))
    if not found:
        raise DataError(
            "no clip was scored by both judges with the same scorer; score the same videos"
        )
    return found


def _table(scores: Iterable[Score]) -> dict[tuple[str, str], dict[str, tuple[float, str]]]:
    """(scorer, part) -> clip -> (mean over repeats, sample); a clip is known by its file's digest,
    else by its id.
    """
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    samples: dict[str, str] = {}
    for score in scores:
        clip = score.sha256 or score.clip
        samples[clip] = PurePath(score.clip).stem
        parts = {"": math.nan if score.reason else score.value, **score.parts}
        for part, value in parts.items():
            if math.isfinite(value):
                values.setdefault((score.scorer, part), {}).setdefault(clip, []).append(value)
    return {
        key: {clip: (sum(v) / len(v), samples[clip]) for clip, v in by_clip.items()}
        for key, by_clip in values.items()
    }


def _matched(
    scorer: str, part: str, pairs: _Pairs, only_old: int, only_new: int, seed: int
) -> Match:
    """How far two judges agree, with intervals over samples drawn anew."""
    count = int(pairs.sample.max()) + 1
    members = [np.nonzero(pairs.sample == k)[0] for k in range(count)]
    rng = np.random.default_rng(seed)
    draws = [
        np.concatenate([members[k] for k in rng.integers(0, count, count)]) for _ in range(DRAWS)
    ]

    def figure(of: Callable[[Array, Array], float]) -> Figure:
        drawn = np.array([of(pairs.old[rows], pairs.new[rows]) for rows in draws])
        if count > 1:
            ends = intervals.percentile_interval(drawn)
        else:
            ends = intervals.Interval(math.nan, math.nan)
        return Figure(value=of(pairs.old, pairs.new), low=ends.low, high=ends.high)

    return Match(
        scorer=scorer,
        part=part,
        clips=len(pairs.old),
        samples=count,
        only_old=only_old,
        only_new=only_new,
        offset=figure(lambda a, b: float((b - a).mean())),
        spread=figure(lambda a, b: float(np.abs(b - a).mean())),
        same=figure(lambda a, b: float((np.abs(b - a) < 1e-9).mean())),
        spearman=figure(agreement.spearman),
        kappa=figure(lambda a, b: agreement.cohen_kappa(a, b, "quadratic")),
    )


HEAD = (
    "Scorer",
    "Part",
    "Clips",
    "Offset (new - old)",
    "Apart",
    "Same",
    "Spearman",
    "Kappa, quadratic",
)


def rows(found: Iterable[Match]) -> list[tuple[str, ...]]:
    """Cells for people."""
    return [
        (
            one.scorer,
            one.part or "whole",
            str(one.clips),
            *(
                figure.shown
                for figure in (one.offset, one.spread, one.same, one.spearman, one.kappa)
            ),
        )
        for one in found
    ]
