"""The portrait for the generator: small pictures of its parts and where its landmarks are. No
weights, no download.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.tensors import Pictures, Tokens

TOKEN_PX = 16
CELL_PX = 4


@runtime_checkable
class SeesPortrait(Protocol):
    """The part of a codec's prepared portrait that this encoder reads."""

    landmarks: Tensor  # [b, 68, 2] in [-1, 1]


class PortraitTokens(nn.Module):
    """One token per 16 x 16 pixels: 4 x 4 mean colours and the 68 landmarks of the face, [b, 64, 48
    + 136] at 128 px.
    """

    dim = 3 * (TOKEN_PX // CELL_PX) ** 2 + 2 * 68

    class Config(Frozen):
        """Must agree with the model's picture size."""

        size_px: int = 128

    def __init__(self, config: Config):
        super().__init__()
        self.grid = (config.size_px // TOKEN_PX, config.size_px // TOKEN_PX)

    def forward(self, portrait: Pictures, context: SeesPortrait) -> Tokens:
        """One vector for every 16 x 16 pixels, row by row."""
        cells = F.avg_pool2d(portrait, CELL_PX)
        side = TOKEN_PX // CELL_PX
        colours = rearrange(cells, "b c (y p) (x q) -> b (y x) (p q c)", p=side, q=side)
        points = repeat(context.landmarks, "b k d -> b n (k d)", n=colours.shape[1])
        return torch.cat([colours, points.to(colours.dtype)], -1)
