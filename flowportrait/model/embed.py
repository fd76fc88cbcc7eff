"""How numbers become tokens: times, positions on a grid, positions in time, features of other
networks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowportrait.errors import ConfigError
from flowportrait.tensors import Rows, Tokens

TIME_FREQUENCIES = 256  # width of the sinusoid that a time is turned into before the MLP
MAX_PERIOD = 10_000.0


def time_sinusoid(t: Float[Tensor, "*n"]) -> Float[Tensor, "*n 256"]:
    """[cos | sin] of a time at 128 falling frequencies. `t` in [0, 1] goes in unscaled, as in
    BAGEL.
    """
    half = TIME_FREQUENCIES // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[..., None] * torch.exp(-math.log(MAX_PERIOD) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedder(nn.Module):
    """A time in [0, 1] as a token-wide vector; computed in float32 whatever the autocast."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        with torch.autocast(t.device.type, enabled=False):
            return self.mlp(time_sinusoid(t))


class Connector(nn.Module):
    """Two-layer MLP (tanh-GELU) from the features of an encoder to tokens. Where these are several
    of its layers side by side, their mean with learned weights is taken first.
    """

    def __init__(self, features: int, width: int, layers: int = 1):
        super().__init__()
        if layers > 1:
            self.mixture = nn.Parameter(torch.zeros(layers))
        self.fc1 = nn.Linear(features // layers, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "b n f"]) -> Tokens:
        if hasattr(self, "mixture"):
            shares = self.mixture.float().softmax(0)
            features = torch.einsum(
                "bnlf, l -> bnf", features.unflatten(-1, (len(shares), -1)), shares
            )
        return self.fc2(F.gelu(self.fc1(features), approximate="tanh"))


def sincos_table(side: int, width: int) -> Rows:
    """Frozen position vectors of a `side x side` grid, row by row; `width` is a multiple of 4.

    The first half of the features encodes the COLUMN and the second half the row (BAGEL's order);
    each half is [sin | cos].
    """
    quarter = width // 4
    frequencies = MAX_PERIOD ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    by_column = line[None, :].expand(side, side, -1)
    by_row = line[:, None].expand(side, side, -1)
    return torch.cat([by_column, by_row], dim=-1).flatten(0, 1)


class GridPositions(nn.Module):
    """The vectors of `sincos_table` for grids of up to `side x side` tokens."""

    pos_embed: Tensor

    def __init__(self, side: int, width: int):
        super().__init__()
        self.side = side
        self.register_buffer("pos_embed", sincos_table(side, width))

    def forward(self, rows: int, cols: int) -> Rows:
        return self.pos_embed[self.ids(rows, cols)]

    def ids(self, rows: int, cols: int) -> Int[Tensor, " n"]:
        """Row of the table for each token of a `rows x cols` grid. Raises ConfigError for one too
        large.
        """
        if max(rows, cols) > self.side:
            raise ConfigError(
                f"position table: a grid of {rows} x {cols} tokens; the maximum is {self.side} per"
                " side; use a smaller picture or a model with a larger table"
            )
        device = self.pos_embed.device
        row = torch.arange(rows, device=device)
        col = torch.arange(cols, device=device)
        return (row[:, None] * self.side + col).flatten()


Rope = tuple[Tensor, Tensor]  # cosines and sines, each [n, head_width / 2]


def rope_table(positions: Float[Tensor, " n"], head_width: int, theta: float) -> Rope:
    """Rotary tables of `positions`, fractions allowed. Always float32: bfloat16 ruins positions
    above 256.
    """
    half = head_width // 2
    exponents = torch.arange(
        half,
        dtype=torch.float32,
        device=positions.device,
    ) * (2 / head_width)
    angles = positions.float()[:, None] * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "... n heads e"], rope: Rope) -> Float[Tensor, "... n heads e"]:
    """Queries or keys turned by their positions; feature i is paired with feature i + e/2."""
    cos, sin = (table[:, None] for table in rope)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
