"""Encoders of speech and of the portrait. Each is a module with a width `dim` and its own
`Config`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from flowportrait.tensors import Pictures, Sound, Tokens


@runtime_checkable
class AudioEncoder(Protocol):
    """Speech to one vector per video frame; vector i belongs to the moment i / 24 s."""

    dim: int
    rate_hz: int

    def forward(self, audio: Sound, num_frames: int) -> Tokens:
        """`audio` is mono at 16 kHz; sound missing at the end counts as silence."""


@runtime_checkable
class ImageEncoder(Protocol):
    """The portrait to a grid of vectors, row by row."""

    dim: int
    grid: tuple[int, int]  # rows, columns

    def forward(self, portrait: Pictures, context: Any) -> Tokens:
        """`portrait` in [-1, 1]; `context` is what the codec prepared of it."""
