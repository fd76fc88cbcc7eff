"""`flowportrait train scratch`: a small model from scratch, on latents of a portrait codec trained
here.

The audio encoder learns mouth shapes first, then everything learns velocities (Eq. 2). What is not
about starting from nothing (the forward of rows of clips, the loop, checkpoints) is
`train/sft.py`'s as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from flowportrait.codecs.motion import gather_from_grid
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.config import Frozen, load_recipe, read_values
from flowportrait.data.augment import apply_look, draw_look
from flowportrait.encoders import ImageEncoder
from flowportrait.encoders.mel import MelEncoder
from flowportrait.encoders.portrait import PortraitTokens
from flowportrait.errors import ConfigError
from flowportrait.faces.landmarks import CORNERS, LOWER_LIDS, LOWER_LIP, UPPER_LIDS, UPPER_LIP
from flowportrait.flow import draw_times
from flowportrait.generate import load
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.layout import RowLayout, TokenGrid
from flowportrait.model.mot import MoT
from flowportrait.modeldir import ModelSpec, SamplingConfig, load_parts, save_model
from flowportrait.precision import matmul_precision
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Latents
from flowportrait.train.objective import CleanRow, velocity_errors
from flowportrait.train.run import (
    Figures,
    OptimizerConfig,
    Run,
    RunConfig,
    TrainState,
    UpdatePart,
    load_weights,
    train_loop,
)
from flowportrait.train.tiny.codec import CodecRecipe, DataConfig
from flowportrait.train.tiny.crops import Crops, LatentSource, draw_crops
from flowportrait.train.tiny.hearing import (
    HearingConfig,
    learn_hearing,
    shapes_loss,
    translate,
)
from flowportrait.train.tiny.latents import LatentCache
from flowportrait.train.tiny.lips import lip_figures
from flowportrait.train.tiny.mels import MOUTH_SHAPES, Hearing
from flowportrait.train.tuned import Story, data_names, write_card

OPENING_SPREAD = (0.028, 0.013, 0.02)  # of lips, lids and mouth's width, in half-pictures
STEP_SPREAD = 0.01  # of a point from one frame to the next
TRANSLATED_EVERY = 8  # training clips
NUM_SHAPES = MOUTH_SHAPES.stop - MOUTH_SHAPES.start


class ScratchRecipe(Frozen):
    """All settings of a run. Optimizer betas are §4.1's; the learning rate suits a small model."""

    run: RunConfig
    data: DataConfig
    codec: str = Field(
        description="directory of a finished codec run, or a model by name or directory"
    )
    name: str = "tiny"
    start_from: Path | None = Field(
        None, description="model directory with the weights to start from"
    )
    copies: dict[str, int] = Field(
        {"world": 2, "grid": 1},
        description="number of augmented copies of each clip, by source; they are encoded once",
    )
    model: MoTConfig = MoTConfig(
        hidden_size=192,
        num_layers=6,
        num_heads=6,
        num_kv_heads=3,
        mlp_size=512,
        vocab_size=0,
        rope_theta=100.0,
        positions_per_second=24.0,
        latent_side=16,
        audio_dim=192,
        image_dim=184,
        image_side=16,
        local_heads=4,
    )
    audio_encoder: MelEncoder.Config = MelEncoder.Config()
    audio_encoder_from: Path | None = Field(
        None,
        description=(
            "directory of a finished `train ear` run, whose encoder is kept frozen; with"
            " start_from,"
            " the generator's first layer is adapted to it"
        ),
    )
    hearing: HearingConfig = HearingConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_updates=150, decay_from=0.6, ema_decay=0.998
    )
    sampling: SamplingConfig = SamplingConfig(
        evaluations=12, shift=4.0, window_latent_frames=10, prefix_latent_frames=2
    )
    num_clips: int = 8  # clips per update
    crop_latent_frames: int = 12
    time_shift: float = Field(
        4.0,
        description=(
            "shift of the logit-normal distribution of t. Unstated in the paper; 4 because the"
            " codec"
            " repeats motion 16 times"
        ),
    )
    drop_audio: float = 0.1  # probability of dropping the audio condition, for guidance
    drop_image: float = 0.03  # probability of dropping the portrait condition
    borrowed_portraits: float = Field(
        0.0, description="share of samples whose portrait comes from the other source"
    )
    shapes_weight: float = Field(
        0.1, description="weight of the audio encoder's mouth-shape loss, relative to the flow loss"
    )
    openings_weight: float = Field(
        0.05, description="weight of the loss on lip and lid openings in the predicted data"
    )
    steps_weight: float = Field(
        0.02, description="weight of the loss on frame-to-frame motion in the predicted data"
    )


