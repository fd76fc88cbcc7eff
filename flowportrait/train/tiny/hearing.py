"""Before the generator: the audio encoder alone learns which mouth shapes go with which sounds.

It takes minutes, and the generator then starts from features that already speak of lips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.arrays import Rng
from flowportrait.config import Frozen
from flowportrait.encoders.mel import FRAME_HZ, MEL_HZ, MelEncoder
from flowportrait.model.mot import MoT
from flowportrait.train.run import (
    Figures,
    OptimizerConfig,
    Run,
    RunConfig,
    TrainState,
    UpdatePart,
    train_loop,
)
from flowportrait.train.tiny.crops import Drawn, LatentSource, draw_clips, mels_of, shapes_of
from flowportrait.train.tiny.lips import mean_correlation

RIDGE = 1e-2  # of a vector's variance, in translating
JAW_OPEN = 2  # among the mouth shapes: jawForward, jawLeft, jawOpen, ...


class HearingConfig(Frozen):
    """Settings of this stage, which trains on whole clips."""

    num_updates: int = 400
    num_clips: int = 12
    learning_rate: float = 1e-3


def learn_hearing(
    config: HearingConfig,
    directory: Path,
    seed: int,
    sources: list[LatentSource],
    ears: nn.ModuleDict,
) -> bool:
    """Train `ears` (encoder and shapes) in place; a run of its own in `directory`, resumed like any
    other. Gives whether it came to its end.
    """
    run_config = RunConfig(
        directory=directory,
        seed=seed,
        num_updates=config.num_updates,
        log_every=50,
        checkpoint_every=config.num_updates,
        sample_every=max(1, config.num_updates // 2),
    )
    run = Run(run_config, config)
    optimizer = OptimizerConfig(
        learning_rate=config.learning_rate, warmup_updates=50, decay_from=0.5, ema_decay=0.99
    )
    state = TrainState.fresh(ears, optimizer)
    run.restore(state)

    def parts_of(update: int) -> Iterator[UpdatePart]:
        rng = run.numpy_rng(update)
        yield UpdatePart(
            *_named_shapes(draw_clips(sources, "train", config.num_clips, rng), ears, rng)
        )

    def look(update: int) -> Figures:
        with torch.no_grad():
            drawn = draw_clips(sources, "held_out", 100, np.random.default_rng(0))
            loss, figures = _named_shapes(drawn, ears, None)
        return {"held_out_loss": float(loss), **figures}

    ended = train_loop(run, state, optimizer, parts_of, look)
    ears.load_state_dict(state.averaged())
    return ended


def shapes_loss(predicted: Float[Tensor, "b f 27"], shapes: Float[Tensor, "b f 27"]) -> Tensor:
    """Huber loss where shapes are known."""
    known = torch.isfinite(shapes)
    return F.huber_loss(predicted[known], shapes[known])


def _named_shapes(drawn: Drawn, ears: nn.ModuleDict, rng: Rng | None) -> tuple[Tensor, Figures]:
    """Loss over whole clips and the correlation of jaw opening."""
    mels = mels_of(drawn, rng)
    shapes = shapes_of(drawn)
    predicted = ears["shapes"](ears["encoder"].encode(mels, shapes.shape[1]))
    jaw = mean_correlation(predicted[..., JAW_OPEN].detach().numpy(), shapes[..., JAW_OPEN].numpy())
    return shapes_loss(predicted, shapes), {"r_jaw": jaw}


@torch.no_grad()
def translate(
    model: MoT, before: MelEncoder, after: MelEncoder, mels: Iterable[Float[Tensor, "80 m"]]
) -> None:
    """The generator's first layer after the audio encoder `before`, as if `after` stood there: what
    the old one says is guessed linearly (ridge) from what the new one does.
    """
    old = []
    new = []
    for one in mels:
        num_frames = int(one.shape[-1] / MEL_HZ * FRAME_HZ)
        old.append(before.encode(one[None], num_frames)[0].double())
        new.append(after.encode(one[None], num_frames)[0].double())
    heard = torch.cat(new)
    heard = torch.cat([heard, torch.ones(len(heard), 1)], 1)
    normal = heard.T @ heard + RIDGE * len(heard) * torch.eye(heard.shape[1])
    guess = torch.linalg.solve(normal, heard.T @ torch.cat(old)).float()
    first = model.audio_connector.fc1
    first.bias += first.weight @ guess[-1]
    first.weight.copy_(first.weight @ guess[:-1].T)
