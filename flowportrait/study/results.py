"""Results of a study, apart from how it was asked: read from the study itself or from a folder that
was exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from flowportrait.arrays import Array
from flowportrait.errors import ConfigError, DataError
from flowportrait.records import (
    ASPECTS,
    Aspect,
    Pair,
    Ranking,
    Rating,
    Record,
    read_jsonl,
    write_jsonl,
)
from flowportrait.study.store import DATABASE, ClipOrigin, Study

Preference = Literal["ranking", "scores"]
"""What says which of two versions a rater prefers: the order given to the set, or the sum of the
aspects' scores.
"""

FACTS = "study.json"
RATINGS = "ratings.jsonl"
RANKINGS = "rankings.jsonl"
_SIGN = {">": 1.0, "<": -1.0, ">=": 0.0, "<=": 0.0, "=": 0.0, None: np.nan}


class ClipSource(Record):
    """Source of a clip of the study."""

    sample: str
    version: str
    source: str = ""
    digests: list[str] = Field(
        default=[], description="sha256 of the original file and of the study's copy"
    )


class StudyFacts(Record):
    """Facts of a study in its export."""

    schema_version: Literal[1] = 1
    versions: list[str] = Field(min_length=2)
    truth: str | None = None
    raters: list[str]
    raters_per_sample: int = Field(ge=1)
    samples: list[str] = Field(min_length=1)
    clips: list[ClipSource] = []
    unfinished: dict[str, int] = Field(
        default={}, description="sets that a rater has not answered yet"
    )


@dataclass(frozen=True)
class StudyData:
    """The answers of a study, with all names in the open."""

    facts: StudyFacts
    ratings: list[Rating]
    rankings: list[Ranking]

    @property
    def versions(self) -> list[str]:
        """Names of the versions in a set."""
        return self.facts.versions

    def table(self, aspect: Aspect, repeat: int = 0) -> Array:
        """Scores [samples, versions, raters]; nan where there is none."""
        return _tables(self, repeat)[ASPECTS.index(aspect)]

    def sums(self) -> Array:
        """Each rater's sum over the aspects, whole numbers, [samples, versions, raters]; nan unless
        all are there.
        """
        return _tables(self, 0).sum(0)


def load(path: str | Path) -> StudyData:
    """The data of a study folder or of an exported one. Raises DataError for what is neither or
    does not fit.
    """
    path = Path(path)
    if (path / DATABASE).is_file():
        return _checked(_of_study(Study(path)))
    if (path / FACTS).is_file():
        facts = next(read_jsonl(path / FACTS, StudyFacts), None)
        if facts is None:
            raise DataError(f"{path / FACTS}: is empty; export the study again")
        ratings = list(read_jsonl(path / RATINGS, Rating))
        return _checked(
            StudyData(
                facts,
                ratings,
                list(read_jsonl(path / RANKINGS, Ranking)),
            )
        )
    raise DataError(f"{path}: neither a study (no {DATABASE}) nor its export (no {FACTS})")


def export(data: StudyData, out: Path) -> None:
    """Writes study.json, ratings.jsonl and rankings.jsonl into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / RATINGS, data.ratings)
    write_jsonl(out / RANKINGS, data.rankings)
    write_jsonl(out / FACTS, [data.facts])


def _of_study(study: Study) -> StudyData:
    ratings, rankings = study.records()
    raters = study.raters()
    facts = StudyFacts(
        versions=study.versions,
        truth=study.truth,
        raters=[rater.name for rater in raters],
        raters_per_sample=study.raters_per_sample,
        samples=study.samples(),
        clips=[
            ClipSource(
                sample=s.sample, version=s.version, source=s.source, digests=sorted(s.digests)
            )
            for s in study.sources()
        ],
        unfinished={
            rater.name: rater.total - rater.done for rater in raters if rater.done < rater.total
        },
    )
    return StudyData(facts, ratings, rankings)


def _checked(data: StudyData) -> StudyData:
    """Raises DataError for answers that do not fit the study, or that are there twice."""
    _require_known(data)
    keys = Counter((r.rater, r.sample, r.version, r.aspect, r.repeat) for r in data.ratings)
    keys.update((r.rater, r.sample, r.repeat) for r in data.rankings)
    if twice := [key for key, count in keys.items() if count > 1]:
        raise DataError(
            f"{' / '.join(map(str, twice[0]))}: answered twice; remove one of the lines"
        )
    return data


