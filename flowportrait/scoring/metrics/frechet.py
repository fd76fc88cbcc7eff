"""Distances of two sets of videos: FID as the paper computes it, FVD on R3D-18, and the same on
free features.

The Fréchet distance of two Gaussians (Heusel et al. 2017, arXiv:1706.08500) over features of clips.
Numbers depend on the features, the pooling, the number of clips and the covariance's convention:
all stand in the reading. With no more clips than dimensions the covariance is singular and the
distance is biased upward; the reading warns of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from flowportrait.arrays import Array
from flowportrait.config import Frozen
from flowportrait.files import sha256_of
from flowportrait.pretrained import WEIGHTS
from flowportrait.scoring.metrics.metric import Metric, Reading, SetMetric, SetReading
from flowportrait.scoring.metrics.networks import (
    inception_features,
    lite0_file,
    load_inception,
    load_lite0,
    load_r3d18,
    r3d18_features,
)
from flowportrait.scoring.metrics.pixel import sized
from flowportrait.scoring.metrics.view import Unscorable, View


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with unbiased covariances A, B.

    The trace of the root is the sum of the singular values of X Y^T for the centred, scaled
    features X, Y: exact also where covariances are singular, and cheap when there are fewer clips
    than dimensions. ValueError below two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"frechet_distance: got {len(a)} and {len(b)} rows; give at least 2 each")
    a = a.astype(np.float64)
    b = b.astype(np.float64)
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    x, y = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (a, b))
    x = _reduced(x)
    y = _reduced(y)
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(mean + np.square(x).sum() + np.square(y).sum() - 2 * shared)


def _reduced(z: Array) -> Array:
    """At most d rows of the same covariance."""
    if len(z) > z.shape[1]:
        return np.linalg.qr(z, mode="r")
    return z


class _Frechet(SetMetric):
    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"

    def compare(self, made: Sequence[Array], truth: Sequence[Array]) -> SetReading:
        """The distance, with N and D, and a warning where the covariance is singular."""
        if min(len(made), len(truth)) < 2:
            raise Unscorable(f"{len(made)} clips and {len(truth)} of the truth; each set needs 2")
        a = np.concatenate(made)
        b = np.concatenate(truth)
        warnings = ()
        if min(len(a), len(b)) <= a.shape[1]:
            warnings = (
                (
                    f"{self.name}: {len(a)} and {len(b)} vectors of {a.shape[1]} dimensions: the"
                    " covariance is singular and the distance biased upward; compare only sets of"
                    " the same size"
                ),
            )
        counts = {
            "num_clips": len(made),
            "num_truth": len(truth),
            "vectors": len(a),
            "vectors_truth": len(b),
            "dimensions": a.shape[1],
        }
        return SetReading(frechet_distance(a, b), counts, warnings)


class FramesConfig(Frozen):
    """Pooling of frame features into those of a clip."""

    pool: Literal["video", "frame"] = Field(
        "video",
        description="video: one mean vector per clip, as in the paper; frame: one vector per frame",
    )
    every: int = Field(1, ge=1, description="use every n-th frame")
    batch_frames: int = Field(16, ge=1)
    weights: Path | None = None


class _OfFrames(_Frechet):
    Config = FramesConfig

    def features(self, view: View) -> Array:
        """One vector of the clip, or of each of its frames."""
        rows = self.rows(view.blocks())
        if self.config.pool == "video":
            return rows.mean(0, keepdims=True)
        return rows.astype(np.float32)

    def rows(self, blocks: Iterable[Array]) -> Array:
        """One vector of each frame that is looked at, float64 [n, d]."""
        looked = islice(chain.from_iterable(blocks), 0, None, self.config.every)
        found = [self._of(frames) for frames in _stacked(looked, self.config.batch_frames)]
        return np.concatenate(found).astype(np.float64)

    def _of(self, frames: Array) -> Array:
        raise NotImplementedError


class Fid(_OfFrames):
    """FID on Inception-V3 features, averaged over the frames of a clip (§2.3 of the paper) or per
    frame.
    """

    name = "fid"
    needs = frozenset({"frames", "truth", "weights"})

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS["inception-fid"].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def _of(self, frames: Array) -> Array:
        return inception_features(load_inception(self._file), frames)


class FrechetLite0(_OfFrames):
    """Fréchet distance as in FID, but on EfficientNet-Lite0 features: not comparable with FID."""

    name = "frechet-lite0"
    needs = frozenset({"frames", "truth"})

    class Config(FramesConfig):
        """Frames are made 224 x 224."""

        every: int = Field(4, ge=1, description="use every n-th frame")

    @property
    def weights_sha256(self) -> str:
        return sha256_of(lite0_file(self.config.weights))

    def _of(self, frames: Array) -> Array:
        return load_lite0(lite0_file(self.config.weights)).pooled(sized(frames, 224, 224)).numpy()


class _ClipFrechet(Metric):
    """Fréchet distance between the frames of one clip and of its truth: one number per clip."""

    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"
    of: ClassVar[type[_OfFrames]]

    class Config(Frozen):
        """Choice of frames."""

        every: int = Field(1, ge=1, description="use every n-th frame")
        batch_frames: int = Field(16, ge=1)
        weights: Path | None = None

    def __init__(self, config: Any = None):
        super().__init__(config)
        self._features = self.of(self.of.Config(**self.config.model_dump(), pool="frame"))

    @property
    def weights_sha256(self) -> str:
        return self._features.weights_sha256

    def read(self, view: View) -> Reading:
        """The distance, with the numbers of vectors and dimensions, which it hangs on."""
        a = self._features.rows(view.blocks())
        b = self._features.rows(view.truth_blocks())
        if min(len(a), len(b)) < 2:
            raise Unscorable(
                f"{len(a)} frames and {len(b)} of the truth; a distance needs 2 of each"
            )
        parts = {
            "vectors": len(a),
            "vectors_truth": len(b),
            "dimensions": a.shape[1],
        }
        return Reading(max(0.0, frechet_distance(a, b)), parts)


class FidClip(_ClipFrechet):
    """Fréchet distance between the frames of a clip and of its truth on Inception-V3 features; not
    the FID of sets.
    """

    name = "fid-clip"
    needs = frozenset({"frames", "truth", "weights"})
    of = Fid


class FrechetLite0Clip(_ClipFrechet):
    """As fid-clip, but on EfficientNet-Lite0 features: not comparable with FID."""

    name = "frechet-lite0-clip"
    needs = frozenset({"frames", "truth"})
    of = FrechetLite0


class FvdR3d18(_Frechet):
    """FVD on R3D-18 (Kinetics-400) features instead of the paper's I3D: not comparable with FVD on
    I3D.
    """

    name = "fvd-r3d18"
    needs = frozenset({"frames", "truth", "weights"})

    class Config(Frozen):
        """Choice of frames and their preprocessing, both Unstated in the paper."""

        num_frames: int = Field(
            16, ge=8, description="frames per segment; shorter clips are skipped. Unstated"
        )
        pieces: Literal["first", "all", "mean"] = Field(
            "mean",
            description=(
                "use the first segment, one vector per segment, or their mean ('video-level')."
                " Unstated"
            ),
        )
        aspect: Literal["preset", "square"] = Field(
            "preset",
            description=(
                "preset: resize as the network's preset does, which stretches squares by a third"
            ),
        )
        batch_pieces: int = Field(4, ge=1)
        weights: Path | None = None

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS["r3d-18"].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def features(self, view: View) -> Array:
        """One vector of the clip, or of each of its pieces."""
        length = self.config.num_frames
        network = load_r3d18(self._file)
        square = self.config.aspect == "square"
        batches = _stacked(self._pieces(view), self.config.batch_pieces)
        rows = [r3d18_features(network, pieces, square) for pieces in batches]
        if not rows:
            raise Unscorable(f"has fewer than {length} frames, which {self.name} needs")
        rows = np.concatenate(rows)
        if self.config.pieces == "mean":
            return rows.mean(0, keepdims=True)
        return rows

    def _pieces(self, view: View) -> Iterator[Array]:
        """The whole pieces of the clip, of as many frames as the network looks at."""
        length = self.config.num_frames
        stacked = _stacked(chain.from_iterable(view.blocks()), length)
        whole = (piece for piece in stacked if len(piece) == length)
        if self.config.pieces == "first":
            return islice(whole, 1)
        return whole


def _stacked(arrays: Iterable[Array], count: int) -> Iterator[Array]:
    """`count` arrays as one, again and again; at last what is left."""
    arrays = iter(arrays)
    while some := list(islice(arrays, count)):
        yield np.stack(some)
