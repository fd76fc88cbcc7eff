"""Sequence parallelism: several processes share the video tokens of one row, so that a long clip
fits.

Every process keeps its own run of tokens through all layers; keys and values of the others are
gathered before each attention. They are few (BAGEL has 4 key heads for 28 query heads), nothing in
the video block is causal, so every process has the same work, and any number of processes will do,
which splitting by heads would not allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SequenceShare:
    """Part `index` of `count` of a row's `total` video tokens. The parts are runs of one length;
    the last is shorter where they do not divide.
    """

    index: int
    count: int
    total: int
    group: dist.ProcessGroup

    @property
    def size(self) -> int:
        """Tokens of a full part."""
        return -(-self.total // self.count)

    @property
    def span(self) -> slice:
        """This part's tokens in the row."""
        return slice(
            min(self.index * self.size, self.total), min((self.index + 1) * self.size, self.total)
        )

    def lengths(self, clips: tuple[int, ...]) -> tuple[int, ...]:
        """Number of tokens of each clip in this part."""
        mine = self.span
        edges = accumulate(clips, initial=0)
        return tuple(
            max(0, min(mine.stop, stop) - max(mine.start, start)) for start, stop in pairwise(edges)
        )

    def gather(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [b, heads, n, e] of all parts. Gradients go back to the part that they
        came from.
        """
        keys, values = self._all(torch.stack([keys, values]).movedim(3, 0)).movedim(0, 3)
        return keys, values

    def whole(self, tokens: Tensor) -> Tensor:
        """Results of all parts together, [b, n, d]. Every process has it, so gradients of a loss
        that all of them take of it add up to as many times the loss's.
        """
        return self._all(tokens.movedim(1, 0)).movedim(0, 1)

    def _all(self, mine: Tensor) -> Tensor:
        """All parts one after another along the first axis."""
        missing = self.size - mine.shape[0]
        if missing:
            mine = F.pad(mine, (0, 0) * (mine.ndim - 1) + (0, missing))
        return _Gather.apply(mine.contiguous(), self.group, self.count)[: self.total]


Share = Callable[[int], SequenceShare | None]
"""A process's part of so many video tokens; None: all of them."""


def alone(num_tokens: int) -> None:
    """The share of a process that computes all video tokens."""


class _Gather(torch.autograd.Function):
    """All parts one after another along the first axis; the backward sums what all parts ask of
    each.
    """

    @staticmethod
    def forward(ctx, mine: Tensor, group: dist.ProcessGroup, count: int) -> Tensor:
        ctx.group = group
        ctx.count = count
        whole = mine.new_empty(count * mine.shape[0], *mine.shape[1:])
        dist.all_gather_single(whole, mine, group=group)
        return whole

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        mine = grad.new_empty(grad.shape[0] // ctx.count, *grad.shape[1:])
        dist.reduce_scatter_single(mine, grad.contiguous(), group=ctx.group)
        return mine, None, None
