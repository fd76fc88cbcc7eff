"""Commands about the installation: `doctor`, `list` and `samples`."""

import math
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowportrait.cli.shared import Debug, Json, json_line
from flowportrait.errors import ConfigError, DataError

app = typer.Typer()


@app.command()
def doctor(
    extras: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXTRA", help="With --fix: the extras to install; all by default."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Install the missing packages of the extras with pip.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Check what can run on this machine, and print how to install what is missing."""
    from flowportrait import doctor as checks

    if extras and not fix:
        raise ConfigError(
            f"{extras[0]}: doctor takes extras only with --fix: doctor --fix {extras[0]}"
        )
    return _examined(fix, checks, extras, json)


def _examined(
    fix: Annotated[
        bool, typer.Option("--fix", help="Install the missing packages of the extras with pip.")
    ],
    checks,
    extras: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXTRA", help="With --fix: the extras to install; all by default."),
    ],
    json: Json,
) -> int:
    if fix:
        installed = checks.fix([name for text in extras or () for name in text.split(",")])
        typer.echo(f"installed: {', '.join(installed) or 'nothing, all of it is here'}")
    found, section = [], ""
    for check in checks.examine():
        if check.section != section:
            section = check.section
            typer.echo(f"\n{section.capitalize()}" if found else section.capitalize())
        typer.echo(check.line())
        found.append(check)
    if json:
        typer.echo(json_line([check.as_dict() for check in found]))
    if any(check.state == "broken" for check in found):
        return 1
    return 0


What = Annotated[
    Literal[
        "models",
        "codecs",
        "encoders",
        "detectors",
        "speech-filters",
        "recipes",
        "scorers",
        "sets",
        "systems",
        "backends",
    ],
    typer.Argument(metavar="WHAT", help="Kind of names to list."),
]


@app.command("list")
def list_names(
    what: What,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List available names with descriptions.

    For scorers and sets, also list unit, range, direction and requirements.
    """
    from flowportrait import catalogue, registry

    names = registry.names_of(what)
    if what not in ("scorers", "sets"):
        width = max(map(len, names), default=0)
        for name, said in catalogue.about(what).items():
            typer.echo(f"{name:<{width}}  {said}".rstrip())
        if json:
            typer.echo(json_line(names))
        return
    declared = {name: _declared(registry.LISTED[what][0].load(name)) for name in names}
    width = max(map(len, names))
    for name, d in declared.items():
        needs = ""
        if d["needs"]:
            needs = f"; needs {', '.join(d['needs'])}"
        low, high = (f"{end:.4g}" if end is not None else "no end" for end in (d["low"], d["high"]))
        unit = ""
        if d["unit"] != "1":
            unit = f", {d['unit']}"
        typer.echo(f"{name:<{width}}  {low} to {high}{unit}; {d['better']} is better{needs}")
    if json:
        typer.echo(json_line(declared))


@app.command()
def samples(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="New folder to copy them into.")
    ] = Path("samples"),
    debug: Debug = False,
) -> None:
    """Copy the samples into a folder: portraits, a speech recording, and a small dataset, world/.

    The people are rendered and the voice is synthetic: all of them may be used freely.
    """
    from flowportrait.registry import SAMPLES_DIR

    if out.exists():
        raise DataError(f"{out}: already exists; give a new folder with -o")
    shutil.copytree(SAMPLES_DIR, out)
    for path in sorted(out.iterdir()):
        typer.echo(path)


def _declared(kind: type) -> dict[str, object]:
    """The declared unit, range and direction of a scorer's numbers; None for an end of the range
    that is open, since JSON has no infinity.
    """
    low = kind.low if math.isfinite(kind.low) else None
    high = kind.high if math.isfinite(kind.high) else None
    needs = sorted(set(kind.needs) - {"frames"})
    return {"unit": kind.unit, "low": low, "high": high, "better": kind.better, "needs": needs}
