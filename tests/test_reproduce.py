"""`reproduce`: stages run once, in order, and say where it went wrong."""

import json
from pathlib import Path

import pytest

from flowportrait import cli
from flowportrait.config import load_recipe
from flowportrait.registry import RECIPES_DIR
from flowportrait.reproduce import Chain

CHAIN = """
out = "run"
result = "b.txt"
[[stages]]
name = "one"
run = ["list", "models", "--json"]
[[stages]]
name = "two"
run = ["list", "{what}"]
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(what="sets"):
        Path("chain.toml").write_text(CHAIN.replace("{what}", what))

    write()
    return write


def test_each_stage_runs_once(recipe, capsys):
    assert cli.run(["reproduce", "chain.toml", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/2] one: flowportrait list models --json"
    assert lines[-2].endswith("s in 2 stages: run/b.txt")
    assert [run["name"] for run in json.loads(lines[-1])] == ["one", "two"]
    assert (
        '["tiny"]' in Path("run/logs/one.log").read_text()
        and "frechet-lite0" in Path("run/logs/two.log").read_text()
    )
    assert cli.run(["reproduce", "chain.toml"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0].startswith("[1/2] one: done before") and again[1].startswith(
        "[2/2] two: done before"
    )


def test_a_long_stage_is_heard_of(recipe, capsys, monkeypatch):
    monkeypatch.setattr("flowportrait.reproduce._FIRST_WORD_S", 0.05)
    assert cli.run(["reproduce", "chain.toml"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " s so far" in line]
    assert lines and all(line.startswith(("[1/2] one: ", "[2/2] two: ")) for line in lines)
    assert "$ flowportrait" not in "".join(lines)


def test_a_stage_that_fails_stops_the_chain_and_is_tried_again(recipe, capsys):
    recipe("wrong")
    assert cli.run(["reproduce", "chain.toml"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("error: two: ")
        and "'wrong'" in line
        and "run/logs/two.log; run again" in line
    )
    recipe("sets")
    assert cli.run(["reproduce", "chain.toml"]) == 0
    assert "one: done before" in capsys.readouterr().out


def test_what_has_changed_is_run_again_with_all_behind_it(recipe, capsys):
    Path("settings.json").write_text("{}")
    words = [
        "score",
        "v.mp4",
        "--scorers",
        "ssim",
        "-o",
        "{out}/s.jsonl",
        "--config",
        "settings.json",
        "--dry-run",
    ]
    text = CHAIN.replace('["list", "models", "--json"]', json.dumps(words)).replace(
        "{what}", "sets"
    )
    Path("v.mp4").write_bytes(b"a video, as far as a dry run looks")
    Path("chain.toml").write_text(text)
    assert (
        cli.run(["reproduce", "chain.toml", "-o", "elsewhere"]) == 0
        and Path("elsewhere/stages.jsonl").exists()
    )
    Path("settings.json").write_text('{"scorers": {}}')
    capsys.readouterr()
    assert cli.run(["reproduce", "chain.toml", "-o", "elsewhere"]) == 0
    assert "done before" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, words",
    [
        (('name = "two"', 'name = "one"'), "two have one name"),
        (('name = "two"', 'name = "../two"'), "chain.toml: stages"),
        (("result", "resullt"), "chain.toml: result: field required"),
    ],
)
def test_a_wrong_recipe_is_one_line(recipe, change, words, capsys):
    Path("chain.toml").write_text(CHAIN.replace(*change))
    assert cli.run(["reproduce", "chain.toml"]) == 2
    assert words in capsys.readouterr().err and not Path("run").exists()


def test_unknown_recipes_and_shared_folders_are_refused(recipe, capsys):
    assert cli.run(["reproduce", "nothing"]) == 2
    assert "nothing: no such recipe; give the path of a .toml file" in capsys.readouterr().err
    assert cli.run(["reproduce", "chain.toml", "reproduce-tiny", "-o", "x"]) == 2
    assert "2 recipes would share x" in capsys.readouterr().err


def test_the_shipped_chain_goes_from_data_to_a_report():
    chain = load_recipe(RECIPES_DIR / "reproduce-tiny.toml", Chain)
    commands = [" ".join(stage.run[:2]) for stage in chain.stages]
    assert commands[0] == "world render" and commands[-1] == "report page"
    assert {"train sft", "train rl"} <= set(commands) and sum(
        c.startswith("generate") for c in commands
    ) == 3
