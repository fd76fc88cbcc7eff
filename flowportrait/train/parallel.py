"""One process or many: `torchrun` starts them, FSDP2 shards the model, and what is saved is the
same either way.

Processes are laid out as data x sequence: those of one sequence group share the video tokens of the
same rows, the groups have different rows. Weights are sharded over all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from flowportrait import precision
from flowportrait.config import Frozen
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.model.mot import MoT
from flowportrait.model.sequence import SequenceShare

T = TypeVar("T")


class ParallelConfig(Frozen):
    """How processes share the work. Nothing of it changes a result beyond rounding."""

    sequence: int = Field(
        1,
        ge=1,
        description=(
            "number of processes among which the video tokens of a row are split; it must divide"
            " the number of processes"
        ),
    )
    shard: int = Field(
        0,
        ge=0,
        description=(
            "number of processes among which weights are sharded; groups hold replicas. 0: all"
        ),
    )
    cpu_offload: bool = Field(
        False, description="keep weights and optimizer state in CPU memory (CUDA only)"
    )
    recompute: bool = Field(
        True, description="activation checkpointing: keep only layer inputs and recompute the rest"
    )


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    sequence: int = 1
    sequence_group: dist.ProcessGroup | None = None
    group: dist.ProcessGroup | None = (
        None  # all of them, through which they talk; None: the usual one
    )

    @classmethod
    def join(cls, device: str = "auto", sequence: int = 1) -> Ranks:
        """The place `torchrun` gave to this process, or the only one. On CUDA every process has a
        device of its own. Raises ConfigError where there are fewer, or where groups of
        `sequence` processes do not divide them.
        """
        cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        world = int(os.environ.get("WORLD_SIZE", 1))
        rank = int(os.environ.get("RANK", 0))
        own = int(os.environ.get("LOCAL_RANK", 0))
        where = f"cuda:{own}" if cuda else "cpu"
        if cuda and own >= (count := torch.cuda.device_count()):
            raise ConfigError(
                f"torchrun: process {own + 1} of this machine has no GPU, there are {count}; NCCL"
                " needs one per process: start fewer processes, or use the CPU with"
                " CUDA_VISIBLE_DEVICES="
            )
        if world % sequence:
            raise ConfigError(
                f"parallel.sequence {sequence}: got {world} processes; their number must be a"
                " multiple"
            )
        if {"RANK", "WORLD_SIZE"} <= os.environ.keys() and not dist.is_initialized():
            if cuda:
                torch.cuda.set_device(where)
            # Gloo beside NCCL: what is offloaded to CPU memory is gathered and clipped there.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        group = None
        if sequence > 1:
            shape = (world // sequence, sequence)
            group = init_device_mesh(
                "cuda" if cuda else "cpu", shape, mesh_dim_names=("data", "sequence")
            )["sequence"]
            group = group.get_group()
        return cls(rank, world, where, sequence, group)

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @property
    def data(self) -> tuple[int, int]:
        """Which of how many groups with rows of their own this process belongs to."""
        return self.rank // self.sequence, self.world // self.sequence

    def share(self, num_tokens: int) -> SequenceShare | None:
        """This process's part of a row's video tokens; None: all of them."""
        if self.sequence == 1:
            return None
        return SequenceShare(
            self.rank % self.sequence, self.sequence, num_tokens, self.sequence_group
        )

    def gather(self, value: T) -> list[T]:
        """Values of every rank, in order of rank, on all ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier(group=self.group)


def shard(model: MoT, ranks: Ranks, config: ParallelConfig | None = None) -> None:
    """Spreads the weights over the ranks, layer by layer; nothing in a process that `torchrun` did
    not start. The model's own methods count as its forward. Layers compute in bf16 where the
    machine is fast at it; what lies around them stays float32. Raises ConfigError for an offload
    that cannot be.
    """
    config = config or ParallelConfig()
    if config.cpu_offload and (ranks.device == "cpu" or not dist.is_initialized()):
        raise ConfigError(
            "parallel.cpu_offload: needs CUDA and torchrun, even for one GPU; turn it off, or use"
            " torchrun"
        )
    if not dist.is_initialized():
        return
    offload = CPUOffloadPolicy() if config.cpu_offload else OffloadPolicy()
    half = None
    if precision.fast_bf16(ranks.device.split(":")[0]):
        half = torch.bfloat16
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    mesh = _mesh(ranks, config.shard)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=offload)
        for method in ("understand", "generate"):
            register_fsdp_forward_method(layer, method)
    fully_shard(model, mesh=mesh, offload_policy=offload)
    for method in ("condition", "velocity"):
        register_fsdp_forward_method(model, method)


