"""`flowportrait evaluate`: a folder of generated videos against the real ones, into one folder of results.

Scores and features are kept as they are made, so a run that was stopped goes on. A video that cannot be used is listed
with its reason and counted; no mean is taken over fewer clips without saying so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flowportrait.config import validate
from flowportrait.errors import DataError
from flowportrait.records import Score, SetScore, write_jsonl
from flowportrait.registry import SET_METRICS, name_hint
from flowportrait.scoring import Sample, Scorer, digest_of
from flowportrait.scoring.metric import Metric, Reading, SetMetric, Unscorable, View
from flowportrait.scoring.reward import RewardConfig, composite
from flowportrait.scoring.run import ScoringConfig, build_scorers, find_samples, score_to_file

STANDARD = ("ssim", "psnr", "perceptual-lite0", "sharpness", "colour-drift")
"""Scorers that need no download."""
PAPER = ("ssim", "psnr", "lpips", "raft-jitter", "lse-c", "lse-d")
STANDARD_SETS = ("frechet-lite0",)
_ALIASES = {"fvd": "fvd-r3d18"}


@dataclass
class Evaluation:
    """All that came of one evaluation."""

    generated: Path
    truth: Path
    scorers: list[Scorer]
    samples: list[Sample]
    scores: list[Score]
    sets: list[SetScore] = field(default_factory=list)
    rewards: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each clip by term, and `reward`, their sum (Eq. 17) over all clips; empty without a [reward] table."""

    def of(self, scorer: str) -> list[Score]:
        """The scores of one scorer."""
        return [score for score in self.scores if score.scorer == scorer]

    @property
    def unscored(self) -> list[Score]:
        """Those without a value."""
        return [score for score in self.scores if score.reason]


