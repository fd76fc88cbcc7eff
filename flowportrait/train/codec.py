"""`flowportrait train codec`: the portrait codec on clips, appearance augmented, mouth and eyes weighted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from flowportrait.codecs.portrait import OPENINGS, PortraitCodec
from flowportrait.config import Frozen, load_recipe
from flowportrait.data.batches import CodecBatch, Pool, codec_batch
from flowportrait.data.cache import ClipCache
from flowportrait.data.sources import load_sources
from flowportrait.errors import ConfigError
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
    paint: float = 0.03  # of the painted share away from the mouth: paint is blurred, the portrait is not
    openings: float = 0.3  # of lips and lids read off the latents, in units of their spread
    latent_noise: float = 0.7  # greatest std of noise on the normalised latents: makes decoding forgiving


class CodecRecipe(Frozen):
    """Everything of a codec run."""

    run: RunConfig
    data: DataConfig
    codec: PortraitCodec.Config = PortraitCodec.Config()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-4, warmup_updates=100, decay_from=0.6)
    loss: CodecLossConfig = CodecLossConfig()
    start_from: Path | None = Field(None, description="a directory whose codec.safetensors to go on from")
    trained: Literal["all", "decoder"] = Field("all", description="decoder: latents keep their meaning")
    fit_batches: int = Field(300, description="of 16 clips, to find the subspace in")
    num_clips: int = 4
    num_groups: int = 2


def train(recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto") -> Path:
    """Train a codec by a TOML recipe; the directory holds codec.safetensors (averaged) and config.json at the end."""
    config = load_recipe(recipe, CodecRecipe, overrides or [])
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    pool = config.data.pool()
    state = TrainState.fresh(_initial_codec(config, pool, run), config.optimizer)
    run.restore(state)
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


def _initial_codec(config: CodecRecipe, pool: Pool, run: Run) -> PortraitCodec:
    """The codec to train, its latents confined, and the parts that keep their weights frozen."""
    codec = PortraitCodec(config.codec).train()
    confined = False
    if config.start_from:
        confined = load_weights(codec, config.start_from / "codec.safetensors", ("subspace.", "openings."))
    if config.codec.num_patterns and not confined and not run.resumes:
        if not config.start_from:
            raise ConfigError(
                "codec.num_patterns: a subspace is found in what a trained codec encodes; give start_from, "
                "the directory of a run with codec.num_patterns = 0"
            )
        run.log(event="subspace", share_kept=fit_subspace(codec, pool, config))
    if config.trained == "decoder":
        codec.requires_grad_(False)
        codec.normalise.eval()
        for part in (codec.from_latent, codec.decoder_stack, codec.painter):
            part.requires_grad_(True)
    return codec


@torch.no_grad()
def fit_subspace(codec: PortraitCodec, pool: Pool, config: CodecRecipe) -> float:
    """Confine latents to a subspace found in the training clips, and read openings off it by ridge regression; gives
    the share of the latents' variance that is kept."""
    codec.eval()
    rows, openings = [], []
    for number in range(config.fit_batches):
        rng = np.random.default_rng([config.run.seed, number, 2])
        batch = codec_batch(pool, rng, 16, 2, config.codec.size_px, 0.0, 0.0)
        with matmul_precision("cpu"):
            latents = codec.encode_groups(batch.groups, codec.prepare(batch.portrait), confined=False)
        rows.append(latents.flatten(0, 1))
        openings.append(batch.openings.flatten(0, 1).flatten(1))
    rows, openings = torch.cat(rows), torch.cat(openings)
    share = codec.subspace.fit(rows)
    mean, spread = (part.repeat(openings.shape[1] // 2) for part in OPENINGS)
    known = torch.isfinite(openings).all(1)
    _fit_linear(
        codec.openings, codec.coefficients(codec.subspace.enter(rows[known])), (openings[known] - mean) / spread
    )
    codec.train()
    return share


def _fit_linear(layer: nn.Linear, x: Float[Tensor, "n k"], y: Float[Tensor, "n m"], ridge: float = 0.01) -> None:
    """Least squares with a penalty of `ridge` times the mean variance of `x`."""
    centred = x - x.mean(0)
    gram = centred.T @ centred / len(x)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
    layer.weight.copy_(torch.linalg.solve(gram, centred.T @ (y - y.mean(0)) / len(x)).T)
    layer.bias.copy_(y.mean(0) - layer.weight @ x.mean(0))


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
        noisy = latents + strength * torch.randn(latents.shape, generator=rng)
        decoded = codec.decode_groups(noisy, context)
    error = decoded.frames.float() - batch.groups
    weight = batch.weight / batch.weight.mean()
    pixels = (weight * error.abs()).mean()
    across = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    with torch.no_grad():
        psnr = -10 * torch.log10((error / 2).square().mean())
    warp = (weight * (decoded.warped - batch.groups).abs()).mean()
    figures = {"l1": float(pixels.detach()), "warp": float(warp.detach()), "psnr": float(psnr)}
    known = torch.isfinite(batch.openings)
    read = ((codec.read_openings(latents) - batch.openings) / OPENINGS[1])[known].abs().mean()
    near_mouth = ((batch.weight - 1) / config.mouth) ** 3
    painted = (weight * decoded.painted / (1 + config.mouth * near_mouth)).mean()
    loss = pixels + config.edges * (across + down) + config.warp * warp
    loss = loss + config.paint * painted + config.openings * read
    return loss, {**figures, "painted": float(painted.detach()), "openings": float(read.detach())}


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
                * torch.log10(((batch.portrait[:, None, None] - batch.groups) / 2).square().flatten(1).mean(1) + 1e-6)
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
