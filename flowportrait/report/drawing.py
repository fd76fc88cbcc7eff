"""A figure as it is kept: drawn on a canvas of its own, the same bytes for the same data."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Drawn:
    """One figure, or the reason why there is none."""

    number: int
    title: str
    svg: bytes = b""
    png: bytes = b""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    """Of pictures, where it is made of them."""

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"figure{self.number}"


def canvas(
    panels: int, width: float, height: float = 3.6, across: bool = True
) -> tuple[Any, list[Any]]:
    """A figure of its own, apart from pyplot's global state, and its axes: side by side, or one
    below the other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    shape = (1, panels) if across else (panels, 1)
    axes = list(figure.subplots(*shape, squeeze=False).flatten())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e8", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def finished(drawn: Drawn, figure: Any) -> Drawn:
    """The finished drawing as SVG and PNG."""
    import matplotlib

    # The same data give the same bytes: no date, and names of clip paths from a fixed salt.
    with matplotlib.rc_context({"svg.hashsalt": drawn.name}):
        for kind in ("svg", "png"):
            out = io.BytesIO()
            figure.savefig(
                out,
                format=kind,
                dpi=150,
                metadata={"Date": None} if kind == "svg" else {"Software": None},
            )
            setattr(drawn, kind, out.getvalue())
    return drawn
