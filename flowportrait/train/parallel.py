"""One process or many: `torchrun` starts them, FSDP2 shards the model, and what is saved is the same either way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from flowportrait.model.mot import MoT

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @classmethod
    def join(cls, device: str = "auto") -> Ranks:
        """The place `torchrun` gave to this process, or the only one. On CUDA every process has a device of its own."""
        cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        where = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
        if world > 1 and not dist.is_initialized():
            if cuda:
                torch.cuda.set_device(where)
            dist.init_process_group("nccl" if cuda else "gloo")
        return cls(rank, world, where)

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What every rank gives, in order of rank, on all ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def shard(model: MoT, ranks: Ranks) -> None:
    """Spreads the weights over all ranks, layer by layer; nothing with one. The model's own methods count as its
    forward."""
    if ranks.world == 1:
        return
    mesh = init_device_mesh(ranks.device.split(":")[0], (ranks.world,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
        for method in ("understand", "generate"):
            register_fsdp_forward_method(layer, method)
    fully_shard(model, mesh=mesh)
    for method in ("condition", "velocity"):
        register_fsdp_forward_method(model, method)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights on the CPU of the first rank; every rank takes part."""
    return {name: value.clone() for name, value in get_model_state_dict(model, options=WHOLE).items()}


def whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by name of weight, as `whole_weights`."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fills a model, sharded or not, from whole weights that every rank holds."""
    set_model_state_dict(model, weights, options=WHOLE)


def set_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Fills an optimizer from what `whole_optimizer` gave."""
    set_optimizer_state_dict(model, optimizer, state, options=WHOLE)


class Average:
    """Exponential moving average of the weights that are trained; with decay 0 it is the weights themselves."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in _trained(model).items()}

    def follow(self, model: nn.Module, update: int) -> None:
        """One step, with the usual warm-up of the decay."""
        decay = min(self.decay, (1 + update) / (10 + update))
        for name, p in _trained(model).items():
            self.weights[name].lerp_(p.detach(), 1 - decay)

    @contextmanager
    def within(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside, its own again after."""
        own = {name: p.detach().clone() for name, p in _trained(model).items()}
        self._fill(model, self.weights)
        try:
            yield
        finally:
            self._fill(model, own)

    def take(self, model: nn.Module) -> None:
        """Starts again from the weights that the model has now."""
        for name, p in _trained(model).items():
            self.weights[name].copy_(p.detach())

    @torch.no_grad()
    def _fill(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        for name, p in _trained(model).items():
            p.copy_(weights[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def as_float(value: Tensor) -> float:
    """A scalar, gathered if it is sharded."""
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)
