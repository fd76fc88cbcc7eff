"""Tables and pages: Markdown, CSV, LaTeX and one self-contained HTML page, each from
plain cells.
"""

import base64
import csv
import io
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

STYLE = """
:root{color-scheme:light dark;--ink:#1d1d1f;--dim:#6e6e73;--line:#d8d8dc;--bar:#3b6ea5;
--bad:#b3261e;
--page:#fff}
@media(prefers-color-scheme:dark){
:root{--ink:#eee;--dim:#a0a0a6;--line:#3a3a3e;--bar:#7fb0e6;--bad:#ff8a80;--page:#161618}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
body{max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-top:1px solid var(--line);
padding-top:1rem}
table{border-collapse:collapse;width:100%}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:7rem}
th:first-child,td:first-child{position:sticky;left:0;background:var(--page)}
.long{display:inline-block;white-space:normal;overflow-wrap:anywhere;width:16rem;text-align:left}a{color:var(--bar)}
h1,h2,h3,p,li{overflow-wrap:anywhere}.dim{color:var(--dim)}.bad{color:var(--bad)}
.scroll{overflow-x:auto;margin:1rem 0}.cases{display:flex;flex-wrap:wrap;gap:1rem}.case{width:250px}
.case img{width:100%;display:block}
.case b{display:block}.case span{overflow-wrap:anywhere;font-size:.85em}
pre{overflow-x:auto;font-size:.8em}
svg{max-width:520px;width:100%}
"""
"""Follows the reader's light or dark setting, and needs nothing from outside."""


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole HTML page of parts that are HTML already; `style` comes behind the shared one."""
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width,initial-scale=1'>",
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style>",
            *parts,
            "</html>",
        ]
    )


_LONG = 48
"""Characters from which on a cell is a sentence that may break, and no number."""


class Html(str):
    """A cell that is HTML already and is not escaped again."""


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide, also by keyboard."""
    top = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class=scroll tabindex=0><table><tr>{top}</tr>{body}</table></div>"


def _cell(cell: object) -> str:
    """A cell's text, escaped unless it is HTML already; long text wraps."""
    if isinstance(cell, Html):
        return cell
    text = escape(str(cell))
    if len(str(cell)) > _LONG:
        return f"<span class=long>{text}</span>"
    return text


def markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    ]


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a CSV table."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    return text.getvalue()


def latex_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A booktabs table; every cell is text and is escaped."""
    lines = [
        "\\begin{table}",
        "\\centering",
        "\\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
        "\\toprule",
    ]
    body = [" & ".join(map(latex, row)) + r" \\" for row in rows]
    lines += [
        " & ".join(map(latex, head)) + r" \\",
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join([*lines, "\\caption{" + latex(caption) + "}", "\\end{table}", ""])


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "\u2014": "---",
    "\u2013": "--",
    "\u2191": r"$\uparrow$",
    "\u2193": r"$\downarrow$",
    "\u00b1": r"$\pm$",
    "\u2265": r"$\geq$",
    "\u03b7": r"$\eta$",
    "\u2212": "$-$",
}


def latex(text: str) -> str:
    """`text` as LaTeX prints it."""
    return "".join(_LATEX.get(letter, letter) for letter in str(text))


def histogram(values: Sequence[float]) -> str:
    """Counts in up to 24 bins, as SVG with both ends labelled."""
    counts, edges = np.histogram(values, bins=min(24, max(4, len(values))))
    width = 500 / len(counts)
    top = max(counts)
    bars = "".join(
        f"<rect x='{i * width + 10:.1f}' y='{100 - 90 * n / top:.1f}' width='{width - 1:.1f}' "
        f"height='{90 * n / top:.1f}' fill='var(--bar)'>"
        f"<title>{short(edges[i])} to {short(edges[i + 1])}: {n}</title></rect>"
        for i, n in enumerate(counts)
    )
    ends = (
        f"<text x=10 y=116 font-size=12 fill='currentColor'>{short(edges[0])}</text><text x=510"
        f" y=116 font-size=12 fill='currentColor' text-anchor=end>{short(edges[-1])}</text>"
    )
    return (
        f"<svg viewBox='0 0 520 122' role=img aria-label='histogram of {len(values)}"
        f" values'>{bars}{ends}</svg>"
    )


def data_url(data: bytes, kind: str) -> str:
    """The bytes of a picture as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def short(value: float) -> str:
    """A number with four digits; a dash for nan, 0 for values that round to it."""
    if not math.isfinite(value):
        return "–"
    return f"{value if abs(value) >= 1e-12 else 0:.4g}"
