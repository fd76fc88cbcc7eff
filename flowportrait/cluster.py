"""Work divided among machines: parts for machines that know nothing of each other, and tasks handed
out to processes of a Ray cluster; whatever dies takes nothing with it but the task it was at.

On a cluster one actor for each worker holds the models. The driver gives each actor one task at a
time and gets plain answers, so that what is kept of them is kept by the driver alone. A task whose
process or node is lost is given to another one once; the second time it comes back without an
answer, since it may well be what killed both.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from flowportrait.errors import ConfigError, DataError, FlowPortraitError, require

T = TypeVar("T")
R = TypeVar("R")

Engine = Literal["local", "ray"]
ENGINES = get_args(Engine)

MAX_TRIES = 2
"""Processes that a task may cost."""

MAX_FALSE_STARTS = 3
"""Workers in a row that die before they are ready, after which something is wrong with all of
them.
"""


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `of`. Raises ConfigError for an impossible one."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigError(
                f"part {self.number} of {self.of}: no such part; give one of 1 to {self.of}"
            )

    @classmethod
    def named(cls, text: str) -> Part:
        """Parses a part such as "2/8". Raises ConfigError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--part: got '{text}'; give number/count, such as 2/8 for the second of eight"
            )
        return cls(number=int(found[1]), of=int(found[2]))

    def of_list(self, items: Sequence[T]) -> list[T]:
        """The part's items of a list that all parts share: every n-th."""
        return list(items[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"


@dataclass(frozen=True)
class Division:
    """How a command's tasks are divided: which `part` of them is done here, all by default, by
    which engine, in how many processes of a cluster.
    """

    engine: Engine = "local"
    workers: int = 1
    part: Part | None = None

    @classmethod
    def named(cls, engine: str, workers: int, part: str | None) -> Division:
        """A division from command-line options. Raises ConfigError, and MissingDependency without
        ray.
        """
        if engine not in ENGINES:
            raise ConfigError(f"--engine: no '{engine}'; allowed: {', '.join(ENGINES)}")
        if engine == "ray":
            require("ray", extra="ray")
        return cls(engine, workers, None if part is None else Part.named(part))

    def share(self, items: Sequence[T]) -> list[T]:
        """This part's share of a list that is the same for all parts."""
        if self.part is None:
            return list(items)
        return self.part.of_list(items)

    def compute(
        self, serve: Callable[[T], R], tasks: Iterable[T], device: str = "cpu"
    ) -> Iterator[tuple[T, R | None]]:
        """`serve(task)` for all tasks: here, one after another, or on the cluster as `hand_out`
        has it.
        """
        if self.engine == "ray":
            return hand_out(serve, tasks, self.workers, device)
        return ((task, serve(task)) for task in tasks)


ALONE = Division()
"""All of it here."""


class _Server:
    """The program of an actor: `serve` in the driver's folder, with one thread, because processes
    share the machine.
    """

    def __init__(self, serve: Callable[[Any], Any], folder: str):
        os.environ["OMP_NUM_THREADS"] = "1"
        os.chdir(folder)
        self.serve = serve

    def ready(self) -> None:
        """Answers when the actor is there."""

    def answer(self, task: Any) -> Any:
        """The result of `serve`, or its refusal."""
        try:
            return self.serve(task)
        except FlowPortraitError as error:
            return error


def hand_out(
    serve: Callable[[T], R], tasks: Iterable[T], count: int, device: str = "cpu"
) -> Iterator[tuple[T, R | None]]:
    """Gives `serve(task)` for all tasks from `count` actors, as they are done; None for a task that
    was lost twice. An actor has a CPU of its own, and a GPU unless `device` is "cpu", or "auto"
    where the cluster has none.

    `RAY_ADDRESS` names the cluster, whose nodes must see the driver's folder and files under the
    same paths; without it one of `count` processes is started on this machine and ended after the
    last task. `serve` is sent to the actors.

    Raises MissingDependency without ray, DataError where workers do not start, and any
    FlowPortraitError of `serve`.
    """
    ray = require("ray", extra="ray")
    waiting = deque(tasks)
    tries = Counter[int]()
    with _connected(ray, count):
        gpus = {"cpu": 0, "auto": min(1, ray.cluster_resources().get("GPU", 0))}.get(device, 1)
        kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Server)
        crew = _Crew(ray, lambda: kind.remote(serve, os.getcwd()), min(count, len(waiting)))
        while waiting or crew.is_busy:
            crew.give(waiting)
            for task, answer, lost in crew.collect():
                if not lost:
                    if isinstance(answer, FlowPortraitError):
                        raise answer
                    yield task, answer
                    continue
                tries[id(task)] += 1
                if tries[id(task)] < MAX_TRIES:
                    waiting.appendleft(task)
                else:
                    yield task, None
        crew.end()


class _Crew:
    """The actors: each is starting, idle, or at one task."""

    def __init__(self, ray: Any, start: Callable[[], Any], count: int):
        self._ray = ray
        self._start = start
        self._idle: list[Any] = []
        self._calls: dict[
            Any, tuple[Any, Any]
        ] = {}  # of a call: its actor, and its task in a list; none: it starts
        self._false_starts = 0
        for _ in range(count):
            self._hire()

    @property
    def is_busy(self) -> bool:
        return any(task is not None for _, task in self._calls.values())

    def _hire(self) -> None:
        actor = self._start()
        self._calls[actor.ready.remote()] = actor, None

    def give(self, waiting: deque) -> None:
        while waiting and self._idle:
            actor = self._idle.pop()
            task = waiting.popleft()
            self._calls[actor.answer.remote(task)] = actor, [task]

    def collect(self) -> Iterator[tuple[Any, Any, bool]]:
        """Waits for the next calls: task, answer, and whether it was lost with its actor."""
        done, _ = self._ray.wait(list(self._calls), num_returns=1)
        for call in done:
            actor, task = self._calls.pop(call)
            try:
                answer = self._ray.get(call)
            except (
                self._ray.exceptions.RayActorError,
                self._ray.exceptions.WorkerCrashedError,
            ) as error:
                # One that cannot be reached might still be at work.
                self._ray.kill(actor, no_restart=True)
                self._count_start(task is not None, error)
                self._hire()
                if task is not None:
                    yield task[0], None, True
                continue
            self._count_start(True, None)
            self._idle.append(actor)
            if task is not None:
                yield task[0], answer, False

    def _count_start(self, started: bool, error: Exception | None) -> None:
        """Raises DataError when workers keep dying at their start."""
        self._false_starts = 0 if started else self._false_starts + 1
        if self._false_starts == MAX_FALSE_STARTS:
            told = str(error).strip().splitlines()[-1]
            raise DataError(
                f"--engine ray: {MAX_FALSE_STARTS} workers in a row died at their start ({told});"
                " every node needs flowportrait and its packages"
            ) from error

    def end(self) -> None:
        for actor in self._idle:
            self._ray.kill(actor, no_restart=True)


@contextmanager
def _connected(ray: Any, count: int) -> Iterator[None]:
    """Within a cluster: the one this process is in already, the one RAY_ADDRESS names, or one of
    its own.
    """
    if ray.is_initialized():
        yield
        return
    _connect(ray, count)
    try:
        if ray.cluster_resources().get("CPU", 0) < 1:
            raise DataError("--engine ray: the cluster has no CPU for a worker; add a node to it")
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, count: int) -> None:
    """Joins the cluster that is named, or starts one on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    # Ray reports its use to its makers unless it is told not to; nothing here is sent anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Nothing but what the driver says belongs on the terminal.
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=count, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"--engine ray: no cluster at {address or 'this machine'} ({told}); start one with `ray"
            " start`, or unset RAY_ADDRESS for one of this machine alone"
        ) from error