class _Features(Metric):
    """Keeps what a set metric needs of each clip on disk; its score is how many vectors there are."""

    unit, low, high, better = "vectors", 0.0, math.inf, "higher"

    def __init__(self, of: SetMetric, folder: Path):
        super().__init__()
        self.of, self.folder = of, folder
        self.name = f"{of.name}:features"
        self.needs = of.needs - {"truth"}

    @property
    def fingerprint(self) -> str:
        return self.of.fingerprint

    @property
    def weights_sha256(self) -> str:
        return self.of.weights_sha256

    def read(self, view: View) -> Reading:
        found = self.of.features(view)
        path = self.path_of(view.sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
        return Reading(float(len(found)), {"dimensions": found.shape[1]})

    def path_of(self, sample: Sample) -> Path:
        """Features of the same video by the same settings are the same, whatever its name."""
        return self.folder / self.name.split(":")[0] / f"{digest_of(sample.sha256, self.fingerprint)[:32]}.npy"


def build_sets(names: Sequence[str], config: ScoringConfig) -> list[SetMetric]:
    """The set metrics of these names. Raises ConfigError, CheckpointError."""
    built = []
    for name in dict.fromkeys(_ALIASES.get(name, name) for name in names):
        kind = SET_METRICS.load(name)
        metric = kind(validate(kind.Config, config.sets.get(name, {}), where=f"sets.{name}"))
        metric.fingerprint  # noqa: B018  (weights that are not there stop the run before the first clip)
        built.append(metric)
    return built


def evaluate(
    generated: Path,
    truth: Path,
    scorer_names: Sequence[str],
    set_names: Sequence[str],
    config: ScoringConfig,
    out: Path,
    workers: int,
    progress: Callable[[str], Callable[[int, int], None]],
) -> Evaluation:
    """Scores all videos of `generated` into `out`, where the same call goes on; see `report.write` for the rest.

    Raises DataError: a folder is not there or empty, or `out` holds results of other settings.
    """
    for folder in (generated, truth):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give a folder of videos")
    scorers = build_scorers(scorer_names, config, out / "answers.jsonl")
    sets = build_sets(set_names, config)
    keepers = [_Features(metric, out / "features") for metric in sets]
    samples, real = find_samples([generated], truth), find_samples([truth]) if sets else []
    _refuse_lost(out, keepers)
    made = score_to_file(samples, [*scorers, *keepers], out / "scores.jsonl", False, progress("scoring"), workers)
    known = (
        score_to_file(real, keepers, out / "truth.jsonl", False, progress("reading truth"), workers) if sets else None
    )
    result = Evaluation(generated, truth, scorers, samples, made.scores)
    for keeper in keepers:
        result.sets.append(_set_score(keeper, samples, made.scores, real, known.scores))
    write_jsonl(out / "sets.jsonl", result.sets)
    if config.reward:
        result.rewards = rewards_of(result, config.reward)
    return result


def _refuse_lost(out: Path, keepers: Sequence[_Features]) -> None:
    """Raises DataError when features were deleted whose making is on record."""
    for name in ("scores.jsonl", "truth.jsonl"):
        if keepers and (out / name).exists() and not (out / "features").is_dir():
            raise DataError(f"{out}: its features folder is gone; remove {out / name} as well, or give another -o")


def _set_score(
    keeper: _Features, made: list[Sample], made_scores: list[Score], real: list[Sample], real_scores: list[Score]
) -> SetScore:
    """The distance over those clips that have features; the others are named."""
    usable = {side: {s.clip for s in scores if s.scorer == keeper.name and not s.reason}
              for side, scores in (("made", made_scores), ("real", real_scores))}  # fmt: skip
    left_out = [f"{s.clip}: {s.reason}" for s in (*made_scores, *real_scores) if s.scorer == keeper.name and s.reason]
    a = [np.load(keeper.path_of(sample)) for sample in made if sample.id in usable["made"]]
    b = [np.load(keeper.path_of(sample)) for sample in real if sample.id in usable["real"]]
    metric = keeper.of
    shared: dict[str, Any] = {
        "set_metric": metric.name, "unit": metric.unit, "num_clips": len(a), "num_truth": len(b), "left_out": left_out,
        "fingerprint": metric.fingerprint, "settings": metric.config.model_dump(mode="json"),
        "weights_sha256": metric.weights_sha256,
    }  # fmt: skip
    try:
        reading = metric.compare(a, b)
    except Unscorable as error:
        return SetScore(reason=str(error), **shared)
    return SetScore(value=reading.value, parts=dict(reading.parts), warnings=list(reading.warnings), **shared)


def rewards_of(result: Evaluation, config: RewardConfig) -> dict[str, dict[str, float]]:
    """Eq. 17 over all evaluated clips as one batch; a scorer whose lower numbers are better enters with minus.

    A clip that lacks a scorer of any term has none. Raises DataError for terms of scorers that were not asked for.
    """
    by_name = {scorer.name: scorer for scorer in result.scorers}
    for name in config.scorers:
        if name not in by_name:
            raise DataError(f"reward.terms: '{name}' is not among the scorers of this run; {name_hint(name, by_name)}")
    clips = [sample.id for sample in result.samples]
    columns = {}
    for name in config.scorers:
        sign = 1.0 if by_name[name].better == "higher" else -1.0
        values = {score.clip: sign * score.value for score in result.of(name)}
        columns[name] = np.array([values.get(clip, math.nan) for clip in clips])
    lenient = config.model_copy(update={"max_unscored_share": 1.0})
    if not np.isfinite(np.stack(list(columns.values()))).all(0).any():
        return {}
    rewards = composite(columns, np.zeros(len(clips), int), lenient)
    table = {**rewards.parts, "reward": rewards.final}
    return {clip: {name: float(values[i]) for name, values in table.items()} for i, clip in enumerate(clips)}


def provenance(result: Evaluation) -> dict[str, Any]:
    """What decides the numbers of an evaluation."""
    return {
        "flowportrait": version("flowportrait"), "generated": str(result.generated), "truth": str(result.truth),
        "scorers": [
            s.provenance() if isinstance(s, Metric) else {"name": s.name, "fingerprint": s.fingerprint}
            for s in result.scorers
        ],
    }  # fmt: skip
