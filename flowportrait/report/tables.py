"""Tables 1 to 5 of the paper from studies, scores and runs; a cell without data is empty and says
why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from flowportrait.records import ASPECTS, Score
from flowportrait.registry import SCORERS
from flowportrait.report.sources import ABLATION, Scored, Sources, StudySource, TrainingRun
from flowportrait.report.table import Cell, Table, mean_cell
from flowportrait.study.alignment_record import AlignmentRow, Comparison, Scope

_ASPECT_HEAD = ["Lip-sync", "Expressive", "Motion", "Avg"]
_TABLE_1 = (
    ("Feature / pixel models", "FID", ("fid-clip",)),
    ("Feature / pixel models", "LSE-C", ("lse-c",)),
    ("Feature / pixel models", "LSE-D", ("lse-d",)), ("Feature / pixel models", "SSIM", ("ssim",)),
    ("Comparison models", "Direct-Comp", ("direct-comp",)),
    ("Comparison models", "ICL-Comp", ("icl-comp",)),
    ("Comparison models", "MA-Comp", ("ma-comp",)), ("Score models", "SAS-SA", ("sas-sa",)),
    ("Score models", "MAS-SA", ("mas-sa",)), ("Score models", "MAS-MA", ("mas-ma",)),
)  # fmt: skip
_NO_CLIP_VALUE = (
    "the FID of two sets has no value for one video; score fid-clip, the distance of a clip's"
    " frames to its truth's"
)
_MOST_COMPARISONS = 6
_TABLE_2 = (
    ("FVD ↓", "fvd-r3d18"), ("FID ↓", "fid"), ("LSE-D ↓", "lse-d"), ("LSE-C ↑", "lse-c"),
    ("SSIM ↑", "ssim"), ("SAS-SA ↑", "sas-sa"), ("MAS-SA ↑", "mas-sa"), ("MAS-MA ↑", "mas-ma"),
)  # fmt: skip


def build(sources: Sources, judge: Sequence[str], baseline: str | None) -> list[Table]:
    """All five tables, and one of what training runs gained. `judge`: one scorer that gives all
    aspects, or three that give one each in the paper's order; `baseline`: the run of Table 5 that
    the others are compared with.
    """
    gained = []
    if any(_gained(run) for run in sources.runs):
        gained = [gains(sources)]
    return [
        table_1(sources),
        table_2(sources),
        table_3(sources, judge),
        table_4(sources),
        table_5(sources, judge, baseline),
        *gained,
    ]


# ------------------------------------------------------------------------------------------------
# Table 1


def table_1(sources: Sources) -> Table:
    """Accuracy of metrics and judges against the pairs that people agree on."""
    table = Table(1, "Evaluation against human preferences", ["Method", "Acc", "Acc_nt", "Cov (%)"])
    aligned = [study for study in sources.studies if study.alignment]
    several = len(aligned) > 1
    for study in aligned or [None]:
        _add_alignment(table, study, f" ({study.name})" if several and study else "")
    if sources.studies and not aligned:
        table.notes.append("No study holds align.json; make it with: study align.")
    return table


def _add_alignment(table: Table, study: StudySource | None, suffix: str) -> None:
    """The rows of Table 1, each with the study's row for the first of its names that is there."""
    rows = {}
    if study:
        rows = {(row.system, row.scope): row for row in study.alignment.rows}
    known = {name for _, _, names in _TABLE_1 for name in names}
    for _, label, names in _TABLE_1:
        row = next((_default(rows, name) for name in names if _default(rows, name)), None)
        if label == "FID":
            lost = _NO_CLIP_VALUE
        else:
            lost = f"no scores or verdicts of {names[0]} were aligned"
        table.rows.append(
            (label + suffix, _accuracy_cells(row, lost if study else "no aligned study was given"))
        )
    for system in dict.fromkeys(name for name, _ in rows):
        if system not in known:
            table.rows.append((system + suffix, _accuracy_cells(_default(rows, system), "")))
    for (system, scope), row in rows.items():
        if row.needs_truth and not row.default and study.data.facts.truth:
            table.rows.append((f"{system}, {scope}{suffix}", _accuracy_cells(row, "")))
    if study:
        a = study.alignment
        dropped = ", ".join(f"{count} {name}" for name, count in a.dropped.items())
        table.notes.append(
            f"{a.kept} of {a.possible} pairs of {a.samples} samples, on which all"
            f" {a.raters_per_sample} raters agree by {a.preference} (dropped: {dropped}). Ties are"
            f" half right; intervals resample samples {a.draws} times. Metrics that need the truth"
            " skip pairs that contain it."
        )
        compared = [one for one in a.comparisons if one.pairs]
        table.notes += [_comparison_note(one) for one in compared[:_MOST_COMPARISONS]]
        if len(compared) > _MOST_COMPARISONS:
            table.notes.append(
                f"{len(compared) - _MOST_COMPARISONS} more comparisons stand in align.md."
            )


