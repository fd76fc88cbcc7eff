"""A training run on disk: resolved config, JSONL log, checkpoints; and the plain loop every stage
shares.

Everything random in update `n` is drawn from generators seeded by (seed, n), so a run that was
killed continues with exactly the update it would have made: weights, optimizer, average and the
place in the data come from the checkpoint, the rest from `n`. Where several processes make one
update, all of them run the same loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from flowportrait.arrays import Rng
from flowportrait.config import Frozen, save_resolved
from flowportrait.errors import CheckpointError, ConfigError, TrainingError
from flowportrait.files import drop_torn_line, json_text
from flowportrait.train import checkpoint
from flowportrait.train.checkpoint import Checkpoints, State
from flowportrait.train.parallel import Average, Ranks, trained_weights
from flowportrait.train.step import OptimizerConfig, Stepper
from flowportrait.train.stopping import Stop

Figures = dict[str, float]


class RunConfig(Frozen):
    """Directory of a run and intervals of its log, checkpoints and samples."""

    directory: Path = Field(description="directory of the run")
    seed: int = 0
    num_updates: int
    log_every: int = 20
    checkpoint_every: int = Field(200, ge=1, description="updates")
    checkpoint_minutes: float | None = Field(
        30.0,
        gt=0,
        description="also write a checkpoint when this long has passed; none: by updates alone",
    )
    checkpoints_kept: int = Field(
        3,
        ge=1,
        description="number of most recent checkpoints to keep; one more exists during a write",
    )
    checkpoint_beside: bool = Field(
        False, description="write checkpoints in a background thread, from a copy in CPU memory"
    )
    sample_every: int = 500


@dataclass
class TrainState:
    """Content of a checkpoint: the trained module, its average, the optimizer, the number of
    updates made and how many clips of the endless stream of data they have seen. Weights that do
    not learn are left out if `keeps_frozen` is false: the recipe then says where they come from.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    update: int = 0
    position: int = 0
    keeps_frozen: bool = True

    @classmethod
    def fresh(
        cls, module: nn.Module, config: OptimizerConfig, keeps_frozen: bool = True
    ) -> TrainState:
        average = Average(module, config.ema_decay)
        return cls(module, config.build(module), average, keeps_frozen=keeps_frozen)

    def stored(self) -> State:
        """Content of a checkpoint, by name."""
        module = dict(self.module.state_dict())
        if not self.keeps_frozen:
            fixed = (
                dict(self.module.named_parameters()).keys() - trained_weights(self.module).keys()
            )
            module = {name: value for name, value in module.items() if name not in fixed}
        return {
            "module": module,
            "optimizer": checkpoint.optimizer_state(self.module, self.optimizer),
            "average": self.average.weights,
            "progress": torch.tensor([self.update, self.position]),
        }

    def save(self, checkpoints: Checkpoints) -> None:
        """As a checkpoint of its run; all ranks take part."""
        checkpoints.save(self.update, self.stored())

    def load(self, path: Path, ranks: Ranks) -> None:
        """Continues from a checkpoint. Raises CheckpointError when it is not of this module."""
        stored = self.stored()
        checkpoint.load(path, stored, ranks)
        checkpoint.set_optimizer_state(self.module, self.optimizer, stored["optimizer"])
        self.update, self.position = stored["progress"].tolist()

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights of a module that is not sharded, to ship and to sample with."""
        return {**self.module.state_dict(), **self.average.weights}


def load_weights(module: nn.Module, path: Path, may_lack: tuple[str, ...] = ()) -> bool:
    """Fill `module` from a safetensors file; True if nothing was lacking. Weights whose names start
    with one of `may_lack` keep what they are where the file has none of their shape. Raises
    CheckpointError for an absent or another file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; give a directory with {path.name}")
    own = {
        name: value
        for name, value in module.state_dict().items()
        if may_lack and name.startswith(may_lack)
    }
    weights = {
        name: value
        for name, value in load_file(path).items()
        if name not in own or own[name].shape == value.shape
    }
    try:
        module.load_state_dict({**own, **weights})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(
            f"{path}: does not match the sizes in the recipe ({reason}); change the recipe or the"
            " weights"
        ) from error
    return own.keys() <= weights.keys()


@dataclass(frozen=True)
class Turn:
    """Steps to take after an update: end the run here, write a checkpoint."""

    stops: bool
    saves: bool


