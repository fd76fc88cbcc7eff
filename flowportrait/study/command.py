"""Work of `study create`, `export`, `agreement` and `align`; the command line itself stands in
`flowportrait.cli`.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from flowportrait.errors import ConfigError, DataError
from flowportrait.files import JsonObject, json_text, named
from flowportrait.pages import csv_text, markdown_rows, short
from flowportrait.progress import Progress
from flowportrait.records import Record, Score, Verdict, read_jsonl, write_jsonl
from flowportrait.registry import SCORERS
from flowportrait.study import alignment, alignment_tables, build, calibration, findings, results
from flowportrait.study.alignment_record import Alignment, Power
from flowportrait.study.intervals import Figure
from flowportrait.study.systems import Clips, System, from_scores, from_verdicts
from flowportrait.study.tasks import StudyPlan

_SHOWN = 5


def create(
    directory: Path,
    versions: Sequence[str],
    raters: str,
    *,
    per_sample: int | None,
    truth: str | None,
    repeats: int,
    training: int,
    seed: int,
    incomplete: str,
    as_json: bool,
    progress: Progress,
) -> None:
    """`flowportrait study create`."""
    names = _rater_names(raters)
    plan = StudyPlan(len(names), per_sample or min(3, len(names)), repeats, training, seed)
    made = build.create(
        directory,
        _named_folders(versions),
        names,
        plan,
        truth=truth,
        incomplete=incomplete,
        progress=progress,
    )
    for line in made.left_out:
        _warn(f"left out: {line}")
    for line in made.warnings:
        _warn(line)
    study = made.study
    told = made.study.raters()
    for rater in told:
        print(f"{rater.name}: {rater.total} sets, token {rater.token}")
    print(f"{len(study.samples())} samples of {len(study.versions)} versions: {directory}")
    _print_json(
        {
            "output": str(directory),
            "samples": len(study.samples()),
            "versions": study.versions,
            "left_out": made.left_out,
            "warnings": made.warnings,
            "raters": [{"name": r.name, "token": r.token, "sets": r.total} for r in told],
        },
        as_json,
    )


def export(directory: Path, out: Path | None, *, as_json: bool) -> None:
    """`flowportrait study export`."""
    out = out or directory / "export"
    if out.is_file():
        raise DataError(f"{out}: is a file; give a folder")
    found = results.load(directory)
    results.export(found, out)
    pairs = results.pair_records(found)
    write_jsonl(out / "pairs.jsonl", pairs)
    kept = sum(pair.winner is not None for pair in pairs)
    for name, left in found.facts.unfinished.items():
        _warn(f"{name} has {left} sets left")
    print(
        f"{len(found.ratings)} ratings, {len(found.rankings)} rankings, {kept} of {len(pairs)}"
        f" pairs agreed on: {out}"
    )
    _print_json(
        {
            "output": str(out),
            "ratings": len(found.ratings),
            "rankings": len(found.rankings),
            "pairs": len(pairs),
            "kept": kept,
            "unfinished": found.facts.unfinished,
        },
        as_json,
    )


def agreement(directory: Path, out: Path | None, *, draws: int, seed: int, as_json: bool) -> None:
    """`flowportrait study agreement`."""
    found = findings.find(results.load(directory), draws, seed)
    _write_record(found, out or directory / "agreement.json")
    head = (
        "aspect",
        "clips",
        "alpha ordinal",
        "alpha interval",
        "Fleiss",
        "kappa",
        "same",
        "within 1",
    )
    print("\n".join(markdown_rows(head, (_aspect_cells(a) for a in found.aspects))))
    print(f"\nKendall's W of the orders: {_shown(found.kendall_w)} over {found.sets} sets")
    for kept in found.pairs:
        dropped = ", ".join(f"{count} {name}" for name, count in kept.dropped.items())
        print(
            f"pairs agreed on by {kept.preference}: {kept.kept} of {kept.possible} (dropped:"
            f" {dropped})"
        )
    print(
        "\n".join(
            [
                "",
                *markdown_rows(
                    ("version", "strength"),
                    ((s.version, _shown(s.strength)) for s in found.strengths),
                ),
            ]
        )
    )
    head = ("rater", "sets", "left", "means", "ties", "repeats", "same again", "order again")
    print("\n".join(["", *markdown_rows(head, (_rater_cells(r) for r in found.per_rater))]))
    for note in found.notes:
        _warn(note)
    _print_json(found.model_dump(mode="json"), as_json)


def align(
    directory: Path,
    scores: Sequence[Path],
    verdicts: Sequence[Path],
    others: Sequence[Path],
    out: Path | None,
    *,
    preference: results.Preference,
    higher: Sequence[str],
    lower: Sequence[str],
    needs_truth: Sequence[str],
    draws: int,
    seed: int,
    width: float = alignment.WANTED_WIDTH,
    as_json: bool,
) -> None:
    """`flowportrait study align`."""
    study = results.load(directory)
    clips = Clips(study)
    scored, said = (
        _by_label(scores, others, _read_scores),
        _by_label(verdicts, others, _read_verdicts),
    )
    directions = _directions(
        [row for rows in scored.values() for row in rows], higher, lower, needs_truth
    )
    systems = [
        s
        for label, rows in scored.items()
        for s in from_scores(rows, study, clips, directions, label)
    ]
    systems += [s for label, rows in said.items() for s in from_verdicts(rows, study, clips, label)]
    _refuse_strangers(
        systems, sum(map(len, scored.values())), sum(map(len, said.values())), clips, directory
    )
    found = alignment.align(
        study,
        systems,
        preference=preference,
        draws=draws,
        seed=seed,
        wanted_width=width,
        unknown_clips=list(clips.unknown),
    )
    _report_alignment(found, out, directory, clips, as_json)


def _report_alignment(
    found: Alignment, out: Path | None, directory: Path, clips, as_json: bool
) -> None:
    """Writes align.json, align.csv and align.md, and prints what they say."""
    if not found.kept:
        _warn(f"no pair has a human winner ({_dropped(found)}); every accuracy is empty")
    folder = out or directory
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(found, folder / "align.json")
    table = alignment_tables.table_rows(found)
    (folder / "align.csv").write_text(
        csv_text(alignment_tables.TABLE_HEAD, table), encoding="utf-8"
    )
    lines = _align_lines(found, table)
    (folder / "align.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(
        f"\n{found.kept} of {found.possible} pairs agreed on by all raters ({_dropped(found)}):"
        f" {folder / 'align.json'}"
    )
    for position in (row for row in found.rows if row.position and row.default):
        print(
            f"{position.system}: first shown wins {_shown(position.position.first_wins)}, "
            f"same winner after swapping {_shown(position.position.consistent)}"
        )
    if clips.unknown:
        _warn(
            f"{len(clips.unknown)} scored clips are none of this study's, such as"
            f" {next(iter(clips.unknown))}"
        )
    _print_json(found.model_dump(mode="json"), as_json)


def _align_lines(found: Alignment, table: Sequence[tuple[str, ...]]) -> list[str]:
    """Table 1, the systems against each other, the mappings to people's scale, and what is still to
    be rated.
    """
    lines = markdown_rows(alignment_tables.TABLE_HEAD, table)
    if compared := alignment_tables.comparison_rows(found):
        lines += ["", *markdown_rows(alignment_tables.COMPARISON_HEAD, compared)]
    if found.calibration:
        lines += [
            "",
            *markdown_rows(calibration.TABLE_HEAD, calibration.table_rows(found.calibration)),
        ]
    lines += [""] * bool(found.power) + [_power_line(one) for one in found.power]
    return lines


def _power_line(one: Power) -> str:
    head = f"- {one.system}: {one.pairs} pairs"
    if one.pairs_needed is None:
        return f"{head}, no interval, so nothing can be said of how many more are needed"
    head += f" give an interval {100 * one.width:.1f} points wide"
    if not one.pairs_missing:
        return f"{head}, as narrow as the {100 * one.wanted:.1f} wanted"
    return (
        f"{head}; {100 * one.wanted:.1f} need {one.pairs_missing} more, about {one.samples_missing}"
        " samples"
    )


def _by_label(
    given: Sequence[Path], others: Sequence[Path], read: Callable[[Path, bool], list[Any]]
) -> JsonObject:
    """The rows of all files by the name in NAME=FILE; "" for files without one."""
    rows: dict[str, list[Any]] = {}
    for number, argument in enumerate((*given, *others)):
        label, path = named(argument)
        if found := read(path, number < len(given)):
            rows.setdefault(label, []).extend(found)
    return rows


def _dropped(found: Alignment) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.dropped.items())


def _refuse_strangers(
    systems: list[System], num_scores: int, num_verdicts: int, clips: Clips, directory: Path
) -> None:
    if not systems:
        some = ""
        if clips.unknown:
            some = f", such as {next(iter(clips.unknown))}"
        raise DataError(
            f"{directory}: none of {num_scores} scores and {num_verdicts} verdicts is of its"
            f" clips{some}; score the videos the study was made from, or those in its media folder"
        )


def _read_scores(path: Path, must: bool) -> list[Score]:
    if must or _holds(path) == "scorer":
        return list(read_jsonl(path, Score))
    return []


def _read_verdicts(path: Path, must: bool) -> list[Verdict]:
    if must or _holds(path) == "system":
        return list(read_jsonl(path, Verdict))
    return []


def _holds(path: Path) -> Literal["scorer", "system"]:
    """Whether the rows of a file are scores or verdicts, by its first line. Raises DataError for
    neither.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON lines of scores or verdicts: {error}"
        ) from error
    for name in ("scorer", "system"):
        if isinstance(first, dict) and name in first:
            return name
    raise DataError(
        f"{path}: contains neither scores nor verdicts; give output of `score` or `compare`"
    )


