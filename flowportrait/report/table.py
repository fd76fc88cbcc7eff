"""A table of figures: each cell a number with its count and interval, or the reason why it is
empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from flowportrait import pages
from flowportrait.arrays import Array
from flowportrait.study import intervals

EMPTY = "—"
DRAWS = 2000


@dataclass(frozen=True)
class Cell:
    """A number with what it is over, or nothing and why. `text` stands alone for what is no
    measured number.
    """

    value: float = math.nan
    count: int = 0
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    text: str = ""
    digits: int = 2
    difference: float = math.nan
    """To the baseline of the table."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.text and not math.isfinite(self.value)

    def shown(self, full: bool = True) -> str:
        """The text of a cell; with interval and count when `full`."""
        if self.text or self.empty:
            return self.text or EMPTY
        shown = f"{self.value:.{self.digits}f}"
        if math.isfinite(self.difference):
            shown += f" ({self.difference:+.{self.digits}f})"
        if not full:
            return shown
        between = " to " if self.low < 0 else "–"
        ends = between.join(f"{end:.{self.digits}f}" for end in (self.low, self.high))
        about = []
        if math.isfinite(self.low):
            about = [ends]
        about += [f"n {self.count}"] if self.count else []
        if about:
            return f"{shown} [{', '.join(about)}]"
        return shown


@dataclass
class Table:
    """One table of the paper, filled from what is there."""

    number: int
    title: str
    head: list[str]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"table{self.number}"

    @property
    def filled(self) -> bool:
        """Whether any cell holds a measured number."""
        return any(not cell.empty and not cell.text for _, cells in self.rows for cell in cells)

    def gaps(self) -> list[str]:
        """Each empty cell with its reason; columns of the same row and reason in one line."""
        reasons: dict[tuple[str, str], list[str]] = {}
        for label, cells in self.rows:
            for name, cell in zip(self.head[1:], cells, strict=True):
                if cell.empty:
                    reasons.setdefault((label, cell.reason), []).append(name)
        return [
            f"{label}, {', '.join(names)}: {reason}" for (label, reason), names in reasons.items()
        ]

    def texts(self, full: bool = True) -> Iterator[list[str]]:
        """The rows as text."""
        for label, cells in self.rows:
            yield [label, *(cell.shown(full) for cell in cells)]

    def markdown(self, gaps: bool = True) -> str:
        """The table, its notes and its empty cells."""
        lines = [
            f"## Table {self.number}: {self.title}",
            "",
            *pages.markdown_rows(self.head, self.texts()),
            "",
        ]
        lines += [f"{note}\n" for note in self.notes]
        if gaps and (found := self.gaps()):
            lines += ["Empty cells:", "", *(f"- {gap}" for gap in found), ""]
        return "\n".join(lines)

    def csv(self) -> str:
        """One line a cell: everything that is known of it."""
        rows = []
        for label, cells in self.rows:
            for name, cell in zip(self.head[1:], cells, strict=True):
                numbers = (cell.value, cell.low, cell.high, cell.difference)
                value, low, high, difference = (
                    "" if math.isnan(x) else repr(float(x)) for x in numbers
                )
                value = value or cell.text
                rows.append(
                    (label, name, value, low, high, difference, cell.count or "", cell.reason)
                )
        return pages.csv_text(
            ("row", "column", "value", "low", "high", "difference", "n", "reason"), rows
        )

    def latex(self) -> str:
        """A booktabs table of the numbers; intervals and counts stand in the CSV file."""
        return pages.latex_table(f"{self.title}.", self.head, self.texts(full=False))


def mean_cell(values: Array, reason: str, digits: int = 2, baseline: Array | None = None) -> Cell:
    """The mean over samples with its interval from resampling them; empty with `reason` where there
    are none.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return Cell(reason=reason)
    difference = math.nan
    if baseline is not None and np.isfinite(baseline).any():
        difference = float(known.mean() - baseline[np.isfinite(baseline)].mean())
    mean = intervals.mean_figure(known, DRAWS)
    return Cell(mean.value, len(known), mean.low, mean.high, digits=digits, difference=difference)
