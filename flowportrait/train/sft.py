"""`flowportrait train sft`: supervised flow matching (§3.1, §4.1) of a model on encoded clips.

An update: rows of packed clips from the stream of data, each row on one process (or shared by a
few), Eq. 2 averaged over the video tokens of all of them. One process or many make the same update;
a killed run makes the one it would have made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from flowportrait.catalogue import kind_of
from flowportrait.config import Frozen, load_recipe, read_values
from flowportrait.data.rows import Cut, Loaded, Rows, RowsConfig
from flowportrait.errors import ConfigError, DataError
from flowportrait.flow import draw_times
from flowportrait.model.lora import LoraConfig, merged
from flowportrait.model.mot import MoT
from flowportrait.modeldir import ModelSpec, SamplingConfig, load_spec
from flowportrait.precision import matmul_precision
from flowportrait.registry import find_model
from flowportrait.train.encode import parts_digest
from flowportrait.train.objective import CleanRow, velocity_errors
from flowportrait.train.parallel import ParallelConfig, Ranks, whole_weights
from flowportrait.train.run import (
    Figures,
    OptimizerConfig,
    Run,
    RunConfig,
    TrainState,
    UpdatePart,
    train_loop,
)
from flowportrait.train.trainable import (
    TrainedSet,
    as_stored,
    build,
    check_weights,
    choose_trained,
)
from flowportrait.train.tuned import Story, data_names, write_tuned

HELD_OUT_ROW = 2**32  # held-out clips draw their noise where no row of an update does


class SftRunConfig(RunConfig):
    """§4.1's 300k updates. `sample_every` is how often held-out clips are looked at and the model
    is written.
    """

    num_updates: int = 300_000  # §4.1
    log_every: int = 10
    checkpoint_every: int = 500
    sample_every: int = 5000


class SftOptimizerConfig(OptimizerConfig):
    """§4.1: AdamW, 5e-5, betas 0.9 and 0.95. Unstated: warm-up and average (BAGEL's), largest
    gradient norm.
    """

    warmup_updates: int = 1000
    ema_decay: float = 0.9999


class SftRecipe(Frozen):
    """All settings of a supervised fine-tuning run. Defaults are §4.1's."""

    run: SftRunConfig
    start_from: str = Field(
        description="model to start from, with the codec and encoders that encoded the clips"
    )
    name: str | None = Field(
        None, description="name of the trained model; none: the model's name and '-sft'"
    )
    device: str = "auto"
    data: RowsConfig
    trained: TrainedSet = Field(
        "full",
        description="weights to train: the paper trains all; generation and lora need less memory",
    )
    lora: LoraConfig = LoraConfig()
    optimizer: SftOptimizerConfig = SftOptimizerConfig()
    time_shift: float = Field(
        4.0,
        gt=0,
        description="shift of the logit-normal distribution of t, drawn once per clip. Unstated",
    )
    sampling: SamplingConfig | None = Field(
        None,
        description="default sampling settings of the trained model; none: those of start_from",
    )
    num_held_out: int = Field(32, ge=0, description="number of held-out clips whose loss is logged")
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # dtype of the exported weights
    parallel: ParallelConfig = ParallelConfig()


@dataclass
class SftSession:
    """All that a run holds while it runs."""

    config: SftRecipe
    spec: ModelSpec
    directory: Path  # of the model that training starts from
    ranks: Ranks
    run: Run
    rows: Rows
    state: TrainState

    @property
    def model(self) -> MoT:
        """The generator, sharded over the ranks."""
        return self.state.module


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Train by a TOML recipe; `<run>/model` is a model directory that `flowportrait generate
    --model` takes.

    Raises ConfigError, DataError or CheckpointError before anything is computed, TrainingError for
    a run that fails.
    """
    _refuse_another_kind(recipe)
    session = open_session(load_recipe(recipe, SftRecipe, overrides or []), resume)
    train_loop(
        session.run,
        session.state,
        session.config.optimizer,
        lambda update: parts_of(session, update),
        lambda update: look(session),
    )
    return session.run.directory


def _refuse_another_kind(recipe: str | Path) -> None:
    """A recipe that names a codec run is of another trainer, which once was this command too."""
    if "codec" in read_values(recipe):
        kind = kind_of(recipe)
        raise ConfigError(
            f"{recipe}: not a recipe of `train sft`; run: flowportrait train {kind} {recipe}"
        )


def open_session(config: SftRecipe, resume: str | None) -> SftSession:
    """Everything loaded, continued from the checkpoint if there is one."""
    directory = find_model(config.start_from)
    spec = load_spec(directory)
    rows = Rows(config.data, spec.model, config.run.seed)
    for dataset in rows.sets:
        if dataset.header.made_of != parts_digest(spec):
            raise DataError(
                f"{dataset.root}: was encoded with the parts of {dataset.header.model}, which are"
                f" not those of {config.start_from}; encode the clips with --model"
                f" {config.start_from}"
            )
    ranks = Ranks.join(config.device, config.parallel.sequence)
    if config.data.num_rows % ranks.data[1]:
        raise ConfigError(
            f"data.num_rows {config.data.num_rows}: got {ranks.data[1]} groups of processes; it"
            " must be a multiple"
        )
    run = Run(config.run, config, resume, ranks)
    check_weights(directory, spec, ranks)
    choose = partial(choose_trained, trained=config.trained, lora=config.lora)
    model = build(spec.model, choose, directory, ranks, config.parallel)
    state = TrainState.fresh(model, config.optimizer, keeps_frozen=False)
    run.restore(state)
    return SftSession(config, spec, directory, ranks, run, rows, state)


def parts_of(session: SftSession, update: int) -> Iterator[UpdatePart]:
    """This rank's rows of an update, one after another. Eq. 2 is averaged over the tokens of all
    rows of all ranks.
    """
    drawn, following = session.rows.draw(session.state.position)
    num_tokens = sum(cut.num_learnt_tokens for row in drawn for cut in row)
    group, num_groups = session.ranks.data
    for number in range(group, len(drawn), num_groups):
        row = session.rows.load(drawn[number], session.ranks.device)
        losses = clip_losses(session, row, session.run.torch_rng(update, number)) / num_tokens
        yield UpdatePart(
            losses.sum(),
            {"clips": len(row.cuts) / session.ranks.sequence},
            names(row.cuts),
            losses.detach(),
        )
    session.state.position = following


def clip_losses(session: SftSession, row: Loaded, rng: torch.Generator) -> Tensor:
    """Eq. 2 of each clip of a row [clips], summed over the video tokens that this rank computes.
    One t a clip.
    """
    t = []
    noise = []
    for cut, latents in zip(row.cuts, row.latents, strict=True):
        times = draw_times((1, 1), session.config.time_shift, rng).repeat(1, cut.grid.latent_frames)
        times[:, : cut.prefix] = 0
        t.append(times)
        noise.append(torch.randn(latents.shape, generator=rng).to(latents.device))
    share = session.ranks.share(sum(row.layout.video_lengths))
    clean = CleanRow(row.layout, row.audio, row.image, row.latents)
    with matmul_precision(row.audio.device.type):
        error = velocity_errors(
            session.model, clean, torch.cat(t, dim=1).to(row.audio.device), noise, share
        )
    lengths = row.layout.video_lengths if share is None else share.lengths(row.layout.video_lengths)
    return torch.stack([own.sum() for own in error.square().mean(-1)[0].split(lengths)])


def names(cuts: Sequence[Cut]) -> list[str]:
    """The clips of a row, with their dataset."""
    return [f"{cut.source.root.name}/{cut.clip.id}" for cut in cuts]


def look(session: SftSession) -> Figures:
    """The loss of held-out clips under fixed noise with the averaged weights, and these as a model
    directory.
    """
    with session.state.average.within(session.model):
        figures = {}
        if session.rows.held_out:
            figures = {"held_out_loss": held_out_loss(session)}
        export(session, session.run.directory / "model", figures)
    return figures


@torch.no_grad()
def held_out_loss(session: SftSession) -> float:
    """Mean over clips. Every group of processes computes as many, because weights are gathered by
    all together; those past the last are begun anew and not counted.
    """
    group, num_groups = session.ranks.data
    count = min(session.config.num_held_out, len(session.rows.held_out))
    found: dict[int, float] = {}
    for turn in range(-(-count // num_groups)):
        index = (turn * num_groups + group) % count
        row = session.rows.load([session.rows.held_out_cut(index)], session.ranks.device)
        loss = clip_losses(session, row, session.run.torch_rng(0, HELD_OUT_ROW + index))
        found[index] = float(loss[0]) / row.cuts[0].num_learnt_tokens
    counted = (
        loss
        for rank, losses in enumerate(session.ranks.gather(found))
        for index, loss in losses.items()
        if index % num_groups == rank // session.ranks.sequence
    )
    if count:
        return sum(counted) / count
    return float("nan")


def export(session: SftSession, directory: Path, figures: Figures) -> None:
    """The model as it is now, as a model directory with the parts of the one that training started
    from.
    """
    config = session.config
    state = session.state
    precise = config.save_dtype == "float32"
    weights = whole_weights(session.model, None if precise else torch.bfloat16)
    if session.ranks.first:
        if precise:
            stored = as_stored(weights, session.directory)
            weights = {name: value.float() for name, value in stored.items()}
        plain = weights
        if config.trained == "lora":
            plain = merged(weights, config.lora)
        changes = {
            "name": config.name or f"{session.spec.name}-sft",
            "sampling": config.sampling or session.spec.sampling,
            "untrained": (),
        }
        how = f"Supervised flow matching (`flowportrait train sft`, trained: {config.trained})"
        story = Story(
            how, state.update, config.run.num_updates, data_names(config.data.encoded), figures
        )
        write_tuned(directory, session.directory, session.spec, changes, plain, story)
    session.ranks.wait()
