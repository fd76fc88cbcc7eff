"""Printed output of `score`, `evaluate` and `compare`."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowportrait import storage
from flowportrait.errors import (
    FlowPortraitError,
    JudgeError,
)
from flowportrait.files import JsonObject, json_text
from flowportrait.pages import markdown_rows
from flowportrait.progress import Progress
from flowportrait.records import Score, SetScore, Verdict
from flowportrait.scoring import Sample, Scorer
from flowportrait.scoring.generators import (
    DIFFERENCE_HEAD,
    DRAWS,
    Difference,
    Standing,
    difference_rows,
    differences,
    generators_of,
    standing_rows,
    standings,
)
from flowportrait.scoring.judges.saturation import spreads
from flowportrait.scoring.judges.systems import ScoreSystem
from flowportrait.scoring.run import (
    Summary,
)
from flowportrait.study import intervals

SHOWN_REASONS = 5

if TYPE_CHECKING:
    from flowportrait.scoring.evaluate import Evaluation


def tell_scores(
    samples: Sequence[Sample],
    scorers: Sequence[Scorer],
    summary: Summary,
    missing: dict[str, str],
    out: str,
    as_json: bool,
) -> None:
    """Prints the results of a run of `score`."""
    for scorer in scorers if len(generators_of(samples)) == 1 else ():
        print(_outcome(scorer, [score for score in summary.scores if score.scorer == scorer.name]))
    by_generator = standings(samples, summary.scores, scorers)
    apart = differences(samples, summary.scores, scorers)
    _tell_generators(by_generator, apart)
    for score in summary.unscored[:SHOWN_REASONS]:
        warn(f"unscored: {score.clip} by {score.scorer}: {score.reason}")
    if len(summary.unscored) > SHOWN_REASONS:
        warn(f"{len(summary.unscored) - SHOWN_REASONS} more unscored; the reasons are in {out}")
    _warn_of_clips(summary.scores)
    # What stands beside a metric's number (frames, offsets) are counts, not verdicts.
    judges = {scorer.name for scorer in scorers if isinstance(scorer, ScoreSystem)}
    judged = (score for score in summary.scores if score.scorer in judges)
    saturated = [spread for spread in spreads(judged) if spread.saturated]
    for spread in saturated:
        warn(spread.line())
    spent = spent_on_calls(scorers)
    print(
        f"{len(summary.scores)} scores, {summary.kept} of them from before{spent.pop('line')}:"
        f" {out}"
    )
    print_json(
        {
            "output": out,
            "scores": len(summary.scores),
            "kept": summary.kept,
            "unscored": len(summary.unscored),
            "saturated": [vars(spread) for spread in saturated],
            **_generators_json(by_generator, apart),
            "skipped": missing,
            **spent,
        },
        as_json,
    )


def _tell_generators(found: Sequence[Standing], apart: Sequence[Difference]) -> None:
    """A column for each generator, where there are several, and every two of them on what both
    have.
    """
    if len({one.generator for one in found}) < 2:
        return
    print("\n".join([*markdown_rows(*standing_rows(found)), ""]))
    if apart:
        print("\n".join([*markdown_rows(DIFFERENCE_HEAD, difference_rows(apart)), ""]))


def _generators_json(found: Sequence[Standing], apart: Sequence[Difference]) -> JsonObject:
    """Standings and differences as JSON."""
    return {
        "generators": [{**vars(one), "mean": one.mean.model_dump(mode="json")} for one in found],
        "differences": [
            {**vars(one), "difference": one.difference.model_dump(mode="json")} for one in apart
        ],
    }


def tell_evaluation(result: "Evaluation", spent: JsonObject, out: Path, as_json: bool) -> None:
    """Prints the results of an evaluation. Raises FlowPortraitError when there are none."""
    for scorer in result.scorers if len(result.generators) == 1 else ():
        print(_outcome(scorer, result.of(scorer.name)))
    _tell_generators(result.standings, result.differences)
    for line in _set_lines(result.sets):
        print(line)
    for warning in (warning for found in result.sets for warning in found.warnings):
        warn(warning)
    _warn_of_clips(result.scores)
    for lack in result.without_score[:SHOWN_REASONS]:
        warn(f"unscored: {lack.clip} by {', '.join(lack.scorers)}: {lack.reason}")
    unscored = f"{len(result.unscored)} scores missing"
    print(
        f"{len(result.samples)} clips, {unscored}{spent.pop('line')}:"
        f" {storage.name_of(out / 'report.html')}"
    )
    print_json(
        {
            "output": str(out),
            "clips": len(result.samples),
            "unscored": len(result.unscored),
            "means": {scorer.name: result.mean(scorer.name) for scorer in result.scorers},
            "sets": {
                _set_name(found): None if found.reason else found.value for found in result.sets
            },
            **_generators_json(result.standings, result.differences),
            "skipped": result.skipped,
            **spent,
        },
        as_json,
    )
    lost = len(result.unscored) + sum(bool(found.reason) for found in result.sets)
    refuse_nothing(len(result.scores) + len(result.sets), lost, out / "scores.jsonl")


def _set_lines(sets: Iterable[SetScore]) -> Iterator[str]:
    """Lines that say the figures about whole sets."""
    for found in sets:
        lost = ""
        if found.left_out:
            lost = f", {len(found.left_out)} left out"
        value = found.reason or f"{found.value:.4f}"
        yield (
            f"{_set_name(found)}: {value} ({found.num_clips} clips, {found.num_truth} of the"
            f" truth{lost})"
        )


def _set_name(found: SetScore) -> str:
    if found.generator:
        return f"{found.set_metric} of {found.generator}"
    return found.set_metric


def counted(verdicts: Iterable[Verdict], total: int, progress: Progress) -> list[Verdict]:
    """All verdicts, each counted as it comes."""
    found = []
    for verdict in verdicts:
        found.append(verdict)
        progress(min(len(found), total), total)
    return found


def tell_one(verdicts: Sequence[Verdict], a: Path, b: Path, as_json: bool) -> None:
    """The verdicts on one pair. Raises JudgeError when there is none."""
    for verdict in verdicts:
        print(_sentence(verdict, a, b))
        if as_json:
            print(verdict.model_dump_json())
    _warn_of_clips(verdicts)
    if unsaid := [verdict.reason for verdict in verdicts if verdict.reason]:
        raise JudgeError(f"no verdict: {unsaid[0]}")


def tell_many(
    verdicts: Sequence[Verdict],
    kept: int,
    alone: Sequence[str],
    a: Path,
    b: Path,
    out: Path | None,
    as_json: bool,
) -> None:
    """Number of wins by side; pairs without a verdict are counted separately."""
    counts = {
        side: sum(verdict.winner == side for verdict in verdicts)
        for side in ("a", "b", "tie", None)
    }
    for verdict in [verdict for verdict in verdicts if verdict.reason][:SHOWN_REASONS]:
        warn(f"no verdict: {verdict.a} and {verdict.b}: {verdict.reason}")
    _warn_of_clips(verdicts)
    unsaid = ""
    if counts[None]:
        unsaid = f", {counts[None]} without a verdict"
    print(
        f"{verdicts[0].system}: {a} is better in {counts['a']}, {b} in {counts['b']},"
        f" {counts['tie']} ties{unsaid}"
    )
    share, p = _preference(verdicts)
    if math.isfinite(share.value):
        ends = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        print(
            f"{a} is preferred in {ends}, ties counted half; p {p:.3g} by the sign test, ties"
            " left out"
        )
    where = f", {kept} of them from before: {out}" if out else "; -o FILE.jsonl would keep them"
    print(f"{len(verdicts)} verdicts{where}")
    unsaid_count = counts.pop(None)
    print_json(
        {
            "output": str(out) if out else None,
            "verdicts": len(verdicts),
            "kept": kept,
            "wins": counts,
            "unsaid": unsaid_count,
            "preferred_a": share.model_dump(mode="json"),
            "p": p,
            "not_compared": list(alone),
        },
        as_json,
    )
    refuse_nothing(len(verdicts), unsaid_count, out or "the answers")


def _preference(verdicts: Sequence[Verdict]) -> tuple[intervals.Figure, float]:
    """(share won by a, ties half, with its interval; p of the exact sign test): repeats of a pair
    are one case.
    """
    credit: dict[tuple[str, str], list[float]] = {}
    for verdict in verdicts:
        if verdict.winner is not None:
            credit.setdefault((verdict.a, verdict.b), []).append(
                {"a": 1.0, "b": 0.0, "tie": 0.5}[verdict.winner]
            )
    won = np.array([sum(found) / len(found) for found in credit.values()])
    if not len(won):
        return intervals.Figure(), 1.0
    ones = np.ones(len(won))
    drawn = intervals.resampled_ratios(
        won[:, None], ones[:, None], intervals.resampled(len(won), DRAWS)
    )[:, 0]
    low, high = intervals.share_interval(won, ones, drawn)
    p = intervals.mcnemar(int((won > 0.5).sum()), int((won < 0.5).sum()))
    return intervals.Figure(value=float(won.mean()), low=low, high=high), p


def _outcome(scorer: Scorer, scores: Sequence[Score]) -> str:
    """One line for one scorer: its mean over those clips that have a score, and how many have
    none.
    """
    values = [score.value for score in scores if not math.isnan(score.value)]
    unscored = ""
    if len(values) < len(scores):
        unscored = f", {len(scores) - len(values)} unscored"
    if not values:
        return f"{scorer.name}: no score{unscored}"
    parts = "".join(f", {name} {mean:.4g}" for name, mean in _part_means(scores))
    unit = ""
    if scorer.unit not in ("", "1"):
        unit = f" {scorer.unit}"
    mean = f"{sum(values) / len(values):.3f}{unit}"
    return (
        f"{scorer.name}: {mean} ({scorer.better} is better{parts}), {len(values)} scored{unscored}"
    )


def _part_means(scores: Sequence[Score]) -> Iterator[tuple[str, float]]:
    """The mean of every part over the clips that are scored as a whole."""
    scored = [score for score in scores if not score.reason]
    for name in dict.fromkeys(name for score in scored for name in score.parts):
        values = [
            value for score in scored if math.isfinite(value := score.parts.get(name, math.nan))
        ]
        if values:
            yield name, sum(values) / len(values)


def spent_on_calls(scorers: Iterable[Scorer]) -> JsonObject:
    """Calls, tokens and money of this run, each judge counted once."""
    purses = {id(s.judge): s.judge.purse for s in scorers if isinstance(s, ScoreSystem)}.values()
    if not purses:
        return {"line": ""}
    calls = sum(purse.calls for purse in purses)
    tokens = sum(purse.tokens for purse in purses)
    known = [purse.usd for purse in purses if purse.usd is not None]
    money = ""
    if known:
        money = f", {sum(known):.2f} USD"
    return {
        "line": f"; {calls} calls, {tokens} tokens{money}",
        "calls": calls,
        "tokens": tokens,
        "usd": sum(known) if known else None,
    }


def _sentence(verdict: Verdict, a: Path, b: Path) -> str:
    """The verdict for people."""
    if verdict.winner is None:
        return f"{verdict.system}: no verdict"
    names = {"a": str(a), "b": str(b)}
    parts = ", ".join(f"{aspect}: {names[name]}" for aspect, name in verdict.parts.items())
    winner = "a tie, the verdict follows the order"
    if verdict.winner != "tie":
        winner = f"{names[verdict.winner]} is better"
    return f"{verdict.system}: {winner}{f' ({parts})' if parts else ''}"


def warn(line: str) -> None:
    """Prints a warning on standard error."""
    print(f"warning: {line}", file=sys.stderr)


def _warn_of_clips(scores: Iterable[Score | Verdict]) -> None:
    """Warns about the clips, each warning once."""
    lines = list(dict.fromkeys(line for score in scores for line in score.warnings))
    for line in lines[:SHOWN_REASONS]:
        warn(line)
    if len(lines) > SHOWN_REASONS:
        warn(f"{len(lines) - SHOWN_REASONS} more warnings are stored with the scores")


def print_json(value: JsonObject, wanted: bool) -> None:
    """Prints a value as the machine-readable last line, where it is wanted."""
    if wanted:
        print(json_text(value))


def refuse_nothing(asked: int, lost: int, out: Path | str) -> None:
    """Raises FlowPortraitError when not one result came of a run."""
    if asked and lost == asked:
        raise FlowPortraitError(
            f"nothing was scored: all {asked} results are missing; the reasons are in {out};"
            " --retry-unscored tries again"
        )
