"""Work of `score`, `compare` and `judge-sim`; the command line itself stands in
`flowportrait.cli`.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flowportrait import storage
from flowportrait.clips import find_pairs, find_samples
from flowportrait.cluster import Division
from flowportrait.config import load_recipe
from flowportrait.errors import (
    CheckpointError,
    ConfigError,
    DataError,
)
from flowportrait.progress import Progress
from flowportrait.scoring.judges.cost import CallsToMake, plan_scores, plan_verdicts
from flowportrait.scoring.judges.systems import CompareSystem, ScoreSystem
from flowportrait.scoring.run import (
    ScoringConfig,
    build_comparer,
    build_scorers,
    compare_to_file,
    of_single_clips,
    score_to_file,
)
from flowportrait.scoring.telling import (
    SHOWN_REASONS,
    counted,
    print_json,
    refuse_nothing,
    spent_on_calls,
    tell_evaluation,
    tell_many,
    tell_one,
    tell_scores,
    warn,
)


def score(
    sources: Sequence[Path],
    names: str,
    out: Path,
    *,
    truth: Path | None,
    config: Path | None,
    overrides: Sequence[str],
    answers: Path | None,
    retry_unscored: bool,
    division: Division,
    dry_run: bool,
    skip_missing: bool = False,
    as_json: bool,
    progress: Progress,
) -> None:
    """`flowportrait score`."""
    _refuse_folder(out)
    samples = find_samples(sources, truth)
    if not _split(names):
        raise ConfigError("--scorers: empty; give at least one name (see: list scorers)")
    if retry_unscored:
        overrides = [*overrides, "judge.renew_unusable=true"]
    missing: dict[str, str] = {}
    store = answers or out.parent / "answers.jsonl"
    scorers = build_scorers(_split(names), _settings(config, overrides), store, missing)
    _settle(missing, skip_missing, bool(scorers))
    if division.part:
        samples = division.share(samples)
        scorers = of_single_clips(scorers)
    plans = [plan_scores(scorer, samples) for scorer in scorers if isinstance(scorer, ScoreSystem)]
    _announce(plans)
    if dry_run:
        print_json({"plans": [vars(plan) for plan in plans]}, as_json)
        return
    summary = score_to_file(samples, scorers, out, retry_unscored, progress, division)
    where = storage.name_of(out)
    where = f"{division.part}: {where}" if division.part else where
    tell_scores(samples, scorers, summary, missing, where, as_json)
    refuse_nothing(len(summary.scores), len(summary.unscored), out)


def _settle(missing: dict[str, str], skip: bool, others: bool) -> None:
    """Says all that lacks its weights; raises CheckpointError where it may not be skipped, or
    nothing else is left.
    """
    refused = bool(missing) and not (skip and others)
    if refused and len(missing) == 1:
        raise CheckpointError(*missing.values())
    for name, why in missing.items():
        print(f"{'missing' if refused else 'warning: skipped'}: {name}: {why}", file=sys.stderr)
    if refused:
        raise CheckpointError(
            f"{', '.join(missing)}: weights are missing, as listed above; download them, or leave"
            " these scorers out with --skip-missing"
        )


def evaluate(
    generated: Sequence[Path],
    truth: Path,
    out: Path,
    *,
    names: str,
    sets: str,
    config: Path | None,
    overrides: Sequence[str],
    division: Division,
    answers: Path | None,
    retry_unscored: bool,
    dry_run: bool,
    skip_missing: bool = False,
    as_json: bool,
    progress: Callable[[str], Progress],
) -> None:
    """`flowportrait evaluate`."""
    from flowportrait.scoring import evaluate as evaluation
    from flowportrait.scoring import report

    if out.is_file():
        raise DataError(f"{out}: is a file; give a folder")
    if retry_unscored:
        overrides = [*overrides, "judge.renew_unusable=true"]
    samples = find_samples(generated, truth)
    settings = _settings(config, overrides)
    missing: dict[str, str] = {}
    scorers = build_scorers(_split(names), settings, answers or out / "answers.jsonl", missing)
    set_metrics = evaluation.build_sets(_split(sets), settings, missing)
    _settle(missing, skip_missing, bool(scorers or set_metrics))
    if not scorers and not set_metrics:
        raise ConfigError(
            "--scorers, --sets: both are empty; give at least one name (see: list scorers, list"
            " sets)"
        )
    if division.part:
        samples = division.share(samples)
        scorers = of_single_clips(scorers)
    plans = [plan_scores(scorer, samples) for scorer in scorers if isinstance(scorer, ScoreSystem)]
    _announce(plans)
    if dry_run:
        print_json({"plans": [vars(plan) for plan in plans]}, as_json)
        return
    result = evaluation.evaluate(
        samples, truth, scorers, set_metrics, out, division, retry_unscored, progress
    )
    if result is None:
        print(f"{division.part} is done: {out}; without --part the report is written of all")
        return
    result.skipped = missing
    report.write(result, out)
    tell_evaluation(result, spent_on_calls(scorers), out, as_json)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def compare(
    a: Path,
    b: Path,
    system: str,
    *,
    out: Path | None,
    config: Path | None,
    overrides: Sequence[str],
    answers: Path | None,
    retry_unsaid: bool,
    dry_run: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """`flowportrait compare`."""
    if out is not None:
        _refuse_folder(out)
    pairs, alone = find_pairs(a, b)
    if retry_unsaid:
        overrides = [*overrides, "judge.renew_unusable=true"]
    store = answers or (out.parent if out else _cache_dir()) / "answers.jsonl"
    comparer = build_comparer(system, _settings(config, overrides), store)
    plans = []
    if isinstance(comparer, CompareSystem):
        plans = [plan_verdicts(comparer, pairs)]
    _announce(plans)
    for name in alone[:SHOWN_REASONS]:
        warn(f"{name}: in only one of {a} and {b}; not compared")
    if len(alone) > SHOWN_REASONS:
        warn(f"{len(alone) - SHOWN_REASONS} more videos are in only one of them")
    if dry_run:
        print_json({"plans": [vars(plan) for plan in plans]}, as_json)
        return
    if out is None:
        verdicts = counted(comparer.compare(pairs), len(pairs), progress)
        kept = 0
    else:
        verdicts, kept = compare_to_file(pairs, comparer, out, retry_unsaid, progress)
    if a.is_file() and a.suffix != ".jsonl":
        tell_one(verdicts, a, b, as_json)
    else:
        tell_many(verdicts, kept, alone, a, b, out, as_json)


def judge_sim(host: str, port: int, faults: Path | None) -> None:
    """`flowportrait judge-sim`: serves until interrupted; the address is the first line of
    stdout.
    """
    from flowportrait.scoring.judges.sim import Faults, serve

    behaviour = load_recipe(faults, Faults) if faults else Faults()
    try:
        asyncio.run(
            serve(
                behaviour,
                host,
                port,
                lambda url: print(url, flush=True),
            )
        )
    except OSError as error:
        raise DataError(
            f"{host}:{port}: cannot listen on this address ({error.strerror}); give another --port"
        ) from error


def _settings(config: Path | None, overrides: Sequence[str]) -> ScoringConfig:
    return load_recipe(config, ScoringConfig, overrides)


def _announce(plans: Iterable[CallsToMake]) -> None:
    for plan in plans:
        print(plan.line(), file=sys.stderr)


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowportrait"


def _refuse_folder(out: Path) -> None:
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give a file such as {out}/scores.jsonl")
