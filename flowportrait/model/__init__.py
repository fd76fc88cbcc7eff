"""The network: one forward for training and sampling."""

from flowportrait.model.layout import RowLayout, TokenGrid, latent_frames_for
from flowportrait.model.mot import Condition, MoT, MoTConfig, Row

__all__ = ["Condition", "MoT", "MoTConfig", "Row", "RowLayout", "TokenGrid", "latent_frames_for"]
