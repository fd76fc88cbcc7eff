"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), the perceptual reward of Eq. 12-13, as the authors'
package computes it.

The package weighs squared differences with its heads. Eq. 12, like the LPIPS paper, writes the
weights inside the square; no published number follows that reading, so neither does this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from flowportrait.arrays import Array, Frames, PerFrame
from flowportrait.errors import require
from flowportrait.files import sha256_of
from flowportrait.pretrained import WEIGHTS
from flowportrait.scoring.metrics.metric import FrameMetric, Reading
from flowportrait.scoring.metrics.networks import lite0_file, load_lite0
from flowportrait.scoring.metrics.pixel import PairConfig
from flowportrait.scoring.metrics.winograd import Convolution3x3

Trunk = Literal["alex", "vgg", "squeeze"]
TAPS: dict[Trunk, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
"""Layers of torchvision's `features` whose outputs are compared."""
_CONSTRUCTORS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
_HEADS = Path(__file__).parent / "heads" / "lpips-v0.1.safetensors"
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Distances of pictures by the features of `trunk` ([features] of a torchvision network)."""

    def __init__(self, name: Trunk, trunk: nn.Sequential):
        super().__init__()
        self.trunk = (
            trunk[: TAPS[name][-1] + 1]
            .eval()
            .requires_grad_(False)
            .to(memory_format=torch.channels_last)
        )
        self.layers = [_faster(layer) for layer in self.trunk]
        self.taps = TAPS[name]
        heads = load_file(_HEADS, device=str(self.device))
        self.heads = [heads[f"{name}.{i}"] for i in range(len(self.taps))]

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.trunk.parameters()).device

    @torch.inference_mode()
    def features(self, frames: Frames) -> list[Tensor]:
        """Features to compare: of unit length at each place of each tap."""
        shift = torch.tensor(_SHIFT, device=self.device)
        scale = torch.tensor(_SCALE, device=self.device)
        levels = torch.from_numpy(frames).to(self.device).float()
        levels = levels.mul_(1 / (127.5 * scale)).sub_((1 + shift) / scale)
        x = levels.permute(0, 3, 1, 2)
        found = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                found.append(_unit(x))
        return found

    @torch.inference_mode()
    def forward(self, a: Frames, b: Frames) -> Float[Tensor, " f"]:
        """The distance of each pair of pictures; 0 for equal ones."""
        total = torch.zeros(len(a), device=self.device)
        for x, y, head in zip(self.features(a), self.features(b), self.heads, strict=True):
            total = total + torch.einsum("fchw,c->fhw", (x - y).square(), head).mean((1, 2))
        return total


def _faster(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A layer, or what computes the same with fewer multiplications."""
    plain = isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride, layer.padding) == (
        (3, 3),
        (1, 1),
        (1, 1),
    )
    if plain and layer.in_channels >= 16:
        return Convolution3x3.of(layer)
    return layer


@lru_cache(maxsize=3)
def load_lpips(name: Trunk, path: Path, device: str = "cpu") -> Lpips:
    """LPIPS on the trunk whose torchvision weights lie at `path`."""
    models = require("torchvision.models", extra="scorers")
    network = getattr(models, _CONSTRUCTORS[name])(weights=None)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Lpips(name, network.features.to(device))


class LpipsConfig(PairConfig):
    """Path of the trunk's weights, if not in the cache."""

    weights: Path | None = None
    batch_frames: int = Field(8, ge=1)
    device: str = Field("cpu", description="where the network runs: cpu, cuda, cuda:1")


class LpipsAlex(FrameMetric):
    """LPIPS distance (AlexNet) to the truth, mean over frames; its negative is the perceptual
    reward (Eq. 12-13).
    """

    name = "lpips"
    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"
    needs = frozenset({"frames", "truth", "weights"})
    trunk: Trunk = "alex"
    Config = LpipsConfig

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS[self.trunk].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def values(self, made: Array, truth: Array) -> Array:
        network = load_lpips(self.trunk, self._file, self.config.device)
        return _in_batches(network, made, truth, self.config.batch_frames)

    def conclude(self, values: Array) -> Reading:
        return Reading(float(values.mean()), {"frames": len(values)})


class LpipsVgg(LpipsAlex):
    """LPIPS distance with VGG-16."""

    name = "lpips-vgg"
    trunk = "vgg"


class LpipsSqueeze(LpipsAlex):
    """LPIPS distance with SqueezeNet 1.1."""

    name = "lpips-squeeze"
    trunk = "squeeze"


class PerceptualLite0(FrameMetric):
    """Distance of EfficientNet-Lite0 features: needs no download, not comparable with LPIPS.

    Features of five stages are scaled to unit length at each place; their mean squared differences
    are summed.
    """

    name = "perceptual-lite0"
    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"
    needs = frozenset({"frames", "truth"})
    Config = LpipsConfig

    @property
    def weights_sha256(self) -> str:
        return sha256_of(lite0_file(self.config.weights))

    def values(self, made: Array, truth: Array) -> Array:
        network = load_lite0(lite0_file(self.config.weights), self.config.device)

        def distance(a: Array, b: Array) -> Tensor:
            stages = zip(network.stages(a), network.stages(b), strict=True)
            return sum((_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in stages)

        return _in_batches(distance, made, truth, self.config.batch_frames)

    def conclude(self, values: Array) -> Reading:
        return Reading(float(values.mean()), {"frames": len(values)})


_BATCH_PX = 2**21


def _in_batches(
    distance: Callable[[Array, Array], Tensor],
    made: Array,
    truth: Array,
    most: int,
) -> PerFrame:
    """Of all pairs; fewer at a time where pictures are large."""
    step = max(1, min(most, _BATCH_PX // (made.shape[1] * made.shape[2])))
    return np.concatenate(
        [
            distance(made[i : i + step], truth[i : i + step]).double().cpu().numpy()
            for i in range(0, len(made), step)
        ]
    )


def _unit(features: Tensor) -> Tensor:
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)
