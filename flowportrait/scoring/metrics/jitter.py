"""Jitter of optical flow by RAFT (Teed and Deng 2020, arXiv:2003.12039): the consistency reward of
Eq. 14-16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from flowportrait.config import Frozen
from flowportrait.files import sha256_of
from flowportrait.pretrained import find_any
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.metrics.raft import flows_between, load_raft
from flowportrait.scoring.metrics.view import Blocks, Unscorable, View, at_most

Reading15 = Literal["pixels", "means", "norms"]
"""How Eq. 15 is read: the mean of each pixel's ratio; the ratio of the spatial means ("norms are
computed per pixel and averaged spatially"); the ratio of the norms of whole fields.
"""

MIN_SIDE_PX = 121
"""Below, padded to a multiple of 8, RAFT's pyramid of correlations has no level left."""


def jitter(
    flows: Float[Tensor, "n 2 h w"], reading: Reading15 = "means", epsilon_px: float = 1.0
) -> Float[Tensor, " n-1"]:
    """Eq. 15: how much each flow differs from the one before, over how much that one moves; `flows`
    in px a frame.
    """
    change = (flows[1:] - flows[:-1]).double()
    before = flows[:-1].double()
    if reading == "norms":
        return change.flatten(1).norm(dim=1) / (before.flatten(1).norm(dim=1) + epsilon_px)
    change = change.norm(dim=1)
    before = before.norm(dim=1)
    if reading == "pixels":
        return (change / (before + epsilon_px)).mean((1, 2))
    return change.mean((1, 2)) / (before.mean((1, 2)) + epsilon_px)


class RaftJitter(Metric):
    """Mean jitter of optical flow (Eq. 14-16); its negative is the consistency reward.

    `mean_flow_px` is reported with it: a still video has no jitter at all, and optimizing this
    reward alone collapses to still videos.
    """

    name = "raft-jitter"
    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"
    needs = frozenset({"frames", "weights"})
    version = 2

    class Config(Frozen):
        """The paper gives neither the size of the network nor the epsilon of Eq. 15."""

        network: Literal["small", "large"] = "small"
        weights: Path | None = None
        reading: Reading15 = "means"
        epsilon_px: float = Field(
            1.0,
            gt=0,
            description=(
                "Unstated; with 1e-6 noise in a still background dominates (talking 1.1, shaken"
                " 1.5)"
            ),
        )
        max_side_px: int = Field(
            512,
            ge=64,
            description=(
                "larger frames are downscaled to this side, in whose pixels flow is measured."
                " Unstated"
            ),
        )
        iterations: int = Field(12, ge=1)
        device: str = Field("cpu", description="device of the network: cpu, cuda, cuda:1")
        batch_pairs: int = Field(
            0, ge=0, description="frame pairs per batch; 0: as many as fit the CPU cache"
        )

    @cached_property
    def _file(self) -> Path:
        """The file of weights of the network that is set."""
        if self.config.network == "small":
            names = ("raft-small", "raft-small-princeton")
        else:
            names = ("raft-large",)
        return find_any(names, self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def read(self, view: View) -> Reading:
        """Jitter; beside it, always, how much moved at all."""
        config = self.config
        looked = _Looked(view.blocks(), self.config.max_side_px)
        blocks = iter(looked)
        first = next(blocks, np.empty(0))
        if len(first) < 3:
            raise Unscorable(f"has {len(first)} frames; jitter needs 3")
        flows = flows_between(
            load_raft(self._file, config.network, config.device),
            chain([first], blocks),
            config.iterations,
            config.batch_pairs,
        )
        return _read_flows(flows, config, looked)


def _read_flows(flows, config, looked) -> Reading:
    """Mean jitter of a clip's flows."""
    last = None
    jitters = []
    moved = []
    for flow in flows:
        moved.append(flow.norm(dim=1).mean((1, 2)).double())
        flow = flow if last is None else torch.cat([last, flow])
        jitters.append(jitter(flow, config.reading, config.epsilon_px))
        last = flow[-1:].clone()
    beside = {
        "mean_flow_px": float(torch.cat(moved).mean()),
        "frames": looked.count,
        "width": looked.width,
    }
    return Reading(float(torch.cat(jitters).mean()), beside)


class _Looked:
    """Blocks in the size in which they are looked at, counted. Raises Unscorable where that is too
    small.
    """

    def __init__(self, blocks: Blocks, max_side_px: int):
        self.blocks = blocks
        self.max_side_px = max_side_px
        self.count = 0
        self.width = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            block = at_most(block, self.max_side_px)
            height, self.width = block.shape[1:3]
            if min(height, self.width) < MIN_SIDE_PX:
                raise Unscorable(
                    f"is analysed at {self.width}x{height} px; RAFT needs {MIN_SIDE_PX} px per side"
                )
            self.count += len(block)
            yield block
