"""Frames computed ahead of the one that is asked for, on threads of one core each.

The maps of a frame are small, so that a second core shortens each operation by little; two pieces
of a clip side by side take all of it. On two cores frames come 1.4 times as fast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def computed_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device
) -> Iterator[Result]:
    """The results of `function` for all items, in order.

    On a CPU as many as torch has threads are computed at a time, in the caller's modes of precision
    and inference, and one more waits; on other devices, and with one thread, each is computed as it
    is asked for.
    """
    workers = 1
    if device.type == "cpu":
        workers = torch.get_num_threads()
    if workers == 1:
        yield from map(function, items)
        return
    run = _in_modes_of_caller(function, device.type)
    waiting: deque[Future] = deque()
    with _threads(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                while waiting and (len(waiting) > workers or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever asked may have stopped asking
            for future in waiting:
                future.cancel()


def _threads(workers: int) -> ThreadPoolExecutor:
    """Threads that compute on one core each."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "frames", _compute_alone)
    all_there = Barrier(workers + 1)
    for _ in range(workers):
        pool.submit(all_there.wait)
    all_there.wait()
    torch.set_num_threads(before)
    return pool


def _compute_alone() -> None:
    """Uses one core for this thread. The number belongs to each thread, but torch also keeps the
    last one that was set, and gives it to every thread that asks for the first time.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


def _in_modes_of_caller(
    function: Callable[[Item], Result], device_type: str
) -> Callable[[Item], Result]:
    """The function under this thread's inference mode and autocast, which new threads lack."""
    inference = torch.is_inference_mode_enabled()
    gradient = torch.is_grad_enabled()
    cast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)

    def run(item: Item) -> Result:
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(inference))
            modes.enter_context(torch.set_grad_enabled(gradient))
            modes.enter_context(torch.autocast(device_type, dtype, enabled=cast))
            return function(item)

    return run
