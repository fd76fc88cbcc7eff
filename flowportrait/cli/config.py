"""Commands about settings: `config show` and `config defaults`."""

from typing import Annotated, Any

import typer

from flowportrait.cli.shared import Debug, Json, Overrides, json_line, names

app = typer.Typer()
config_app = typer.Typer(
    no_args_is_help=True, help="Print the settings of a recipe with default, unit and source."
)
app.add_typer(config_app, name="config")

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A file, or a shipped recipe.", autocompletion=names("recipes")
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Kind of recipe; detected from its keys by default."),
]


@config_app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    kind: Kind = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print every setting of a recipe with its effective value, as TOML that is itself a recipe.

    Comments give the default where it differs, the unit, the place in the paper ("Unstated"
    where the paper leaves it open), and the meaning.
    """
    from flowportrait import catalogue
    from flowportrait.config import load_recipe
    from flowportrait.settings import settings_of

    name = kind or catalogue.kind_of(recipe)
    described = catalogue.RECIPE_KINDS.load(name)
    config = load_recipe(recipe, described, overrides or [])
    _print(f"{recipe}: a recipe of {name}", settings_of(described, config), json)


@config_app.command()
def defaults(
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND|RECIPE", help="A kind of recipe, or a recipe of that kind."),
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the default settings of a kind of recipe.

    Kinds: chain, codec, ear, faults, mouth, prepare, rl, scoring, scratch, sft, sync.
    """
    from flowportrait import catalogue
    from flowportrait.settings import settings_of

    known = kind in catalogue.RECIPE_KINDS.names()
    name = kind if known else catalogue.kind_of(kind)
    _print(f"the defaults of {name}", settings_of(catalogue.RECIPE_KINDS.load(name)), json)


def _print(head: str, settings: list[Any], as_json: bool) -> None:
    """Prints settings as TOML, and as JSON where that is asked for."""
    from flowportrait.settings import as_toml

    typer.echo(f"# {head}\n\n{as_toml(settings)}", nl=False)
    if as_json:
        typer.echo(json_line([setting.as_dict() for setting in settings]))