class Run:
    """A run's directory, log and checkpoints. `resume` is "auto" (continue if it can), a directory,
    or None (start a new run). Of several ranks the first one writes.

    Raises ConfigError where a new run would overwrite one that has a checkpoint, CheckpointError
    where it cannot go on because no checkpoint is whole. A damaged one before a whole one is named
    in the log.
    """

    def __init__(
        self,
        config: RunConfig,
        recipe: Frozen,
        resume: str | None = "auto",
        ranks: Ranks | None = None,
    ):
        self.config = config
        self.ranks = ranks or Ranks()
        self.directory = Path(config.directory)
        self.stop = Stop()
        self._saved_at = time.monotonic()
        source = self.directory if resume in ("auto", None) else Path(resume)
        some = bool(checkpoint.all_of(source))
        if resume not in ("auto", None) and not some:
            raise ConfigError(
                f"--resume: no checkpoint in {source}; give a run's directory, or 'auto'"
            )
        if resume is None and some:
            raise ConfigError(
                f"{self.directory}: already contains a run; resume it with --resume auto, "
                "or give another run.directory"
            )
        self.resume_from, broken = checkpoint.newest_whole(source, self.ranks)
        self.ranks.wait()  # all have looked before the first one writes
        if self.ranks.first:
            self.directory.mkdir(parents=True, exist_ok=True)
            save_resolved(recipe, self.directory / "config.json")
            if self._log.is_file():
                drop_torn_line(self._log)
        self.ranks.wait()
        self.checkpoints = Checkpoints(
            self.directory, self.ranks, config.checkpoints_kept, config.checkpoint_beside
        )
        for path, problem in broken:
            self.log(
                event="broken_checkpoint",
                checkpoint=path.name,
                problem=problem,
                taken=self.resume_from.name,
            )

    @property
    def _log(self) -> Path:
        return self.directory / "log.jsonl"

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return self.resume_from is not None

    def restore(self, state: TrainState) -> None:
        """Continue from the checkpoint if there is one to continue from."""
        if self.resume_from is not None:
            state.load(self.resume_from, self.ranks)
            self.log(event="resumed", update=state.update)

    def turn(self, before: int, update: int) -> Turn:
        """Steps to take after the updates from `before` to `update`; the same on all ranks, which
        all ask.
        """
        told = self.ranks.gather((self.stop.asked, time.monotonic() - self._saved_at))
        config = self.config
        minutes = told[0][1] / 60
        ends = update >= config.num_updates
        every = config.checkpoint_every
        late = config.checkpoint_minutes is not None and minutes >= config.checkpoint_minutes
        stops = any(asked for asked, _ in told) and not ends
        return Turn(stops, stops or ends or late or update // every > before // every)

    def save(self, state: Any) -> None:
        """A checkpoint of `state`, which has `save(checkpoints)`; minutes count from here again."""
        state.save(self.checkpoints)
        self._saved_at = time.monotonic()

    def stopped(self, update: int) -> None:
        """Says that the run leaves before its end, with a checkpoint of this update."""
        self.checkpoints.wait()
        self.log(event="stopped", update=update, by="SIGTERM", go_on="--resume auto")

    def log(self, **fields: Any) -> None:
        """One JSON line in log.jsonl and on the terminal, by the first rank."""
        if not self.ranks.first:
            return
        fields = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in fields.items()
        }
        line = json_text({"time": round(time.time(), 1), **fields})
        path = self._log
        try:
            with path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({error.strerror}); free some space, and resume with"
                " --resume auto"
            ) from error
        print(line, flush=True)

    def numpy_rng(self, update: int) -> Rng:
        """Draws of the data for one update."""
        return np.random.default_rng([self.config.seed, update])

    def torch_rng(self, update: int, row: int | None = None) -> torch.Generator:
        """Draws of noise and time for one update, or for one row of it."""
        words = [self.config.seed, update, 1] if row is None else [self.config.seed, update, 1, row]
        seed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))


@dataclass(frozen=True)
class UpdatePart:
    """A part of an update that is sent backward at once. Losses and figures of all parts, and of
    all ranks, add up to the update's; `clips` says what the part was made of, and `clip_losses`
    [clips] what each of them brought.
    """

    loss: Tensor
    figures: Figures = field(default_factory=dict)
    clips: Sequence[str] = ()
    clip_losses: Tensor | None = None

    def suspects(self) -> list[str]:
        """The clips whose own loss is not finite."""
        if self.clip_losses is None:
            return list(self.clips)
        return [
            clip
            for clip, loss in zip(self.clips, self.clip_losses.tolist(), strict=True)
            if not isfinite(loss)
        ]


