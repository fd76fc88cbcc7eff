"""Commands about the installation: `doctor` and `list`."""

from typing import Annotated, Literal

import typer

from flowportrait.cli.shared import Debug, Json, json_line

app = typer.Typer()


@app.command()
def doctor(json: Json = False, debug: Debug = False) -> int:
    """Say what is installed, how fast it is, what is missing and how to get it."""
    from flowportrait.doctor import examine

    checks = []
    for check in examine():
        typer.echo(check.line())
        checks.append(check)
    if json:
        typer.echo(json_line([check.as_dict() for check in checks]))
    return 1 if any(check.state == "broken" for check in checks) else 0


@app.command("list")
def list_names(
    what: Annotated[
        Literal["models", "codecs", "encoders", "detectors", "recipes", "scorers", "sets", "systems", "backends"],
        typer.Argument(),
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the names that can be used."""
    from flowportrait import registry

    names = registry.names_of(what)
    for name in names:
        typer.echo(name)
    if json:
        typer.echo(json_line(names))
