"""`flowportrait train codec`: the portrait codec on clips, appearance augmented, mouth and eyes
weighted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor

from flowportrait.arrays import Rng
from flowportrait.codecs.motion import GROUP
from flowportrait.codecs.mouth import mouth_map
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.config import Frozen, load_recipe
from flowportrait.data.sources import load_sources
from flowportrait.faces.landmarks import LOWER_LIP, UPPER_LIP, lip_opening
from flowportrait.precision import matmul_precision
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
from flowportrait.train.tiny.batches import CodecBatch, Pool, codec_batch, landmark_groups
from flowportrait.train.tiny.frames import ClipCache
from flowportrait.weights import save_tensors

LandmarksOfClips = Float[Tensor, "b n 68 2"]


class DataConfig(Frozen):
    """Sources (see `data/sources.py`) and where their decoded frames are kept."""

    world: Path | list[Path] = []
    grid: Path | None = None
    grid_labels: Path | None = None
    cache: Path
    world_share: float = 0.65  # share of samples drawn from the rendered world

    def pool(self) -> Pool:
        """The training pool; decodes the clips on first use."""
        caches = []
        shares = []
        if self.world:
            caches.append(
                ClipCache.build(self.cache / "world", load_sources(world=self.world), 128)
            )
            shares.append(self.world_share)
        if self.grid:
            clips = load_sources(grid=self.grid, grid_labels=self.grid_labels)
            caches.append(ClipCache.build(self.cache / "grid", clips, 160))
            shares.append(1 - self.world_share)
        return Pool(caches, shares)


class CodecLossConfig(Frozen):
    """Weights of the codec's loss."""

    mouth: float = 30.0
    eyes: float = 8.0
    edges: float = 1.0  # weight of the L1 distance between image gradients
    warp: float = 0.7  # weight of the L1 distance of the warped portrait, without paint
    inside: float = 0.5  # weight of the L1 distance in the mouth, between the inner lips
    contrast: float = (
        0.0  # weight of the distance of mean and std in the mouth; L1 alone gives a flat pink
    )
    patch: float = 0.5  # weight of the L1 distance of the painted mouth in lip coordinates
    paint: float = (
        0.03  # weight of the painted share outside the mouth, where paint blurs the portrait
    )
    landmarks: float = 2.0  # weight of the L1 error of found landmarks, in half image sides
    lip_gap: float = 2.0  # weight of the L1 error of the gap between the lips, in half image sides
    found_share: float = 0.5  # share of clips decoded from found instead of true landmarks
    latent_noise: float = (
        0.15  # maximum std of the noise added to the latents, for a robust decoder
    )
    landmark_noise: float = (
        0.01  # std of the noise on the portrait's landmarks, in half image sides
    )


