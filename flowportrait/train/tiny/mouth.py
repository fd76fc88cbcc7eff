"""`flowportrait train mouth`: the painter of mouths at full resolution, on patches of a finished
codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from flowportrait.codecs.mouth_net import MouthNet, SkullFrame, lip_maps
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.config import Frozen, load_recipe
from flowportrait.data.sources import load_sources
from flowportrait.faces.landmarks import MIRRORED
from flowportrait.modeldir import PARTS, load_parts, save_model
from flowportrait.train.run import (
    OptimizerConfig,
    Run,
    RunConfig,
    TrainState,
    UpdatePart,
    load_weights,
    train_loop,
)
from flowportrait.train.tiny.mouth_patches import STRETCH, MouthPatches
from flowportrait.weights import save_tensors


class MouthDataConfig(Frozen):
    """Clips (see `data/sources.py`), the model whose codec shows them, and where their patches are
    kept.
    """

    world: list[Path] = []
    grid: Path | None = None
    grid_clips: int = Field(
        300, description="maximum number of GRID clips to use; their labels are not needed"
    )
    codec: str = Field("tiny", description="model by name or directory")
    cache: Path
    grid_share: float = Field(0.3, description="share of samples drawn from GRID")

    def pools(self, seed: int) -> list[MouthPatches]:
        """Patches of the rendered clips and of GRID; cut on first use."""
        codec = load_parts(self.codec, ("codec",), "cpu")[1]["codec"]
        pools = [
            MouthPatches.build(self.cache / "world", load_sources(world=self.world), codec, seed)
        ]
        if self.grid:
            clips = [clip for clip in load_sources(grid=self.grid) if clip.split != "test"][
                : self.grid_clips
            ]
            pools.append(
                MouthPatches.build(
                    self.cache / "grid",
                    clips,
                    codec,
                    seed,
                )
            )
        return pools


class MouthLossConfig(Frozen):
    """Weights of the loss."""

    mouth: float = 6.0  # weight of the mouth relative to the rest of the patch
    edges: float = 2.0  # weight of the L1 distance between image gradients
    time: float = 1.0  # weight of the L1 distance between differences of successive frames
    detail: float = 1.0  # weight of the distance in local contrast, which L1 alone smooths away
    critic: float = 0.0  # weight of the adversarial hinge loss (arXiv:1705.02894)
    features: float = 0.0  # weight of the feature-matching loss on the critic (arXiv:1711.11585)


class MouthRecipe(Frozen):
    """Everything of such a run."""

    run: RunConfig
    data: MouthDataConfig
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_updates=100, decay_from=0.4, ema_decay=0.995
    )
    loss: MouthLossConfig = MouthLossConfig()
    start_from: Path | None = Field(None, description="a finished run whose painter to go on from")
    num_stretches: int = 3
    num_frames: int = Field(
        4, ge=2, le=STRETCH, description="number of successive frames per stretch"
    )


class Critic(nn.Module):
    """Tells painted mouths from true ones, place by place: three strided convolutions over the
    patch and its lips.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 64)):
        super().__init__()
        self.layers = nn.ModuleList()
        before = 5
        for width in widths:
            self.layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
            before = width
        self.opinion = nn.Conv2d(before, 1, 3, padding=1)

    def forward(
        self, patch: Float[Tensor, "n 3 y x"], lips: Float[Tensor, "n 2 y x"]
    ) -> list[Tensor]:
        """Features of each layer, and last the opinion: above 0 where a place looks true."""
        seen = [torch.cat([patch, lips], 1)]
        for layer in self.layers:
            seen.append(F.leaky_relu(layer(seen[-1]), 0.2))
        return [*seen[1:], self.opinion(seen[-1])]


class Trained(nn.Module):
    """The trained networks: the painter that ships, and its critic."""

    def __init__(self):
        super().__init__()
        self.net = MouthNet()
        self.critic = Critic()


class Patches(NamedTuple):
    """A batch: frames of stretches, in [-1, 1], and the lips' maps."""

    shown: Tensor
    true: Tensor
    lips: Tensor
    portrait: Tensor
    portrait_lips: Tensor


def train(
    recipe: str | Path, overrides: list[str] | None = None, resume: str | None = "auto"
) -> Path:
    """Train by a TOML recipe; the directory holds mouth.safetensors (averaged weights) at the end,
    and `model`, the recipe's model with this painter in its codec.
    """
    config = load_recipe(recipe, MouthRecipe, overrides or [])
    run = Run(config.run, config, resume)
    torch.manual_seed(config.run.seed)
    pools = config.data.pools(config.run.seed)
    shares = np.array([1 - config.data.grid_share, config.data.grid_share][: len(pools)])
    trained = Trained()
    if config.start_from:
        load_weights(trained.net, config.start_from / "mouth.safetensors")
    state = TrainState.fresh(trained, config.optimizer)
    run.restore(state)

    def parts_of(update: int) -> Iterator[UpdatePart]:
        rng = run.numpy_rng(update)
        pool = pools[rng.choice(len(pools), p=shares / shares.sum())]
        yield UpdatePart(
            *mouth_loss(state.module, draw(pool, "train", rng, config, augment=True), config.loss)
        )

    def look(update: int) -> dict[str, float]:
        net = MouthNet().eval()
        averaged = state.averaged()
        net.load_state_dict({name: averaged[f"net.{name}"] for name in net.state_dict()})
        save_tensors(run.directory / "mouth.safetensors", net.state_dict())
        export(config, net, run.directory / "model")
        rng = np.random.default_rng(1)
        held_out = [
            draw(pool, "held_out", rng, config, augment=False) for pool in pools for _ in range(6)
        ]
        _sheet(net, held_out, run.directory / f"sample_{update:06d}.png")
        return figures(net, held_out)

    train_loop(run, state, config.optimizer, parts_of, look)
    return run.directory


