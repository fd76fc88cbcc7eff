"""Codecs: clip frames to latents and back. The one contract every codec keeps is `LatentCodec`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from flowportrait.tensors import Pictures

Latents = Float[Tensor, "b c l hl wl"]


@runtime_checkable
class LatentCodec(Protocol):
    """Frames in [-1, 1] to normalised latents (about zero mean, unit variance) and back, causal in
    time.

    The first frame stands alone in latent frame 0; every later latent frame covers
    `temporal_stride` frames. One that `moves_portrait` works on landmarks and the portrait's own
    pixels, and has besides what `codecs/portrait.py` adds for that.
    """

    channels: int
    temporal_stride: int
    spatial_stride: int
    settle_reach: int  # latent frames to both sides that `settle` looks at
    moves_portrait: bool

    def prepare(self, portrait: Pictures) -> Any:
        """Everything the codec needs of the portrait, computed once per clip (None where it needs
        nothing).
        """

    def encode(self, frames: Float[Tensor, "b 3 f h w"], context: Any) -> Latents:
        """Latents of 1 + 4 (l - 1) frames."""

    def settle(self, latents: Latents) -> Latents:
        """The latents of a whole generated clip as they should be decoded; most codecs give them
        back as they are.
        """

    def decode(self, latents: Latents, context: Any) -> Float[Tensor, "b 3 f h w"]:
        """Frames of a clip from its start on: the first latent frame gives one frame, each other
        `temporal_stride`.
        """

    def decode_stream(self, blocks: Iterable[Tensor], context: Any) -> Iterator[Tensor]:
        """The same frames [b, 3, f, h, w], a few at a time, of a clip whose latent frames come in
        blocks in order; a long clip does not need much memory.
        """
