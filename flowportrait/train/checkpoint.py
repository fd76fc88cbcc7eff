"""Checkpoints of a run: every process writes its own shards, any number of processes reads them again (DCP).

A checkpoint is a directory `checkpoint-0000200`, named by the updates that were made. It is written beside its place
and renamed when it is whole, and only then the one before it goes: whenever a run is killed, one is there.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from flowportrait.errors import CheckpointError
from flowportrait.train.parallel import Ranks

PATTERN = "checkpoint-*"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def latest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run's directory; None if there is none."""
    return max(run.glob(PATTERN), default=None)


def save(run: Path, update: int, state: dict[str, Any], ranks: Ranks) -> None:
    """Writes nested `state` (tensors, sharded or not, and plain values) as the run's checkpoint after `update`."""
    part, place = run / "checkpoint.part", run / f"checkpoint-{update:07d}"
    if ranks.first:
        shutil.rmtree(part, ignore_errors=True)
    ranks.wait()
    with _quiet():
        dcp.save(state, checkpoint_id=part, no_dist=ranks.world == 1)
    if ranks.first:
        older = [path for path in run.glob(PATTERN) if path != place]
        shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)
        for path in older:
            # Out of sight first: a checkpoint that is half removed must not look like one.
            gone = path.rename(part)
            shutil.rmtree(gone)
    ranks.wait()


def load(path: Path, state: dict[str, Any], ranks: Ranks) -> None:
    """Fills `state` in place; it has the tensors, of any sharding, that the checkpoint must have.

    Raises CheckpointError when the checkpoint is of something else.
    """
    reader = dcp.FileSystemReader(path)
    stored = reader.read_metadata().state_dict_metadata
    problem = _difference(stored, _flat(state))
    if problem:
        raise CheckpointError(f"{path}: is not a checkpoint of this recipe ({problem}); give another --resume")
    with _quiet():
        dcp.load(state, storage_reader=reader, no_dist=ranks.world == 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by name of weight, sharded as the weights are."""
    return get_optimizer_state_dict(model, optimizer, options=FLAT)


def set_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Fills an optimizer from what `optimizer_state` gave."""
    set_optimizer_state_dict(model, optimizer, state, options=FLAT)


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What first distinguishes a checkpoint from what is wanted; "" if nothing."""
    for name, value in wanted.items():
        if name not in stored:
            return f"lacks '{name}'"
        held = stored[name]
        if isinstance(value, Tensor) and isinstance(held, TensorStorageMetadata) and held.size != value.shape:
            return f"'{name}' is {list(held.size)} where {list(value.shape)} is needed"
    extra = sorted(stored.keys() - wanted.keys())
    return f"holds '{extra[0]}' besides" if extra else ""


def _flat(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots, as DCP names them."""
    flat: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
