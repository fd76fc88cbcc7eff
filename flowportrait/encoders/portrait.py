"""The portrait as the codec already sees it: its tokens, two by two merged. No download, no second network."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.config import Frozen


@runtime_checkable
class SeesPortrait(Protocol):
    """What a codec prepared of a portrait, as far as this encoder reads it."""

    tokens: Tensor  # [b, h/8, w/8, width]


class PortraitTokens(nn.Module):
    """Codec tokens [b, 16, 16, width] to [b, 64, 4 width]. Has no weights of its own."""

    class Config(Frozen):
        """Must agree with the codec's."""

        codec_width: int = 160
        size_px: int = 128

    def __init__(self, config: Config):
        super().__init__()
        self.dim = 4 * config.codec_width
        self.grid = (config.size_px // 16, config.size_px // 16)

    def forward(self, portrait: Float[Tensor, "b 3 h w"], context: SeesPortrait) -> Float[Tensor, "b n d"]:
        """One vector for every 16 x 16 pixels."""
        return rearrange(context.tokens, "b (y p) (x q) c -> b (y x) (p q c)", p=2, q=2)