def _comparison_note(one: Comparison) -> str:
    """Two systems on the same pairs."""
    d = [100 * x for x in (one.difference.value, one.difference.low, one.difference.high)]
    return (
        f"{one.a} against {one.b} on the {one.pairs} pairs that both answered: {d[0]:+.1f} points"
        f" ({d[1]:+.1f} to {d[2]:+.1f}), only one right {one.only_a} : {one.only_b}, McNemar p"
        f" {one.mcnemar_p:.3g}."
    )


def _default(rows: dict[tuple[str, Scope], AlignmentRow], system: str) -> AlignmentRow | None:
    return next((row for (name, _), row in rows.items() if name == system and row.default), None)


def _accuracy_cells(row: AlignmentRow | None, reason: str) -> list[Cell]:
    """Accuracy, accuracy without ties, and coverage in percent; or why there is none."""
    if row is None:
        return [Cell(reason=reason)] * 3
    found = row.accuracy
    lost = f"{found.pairs} pairs with a human winner, {found.missing} of them without an answer"
    cells = []
    for figure, count in (
        (found.acc, found.answered),
        (found.acc_nt, found.answered - found.ties),
        (found.cov, found.answered),
    ):
        numbers = (100 * x for x in (figure.value, figure.low, figure.high))
        value, low, high = numbers
        cells.append(Cell(value, count, low, high, digits=1, reason=lost))
    return cells


# ------------------------------------------------------------------------------------------- Tables
# 2 to 4


def table_2(sources: Sources) -> Table:
    """Means of every metric and judge, and of people, by generator."""
    found = [scored for scored in sources.scored if scored.set_name == "in-domain"]
    used = {score.scorer for scored in found for score in scored.scores}
    used |= {metric.set_metric for scored in found for metric in scored.sets}
    shown = {name for _, name in _TABLE_2}
    columns = [*_TABLE_2, *((f"{name} {_arrow(name)}", name) for name in sorted(used - shown))]
    table = Table(
        2, "Scores by generator", ["Generator", *(title for title, _ in columns), "Human ↑"]
    )
    versions = [version for study in sources.studies for version in study.data.versions]
    for generator in dict.fromkeys([*versions, *(scored.generator for scored in found)]):
        own = [scored for scored in found if scored.generator == generator]
        cells = [_metric_cell(own, name, generator == sources.truth) for _, name in columns]
        table.rows.append((generator, [*cells, _human_cells(sources, generator)[-1]]))
    table.notes.append(
        "Means over samples; people: over raters, then samples. Intervals resample samples."
    )
    return table


def _arrow(name: str) -> str:
    """Whether more or less of a measure is better."""
    if name in SCORERS.names():
        if SCORERS.load(name).better == "higher":
            return "↑"
        return "↓"
    return "↓" if name in ("frechet-lite0",) else ""


def _metric_cell(own: list[Scored], name: str, is_truth: bool) -> Cell:
    """A figure about a whole set; the truth has none where it would be compared with itself."""
    for metric in (metric for scored in own for metric in scored.sets if metric.set_metric == name):
        return Cell(metric.value, metric.num_clips, reason=metric.reason)
    if is_truth and (
        name in ("fvd-r3d18", "fid")
        or (name in SCORERS.names() and "truth" in SCORERS.load(name).needs)
    ):
        return Cell(reason="compares with the truth, which this is")
    values = _values(own, lambda score: score.value if score.scorer == name else None)
    if not values and any(score.scorer == name for scored in own for score in scored.scores):
        return Cell(reason=f"every score of {name} is missing; see the reasons in its file")
    return mean_cell(np.array(list(values.values())), f"no scores of {name} were given")


