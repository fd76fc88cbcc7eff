"""The network: one forward for training and sampling."""

from flowportrait.model.layout import TokenGrid, latent_frames_for
from flowportrait.model.mot import Condition, MoT, MoTConfig

__all__ = ["Condition", "MoT", "MoTConfig", "TokenGrid", "latent_frames_for"]
