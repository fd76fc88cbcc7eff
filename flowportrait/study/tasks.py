"""Who sees what, in which order and under which letters: drawn from a seed, balanced, and blind.

A *showing* is one set of versions before one rater. Every version stands under every letter equally
often for each rater (up to one block), every sample goes to the same number of raters, and raters
meet the samples in rotated order, so that no sample is always seen by tired eyes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowportrait.arrays import Rng
from flowportrait.errors import ConfigError

Kind = Literal["study", "repeat", "training"]
MAX_VERSIONS = 26
"""As many as there are letters."""


@dataclass(frozen=True)
class StudyPlan:
    """Design of a study."""

    num_raters: int
    raters_per_sample: int
    num_repeats: int = 0
    """Sets that each rater sees again without being told, to measure how consistent the rater
    is.
    """
    num_training: int = 0
    """Samples that all raters see first and that do not count."""
    seed: int = 0


@dataclass(frozen=True)
class Showing:
    """One set before one rater; `order[i]` is the version under letter i."""

    sample: int
    order: tuple[int, ...]
    kind: Kind


def assign(num_samples: int, num_versions: int, plan: StudyPlan) -> list[list[Showing]]:
    """The showings of each rater in order. Raises ConfigError for a plan that cannot be carried
    out.
    """
    _check(num_samples, num_versions, plan)
    rng = np.random.default_rng(plan.seed)
    shuffled = rng.permutation(num_samples)
    training = shuffled[: plan.num_training]
    counted = shuffled[plan.num_training :]
    shares: list[list[int]] = [[] for _ in range(plan.num_raters)]
    for sample in counted:
        # The least loaded raters take it; chance decides between equals, so that no two always
        # meet.
        load = [len(share) for share in shares]
        for rater in np.lexsort((rng.random(plan.num_raters), load))[: plan.raters_per_sample]:
            shares[rater].append(int(sample))
    result = []
    for rater, share in enumerate(shares):
        if plan.num_repeats > len(share) // 3:
            raise ConfigError(
                f"repeats: {plan.num_repeats}, but a rater sees only {len(share)} sets; at most"
                f" {len(share) // 3}"
            )
        start = rater * len(share) // plan.num_raters
        result.append(
            _one_rater(
                [int(s) for s in training], share[start:] + share[:start], num_versions, plan, rng
            )
        )
    return result


def _check(num_samples: int, num_versions: int, plan: StudyPlan) -> None:
    for name, value, low, high, why in (
        (
            "versions",
            num_versions,
            2,
            MAX_VERSIONS,
            "a set needs two to compare, and a letter for each",
        ),
        ("raters", plan.num_raters, 1, None, "someone has to watch"),
        (
            "raters per sample",
            plan.raters_per_sample,
            1,
            plan.num_raters,
            "no rater sees a sample twice",
        ),
        ("training", plan.num_training, 0, num_samples - 1, "at least one sample has to count"),
        ("repeats", plan.num_repeats, 0, None, "a number of sets for each rater"),
    ):
        if value < low or (high is not None and value > high):
            allowed = f"from {low} to {high}" if high is not None else f"from {low} on"
            raise ConfigError(f"{name}: {value}; {allowed} ({why})")


def _one_rater(
    training: list[int],
    share: list[int],
    num_versions: int,
    plan: StudyPlan,
    rng: Rng,
) -> list[Showing]:
    """Training first, then the share in blocks that are shuffled inside, repeats hidden in its last
    third.
    """
    blocks = [block for block in np.array_split(share, plan.num_raters) if len(block)]
    order = [int(sample) for block in blocks for sample in rng.permutation(block)]
    sequence: list[tuple[int, Kind]] = [(sample, "study") for sample in order]
    # What is shown again was seen in the first third and comes in the last: memory of it has faded.
    third = len(order) // 3
    for sample in rng.permutation(order[:third])[: plan.num_repeats]:
        sequence.insert(
            int(rng.integers(len(order) - third, len(sequence) + 1)), (int(sample), "repeat")
        )
    whole: list[tuple[int, Kind]] = [(sample, "training") for sample in training] + sequence
    letters = _balanced_orders(len(whole), num_versions, rng)
    return [
        Showing(sample, order, kind) for (sample, kind), order in zip(whole, letters, strict=True)
    ]


def _balanced_orders(count: int, num_versions: int, rng: Rng) -> list[tuple[int, ...]]:
    """Orders in blocks of `num_versions` that form Latin squares: each version once under each
    letter.
    """
    orders: list[tuple[int, ...]] = []
    while len(orders) < count:
        square = (np.arange(num_versions)[:, None] + np.arange(num_versions)) % num_versions
        square = rng.permutation(num_versions)[
            square[rng.permutation(num_versions)][:, rng.permutation(num_versions)]
        ]
        orders += [tuple(int(version) for version in row) for row in square]
    return orders[:count]
