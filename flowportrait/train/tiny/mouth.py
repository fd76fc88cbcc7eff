"""`flowportrait train mouth`: the painter of mouths at full resolution, on patches of a finished
codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from flowportrait.codecs.canvas import cubic_matrix
from flowportrait.codecs.mouth_net import (
    EDGE,
    MouthLayers,
    MouthNet,
)
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.config import Frozen, load_recipe
from flowportrait.data.sources import load_sources
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
from flowportrait.train.tiny.mouth_batches import Patches, draw
from flowportrait.train.tiny.mouth_patches import FINE, STRETCH, MouthPatches
from flowportrait.weights import save_tensors

SHARP = EDGE * 2 / FINE[0]
"""Softness of borders in half-patches where a patch is shown at the size it is trained at."""
TOLD = 0.03
"""Height above the teeth's border, in half-patches, that says e to 1 that there are teeth."""


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
    layers: float = Field(
        1.0, description="weight of the teeth's places and the layers' colours, of rendered clips"
    )
    soft: float = Field(
        0.1,
        description="width of the layers' borders at first, in half-patches, which lets them move",
    )
    sharp_from: int = Field(
        1500, description="update from which borders are as sharp as they are shown"
    )

    def softness(self, update: int) -> float:
        """Width of the borders at an update: it falls geometrically."""
        share = min(1.0, update / max(1, self.sharp_from))
        return self.soft ** (1 - share) * SHARP**share


class MouthRecipe(Frozen):
    """Everything of such a run."""

    run: RunConfig
    data: MouthDataConfig
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_updates=100, decay_from=0.4, ema_decay=0.995
    )
    loss: MouthLossConfig = MouthLossConfig()
    start_from: Path | None = Field(
        None,
        description="a finished run whose painter to go on from; outputs that it lacks are new",
    )
    num_stretches: int = 3
    num_frames: int = Field(
        4, ge=2, le=STRETCH, description="number of successive frames per stretch"
    )


class Critic(nn.Module):
    """Tells painted mouths from true ones, place by place: four strided convolutions over the
    patch and its lips.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 48, 64, 64)):
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
        load_weights(
            trained.net, config.start_from / "mouth.safetensors", may_lack=("leave.", "place")
        )
    state = TrainState.fresh(trained, config.optimizer)
    run.restore(state)

    size = config.num_stretches, config.num_frames

    def parts_of(update: int) -> Iterator[UpdatePart]:
        rng = run.numpy_rng(update)
        pool = pools[rng.choice(len(pools), p=shares / shares.sum())]
        yield UpdatePart(
            *mouth_loss(
                state.module,
                draw(pool, "train", rng, size, augment=True),
                config.loss,
                config.loss.softness(update),
            )
        )

    def look(update: int) -> dict[str, float]:
        net = MouthNet().eval()
        averaged = state.averaged()
        net.load_state_dict({name: averaged[f"net.{name}"] for name in net.state_dict()})
        save_tensors(run.directory / "mouth.safetensors", net.state_dict())
        export(config, net, run.directory / "model")
        rng = np.random.default_rng(1)
        held_out = [
            draw(pool, "held_out", rng, size, augment=False) for pool in pools for _ in range(6)
        ]
        _sheet(net, held_out, run.directory / f"sample_{update:06d}.png")
        return figures(net, held_out)

    train_loop(run, state, config.optimizer, parts_of, look)
    return run.directory


def export(config: MouthRecipe, net: MouthNet, directory: Path) -> None:
    """The recipe's model with the painter, and with a place for the gaze in its motion."""
    spec, parts = load_parts(config.data.codec, PARTS, "cpu")
    sizes = parts["codec"].config.model_copy(
        update={"native_mouth": True, "mouth_layers": True, "gaze": True}
    )
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


def composed(net: MouthNet, batch: Patches, soft: float = SHARP) -> Float[Tensor, "n 3 y x"]:
    """Patches with painted mouths."""
    return fine_layers(net, batch).over(batch.shown, torch.full((1, 1, 1, 1), soft))


def fine_layers(net: MouthNet, batch: Patches) -> MouthLayers:
    """The mouths' layers at the size of the patches they are compared on."""
    output = net(F.avg_pool2d(batch.shown, 2), batch.lips, batch.portrait, batch.portrait_lips)
    layers = net.layers(output, batch.lips, batch.opening, batch.portrait_lips)
    rows, columns = (cubic_matrix(side, 2 * side, output.device) for side in output.shape[-2:])
    return MouthLayers.of(rows @ (layers.maps @ columns.T))


