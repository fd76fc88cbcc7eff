"""Judges and metrics on the pairs of a study: scores and verdicts brought onto its samples and
versions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.files import ends_alike
from flowportrait.records import ASPECTS, Score, Verdict
from flowportrait.study.results import StudyData, all_pairs, sources_of
from flowportrait.study.store import ClipOrigin

ScoreTable = dict[tuple[int, int, int], Score]


@dataclass
class System:
    """One judge or metric on all pairs of a study."""

    name: str
    kind: Literal["scores", "verdicts"]
    said: Array
    """1 for a, -1 for b, 0 a tie, nan no answer; [samples, pairs]"""
    needs_truth: bool = False
    aspects: dict[str, Array] = field(default_factory=dict)
    """The same for each aspect that it tells apart."""
    values: Array | None = None
    """Scores [samples, versions], the mean of repeats; nan where there is none."""
    parts: dict[str, Array] = field(default_factory=dict)
    """Scores by aspect, [samples, versions]."""
    better: Literal["higher", "lower"] = "higher"
    orders: Array | None = None
    """[verdicts, 2]: whether the clip shown first won, when a was shown first and when b was; nan:
    not asked.
    """
    unit: str = ""


class Clips:
    """Finds the sample and version of a scored clip: by its file's digest, and by its path where
    that is unsure.
    """

    def __init__(self, data: StudyData):
        self._by_digest: dict[str, list[ClipOrigin]] = {}
        self._sources = sources_of(data.facts)
        for source in self._sources:
            for digest in source.digests:
                self._by_digest.setdefault(digest, []).append(source)
        self.samples = {name: i for i, name in enumerate(data.facts.samples)}
        self.versions = {name: i for i, name in enumerate(data.facts.versions)}
        self.unknown: dict[str, None] = {}
        """Clips that were asked for and are none of the study's."""

    def find(self, clip: str, sha256: str = "") -> tuple[int, int] | None:
        """(index of the sample, of the version); None, and noted, when it is none of those that
        count.
        """
        # Two versions may be the same file (a model that changes nothing); then the name decides.
        same_file = self._by_digest.get(sha256, []) if sha256 else self._sources
        if len(same_file) == 1:
            found = same_file
        else:
            found = [s for s in same_file if ends_alike(s.source, clip)]
        if not found:
            # Files may have been made anew since, or the study came from elsewhere:
            # VERSION/SAMPLE.mp4 still says it.
            found = [s for s in self._sources if not sha256 and _named(s, clip)]
        return self._place_of_the_only(found, clip)

    def _place_of_the_only(self, found, clip: str) -> tuple[int, int] | None:
        if len(found) == 1:
            # A training sample belongs to the study and does not count: neither found nor unknown.
            if self._counts(found[0]):
                return (self.samples[found[0].sample], self.versions[found[0].version])
            return None
        self.unknown[clip] = None
        return None

    def _counts(self, source: ClipOrigin) -> bool:
        return source.sample in self.samples


def _named(source: ClipOrigin, clip: str) -> bool:
    name = PurePath(clip).with_suffix("").as_posix()
    return name == f"{source.version}/{source.sample}" or name.endswith(
        f"/{source.version}/{source.sample}"
    )


def from_scores(
    scores: Iterable[Score],
    data: StudyData,
    clips: Clips,
    directions: dict[str, tuple[Literal["higher", "lower"], bool]],
    label: str = "",
) -> list[System]:
    """One system for each scorer, called `SCORER (LABEL)` where there is a label. `directions`:
    which end is better, and whether the truth is needed, by scorer.

    Repeats are added up; where every score is the mean of whole aspect scores, those are compared,
    not float means. Raises DataError: a scorer without a direction, or one score twice.
    """
    by_scorer: dict[str, ScoreTable] = {}
    for score in scores:
        # Features are kept like scores by `evaluate`; their number is no opinion.
        if score.scorer.endswith(":features"):
            continue
        place = clips.find(score.clip, score.sha256)
        if place is None:
            continue
        known = by_scorer.setdefault(score.scorer, {})
        if (*place, score.repeat) in known and _said(known[*place, score.repeat]) != _said(score):
            raise DataError(
                f"{score.scorer}: two different scores of {score.clip} (repeat {score.repeat});"
                " give one file of each, or names to compare them: NAME=FILE"
            )
        known[*place, score.repeat] = score
    result = []
    for name, found in by_scorer.items():
        if name not in directions:
            raise DataError(
                f"{name}: unknown scorer; state its direction with --higher {name} or --lower"
                f" {name}"
            )
        result.append(_score_system(labelled(name, label), found, data, *directions[name]))
    return result


def labelled(name: str, label: str) -> str:
    """Name of a scorer or comparer whose results have a name of their own."""
    if label:
        return f"{name} ({label})"
    return name


def _said(score: Score) -> str:
    """The content of a score, whatever the clip is called; as text, in which nan equals itself."""
    return score.model_dump_json(include={"value", "parts", "reason"})


