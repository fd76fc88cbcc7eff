"""A training run on disk: resolved config, JSONL log, checkpoints; and the plain loop every stage shares.

Everything random in update `n` is drawn from generators seeded by (seed, n), so a run that was killed continues with
exactly the update it would have made: weights, optimizer and average come from the checkpoint, the rest from `n`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flowportrait.config import Frozen, save_resolved
from flowportrait.errors import CheckpointError, ConfigError


class OptimizerConfig(Frozen):
    """AdamW as in §4.1; the learning rate warms up linearly, holds, and falls to `final_scale` over the last part."""

    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup_updates: int = 0
    decay_from: float = 1.0  # share of the run after which the rate falls; 1: never (the paper's constant rate)
    final_scale: float = 0.05
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.999

    def rate_at(self, update: int, num_updates: int) -> float:
        """Learning rate of one update."""
        warm = min(1.0, (update + 1) / max(1, self.warmup_updates))
        hold = self.decay_from * num_updates
        fall = (update - hold) / max(1.0, num_updates - hold) if update > hold else 0.0
        return self.learning_rate * warm * (1 - (1 - self.final_scale) * (1 - math.cos(math.pi * fall)) / 2)


class RunConfig(Frozen):
    """Where a run lives and how often it speaks."""

    directory: Path
    seed: int = 0
    num_updates: int
    log_every: int = 20
    checkpoint_every: int = 200
    sample_every: int = 500


@dataclass
class TrainState:
    """What a checkpoint holds: the trained module, its average, the optimizer and the number of updates made."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: dict[str, Tensor]
    update: int = 0

    @classmethod
    def fresh(cls, module: nn.Module, config: OptimizerConfig) -> TrainState:
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        return cls(module, optimizer, {name: value.detach().clone() for name, value in module.state_dict().items()})

    def save(self, path: Path) -> None:
        """Atomically: a kill during the write leaves the checkpoint before it untouched."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema,
                "update": self.update,
            },
            part,
        )
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Raises CheckpointError when the file is not of this module."""
        stored = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.module.load_state_dict(stored["module"])
            self.optimizer.load_state_dict(stored["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: is not a checkpoint of this recipe ({reason}); give another --resume"
            ) from error
        self.ema, self.update = stored["ema"], stored["update"]

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, to ship and to sample with."""
        return self.ema

    def average(self, decay: float) -> None:
        """One step of the moving average, with the usual warm-up of the decay."""
        decay = min(decay, (1 + self.update) / (10 + self.update))
        for name, value in self.module.state_dict().items():
            if value.dtype.is_floating_point:
                self.ema[name].lerp_(value, 1 - decay)
            else:
                self.ema[name].copy_(value)


def load_weights(module: nn.Module, path: Path, may_lack: tuple[str, ...] = ()) -> bool:
    """Fill `module` from a safetensors file; True if nothing was lacking. Weights whose names start with one of
    `may_lack` keep what they are where the file has none of their shape. Raises CheckpointError for an absent or
    another file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not there; give a directory that holds {path.name}")
    own = {name: value for name, value in module.state_dict().items() if may_lack and name.startswith(may_lack)}
    weights = {
        name: value for name, value in load_file(path).items() if name not in own or own[name].shape == value.shape
    }
    try:
        module.load_state_dict({**own, **weights})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path}: of another shape than the recipe ({reason}); make them agree") from error
    return own.keys() <= weights.keys()


class Run:
    """A run's directory and log. `resume` is "auto" (continue if it can), a directory, or None (start a new run).

    Raises ConfigError where a new run would overwrite one that has a checkpoint.
    """

    def __init__(self, config: RunConfig, recipe: Frozen, resume: str | None = "auto"):
        self.config = config
        self.directory = Path(config.directory)
        self.checkpoint = self.directory / "checkpoint.pt"
        source = self.directory if resume in ("auto", None) else Path(resume)
        self.resume_from = source / "checkpoint.pt" if resume else None
        if resume not in ("auto", None) and not self.resume_from.is_file():
            raise ConfigError(f"--resume: no checkpoint.pt in {source}; give a run's directory, or 'auto'")
        if resume is None and self.checkpoint.is_file():
            raise ConfigError(
                f"{self.directory}: holds the checkpoint of a run; go on with it by --resume auto, "
                "or give another run.directory"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        save_resolved(recipe, self.directory / "config.json")

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return self.resume_from is not None and self.resume_from.is_file()

    def restore(self, state: TrainState) -> None:
        """Continue from the checkpoint if there is one to continue from."""
        if self.resumes:
            state.load(self.resume_from)
            self.log(event="resumed", update=state.update)

    def log(self, **fields: Any) -> None:
        """One JSON line in log.jsonl and on the terminal."""
        fields = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in fields.items()}
        line = json.dumps({"time": round(time.time(), 1), **fields})
        with (self.directory / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def numpy_rng(self, update: int) -> np.random.Generator:
        """Draws of the data for one update."""
        return np.random.default_rng([self.config.seed, update])

    def torch_rng(self, update: int) -> torch.Generator:
        """Draws of noise and time for one update."""
        seed = np.random.SeedSequence([self.config.seed, update, 1]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))


def train_loop(
    run: Run,
    state: TrainState,
    optimizer_config: OptimizerConfig,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    sample: Callable[[int], dict[str, float]],
) -> None:
    """Updates until the run's count is reached. `loss_of(update)` gives the loss and figures to log,
    `sample(update)` looks at the model and gives figures. A non-finite update is skipped and named in the log."""
    config, num_updates = run.config, run.config.num_updates
    figures: dict[str, list[float]] = {}
    started, first = time.monotonic(), state.update
    while state.update < num_updates:
        update = state.update
        for group in state.optimizer.param_groups:
            group["lr"] = optimizer_config.rate_at(update, num_updates)
        loss, parts = loss_of(update)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(state.module.parameters(), optimizer_config.max_gradient_norm)
        if torch.isfinite(norm):
            state.optimizer.step()
        else:
            run.log(event="skipped", update=update, reason="gradient is not finite")
        state.optimizer.zero_grad(set_to_none=True)
        state.update += 1
        state.average(optimizer_config.ema_decay)
        for name, value in {"loss": float(loss.detach()), "gradient_norm": float(norm), **parts}.items():
            figures.setdefault(name, []).append(value)
        if state.update % config.log_every == 0:
            speed = (time.monotonic() - started) / (state.update - first)
            means = {name: float(np.mean(values)) for name, values in figures.items()}
            run.log(
                update=state.update,
                **means,
                s_per_update=speed,
                minutes_left=speed * (num_updates - state.update) / 60,
            )
            figures.clear()
        if state.update % config.sample_every == 0 or state.update == num_updates:
            run.log(event="sample", update=state.update, **sample(state.update))
        if state.update % config.checkpoint_every == 0 or state.update == num_updates:
            state.save(run.checkpoint)
