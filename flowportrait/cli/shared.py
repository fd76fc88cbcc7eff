"""Parts that the commands share: the options of many, the progress bar, the
machine-readable line.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Self, TextIO

import typer

from flowportrait import storage
from flowportrait.cluster import Division
from flowportrait.errors import ConfigError

_PLAIN_PROGRESS_EVERY_S = 5.0
_FIRST_BEAT_S = 1.0

AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Host name that requests may use, such as that of a reverse proxy.",
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="Run on this machine, or on the Ray cluster at RAY_ADDRESS.",
    ),
]
PartName = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="i/n",
        help="Process only part i of n of the clips; all parts share one output.",
    ),
]


def divided(engine: str, workers: int, part: str | None, out: Path) -> Division:
    """The division of a command whose parts share one output. Raises ConfigError."""
    if part is not None and (address := storage.address_of(out)):
        raise ConfigError(
            f"--part: parts share their output as it grows, and {address} is written when all is"
            " done; give -o on a disk that all see"
        )
    return Division.named(engine, workers, part)


def names(what: str) -> Callable[[str], list[str]]:
    """For shell completion: the names of what `list` can list that begin as typed; of a list with
    commas the last one is completed.
    """

    def complete(incomplete: str) -> list[str]:
        from flowportrait.registry import names_of

        before, comma, last = incomplete.rpartition(",")
        found = (name.removesuffix(".toml") for name in names_of(what))
        return [f"{before}{comma}{name}" for name in found if name.startswith(last)]

    return complete


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON summary as the last line.")]
Recipe = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="TOML file with the settings that differ from the defaults, or a shipped recipe.",
        autocompletion=names("recipes"),
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one setting by its dotted name (see: config show).",
    ),
]
ScoringFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="RECIPE", help="Recipe with the settings of the judge and the scorers."
    ),
]
Answers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jsonl",
        help="File for the judges' raw answers; by default next to the output.",
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="auto|DIR",
        help="Resume from the last checkpoint of the run (auto) or from this checkpoint.",
    ),
]


class Unheard:
    """A text stream whose reader may close it, as `head` does: later output is discarded, and the
    command continues.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    @classmethod
    def around(cls, stream: TextIO | None) -> Self | None:
        """Wraps `stream`; None stays None."""
        if stream is not None:
            return cls(stream)
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Like the stream's method, but ignores a closed pipe."""
        with self._lost():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Like the stream's method, but ignores a closed pipe."""
        with self._lost():
            self._stream.flush()

    @contextmanager
    def _lost(self) -> Iterator[None]:
        """Leaves in peace when nobody reads what is written any more."""
        try:
            yield
        except BrokenPipeError:
            # What waits in the stream would be tried again when the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def progress_bar(label: str, beats: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total): a bar with the time left on a terminal, now and then a line
    elsewhere.

    With `beats` a line also comes while nothing is done for a long time, so that silence means that
    it hangs.
    """
    if not sys.stderr.isatty():
        report = _plain_progress(label)
        with _beating(report) if beats else nullcontext():
            yield report
        return
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _plain_progress:
    """Lines of progress. The time left is told by the pace since the first report, not since the
    start: loading comes before it, and what an earlier run has done counts as done at once. Too
    little to go by gives no estimate.
    """

    def __init__(self, label: str):
        self._label = label
        self._started_s = self._last_s = time.perf_counter()
        self._first: tuple[int, float] | None = None
        self._now = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        now_s = time.perf_counter()
        self._first = self._first or (done, now_s)
        self._now = (done, total)
        if 0 < done < total and now_s - self._last_s >= _PLAIN_PROGRESS_EVERY_S:
            self._last_s = now_s
            typer.echo(f"{self._label}: {done / total:.0%}, {self._left(now_s)}", err=True)

    def _left(self, now_s: float) -> str:
        (first, first_s), (done, total) = self._first or (0, now_s), self._now
        if done - first < max(1, min(10, total // 50)) or now_s <= first_s:
            return f"{now_s - self._started_s:.0f} s so far"
        return f"{(now_s - first_s) * (total - done) / (done - first):.0f} s left"

    def beat(self) -> None:
        """A line where none has come for a while."""
        now_s, (done, total) = time.perf_counter(), self._now
        if (done < total or not total) and now_s - self._last_s >= _FIRST_BEAT_S:
            self._last_s = now_s
            of = f"{done} of {total}, " if total else ""
            typer.echo(f"{self._label}: {of}{now_s - self._started_s:.0f} s so far", err=True)


@contextmanager
def _beating(report: _plain_progress) -> Iterator[None]:
    """Beats at growing distances, from the first second on up to once in 30 s."""
    ended = threading.Event()

    def beat() -> None:
        pause_s = _FIRST_BEAT_S
        while not ended.wait(pause_s):
            report.beat()
            pause_s = min(30.0, pause_s * 2)

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def json_line(value: object) -> str:
    """One line of JSON, for `--json`."""
    from flowportrait.files import json_text

    return json_text(value)
