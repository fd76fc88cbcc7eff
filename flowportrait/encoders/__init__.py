"""Encoders of speech and of the portrait. Each is a module with a width `dim` and its own
`Config`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class AudioEncoder(Protocol):
    """Speech to one vector per video frame; vector i belongs to the moment i / 24 s."""

    dim: int
    rate_hz: int

    def forward(self, audio: Float[Tensor, "b s"], num_frames: int) -> Float[Tensor, "b n d"]:
        """`audio` is mono at 16 kHz; sound missing at the end counts as silence."""


@runtime_checkable
class ImageEncoder(Protocol):
    """The portrait to a grid of vectors, row by row."""

    dim: int
    grid: tuple[int, int]  # rows, columns

    def forward(self, portrait: Float[Tensor, "b 3 h w"], context: Any) -> Float[Tensor, "b n d"]:
        """`portrait` in [-1, 1]; `context` is what the codec prepared of it."""
