"""Which token may attend to which: §3.1's rule and its generalisation to BAGEL's packed sequences.

The product never builds these matrices (it makes three unmasked attention calls); they state the
rule, and the packed forward that follows them is what the product path is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from jaxtyping import Bool
from torch import Tensor


class Attend(Enum):
    """Kind of attention of a split. Every split also sees the earlier splits of its sample, except
    NOISE ones.
    """

    CAUSAL = 0  # each token sees itself and what precedes it in the split
    FULL = 1  # every token of the split sees the whole split
    NOISE = 2  # as FULL, and no other split sees this one


Split = tuple[int, Attend]  # number of tokens, how they attend


def allowed(samples: Sequence[Sequence[Split]]) -> Bool[Tensor, "n n"]:
    """True where the row's token may attend to the column's token. Packed samples do not see each
    other.
    """
    return torch.block_diag(*[_allowed_within(splits) for splits in samples]).bool()


def portrait_splits(num_audio: int, num_image: int, num_video: int) -> list[Split]:
    """§3.1: audio sees audio, the image sees audio and image, video sees all and is seen by video
    alone.
    """
    return [
        (num_audio, Attend.FULL),
        (num_image, Attend.FULL),
        (num_video, Attend.NOISE),
    ]


def _allowed_within(splits: Sequence[Split]) -> Bool[Tensor, "n n"]:
    """`allowed` for one sample."""
    total = sum(length for length, _ in splits)
    matrix = torch.zeros(total, total, dtype=torch.bool)
    visible = torch.ones(total, dtype=torch.bool)
    start = 0
    for length, attend in splits:
        inside = slice(start, start + length)
        matrix[inside, :start] = visible[:start]
        square = torch.ones(length, length, dtype=torch.bool)
        matrix[inside, inside] = square.tril() if attend is Attend.CAUSAL else square
        visible[inside] = attend is not Attend.NOISE
        start += length
    return matrix
