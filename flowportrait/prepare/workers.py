"""Sources handed out to processes; one that dies takes nothing with it but the source it was at.

A decoder that crashes on a broken file, or a process that runs out of memory, ends that process
alone: its source comes back as `crashed` and another process takes its place.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from flowportrait.cluster import hand_out
from flowportrait.errors import DataError, FlowPortraitError
from flowportrait.prepare.journal import PreparedSource
from flowportrait.prepare.settings import SourceFile
from flowportrait.prepare.source import Preparer


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    source: SourceFile | None = None


def prepare_all(
    preparer: Preparer, sources: Iterable[SourceFile], count: int
) -> Iterator[tuple[SourceFile, PreparedSource | None]]:
    """Prepares the sources in `count` processes; they come as they are done, with None for one that
    killed its process.

    Raises the error of a worker that cannot go on, such as a full disk.
    """
    waiting = deque(sources)
    workers = []
    try:
        for _ in range(min(count, len(waiting))):
            workers.append(_started(preparer))
        while busy := [worker for worker in workers if _given(worker, waiting)]:
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                source = worker.source
                worker.source = None
                try:
                    answer = pipe.recv()
                except EOFError:
                    worker.process.join()
                    workers.remove(worker)
                    if waiting:
                        workers.append(_started(preparer))
                    yield source, None
                    continue
                if isinstance(answer, Exception):
                    raise answer
                yield source, answer
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


def prepare_all_on_ray(
    preparer: Preparer, sources: Iterable[SourceFile], count: int
) -> Iterator[tuple[SourceFile, PreparedSource | None]]:
    """Prepares sources in `count` processes of a Ray cluster, with `cluster.hand_out`."""
    return hand_out(partial(_prepared, preparer), sources, count)


def _prepared(preparer: Preparer, source: SourceFile) -> PreparedSource:
    """One source, in whatever process. Raises DataError where its clips cannot be written."""
    try:
        return preparer.prepare(source)
    except OSError as error:
        raise DataError(
            f"{preparer.out}: cannot be written ({error.strerror}), at {source.path}"
        ) from error


def _given(worker: _Worker, waiting: deque[SourceFile]) -> bool:
    """Whether the worker is at work; an idle one gets the next source."""
    if worker.source is None and waiting:
        worker.source = waiting.popleft()
        # One that died before says so when it is read from.
        with suppress(BrokenPipeError):
            worker.pipe.send(worker.source)
    return worker.source is not None


def _started(preparer: Preparer) -> _Worker:
    """A worker in a fresh process, with a pipe to it."""
    # Forked processes would inherit torch's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(preparer, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(preparer: Preparer, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    # Pipes break when the parent is gone.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve_sources(preparer, pipe)


def _serve_sources(preparer: Preparer, pipe: Connection) -> None:
    """Prepares sources that come down the pipe until there are no more."""
    import torch

    # Processes, not threads, share the machine.
    torch.set_num_threads(1)
    while True:
        source = pipe.recv()
        try:
            pipe.send(_prepared(preparer, source))
        except FlowPortraitError as error:
            pipe.send(error)