class CodecRecipe(Frozen):
    """All settings of a codec run."""

    run: RunConfig
    data: DataConfig
    codec: PortraitCodec.Config = PortraitCodec.Config()
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=5e-4, warmup_updates=100, decay_from=0.6
    )
    loss: CodecLossConfig = CodecLossConfig()
    start_from: Path | None = Field(
        None, description="directory with the codec.safetensors to start from"
    )
    trained: Literal["all", "decoder", "landmarker", "mouth"] = Field(
        "all", description="parts to train; the others keep their weights"
    )
    fit_groups: int = Field(
        4000,
        description="number of groups of four frames from which the motion components are fitted",
    )
    num_clips: int = 4
    num_groups: int = 2


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Train a codec by a TOML recipe; the directory holds codec.safetensors (averaged) and
    config.json at the end.
    """
    config = load_recipe(recipe, CodecRecipe, overrides or [])
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    pool = config.data.pool()
    state = TrainState.fresh(_initial_codec(config, pool, run), config.optimizer)
    run.restore(state)
    size_px = config.codec.size_px

    def batch(rng: Rng, source: Pool, num_clips: int, strength: float) -> CodecBatch:
        return codec_batch(
            source,
            rng,
            num_clips,
            config.num_groups,
            size_px,
            config.loss.mouth,
            config.loss.eyes,
            strength,
        )

    def parts_of(update: int) -> Iterator[UpdatePart]:
        drawn = batch(run.numpy_rng(update), pool, config.num_clips, 1.0)
        codec = state.module
        rng = run.torch_rng(update)
        if config.trained == "landmarker":
            yield UpdatePart(
                *landmarker_loss(find_landmarks(codec, drawn, rng), drawn.landmarks, config.loss)
            )
        elif config.trained == "mouth":
            missed = mouth_loss(codec, drawn, config.loss, rng)
            yield UpdatePart(missed, {"patch": float(missed.detach())})
        else:
            yield UpdatePart(*codec_loss(codec, drawn, config.loss, rng))

    def sample(update: int) -> Figures:
        codec = PortraitCodec(config.codec).eval()
        codec.load_state_dict(state.averaged())
        held_out = Pool(pool.caches, pool.shares, split="held_out")
        drawn = batch(np.random.default_rng(1), held_out, 24, 0.0)
        figures, frames = reconstruction(codec, drawn)
        _contact_sheet(drawn, frames, run.directory / f"sample_{update:06d}.png")
        save_codec(codec, run.directory)
        return figures

    train_loop(run, state, config.optimizer, parts_of, sample)
    return run.directory


def _initial_codec(config: CodecRecipe, pool: Pool, run: Run) -> PortraitCodec:
    """The codec to train, its components of motion fitted, and the parts that keep their weights
    frozen.
    """
    codec = PortraitCodec(config.codec).train()
    if config.start_from:
        load_weights(
            codec, config.start_from / "codec.safetensors", may_lack=("landmarker.refiners",)
        )
    elif not run.resumes:
        portrait, frames = landmark_groups(
            pool, np.random.default_rng([config.run.seed, 2]), config.fit_groups
        )
        run.log(event="motion", share_kept=codec.motion.fit(frames - portrait[:, None]))
        codec.landmarker.points.bias.data.copy_(portrait.mean(0).flatten())
    if config.trained != "all":
        codec.requires_grad_(config.trained == "decoder")
        codec.landmarker.requires_grad_(config.trained == "landmarker")
        codec.mouth_painter.requires_grad_(config.trained in ("decoder", "mouth"))
    return codec


def save_codec(codec: PortraitCodec, directory: Path) -> None:
    """Averaged weights in fp32 safetensors."""
    save_tensors(directory / "codec.safetensors", codec.state_dict())


def codec_loss(
    codec: PortraitCodec, batch: CodecBatch, config: CodecLossConfig, rng: torch.Generator
) -> tuple[Tensor, Figures]:
    """Weighted L1 on pixels, edges and the warped portrait; L1 on the landmarks that are found in
    recoloured frames.

    Some clips are decoded from what the landmarker found, so that it learns what a picture needs
    and the decoder what to expect of it; the others from true landmarks under noise of random
    strength, as a generator draws them.
    """
    found = find_landmarks(codec, batch, rng)
    missed, found_figures = landmarker_loss(found, batch.landmarks, config)
    is_found = (torch.arange(len(found)) < round(config.found_share * len(found)))[
        :, None, None, None
    ]
    landmarks = torch.where(is_found, found, batch.landmarks)
    portrait = landmarks[:, 0]
    moved = landmarks[:, 1:]
    parts = codec.motion.parts_of((moved - portrait[:, None]).unflatten(1, (-1, GROUP)))
    strength = config.latent_noise * torch.rand(len(parts), 1, 1, 1, generator=rng)
    parts = parts + ~is_found * strength * torch.randn(parts.shape, generator=rng)
    portrait = portrait + ~is_found[:, 0] * config.landmark_noise * torch.randn(
        portrait.shape, generator=rng
    )
    with matmul_precision("cpu"):
        decoded = codec.decode_parts(parts, codec.prepare(batch.portrait, portrait))
    error = decoded.frames.float() - batch.groups
    weight = batch.weight / batch.weight.mean()
    pixels = (weight * error.abs()).mean()
    across = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    warp = (weight * (decoded.warped - batch.groups).abs()).mean()
    near_mouth = ((batch.weight - 1) / config.mouth) ** 3
    painted = (weight * decoded.painted / (1 + config.mouth * near_mouth)).mean()
    inside, contrast = _inside_mouth(batch, error, decoded)
    patch = mouth_loss(codec, batch, config, rng)
    with torch.no_grad():
        psnr = -10 * torch.log10((error / 2).square().mean())
    loss = pixels + config.edges * (across + down) + config.warp * warp
    loss = loss + config.inside * inside + config.contrast * contrast
    loss = loss + config.patch * patch + config.paint * painted + missed
    figures = {
        "l1": pixels,
        "inside": inside,
        "contrast": contrast,
        "patch": patch,
        "warp": warp,
        "painted": painted,
        "psnr": psnr,
    }
    return loss, {name: float(value.detach()) for name, value in figures.items()} | found_figures


def _inside_mouth(batch: CodecBatch, error: Tensor, decoded) -> tuple[Tensor, Tensor]:
    """Errors of colour and of contrast between the lips."""
    between_lips = mouth_map(batch.landmarks[:, 1:].flatten(0, 1), error.shape[-1]).view_as(
        batch.weight
    )
    inside = (between_lips * error.abs()).sum() / (3 * between_lips.sum())
    contrast = sum(
        (a - b).abs().mean()
        for a, b in zip(
            _moments(decoded.frames, between_lips),
            _moments(batch.groups, between_lips),
            strict=True,
        )
    )
    return inside, contrast


def _moments(
    frames: Float[Tensor, "b l 4 3 h w"], weight: Float[Tensor, "b l 4 1 h w"]
) -> tuple[Float[Tensor, "b l 4 3"], Float[Tensor, "b l 4 3"]]:
    """Weighted mean and standard deviation of each colour of each frame."""
    share = weight / weight.sum((-2, -1), keepdim=True)
    mean = (share * frames.float()).sum((-2, -1))
    variance = (share * (frames.float() - mean[..., None, None]).square()).sum((-2, -1))
    return mean, (variance + 1e-4).sqrt()


def find_landmarks(
    codec: PortraitCodec, batch: CodecBatch, rng: torch.Generator
) -> LandmarksOfClips:
    """Landmarks that the landmarker finds in the recoloured portrait and frames."""
    seen = recoloured(torch.cat([batch.portrait[:, None], batch.groups.flatten(1, 2)], 1), rng)
    with matmul_precision("cpu"):
        return codec.landmarker(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])


def landmarker_loss(
    found: LandmarksOfClips, true: LandmarksOfClips, config: CodecLossConfig
) -> tuple[Tensor, Figures]:
    """L1 on found landmarks, and on the gaps between lips that they leave."""
    missed = found - true
    gaps = (missed[..., list(LOWER_LIP), 1] - missed[..., list(UPPER_LIP), 1]).mean(-1).abs().mean()
    points = missed.abs().mean()
    figures = {"landmarks": float(points.detach()), "lip_gap": float(gaps.detach())}
    return config.landmarks * points + config.lip_gap * gaps, figures


def mouth_loss(
    codec: PortraitCodec, batch: CodecBatch, config: CodecLossConfig, rng: torch.Generator
) -> Tensor:
    """L1 on the painted mouth in the frame of lips that are a little off, as found ones are."""
    landmarks = batch.landmarks + config.landmark_noise * torch.randn(
        batch.landmarks.shape, generator=rng
    )
    with matmul_precision("cpu"):
        return codec.mouth_painter.missed(
            batch.groups.flatten(0, 2),
            batch.portrait,
            landmarks[:, 0],
            landmarks[:, 1:].flatten(0, 1),
        )


def recoloured(
    frames: Float[Tensor, "b n 3 h w"], rng: torch.Generator
) -> Float[Tensor, "b n 3 h w"]:
    """Clips with a contrast and a brightness of each colour drawn anew, and a little sensor
    noise.
    """
    shape = (len(frames), 1, 3, 1, 1)
    gain = 1 + 0.2 * torch.randn(shape, generator=rng)
    offset = 0.15 * torch.randn(shape, generator=rng)
    return gain * frames + offset + 0.02 * torch.randn(frames.shape, generator=rng)


@torch.no_grad()
def reconstruction(codec: PortraitCodec, batch: CodecBatch) -> tuple[Figures, Tensor]:
    """PSNR over all pixels and over mouth and eyes (where the loss weight exceeds 2), and the
    decoded groups.
    """
    context = codec.prepare(batch.portrait)
    found = codec.landmarker(batch.groups.flatten(0, 2)).unflatten(0, batch.groups.shape[:3])
    parts = codec.motion.parts_of(found - context.landmarks[:, None, None])
    decoded = codec.decode_parts(parts, context).frames.clamp(-1, 1)
    squared = ((decoded - batch.groups) / 2).square().mean(3, keepdim=True)
    features = batch.weight > 2
    per_clip = squared.flatten(1).mean(1)
    opening = _gaps(found)
    true = _gaps(batch.landmarks[:, 1:].unflatten(1, found.shape[1:3]))
    figures = {
        "r_lips_found": float(np.corrcoef(opening, true)[0, 1]),
        "landmarks_held_out": float(
            (found - batch.landmarks[:, 1:].unflatten(1, found.shape[1:3])).abs().mean()
        ),
        "psnr_held_out": float((-10 * torch.log10(per_clip)).mean()),
        "psnr_mouth_eyes": float(-10 * torch.log10(squared[features].mean())),
        "psnr_copying_portrait": float(
            (
                -10
                * torch.log10(
                    ((batch.portrait[:, None, None] - batch.groups) / 2).square().flatten(1).mean(1)
                    + 1e-6
                )
            ).mean()
        ),
    }
    return figures, decoded


def _gaps(landmarks: Float[Tensor, "b l 4 68 2"]) -> np.ndarray:
    return lip_opening(landmarks.flatten(0, 2).numpy())


def _contact_sheet(batch: CodecBatch, decoded: Tensor, path: Path, count: int = 8) -> None:
    """Rows: portrait, last true frame, last decoded frame, error x 4; one clip a column."""
    true = batch.groups[:count, -1, -1]
    made = decoded[:count, -1, -1]
    rows = [batch.portrait[:count], true, made, ((made - true).abs() * 4 - 1).clamp(-1, 1)]
    sheet = torch.cat([torch.cat(list(row), -1) for row in rows], -2)
    Image.fromarray(
        ((sheet.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    ).save(path)
