"""Simulated raters: they see the quality of a version through noise."""

import hashlib

import numpy as np

from flowportrait.records import ASPECTS
from flowportrait.study.answers import RaterAnswer
from flowportrait.study.store import Study, Task

QUALITY = {"original": 1.6, "mild": 0.0, "poor": -1.6}
"""What they are to find."""


def versions_of(study: Study, token: str, task: Task) -> dict[str, str]:
    """Which version each item is: only by looking at the files, as no rater can."""
    names = {digest: source.version for source in study.sources() for digest in source.digests}
    return {
        item.id: names[hashlib.sha256(study.media(token, item.id).read_bytes()).hexdigest()]
        for item in task.items
    }


def answer(
    task: Task,
    opinion: dict[str, float],
    rng: np.random.Generator | None = None,
    noise: float = 0.0,
) -> RaterAnswer:
    """An answer by someone who sees `opinion` (item -> quality) through noise and ties what looks
    alike.
    """
    rng = rng or np.random.default_rng(0)
    seen = {item: value + noise * rng.normal() for item, value in opinion.items()}
    scores = {
        item: {
            a: int(np.clip(round(3 + value + 0.3 * noise * rng.normal()), 1, 5)) for a in ASPECTS
        }
        for item, value in seen.items()
    }
    groups: list[list[str]] = []
    for item in sorted(seen, key=seen.get, reverse=True):
        if groups and seen[groups[-1][-1]] - seen[item] < 0.1:
            groups[-1].append(item)
        else:
            groups.append([item])
    return RaterAnswer(
        scores=scores,
        groups=groups,
        played={item.id: [(0.0, item.duration_s)] for item in task.items},
        seconds=12.5,
    )


def simulate(study: Study, noise: float = 0.4, raters: int | None = None) -> None:
    """Lets raters answer all their tasks."""
    for number, rater in enumerate(study.raters()[:raters]):
        rng = np.random.default_rng(number)
        while task := study.next_task(rater.token):
            names = versions_of(study, rater.token, task)
            study.submit(
                rater.token,
                task.id,
                answer(task, {i: QUALITY[v] for i, v in names.items()}, rng, noise),
            )