def _require_known(data: StudyData) -> None:
    """Raises DataError for a rating or ranking of something that the study has not."""
    facts = data.facts
    known = {"rater": set(data.facts.raters), "sample": set(data.facts.samples)}
    versions = set(facts.versions)
    for row in (*data.ratings, *data.rankings):
        for name, allowed in known.items():
            if (value := getattr(row, name)) not in allowed:
                raise DataError(f"{type(row).__name__} of {name} '{value}': not in this study")
        if isinstance(row, Rating):
            named = {row.version}
        else:
            named = {name for group in row.groups for name in group}
        if not named <= versions:
            raise DataError(
                f"{type(row).__name__} of {row.rater} for {row.sample}: no version"
                f" '{min(named - versions)}'; the study has {', '.join(facts.versions)}"
            )


def _tables(data: StudyData, repeat: int) -> Array:
    """[aspects, samples, versions, raters]."""
    facts = data.facts
    places = [
        {name: i for i, name in enumerate(names)}
        for names in (facts.samples, facts.versions, facts.raters)
    ]
    table = np.full((len(ASPECTS), *(len(place) for place in places)), np.nan)
    for r in data.ratings:
        if r.repeat == repeat:
            place = (places[0][r.sample], places[1][r.version], places[2][r.rater])
            table[ASPECTS.index(r.aspect), *place] = r.score
    return table


# --------------------------------------------------------------------------------------- preference
# pairs


def all_pairs(num_versions: int) -> Array:
    """The C(V, 2) pairs of versions, [pairs, 2]."""
    return np.array(list(combinations(range(num_versions), 2)))


def votes(data: StudyData, preference: Preference = "ranking") -> Array:
    """Each rater's vote on each pair: 1 for a, -1 for b, 0 no strict order, nan nothing. [samples,
    pairs, raters]
    """
    facts = data.facts
    pairs = all_pairs(len(data.facts.versions))
    if preference == "scores":
        return votes_by_scores(data.sums(), pairs)
    if preference != "ranking":
        raise ConfigError(f"preference: '{preference}'; give 'ranking' or 'scores'")
    table = np.full((len(facts.samples), len(pairs), len(facts.raters)), np.nan)
    samples = {name: i for i, name in enumerate(facts.samples)}
    raters = {name: i for i, name in enumerate(facts.raters)}
    for r in data.rankings:
        if r.repeat == 0:
            table[samples[r.sample], :, raters[r.rater]] = ranking_votes(r, facts.versions)
    return table


def ranking_votes(ranking: Ranking, versions: list[str]) -> list[float]:
    """Votes of one ranking on each pair, as `votes` gives them."""
    return [_SIGN[ranking.relation(versions[i], versions[j])] for i, j in all_pairs(len(versions))]


def votes_by_scores(scores: Array, pairs: Array) -> Array:
    """The same from scores [samples, versions, raters]."""
    return np.sign(scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]])


def consensus(said: Array, raters_per_sample: int) -> tuple[Array, Array]:
    """(winner 1, -1 or 0 for dropped; reason) [samples, pairs]; a pair needs all its raters on one
    strict side (§2.3).

    The reason is "", "missing" (fewer raters than planned), "disagreement" (two contradict), or
    "tie".
    """
    known = np.isfinite(said).sum(-1)
    for_a = (said == 1).sum(-1)
    for_b = (said == -1).sum(-1)
    winner = np.where(for_a == known, 1, np.where(for_b == known, -1, 0))
    reason = np.where(winner != 0, "", np.where((for_a > 0) & (for_b > 0), "disagreement", "tie"))
    short = known < max(1, raters_per_sample)
    return np.where(short, 0, winner), np.where(short, "missing", reason)


def pair_records(data: StudyData, preference: Preference = "ranking") -> list[Pair]:
    """All pairs of all samples, each with its winner or the reason why it is dropped."""
    said = votes(data, preference)
    winner, reason = consensus(said, data.facts.raters_per_sample)
    return list(_records(data.facts, said, winner, reason))


def _records(facts: StudyFacts, said: Array, winner: Array, reason: Array) -> Iterable[Pair]:
    """The votes about every two versions of a sample."""
    for s, sample in enumerate(facts.samples):
        for p, (i, j) in enumerate(all_pairs(len(facts.versions))):
            counts = {
                name: int((said[s, p] == sign).sum())
                for name, sign in (("a", 1), ("b", -1), ("tie", 0))
            }
            yield Pair(
                sample=sample,
                a=facts.versions[i],
                b=facts.versions[j],
                dropped=str(reason[s, p]),
                votes=counts,
                winner={1: "a", -1: "b", 0: None}[int(winner[s, p])],
            )


def sources_of(facts: StudyFacts) -> list[ClipOrigin]:
    """Sources of the clips."""
    return [
        ClipOrigin(
            c.sample,
            c.version,
            c.source,
            frozenset(c.digests),
        )
        for c in facts.clips
    ]
