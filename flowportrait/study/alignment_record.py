"""The rows of align.json: each system beside people, and systems beside each other."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from flowportrait.records import MaybeNumber, Record
from flowportrait.study.calibration import Calibration
from flowportrait.study.intervals import Figure
from flowportrait.study.results import (
    Preference,
)

Scope = Literal["all pairs", "without the truth"]


class Accuracy(Record):
    """Agreement with the human winners of a number of pairs."""

    pairs: int = Field(ge=0, description="pairs with a human winner")
    missing: int = Field(ge=0, description="of these, without an answer")
    right: int
    ties: int
    acc: Figure
    acc_nt: Figure
    cov: Figure

    @property
    def answered(self) -> int:
        """Pairs that the figures are over."""
        return self.pairs - self.missing


class PairErrors(Record):
    """Figure 2: how often a system errs between two versions."""

    a: str
    b: str
    pairs: int
    missing: int
    errors: int = Field(description="the other version was preferred")
    ties: int
    rate: Figure = Field(description="(errors + ties / 2) / answered; Wilson's interval")


class Position(Record):
    """Effect of the order of presentation on a comparer."""

    shown: int = Field(description="answers whose order is known")
    first_wins: Figure = Field(description="share won by the clip shown first; 0.5 without bias")
    both_orders: int = Field(description="pairs asked in both orders")
    consistent: Figure = Field(description="share of these with the same winner")


class AlignmentRow(Record):
    """One system on one choice of pairs."""

    system: str
    kind: Literal["scores", "verdicts"]
    better: Literal["higher", "lower"]
    needs_truth: bool
    scope: Scope
    default: bool = Field(description="whether this is the scope the system should be judged by")
    accuracy: Accuracy
    aspects: dict[str, Accuracy] = {}
    by_pair: list[PairErrors] = []
    position: Position | None = None
    spearman: MaybeNumber = Field(
        default=math.nan, description="of clip scores with the raters' mean scores"
    )
    tau_b: MaybeNumber = math.nan
    spearman_versions: MaybeNumber = Field(default=math.nan, description="of the versions' means")
    means: dict[str, MaybeNumber] = Field(default={}, description="mean score by version")


class Comparison(Record):
    """Two systems on the pairs that both answered."""

    a: str
    b: str
    pairs: int
    difference: Figure = Field(description="Acc of a minus Acc of b; paired resampling of samples")
    mcnemar_p: float = Field(
        description="exact, as if pairs were independent; ties count as not right"
    )
    only_a: int = Field(default=0, description="pairs that a alone has right")
    only_b: int = 0
    pairs_to_separate: int | None = Field(
        default=None,
        description=(
            "independent pairs at which McNemar's test finds this difference in 80 % of cases"
        ),
    )


class Power(Record):
    """The pairs missing for the target interval of a system's Acc."""

    system: str
    pairs: int = Field(description="answered, with a human winner")
    width: MaybeNumber = Field(description="of Acc's interval, 0 to 1")
    wanted: float
    pairs_needed: int | None = Field(
        description="for an interval of the wanted width; None where none is known"
    )
    pairs_missing: int | None = None
    samples_missing: int | None = Field(
        default=None, description="at as many pairs a sample as so far"
    )


class Ceiling(Record):
    """One rater against the agreement of all others: what a judge could reach at best."""

    rater: str
    accuracy: Accuracy


class Alignment(Record):
    """The results of `study align`."""

    schema_version: Literal[1] = 1
    preference: Preference
    samples: int
    possible: int = Field(description="pairs of all samples")
    kept: int
    dropped: dict[str, int]
    raters_per_sample: int
    draws: int
    rows: list[AlignmentRow]
    comparisons: list[Comparison] = []
    calibration: list[Calibration] = []
    power: list[Power] = []
    ceiling: list[Ceiling] = []
    unknown_clips: list[str] = Field(
        default=[], description="scored clips that are none of the study's"
    )
    unknown_total: int = 0