def train_loop(
    run: Run,
    state: TrainState,
    optimizer_config: OptimizerConfig,
    parts_of: Callable[[int], Iterable[UpdatePart]],
    sample: Callable[[int], Figures],
) -> bool:
    """Updates until the run's count is reached, or until SIGTERM asks for an end; gives whether all
    were made. `parts_of(update)` gives this rank's parts of an update, as many on
    every rank; `sample(update)` looks at the model and gives figures.

    An update whose gradient is not finite is skipped by all ranks together, and the log names its
    clips. Raises TrainingError after 20 of them in a row.
    """
    run.checkpoints.require_room(state.stored())
    with run.stop.listening():
        _make_updates(run, state, optimizer_config, parts_of, sample)
    run.checkpoints.wait()
    return state.update >= run.config.num_updates


def _make_updates(
    run: Run,
    state: TrainState,
    optimizer_config: OptimizerConfig,
    parts_of: Callable[[int], Iterable[UpdatePart]],
    sample: Callable[[int], Figures],
) -> None:
    config = run.config
    num_updates = run.config.num_updates
    stepper = Stepper(state.module, state.optimizer, optimizer_config, num_updates, run.directory)
    figures: list[Figures] = []
    started = time.monotonic()
    first = state.update
    while state.update < num_updates:
        made = _make_update(run, state, stepper, parts_of)
        figures += [made] if made else []
        state.update += 1
        state.average.follow(state.module, state.update)
        if state.update % config.log_every == 0:
            speed = (time.monotonic() - started) / (state.update - first)
            left = {
                "s_per_update": speed,
                "minutes_left": speed * (num_updates - state.update) / 60,
            }
            run.log(update=state.update, **_mean_figures(run.ranks, figures), **left)
            figures.clear()
        if state.update == num_updates or state.update % config.sample_every == 0:
            run.log(event="sample", update=state.update, **sample(state.update))
        turn = run.turn(state.update - 1, state.update)
        if turn.saves:
            run.save(state)
        if turn.stops:
            run.stopped(state.update)
            return


def _make_update(
    run: Run, state: TrainState, stepper: Stepper, parts_of: Callable[[int], Iterable[UpdatePart]]
) -> Figures:
    """One update's figures; none for one that was skipped."""
    rate = stepper.config.rate_at(state.update, stepper.num_updates)
    made, suspects = _send_backward(run.ranks, parts_of(state.update))
    norm = stepper.clip()
    report = lambda: _report_skipped(run, state.update, suspects)  # noqa: E731
    taken = stepper.take(state.update, norm, report)
    return {**made, "gradient_norm": norm, "rate": rate} if taken else {}


def _send_backward(
    ranks: Ranks, parts: Iterable[UpdatePart]
) -> tuple[Figures, tuple[bool, list[str]]]:
    """This rank's loss and figures, and its clips in case they are asked for: whether they are of
    parts with a broken loss, and which.
    """
    made: Figures = {"loss": 0.0}
    broken: list[str] = []
    sound: list[str] = []
    for part in parts:
        # Sharded gradients are averaged over the ranks, and losses add up.
        (part.loss * ranks.world).backward()
        loss = float(part.loss.detach())
        for name, value in {"loss": loss, **part.figures}.items():
            made[name] = made.get(name, 0.0) + value
        sound += part.clips if isfinite(loss) else []
        broken += [] if isfinite(loss) else part.suspects()
    return made, (bool(broken), broken or sound)


def _report_skipped(run: Run, update: int, suspects: tuple[bool, list[str]]) -> None:
    """Names the clips whose loss is not finite; where all are, those of the whole update."""
    everywhere = run.ranks.gather(suspects)
    surely = any(broken for broken, _ in everywhere)
    clips = sorted({clip for broken, clips in everywhere for clip in clips if broken == surely})
    reason = "loss is not finite" if surely else "gradient is not finite"
    run.log(event="skipped", update=update, reason=reason, clips=clips)


def _mean_figures(ranks: Ranks, figures: list[Figures]) -> Figures:
    """Means over the updates that were not skipped of what ranks add up to; norm and rate are the
    same on all ranks.
    """
    if not figures:
        return {}
    common = ("gradient_norm", "rate")
    everywhere = ranks.gather(figures)
    mean = lambda name: float(np.mean([made[name] for rank in everywhere for made in rank]))  # noqa: E731
    return {name: mean(name) * (1 if name in common else ranks.world) for name in figures[0]}
