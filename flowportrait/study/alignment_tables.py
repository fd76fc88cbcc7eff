"""The tables of an alignment, for people to read."""

from __future__ import annotations

import math

from flowportrait.study.alignment_record import Accuracy, Alignment

TABLE_HEAD = ("Method", "Pairs", "Acc", "95 %", "Acc_nt", "Cov", "answered", "missing")


def table_rows(alignment: Alignment) -> list[tuple[str, ...]]:
    """Cells of Table 1, in percent: what a system should be judged by, and below it the other scope
    if that differs.
    """
    rows = []
    for row in sorted(alignment.rows, key=lambda row: not row.default):
        if row.default or row.needs_truth:
            rows.append((row.system, row.scope, *accuracy_cells(row.accuracy)))
    for one in alignment.ceiling:
        rows.append(
            (f"rater {one.rater} against the others", "all pairs", *accuracy_cells(one.accuracy))
        )
    return rows


def accuracy_cells(accuracy: Accuracy) -> tuple[str, ...]:
    """Acc, its interval, Acc_nt, Cov, answered, missing."""
    acc = accuracy.acc
    interval = "—"
    if math.isfinite(acc.low):
        interval = f"{100 * acc.low:.1f}–{100 * acc.high:.1f}"
    percents = (
        f"{100 * f.value:.1f}" if math.isfinite(f.value) else "—"
        for f in (accuracy.acc_nt, accuracy.cov)
    )
    first = "—"
    if math.isfinite(acc.value):
        first = f"{100 * acc.value:.1f}"
    return (first, interval, *percents, str(accuracy.answered), str(accuracy.missing))


COMPARISON_HEAD = (
    "A",
    "B",
    "Pairs",
    "Acc A - B",
    "95 %",
    "only A right",
    "only B right",
    "McNemar p",
    "to separate",
)


def comparison_rows(alignment: Alignment) -> list[tuple[str, ...]]:
    """Every two systems on the pairs that both answered; differences in percent."""
    rows = []
    for one in alignment.comparisons:
        d = one.difference
        value = "—"
        if math.isfinite(d.value):
            value = f"{100 * d.value:+.1f}"
        interval = "—"
        if math.isfinite(d.low):
            interval = f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"
        separate = "—" if one.pairs_to_separate is None else str(one.pairs_to_separate)
        counts = str(one.only_a), str(one.only_b)
        rows.append(
            (
                one.a,
                one.b,
                str(one.pairs),
                value,
                interval,
                *counts,
                f"{one.mcnemar_p:.3g}",
                separate,
            )
        )
    return rows