def _values(own: Sequence[Scored], pick: Callable[[Score], float | None]) -> dict[str, float]:
    """Mean over repeats of what `pick` finds, by clip; what is unscored is left out."""
    found: dict[str, list[float]] = {}
    for score in (score for scored in own for score in scored.scores):
        value = pick(score)
        if value is not None and math.isfinite(value):
            found.setdefault(score.clip, []).append(value)
    return {clip: float(np.mean(values)) for clip, values in found.items()}


def table_3(sources: Sources, judge: Sequence[str]) -> Table:
    """The judge's scores by aspect, for each set of samples."""
    sets = list(dict.fromkeys(s.set_name for s in sources.scored if s.set_name != ABLATION)) or [
        "in-domain"
    ]
    head = ["Generator", *(f"{set_name} {name}" for set_name in sets for name in _ASPECT_HEAD)]
    table = Table(3, f"Evaluation of generators by {' + '.join(judge)}", head)
    for generator in dict.fromkeys(s.generator for s in sources.scored if s.set_name != ABLATION):
        cells = []
        for set_name in sets:
            own = [s for s in sources.scored if (s.generator, s.set_name) == (generator, set_name)]
            cells += aspect_cells(own, judge)
        table.rows.append((generator, cells))
    if not table.rows:
        table.rows.append(("—", [Cell(reason="no scores were given")] * (len(head) - 1)))
    return table


def aspect_cells(
    own: Sequence[Scored], judge: Sequence[str], baseline: Sequence[Scored] = ()
) -> list[Cell]:
    """Means of the three aspects and of their mean, with differences to the baseline's where one is
    given.
    """
    reason = f"no scores of {' + '.join(judge)} by aspect were given"
    now = _by_aspect(own, judge)
    before = _by_aspect(baseline, judge)
    return [
        mean_cell(
            np.array(list(a.values())),
            reason,
            baseline=np.array(list(b.values())) if baseline else None,
        )
        for a, b in zip(now, before, strict=True)
    ]


def _by_aspect(own: Sequence[Scored], judge: Sequence[str]) -> list[dict[str, float]]:
    """By clip: lip-sync, expressiveness, motion, and the mean of clips that have all three."""
    picks = []
    for number, aspect in enumerate(ASPECTS):
        scorer = judge[number] if len(judge) == len(ASPECTS) else judge[0]
        whole = len(judge) == len(ASPECTS)
        picks.append(
            _values(
                own,
                lambda score, scorer=scorer, aspect=aspect, whole=whole: (
                    None
                    if score.scorer != scorer
                    else score.value
                    if whole
                    else score.parts.get(aspect)
                ),
            )
        )
    common = set.intersection(*(set(found) for found in picks))
    return [
        *picks,
        {clip: sum(found[clip] for found in picks) / len(picks) for clip in sorted(common)},
    ]


def table_4(sources: Sources) -> Table:
    """People's mean ratings of each version, by aspect."""
    table = Table(4, "Human scores by generator", ["Generator", *_ASPECT_HEAD])
    for version in dict.fromkeys(
        version for study in sources.studies for version in study.data.versions
    ):
        table.rows.append((version, _human_cells(sources, version)))
    if not table.rows:
        table.rows.append(("—", [Cell(reason="no study was given")] * 4))
    for study in sources.studies:
        for rater, left in study.data.facts.unfinished.items():
            table.notes.append(f"{study.name}: {rater} has {left} sets left.")
    return table


