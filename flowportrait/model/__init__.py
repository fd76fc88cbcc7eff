"""The network: one forward for training and sampling."""

from flowportrait.model.blocks import MoTConfig
from flowportrait.model.layout import RowLayout, TokenGrid, latent_frames_for
from flowportrait.model.mot import Condition, MoT, PackedRow

__all__ = [
    "Condition",
    "MoT",
    "MoTConfig",
    "PackedRow",
    "RowLayout",
    "TokenGrid",
    "latent_frames_for",
]
