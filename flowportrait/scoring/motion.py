"""Jitter of optical flow by RAFT (Teed and Deng 2020, arXiv:2003.12039): the consistency reward of Eq. 14-16."""

from __future__ import annotations

import math
import re
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.errors import CheckpointError, require
from flowportrait.scoring.metric import Metric, Reading, Unscorable, View, at_most
from flowportrait.scoring.pretrained import find_any, sha256_of

Reading15 = Literal["pixels", "means", "norms"]
"""How Eq. 15 is read: the mean of each pixel's ratio; the ratio of the spatial means ("norms are computed per pixel and
averaged spatially"); the ratio of the norms of whole fields."""

_PRINCETON = (
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.", "update_block.recurrent_block.convgru1."),
)
"""The authors' names of RAFT-small's parts, and torchvision's."""

_ONE_AT_A_TIME = Lock()
"""torchvision's RAFT keeps the correlation of its pair in itself."""

MIN_SIDE_PX = 121
"""Below, padded to a multiple of 8, RAFT's pyramid of correlations has no level left."""


def jitter(
    flows: Float[Tensor, "n 2 h w"], reading: Reading15 = "means", epsilon_px: float = 1.0
) -> Float[Tensor, " n-1"]:
    """Eq. 15: how much each flow differs from the one before, over how much that one moves; `flows` in px a frame."""
    change, before = (flows[1:] - flows[:-1]).double(), flows[:-1].double()
    if reading == "norms":
        return change.flatten(1).norm(dim=1) / (before.flatten(1).norm(dim=1) + epsilon_px)
    change, before = change.norm(dim=1), before.norm(dim=1)
    if reading == "pixels":
        return (change / (before + epsilon_px)).mean((1, 2))
    return change.mean((1, 2)) / (before.mean((1, 2)) + epsilon_px)


def optical_flow(
    raft: nn.Module, frames: UInt8[np.ndarray, "f h w 3"], iterations: int = 12, batch_pairs: int = 4
) -> Float[Tensor, "f-1 2 h w"]:
    """Flow in px from every frame to the next. Sides that are no multiple of 8 are padded as the authors pad.

    Equal to RAFT called on every pair, but each frame's features are computed once and only the last iteration's flow
    is enlarged.
    """
    with _ONE_AT_A_TIME, torch.inference_mode():
        last, flows = _Encoded.of(raft, frames[:1]), []
        for start in range(1, len(frames), batch_pairs):
            fresh = _Encoded.of(raft, frames[start : start + batch_pairs])
            both = last.then(fresh)
            flows.append(_flow(raft, both, iterations))
            last = both.part(slice(-1, None))
    height, width = frames.shape[1:3]
    top, left = -height % 8 // 2, -width % 8 // 2
    return torch.cat(flows)[..., top : top + height, left : left + width]


class _Encoded(NamedTuple):
    """What RAFT computes of single frames: features to correlate, and context."""

    features: Tensor
    context: Tensor

    @classmethod
    def of(cls, raft: nn.Module, frames: np.ndarray) -> _Encoded:
        x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        down, right = -x.shape[-2] % 8, -x.shape[-1] % 8
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
        return cls(raft.feature_encoder(x), raft.context_encoder(x))

    def then(self, other: _Encoded) -> _Encoded:
        return _Encoded(*(torch.cat(both) for both in zip(self, other, strict=True)))

    def part(self, which: slice) -> _Encoded:
        return _Encoded(*(value[which] for value in self))


def _flow(raft: nn.Module, encoded: _Encoded, iterations: int) -> Tensor:
    """RAFT's iterations between neighbours, torchvision's parts in the order of its `forward`."""
    parts = require("torchvision.models.optical_flow._utils", extra="scorers")
    raft.corr_block.build_pyramid(encoded.features[:-1], encoded.features[1:])
    context = encoded.context[:-1]
    size = raft.update_block.hidden_state_size
    hidden, context = torch.tanh(context[:, :size]), F.relu(context[:, size:])
    where = parts.make_coords_grid(len(context), *context.shape[-2:])
    start = where
    for _ in range(iterations):
        correlation = raft.corr_block.index_pyramid(centroids_coords=where)
        hidden, moved = raft.update_block(hidden, context, correlation, where - start)
        where = where + moved
    mask = raft.mask_predictor(hidden) if raft.mask_predictor else None
    return parts.upsample_flow(flow=where - start, up_mask=mask)


@lru_cache(maxsize=2)
def load_raft(path: Path, size: Literal["small", "large"]) -> nn.Module:
    """torchvision's RAFT with weights of torchvision or, for `small`, of the authors."""
    flow = require("torchvision.models.optical_flow", extra="scorers")
    network = getattr(flow, f"raft_{size}")(weights=None, progress=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if any(key.startswith("module.") for key in state):
        state = from_princeton(state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: not the weights of RAFT {size} (lacks {len(missing)} tensors, has {len(unexpected)} of another)"
        )
    return network.eval().requires_grad_(False)


def from_princeton(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' RAFT-small under torchvision's names."""
    renamed = {}
    for key, value in state.items():
        for old, new in _PRINCETON:
            key = re.sub(old, new, key)
        renamed[key] = value
    return renamed


class RaftJitter(Metric):
    """Mean jitter of optical flow (Eq. 14-16); minus this is the consistency reward.

    `mean_flow_px` stands beside it: a still video has no jitter at all, which is the collapse that this reward by
    itself leads to.
    """

    name, unit, low, high, better = "raft-jitter", "1", 0.0, math.inf, "lower"
    needs = frozenset({"frames", "weights"})

    class Config(Frozen):
        """The paper names neither the network's size nor Eq. 15's epsilon: all is set here, and is in the record."""

        network: Literal["small", "large"] = "small"
        weights: Path | None = None
        reading: Reading15 = "means"
        epsilon_px: float = Field(
            1.0, gt=0, description="Unstated; with 1e-6 the noise of still background decides (talking 1.1, shaken 1.5)"
        )
        max_side_px: int = Field(512, ge=64, description="Unstated; larger frames are made smaller, px are of these")
        iterations: int = Field(12, ge=1)
        batch_pairs: int = Field(4, ge=1)

    @cached_property
    def _file(self) -> Path:
        names = ("raft-small", "raft-small-princeton") if self.config.network == "small" else ("raft-large",)
        return find_any(names, self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def read(self, view: View) -> Reading:
        """Jitter; beside it, always, how much moved at all."""
        frames = view.keep(("at most", self.config.max_side_px), lambda: at_most(view.frames, self.config.max_side_px))
        if len(frames) < 3:
            raise Unscorable(f"has {len(frames)} frames; jitter needs 3")
        if min(frames.shape[1:3]) < MIN_SIDE_PX:
            size = f"{frames.shape[2]}x{frames.shape[1]} px"
            raise Unscorable(f"is looked at in {size}; RAFT needs {MIN_SIDE_PX} px either way")
        raft = load_raft(self._file, self.config.network)
        flows = optical_flow(raft, frames, self.config.iterations, self.config.batch_pairs)
        value = jitter(flows, self.config.reading, self.config.epsilon_px).mean()
        moved = {"mean_flow_px": float(flows.norm(dim=1).mean()), "frames": len(frames), "width": frames.shape[2]}
        return Reading(float(value), moved)
