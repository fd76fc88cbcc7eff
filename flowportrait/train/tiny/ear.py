"""`flowportrait train ear`: the audio encoder from a large speech network, before anything moves.

The teacher has heard thousands of people, the pupil hears the few of the lessons; the loss is on
the teacher's vectors, on their changes in time and, where a face was seen, on mouth shapes.
Rendered and real faces move differently for the same sound, so each folder of lessons has a head
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.arrays import Rng
from flowportrait.config import Frozen, load_recipe
from flowportrait.encoders.mel import MelEncoder
from flowportrait.errors import ConfigError
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
from flowportrait.train.tiny.hearing import JAW_OPEN, shapes_loss
from flowportrait.train.tiny.lessons import LessonBatch, Lessons, draw_lessons
from flowportrait.train.tiny.lips import mean_correlation
from flowportrait.train.tiny.mels import augment_mels
from flowportrait.weights import save_tensors

NUM_SHAPES = 27
HELD_OUT_CROPS = 48


class LessonFolder(Frozen):
    """A folder that `python -m bench.teach` wrote, and its share of the draws."""

    path: Path
    share: float = 1.0


class EarRecipe(Frozen):
    """All settings of a run."""

    run: RunConfig
    lessons: list[LessonFolder]
    audio_encoder: MelEncoder.Config = MelEncoder.Config()
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=2e-3, warmup_updates=100, decay_from=0.4, ema_decay=0.99
    )
    num_crops: int = 24
    crop_s: float = 4.0
    changes_weight: float = 1.0
    shapes_weight: float = 1.0


class Pupil(nn.Module):
    """The audio encoder, with heads that only training needs."""

    def __init__(self, config: MelEncoder.Config, teacher_size: int, num_folders: int):
        super().__init__()
        self.encoder = MelEncoder(config)
        self.teacher = nn.Linear(config.width, teacher_size)
        self.shapes = nn.ModuleList(nn.Linear(config.width, NUM_SHAPES) for _ in range(num_folders))

    def loss(
        self, batches: list[LessonBatch], recipe: EarRecipe, rng: Rng | None
    ) -> tuple[Tensor, Figures]:
        """Of one batch of each folder; with `rng` the spectra are disturbed as well."""
        mels = torch.cat([self.encoder.mels(batch.audio) for batch in batches])
        if rng is not None:
            mels = torch.stack([augment_mels(m, rng) for m in mels])
        heard = torch.cat([batch.heard for batch in batches])
        with matmul_precision("cpu"):
            vectors = self.encoder.encode(mels, heard.shape[1])
            told = self.teacher(vectors).float()
        teacher, changes, agreement = _teacher_losses(told, heard)
        counts = [len(batch.audio) for batch in batches]
        named = zip(self.shapes, vectors.split(counts), batches, strict=True)
        known = [(head(part), batch.shapes) for head, part, batch in named if _any_shape(batch)]
        shapes = sum((shapes_loss(a.float(), b) for a, b in known), torch.zeros(()))
        loss = teacher + recipe.changes_weight * changes + recipe.shapes_weight * shapes
        jaws = [
            mean_correlation(a[..., JAW_OPEN].detach().numpy(), b[..., JAW_OPEN].numpy())
            for a, b in known
        ]
        parts = {"teacher": teacher, "changes": changes, "cosine": agreement, "shapes": shapes}
        figures = {name: float(value.detach()) for name, value in parts.items()}
        return loss, figures | {"r_jaw": float(np.mean(jaws)) if jaws else 0.0}


def _any_shape(batch: LessonBatch) -> bool:
    return bool(torch.isfinite(batch.shapes).any())


def _teacher_losses(
    told: Float[Tensor, "b f t"], heard: Float[Tensor, "b f t"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of the vectors plus one less their cosine, squared error of first and second
    differences in time, and the cosine by itself.
    """
    known = torch.isfinite(heard).all(-1)
    target = heard.nan_to_num()
    error = (told - target) * known[..., None]
    cosine = F.cosine_similarity(told, target, dim=-1)[known].mean()
    first = error.diff(dim=1)
    second = error.diff(n=2, dim=1)
    share = known.float().mean().clamp(min=1e-3)
    vectors = error.square().mean() / share + 1 - cosine
    return vectors, (first.square().mean() + second.square().mean() / 2) / share, cosine


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Train by a TOML recipe; `<run>/audio_encoder.safetensors` is what `train scratch` starts from
    with `audio_encoder_from`. Gives the run's directory.

    Raises ConfigError when folders of lessons disagree on the teacher, or none was held out.
    """
    config = load_recipe(recipe, EarRecipe, overrides or [])
    folders = [Lessons(folder.path) for folder in config.lessons]
    sizes = {folder.teacher_size for folder in folders}
    if len(sizes) != 1:
        raise ConfigError(
            f"{recipe}: lessons of {sorted(sizes)} numbers; give lessons of a single teacher"
        )
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    pupil = Pupil(config.audio_encoder, sizes.pop(), len(folders))
    state = TrainState.fresh(pupil, config.optimizer)
    run.restore(state)

    def parts_of(update: int) -> Iterator[UpdatePart]:
        rng = run.numpy_rng(update)
        yield UpdatePart(*pupil.loss(_draw(folders, config, "train", rng), config, rng))

    def look(update: int) -> Figures:
        shown = Pupil(config.audio_encoder, folders[0].teacher_size, len(folders)).eval()
        shown.load_state_dict(state.averaged())
        save_tensors(run.directory / "audio_encoder.safetensors", shown.encoder.state_dict())
        with torch.no_grad():
            batches = _draw(folders, config, "held_out", np.random.default_rng(0))
            loss, figures = shown.loss(batches, config, None)
        return {"held_out_loss": float(loss), **figures}

    train_loop(run, state, config.optimizer, parts_of, look)
    return run.directory


def _draw(folders: list[Lessons], config: EarRecipe, split: str, rng: Rng) -> list[LessonBatch]:
    """A batch of each folder, crops by the folders' shares; held-out ones are not disturbed."""
    training = split == "train"
    num_crops = config.num_crops if training else HELD_OUT_CROPS
    shares = np.array([folder.share for folder in config.lessons])
    counts = np.bincount(
        rng.choice(len(folders), num_crops, p=shares / shares.sum()), minlength=len(folders)
    )
    pairs = zip(folders, counts, strict=True)
    return [
        draw_lessons(folder, split, max(1, int(count)), config.crop_s, rng, disturbed=training)
        for folder, count in pairs
    ]
