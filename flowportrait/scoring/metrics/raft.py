"""RAFT (Teed and Deng 2020, arXiv:2003.12039) over many frames of a clip, in fewer operations than
pair by pair.

The numbers are those of torchvision's `forward` up to rounding. Less is computed: every frame is
encoded once, what the recurrent unit takes from the context is added up before the iterations, the
windows of the correlation are read as whole patches, and only the last flow is enlarged. Pixels lie
in rows with their channels side by side ("channels last"), which convolutions on processors like
best.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.arrays import Array, Frames
from flowportrait.errors import CheckpointError, require
from flowportrait.scoring.metrics.raft_update import RecurrentUpdate, SmallUpdate
from flowportrait.tensors import Maps

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

_BATCH_PX = 2 * 256 * 256


@lru_cache(maxsize=2)
def load_raft(path: Path, size: Literal["small", "large"], device: str = "cpu") -> nn.Module:
    """torchvision's RAFT with weights of torchvision or, for `small`, of the authors."""
    flow = require("torchvision.models.optical_flow", extra="scorers")
    network = getattr(flow, f"raft_{size}")(weights=None, progress=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if any(key.startswith("module.") for key in state):
        state = from_princeton(state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: not the weights of RAFT {size} (lacks {len(missing)} tensors, has"
            f" {len(unexpected)} of another)"
        )
    _quicken(network)
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _quicken(network: nn.Module) -> None:
    """The same layers by operations that torch computes several times faster: a group of one
    channel is an instance, and a convolution by single pixels is a product of matrices.
    """
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(
                    parent,
                    name,
                    nn.GroupNorm(child.num_features, child.num_features, child.eps, affine=False),
                )
            if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride == (1, 1):
                setattr(parent, name, _ByPixel(child))


class _ByPixel(nn.Module):
    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, x: Maps) -> Float[Tensor, "b d h w"]:
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
            0, 3, 1, 2
        )


def from_princeton(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' RAFT-small under torchvision's names."""
    renamed = {}
    for key, value in state.items():
        for old, new in _PRINCETON:
            key = re.sub(old, new, key)
        renamed[key] = value
    return renamed


@torch.inference_mode()
def flows_between(
    raft: nn.Module,
    blocks: Iterable[Frames],
    iterations: int = 12,
    batch_pairs: int = 0,
) -> Iterator[Float[Tensor, "n 2 h w"]]:
    """Flow in px from every frame to the next, over a clip that comes in blocks; `batch_pairs` of
    them at a time, or for 0 as many as fill a processor's cache.

    Sides that are no multiple of 8 are padded as the authors pad.
    """
    update = (RecurrentUpdate if raft.mask_predictor else SmallUpdate)(raft)
    last = None
    for block in blocks:
        height, width = block.shape[1:3]
        top = -height % 8 // 2
        left = -width % 8 // 2
        step = batch_pairs or max(1, _BATCH_PX // (height * width))
        for start in range(0, len(block), step):
            fresh = _Encoded.of(raft, block[start : start + step])
            both = last.then(fresh) if last else fresh
            last = both.part(slice(-1, None))
            if len(both.features) > 1:
                flow = _flow(raft, update, both, iterations)
                yield flow[..., top : top + height, left : left + width].cpu()


class _Encoded(NamedTuple):
    """RAFT's encoding of single frames: features to correlate, and context."""

    features: Tensor
    context: Tensor

    @classmethod
    def of(cls, raft: nn.Module, frames: Array) -> _Encoded:
        """One picture at a time, which leaves all of a layer in the cache."""
        return cls(
            *map(torch.cat, zip(*(cls._one(raft, frame[None]) for frame in frames), strict=True))
        )

    @classmethod
    def _one(cls, raft: nn.Module, frames: Array) -> _Encoded:
        """Features of frames whose sides are brought to multiples of 8 by repeated borders."""
        where = next(raft.parameters()).device
        levels = torch.from_numpy(np.ascontiguousarray(frames)).to(where)
        x = levels.permute(0, 3, 1, 2).float() / 127.5 - 1
        down = -x.shape[-2] % 8
        right = -x.shape[-1] % 8
        x = F.pad(
            x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate"
        )
        x = x.contiguous(memory_format=torch.channels_last)
        return cls(raft.feature_encoder(x), raft.context_encoder(x))

    def then(self, other: _Encoded) -> _Encoded:
        return _Encoded(*(torch.cat(both) for both in zip(self, other, strict=True)))

    def part(self, which: slice) -> _Encoded:
        return _Encoded(*(value[which] for value in self))


def _flow(raft: nn.Module, update: RecurrentUpdate, encoded: _Encoded, iterations: int) -> Tensor:
    """RAFT's iterations between neighbours."""
    parts = require("torchvision.models.optical_flow._utils", extra="scorers")
    correlations = update.correlations(encoded.features)
    context = encoded.context[:-1]
    size = raft.update_block.hidden_state_size
    update.begin(torch.tanh(context[:, :size]), F.relu(context[:, size:]))
    grid = parts.make_coords_grid(len(context), *context.shape[-2:], device=context.device)
    start = grid.contiguous(memory_format=torch.channels_last)
    flow = torch.zeros_like(start)
    for _ in range(iterations):
        flow = flow + update(correlations.around(start + flow), flow)
    mask = None
    if raft.mask_predictor:
        mask = raft.mask_predictor(update.hidden)
    return parts.upsample_flow(flow=flow.contiguous(), up_mask=mask)
