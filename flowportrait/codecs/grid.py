"""Transformer blocks on a grid of tokens, and the stem that brings pictures there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class GridBlock(nn.Module):
    """Residual block on a token grid [b, y, x, width]: depthwise 3x3, attention, MLP.

    With `control` > 0 a vector of that width shifts and scales what the norms give, as in DiT
    (arXiv:2212.09748).
    """

    def __init__(self, width: int, num_heads: int, control: int = 0):
        super().__init__()
        self.num_heads = num_heads
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU("tanh"), nn.Linear(3 * width, width)
        )
        self.modulation = nn.Linear(control, 4 * width) if control else None

    def forward(self, x: Tensor, control: Tensor | None = None) -> Tensor:
        height = x.shape[1]
        x = x + self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = rearrange(x, "b y x c -> b (y x) c")
        attended = self.attention_norm
        mixed = self.mlp_norm
        if self.modulation is not None:
            shift, scale, mlp_shift, mlp_scale = self.modulation(control)[:, None].chunk(4, -1)
            attended = lambda tokens: self.attention_norm(tokens) * (1 + scale) + shift  # noqa: E731
            mixed = lambda tokens: self.mlp_norm(tokens) * (1 + mlp_scale) + mlp_shift  # noqa: E731
        x = x + self._attend(attended(x))
        x = x + self.mlp(mixed(x))
        return rearrange(x, "b (y x) c -> b y x c", y=height)

    def _attend(self, x: Tensor) -> Tensor:
        """Attention of every place to all others, in heads."""
        heads = rearrange(
            self.query_key_value(x), "b n (p h d) -> p b h n d", p=3, h=self.num_heads
        )
        attended = F.scaled_dot_product_attention(*heads.unbind(0))
        return self.attention_out(rearrange(attended, "b h n d -> b n (h d)"))


class GridStack(nn.Module):
    """Blocks over a grid whose cells have a learned position each."""

    def __init__(self, width: int, depth: int, num_heads: int, grid: int, control: int = 0):
        super().__init__()
        self.position = nn.Parameter(
            torch.randn(
                1,
                grid,
                grid,
                width,
            )
            * 0.02
        )
        self.blocks = nn.ModuleList(GridBlock(width, num_heads, control) for _ in range(depth))

    def forward(self, x: Tensor, control: Tensor | None = None) -> Tensor:
        x = x + self.position.to(x.dtype)
        for block in self.blocks:
            x = block(x, control)
        return x


class FineStem(nn.Module):
    """Pictures [b, c, h, w] to tokens [b, h/8, w/8, width] by way of a 1/4 grid, where small
    motions still show.
    """

    def __init__(self, in_channels: int, width: int, fine_width: int = 64):
        super().__init__()
        self.patch = nn.Conv2d(in_channels, fine_width, 4, stride=4)
        self.depthwise = nn.Conv2d(fine_width, fine_width, 5, padding=2, groups=fine_width)
        self.mix = nn.Sequential(
            nn.Linear(fine_width, 2 * fine_width),
            nn.GELU("tanh"),
            nn.Linear(2 * fine_width, fine_width),
        )
        self.merge = nn.Linear(4 * fine_width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x.contiguous(memory_format=torch.channels_last))
        x = (x + self.depthwise(x)).permute(0, 2, 3, 1)
        x = x + self.mix(x)
        return self.merge(rearrange(x, "b (y p) (x q) c -> b y x (p q c)", p=2, q=2))
