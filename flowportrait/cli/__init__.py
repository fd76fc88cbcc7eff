"""The `flowportrait` command. Exit code 0 done, 1 failed, 2 the input is wrong, 130 interrupted.

Heavy imports stand inside the commands: `--help` is instant, and wrong input is refused before
torch loads.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from flowportrait import __version__
from flowportrait.cli import about, config, data, make, score, study, train
from flowportrait.cli.guide import laid_out
from flowportrait.cli.shared import Unheard
from flowportrait.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FlowPortraitError,
    MediaError,
)

_INPUT_ERRORS = (ConfigError, DataError, MediaError, CheckpointError)
_INTERRUPTED = 130

app = typer.Typer(pretty_exceptions_enable=False)
for room in (make, score, study, data, train, about, config):
    app.add_typer(room.app)
laid_out(app)


def main() -> None:
    """The console script."""
    # Threads that spin while they wait for each other are ruinous on a busy machine. The libraries
    # of OpenMP read this when torch loads them, here and in the processes that are started from
    # here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout = Unheard.around(sys.stdout)
    sys.stderr = Unheard.around(sys.stderr)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and gives its exit code; an error of the user's input is one line on
    stderr.
    """
    try:
        outcome = app(
            args=list(arguments) or ["--help"], prog_name="flowportrait", standalone_mode=False
        )
        code = outcome if isinstance(outcome, int) else 0
        # typer answers Ctrl-C with this code and no word.
        if code == _INTERRUPTED:
            return _fail("interrupted", code)
        return code
    except typer.TyperException as error:
        return _fail(_usage_line(error), code=2)
    except FlowPortraitError as error:
        if "--debug" in arguments:
            raise
        return _fail(str(error), code=2 if isinstance(error, _INPUT_ERRORS) else 1)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Generate talking-head videos from a portrait and speech; train and judge the models."""
    if version and context.invoked_subcommand is None:
        typer.echo(f"flowportrait {__version__}")


def _usage_line(error: typer.TyperException) -> str:
    """The mistake in the command line, with the value that was got and where to read on."""
    from pydantic import ValidationError

    context = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "").rstrip(".?")
    # typer reads values through pydantic, and its own message leaves out which value it was.
    if isinstance(error.__cause__, ValidationError):
        message += f" (got {error.__cause__.errors()[0]['input']!r})"
    return f"{message}; see {context.command_path if context else 'flowportrait'} --help"


def _fail(message: str, code: int) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code
