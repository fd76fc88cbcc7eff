"""Figures of an update's passes for the log: loss, ratios, divergence, and the gradient's noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from flowportrait.train.parallel import as_float, trained_weights
from flowportrait.train.rollout import Pass
from flowportrait.train.run import Figures


class Halves:
    """The gradient of the first half of an update's groups, kept to tell what all groups agree on
    from their noise. Needs as much memory as the gradient.
    """

    def __init__(self, model: nn.Module):
        self._trained = list(trained_weights(model).values())
        self._first: list[Tensor] = []

    def turn(self) -> None:
        """The second half begins."""
        self._first = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._trained
        ]

    def figures(self) -> Figures:
        """The size of both halves' sum over that of their difference: 1 for noise alone."""
        pairs = zip(self._first, self._trained, strict=False)
        both = [(first, p.grad - first) for first, p in pairs if p.grad is not None]
        total = as_float(get_total_norm([first + second for first, second in both]))
        apart = as_float(get_total_norm([first - second for first, second in both]))
        if apart > 0:
            return {"gradient_over_noise": total / apart}
        return {}


@dataclass
class PassFigures:
    """Figures of a rank's passes."""

    loss: float = 0.0
    ratio: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)

    def add(self, part: Pass, weight: float) -> None:
        """One pass more."""
        self.loss += float(part.loss.detach()) * weight
        self.ratio += part.log_ratio.exp().double().tolist()
        self.outside += part.outside.double().tolist()
        self.divergence.append(part.kl)

    @staticmethod
    def figures(everywhere: list[PassFigures], num_sharing: int) -> Figures:
        """Over all ranks; without a step that is priced there is no ratio to speak of."""
        ratio, outside, divergence = (
            np.array([x for seen in everywhere for x in getattr(seen, name)])
            for name in ("ratio", "outside", "divergence")
        )
        loss = sum(seen.loss for seen in everywhere) / num_sharing
        figures = {"loss": loss, "num_passes": len(divergence)}
        if len(divergence):
            figures["kl"] = float(divergence.mean())
        if not len(ratio):
            return figures
        return figures | {
            "ratio_mean": float(ratio.mean()),
            "ratio_min": float(ratio.min()),
            "ratio_max": float(ratio.max()),
            "outside_epsilon": float(outside.mean()),
        }
