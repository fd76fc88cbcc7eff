"""What a checkpoint of reinforcement learning holds; with the recipe it determines every later
update.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowportrait.scoring.reward import Statistics
from flowportrait.train import checkpoint
from flowportrait.train.checkpoint import Checkpoints
from flowportrait.train.parallel import Average, Ranks
from flowportrait.train.run import OptimizerConfig


@dataclass
class RlState:
    """The model and its average, the optimizer, the number of updates made, running statistics of
    the reward, and the held-out figures of the untuned model and of the best one so far.
    """

    model: nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    running: Statistics | None
    update: int = 0
    baseline: dict[str, list[float]] | None = None
    best: float | None = None

    @classmethod
    def fresh(cls, model: nn.Module, config: OptimizerConfig, running: bool) -> RlState:
        average = Average(model, config.ema_decay)
        return cls(model, average, config.build(model), Statistics() if running else None)

    def save(self, checkpoints: Checkpoints) -> None:
        """As a checkpoint of its run; all ranks take part."""
        checkpoints.save(self.update, self.stored())

    def load(self, path: Path, ranks: Ranks) -> None:
        """Raises CheckpointError when the checkpoint is not of this recipe."""
        stored = self.stored()
        checkpoint.load(path, stored, ranks)
        checkpoint.set_optimizer_state(self.model, self.optimizer, stored["optimizer"])
        told = json.loads(stored["told"])
        self.update, self.baseline, self.best = (
            told[name] for name in ("update", "baseline", "best")
        )
        if self.running is not None:
            self.running.moments = {
                name: tuple(pair) for name, pair in (told["running"] or {}).items()
            }

    def stored(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        told = {
            "update": self.update,
            "baseline": self.baseline,
            "best": self.best,
            "running": self.running and self.running.moments,
        }
        return {
            "model": dict(self.model.state_dict()),
            "average": self.average.weights,
            "optimizer": checkpoint.optimizer_state(self.model, self.optimizer),
            "told": json.dumps(told),
        }
