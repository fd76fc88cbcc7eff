"""`flowportrait train codec`: the portrait codec on clips, appearance augmented, mouth and eyes weighted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.config import Frozen, load_recipe
from flowportrait.data.batches import CodecBatch, Pool, codec_batch
from flowportrait.data.cache import ClipCache
from flowportrait.data.sources import load_sources
from flowportrait.model.precision import matmul_precision
from flowportrait.train.run import OptimizerConfig, Run, RunConfig, TrainState, load_weights, train_loop


class DataConfig(Frozen):
    """Sources (see `data/sources.py`) and where their decoded frames are kept."""

    world: Path | None = None
    grid: Path | None = None
    grid_labels: Path | None = None
    cache: Path
    world_share: float = 0.65  # of the draws

    def pool(self) -> Pool:
        """The training pool; decodes the clips on first use."""
        caches, shares = [], []
        if self.world:
            caches.append(ClipCache.build(self.cache / "world", load_sources(world=self.world), 128))
            shares.append(self.world_share)
        if self.grid:
            clips = load_sources(grid=self.grid, grid_labels=self.grid_labels)
            caches.append(ClipCache.build(self.cache / "grid", clips, 160))
            shares.append(1 - self.world_share)
        return Pool(caches, shares)


class CodecLossConfig(Frozen):
    """Weights of the codec's loss."""

    mouth: float = 20.0
    eyes: float = 6.0
    edges: float = 1.0  # of the L1 distance between horizontal and vertical differences
    warp: float = 0.7  # of the L1 distance of the warped portrait alone
    latent_noise: float = 0.2  # greatest std of noise on the normalised latents: makes decoding forgiving


class CodecRecipe(Frozen):
    """Everything of a codec run."""

    run: RunConfig
    data: DataConfig
    codec: PortraitCodec.Config = PortraitCodec.Config()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, warmup_updates=100, decay_from=0.6)
    loss: CodecLossConfig = CodecLossConfig()
    start_from: Path | None = Field(None, description="a directory whose codec.safetensors to go on from")
    trained: Literal["all", "decoder"] = Field("all", description="decoder: latents keep their meaning")
    num_clips: int = 4
    num_groups: int = 2


def train(recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto") -> Path:
    """Train a codec by a TOML recipe; the directory holds codec.safetensors (averaged) and config.json at the end."""
    config = load_recipe(recipe, CodecRecipe, overrides or [])
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    state = TrainState.fresh(_initial_codec(config), config.optimizer)
    run.restore(state)
    pool = config.data.pool()
    size_px = config.codec.size_px

    def batch(rng: np.random.Generator, source: Pool, num_clips: int, strength: float) -> CodecBatch:
        return codec_batch(
            source, rng, num_clips, config.num_groups, size_px, config.loss.mouth, config.loss.eyes, strength
        )

    def loss_of(update: int) -> tuple[Tensor, dict[str, float]]:
        drawn = batch(run.numpy_rng(update), pool, config.num_clips, 1.0)
        return codec_loss(state.module, drawn, config.loss, run.torch_rng(update))

    def sample(update: int) -> dict[str, float]:
        codec = PortraitCodec(config.codec).eval()
        codec.load_state_dict(state.averaged())
        held_out = Pool(pool.caches, pool.shares, split="validation")
        drawn = batch(np.random.default_rng(1), held_out, 24, 0.0)
        figures, frames = reconstruction(codec, drawn)
        _contact_sheet(drawn, frames, run.directory / f"sample_{update:06d}.png")
        save_codec(codec, run.directory)
        return figures

    train_loop(run, state, config.optimizer, loss_of, sample)
    return run.directory


def _initial_codec(config: CodecRecipe) -> PortraitCodec:
    """The codec to train, with the parts that keep their weights frozen."""
    codec = PortraitCodec(config.codec).train()
    if config.start_from:
        load_weights(codec, config.start_from / "codec.safetensors")
    if config.trained == "decoder":
        codec.requires_grad_(False)
        codec.normalise.eval()
        for part in (codec.from_latent, codec.decoder_stack, codec.painter):
            part.requires_grad_(True)
    return codec


def save_codec(codec: PortraitCodec, directory: Path) -> None:
    """Averaged weights in fp32 safetensors."""
    save_file(
        {name: value.contiguous() for name, value in codec.state_dict().items()},
        directory / "codec.safetensors",
    )


def codec_loss(
    codec: PortraitCodec, batch: CodecBatch, config: CodecLossConfig, rng: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Weighted L1 on pixels, edges and the warped portrait, under noise of random strength on the latents."""
    with matmul_precision("cpu"):
        context = codec.prepare(batch.portrait)
        latents = codec.encode_groups(batch.groups, context)
        strength = config.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, generator=rng)
        latents = latents + strength * torch.randn(latents.shape, generator=rng)
        decoded = codec.decode_groups(latents, context)
    error = decoded.frames.float() - batch.groups
    weight = batch.weight / batch.weight.mean()
    pixels = (weight * error.abs()).mean()
    across = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    with torch.no_grad():
        psnr = -10 * torch.log10((error / 2).square().mean())
    warp = (weight * (decoded.warped - batch.groups).abs()).mean()
    figures = {"l1": float(pixels.detach()), "warp": float(warp.detach()), "psnr": float(psnr)}
    return pixels + config.edges * (across + down) + config.warp * warp, figures


@torch.no_grad()
def reconstruction(codec: PortraitCodec, batch: CodecBatch) -> tuple[dict[str, float], Tensor]:
    """PSNR over all pixels and over mouth and eyes (where the loss weight exceeds 2), and the decoded groups."""
    context = codec.prepare(batch.portrait)
    decoded = codec.decode_groups(codec.encode_groups(batch.groups, context), context).frames.clamp(-1, 1)
    squared = ((decoded - batch.groups) / 2).square().mean(3, keepdim=True)
    features = batch.weight > 2
    per_clip = squared.flatten(1).mean(1)
    figures = {
        "psnr_held_out": float((-10 * torch.log10(per_clip)).mean()),
        "psnr_mouth_eyes": float(-10 * torch.log10(squared[features].mean())),
        "psnr_copying_portrait": float(
            (
                -10
                * torch.log10(
                    ((batch.portrait[:, None, None] - batch.groups) / 2).square().flatten(1).mean(1) + 1e-6
                )
            ).mean()
        ),
    }
    return figures, decoded


def _contact_sheet(batch: CodecBatch, decoded: Tensor, path: Path, count: int = 8) -> None:
    """Rows: portrait, last true frame, last decoded frame, error x 4; one clip a column."""
    true, made = batch.groups[:count, -1, -1], decoded[:count, -1, -1]
    rows = [batch.portrait[:count], true, made, ((made - true).abs() * 4 - 1).clamp(-1, 1)]
    sheet = torch.cat([torch.cat(list(row), -1) for row in rows], -2)
    Image.fromarray(((sheet.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()).save(path)
