"""Whether a judge still tells clips apart: a judge that gives everybody a 4 or a 5 is no reward and
no measure.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from flowportrait.records import Score

MIN_SCORES = 20
MAX_HIGH_SHARE = 0.9
MIN_ENTROPY_BITS = 0.5
"""Half a bit is what two scores have when one of them is given in nine cases of ten."""


@dataclass(frozen=True)
class Spread:
    """Distribution of the integers of one part of a scorer."""

    scorer: str
    part: str
    count: int
    high_share: float
    entropy_bits: float

    @property
    def saturated(self) -> bool:
        """True when the part hardly tells clips apart."""
        few_words = self.high_share > MAX_HIGH_SHARE or self.entropy_bits < MIN_ENTROPY_BITS
        return self.count >= MIN_SCORES and few_words

    def line(self) -> str:
        """A warning for people."""
        return (
            f"{self.scorer}: {self.part} hardly tells clips apart: {self.high_share:.0%} of"
            f" {self.count} scores are 4 or 5, entropy {self.entropy_bits:.2f} bits; try token"
            " probabilities (judge.use_expected), several repeats, or another judge"
        )


def spreads(scores: Iterable[Score]) -> list[Spread]:
    """The spread of every part of every scorer that has parts, in the order of first appearance."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for score in scores:
        for part, value in score.parts.items():
            if not math.isnan(value):
                values[score.scorer, part].append(value)
    return [_spread(scorer, part, found) for (scorer, part), found in values.items()]


def _spread(scorer: str, part: str, values: list[float]) -> Spread:
    """How much a scorer tells clips apart: the share of high scores, and the entropy in bits."""
    shares = [count / len(values) for count in Counter(values).values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    high = sum(value >= 4 for value in values) / len(values)
    return Spread(scorer, part, len(values), high, abs(entropy))
