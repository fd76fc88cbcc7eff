"""`flowportrait train sync`: the network of `sync-small` on mouths and sounds that belong together.

Three contrasts, all by cosines: a stretch against shifts of its own sound (what offsets are read
from), a stretch against the sounds of others, and single frames against the moments of all
stretches. Beside them both towers name the labelled mouth shapes, which shows them within minutes
what lips and sounds have in common. Where lips are held still while chin and cheeks speak on, no
shift may fit better than another: the judge is to look at lips.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.config import Frozen, load_recipe, save_resolved
from flowportrait.encoders.sync import SyncNetwork, shift_profile
from flowportrait.precision import matmul_precision
from flowportrait.train.run import (
    Figures,
    OptimizerConfig,
    Run,
    RunConfig,
    TrainState,
    UpdatePart,
    train_loop,
)
from flowportrait.train.tiny.batches import Pool
from flowportrait.train.tiny.codec import DataConfig
from flowportrait.train.tiny.hearing import shapes_loss
from flowportrait.train.tiny.mouths import Heard, MouthBatch, clip_mouths, mouth_batch
from flowportrait.weights import save_tensors

NUM_SHAPES = 27
SHIFTS = (1, 2, 3, 5)


class SyncLossConfig(Frozen):
    """Weights of the losses."""

    shifts: float = 1.0
    others: float = 0.5
    frames: float = 0.5
    shapes: float = 1.0
    held: float = 1.0  # weight of the distance to a uniform distribution over shifts for still lips
    held_share: float = 0.25  # share of the stretches in which the lips are held still


class SyncRecipe(Frozen):
    """All settings of a run."""

    run: RunConfig
    data: DataConfig
    network: SyncNetwork.Config = SyncNetwork.Config()
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_updates=50, decay_from=0.5, ema_decay=0.99
    )
    loss: SyncLossConfig = SyncLossConfig()
    num_clips: int = 16
    num_frames: int = 28
    reach: int = 12
    held_out_clips: int = 40


class Learner(nn.Module):
    """The network with parts for training only: a temperature and heads for mouth shapes."""

    def __init__(self, config: SyncNetwork.Config):
        super().__init__()
        self.network = SyncNetwork(config)
        self.log_sharpness = nn.Parameter(torch.tensor([3.0, 3.0, 2.3]))
        self.seen_shapes = nn.Linear(config.lip_width, NUM_SHAPES)
        self.heard_shapes = nn.Linear(config.sound.width, NUM_SHAPES)

    def loss(self, batch: MouthBatch, reach: int, config: SyncLossConfig) -> tuple[Tensor, Figures]:
        """Of one batch, with the share of stretches whose true place and true sound are found."""
        num_frames = batch.mouths.shape[1]
        network = self.network
        with matmul_precision("cpu"):
            seen = network.lips.trunk(batch.mouths)
            lips = F.normalize(network.lips.out(seen).float(), dim=-1)
            heard = network.sound.encode(batch.mels, max(batch.start) + num_frames + reach)
            heard = torch.stack(
                [
                    h[s - reach : s + num_frames + reach]
                    for h, s in zip(heard, batch.start, strict=True)
                ]
            )
            sounds = F.normalize(network.sound_out(heard).float(), dim=-1)
            middle = slice(reach, reach + num_frames)
            named = self.seen_shapes(seen).float(), self.heard_shapes(heard[:, middle]).float()
        sharp = self.log_sharpness.exp()
        windows = sounds.unfold(1, num_frames, 1)  # [b, shifts, d, f]
        all_by_shift = torch.einsum("bfd,bsdf->bs", lips, windows) / num_frames
        free = ~batch.held
        held = _unevenness(sharp[0] * all_by_shift[batch.held])
        by_shift = all_by_shift[free]
        lips = lips[free]
        sounds = sounds[free, middle]
        by_clip = torch.einsum("ifd,jfd->ij", lips, sounds) / num_frames
        true_shift = torch.full((len(lips),), reach)
        true_clip = torch.arange(len(lips))
        shifts = F.cross_entropy(sharp[0] * by_shift, true_shift)
        others = (
            F.cross_entropy(sharp[1] * by_clip, true_clip)
            + F.cross_entropy(sharp[1] * by_clip.T, true_clip)
        ) / 2
        frames = _frame_contrast(lips, sounds, sharp[2])
        shapes = shapes_loss(named[0][free], batch.shapes[free]) + shapes_loss(
            named[1], batch.shapes
        )
        loss = (
            config.shifts * shifts
            + config.others * others
            + config.frames * frames
            + config.shapes * shapes
        )
        loss = loss + config.held * held
        figures = {
            "shifts": shifts,
            "others": others,
            "frames": frames,
            "shapes": shapes,
            "held": held,
            "found_shift": (by_shift.argmax(1) == reach).float().mean(),
            "found_clip": (by_clip.argmax(1) == true_clip).float().mean(),
        }
        return loss, {name: float(value.detach()) for name, value in figures.items()}


def _unevenness(logits: Float[Tensor, "n k"]) -> Tensor:
    """Mean Kullback-Leibler divergence of softmax(logits) from the even distribution; 0 for no
    rows.
    """
    if not len(logits):
        return logits.sum()
    return -logits.log_softmax(1).mean() - math.log(logits.shape[1])


def _frame_contrast(
    lips: Float[Tensor, "b f d"], sounds: Float[Tensor, "b f d"], sharpness: Tensor
) -> Tensor:
    """Each frame against the moments of all stretches; its own neighbours, too like it, do not
    count.
    """
    num_clips, num_frames = lips.shape[:2]
    logits = sharpness * lips.flatten(0, 1) @ sounds.flatten(0, 1).T
    moment = torch.arange(num_frames).repeat(num_clips)
    clip = torch.arange(num_clips).repeat_interleave(num_frames)
    near = (clip[:, None] == clip) & ((moment[:, None] - moment).abs() == 1)
    return F.cross_entropy(logits.masked_fill(near, -1e4), torch.arange(len(logits)))


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Train by a TOML recipe; the directory holds sync.safetensors (averaged, fp16) and sync.json
    at the end.
    """
    config = load_recipe(recipe, SyncRecipe, overrides or [])
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    pool = config.data.pool()
    learner = Learner(config.network)
    heard = {str(cache.root): Heard.of(cache, learner.network.sound) for cache in pool.caches}
    state = TrainState.fresh(learner, config.optimizer)
    run.restore(state)

    def parts_of(update: int) -> Iterator[UpdatePart]:
        rng = run.numpy_rng(update)
        batch = mouth_batch(
            pool,
            heard,
            rng,
            config.num_clips,
            config.num_frames,
            config.reach,
            config.loss.held_share,
        )
        yield UpdatePart(*state.module.loss(batch, config.reach, config.loss))

    def sample(update: int) -> Figures:
        held = Learner(config.network).eval()
        held.load_state_dict(state.averaged())
        save_network(held.network, run.directory)
        return held_out_figures(held.network, pool, heard, "held_out", config.held_out_clips)

    train_loop(run, state, config.optimizer, parts_of, sample)
    return run.directory