def _human_cells(sources: Sources, version: str) -> list[Cell]:
    """Lip-sync, expressiveness, motion and their mean: over the raters of a clip, then over samples
    of all studies.
    """
    parts: list[list[np.ndarray]] = [[] for _ in range(len(ASPECTS) + 1)]
    for study in sources.studies:
        if version in study.data.versions:
            column = study.data.versions.index(version)
            tables = [study.data.table(aspect)[:, column] for aspect in ASPECTS]
            for number, scores in enumerate([*tables, sum(tables) / len(tables)]):
                known = np.isfinite(scores)
                sums = np.where(known, scores, 0).sum(1)
                counts = known.sum(1)
                parts[number].append(sums[counts > 0] / counts[counts > 0])
    reason = f"no ratings of {version} were given"
    return [
        mean_cell(np.concatenate(values) if values else np.zeros(0), reason) for values in parts
    ]


# ------------------------------------------------------------------------------------------------
# Table 5


def table_5(sources: Sources, judge: Sequence[str], baseline: str | None) -> Table:
    """Training runs with their window and noise, by the judge's scores, with differences to the
    baseline.
    """
    table = Table(5, f"Ablations by {' + '.join(judge)}", ["Setting", "W", "Noise", *_ASPECT_HEAD])
    base = next((run for run in sources.runs if run.label == baseline), None)
    compared = [_as_scored(base)] if base else []
    for scored in (s for s in sources.scored if s.set_name == ABLATION):
        no = [Cell(text="N/A")] * 2
        table.rows.append((scored.generator, [*no, *aspect_cells([scored], judge)]))
    for run in sources.runs:
        window, noise = _setting(run)
        cells = aspect_cells([_as_scored(run)], judge, compared if run is not base else [])
        if not run.scores:
            lost = f"{run.label} holds no scores.jsonl; score its videos into it"
            cells = [Cell(reason=lost)] * len(cells)
        table.rows.append((run.label, [window, noise, *cells]))
    return _with_notes(table, base, sources)


def _with_notes(table: Table, base, sources: Sources) -> Table:
    """The table with what its brackets mean."""
    if not table.rows:
        table.rows.append(("—", [Cell(reason="no training run was given")] * 6))
    if base:
        table.notes.append(f"In brackets: difference to {base.label}.")
    elif sources.runs:
        table.notes.append("No baseline was named (--baseline LABEL), so there are no differences.")
    return table


def gains(sources: Sources) -> Table:
    """Gains of the last look of every run since the first: means over held-out clips, in pairs,
    with the interval from resampling them.
    """
    found = {run.label: _gained(run) for run in sources.runs}
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    table = Table(6, "What training runs gained on held-out clips", ["Run", "update", *names])
    for run in sources.runs:
        own = found[run.label]
        looks = [row for row in run.log if row.get("event") == "look"]
        update = Cell(text=f"{looks[-1].get('update')}") if looks else Cell(reason="has no look")
        cells = [_gain_cell(own.get(name)) for name in names]
        table.rows.append((run.label, [update, *cells]))
    table.notes.append(
        "Not a table of the paper. Changes of figures as they are measured; held_out_reward in "
        "standard deviations of the untuned model's clips. In brackets: 95 % intervals."
    )
    return table


def _gained(run: TrainingRun) -> dict[str, list[float | None]]:
    """Mean and ends of the interval by figure, of the last look that says so."""
    looks = [row["gains"] for row in run.log if isinstance(row.get("gains"), dict)]
    if looks:
        return looks[-1]
    return {}


def _gain_cell(numbers: list[float | None] | None) -> Cell:
    """A difference with its interval."""
    if not numbers or any(number is None for number in numbers):
        return Cell(reason="not known at this run's looks")
    value, low, high = numbers
    return Cell(value, low=low, high=high, digits=3)


def _as_scored(run: TrainingRun) -> Scored:
    return Scored(run.label, ABLATION, run.scores)


def _setting(run: TrainingRun) -> tuple[Cell, Cell]:
    """The width of the window and the noise of a run, as its settings have them."""
    rollout = run.config["rollout"]
    window = rollout.get("window", {})
    values = (window.get("width") if isinstance(window, dict) else None, rollout.get("eta"))
    return tuple(
        Cell(reason="not in the run's config.json") if value is None else Cell(text=f"{value:g}")
        for value in values
    )