def _score_system(
    name: str,
    scores: ScoreTable,
    data: StudyData,
    better: Literal["higher", "lower"],
    needs_truth: bool,
) -> System:
    whole = all(_is_mean_of_whole_parts(s) for s in scores.values() if not s.reason)
    shape = (len(data.facts.samples), len(data.versions))
    totals = np.zeros(shape)
    counts = np.zeros(shape)
    part_totals = {aspect: np.zeros(shape) for aspect in ASPECTS}
    part_counts = {aspect: np.zeros(shape) for aspect in ASPECTS}
    for (sample, version, _), score in scores.items():
        for aspect in ASPECTS:
            if math.isfinite(value := score.parts.get(aspect, math.nan)):
                part_totals[aspect][sample, version] += value
                part_counts[aspect][sample, version] += 1
        if not score.reason:
            totals[sample, version] += sum(score.parts.values()) if whole else score.value
            counts[sample, version] += 1
    sign = 1 if better == "higher" else -1
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = {
            aspect: part_totals[aspect] / part_counts[aspect]
            for aspect in ASPECTS
            if part_counts[aspect].any()
        }
        values = totals / counts / (len(ASPECTS) if whole else 1)
    return System(
        name,
        "scores",
        sign * _compared(totals, counts),
        needs_truth=needs_truth,
        values=values,
        parts=parts,
        aspects={
            aspect: sign * _compared(part_totals[aspect], part_counts[aspect]) for aspect in parts
        },
        better=better,
        unit=next((s.unit for s in scores.values()), ""),
    )


def _is_mean_of_whole_parts(score: Score) -> bool:
    parts = score.parts
    if set(parts) != set(ASPECTS) or not all(
        math.isfinite(p) and p == int(p) for p in parts.values()
    ):
        return False
    return abs(sum(parts.values()) / len(parts) - score.value) < 1e-9


def _compared(totals: Array, counts: Array) -> Array:
    """Which version of each pair has the larger mean, [samples, pairs]; exact for whole numbers,
    nan if one is missing.

    In floating point the mean of 3/3, 3/3 and 5/3 is not that of 3/3, 4/3 and 4/3; their sums are
    equal.
    """
    a, b = all_pairs(totals.shape[1]).T
    sign = np.sign(totals[:, a] * counts[:, b] - totals[:, b] * counts[:, a])
    return np.where((counts[:, a] > 0) & (counts[:, b] > 0), sign, np.nan)


def from_verdicts(
    verdicts: Iterable[Verdict], data: StudyData, clips: Clips, label: str = ""
) -> list[System]:
    """One system for each comparer; several verdicts on a pair are counted, the majority is its
    answer.
    """
    pairs = {(int(i), int(j)): p for p, (i, j) in enumerate(all_pairs(len(data.versions)))}
    grouped: dict[str, list[tuple[int, int, int, Verdict]]] = {}
    for verdict in verdicts:
        shas = [*verdict.sha256, "", ""][:2]
        a = clips.find(verdict.a, shas[0])
        b = clips.find(verdict.b, shas[1])
        if a is None or b is None:
            continue
        if a[0] != b[0] or a[1] == b[1]:
            raise DataError(
                f"{verdict.system}: {verdict.a} and {verdict.b} are not two versions of one sample"
            )
        side = -1
        if a[1] < b[1]:
            side = 1
        grouped.setdefault(verdict.system, []).append(
            (a[0], pairs[min(a[1], b[1]), max(a[1], b[1])], side, verdict)
        )
    return [
        _verdict_system(labelled(name, label), found, data, len(pairs))
        for name, found in grouped.items()
    ]


def _verdict_system(
    name: str, found: Sequence[tuple[int, int, int, Verdict]], data: StudyData, num_pairs: int
) -> System:
    shape = (len(data.facts.samples), num_pairs)
    sums = np.zeros(shape)
    known = np.zeros(shape, bool)
    parts = {aspect: (np.zeros(shape), np.zeros(shape, bool)) for aspect in ASPECTS}
    orders = np.full((len(found), 2), np.nan)
    for row, (sample, pair, side, verdict) in enumerate(found):
        if verdict.winner is not None:
            sums[sample, pair] += side * {"a": 1, "b": -1, "tie": 0}[verdict.winner]
            known[sample, pair] = True
        for aspect, winner in verdict.parts.items():
            if aspect in parts:
                parts[aspect][0][sample, pair] += side * (1 if winner == "a" else -1)
                parts[aspect][1][sample, pair] = True
        for column, order in enumerate(("ab", "ba")):
            if order in verdict.orders:
                orders[row, column] = verdict.orders[order] == order[0]
    by_aspect = {
        aspect: np.where(there, np.sign(total), np.nan)
        for aspect, (total, there) in parts.items()
        if there.any()
    }
    return System(
        name, "verdicts", np.where(known, np.sign(sums), np.nan), aspects=by_aspect, orders=orders
    )
