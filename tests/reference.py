"""The reference pages, generated from the code: `python -m tests.reference` writes them."""

from collections.abc import Iterator
from pathlib import Path

import typer

from flowportrait import catalogue, cli, needs, registry
from flowportrait.cli.guide import GROUPS
from flowportrait.cli.help import help_text
from flowportrait.pages import markdown_rows
from flowportrait.settings import as_toml, settings_of

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
_MADE = "Generated from the code by `python -m tests.reference`; a test checks it.\n"
_WIDTH = 96


def commands() -> str:
    """docs/reference/commands.md: the help of every command."""
    root = typer.main.get_command(cli.app)
    lines = ["# Commands", "", _MADE]
    for title, names in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            for path, command in _below(root.commands[name], f"flowportrait {name}"):
                lines += [f"### `{path}`", "", "```text", _help(command, path), "```", ""]
    return "\n".join(lines)


def _below(command, path: str) -> Iterator[tuple[str, object]]:
    """A command, or all of a group."""
    for name, one in getattr(command, "commands", {}).items():
        yield from _below(one, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command


def _help(command, path: str) -> str:
    return help_text(command, path, _WIDTH).rstrip()


def recipes() -> str:
    """docs/reference/recipes.md: the shipped recipes, and every setting of each kind."""
    rows = [
        [f"`{name}`", catalogue.kind_of(name), catalogue.about_recipe(registry.find_recipe(name))]
        for name in registry.recipe_names()
    ]
    lines = ["# Recipes", "", _MADE, *markdown_rows(["recipe", "kind", "description"], rows), ""]
    lines += [
        "Below are all settings of each kind of recipe, with default, unit and place in the paper;",
        "*Unstated* marks what the paper leaves open. `flowportrait config show RECIPE` prints the",
        "settings of a recipe in the same form.",
        "",
    ]
    for kind in catalogue.RECIPE_KINDS.names():
        settings = as_toml(settings_of(catalogue.RECIPE_KINDS.load(kind)))
        lines += [f"## {kind}", "", "```toml", settings.rstrip(), "```", ""]
    return "\n".join(lines)


def scorers() -> str:
    """docs/reference/scorers.md: every scorer and set metric."""
    lines = ["# Scorers", "", _MADE]
    for title, what in (
        ("Scorers of clips", "scorers"),
        ("Metrics of sets", "sets"),
        ("Judge systems", "systems"),
    ):
        lines += [f"## {title}", "", *_table(what), ""]
    rows = [
        [need.what, ", ".join(need.packages), ", ".join(need.weights)] for need in needs.SCORERS
    ]
    lines += ["## Requirements", "", *markdown_rows(["scorers", "packages", "weights"], rows), ""]
    return "\n".join(lines)


def _table(what: str) -> list[str]:
    said, table = catalogue.about(what), registry.LISTED[what][0]
    if what == "systems":
        return markdown_rows(["name", "description"], [[f"`{n}`", t] for n, t in said.items()])
    rows = []
    for name, text in said.items():
        kind = table.load(name)
        ends = " to ".join(
            f"{end:.4g}" if abs(end) < 1e300 else "unlimited" for end in (kind.low, kind.high)
        )
        rows.append([f"`{name}`", text, kind.unit, ends, kind.better])
    return markdown_rows(["name", "description", "unit", "range", "better"], rows)


PAGES = {"commands.md": commands, "recipes.md": recipes, "scorers.md": scorers}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page, made in PAGES.items():
        (FOLDER / page).write_text(made(), encoding="utf-8")
