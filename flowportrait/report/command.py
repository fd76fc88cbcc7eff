"""Work of `report tables`, `figures` and `page`; the command line itself stands in
`flowportrait.cli`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flowportrait.errors import ConfigError, DataError, require
from flowportrait.files import json_text
from flowportrait.records import ASPECTS
from flowportrait.report import gallery
from flowportrait.report import page as page_
from flowportrait.report import tables as tables_
from flowportrait.report.drawing import Drawn
from flowportrait.report.sources import Sources, read
from flowportrait.report.table import Table


def tables(
    paths: Sequence[str], out: Path, *, judge: str, baseline: str | None, as_json: bool
) -> None:
    """`flowportrait report tables`: tables.md, and each table as CSV and LaTeX."""
    sources = read(paths)
    _folder(out)
    made = tables_.build(sources, _judges(judge), _known_run(sources, baseline))
    (out / "tables.md").write_text("\n".join(table.markdown() for table in made), encoding="utf-8")
    for table in made:
        (out / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (out / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
        print(_told(table))
    _tell([*sources.notes, *_unplayed(sources)])
    filled = [table.number for table in made if table.filled]
    gaps = {table.name: table.gaps() for table in made}
    print(f"{len(filled)} of {len(made)} tables have data: {out}")
    _print_json({"output": str(out), "filled": filled, "empty_cells": gaps}, as_json)


def figures(
    paths: Sequence[str], out: Path, *, judge: str, curves: Sequence[str], as_json: bool
) -> None:
    """`flowportrait report figures`: each figure as SVG and PNG."""
    sources = read(paths)
    _folder(out)
    drawn = _drawn(sources, judge, curves)
    _tell(_unplayed(sources))
    for figure in drawn:
        for kind in ("svg", "png"):
            if data := getattr(figure, kind):
                (out / f"{figure.name}.{kind}").write_bytes(data)
        if figure.reason:
            print(f"warning: no figure {figure.number}: {figure.reason}", file=sys.stderr)
        for note in figure.notes:
            print(f"figure {figure.number}: {note}")
    made = [figure.number for figure in drawn if figure.svg]
    print(f"{len(made)} of {len(drawn)} figures have data: {out}")
    reasons = {figure.name: figure.reason for figure in drawn if figure.reason}
    _print_json({"output": str(out), "drawn": made, "reasons": reasons}, as_json)


def page(
    paths: Sequence[str],
    out: Path,
    *,
    title: str,
    judge: str,
    baseline: str | None,
    curves: Sequence[str],
    videos: Sequence[str] = (),
    truth: Path | None = None,
    as_json: bool,
) -> None:
    """`flowportrait report page`: one HTML file, and a folder beside it for the videos it plays."""
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{out}: give the name of a file that ends in .html")
    sources = read(paths)
    made = tables_.build(sources, _judges(judge), _known_run(sources, baseline))
    drawn = _drawn(sources, judge, curves)
    out.parent.mkdir(parents=True, exist_ok=True)
    clips = _clips(sources, [*videos, *sources.videos], truth, out)
    text = page_.html(title, sources, made, drawn, clips)
    out.write_text(text, encoding="utf-8")
    _tell(sources.notes)
    filled = [t.number for t in made if t.filled]
    shown = [f.number for f in drawn if f.svg]
    print(f"{len(filled)} tables, {len(shown)} figures: {out}")
    _print_json({"output": str(out), "tables": filled, "figures": shown}, as_json)


def _clips(
    sources: Sources,
    videos: Sequence[str],
    truth: Path | None,
    page: Path,
) -> str:
    """The HTML of the player; empty where no videos were given."""
    if not videos:
        if truth is not None:
            raise ConfigError("--truth: needs generated videos; add --videos NAME=DIR")
        return ""
    found = gallery.gather(sources, videos, truth)
    sources.given += [given for given in videos if given not in sources.given]
    sources.notes += found.notes
    return found.html(page)


def strips(
    paths: Sequence[str], out: Path, *, clips: Sequence[str], count: int, as_json: bool
) -> None:
    """`flowportrait report strips`: frames of the same clips, a row for each source."""
    from flowportrait.report import strips as strips_

    kind = out.suffix.lower().removeprefix(".")
    if out.is_dir() or kind not in ("svg", "png"):
        raise DataError(f"{out}: give the name of a file that ends in .png or .svg")
    require("matplotlib", extra="report")
    drawn = strips_.from_paths(paths, clips, count)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(getattr(drawn, kind))
    print(f"{drawn.rows} rows of {count} frames: {out}")
    _print_json({"output": str(out), "rows": drawn.rows, "frames": count}, as_json)


def _drawn(sources: Sources, judge: str, curves: Sequence[str]) -> list[Drawn]:
    """Every figure that a report can hold."""
    from flowportrait.report import figures, strips

    return [*figures.build(sources, _judges(judge), curves), strips.of_runs(sources)]


def _told(table: Table) -> str:
    """The table without its empty rows and columns, or one line; why cells are empty stands in
    tables.md.
    """
    reasons = sorted({cell.reason for _, cells in table.rows for cell in cells if cell.reason})
    if not table.filled:
        return (
            f"Table {table.number}, {table.title}: no data"
            f" ({reasons[0] if reasons else 'nothing was given'})\n"
        )
    return _without_gaps(table)


def _without_gaps(table: Table) -> str:
    """The table as text without rows and columns that are empty."""
    rows = [row for row in table.rows if not all(cell.empty or cell.text for cell in row[1])]
    used = [k for k in range(len(table.head) - 1) if not all(cells[k].empty for _, cells in rows)]
    empty = sum(cell.empty for _, cells in table.rows for cell in cells)
    left = (
        f"{empty} cells are empty or left out here; the reasons stand in tables.md.\n"
        if empty
        else ""
    )
    head = [table.head[0], *(table.head[k + 1] for k in used)]
    shown = replace(
        table, head=head, rows=[(label, [cells[k] for k in used]) for label, cells in rows]
    )
    return shown.markdown(gaps=False) + left


def _unplayed(sources: Sources) -> list[str]:
    return [
        f"{given}: a folder of videos, which only report page shows" for given in sources.videos
    ]


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)


def _folder(out: Path) -> None:
    if out.is_file():
        raise DataError(f"{out}: is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)


def _judges(judge: str) -> list[str]:
    """One name for all aspects, or one for each."""
    names = [name.strip() for name in judge.split(",") if name.strip()]
    if len(names) not in (1, len(ASPECTS)):
        raise ConfigError(f"judge: {judge!r}; give one scorer, or three for {', '.join(ASPECTS)}")
    return names


def _known_run(sources: Sources, baseline: str | None) -> str | None:
    """The baseline's label. Raises ConfigError where no run has it."""
    labels = [run.label for run in sources.runs]
    if baseline is not None and baseline not in labels:
        raise ConfigError(
            f"baseline: no run '{baseline}'; available: {', '.join(labels) or 'none'}"
        )
    return baseline


def _print_json(value: dict, as_json: bool) -> None:
    if as_json:
        print(json_text(value))
