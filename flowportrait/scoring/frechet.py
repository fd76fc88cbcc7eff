"""Fréchet distances between sets of videos: FID (Heusel et al. 2017) and FVD (Unterthiner et al. 2018).

FID here is the paper's: Inception features are averaged over the frames of a video, and the Gaussians lie over videos;
`pool = frame` is the usual one. FVD uses R3D-18 as the paper does, is not comparable with I3D's, and so bears another
name. With fewer videos than features the covariance is singular: the number still exists, grows as N falls, says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.errors import CheckpointError, require
from flowportrait.media import read_frames
from flowportrait.scoring import Sample, digest_of
from flowportrait.scoring.metric import Unscorable
from flowportrait.scoring.weights import WEIGHTS, sha256_of

Pool = Literal["video", "frame"]
KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))  # mean, std
INCEPTION_PX, R3D_PX = 299, 112


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Squared Wasserstein-2 distance of the Gaussians fitted to two sets of features, in float64 with the sample
    covariance: |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)).

    The trace of the root is the sum of the roots of the product's eigenvalues, which needs no matrix root. ValueError
    for fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"frechet_distance: got {len(x)} and {len(y)} rows; each set needs two")
    x, y = x.astype(np.float64), y.astype(np.float64)
    cov_x, cov_y = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cov_x @ cov_y).real, 0)).sum()
    between = x.mean(0) - y.mean(0)
    return float(between @ between + np.trace(cov_x) + np.trace(cov_y) - 2 * roots)


def pooled(features: Sequence[Float[np.ndarray, "f d"]], pool: Pool) -> Float[np.ndarray, "n d"]:
    """Features of frames as rows of a set: one mean a video, or all frames of all videos."""
    return np.stack([one.mean(0) for one in features]) if pool == "video" else np.concatenate(features)


@dataclass(frozen=True)
class Distance:
    """A distance between two sets, with what it was computed from: rows and features."""

    metric: str
    value: float
    num_made: int
    num_true: int
    num_features: int
    fingerprint: str

    @property
    def warning(self) -> str:
        """What to know before believing the number; empty when there is nothing."""
        fewest = min(self.num_made, self.num_true)
        if fewest > self.num_features:
            return ""
        return (
            f"{self.metric}: {fewest} rows for {self.num_features} features: the covariance is singular and the number "
            "is biased upwards; compare it only with numbers of as many rows"
        )


class SetMetric:
    """Compares a set of clips with a set of true ones; a subclass gives the features of one clip."""

    name: ClassVar[str]
    unit: ClassVar[str] = "1"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    version: ClassVar[int] = 1
    weights_name: ClassVar[str]

    class Config(Frozen):
        """Where the weights are, if not in the cache."""

        weights: Path | None = None

    def __init__(self, config: Any = None):
        self.config = config or self.Config()

    @cached_property
    def file(self) -> Path:
        """The checked file of weights."""
        return WEIGHTS[self.weights_name].find(self.config.weights)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of settings, version and weights."""
        settings = self.config.model_dump(mode="json", exclude={"weights"})
        return digest_of(self.name, self.version, settings, sha256_of(self.file))

    def features(self, sample: Sample) -> Float[np.ndarray, "n d"]:
        """The rows that a clip adds to its set. Raises Unscorable or MediaError when it adds none."""
        raise NotImplementedError

    def distance(self, made: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> Distance:
        """The distance of two sets of clips' features."""
        x, y = np.concatenate(made), np.concatenate(true)
        return Distance(self.name, frechet_distance(x, y), len(x), len(y), x.shape[1], self.fingerprint)


class Fid(SetMetric):
    """Fréchet distance of Inception-V3 features, one row a video (the paper's) or a frame (the usual)."""

    name, weights_name = "fid", "inception-fid"

    class Config(SetMetric.Config):
        """`stride` n looks at every n-th frame."""

        pool: Pool = "video"
        stride: int = 1
        batch_frames: int = 8

    @cached_property
    def network(self) -> nn.Module:
        """The network, loaded once."""
        return load_inception(self.file)

    def features(self, sample: Sample) -> Float[np.ndarray, "n d"]:
        frames = list(read_frames(sample.clip.path))[:: self.config.stride]
        step = self.config.batch_frames
        rows = [inception_features(self.network, np.stack(frames[i : i + step])) for i in range(0, len(frames), step)]
        return pooled([np.concatenate(rows)], self.config.pool)


class FvdR3d18(SetMetric):
    """Fréchet distance of R3D-18 features, Kinetics-400; one row a clip of `num_frames` frames."""

    name, weights_name = "fvd-r3d18", "r3d-18"

    class Config(SetMetric.Config):
        """Unstated in the paper: frames, stride and shape. `preset` is torchvision's, which stretches a square picture
        by a third and loses its sides; `square` keeps the shape. `clips`: the first, or all that fit one after another.
        """

        num_frames: int = 16
        stride: int = 1
        clips: Literal["first", "all"] = "first"
        aspect: Literal["preset", "square"] = "preset"

    @cached_property
    def network(self) -> nn.Module:
        """The network, loaded once."""
        video = require("torchvision.models.video", extra="scorers")
        network = video.r3d_18(weights=None)
        network.load_state_dict(torch.load(self.file, map_location="cpu", weights_only=True))
        return without_head(network)

    def features(self, sample: Sample) -> Float[np.ndarray, "n d"]:
        frames = list(read_frames(sample.clip.path))[:: self.config.stride]
        length = self.config.num_frames
        if len(frames) < length:
            raise Unscorable(f"has {len(frames)} frames at stride {self.config.stride}; {self.name} needs {length}")
        starts = range(0, len(frames) - length + 1, length) if self.config.clips == "all" else (0,)
        clips = [np.stack(frames[start : start + length]) for start in starts]
        return np.stack([r3d_features(self.network, clip, self.config.aspect) for clip in clips])


def without_head(network: nn.Module) -> nn.Module:
    """A torchvision classifier that gives its pooled features instead."""
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def r3d_features(
    network: nn.Module, frames: UInt8[np.ndarray, "f h w 3"], aspect: Literal["preset", "square"]
) -> Float[np.ndarray, " d"]:
    """512 features of one clip."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2)
    size = (128, 171) if aspect == "preset" else (R3D_PX, R3D_PX)
    x = F.interpolate(x.float(), size, mode="bilinear", align_corners=False).round()  # to 8 bits, as the preset does
    top, left = (size[0] - R3D_PX) // 2, round((size[1] - R3D_PX) / 2)
    x = x[..., top : top + R3D_PX, left : left + R3D_PX] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in KINETICS)
    return network(((x - mean) / std).permute(1, 0, 2, 3)[None])[0].numpy()


@torch.inference_mode()
def inception_features(network: nn.Module, frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "f 2048"]:
    """2048 features of each frame, resized to 299 px by PIL's antialiased bicubic as clean-fid resizes."""
    channels = np.moveaxis(frames.astype(np.float32), -1, 1).reshape(-1, *frames.shape[1:3])
    size, how = (INCEPTION_PX, INCEPTION_PX), Image.Resampling.BICUBIC
    resized = [np.asarray(Image.fromarray(channel).resize(size, how)) for channel in channels]
    x = torch.from_numpy(np.array(resized)).unflatten(0, (-1, 3)).clamp(0, 255) / 127.5 - 1
    return network(x).numpy()


def load_inception(path: Path) -> nn.Module:
    """Inception-V3 as FID uses it (the TensorFlow weights of 2015): torchvision's, but for its pooling branches."""
    inception = require("torchvision.models.inception", extra="scorers")
    network = inception.Inception3(num_classes=1008, aux_logits=False, transform_input=False, init_weights=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: not FID's Inception (lacks {len(missing)} tensors, has {len(unexpected)} of another)"
        )
    return as_in_tensorflow(without_head(network))


def as_in_tensorflow(network: nn.Module) -> nn.Module:
    """The graph of 2015 averages over what lies inside the picture only, and its last block takes a maximum."""
    inside = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    largest = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
    for name, block in network.named_children():
        if hasattr(block, "branch_pool"):
            block.forward = _with_pooling(block, largest if name == "Mixed_7c" else inside)
    return network


def _with_pooling(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """torchvision's block whose last branch, the pooled one, is computed anew."""

    def forward(x: Tensor) -> Tensor:
        *branches, _ = block._forward(x)
        return torch.cat([*branches, block.branch_pool(pool(x))], 1)

    return forward