def mouth_loss(
    trained: Trained, batch: Patches, config: MouthLossConfig, soft: float = SHARP
) -> tuple[Tensor, dict[str, float]]:
    """L1 on pixels, edges, successive frames and local contrast, heavier on the mouth; and what the
    critic says of clips that are sharp enough. `soft` is the width of the layers' borders.
    """
    layers = fine_layers(trained.net, batch)
    made = layers.over(batch.shown, torch.full((1, 1, 1, 1), soft))
    made, true, lips = batch.at_own_size(made)
    weight = _weight(trained.net, batch, config.mouth)
    error = made - true
    pixels = (weight * error.abs()).mean()
    edges = sum((weight * (error - error.roll(1, axis)).abs()).mean() for axis in (-1, -2))
    steps = rearrange(error, "(b f) c y x -> b f c y x", b=len(error) // _frames_of(batch))
    time = (weight.unflatten(0, steps.shape[:2])[:, 1:] * steps.diff(dim=1).abs()).mean()
    detail = (weight * (_contrast(made) - _contrast(true)).abs()).mean()
    loss = pixels + config.edges * edges + config.time * time + config.detail * detail
    named = {"pixels": pixels, "edges": edges, "time": time, "detail": detail}
    if config.layers:
        named["layers"] = (batch.coarser == 1) * _layer_loss(layers, batch)
        loss = loss + config.layers * named["layers"]
    if config.critic or config.features:
        # Clips that are enlarged look like nothing that is painted.
        share = float(batch.coarser == 1)
        judged = critic_losses(trained.critic, made, true, lips)
        judged = {name: share * value for name, value in judged.items()}
        loss = (
            loss
            + config.critic * judged["critic"]
            + config.features * judged["features"]
            + judged["own"]
        )
        named |= judged
    return loss, {name: float(value.detach()) for name, value in named.items()}


def _layer_loss(layers: MouthLayers, batch: Patches) -> Tensor:
    """How far the layers of rendered clips are from true ones: cross-entropy of where the teeth
    are, and L1 of the colours of teeth and of what is behind them.
    """
    gap = (batch.fine_lips[:, :1] > 0.5).float()
    teeth = batch.teeth
    told = F.binary_cross_entropy_with_logits(layers.teeth / TOLD, teeth, reduction="none")
    colours = torch.where(teeth > 0, layers.enamel, layers.inside) - batch.true
    missed = 0.3 * told + colours.abs().mean(1, keepdim=True)
    return (gap * missed).sum() / gap.sum().clamp(min=1)


def _weight(net: MouthNet, batch: Patches, mouth: float) -> Float[Tensor, "n 1 y x"]:
    """Weights of pixels, 1 on average: `mouth` is that of the mouth beside what is around it."""
    near = F.max_pool2d(batch.lips[:, 1:], 9, stride=1, padding=4)
    inside = F.max_pool2d(batch.lips[:, :1], 5, stride=1, padding=2)
    weight = (0.3 + mouth * (0.3 * near + 0.7 * inside)) * net.window
    weight = F.interpolate(weight, scale_factor=2 / batch.coarser, mode="bilinear")
    return weight / weight.mean()


def critic_losses(
    critic: Critic,
    made: Float[Tensor, "n 3 y x"],
    true: Float[Tensor, "n 3 y x"],
    lips: Float[Tensor, "n 2 y x"],
) -> dict[str, Tensor]:
    """The painter's losses under a critic that stands still, and the critic's `own` (hinge) on
    frames that do.
    """
    still = {name: value.detach() for name, value in critic.named_parameters()}
    seen = functional_call(critic, still, (made, lips))
    with torch.no_grad():
        wanted = critic(true, lips)
    features = sum((a - b).abs().mean() for a, b in zip(seen[:-1], wanted[:-1], strict=True))
    opinions = [critic(x, lips)[-1] for x in (true, made.detach())]
    own = F.relu(1 - opinions[0]).mean() + F.relu(1 + opinions[1]).mean()
    return {"critic": -seen[-1].mean(), "features": features, "own": own}


@torch.no_grad()
def figures(net: MouthNet, batches: list[Patches]) -> dict[str, float]:
    """PSNR between the outer lips with and without a painted mouth, and sharpness as a share of the
    truth's: the variance of the Laplacian there.
    """
    rows = []
    for batch in batches:
        made, true, lips = batch.at_own_size(composed(net, batch))
        shown = F.avg_pool2d(batch.shown, batch.coarser)
        mask = (lips[:, 1:] > 0.5).float()
        psnr = [
            -10
            * torch.log10(((x - true) / 2).square().mul(mask).sum() / (3 * mask.sum()).clamp(min=1))
            for x in (made, shown)
        ]
        sharp = _sharpness(made, mask) / _sharpness(true, mask).clamp(min=1e-8)
        rows.append([*map(float, psnr), float(sharp)])
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


def _sheet(net: MouthNet, batches: list[Patches], path: Path) -> None:
    """Columns: a stretch each; rows: portrait, shown, painted, true."""
    columns = []
    for batch in batches:
        made = composed(net, batch)
        portrait = F.interpolate(batch.portrait, FINE)
        for index in (0, len(made) - 1):
            columns.append(
                torch.cat([x[index] for x in (portrait, batch.shown, made, batch.true)], 1)
            )
    sheet = torch.cat(columns, 2).clamp(-1, 1)
    Image.fromarray(((sheet.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).save(path)
