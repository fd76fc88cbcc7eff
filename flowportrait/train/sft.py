"""`flowportrait train sft`: the audio encoder learns mouth shapes, then everything learns velocities (Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.config import Frozen, load_recipe
from flowportrait.data.cache import ClipCache
from flowportrait.data.hearing import MOUTH_SHAPES, Hearing, augment_mels
from flowportrait.data.latents import LatentCache, LatentClip
from flowportrait.encoders.mel import MelEncoder
from flowportrait.encoders.portrait import PortraitTokens
from flowportrait.errors import CheckpointError
from flowportrait.flow import draw_times, interpolate, over_latents, target_velocity
from flowportrait.generate import ModelSpec, SamplingConfig, save_model
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mot import MoT, MoTConfig
from flowportrait.model.precision import matmul_precision
from flowportrait.sampling import Schedule, sample
from flowportrait.train.codec import DataConfig
from flowportrait.train.run import OptimizerConfig, Run, RunConfig, TrainState, train_loop

NUM_SHAPES = MOUTH_SHAPES.stop - MOUTH_SHAPES.start


class HearingConfig(Frozen):
    """Before the generator: the audio encoder predicts mouth shapes of whole clips."""

    num_updates: int = 700
    num_clips: int = 16
    learning_rate: float = 1e-3


class SftRecipe(Frozen):
    """Everything of a supervised fine-tuning run. Optimizer betas are §4.1's; the rate is a small model's."""

    run: RunConfig
    data: DataConfig
    codec: Path = Field(description="directory of a finished codec run")
    name: str = "tiny"
    copies: int = Field(2, ge=1, description="augmented copies of each clip, encoded once")
    model: MoTConfig = MoTConfig(
        hidden_size=192, num_layers=6, num_heads=6, num_kv_heads=3, mlp_size=512, vocab_size=0, rope_theta=100.0,
        positions_per_second=24.0, latent_side=16, audio_dim=192, image_dim=640, image_side=16,
        local_heads=4,
    )  # fmt: skip
    audio_encoder: MelEncoder.Config = MelEncoder.Config()
    hearing: HearingConfig = HearingConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_updates=150, decay_from=0.6, ema_decay=0.998
    )
    sampling: SamplingConfig = SamplingConfig(evaluations=12, shift=2.0, window_latent_frames=12, prefix_latent_frames=2)
    num_clips: int = 8
    crop_latent_frames: int = 9
    time_shift: float = Field(2.0, description="Unstated in the paper; t is a shifted logit-normal draw")
    drop_audio: float = 0.1
    drop_image: float = 0.03
    shapes_weight: float = Field(0.1, description="of the audio encoder's mouth shapes beside the flow loss")


@dataclass(frozen=True)
class SftBatch:
    """Crops of clips. `prefix` latent frames stand clean; `first_frame` is the crop's first video frame."""

    latents: Float[Tensor, "b c l h w"]
    weight: Float[Tensor, "b l y x"]
    image: Float[Tensor, "b i d"]
    mels: Float[Tensor, "b 80 m"]
    first_frame: list[int]
    shapes: Float[Tensor, "b f 27"]
    prefix: int
    opening: bool
    kept_audio: Bool[Tensor, "b 1 1"]
    kept_image: Bool[Tensor, "b 1 1"]


@dataclass(frozen=True)
class Source:
    """One source as the generator learns it."""

    cache: ClipCache
    latents: LatentCache
    hearing: Hearing
    share: float

    def of_split(self, split: str) -> list[LatentClip]:
        return [clip for clip in self.latents.clips if clip.split == split]


class Speaker(nn.Module):
    """What is trained together: the generator, the audio encoder, and the head that names mouth shapes."""

    def __init__(self, model: MoT, audio_encoder: MelEncoder):
        super().__init__()
        self.model = model
        self.audio_encoder = audio_encoder
        self.shapes = nn.Linear(audio_encoder.dim, NUM_SHAPES)


