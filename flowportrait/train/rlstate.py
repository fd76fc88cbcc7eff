"""The state of a run of reinforcement learning: its recipe, what its checkpoint holds, and all that
it holds while it runs.

With the recipe a checkpoint determines every later update.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from flowportrait.arrays import Array
from flowportrait.config import Frozen
from flowportrait.files import json_text
from flowportrait.generate import Pipeline
from flowportrait.model.lora import LoraConfig
from flowportrait.sampling import Noise, Schedule, WindowRule
from flowportrait.scoring.desk import ScoringDesk
from flowportrait.scoring.reward import Measure, RewardConfig, Statistics
from flowportrait.scoring.run import ScoringConfig
from flowportrait.train import checkpoint
from flowportrait.train.checkpoint import Checkpoints, State
from flowportrait.train.grpo import ObjectiveConfig
from flowportrait.train.parallel import Average, ParallelConfig, Ranks
from flowportrait.train.prompts import Prompts, PromptsConfig
from flowportrait.train.rollout import Sharing
from flowportrait.train.run import Run, RunConfig
from flowportrait.train.step import OptimizerConfig, Stepper


class RlRunConfig(RunConfig):
    """§4.1's 400 updates. `sample_every` is how often held-out clips are looked at."""

    num_updates: int = 400
    log_every: int = 1
    checkpoint_every: int = 10
    sample_every: int = 20


class RolloutConfig(Frozen):
    """§4.1's sampling: 15 evaluations, eta 0.5 in a window of 1, 128 videos an update in groups of
    4, no guidance.
    """

    evaluations: int = Field(
        15, ge=2, description="network evaluations per video; the paper's 15 steps (§4.1)"
    )
    shift: float = Field(
        3.0,
        gt=0,
        description="time shift of the schedule; use the model's own. Unstated in the paper",
    )
    eta: float = Field(
        0.5, gt=0, le=2, description="noise level of a stochastic step; cps allows up to 1"
    )
    noise: Noise = Field(
        "cps",
        description=(
            "kind of stochastic step: cps is Eq. 9, flow-sde is Flow-GRPO's (arXiv:2505.05470)"
        ),
    )
    window: WindowRule = WindowRule()
    group_size: int = Field(4, ge=2, description="number of videos per prompt, G of §4.1")
    num_groups: int = Field(
        32, ge=1, description="groups per update; 32 groups of 4 are the 128 videos of §4.1"
    )
    shared_noise: bool = Field(
        True,
        description="start all videos of a group from the same noise, so that their rewards differ "
        "only by the noise in the window and most of the computation is shared. Unstated",
    )
    sharing: Sharing = Sharing()

    @property
    def schedule(self) -> Schedule:
        """The times of a rollout."""
        return Schedule(self.evaluations, self.shift)


class WatchConfig(Frozen):
    """Values logged beside the reward, and limits that raise alarms. All Unstated in the paper."""

    num_clips: int = Field(16, ge=1, description="number of held-out clips per evaluation")
    num_videos: int = Field(
        4, ge=0, description="number of these that are saved as mp4 with their scores"
    )
    evaluations: int | None = Field(
        None,
        ge=1,
        description="network evaluations per held-out clip; none: the model's own number",
    )
    monitors: tuple[str, ...] = (
        "motion_px",
        "jitter",
        "colour_drift",
        "difference_energy",
        "sharpness",
    )
    held_out_scorers: tuple[str, ...] = Field(
        (), description="scorers to log that are not part of the reward"
    )
    least_motion: float = Field(
        0.5, ge=0, description="alarm static_collapse: motion below this share of the initial value"
    )
    most_jitter: float = Field(
        1.5, ge=1, description="alarm jitter: jitter above this multiple of the initial value"
    )
    most_drift: float = Field(
        2.0, ge=1, description="alarm colour_drift: drift above this multiple of the initial value"
    )
    stop_on_alarm: bool = False
    gradient_noise: bool = Field(
        False, description="log the gradient noise over groups; takes memory for one more gradient"
    )