class SpeakingModel(nn.Module):
    """The modules that are trained together: the generator, the audio encoder, and the head that
    names mouth shapes.
    """

    def __init__(self, model: MoT, audio_encoder: MelEncoder):
        super().__init__()
        self.model = model
        self.audio_encoder = audio_encoder
        self.shapes = nn.Linear(audio_encoder.dim, NUM_SHAPES)


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Train by a TOML recipe; `<run>/model` is a model directory that `flowportrait generate
    --model` takes.
    """
    config = load_recipe(recipe, ScratchRecipe, overrides or [])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"{recipe}: a model from scratch trains in one process; start it without torchrun"
        )
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    codec = load_codec(config.codec)
    image_encoder = PortraitTokens(PortraitTokens.Config(size_px=codec.config.size_px))
    speaker = SpeakingModel(MoT(config.model), MelEncoder(config.audio_encoder))
    speaker.audio_encoder.requires_grad_(config.audio_encoder_from is None)
    sources = load_latent_sources(config, codec, image_encoder, speaker.audio_encoder)
    state = TrainState.fresh(speaker, config.optimizer)
    run.restore(state)
    if state.update == 0:
        if not begin(speaker, config, sources):
            return config.run.directory
        state = TrainState.fresh(speaker, config.optimizer)

    def parts_of(update: int) -> Iterator[UpdatePart]:
        batch = draw_crops(
            sources,
            run.numpy_rng(update),
            config.num_clips,
            config.crop_latent_frames,
            config.sampling.prefix_latent_frames,
            config.drop_audio,
            config.drop_image,
            config.borrowed_portraits,
        )
        yield UpdatePart(*sft_loss(speaker, codec, batch, config, run.torch_rng(update)))

    def averaged() -> SpeakingModel:
        shown = SpeakingModel(MoT(config.model), MelEncoder(config.audio_encoder)).eval()
        shown.load_state_dict(state.averaged())
        return shown

    def look(update: int) -> Figures:
        shown = averaged()
        export(config, shown, codec, image_encoder, run.directory / "model", update)
        write_samples(run.directory, update, sources)
        window = config.sampling.window_latent_frames
        figures = {}
        for source in sources:
            for name, value in lip_figures(
                shown.model, shown.audio_encoder, codec, source, window, config.sampling.shift
            ).items():
                figures[f"{name}_{source.cache.root.name}"] = value
        return figures

    train_loop(run, state, config.optimizer, parts_of, look)
    # Also when only the codec is new.
    export(config, averaged(), codec, image_encoder, run.directory / "model", state.update)
    return run.directory


def begin(speaker: SpeakingModel, config: ScratchRecipe, sources: list[LatentSource]) -> bool:
    """Weights before the first update: those to go on from, or else an audio encoder that learns
    mouth shapes first. Gives whether that came to its end.
    """
    if config.start_from:
        load_weights(
            speaker.model, config.start_from / "model.safetensors", may_lack=("connector.",)
        )
    if config.audio_encoder_from:
        ear = config.audio_encoder_from / "audio_encoder.safetensors"
        load_weights(speaker.audio_encoder, ear)
        if config.start_from:
            before = load_parts(config.start_from, ("audio_encoder",), "cpu")[1]["audio_encoder"]
            mels = [s.hearing.mels[c.clip] for s in sources for c in s.of_split("train")]
            translate(speaker.model, before, speaker.audio_encoder, mels[::TRANSLATED_EVERY])
        return True
    return _begin_ears(config, speaker, sources)


def _begin_ears(config: ScratchRecipe, speaker: SpeakingModel, sources: list[LatentSource]) -> bool:
    """Gives the encoder weights, of another run or of lessons in hearing; whether there are any."""
    if config.start_from:
        load_weights(speaker.audio_encoder, config.start_from / "audio_encoder.safetensors")
        return True
    ears = nn.ModuleDict({"encoder": speaker.audio_encoder, "shapes": speaker.shapes})
    return learn_hearing(
        config.hearing, config.run.directory / "hearing", config.run.seed, sources, ears
    )


def load_codec(place: str) -> PortraitCodec:
    """The averaged codec of a codec run, or that of a model; frozen. Raises CheckpointError when
    the run has not written one yet, ConfigError where there is neither.
    """
    directory = Path(place)
    if not (directory / "config.json").is_file() or "run" not in read_values(
        directory / "config.json"
    ):
        return load_parts(place, ("codec",), "cpu")[1]["codec"]
    codec = PortraitCodec(load_recipe(directory / "config.json", CodecRecipe).codec)
    load_weights(codec, directory / "codec.safetensors")
    return codec.eval().requires_grad_(False)


def load_latent_sources(
    config: ScratchRecipe, codec: PortraitCodec, image_encoder: ImageEncoder, encoder: MelEncoder
) -> list[LatentSource]:
    """The recipe's sources, encoded on first use."""
    pool = config.data.pool()
    return [
        LatentSource(
            cache,
            LatentCache.build(
                config.run.directory / f"latents-{cache.root.name}",
                cache,
                codec,
                image_encoder,
                config.copies[cache.root.name],
                config.run.seed,
            ),
            Hearing.of(cache, encoder),
            share,
        )
        for cache, share in zip(pool.caches, pool.shares, strict=True)
    ]


