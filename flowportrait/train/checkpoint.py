"""Checkpoints of a run: every process writes its own shards, any number of processes reads them
again (DCP).

A checkpoint is a directory `checkpoint-0000200`, named by the updates that were made. It is written
beside its place, digested (`train/digests.py`) and renamed when it is whole; the last few are kept.
So whenever a run is killed a whole one is there, and if the newest one is damaged later, the one
before it is.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from flowportrait.errors import CheckpointError
from flowportrait.train import digests
from flowportrait.train.parallel import Ranks

BrokenPaths = list[tuple[Path, str]]

State = dict[str, Any]

PATTERN = "checkpoint-*"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
ENTRY_BYTES = 2048  # what a tensor needs on disk beside its numbers, at most

_SINGLE = "torch.distributed is disabled"


def all_of(run: Path) -> list[Path]:
    """The checkpoints of a run's directory, the newest first, whole or not."""
    return sorted(run.glob(PATTERN), reverse=True)


def newest_whole(run: Path, ranks: Ranks) -> tuple[Path | None, BrokenPaths]:
    """The newest checkpoint of a run's directory that is what was written, and the newer ones that
    are not, each with what is wrong with it. All ranks take part.

    Raises CheckpointError where there are checkpoints and none of them is whole.
    """
    broken: BrokenPaths = []
    for path in ranks.gather(all_of(run))[0]:
        problem = digests.problem_of(path, ranks)
        if not problem:
            return path, broken
        broken.append((path, problem))
    if broken:
        raise _none_is_whole(broken)
    return None, broken


def _none_is_whole(broken: BrokenPaths) -> CheckpointError:
    """The error for a run without a whole checkpoint, of which the newest comes first."""
    path, problem = broken[0]
    others = ""
    if len(broken) > 1:
        others = f", nor are the {len(broken) - 1} before it"
    return CheckpointError(
        f"{path}: is incomplete ({problem}){others}; give another --resume, or remove them and"
        " start anew"
    )