def _directions(
    rows: Sequence[Score], higher: Sequence[str], lower: Sequence[str], needs_truth: Sequence[str]
) -> dict[str, tuple[Literal["higher", "lower"], bool]]:
    """Which end is better, and whether the truth is needed, of every scorer that can be known."""
    if both := set(higher) & set(lower):
        raise ConfigError(f"'{min(both)}': given as --higher and --lower; give one of them")
    directions = {}
    for name in dict.fromkeys(row.scorer for row in rows):
        if name in (*higher, *lower):
            directions[name] = ("higher" if name in higher else "lower", name in needs_truth)
        elif name in SCORERS.names():
            kind = SCORERS.load(name)
            directions[name] = (kind.better, "truth" in kind.needs or name in needs_truth)
    return directions


def _rater_names(raters: str) -> list[str]:
    """ "3" is rater-1 to rater-3; otherwise names with commas between."""
    if raters.strip().isdigit():
        if not 1 <= (count := int(raters)) <= 1000:
            raise ConfigError(
                f"raters: {raters}; give a number from 1 to 1000, or names separated by commas"
            )
        return [f"rater-{number}" for number in range(1, count + 1)]
    return [name.strip() for name in raters.split(",")]


def _named_folders(versions: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for text in versions:
        name, sign, folder = text.partition("=")
        if not sign or not name or not folder:
            raise ConfigError(f"versions: {text!r}; write NAME=DIR")
        if name in folders:
            raise ConfigError(f"versions: '{name}' twice; names must differ")
        folders[name] = Path(folder)
    return folders


def _aspect_cells(a: findings.AspectAgreement) -> tuple[str, ...]:
    known = [value for value in a.kappa_quadratic.values() if math.isfinite(value)]
    kappa = "—"
    if known:
        kappa = f"{short(min(known))} to {short(max(known))}"
    return (
        a.aspect,
        f"{a.clips} ({a.complete} complete)",
        _shown(a.alpha_ordinal),
        _shown(a.alpha_interval),
        _number(a.fleiss_kappa),
        kappa,
        _shown(a.same),
        _shown(a.within_one),
    )


def _rater_cells(r: findings.RaterFacts) -> tuple[str, ...]:
    means = " / ".join(_number(value) for value in r.means.values())
    numbers = (r.ties, r.repeat_same, r.repeat_order)
    ties, same, order = map(_number, numbers)
    return (r.rater, str(r.answered), str(r.left), means, ties, str(r.repeats), same, order)


def _number(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.3f}"
    return "—"


def _shown(figure: Figure) -> str:
    interval = ""
    if math.isfinite(figure.low):
        interval = f" ({figure.low:.3f} to {figure.high:.3f})"
    return _number(figure.value) + interval


def _write_record(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _print_json(value: JsonObject, as_json: bool) -> None:
    if as_json:
        print(json_text(value))


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
