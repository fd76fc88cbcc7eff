"""One optimizer step as every training takes it: clipped, at the rate of its update, and left out
by all ranks together where there is no finite gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, isfinite, pi
from pathlib import Path

import torch
from torch import nn

from flowportrait.config import Frozen
from flowportrait.errors import TrainingError
from flowportrait.train.parallel import as_float, trained_weights

MAX_SKIPPED = 20  # updates in a row without a step, after which a run has failed


class OptimizerConfig(Frozen):
    """AdamW as in §4.1; the learning rate warms up linearly, holds, and falls to `final_scale` over
    the last part.
    """

    learning_rate: float = 5e-5  # §4.1; 1e-5 for RL
    betas: tuple[float, float] = (0.9, 0.95)  # §4.1
    weight_decay: float = 0.0
    warmup_updates: int = 0
    decay_from: float = (
        1.0  # share of the run after which the rate decays; 1: constant rate, as in the paper
    )
    final_scale: float = 0.05  # final learning rate as a share of the full one
    max_gradient_norm: float = 1.0  # gradients are clipped to this norm
    ema_decay: float = 0.999  # decay of the average (EMA) of the weights that is saved

    def rate_at(self, update: int, num_updates: int) -> float:
        """Learning rate of one update."""
        warm = min(1.0, (update + 1) / max(1, self.warmup_updates))
        hold = self.decay_from * num_updates
        fall = 0.0
        if update > hold:
            fall = (update - hold) / max(1.0, num_updates - hold)
        return self.learning_rate * warm * (1 - (1 - self.final_scale) * (1 - cos(pi * fall)) / 2)

    def build(self, module: nn.Module) -> torch.optim.AdamW:
        """The optimizer of all that learns in `module`, its state in place: a checkpoint then holds
        the same names before and after the first update, also of weights that no gradient reaches.
        """
        trained = list(trained_weights(module).values())
        on_gpu = any(p.is_cuda for p in trained)
        optimizer = torch.optim.AdamW(
            trained, lr=0.0, betas=self.betas, weight_decay=self.weight_decay, fused=on_gpu or None
        )
        for p in trained:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for state in optimizer.state.values():
            state["step"].zero_()
        optimizer.param_groups[0]["lr"] = self.learning_rate
        return optimizer


@dataclass
class Stepper:
    """The optimizer steps of the run at `directory`. All ranks call it together: the norm of a
    gradient is that of all shards, so they decide alike.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    config: OptimizerConfig
    num_updates: int
    directory: Path
    skipped: int = 0  # updates in a row

    def clip(self) -> float:
        """Limits the norm of the gradient and gives what it was."""
        trained = trained_weights(self.module).values()
        return as_float(nn.utils.clip_grad_norm_(trained, self.config.max_gradient_norm))

    def take(
        self, update: int, norm: float, report: Callable[[], None], teaches: bool = True
    ) -> bool:
        """The step of an update whose gradient has this `norm`. Without a finite one, or where it
        `teaches` nothing, the step is left out and `report` says so. Raises TrainingError after 20
        of these in a row.
        """
        takes = teaches and isfinite(norm)
        if takes:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.rate_at(update, self.num_updates)
            self.optimizer.step()
        else:
            report()
        return self._counted(takes)

    def _counted(self, takes: bool) -> bool:
        """Counts skipped updates in a row. Raises TrainingError at too many."""
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped = 0 if takes else self.skipped + 1
        if self.skipped == MAX_SKIPPED:
            raise TrainingError(
                f"{self.directory}: {self.skipped} updates in a row had no finite gradient or "
                "nothing to learn from; see 'skipped' in log.jsonl for the reasons, lower "
                "optimizer.learning_rate, and resume with --resume auto"
            )
        return takes
