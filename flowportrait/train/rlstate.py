"""What a checkpoint of reinforcement learning holds; with the recipe it determines every later update."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from flowportrait.errors import CheckpointError
from flowportrait.scoring.reward import Statistics
from flowportrait.train.parallel import (
    Average,
    Ranks,
    set_optimizer,
    set_weights,
    whole_optimizer,
    whole_weights,
)
from flowportrait.train.run import OptimizerConfig


@dataclass
class RlState:
    """The model and its average, the optimizer, the number of updates made, running statistics of the reward, and the
    held-out figures of the untuned model and of the best one so far."""

    model: nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    running: Statistics | None
    update: int = 0
    baseline: dict[str, list[float]] | None = None
    best: float | None = None

    @classmethod
    def fresh(cls, model: nn.Module, config: OptimizerConfig, running: bool) -> RlState:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        return cls(model, Average(model, config.ema_decay), optimizer, Statistics() if running else None)

    def save(self, path: Path, ranks: Ranks) -> None:
        """Atomically, by the first rank: a kill during the write leaves the checkpoint before it untouched."""
        with self.average.within(self.model):
            averaged = whole_weights(self.model)
        stored = {
            "model": whole_weights(self.model),
            "average": averaged,
            "optimizer": whole_optimizer(self.model, self.optimizer),
            "running": self.running and self.running.moments,
            "update": self.update,
            "baseline": self.baseline,
            "best": self.best,
        }
        if ranks.first:
            part = path.with_suffix(".part")
            torch.save(stored, part)
            os.replace(part, path)
        ranks.wait()

    def load(self, path: Path) -> None:
        """Raises CheckpointError when the file is not of this recipe."""
        stored = torch.load(path, map_location="cpu", weights_only=True)
        try:
            set_weights(self.model, stored["average"])
            self.average.take(self.model)
            set_weights(self.model, stored["model"])
            set_optimizer(self.model, self.optimizer, stored["optimizer"])
            moments, self.update = stored["running"], stored["update"]
            self.baseline, self.best = stored["baseline"], stored["best"]
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: is not a checkpoint of this recipe ({reason}); give another --resume"
            ) from error
        if self.running is not None:
            self.running.moments = {name: tuple(pair) for name, pair in (moments or {}).items()}