def export(config: MouthRecipe, net: MouthNet, directory: Path) -> None:
    """The recipe's model with the painter, and with a place for the gaze in its motion."""
    spec, parts = load_parts(config.data.codec, PARTS, "cpu")
    sizes = parts["codec"].config.model_copy(update={"native_mouth": True, "gaze": True})
    codec = PortraitCodec(sizes)
    old = {
        name: value
        for name, value in parts["codec"].state_dict().items()
        if not name.startswith("mouth_net.")
    }
    codec.load_state_dict(
        old | {f"mouth_net.{name}": value for name, value in net.state_dict().items()}
    )
    codec.motion.make_room_for_gaze()
    described = spec.model_copy(update={"codec": {"type": "portrait", **sizes.model_dump()}})
    save_model(directory, described, parts | {"codec": codec})


def draw(
    pool: MouthPatches, split: str, rng: np.random.Generator, config: MouthRecipe, augment: bool
) -> Patches:
    """Random stretches of a split, recoloured, mirrored and blurred together where they are
    augmented.
    """
    rows = np.flatnonzero(np.array(pool.split) == split)
    chosen = rng.choice(rows, config.num_stretches)
    start = int(rng.integers(0, STRETCH - config.num_frames + 1))
    frames = slice(start, start + config.num_frames)
    shown, true = (
        _floats(part[chosen][:, frames]).flatten(0, 1) for part in (pool.shown, pool.true)
    )
    portrait = _floats(pool.portrait[chosen]).repeat_interleave(config.num_frames, 0)
    landmarks = torch.from_numpy(pool.landmarks[chosen][:, frames]).flatten(0, 1)
    own = torch.from_numpy(pool.portrait_landmarks[chosen]).repeat_interleave(config.num_frames, 0)
    if augment:
        landmarks = landmarks + _tremble(rng, landmarks)
        shown, true, portrait = _recoloured(rng, shown, true, portrait)
        if rng.random() < 0.5:
            shown, true, portrait = (x.flip(-1) for x in (shown, true, portrait))
            landmarks, own = _mirrored(landmarks), _mirrored(own)
    # Frames are cut where the landmarks say; the maps are those of the points in that frame.
    return Patches(
        shown=shown,
        true=true,
        portrait=portrait,
        lips=lip_maps(SkullFrame.of(landmarks), landmarks),
        portrait_lips=lip_maps(SkullFrame.of(own), own),
    )


def composed(net: MouthNet, batch: Patches) -> Float[Tensor, "n 3 y x"]:
    """Patches with painted mouths."""
    patch = net(batch.shown, batch.lips, batch.portrait, batch.portrait_lips)
    return batch.shown * (1 - patch[:, 3:]) + patch[:, :3]