class RlRecipe(Frozen):
    """All settings of a reinforcement-learning run. Defaults are §4.1's."""

    run: RlRunConfig
    model: str = Field(description="model to start from: a shipped model or a model directory")
    name: str | None = Field(
        None, description="name of the tuned model; none: the model's name and '-rl'"
    )
    device: str = "auto"
    trained: Literal["generation", "all", "lora"] = Field(
        "generation",
        description=(
            "weights to train. generation: the generation expert alone, as Flow-GRPO does with"
            " BAGEL, so that keys and values of audio and portrait stay fixed; all: both experts;"
            " lora: adapters on the generation expert, which need less memory. Unstated"
        ),
    )
    lora: LoraConfig = LoraConfig()
    recompute: bool = Field(
        True,
        description=(
            "activation checkpointing: keep only layer inputs and recompute the rest (12 GB instead"
            " of 143 for 5 s); turn it off if memory allows"
        ),
    )
    prompts: PromptsConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(learning_rate=1e-5, ema_decay=0.9),
        description=(
            "§4.1. Unstated: the EMA of the weights (0.9 in Flow-GRPO; 0: none) and the maximum"
            " gradient norm"
        ),
    )
    parallel: ParallelConfig = ParallelConfig()
    watch: WatchConfig = WatchConfig()
    scoring: ScoringConfig = Field(
        ScoringConfig(), description="settings of the judge, and of scorers by name"
    )

    @property
    def asked(self) -> list[str]:
        """Every measure that the run asks, once."""
        watch = self.watch
        return list(
            dict.fromkeys(
                [
                    *self.reward.scorers,
                    *watch.monitors,
                    *watch.held_out_scorers,
                ]
            )
        )

    @model_validator(mode="after")
    def _fits(self) -> RlRecipe:
        """Refuses settings that exclude each other."""
        if self.run.num_updates % self.objective.updates_per_rollout:
            raise ValueError(
                f"num_updates {self.run.num_updates}: must be a multiple of updates_per_rollout "
                f"{self.objective.updates_per_rollout}"
            )
        if self.rollout.noise == "cps" and self.rollout.eta > 1:
            raise ValueError(f"rollout.eta {self.rollout.eta:g}: cps allows at most 1")
        seen = sorted(set(self.watch.held_out_scorers) & set(self.reward.scorers))
        if seen:
            raise ValueError(
                f"watch.held_out_scorers: {seen[0]} is in the reward; name scorers that are not"
            )
        return self._sharing_fits()

    def _sharing_fits(self) -> RlRecipe:
        """Checks that the things a group shares fit its noise. Raises ValueError."""
        if not self.rollout.shared_noise and (
            self.rollout.sharing.prefix or self.rollout.sharing.window
        ):
            raise ValueError(
                "shared_noise is off, so sharing.prefix and sharing.window must be off, too"
            )
        if self.rollout.sharing.window and not self.rollout.sharing.prefix:
            raise ValueError("sharing.window needs sharing.prefix; turn on both")
        return self


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
    turned_round: bool = False  # whether the baseline is of a time when measures had no direction
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
        self.update = told["update"]
        self.best = told["best"]
        self.turned_round = not told.get("as_measured", False)
        self.baseline = told["baseline"] and {
            name: [math.nan if value is None else value for value in values]
            for name, values in told["baseline"].items()
        }
        if self.running is not None:
            self.running.moments = {
                name: tuple(pair) for name, pair in (told["running"] or {}).items()
            }

    def stored(self) -> State:
        """Content of a checkpoint, by name."""
        told = {
            "update": self.update,
            "baseline": self.baseline,
            "best": self.best,
            "as_measured": True,
            "running": self.running and self.running.moments,
        }
        return {
            "model": dict(self.model.state_dict()),
            "average": self.average.weights,
            "optimizer": checkpoint.optimizer_state(self.model, self.optimizer),
            "told": json_text(told),
        }


@dataclass
class RlSession:
    """All that a run holds while it runs."""

    config: RlRecipe
    ranks: Ranks
    run: Run
    pipeline: Pipeline
    base: Pipeline | None  # the model as it was, where a KL to it or the lips' rest is asked for
    prompts: Prompts
    desk: ScoringDesk
    state: RlState
    stepper: Stepper
    evaluations: int = 0  # calls of the network in sampling, since the last log line

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Measures of clips, by name."""
        return self.desk.measures

    @cached_property
    def looks_at_frames(self) -> bool:
        """Whether the reward needs pixels; without it clips of an update are not decoded."""
        return any(self.measures[name].reads == "frames" for name in self.config.reward.scorers)

    @cached_property
    def rollout_measures(self) -> list[str]:
        """Measures of an update's clips: the reward, and of the rest those that need no
        decoding.
        """
        rewards = self.config.reward.scorers
        return [
            name
            for name, measure in self.measures.items()
            if self.looks_at_frames or name in rewards or measure.reads == "points"
        ]

    def turn_baseline(self) -> None:
        """Before measures had a direction, scores of which less is better were kept negative."""
        if not self.state.turned_round:
            return
        for name, values in (self.state.baseline or {}).items():
            measure = self.measures[name]
            if measure.better == "lower" and not measure.monitor:
                self.state.baseline[name] = [-value for value in values]
        self.state.turned_round = False

    def as_rewards(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """The scores of the reward's terms so that more is better."""
        return {
            name: self.measures[name].as_reward(np.asarray(scores[name], float))
            for name in self.config.reward.scorers
        }

    def log(self, **fields: object) -> None:
        """One line for all ranks."""
        if self.ranks.first:
            self.run.log(**fields)
