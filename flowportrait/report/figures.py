"""Figures 2, 3, 5 and 6 of the paper: where a judge errs, its scores beside people's, and rewards
in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import ConfigError, require
from flowportrait.records import ASPECTS
from flowportrait.registry import name_hint
from flowportrait.report.drawing import Drawn, canvas, finished
from flowportrait.report.sources import Sources, StudySource, TrainingRun
from flowportrait.study.alignment_record import AlignmentRow

PERCEPTUAL = ("perceptual", "lpips", "perceptual-lite0", "closeness", "landmark_closeness")
CONSISTENCY = ("consistency", "raft-jitter", "smoothness", "jitter", "landmark_jitter")
"""Names under which runs log what R_perceptual and R_consistency are minus of, or what stands in
for them, the paper's own first."""

_COLOURS = (
    "#3b6ea5",
    "#c1554d",
    "#5a9367",
    "#8a63a8",
    "#c58b2a",
    "#4b9aa8",
    "#7a7a7a",
    "#2f2f33",
    "#d987a4",
    "#9bb53c",
)
_HUMAN = "#9a9aa0"
_JUDGE = "#3b6ea5"


def build(sources: Sources, judge: Sequence[str], curves: Sequence[str]) -> list[Drawn]:
    """All four figures. `curves`: what of a run's log Figure 5 shows; empty for its held-out
    reward.

    Raises MissingDependency without matplotlib.
    """
    require("matplotlib", extra="report")
    return [
        figure_2(sources, judge),
        figure_3(sources, judge),
        figure_5(sources, curves),
        figure_6(sources),
    ]


# ------------------------------------------------------------------------------------------ against
# people


def figure_2(sources: Sources, judge: Sequence[str]) -> Drawn:
    """Error rates by pair of versions, with the number of errors on each bar."""
    drawn = Drawn(2, "Error rates by pair of generators")
    found = _judged_row(sources, judge)
    if found is None:
        drawn.reason = (
            f"no study with an align.json that holds {judge[0]}; make it with: study align"
        )
        return drawn
    study, row = found
    bars = [pair for pair in row.by_pair if math.isfinite(pair.rate.value)]
    if not bars:
        drawn.reason = f"no pair with a human winner was answered by {row.system}"
        return drawn
    figure, axes = canvas(1, width=1.6 + 1.1 * len(bars))
    rates = np.array([100 * pair.rate.value for pair in bars])
    ends = np.array([[100 * pair.rate.low, 100 * pair.rate.high] for pair in bars]).T
    axes[0].bar(range(len(bars)), rates, color=_COLOURS[0], width=0.65)
    spread = np.abs(ends - rates)
    axes[0].errorbar(
        range(len(bars)), rates, spread, fmt="none", ecolor="#333333", capsize=3, linewidth=1
    )
    for place, (pair, top) in enumerate(zip(bars, ends[1], strict=True)):
        ties = ""
        if pair.ties:
            ties = f" + {pair.ties} tied"
        axes[0].text(
            place,
            top + 1,
            f"{pair.errors}{ties}\nof {pair.pairs - pair.missing}",
            ha="center",
            fontsize=8,
        )
    axes[0].set_xticks(range(len(bars)), [f"{pair.a}\nvs. {pair.b}" for pair in bars], fontsize=9)
    axes[0].set_ylabel(f"error rate of {row.system} (%)")
    axes[0].set_ylim(0, max(10.0, float(ends.max()) * 1.25))
    drawn.notes.append(
        f"{row.system} in {study.name}; ties count half, bars have Wilson's 95 % interval, numbers"
        " are cases."
    )
    return finished(drawn, figure)


def _judged_row(sources: Sources, judge: Sequence[str]) -> tuple[StudySource, AlignmentRow] | None:
    """The first study in which the judge stands as it is by default, and its row."""
    for study in sources.studies:
        for row in study.alignment.rows if study.alignment else []:
            if row.system == judge[0] and row.default:
                return study, row
    return None


def figure_3(sources: Sources, judge: Sequence[str]) -> Drawn:
    """Histograms of people's and the judge's scores by aspect, each summing to 100 %."""
    drawn = Drawn(3, f"Score distributions of people and {' + '.join(judge)}")
    versions = {version for study in sources.studies for version in study.data.versions}
    scores = [
        score
        for scored in sources.scored
        if scored.generator in versions
        for score in scored.scores
    ]
    judged = []
    human = []
    for number, aspect in enumerate(ASPECTS):
        if len(judge) == len(ASPECTS):
            values = [s.value for s in scores if s.scorer == judge[number] and not s.reason]
        else:
            values = [s.parts[aspect] for s in scores if s.scorer == judge[0] and aspect in s.parts]
        judged.append(np.array([value for value in values if math.isfinite(value)]))
        tables = [study.data.table(aspect).ravel() for study in sources.studies] or [np.zeros(0)]
        ratings = np.concatenate(tables)
        human.append(ratings[np.isfinite(ratings)])
    for whose, arrays in (
        ("ratings of people", human),
        (f"scores of {' + '.join(judge)} of a study's clips", judged),
    ):
        if not all(len(values) for values in arrays):
            drawn.reason = f"no {whose} for every aspect were given"
            return drawn
    outside = [float(v) for values in judged for v in values if not 0.5 <= v < 5.5]
    if outside:
        drawn.reason = f"{' + '.join(judge)} gives {outside[0]:g}, which is no score from 1 to 5"
        return drawn
    figure, axes = canvas(3, width=10)
    for axis, aspect, people, machine in zip(axes, ASPECTS, human, judged, strict=True):
        for values, shift, colour, label in (
            (people, -0.2, _HUMAN, "people"),
            (machine, 0.2, _JUDGE, judge[0]),
        ):
            shares = np.histogram(values, np.arange(0.5, 6))[0] * 100 / len(values)
            axis.bar(
                np.arange(1, 6) + shift,
                shares,
                0.4,
                color=colour,
                label=f"{label} (n {len(values)})",
            )
        axis.set_title(aspect.replace("_", "-"), fontsize=10)
        axis.set_xticks(range(1, 6))
        axis.set_xlabel("score")
        axis.set_ylim(0, axis.get_ylim()[1] * 1.25)
        axis.legend(fontsize=8, frameon=False, loc="upper left")
    axes[0].set_ylabel("share (%)")
    if any((values != np.round(values)).any() for values in judged):
        drawn.notes.append(
            f"{judge[0]} gives fractions; each is counted at the nearest whole score."
        )
    return finished(drawn, figure)