def save_network(network: SyncNetwork, directory: Path) -> None:
    """Weights in fp16 safetensors with the sizes beside them."""
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_tensors(directory / "sync.safetensors", weights)
    save_resolved(network.config, directory / "sync.json")


@torch.inference_mode()
def held_out_figures(
    network: SyncNetwork, pool: Pool, heard: dict[str, Heard], split: str, num_clips: int
) -> Figures:
    """Share of clips (spread over a split of each source) in which the true sound fits better than
    the same shifted by some frames, in either direction, and than another clip's; and whose best of
    31 shifts is within one frame.
    """
    figures: Figures = {}
    for cache in pool.caches:
        clips = [clip for clip in cache.clips if clip.split == split and cache.tracked(clip)]
        clips = clips[:: max(1, len(clips) // num_clips)][:num_clips]
        seen = []
        sounds = []
        for clip in clips:
            with matmul_precision("cpu"):
                seen.append(network.lips(clip_mouths(cache, clip)[None])[0])
                sounds.append(
                    network.hear(heard[str(cache.root)].mels[clip.key][None], clip.num_frames)[0]
                )
        profiles = torch.stack(
            [shift_profile(a, b, 15) for a, b in zip(seen, sounds, strict=True)]
        ).numpy()
        name = cache.root.name
        for shift in SHIFTS:
            worse = [profiles[:, 15] > profiles[:, 15 + sign * shift] for sign in (-1, 1)]
            figures[f"{name}_beats_{shift}"] = float(np.mean(worse))
        crossed = [
            float(shift_profile(a, b, 0))
            for a, b in zip(seen, sounds[1:] + sounds[:1], strict=True)
        ]
        figures[f"{name}_beats_other"] = float(np.mean(profiles[:, 15] > np.array(crossed)))
        figures[f"{name}_within_1"] = float(np.mean(np.abs(profiles.argmax(1) - 15) <= 1))
        figures[f"{name}_margin"] = float(np.mean(profiles[:, 15] - np.median(profiles, 1)))
    return figures