def export(
    config: ScratchRecipe,
    speaker: SpeakingModel,
    codec: PortraitCodec,
    image_encoder: ImageEncoder,
    directory: Path,
    update: int,
) -> None:
    """The model directory of a run after so many updates."""
    spec = ModelSpec(
        name=config.name,
        model=config.model,
        codec={"type": "portrait", **codec.config.model_dump()},
        audio_encoder={"type": "mel", **config.audio_encoder.model_dump()},
        image_encoder={
            "type": "portrait",
            "size_px": codec.config.size_px,
        },
        sampling=config.sampling,
        size_px=codec.config.size_px,
    )
    parts = {
        "model": speaker.model,
        "codec": codec,
        "audio_encoder": speaker.audio_encoder,
        "image_encoder": image_encoder,
    }
    save_model(directory, spec, parts)
    worlds = config.data.world if isinstance(config.data.world, list) else [config.data.world]
    how = "Supervised flow matching (`flowportrait train scratch`) of a model from scratch"
    before = None if config.start_from is None else config.start_from.name
    story = Story(how, update, config.run.num_updates, data_names([*worlds, config.data.grid]))
    write_card(directory, spec, story, before)


def write_samples(directory: Path, update: int, sources: list[LatentSource]) -> None:
    """Videos that the exported model makes of the first held-out clip of each source, as
    `sample_UPDATE_SOURCE.mp4`.
    """
    pipeline = load(directory / "model")
    for source in sources:
        clip = source.cache.clips[source.of_split("held_out")[0].clip]
        cache = source.cache
        first = clip.frame_start
        framing = draw_look(
            np.random.default_rng(0), cache.landmarks[first], cache.size_px, strength=0.0
        )
        portrait = apply_look(framing, cache.frames[first : first + 1], pipeline.spec.size_px)[0]
        pixels = rearrange((portrait + 1) * 127.5, "c h w -> h w c").round().byte().numpy()
        result = pipeline.generate(
            pixels, (cache.audio_of(clip), SPEECH_HZ), crop="none", frame="face"
        )
        result.save(directory / f"sample_{update:06d}_{cache.root.name}.mp4")


def sft_loss(
    speaker: SpeakingModel,
    codec: PortraitCodec,
    batch: Crops,
    config: ScratchRecipe,
    rng: torch.Generator,
) -> tuple[Tensor, Figures]:
    """Eq. 2 on the latent frames behind the prefix, one t per clip. What is seen first counts once
    more: gaps of lips and lids, steps between frames. They are linear in the predicted data (Eq.
    3), so that no optimum moves.
    """
    grid = TokenGrid.of_latents(batch.latents, config.model.patch, batch.opening)
    t = (
        draw_times((len(batch.latents), 1), config.time_shift, rng)
        .expand(-1, grid.latent_frames)
        .clone()
    )
    t[:, : batch.prefix] = 0
    z1 = torch.randn(batch.latents.shape, generator=rng)
    with matmul_precision("cpu"):
        heard = speaker.audio_encoder.encode(batch.mels, batch.shapes.shape[1])
        audio = torch.stack(
            [h[f : f + grid.num_frames] for h, f in zip(heard, batch.first_frame, strict=True)]
        )
        clips = CleanRow(
            RowLayout((grid,)),
            audio * batch.kept_audio,
            batch.image * batch.kept_image,
            (batch.latents,),
        )
        error = grid.unpatchify(velocity_errors(speaker.model, clips, t, (z1,)))
        named = shapes_loss(speaker.shapes(heard).float(), batch.shapes)
    flow = error[:, :, batch.prefix :].square().mean()
    seen = seen_errors(codec, error[:, :, max(0, batch.prefix - 1) :])
    openings, steps = (errors.square().mean() for errors in seen)
    loss = (
        flow
        + config.shapes_weight * named
        + config.openings_weight * openings
        + config.steps_weight * steps
    )
    parts = {"flow": flow, "openings": openings, "steps": steps, "shapes": named}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def seen_errors(codec: PortraitCodec, error: Latents) -> tuple[Tensor, Tensor]:
    """Effects of errors of a velocity on the gaps of lips and lids and the mouth's width [b, l, 4,
    3], and to the movements of all points from frame to frame [b, 4 l - 1, 68, 2], both in units of
    their spread in a framed face: the eye sees these first.

    At the time t the error of the predicted data is t times that of the velocity; the factor is
    left out, as in Eq. 2.
    """
    moves = codec.motion.moves_of(gather_from_grid(error))
    heights = moves[..., 1]
    lips = heights[..., list(LOWER_LIP)].mean(-1) - heights[..., list(UPPER_LIP)].mean(-1)
    lids = heights[..., list(LOWER_LIDS)].mean(-1) - heights[..., list(UPPER_LIDS)].mean(-1)
    right, left = (moves[..., corner, 0] for corner in CORNERS)
    openings = torch.stack([lips, lids, left - right], -1) / torch.tensor(OPENING_SPREAD)
    return openings, moves.flatten(1, 2).diff(dim=1) / STEP_SPREAD