def _mesh(ranks: Ranks, shard_over: int) -> DeviceMesh:
    """All ranks in one line, or in copies x shards. Raises ConfigError where shards do not divide
    them.
    """
    kind = ranks.device.split(":")[0]
    if shard_over in (0, ranks.world):
        return init_device_mesh(kind, (ranks.world,))
    if ranks.world % shard_over:
        raise ConfigError(
            f"parallel.shard {shard_over}: got {ranks.world} processes; their number must be a"
            " multiple"
        )
    return init_device_mesh(
        kind, (ranks.world // shard_over, shard_over), mesh_dim_names=("copies", "shards")
    )


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def whole(value: Tensor) -> Tensor:
    """A tensor as every rank may have it; sharded ones are gathered, so all ranks take part."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    return value


def whole_weights(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A copy of all weights in the CPU memory of the first rank, one gathered after another; every
    rank takes part. Floats become `dtype` where it is given.
    """
    keeps = not dist.is_initialized() or dist.get_rank() == 0
    weights = {}
    for name, value in model.state_dict().items():
        gathered = whole(value.detach())
        if keeps:
            weights[name] = gathered.to(
                "cpu", dtype if gathered.is_floating_point() else None, copy=True
            )
    return weights


def as_float(value: Tensor) -> float:
    """A scalar, gathered if it is sharded."""
    return float(whole(value))


class Average:
    """Exponential moving average of the weights that are trained, sharded as they are; with decay 0
    it is the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in trained_weights(model).items()}

    def follow(self, model: nn.Module, update: int) -> None:
        """One step, with the usual warm-up of the decay."""
        decay = min(self.decay, (1 + update) / (10 + update))
        for name, p in trained_weights(model).items():
            self.weights[name].lerp_(p.detach(), 1 - decay)

    @contextmanager
    def within(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside, its own again after; the two change places."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, p in trained_weights(model).items():
            own = p.detach().clone()
            p.copy_(self.weights[name])
            self.weights[name].copy_(own)


def load_shares(
    model: nn.Module, files: list[Path], own: Callable[[str], bool] = lambda name: False
) -> None:
    """Fills a model, sharded or not, from safetensors files of its whole weights, without those
    whose names are its `own`; of a sharded tensor every rank reads its part alone. Raises
    CheckpointError for what is lacking, left over or of another shape.
    """
    wanted = {name: value for name, value in model.state_dict().items() if not own(name)}
    _fill_shares(files, wanted)
    if wanted:
        where = ", ".join(map(str, files))
        raise CheckpointError(
            f"{where}: lacks '{next(iter(wanted))}'; give all files of the model's weights"
        )


def _fill_shares(files: list[Path], wanted) -> None:
    """Fills each rank's share of the weights. Raises CheckpointError for strange names."""
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name not in wanted:
                    raise CheckpointError(
                        f"{path}: holds '{name}', which the model does not have; give the weights"
                        " of this model"
                    )
                part = file.get_slice(name)
                shape = wanted[name].shape
                if list(part.get_shape()) != list(shape):
                    raise CheckpointError(
                        f"{path}: '{name}' is {part.get_shape()} where {list(shape)} is needed"
                    )
                fill(wanted.pop(name), part)


@torch.no_grad()
def fill(target: Tensor, source: Any) -> None:
    """Copies from a whole tensor, or a slice of a file, the part that `target` holds here."""
    if not isinstance(target, DTensor):
        target.copy_(source[:] if target.ndim else source[...])
        return
    shape, offset = compute_local_shape_and_global_offset(
        target.shape, target.device_mesh, target.placements
    )
    if all(shape):
        part = tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))
        target.to_local().copy_(source[part])
