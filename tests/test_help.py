"""What `--help` shows of every command, its examples, shell completion, and settings in words."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from flowportrait import catalogue, cli, registry
from flowportrait.cli.guide import EXAMPLES, GROUPS, examples_of
from flowportrait.cli.help import help_text
from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import ConfigError
from flowportrait.settings import as_toml, settings_of

ROOT = typer.main.get_command(cli.app)


def commands(group=ROOT, path="flowportrait"):
    """Every command with how it is called."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(commands())


def test_every_command_has_a_group_and_examples():
    assert [name for names in GROUPS.values() for name in names] == list(
        dict.fromkeys(name for names in GROUPS.values() for name in names)
    )
    assert {name for names in GROUPS.values() for name in names} == set(ROOT.commands)
    assert set(EXAMPLES) == {path.removeprefix("flowportrait ") for path in ALL}


@pytest.mark.parametrize("path", ALL)
def test_help_is_whole_and_fits(path):
    command = ALL[path]
    text = help_text(command, path, width=80)
    for parameter in command.params:
        assert parameter.help, f"{path}: {parameter.name} says nothing"
        assert parameter.help[0].isupper() and parameter.help.endswith((".", ")")), parameter.help
    assert command.help.splitlines()[0].strip()
    examples = text.partition("Examples:")[2]
    assert examples and all(len(line) <= 80 for line in text.partition("Examples:")[0].splitlines())


@pytest.mark.parametrize("path, line", [(p, one.line) for p in EXAMPLES for one in examples_of(p)])
def test_examples_can_be_typed(path, line):
    words = shlex.split(line)[1:]
    command, name = ROOT, "flowportrait"
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    assert command is ALL[f"flowportrait {path}"]
    command.make_context(name, words)


def test_help_of_groups_says_what_is_in_them(capsys):
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    titles = [f"{title}:" for title in GROUPS]
    assert [line for line in shown.splitlines() if line in titles] == titles
    assert cli.run(["study"]) == 0 and "create" in capsys.readouterr().out


@pytest.mark.parametrize(
    "typed, offered",
    [
        ("flowportrait gen", ["generate"]),
        ("flowportrait train sft sft", ["sft-paper"]),
        ("flowportrait score x --scorers ssim,ls", ["ssim,lse-c", "ssim,lse-d"]),
        ("flowportrait generate a b --model ti", ["tiny", "tiny-sft"]),
        ("flowportrait config show rl-p", ["rl-paper"]),
    ],
)
def test_a_shell_completes(typed, offered):
    asked = {
        "_FLOWPORTRAIT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    command = [sys.executable, "-m", "flowportrait"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == offered, done.stderr


RECIPES = registry.recipe_names()


@pytest.mark.parametrize("name", RECIPES)
def test_settings_that_are_shown_load_as_they_are(name, capsys):
    kind = catalogue.RECIPE_KINDS.load(catalogue.kind_of(name))
    config = load_recipe(name, kind)
    shown = as_toml(settings_of(kind, config))
    assert kind.model_validate(tomllib.loads(shown)) == config
    assert catalogue.about_recipe(registry.find_recipe(name))


@pytest.mark.parametrize("kind", catalogue.RECIPE_KINDS.names())
def test_defaults_of_every_kind(kind, capsys):
    assert cli.run(["config", "defaults", kind]) == 0
    assert f"# the defaults of {kind}\n" in capsys.readouterr().out


def test_a_setting_says_default_unit_and_source(capsys):
    assert cli.run(["config", "show", "sft-paper", "--set", "data.num_rows=3"]) == 0
    shown = capsys.readouterr().out
    assert "# default 8; rows per update" in shown and "num_rows = 3\n" in shown
    assert any(
        line.startswith("test_min_s") and "# seconds;" in line and "§2.3" in line
        for line in as_toml(settings_of(catalogue.RECIPE_KINDS.load("prepare"))).splitlines()
    )


class Toy(Frozen):
    """Fields that are described in three ways, and one that is not."""

    first_s: float = 1.0  # beside it
    second: int | None = None
    """Behind it. Unstated."""
    third: str


def test_what_is_said_of_a_setting_is_read_from_where_it_stands():
    first, second, third = settings_of(Toy, Toy(third="x"))
    assert (first.says, first.unit, first.note()) == ("beside it", "seconds", "seconds; beside it")
    assert (second.says, second.source) == ("Behind it. Unstated.", "Unstated")
    assert third.required and third.note() == "no default"


def test_recipes_are_found_by_name_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = registry.RECIPES_DIR / "sft-paper.toml"
    for name in ("sft-paper", "sft-paper.toml", "recipes/sft-paper.toml", Path("sft-paper")):
        assert registry.find_recipe(name) == shipped
    Path("sft-paper.toml").write_text("own = 1")
    assert registry.find_recipe("sft-paper.toml") == Path("sft-paper.toml")
    with pytest.raises(ConfigError, match="did you mean 'sft-paper'"):
        registry.find_recipe("sft-papr")
    with pytest.raises(ConfigError, match="elsewhere/sft-paper.toml: no such recipe"):
        registry.find_recipe("elsewhere/sft-paper.toml")


def test_a_file_of_no_kind_is_one_line(tmp_path, capsys):
    (tmp_path / "odd.toml").write_text("nothing = 1")
    assert cli.run(["config", "show", str(tmp_path / "odd.toml")]) == 2
    assert (
        "odd.toml: unrecognized kind of recipe; give --kind chain|codec" in capsys.readouterr().err
    )
