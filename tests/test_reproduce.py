"""`reproduce`: stages run once, in order, and say where it went wrong."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from flowportrait import cli
from flowportrait.config import load_recipe
from flowportrait.registry import RECIPES_DIR
from flowportrait.reproduce import Chain
from flowportrait.train import rl

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
        '["tiny", "tiny-sft"]' in Path("run/logs/one.log").read_text()
        and "frechet-lite0" in Path("run/logs/two.log").read_text()
    )
    assert cli.run(["reproduce", "chain.toml"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0].startswith("[1/2] one: done before") and again[1].startswith(
        "[2/2] two: done before"
    )


BESIDE = """
out = "run"
result = "b.txt"
[given]
what = "models"
more = ""
count = "0"
[[stages]]
name = "one"
run = ["list", "{what}"]
[[stages]]
name = "two"
beside = true
run = ["list", "sets"]
[[stages]]
name = "three"
needs = "more"
run = ["list", "{more}"]
[[stages]]
name = "four"
run = ["list", "systems"]
"""


def test_stages_beside_one_another_and_what_is_given(recipe, capsys):
    Path("chain.toml").write_text(BESIDE)
    assert cli.run(["reproduce", "chain.toml", "--jobs", "2", "--json"]) == 0
    *told, last = capsys.readouterr().out.splitlines()
    assert {"[1/3] one: flowportrait list models", "[2/3] two: flowportrait list sets"} <= set(told)
    assert {run["name"] for run in json.loads(last)} == {"one", "two", "four"}
    more = ["reproduce", "chain.toml", "--set", "given.more=codecs", "--set", "given.count=7"]
    assert cli.run(more) == 0
    told = capsys.readouterr().out
    assert told.count("done before") == 2 and "[3/4] three: flowportrait list codecs" in told
    assert cli.run(["reproduce", "chain.toml", "--set", "given.what=wrong", "--jobs", "2"]) == 1
    assert capsys.readouterr().err.startswith("error: one: ")
    assert '"two"' in Path("run/stages.jsonl").read_text()  # its neighbour has ended well


def test_what_a_stage_needs_must_have_a_name(recipe, capsys):
    Path("chain.toml").write_text(BESIDE.replace('needs = "more"', 'needs = "mroe"'))
    assert cli.run(["reproduce", "chain.toml"]) == 2
    assert "stage three: needs 'mroe'; did you mean 'more'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["reproduce-rl", "reproduce-table5"])
def test_the_runs_of_the_proof_are_as_they_say(name, tmp_path):
    """Every training that a chain names is a recipe that `train rl` takes, in its own place."""
    chain = load_recipe(RECIPES_DIR / f"{name}.toml", Chain)
    runs = {}
    for stage in chain.stages:
        words = chain.words_of(stage, tmp_path)
        if words[:2] == ["train", "rl"]:
            settings = [word for before, word in pairwise(words) if before == "--set"]
            runs[stage.name] = load_recipe(Path(words[2]), rl.RlRecipe, settings)
            rl.check(runs[stage.name], 1)
    assert {run.run.directory for run in runs.values()} == {tmp_path / name for name in runs}
    assert len({run.run.num_updates for run in runs.values()}) == 1
    if name == "reproduce-rl":
        assert [run.run.seed for run in runs.values()] == [1, 2, 3, 1]
        assert [run.objective.shuffled for run in runs.values()] == [False] * 3 + [True]
        assert all(run.rollout.evaluations == 2 for run in runs.values())
    else:
        settings = {name: (run.rollout.window.width, run.rollout.eta) for name, run in runs.items()}
        assert len(runs) == 9 and settings["window-3"] == (3, 0.5)
        assert [settings[name][1] for name in ("baseline", "noise-0-8", "noise-1-0")] == [
            0.5,
            0.8,
            1,
        ]
        assert len({str(run.reward.terms) for run in runs.values()}) == 6


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
        (('name = "two"', 'name = "one"'), "duplicate name"),
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