def train(recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto") -> Path:
    """Train by a TOML recipe; `<run>/model` is a model directory that `flowportrait generate --model` takes."""
    config = load_recipe(recipe, SftRecipe, overrides or [])
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    codec = load_codec(config.codec)
    image_encoder = PortraitTokens(PortraitTokens.Config(codec_width=codec.config.width, size_px=codec.config.size_px))
    speaker = Speaker(MoT(config.model), MelEncoder(config.audio_encoder))
    sources = load_latent_sources(config, codec, image_encoder, speaker.audio_encoder)
    state = TrainState.fresh(speaker, config.optimizer)
    run.restore(state)
    if state.update == 0:
        learn_hearing(config, sources, speaker)
        state = TrainState.fresh(speaker, config.optimizer)

    def loss_of(update: int) -> tuple[Tensor, dict[str, float]]:
        batch = sft_batch(config, sources, run.numpy_rng(update))
        return sft_loss(speaker, batch, config, run.torch_rng(update))

    def look(update: int) -> dict[str, float]:
        shown = Speaker(MoT(config.model), MelEncoder(config.audio_encoder)).eval()
        shown.load_state_dict(state.averaged())
        export(config, shown, codec, image_encoder, run.directory / "model")
        return lip_figures(config, sources[0], shown)

    train_loop(run, state, config.optimizer, loss_of, look)
    return run.directory


def load_codec(directory: Path) -> PortraitCodec:
    """The averaged codec of a codec run, frozen. Raises CheckpointError when the run is not finished enough."""
    weights = Path(directory) / "codec.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"codec: no codec.safetensors in {directory}; run `flowportrait train codec` first")
    from flowportrait.train.codec import CodecRecipe

    codec = PortraitCodec(load_recipe(Path(directory) / "config.json", CodecRecipe).codec)
    codec.load_state_dict(load_file(weights))
    return codec.eval().requires_grad_(False)


def load_latent_sources(config: SftRecipe, codec: PortraitCodec, image_encoder: nn.Module, encoder: MelEncoder) -> list[Source]:
    """The recipe's sources, encoded on first use."""
    pool = config.data.pool()
    return [
        Source(
            cache,
            LatentCache.build(
                config.run.directory / f"latents-{cache.root.name}", cache, codec, image_encoder, config.copies, config.run.seed
            ),
            Hearing.of(cache, encoder),
            share,
        )
        for cache, share in zip(pool.caches, pool.shares, strict=True)
    ]


def export(config: SftRecipe, speaker: Speaker, codec: PortraitCodec, image_encoder: nn.Module, directory: Path) -> None:
    """The model directory of a run."""
    spec = ModelSpec(
        name=config.name,
        model=config.model,
        codec={"type": "portrait", **codec.config.model_dump()},
        audio_encoder={"type": "mel", **config.audio_encoder.model_dump()},
        image_encoder={"type": "portrait", "codec_width": codec.config.width, "size_px": codec.config.size_px},
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


# ------------------------------------------------------------------------------------------------ hearing


def learn_hearing(config: SftRecipe, sources: list[Source], speaker: Speaker) -> None:
    """Train the audio encoder alone on mouth shapes, in its own run directory beside the main one."""
    hearing = config.hearing
    run_config = RunConfig(
        directory=config.run.directory / "hearing", seed=config.run.seed, num_updates=hearing.num_updates,
        log_every=50, checkpoint_every=hearing.num_updates, sample_every=hearing.num_updates // 2,
    )  # fmt: skip
    run = Run(run_config, hearing)
    ears = nn.ModuleDict({"encoder": speaker.audio_encoder, "shapes": speaker.shapes})
    optimizer = OptimizerConfig(learning_rate=hearing.learning_rate, warmup_updates=50, decay_from=0.5, ema_decay=0.99)
    state = TrainState.fresh(ears, optimizer)
    run.restore(state)

    def loss_of(update: int) -> tuple[Tensor, dict[str, float]]:
        rng = run.numpy_rng(update)
        return _shapes_of_clips(_draw_clips(sources, "train", hearing.num_clips, rng), ears, rng)

    def look(update: int) -> dict[str, float]:
        with torch.no_grad():
            clips = _draw_clips(sources, "validation", 100, np.random.default_rng(0))
            _, figures = _shapes_of_clips(clips, ears, None)
        return figures

    train_loop(run, state, optimizer, loss_of, look)
    ears.load_state_dict(state.averaged())


def _draw_clips(
    sources: list[Source], split: str, count: int, rng: np.random.Generator, min_latents: int = 1
) -> list[tuple[Source, LatentClip]]:
    shares = np.array([source.share for source in sources])
    drawn = []
    for index in rng.choice(len(sources), count, p=shares / shares.sum()):
        clips = [clip for clip in sources[index].of_split(split) if clip.num_latents >= min_latents]
        drawn.append((sources[index], clips[rng.integers(len(clips))]))
    return drawn


def _shapes_of_clips(clips: list[tuple[Source, LatentClip]], ears: nn.ModuleDict, rng: np.random.Generator | None):
    """Huber loss of whole clips' mouth shapes, and the correlation of jaw opening."""
    mels, shapes = _mels(clips, rng), _shapes(clips)
    predicted = ears["shapes"](ears["encoder"].encode(mels, shapes.shape[1]))
    loss = shapes_loss(predicted, shapes)
    jaw = MOUTH_JAW_OPEN
    return loss, {"r_jaw": float(_mean_correlation(predicted[..., jaw].detach().numpy(), shapes[..., jaw].numpy()))}


MOUTH_JAW_OPEN = 2  # jawForward, jawLeft, jawOpen, ...


def shapes_loss(predicted: Float[Tensor, "b f 27"], shapes: Float[Tensor, "b f 27"]) -> Tensor:
    """Huber loss where shapes are known."""
    known = torch.isfinite(shapes)
    return F.huber_loss(predicted[known], shapes[known])


def _mels(clips: list[tuple[Source, LatentClip]], rng: np.random.Generator | None) -> Float[Tensor, "b 80 m"]:
    """Mels of whole clips, padded with silence; augmented if `rng` is given."""
    mels = [source.hearing.mels[clip.clip] for source, clip in clips]
    if rng is not None:
        mels = [augment_mels(m, rng) for m in mels]
    longest = max(m.shape[1] for m in mels)
    return torch.stack([F.pad(m, (0, longest - m.shape[1]), value=-3.0) for m in mels])


def _shapes(clips: list[tuple[Source, LatentClip]]) -> Float[Tensor, "b f 27"]:
    rows = []
    for source, clip in clips:
        cached = source.cache.clips[clip.clip]
        rows.append(torch.from_numpy(source.hearing.shapes[cached.frame_start : cached.frame_start + cached.num_frames]))
    longest = max(len(row) for row in rows)
    return torch.stack([F.pad(row, (0, 0, 0, longest - len(row)), value=float("nan")) for row in rows])


def _mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of the correlation, where both are known."""
    values = []
    for x, y in zip(a, b, strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() > 8 and x[known].std() > 1e-6 and y[known].std() > 1e-6:
            values.append(np.corrcoef(x[known], y[known])[0, 1])
    return float(np.mean(values)) if values else float("nan")


# ------------------------------------------------------------------------------------------------ the flow


def sft_batch(config: SftRecipe, sources: list[Source], rng: np.random.Generator) -> SftBatch:
    """Random crops: 40 % open their clip, of the others half continue from a clean prefix."""
    length = config.crop_latent_frames
    opening = bool(rng.random() < 0.4)
    prefix = 0 if opening or rng.random() < 0.5 else config.sampling.prefix_latent_frames
    clips = _draw_clips(sources, "train", config.num_clips, rng, min_latents=length + 1)
    latents, weights, images, first_frames = [], [], [], []
    for source, clip in clips:
        skip = 0 if opening else int(rng.integers(1, clip.num_latents - length + 1))
        rows = slice(clip.start + skip, clip.start + skip + length)
        latents.append(torch.from_numpy(source.latents.latents[rows]).float())
        weights.append(torch.from_numpy(source.latents.weight[rows]).float())
        images.append(torch.from_numpy(source.latents.image[clip.copy]).float())
        first_frames.append(clip.first_frame + (4 * (skip - 1) + 1 if skip else 0))
    count = (config.num_clips, 1, 1)
    return SftBatch(
        latents=rearrange(torch.stack(latents), "b l c h w -> b c l h w"),
        weight=torch.stack(weights),
        image=torch.stack(images),
        mels=_mels(clips, rng),
        first_frame=first_frames,
        shapes=_shapes(clips),
        prefix=prefix,
        opening=opening,
        kept_audio=torch.from_numpy(rng.random(count) >= config.drop_audio),
        kept_image=torch.from_numpy(rng.random(count) >= config.drop_image),
    )


def sft_loss(
    speaker: Speaker, batch: SftBatch, config: SftRecipe, rng: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 2 on the latent frames behind the prefix, one t per clip; mouth and eyes weigh more, which moves no optimum."""
    grid = _grid(batch.latents, config.model.patch, batch.opening)
    t = draw_times((len(batch.latents), 1), config.time_shift, rng).expand(-1, grid.latent_frames).clone()
    t[:, : batch.prefix] = 0
    z1 = torch.randn(batch.latents.shape, generator=rng)
    with matmul_precision("cpu"):
        heard = speaker.audio_encoder.encode(batch.mels, batch.shapes.shape[1])
        audio = torch.stack([h[f : f + grid.num_frames] for h, f in zip(heard, batch.first_frame, strict=True)])
        condition = speaker.model.condition(audio * batch.kept_audio, batch.image * batch.kept_image, grid)
        v = speaker.model.velocity(interpolate(batch.latents, z1, over_latents(t)), t, condition, grid)
        named = shapes_loss(speaker.shapes(heard).float(), batch.shapes)
    squared = (v.float() - target_velocity(batch.latents, z1)).square().mean(1)[:, batch.prefix :]
    cells = batch.weight.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, batch.prefix :]
    flow = (squared * cells).sum() / cells.sum()
    figures = {"flow": float(squared.detach().mean()), "flow_weighted": float(flow.detach()), "shapes": float(named.detach())}
    return flow + config.shapes_weight * named, figures


def _grid(latents: Float[Tensor, "b c l h w"], patch: int, opening: bool) -> TokenGrid:
    rows, cols = latents.shape[-2] // patch, latents.shape[-1] // patch
    return TokenGrid(latents.shape[2], rows, cols, rows, cols, patch=patch, opening=opening)


# ------------------------------------------------------------------------------------------------ watching lips


@torch.inference_mode()
def lip_figures(config: SftRecipe, source: Source, speaker: Speaker, num_clips: int = 12) -> dict[str, float]:
    """Correlation of lip opening, generated against true, on validation clips: read off the latents by a linear probe
    that was fitted on true latents (its own correlation on validation clips is `r_probe`)."""
    probe = LipProbe.fit(source)
    held_out = source.of_split("validation")[:: max(1, len(source.of_split("validation")) // num_clips)][:num_clips]
    length = min(config.sampling.window_latent_frames, min(clip.num_latents for clip in held_out))
    made, true, read = [], [], []
    for number, clip in enumerate(held_out):
        rows = slice(clip.start, clip.start + length)
        z0 = rearrange(torch.from_numpy(source.latents.latents[rows]).float(), "l c h w -> 1 c l h w")
        grid = _grid(z0, config.model.patch, True)
        audio = speaker.audio_encoder.encode(source.hearing.mels[clip.clip][None], clip.first_frame + grid.num_frames)
        image = torch.from_numpy(source.latents.image[clip.copy][None]).float()
        condition = speaker.model.condition(audio[:, clip.first_frame :], image, grid)

        def velocity(zt: Tensor, t: float, condition=condition, grid=grid) -> Tensor:
            return speaker.model.velocity(zt, torch.full((1, grid.latent_frames), t), condition, grid)

        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(number))
        drawn = sample(velocity, noise, Schedule(8, config.sampling.shift))
        made.append(probe(drawn[0].transpose(0, 1).numpy()))
        read.append(probe(z0[0].transpose(0, 1).numpy()))
        true.append(source.latents.opening[rows])
    made, read, true = np.stack(made), np.stack(read), np.stack(true)
    return {
        "r_lips": _mean_correlation(made, true),
        "r_probe": _mean_correlation(read, true),
        "spread_of_true": float(np.std(made) / np.std(read)),
    }


@dataclass(frozen=True)
class LipProbe:
    """Ridge regression from the lower half of a latent frame to lip opening."""

    weights: np.ndarray
    mean: np.ndarray
    offset: float

    @classmethod
    def fit(cls, source: Source, ridge: float = 300.0, num_rows: int = 6000) -> LipProbe:
        rows = np.concatenate([np.arange(c.start, c.start + c.num_latents) for c in source.of_split("train")])
        rows = rows[np.isfinite(source.latents.opening[rows])]
        rows = np.random.default_rng(0).choice(rows, min(num_rows, len(rows)), replace=False)
        x, y = _lower_half(source.latents.latents[rows]), source.latents.opening[rows].astype(np.float64)
        mean, offset = x.mean(0), y.mean()
        x = x - mean
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - offset))
        return cls(weights, mean, float(offset))

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Lip opening of latent frames [n, c, h, w]."""
        return (_lower_half(latents) - self.mean) @ self.weights + self.offset


def _lower_half(latents: np.ndarray) -> np.ndarray:
    height, width = latents.shape[-2:]
    part = latents[:, :, height // 2 : height - 2, width // 4 : -width // 4]
    return part.reshape(len(latents), -1).astype(np.float64)