class Checkpoints:
    """Writes the checkpoints of one run's directory. Of several ranks all call everything together.

    `kept` newest ones stay. With `beside`, numbers are copied into CPU memory and written by a
    thread while training goes on; what went wrong there is raised by the next call.
    """

    def __init__(self, run: Path, ranks: Ranks, kept: int = 3, beside: bool = False):
        self.run = run
        self.ranks = ranks
        self.kept = kept
        self._thread = ThreadPoolExecutor(1, "checkpoint") if beside else None
        if beside:
            warnings.filterwarnings(
                "ignore", message=_SINGLE
            )  # what a thread warns of cannot be caught around it
        self._group: dist.ProcessGroup | None = None
        if beside and ranks.world > 1:
            # A thread must not talk through the group that the training talks through.
            self._group = dist.new_group(backend="gloo")
            self.ranks = replace(ranks, group=self._group)
        self._pending: Future[None] | None = None

    @property
    def _part(self) -> Path:
        return self.run / "checkpoint.part"

    def require_room(self, state: State) -> int:
        """The bytes that a checkpoint of `state` needs. Raises CheckpointError where the disk has
        less.
        """
        needed = sum(
            (
                value.numel() * value.element_size() + ENTRY_BYTES
                if isinstance(value, Tensor)
                else len(str(value))
            )
            for value in _flat(state).values()
        )
        free = self.ranks.gather(shutil.disk_usage(self.run).free)[0]
        if free < needed:
            raise CheckpointError(f"{self.run}: a checkpoint {_needs(needed, free)}")
        return needed

    def save(self, update: int, state: State) -> None:
        """Writes nested `state` (tensors, sharded or not, and plain values) as the run's checkpoint
        after `update`.

        Raises CheckpointError where it cannot be written, such as on a full disk; those before it
        stay.
        """
        self.wait()
        if self.ranks.first:
            shutil.rmtree(self._part, ignore_errors=True)
        needed = self.require_room(state)
        stored = {**state, digests.SEALED: digests.DIGESTS}
        single = self.ranks.world == 1
        options = {"checkpoint_id": self._part, "no_dist": single, "process_group": self._group}
        if self._thread is None:
            self._write(update, needed, partial(dcp.save, stored, **options))
            return
        staged = dcp.async_save(stored, **options)
        self._pending = self._thread.submit(self._write, update, needed, staged.result)

    def wait(self) -> None:
        """Until what is being written is whole. Raises CheckpointError where it could not be
        written.
        """
        if self._pending is not None:
            pending = self._pending
            self._pending = None
            pending.result()

    def _write(self, update: int, needed: int, write: Callable[[], object]) -> None:
        """Writes a checkpoint and publishes it when it is whole."""
        try:
            with _quiet():
                write()
            digests.seal(self._part, self.ranks)
            if self.ranks.first:
                self._publish(update)
        except (CheckpointException, OSError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            if self.ranks.first:
                shutil.rmtree(self._part, ignore_errors=True)
            free = shutil.disk_usage(self.run).free
            raise CheckpointError(
                f"{self.run}: the checkpoint of update {update} cannot be written ({reason}); it"
                f" {_needs(needed, free)}"
            ) from error
        self.ranks.wait()

    def _publish(self, update: int) -> None:
        """The part takes its place, and what need not stay goes: all but the last few, and what is
        of a later update, which was damaged or is of a run that went on from before it.
        """
        place = self.run / f"checkpoint-{update:07d}"
        gone = self.run / "checkpoint.gone"
        shutil.rmtree(gone, ignore_errors=True)
        if place.exists():
            place.rename(gone)
            shutil.rmtree(gone)
        os.replace(self._part, place)
        stay = [path for path in all_of(self.run) if path.name <= place.name][: self.kept]
        for path in all_of(self.run):
            if path not in stay:
                # Out of sight first: a checkpoint that is half removed must not look like one.
                path.rename(gone)
                shutil.rmtree(gone)


def load(path: Path, state: State, ranks: Ranks) -> None:
    """Fills `state` in place; it has the tensors, of any sharding, that the checkpoint must have.

    Raises CheckpointError when the checkpoint is of something else, or cannot be read.
    """
    _require_fit(path, state)
    try:
        with _quiet():
            dcp.load(state, storage_reader=dcp.FileSystemReader(path), no_dist=ranks.world == 1)
    except (CheckpointException, *digests.UNREADABLE) as error:
        if isinstance(error, CheckpointException):
            causes = [cause for cause, _ in error.failures.values()]
        else:
            causes = [error]
        told = str(causes[0]).strip().splitlines() or [type(causes[0]).__name__]
        raise CheckpointError(
            f"{path}: cannot be read ({told[0]}); give another --resume"
        ) from error


def _require_fit(path: Path, state: State) -> None:
    """Raises CheckpointError for a checkpoint of another recipe."""
    stored = {
        name: value
        for name, value in digests.read_head(path).state_dict_metadata.items()
        if name != digests.SEALED
    }
    problem = _difference(stored, _flat(state))
    if problem:
        raise CheckpointError(
            f"{path}: is not a checkpoint of this recipe ({problem}); give another --resume"
        )


def _needs(needed: int, free: int) -> str:
    return (
        f"needs {_size(needed)}, {_size(free)} are free; free some space or lower"
        " run.checkpoints_kept, and resume with --resume auto"
    )


def _size(count: int) -> str:
    if count >= 1e8:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB"


def _reason(error: BaseException) -> str | None:
    """Why the disk refused; None where it was not the disk."""
    if isinstance(error, CheckpointException):
        failures = [cause for cause, _ in error.failures.values()]
    else:
        failures = [error]
    for cause in failures:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        if isinstance(cause, RuntimeError) and "PytorchStreamWriter" in str(cause):
            return "the disk took less than it was given"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_SINGLE)
        yield


def optimizer_state(model: nn.Module, optimizer: Any) -> State:
    """The state of a torch optimizer by name of weight, sharded as the weights are."""
    return get_optimizer_state_dict(model, optimizer, options=FLAT)


def set_optimizer_state(model: nn.Module, optimizer: Any, state: State) -> None:
    """Fills a torch optimizer from what `optimizer_state` gave."""
    set_optimizer_state_dict(model, optimizer, state, options=FLAT)


def _difference(stored: State, wanted: State) -> str:
    """The first difference between a checkpoint and the wanted one; "" without any."""
    for name, value in wanted.items():
        if name not in stored:
            return f"lacks '{name}'"
        held = stored[name]
        if (
            isinstance(value, Tensor)
            and isinstance(held, TensorStorageMetadata)
            and held.size != value.shape
        ):
            return f"'{name}' is {list(held.size)} where {list(value.shape)} is needed"
    extra = sorted(stored.keys() - wanted.keys())
    if extra:
        return f"holds '{extra[0]}' besides"
    return ""


def _flat(state: State, prefix: str = "") -> State:
    """Nested keys joined by dots, as DCP names them."""
    flat: State = {}
    for name, value in state.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