def mouth_loss(
    trained: Trained, batch: Patches, config: MouthLossConfig
) -> tuple[Tensor, dict[str, float]]:
    """L1 on pixels, edges, successive frames and local contrast, heavier on the mouth; and what the
    critic says.
    """
    net = trained.net
    made = composed(net, batch)
    near = F.max_pool2d(batch.lips[:, 1:], 9, stride=1, padding=4)
    inside = F.max_pool2d(batch.lips[:, :1], 5, stride=1, padding=2)
    weight = (0.3 + config.mouth * (0.3 * near + 0.7 * inside)) * net.window
    weight = weight / weight.mean()
    error = made - batch.true
    pixels = (weight * error.abs()).mean()
    edges = sum((weight * (error - error.roll(1, axis)).abs()).mean() for axis in (-1, -2))
    steps = rearrange(error, "(b f) c y x -> b f c y x", b=len(error) // _frames_of(batch))
    time = (weight.unflatten(0, steps.shape[:2])[:, 1:] * steps.diff(dim=1).abs()).mean()
    detail = (weight * (_contrast(made) - _contrast(batch.true)).abs()).mean()
    loss = pixels + config.edges * edges + config.time * time + config.detail * detail
    named = {"pixels": pixels, "edges": edges, "time": time, "detail": detail}
    if config.critic or config.features:
        judged = critic_losses(trained.critic, made, batch)
        loss = (
            loss
            + config.critic * judged["critic"]
            + config.features * judged["features"]
            + judged["own"]
        )
        named |= judged
    return loss, {name: float(value.detach()) for name, value in named.items()}


def critic_losses(
    critic: Critic, made: Float[Tensor, "n 3 y x"], batch: Patches
) -> dict[str, Tensor]:
    """The painter's losses under a critic that stands still, and the critic's `own` (hinge) on
    frames that do.
    """
    still = {name: value.detach() for name, value in critic.named_parameters()}
    seen = functional_call(critic, still, (made, batch.lips))
    with torch.no_grad():
        true = critic(batch.true, batch.lips)
    features = sum((a - b).abs().mean() for a, b in zip(seen[:-1], true[:-1], strict=True))
    opinions = [critic(x, batch.lips)[-1] for x in (batch.true, made.detach())]
    own = F.relu(1 - opinions[0]).mean() + F.relu(1 + opinions[1]).mean()
    return {"critic": -seen[-1].mean(), "features": features, "own": own}


@torch.no_grad()
def figures(net: MouthNet, batches: list[Patches]) -> dict[str, float]:
    """PSNR between the outer lips with and without a painted mouth, and sharpness as a share of the
    truth's: the variance of the Laplacian there.
    """
    rows = []
    for batch in batches:
        made = composed(net, batch)
        mask = (batch.lips[:, 1:] > 0.5).float()
        psnr = [
            -10
            * torch.log10(
                ((x - batch.true) / 2).square().mul(mask).sum() / (3 * mask.sum()).clamp(min=1)
            )
            for x in (made, batch.shown)
        ]
        rows.append(
            [
                *map(float, psnr),
                float(_sharpness(made, mask) / _sharpness(batch.true, mask).clamp(min=1e-8)),
            ]
        )
    psnr, before, sharp = np.median(np.array(rows), 0)
    return {"psnr_mouth": psnr, "psnr_unpainted": before, "sharpness": sharp}


def _frames_of(batch: Patches) -> int:
    """Successive frames share their portrait: how many there are."""
    same = (batch.portrait == batch.portrait[:1]).flatten(1).all(1)
    return int(same.long().cumprod(0).sum())


def _contrast(x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
    """The local standard deviation over 7 x 7 pixels."""
    mean = F.avg_pool2d(x, 7, stride=1, padding=3)
    return (F.avg_pool2d(x.square(), 7, stride=1, padding=3) - mean.square()).clamp(min=1e-4).sqrt()


def _sharpness(x: Float[Tensor, "n 3 y x"], mask: Float[Tensor, "n 1 y x"]) -> Tensor:
    grey = x.mean(1, keepdim=True)
    kernel = torch.tensor(
        [
            [0.0, 1, 0],
            [1, -4, 1],
            [0, 1, 0],
        ]
    )[None, None]
    return (F.conv2d(grey, kernel, padding=1).square() * mask).sum() / mask.sum().clamp(min=1)


def _tremble(rng: np.random.Generator, landmarks: Tensor) -> Tensor:
    """Errors of lips that a generator draws: about half a pixel of 128."""
    return (
        torch.from_numpy(rng.normal(0, 0.006, landmarks.shape)).float()
        * torch.tensor([1.0 if point >= 48 else 0.0 for point in range(68)])[:, None]
    )


def _mirrored(landmarks: Float[Tensor, "n 68 2"]) -> Float[Tensor, "n 68 2"]:
    return landmarks[:, MIRRORED] * torch.tensor([-1.0, 1.0])


def _recoloured(rng: np.random.Generator, *pictures: Tensor) -> list[Tensor]:
    """The same contrast, brightness, saturation and gain of each colour for all; sometimes grey,
    sometimes blurred.
    """
    gain = torch.from_numpy(rng.normal(1, 0.12, (1, 3, 1, 1))).float()
    offset = torch.from_numpy(rng.normal(0, 0.1, (1, 3, 1, 1))).float() + float(rng.normal(0, 0.1))
    saturation = 0.0 if rng.random() < 0.08 else float(rng.uniform(0.6, 1.3))
    changed = []
    for x in pictures:
        grey = x.mean(1, keepdim=True)
        changed.append((gain * (grey + saturation * (x - grey)) + offset).clamp(-1, 1))
    if rng.random() < 0.3:  # portraits that are smaller than the patch
        share = rng.uniform(0.4, 0.9)
        size = [round(side * share) for side in changed[0].shape[-2:]]
        for index in (0, 2):
            small = F.interpolate(changed[index], size, mode="area")
            changed[index] = F.interpolate(
                small, pictures[0].shape[-2:], mode="bilinear", align_corners=False
            )
    return changed


def _floats(patches: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(patches, -1, -3))).float() / 127.5 - 1


def _sheet(net: MouthNet, batches: list[Patches], path: Path) -> None:
    """Columns: a stretch each; rows: portrait, shown, painted, true."""
    columns = []
    for batch in batches:
        made = composed(net, batch)
        for index in (0, len(made) - 1):
            columns.append(
                torch.cat([x[index] for x in (batch.portrait, batch.shown, made, batch.true)], 1)
            )
    sheet = torch.cat(columns, 2).clamp(-1, 1)
    Image.fromarray(((sheet.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).save(path)
