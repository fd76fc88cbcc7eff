"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), the perceptual reward of Eq. 12-13, as the authors' package computes it.

The package weighs squared differences with its heads. Eq. 12, like the LPIPS paper, writes the weights inside the
square; no published number follows that reading, so neither does this.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from flowportrait.errors import require
from flowportrait.scoring.metric import Metric, Reading, View
from flowportrait.scoring.networks import lite0_file, load_lite0
from flowportrait.scoring.pixel import PairConfig, compared
from flowportrait.scoring.pretrained import WEIGHTS, sha256_of

Trunk = Literal["alex", "vgg", "squeeze"]
TAPS: dict[Trunk, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
"""Layers of torchvision's `features` whose outputs are compared."""
_CONSTRUCTORS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
_HEADS = Path(__file__).parent / "heads" / "lpips-v0.1.safetensors"
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Distances of pictures by the features of `trunk` ([features] of a torchvision network)."""

    def __init__(self, name: Trunk, trunk: nn.Sequential):
        super().__init__()
        self.trunk = trunk[: TAPS[name][-1] + 1].eval().requires_grad_(False)
        self.taps = TAPS[name]
        heads = load_file(_HEADS)
        self.heads = [heads[f"{name}.{i}"] for i in range(len(self.taps))]

    @torch.inference_mode()
    def features(self, frames: UInt8[np.ndarray, "f h w 3"]) -> list[Tensor]:
        """What is compared: features of unit length at each place of each tap."""
        x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x - torch.tensor(_SHIFT)[:, None, None]) / torch.tensor(_SCALE)[:, None, None]
        found = []
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            if index in self.taps:
                found.append(_unit(x))
        return found

    @torch.inference_mode()
    def forward(self, a: UInt8[np.ndarray, "f h w 3"], b: UInt8[np.ndarray, "f h w 3"]) -> Float[Tensor, " f"]:
        """The distance of each pair of pictures; 0 for equal ones."""
        total = torch.zeros(len(a))
        for x, y, head in zip(self.features(a), self.features(b), self.heads, strict=True):
            total = total + torch.einsum("fchw,c->fhw", (x - y).square(), head).mean((1, 2))
        return total


@lru_cache(maxsize=3)
def load_lpips(name: Trunk, path: Path) -> Lpips:
    """LPIPS on the trunk whose torchvision weights lie at `path`."""
    models = require("torchvision.models", extra="scorers")
    network = getattr(models, _CONSTRUCTORS[name])(weights=None)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Lpips(name, network.features)


class LpipsConfig(PairConfig):
    """Where the trunk's weights are if not in the cache."""

    weights: Path | None = None
    batch_frames: int = Field(8, ge=1)


class LpipsAlex(Metric):
    """LPIPS distance to the truth by AlexNet, mean over frames; minus this is the perceptual reward (Eq. 12-13)."""

    name, unit, low, high, better = "lpips", "1", 0.0, math.inf, "lower"
    needs = frozenset({"frames", "truth", "weights"})
    trunk: Trunk = "alex"
    Config = LpipsConfig

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS[self.trunk].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def read(self, view: View) -> Reading:
        made, truth = compared(view, self.config)
        network, step = load_lpips(self.trunk, self._file), self.config.batch_frames
        distances = [network(made[i : i + step], truth[i : i + step]) for i in range(0, len(made), step)]
        return Reading(float(torch.cat(distances).double().mean()), {"frames": len(made)})


class LpipsVgg(LpipsAlex):
    """The same by VGG-16."""

    name, trunk = "lpips-vgg", "vgg"


class LpipsSqueeze(LpipsAlex):
    """The same by SqueezeNet 1.1."""

    name, trunk = "lpips-squeeze", "squeeze"


class PerceptualLite0(Metric):
    """Distance of EfficientNet-Lite0's features: free of downloads, and another number than LPIPS.

    Features of five stages are scaled to unit length at each place; their mean squared differences are summed.
    """

    name, unit, low, high, better = "perceptual-lite0", "1", 0.0, math.inf, "lower"
    needs = frozenset({"frames", "truth"})
    Config = LpipsConfig

    @property
    def weights_sha256(self) -> str:
        return sha256_of(lite0_file(self.config.weights))

    def read(self, view: View) -> Reading:
        made, truth = compared(view, self.config)
        network, step = load_lite0(lite0_file(self.config.weights)), self.config.batch_frames
        distances = [
            sum(
                (_unit(x) - _unit(y)).square().sum(1).mean((1, 2))
                for x, y in zip(network.stages(made[i : i + step]), network.stages(truth[i : i + step]), strict=True)
            )
            for i in range(0, len(made), step)
        ]
        return Reading(float(torch.cat(distances).double().mean()), {"frames": len(made)})


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
