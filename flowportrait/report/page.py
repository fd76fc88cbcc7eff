"""One self-contained page of all tables and figures, to be read without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from flowportrait import pages, player
from flowportrait.report.drawing import Drawn
from flowportrait.report.sources import Sources
from flowportrait.report.table import Table

_STYLE = """
table.paper td,table.paper th{white-space:nowrap;padding:.25rem .45rem}
table.paper td small{display:block;color:var(--dim);font-size:.75em}
table.paper td:first-child{white-space:normal}figure{margin:1rem 0}
figure img{max-width:100%;min-width:min(100%,340px)}
figure img{background:#fff;border-radius:6px}
details{margin:.5rem 0;color:var(--dim)}details li{overflow-wrap:anywhere}
"""


def html(
    title: str,
    sources: Sources,
    tables: Sequence[Table],
    drawn: Sequence[Drawn],
    clips: str = "",
) -> str:
    """The whole page, with `clips`, the HTML of a player; tables and figures without any data are
    listed at its end.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=dim>Made from {escape(', '.join(sources.given))}.</p>",
    ]
    if clips:
        parts.append("<p><a href='#player'>Play the clips</a></p>")
    parts += [part for study in sources.studies for part in _study(study)]
    for table in tables:
        if table.filled:
            parts += _table(table)
    for figure in drawn:
        if figure.svg:
            parts += _figure(figure)
    parts += [clips]
    parts += _left_out(tables, drawn)
    parts += [f"<p class=bad>{escape(note)}</p>" for note in sources.notes]
    return pages.page(title, parts, _STYLE + player.STYLE)


def _study(study) -> Iterator[str]:
    """The heading of a study and how many took part."""
    facts = study.data.facts
    yield f"<h2>Study {escape(study.name)}</h2>"
    left = sum(facts.unfinished.values())
    yield (
        f"<p>{len(facts.samples)} samples, {len(facts.versions)} versions"
        f" ({escape(', '.join(facts.versions))}), {len(facts.raters)} raters,"
        f" {facts.raters_per_sample} for each sample; {left or 'no'} sets unanswered.</p>"
    )
    if study.agreement:
        found = study.agreement
        rows = [
            (
                a.aspect,
                str(a.clips),
                a.alpha_ordinal.shown,
                a.same.shown,
                a.within_one.shown,
            )
            for a in found.aspects
        ]
        head = ("aspect", "clips", "Krippendorff's alpha, ordinal", "same score", "within one")
        yield pages.html_table(head, rows)
        yield (f"<p>Kendall's W of the orders: {found.kendall_w.shown} over {found.sets} sets.</p>")
        strengths = ((s.version, s.strength.shown) for s in found.strengths)
        yield pages.html_table(("version", "Bradley-Terry strength (log odds)"), strengths)
        yield from (f"<p class=bad>{escape(note)}</p>" for note in found.notes)


def _table(table: Table) -> Iterator[str]:
    """A table; an empty cell says why in a tooltip."""
    yield f"<h2>Table {table.number}: {escape(table.title)}</h2>"
    rows = []
    for label, cells in table.rows:
        row = [f"<td>{escape(label)}</td>"]
        for cell in cells:
            short = cell.shown(full=False)
            full = cell.shown()
            about = ""
            if full != short:
                about = f"<small>{escape(full.removeprefix(short).strip(' []'))}</small>"
            why = ""
            if cell.empty:
                why = f" title='{escape(cell.reason, quote=True)}'"
            row.append(f"<td{why}>{escape(short)}{about}</td>")
        rows.append("<tr>" + "".join(row) + "</tr>")
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.head)
    yield (
        "<div class=scroll tabindex=0><table"
        f" class=paper><tr>{top}</tr>{''.join(rows)}</table></div>"
    )
    yield from (f"<p class=dim>{escape(note)}</p>" for note in table.notes)
    if gaps := table.gaps():
        items = "".join(f"<li>{escape(gap)}</li>" for gap in gaps)
        yield (
            "<details><summary>Why cells are empty"
            f" ({len(gaps)})</summary><ul>{items}</ul></details>"
        )


def _figure(figure: Drawn) -> Iterator[str]:
    """A figure, drawn inside the page itself."""
    yield f"<h2>Figure {figure.number}: {escape(figure.title)}</h2>"
    source = pages.data_url(figure.svg, "image/svg+xml")
    alt = " ".join((f"Figure {figure.number}: {figure.title}.", *figure.notes))
    yield (
        f"<figure class=scroll tabindex=0><img alt='{escape(alt, quote=True)}'"
        f" src='{source}'></figure>"
    )
    yield from (f"<p class=dim>{escape(note)}</p>" for note in figure.notes)


def _left_out(tables: Sequence[Table], drawn: Sequence[Drawn]) -> Iterator[str]:
    """The gaps of tables and figures, and why they are there."""
    lost = []
    for table in tables:
        if not table.filled:
            reasons = sorted(
                {cell.reason for _, cells in table.rows for cell in cells if cell.reason}
            )
            lost.append((f"Table {table.number}", "; ".join(reasons)))
    lost += [(f"Figure {figure.number}", figure.reason) for figure in drawn if not figure.svg]
    if lost:
        yield "<h2>Without data</h2>"
        yield pages.html_table(("", "reason"), lost)
