"""A `Scorer` gives a clip a number; a `Comparer` prefers one of two clips.

A metric, a reward and a judge are the same thing here: a class with its own `Config`, a declared
unit, range and direction, and one line in `registry.SCORERS` (or an entry point of another
package).
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Protocol

from flowportrait.clips import Sample as Sample
from flowportrait.clips import SamplePair
from flowportrait.config import Frozen
from flowportrait.records import ASPECTS as ASPECTS
from flowportrait.records import Score, Verdict

Need = Literal["frames", "sound", "truth", "weights"]
"""`weights`: a pretrained file that the package does not bring."""


class Scorer(Protocol):
    """Gives each clip one number between `low` and `high`, or the reason why it cannot.

    A clip that lacks what the scorer `needs`, or that cannot be read, is *unscored*: nan and a
    reason, never a number. The same clip gets the same number whatever else is scored beside it.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    low: ClassVar[float]
    high: ClassVar[float]
    better: ClassVar[Literal["higher", "lower"]]
    needs: ClassVar[frozenset[Need]]
    Config: ClassVar[type[Frozen]]

    @property
    def fingerprint(self) -> str:
        """Digest of everything except the clip that determines a score: settings, weights, prompts,
        model.
        """

    def score(self, samples: Iterable[Sample]) -> Iterator[Score]:
        """The scores of all samples, each as soon as it is known, in any order."""


class Comparer(Protocol):
    """Chooses the better of two clips, or gives the reason why it cannot."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    Config: ClassVar[type[Frozen]]

    @property
    def fingerprint(self) -> str:
        """Digest of everything except the clips that determines a verdict."""

    def compare(self, pairs: Iterable[SamplePair]) -> Iterator[Verdict]:
        """The verdicts on all pairs, each as soon as it is known, in any order."""


def score_row(
    scorer: Scorer, sample: Sample, value: float = math.nan, reason: str = "", **fields: Any
) -> Score:
    """The record of one score; give either `value` or `reason`."""
    truth = sample.truth_sha256 if "truth" in scorer.needs else ""
    return Score(
        clip=sample.id,
        scorer=scorer.name,
        value=value,
        reason=reason,
        unit=scorer.unit,
        fingerprint=scorer.fingerprint,
        sha256=sample.sha256,
        truth_sha256=truth,
        **fields,
    )


def digest_of(*parts: object) -> str:
    """sha256 of the parts' JSON with sorted keys: equal for equal content, whatever the order of
    keys.
    """
    import json

    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
