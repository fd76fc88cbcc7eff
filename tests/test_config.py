"""Recipes: sparse TOML, overrides of one leaf, errors that name the nearest key, JSON that loads
again.
"""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from flowportrait.config import Frozen, load_recipe, save_resolved
from flowportrait.errors import ConfigError


class Adam(Frozen):
    type: Literal["adam"] = "adam"
    rate: float = Field(1e-4, gt=0)


class Sgd(Frozen):
    type: Literal["sgd"] = "sgd"
    momentum: float = 0.9


class Rollout(Frozen):
    window: int = 2
    name: str = "w"


class Recipe(Frozen):
    rollout: Rollout = Rollout()
    optimizer: Annotated[Adam | Sgd, Field(discriminator="type")] = Adam()
    parts: list[Rollout] = []
    note: str | None = None


@pytest.fixture
def recipe(tmp_path):
    def write(text: str):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


def test_missing_fields_are_the_defaults(recipe):
    assert load_recipe(recipe(""), Recipe) == Recipe()
    assert load_recipe(recipe("[rollout]\nwindow = 3"), Recipe).rollout == Rollout(window=3)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.window=5", 5),
        ("rollout.window = 5", 5),
        ("rollout.name=plain words", "plain words"),
        ("optimizer.rate=3e-4", 3e-4),
        ("rollout.name='7'", "7"),
    ],
)
def test_an_override_sets_one_leaf(recipe, override, expected):
    loaded = load_recipe(
        recipe("[rollout]\nwindow = 3\n[optimizer]\ntype = 'adam'"), Recipe, [override]
    )
    table, leaf = override.partition("=")[0].strip().split(".")
    assert getattr(getattr(loaded, table), leaf) == expected


def test_without_a_file_overrides_are_laid_over_the_defaults():
    assert load_recipe(None, Recipe, ["rollout.window=5"]) == Recipe(rollout=Rollout(window=5))
    with pytest.raises(
        ConfigError, match="^--set: unknown key 'rollout.windw'; did you mean 'window'"
    ):
        load_recipe(None, Recipe, ["rollout.windw=5"])


def test_null_is_no_value(recipe):
    assert load_recipe(recipe("note = 'a'"), Recipe, ["note=null"]).note is None
    assert load_recipe(recipe(""), Recipe, ["note='null'"]).note == "null"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "[rollout]\nwindw = 3",
            [],
            "unknown key 'rollout.windw'; did you mean 'window'? allowed: name, window",
        ),
        ("rolout = 3", [], "unknown key 'rolout'; did you mean 'rollout'?"),
        (
            "[optimizer]\ntype = 'sgd'\nmomentun = 1",
            [],
            "did you mean 'momentum'? allowed: momentum, type",
        ),
        ("[[parts]]\nwindw = 1", [], "did you mean 'window'?"),
        ("", ["rollout.window=many"], "rollout.window: input should be a valid integer"),
        ("", ["rollout.window"], "got 'rollout.window'; write key=value"),
        ("", ["rollout..window=3"], "write key=value"),
        ("note = 'a'", ["note.b=3"], "'note' is a value and has no key 'b'"),
        ("[optimizer]\ntype = 'adam'\nrate = -1.0", [], "should be greater than 0 (got -1.0)"),
        ("= 3", [], "not valid TOML"),
    ],
)
def test_errors_are_one_line_with_the_way_out(recipe, text, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe(text), Recipe, overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_was_resolved_loads_again(recipe, tmp_path):
    resolved = load_recipe(recipe("[optimizer]\ntype = 'sgd'"), Recipe, ["rollout.window=9"])
    save_resolved(resolved, tmp_path / "config.json")
    assert load_recipe(tmp_path / "config.json", Recipe) == resolved


def test_configurations_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().note = "x"
