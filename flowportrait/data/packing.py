"""Which clips an update trains on, and in which rows: a token budget a row, rows of equal cost, an
endless shuffled stream of clips.

All is a function of the seed and of how many clips were taken before, so a run that stops knows
where it was from one number, and every process of a run comes to the same rows by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """Clip numbers without end: every clip once an epoch, each epoch in another order."""

    num_clips: int
    seed: int

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.num_clips)
        return int(_order(self.num_clips, self.seed, epoch)[place])


@lru_cache(maxsize=2)
def _order(num_clips: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 7]).permutation(num_clips)


@dataclass(frozen=True)
class Piece(Generic[T]):
    """Something to be packed: how many tokens it has and what it costs to compute."""

    content: T
    num_tokens: int
    cost: float


def pack(
    piece_at: Callable[[int], Piece[T]], position: int, num_rows: int, budget: int
) -> tuple[list[list[T]], int]:
    """Rows of at most `budget` tokens each, filled with the pieces from `position` on, and the
    position after them.

    As many pieces as the rows have room for, less what does not go in; then the most expensive
    piece first, each into the row that has cost least so far. No row stays empty.
    """
    taken = []
    num_tokens = 0
    while num_tokens <= num_rows * budget:
        taken.append(piece_at(position + len(taken)))
        assert taken[-1].num_tokens <= budget, "pieces are cut to the budget before"
        num_tokens += taken[-1].num_tokens
    rows = None
    while rows is None:
        del taken[-max(1, len(taken) // 100) :]
        rows = _assigned(taken, num_rows, budget)
    return [[piece.content for piece in row] for row in rows], position + len(taken)


def _assigned(
    pieces: Sequence[Piece[T]], num_rows: int, budget: int
) -> list[list[Piece[T]]] | None:
    """The balanced rows of these pieces; None if one finds no room."""
    rows: list[list[Piece[T]]] = [[] for _ in range(num_rows)]
    costs = [0.0] * num_rows
    rooms = [budget] * num_rows
    for piece in sorted(pieces, key=lambda piece: -piece.cost):
        roomy = [row for row in range(num_rows) if rooms[row] >= piece.num_tokens]
        if not roomy:
            return None
        row = min(roomy, key=lambda row: costs[row])
        rows[row].append(piece)
        costs[row] += piece.cost
        rooms[row] -= piece.num_tokens
    return rows