# -------------------------------------------------------------------------------------------------
# training


def figure_5(sources: Sources, curves: Sequence[str]) -> Drawn:
    """Reward curves of all runs."""
    drawn = Drawn(5, "Reward during post-training")
    wanted = list(curves) or ["held_out_reward"]
    panels = {name: {run.label: _curve(run, name) for run in sources.runs} for name in wanted}
    return _curves_figure(drawn, panels, sources.runs)


def figure_6(sources: Sources) -> Drawn:
    """R_perceptual and R_consistency of all runs, whether they are rewarded or only watched."""
    drawn = Drawn(6, "Perceptual and consistency metrics during post-training")
    panels = {}
    logged = {name for run in sources.runs for row in run.log for name in row}
    for title, names in (("R_perceptual", PERCEPTUAL), ("R_consistency", CONSISTENCY)):
        # Of the clips of every update or, where these are not decoded, of the looks.
        known = (one for name in names for one in (f"mean_{name}", name) if one in logged)
        name = next(known, None)
        if name is None and sources.runs:
            drawn.notes.append(f"{title}: no run logs any of {', '.join(names)}")
        elif name is not None:
            panels[f"{title}: -|{name}|"] = {run.label: _loss(run, name) for run in sources.runs}
    if sources.runs and not panels:
        drawn.reason = "; ".join(drawn.notes)
        drawn.notes = []
        return drawn
    return _curves_figure(drawn, panels, sources.runs)


def _curve(run: TrainingRun, name: str) -> Array:
    """[(update, value)] of a quantity, [points, 2]; where a resumed run logged an update twice, the
    last one.
    """
    found = {
        row["update"]: row[name]
        for row in run.log
        if isinstance(row.get("update"), int) and isinstance(row.get(name), int | float)
    }
    return np.array(sorted(found.items()), float).reshape(-1, 2)


def _loss(run: TrainingRun, name: str) -> Array:
    """Minus the size of a quantity of which 0 is best, whichever sign it was logged with."""
    curve = _curve(run, name)
    curve[:, 1] = -np.abs(curve[:, 1])
    return curve


def _curves_figure(
    drawn: Drawn, panels: dict[str, dict[str, Array]], runs: Sequence[TrainingRun]
) -> Drawn:
    """Panels of curves over the updates, one line for each run; or why there are none."""
    if not runs:
        drawn.reason = "no training run was given"
        return drawn
    for name, curves in panels.items():
        if not any(len(curve) for curve in curves.values()):
            logged = sorted(
                {
                    key
                    for run in runs
                    for row in run.log
                    for key, v in row.items()
                    if isinstance(v, float)
                }
            )
            raise ConfigError(f"curves: no run logs '{name}'; {name_hint(name, logged)}")
        drawn.notes += [
            f"{label} logs no {name}" for label, curve in curves.items() if not len(curve)
        ]
    figure, axes = canvas(len(panels), width=5 * len(panels) + 1)
    for axis, (name, curves) in zip(axes, panels.items(), strict=True):
        for number, (label, curve) in enumerate(curves.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            if not len(curve):
                continue
            axis.plot(*curve.T, color=colour, alpha=0.3 if len(curve) > 20 else 1, linewidth=1)
            smooth = _smoothed(curve)
            axis.plot(*smooth.T, color=colour, linewidth=2, label=label)
        axis.set_xlabel("update")
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    if any(len(curve) > 20 for curves in panels.values() for curve in curves.values()):
        drawn.notes.append(
            "Thin: as logged. Thick: mean over the last tenth of the updates so far."
        )
    return finished(drawn, figure)


def _smoothed(curve: Array) -> Array:
    """Each point the mean of itself and those before it, over a tenth of the curve; short curves as
    they are.
    """
    if len(curve) <= 20:
        return curve
    width = len(curve) // 10
    sums = np.cumsum(np.concatenate([[0.0], curve[:, 1]]))
    ends = np.arange(1, len(curve) + 1)
    starts = np.maximum(0, ends - width)
    return np.stack([curve[:, 0], (sums[ends] - sums[starts]) / (ends - starts)], axis=1)
