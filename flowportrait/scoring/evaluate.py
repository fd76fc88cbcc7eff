"""`flowportrait evaluate`: generated videos against the real ones, into one folder of results.

Scores and features are kept as they are made, so a run that was stopped goes on. A video that
cannot be used is listed with its reason and counted; no mean is taken over fewer clips without
saying so.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowportrait.arrays import Array
from flowportrait.clips import find_samples
from flowportrait.cluster import Division
from flowportrait.config import validate
from flowportrait.errors import ConfigError, DataError
from flowportrait.files import JsonObject, replace
from flowportrait.progress import Progress
from flowportrait.records import Score, SetScore, write_jsonl
from flowportrait.registry import SET_METRICS, name_hint
from flowportrait.scoring import Sample, Scorer, digest_of
from flowportrait.scoring.generators import (
    Difference,
    Standing,
    differences,
    generators_of,
    standings,
)
from flowportrait.scoring.metrics.metric import Metric, Reading, SetMetric
from flowportrait.scoring.metrics.view import Unscorable, View
from flowportrait.scoring.reward import CompositeReward
from flowportrait.scoring.run import ScoringConfig, noted, score_to_file

_ALIASES = {"fvd": "fvd-r3d18"}
_FEATURES = ":features"


class Lack(NamedTuple):
    """A clip that has no score for one reason, by some scorers or set metrics."""

    clip: str
    reason: str
    scorers: tuple[str, ...]


@dataclass
class Evaluation:
    """The results of one evaluation."""

    truth: str
    scorers: list[Scorer]
    samples: list[Sample]
    scores: list[Score]
    set_metrics: list[SetMetric] = field(default_factory=list)
    sets: list[SetScore] = field(default_factory=list)
    without_features: list[Score] = field(default_factory=list)
    """Of clips, also of the truth's, that a set metric left out."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Scorers and set metrics that were asked for and lack their weights, with the reason."""

    def of(self, scorer: str) -> list[Score]:
        """The scores of one scorer."""
        return [score for score in self.scores if score.scorer == scorer]

    def mean(self, scorer: str) -> float | None:
        """Over the clips that have a score; None when there is none."""
        values = [score.value for score in self.of(scorer) if not score.reason]
        if values:
            return sum(values) / len(values)
        return None

    @property
    def generated(self) -> str:
        """The folders of the videos, for a headline."""
        folders = list(dict.fromkeys(str(sample.clip.path.parent) for sample in self.samples))
        if len(folders) == 1:
            return folders[0]
        return f"{len(self.samples)} videos of {len(folders)} folders"

    @property
    def generators(self) -> list[str]:
        """The generators of the clips, in the order given."""
        return generators_of(self.samples)

    @cached_property
    def standings(self) -> list[Standing]:
        """Every generator by every scorer."""
        return standings(self.samples, self.scores, self.scorers)

    @cached_property
    def differences(self) -> list[Difference]:
        """Every two generators by every scorer."""
        return differences(self.samples, self.scores, self.scorers)

    @property
    def unscored(self) -> list[Score]:
        """Those without a value."""
        return [score for score in self.scores if score.reason]

    @property
    def clip_warnings(self) -> list[str]:
        """Warnings about the clips, each once."""
        return list(dict.fromkeys(line for score in self.scores for line in score.warnings))

    @property
    def without_score(self) -> list[Lack]:
        """Missing scores, one entry for each clip and reason; the reward's own reasons repeat those
        of its terms.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for score in self.unscored:
            if score.scorer != CompositeReward.name:
                found.setdefault((score.clip, score.reason), []).append(score.scorer)
        for score in self.without_features:
            found.setdefault((score.clip, score.reason), []).append(_set_of(score))
        return [Lack(clip, reason, tuple(scorers)) for (clip, reason), scorers in found.items()]


class _Features(Metric):
    """Keeps what a set metric needs of each clip on disk; its score is how many vectors there
    are.
    """

    unit = "vectors"
    low = 0.0
    high = math.inf
    better = "higher"

    def __init__(self, of: SetMetric, folder: Path):
        super().__init__()
        self.of = of
        self.folder = folder
        self.name = of.name + _FEATURES
        self.needs = of.needs - {"truth"}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.of, self.folder)

    @property
    def fingerprint(self) -> str:
        return self.of.fingerprint

    @property
    def weights_sha256(self) -> str:
        return self.of.weights_sha256

    def read(self, view: View) -> Reading:
        """Stores what the comparison of sets needs of this clip."""
        found = self.of.features(view)
        path = self.path_of(view.sample)
        content = io.BytesIO()
        np.save(content, found)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, content.getvalue())
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error
        return Reading(float(len(found)), {"dimensions": found.shape[1]})

    def still_has(self, sample: Sample) -> bool:
        """Whether the features exist; otherwise they are computed again."""
        try:
            return np.load(self.path_of(sample), mmap_mode="r").ndim == 2
        except (OSError, ValueError, EOFError):
            return False

    def about_scores(self) -> JsonObject:
        return self.of.about_scores()

    def load(self, samples: Iterable[Sample], scores: Iterable[Score]) -> list[Array]:
        """The features of the samples that have some."""
        usable = {score.clip for score in scores if not score.reason}
        return [np.load(self.path_of(sample)) for sample in samples if sample.id in usable]

    def path_of(self, sample: Sample) -> Path:
        """Features of the same video by the same settings are the same, whatever its name."""
        return self.folder / self.of.name / f"{digest_of(sample.sha256, self.fingerprint)[:32]}.npy"


def build_sets(
    names: Sequence[str], config: ScoringConfig, missing: dict[str, str] | None = None
) -> list[SetMetric]:
    """The set metrics of these names; `missing` as for `build_scorers`. Raises ConfigError,
    CheckpointError.
    """
    built, settings = [], {}
    for name, values in config.sets.items():
        if _ALIASES.get(name, name) not in SET_METRICS.names():
            raise ConfigError(
                f"sets.{name}: no such set metric; {name_hint(name, SET_METRICS.names())}"
            )
        settings[_ALIASES.get(name, name)] = values
    for name in dict.fromkeys(_ALIASES.get(name, name) for name in names):
        kind = SET_METRICS.load(name)
        with noted(name, missing):
            metric = kind(validate(kind.Config, settings.get(name, {}), where=f"sets.{name}"))
            metric.fingerprint  # noqa: B018  (weights that are not there show before the first clip)
            built.append(metric)
    return built


def evaluate(
    samples: list[Sample],
    truth: Path,
    scorers: list[Scorer],
    sets: list[SetMetric],
    out: Path,
    division: Division,
    retry_unscored: bool,
    progress: Callable[[str], Progress],
) -> Evaluation | None:
    """Scores all samples into `out`, where the same call goes on; `truth` is the folder or manifest
    of the real videos. A part scores its share of the samples and of the real videos and gives
    nothing: distances of sets are of all.

    Raises DataError: no truth, or `out` holds results of other settings or cannot be written.
    """
    keepers = [_Features(metric, out / "features") for metric in sets]
    real = []
    if sets:
        real = division.share(_real(truth))
    made = score_to_file(
        samples,
        [*scorers, *keepers],
        out / "scores.jsonl",
        retry_unscored,
        progress("scoring"),
        division,
    )
    scores = [s for s in made.scores if not s.scorer.endswith(_FEATURES)]
    result = Evaluation(str(truth), scorers, samples, scores, sets)
    if sets:
        known = score_to_file(
            real, keepers, out / "truth.jsonl", retry_unscored, progress("reading truth"), division
        )
    if division.part:
        return None
    if not sets:
        return result
    for keeper in keepers:
        sides = [(samples, made.scores), (real, known.scores)]
        ours, true = ([s for s in rows if s.scorer == keeper.name] for _, rows in sides)
        truth_features = keeper.load(real, true)
        result.without_features += [score for score in (*ours, *true) if score.reason]
        for generator in result.generators:
            own = [sample for sample in samples if sample.generator == generator]
            ids = {sample.id for sample in own}
            rows = [score for score in ours if score.clip in ids]
            lost = [f"{s.clip}: {s.reason}" for s in (*rows, *true) if s.reason]
            name = ""
            if len(result.generators) > 1:
                name = generator
            result.sets.append(
                _set_score(keeper.of, keeper.load(own, rows), truth_features, lost, name)
            )
    write_jsonl(out / "sets.jsonl", result.sets)
    return result


def _real(truth: Path) -> list[Sample]:
    """The clips of the truth. Raises DataError that says that it is the truth that is lacking."""
    try:
        return find_samples([truth])
    except DataError as error:
        raise DataError(f"the truth: {error}") from error


def _set_of(score: Score) -> str:
    return score.scorer.removesuffix(_FEATURES)


def _set_score(
    metric: SetMetric, a: list[Array], b: list[Array], left_out: list[str], generator: str
) -> SetScore:
    """The distance over those clips that have features; the others are named."""
    shared: JsonObject = {
        "set_metric": metric.name,
        "unit": metric.unit,
        "num_clips": len(a),
        "num_truth": len(b),
        "left_out": left_out,
        "fingerprint": metric.fingerprint,
        "settings": metric.config.model_dump(mode="json"),
        "weights_sha256": metric.weights_sha256,
        "generator": generator,
    }
    return _compared(metric, a, b, shared)


def _compared(
    metric: SetMetric,
    a: list[Array],
    b: list[Array],
    shared,
) -> SetScore:
    """A figure of two sets, or the reason why there is none."""
    try:
        reading = metric.compare(a, b)
    except Unscorable as error:
        return SetScore(reason=str(error), **shared)
    return SetScore(
        value=reading.value, parts=dict(reading.parts), warnings=list(reading.warnings), **shared
    )


def provenance(result: Evaluation) -> JsonObject:
    """Settings and versions that decide the numbers of an evaluation."""
    return {
        "flowportrait": version("flowportrait"),
        "generated": result.generated,
        "truth": result.truth,
        "scorers": [_provenance(scorer) for scorer in result.scorers],
        "sets": [metric.provenance() for metric in result.set_metrics],
        "skipped": result.skipped,
    }


def _provenance(scorer: Scorer) -> JsonObject:
    """How a scorer was set, for the record beside its scores."""
    if hasattr(scorer, "provenance"):
        return scorer.provenance()
    settings = {}
    if hasattr(scorer, "config"):
        settings = scorer.config.model_dump(mode="json")
    return {"name": scorer.name, "fingerprint": scorer.fingerprint, "settings": settings}
