"""What the commands have in common: the options of many, the progress bar, the machine-readable line."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self, TextIO

import typer

_PLAIN_PROGRESS_EVERY_S = 5.0

AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A name it is reached under, as behind a proxy; may stand more than once."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line last.")]
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What differs from the defaults.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one value.")]
ScoringFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="The judge and the scorers' settings.")
]
Answers = Annotated[
    Path | None, typer.Option(metavar="FILE.jsonl", help="Where raw answers are kept; beside the output by default.")
]
Resume = Annotated[str | None, typer.Option(metavar="auto|DIR", help="Go on from the last saved state.")]


class Unheard:
    """A stream of text whose reader may go away, as `head` does: what is said then is lost, and what is done is not."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    @classmethod
    def around(cls, stream: TextIO | None) -> Self | None:
        """`stream` so; None where there is none."""
        return cls(stream) if stream is not None else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream does, unless nobody hears it."""
        with self._lost():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream does, unless nobody hears it."""
        with self._lost():
            self._stream.flush()

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What waits in the stream would be tried again when the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total): a bar with the time left on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_progress(label)
        return
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(label: str) -> Callable[[int, int], None]:
    started_s = last_s = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.perf_counter()
        if 0 < done < total and now_s - last_s >= _PLAIN_PROGRESS_EVERY_S:
            last_s = now_s
            left_s = (now_s - started_s) * (total - done) / done
            typer.echo(f"{label}: {done / total:.0%}, {left_s:.0f} s left", err=True)

    return report


def json_line(value: object) -> str:
    """One line of JSON, for `--json`."""
    import json

    return json.dumps(value)
