"""Whole runs of reinforcement learning at toy size: they resume exactly, spread over processes,
guard themselves.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import fake_measures
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from toy_pipeline import save_toy, use_fake_parts

from flowportrait.config import load_recipe
from flowportrait.errors import CheckpointError, ConfigError, TrainingError
from flowportrait.generate import load
from flowportrait.registry import RECIPES_DIR, PartTable
from flowportrait.train import rl, step
from flowportrait.train.pass_figures import Halves

ROOT = Path(__file__).parents[2]
PROCESS = [sys.executable, str(Path(__file__).with_name("rl_process.py"))]
SMALL = [
    "rollout.evaluations=4", "rollout.group_size=3", "rollout.num_groups=2", "rollout.shift=2.0",
    "optimizer.learning_rate=0.01", "watch.num_clips=2", "watch.num_videos=1", "run.sample_every=2",
    "run.checkpoint_every=2",
    "reward.terms=[{scorers=['closeness']}, {scorers=['smoothness'], weight=0.2}]",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fakes():
    with pytest.MonkeyPatch.context() as patch:
        use_fake_parts(patch.setattr)
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return save_toy(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="module")
def recipe(toy, small_world):
    """A function that writes the recipe of a run into its own directory."""

    def write(directory, num_updates=4):
        path = directory.with_suffix(".toml")
        path.write_text(
            f'model = "{toy}"\n[run]\ndirectory = "{directory}"\nnum_updates = {num_updates}\n'
            f'[prompts]\nworld = "{small_world}"\n'
        )
        return path

    return write


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe):
    """An uninterrupted run, with everything that resuming could lose."""
    return rl.train(recipe(tmp_path_factory.mktemp("runs") / "whole"), [*SMALL, *FULL], resume=None)


FULL = ["reward.statistics='running'", "objective.kl_weight=0.1", "objective.kl_to='base'"]


def log_of(run, event=None):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row.get("event") == event]


def weights_of(run, name="model"):
    return load_file(run / name / "model.safetensors")


def changed(run, toy):
    before, after = load_file(toy / "model.safetensors"), weights_of(run)
    return {name for name in before if not torch.equal(before[name], after[name])}


def without_times(row):
    return {
        name: value
        for name, value in row.items()
        if name not in ("time", "s", "sampling_s", "wait_for_scores_s")
    }


def test_a_run_leaves_models_samples_and_a_log(whole, toy):
    assert (
        load(whole / "model").spec.name == "toy-rl" and load(whole / "best").spec.name == "toy-rl"
    )
    assert [row["update"] for row in log_of(whole)] == [1, 2, 3, 4]
    looks = log_of(whole, "look")
    assert [row["update"] for row in looks] == [0, 2, 4] and looks[0]["held_out_reward"] == 0
    for update in (0, 2, 4):
        folder = whole / "samples" / f"{update:06d}"
        assert (folder / "00.mp4").stat().st_size > 0 and not (folder / "01.mp4").exists()
        scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        assert len(scores) == 2 and scores[0]["closeness"] < 0
    row = log_of(whole)[0]
    assert (
        row["ratio_min"] == row["ratio_max"] == 1 and row["kl"] == 0 and log_of(whole)[-1]["kl"] > 0
    )
    shares = [value for name, value in row.items() if name.startswith("explained_")]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert load_recipe(whole / "config.json", rl.RlRecipe).rollout.evaluations == 4


def test_a_stopped_run_continues_with_the_update_it_would_have_made(tmp_path, recipe, whole):
    path = recipe(tmp_path / "stopped")
    rl.train(path, [*SMALL, *FULL, "run.num_updates=2"], resume=None)
    resumed = rl.train(path, [*SMALL, *FULL], resume="auto")
    assert [without_times(row) for row in log_of(resumed)] == [
        without_times(row) for row in log_of(whole)
    ]
    for name in ("model", "best"):
        assert_close(weights_of(resumed, name), weights_of(whole, name), rtol=0, atol=0)


def test_killed_anywhere_it_continues_the_same(tmp_path, recipe, whole):
    path = recipe(tmp_path / "killed")
    options = [*SMALL, *FULL, "run.checkpoint_every=1"]
    threads = environment(
        OMP_NUM_THREADS=torch.get_num_threads()
    )  # as many as here: sums are in another order else
    process = subprocess.Popen(
        [*PROCESS, "1", str(path), "auto", *options], cwd=ROOT, env=threads, stdout=-3
    )
    log = tmp_path / "killed" / "log.jsonl"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and '"update": 3' in log.read_text():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert log_of(log.parent), "the process made no update"
    resumed = rl.train(path, options, resume="auto")
    assert without_times(log_of(resumed)[-1]) == without_times(log_of(whole)[-1])
    assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("world", "options"),
    [(3, []), (2, ["parallel.sequence=2", "watch.gradient_noise=true"])],
    ids=["more than groups", "sharing a clip"],
)
def test_processes_make_the_update_of_one(tmp_path, recipe, whole, world, options):
    path = recipe(tmp_path / "many")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ran = subprocess.run(
        [*PROCESS, str(world), path, "auto", *SMALL, *FULL, *options, "run.num_updates=2"],
        cwd=ROOT,
        env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        stdout=-1,
        timeout=900,
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == [0] * world
    resumed = rl.train(path, [*SMALL, *FULL], resume="auto")  # what many began one continues
    for mine, theirs in zip(log_of(resumed), log_of(whole), strict=True):
        assert (
            mine["window_start"] == theirs["window_start"]
            and mine["evaluations"] == theirs["evaluations"]
        )
        for name in ("mean_closeness", "loss", "gradient_norm", "kl"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)
    assert_close(
        weights_of(resumed), weights_of(whole), rtol=1e-3, atol=1e-4
    )  # a rate of 0.01, four times


def environment(**values):
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **{k: str(v) for k, v in values.items()},
    }


def test_sharing_changes_no_update(tmp_path, recipe):
    plain = [f"rollout.sharing.{name}=false" for name in ("prefix", "window", "condition")]
    runs = [
        rl.train(
            recipe(tmp_path / name),
            [*SMALL, "trained='all'", "run.num_updates=2", *options],
            resume=None,
        )
        for name, options in (("shared", []), ("plain", plain))
    ]
    shared, unshared = (log_of(run) for run in runs)
    assert [row["mean_closeness"] for row in shared] == [row["mean_closeness"] for row in unshared]
    assert sum(row["evaluations"] for row in shared) < sum(row["evaluations"] for row in unshared)
    assert_close(weights_of(runs[0]), weights_of(runs[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("trained", ["generation", "all"])
def test_what_learns(tmp_path, recipe, toy, trained):
    run = rl.train(
        recipe(tmp_path / trained),
        [*SMALL, f"trained='{trained}'", "run.num_updates=1"],
        resume=None,
    )
    names = changed(run, toy)
    assert {"llm2vae.weight", "time_embedder.mlp.0.weight"} <= names
    experts = {name for name in names if "_moe_gen" not in name and "language_model" in name}
    assert bool(experts) == (trained == "all") == ("connector.fc1.weight" in names)


def test_several_updates_of_a_rollout_leave_the_ratio_one(tmp_path, recipe):
    options = [
        "objective.updates_per_rollout=2",
        "rollout.shared_noise=false",
        "rollout.window.width=2",
    ]
    options += [
        "rollout.sharing.prefix=false",
        "rollout.sharing.window=false",
        "objective.ratio_norm='guard'",
    ]
    run = rl.train(recipe(tmp_path / "twice"), [*SMALL, *options], resume=None)
    rows = log_of(run)
    assert [row["update"] for row in rows] == [2, 4] and all(row["ratio_max"] > 1 for row in rows)


def test_clips_without_a_score_are_counted_and_too_many_stop_the_run(tmp_path, recipe, toy):
    reward = "reward.terms=[{scorers=['%s']}]"
    run = rl.train(
        recipe(tmp_path / "some"),
        [*SMALL, reward % "sometimes", "reward.max_unscored_share=0.9"],
        resume=None,
    )
    assert any(row["unscored"] for row in log_of(run)) and changed(run, toy)
    with pytest.raises(TrainingError, match="6 of 6 clips have no score"):
        rl.train(recipe(tmp_path / "none"), [*SMALL, reward % "never"], resume=None)


def test_ties_teach_nothing(tmp_path, recipe, toy):
    run = rl.train(
        recipe(tmp_path / "tied"), [*SMALL, "reward.terms=[{scorers=['even']}]"], resume=None
    )
    assert [row["reason"] for row in log_of(run, "skipped")] == [
        "every group is tied or without scores"
    ] * 4
    assert all(row["tied_share"] == 1 for row in log_of(run)) and not changed(run, toy)


def test_a_gradient_that_is_not_finite_is_skipped(tmp_path, recipe, toy, monkeypatch):
    passes = rl.passes

    def broken(*arguments):
        for part in passes(*arguments):
            yield rl.Pass(part.loss * float("inf"), part.log_ratio, part.outside, part.kl)

    monkeypatch.setattr(rl, "passes", broken)
    run = rl.train(recipe(tmp_path / "inf"), [*SMALL, "run.num_updates=2"], resume=None)
    assert {row["reason"] for row in log_of(run, "skipped")} == {
        "gradient is not finite"
    } and not changed(run, toy)


def test_a_run_that_learns_nothing_stops(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(step, "MAX_SKIPPED", 2)
    with pytest.raises(TrainingError, match="2 updates in a row had no finite gradient or nothing"):
        rl.train(
            recipe(tmp_path / "idle"), [*SMALL, "reward.terms=[{scorers=['even']}]"], resume=None
        )


def test_what_is_written_is_json_and_a_torn_line_is_mended(tmp_path, recipe):
    """Scores that are not there are null in log, samples and checkpoint, and nan again inside."""
    path = recipe(tmp_path / "gaps", num_updates=2)
    options = [*SMALL, "watch.monitors=['sometimes', 'never']"]
    run = rl.train(path, [*options, "run.num_updates=1"], resume=None)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"update": 2, "lo')
    rl.train(path, options, resume="auto")
    strict = partial(json.loads, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    rows = [strict(line) for line in (run / "log.jsonl").read_text().splitlines()]
    looks = [row for row in rows if row.get("event") == "look"]
    assert looks[-1]["never"] is None and looks[-1]["gains"]["never"] == [None] * 3
    assert [row["update"] for row in rows if "loss" in row] == [1, 2]
    assert strict((run / "samples" / "000002" / "scores.jsonl").read_text().splitlines()[0])


def test_shuffled_advantages_are_those_of_the_batch(tmp_path, recipe, whole):
    run = rl.train(recipe(tmp_path / "control"), [*SMALL, "objective.shuffled=true"], resume=None)
    for mine, theirs in zip(log_of(run)[:1], log_of(whole)[:1], strict=True):
        assert mine["mean_closeness"] == theirs["mean_closeness"]
        assert mine["largest_advantage"] == theirs["largest_advantage"]
        assert mine["gradient_norm"] != theirs["gradient_norm"]


@pytest.mark.parametrize(
    "options",
    [
        ["objective.kind='nft'", "objective.updates_per_rollout=2"],
        ["objective.kind='rwr'"],
        ["rollout.noise='flow-sde'", "rollout.eta=0.7", "objective.logprob_variance='2std2'"],
        ["trained='lora'", "lora.rank=2"],
    ],
    ids=["nft", "rwr", "flow-sde", "lora"],
)
def test_other_ways_to_learn(tmp_path, recipe, toy, options):
    run = rl.train(recipe(tmp_path / "other", num_updates=2), [*SMALL, *options], resume=None)
    assert all(row["loss"] == row["loss"] and row["num_passes"] for row in log_of(run))
    assert weights_of(run).keys() == load_file(toy / "model.safetensors").keys()
    assert changed(run, toy) and load(run / "model").spec.name == "toy-rl"


def test_the_gradient_is_held_against_its_noise(tmp_path, recipe, whole):
    options = [*SMALL, *FULL, "watch.gradient_noise=true", "run.num_updates=1"]
    run = rl.train(recipe(tmp_path / "noise"), options, resume=None)
    [row] = log_of(run)
    assert row["gradient_over_noise"] > 0 and row["loss"] == log_of(whole)[0]["loss"]


def test_halves_that_agree_stand_out_from_those_that_do_not():
    model = torch.nn.Linear(2, 1, bias=False)
    for second, expected in (([2.0, 0.0], 3.0), ([0.0, 1.0], 1.0), ([-1.0, 0.0], 0.0)):
        halves = Halves(model)
        model.weight.grad = torch.tensor([[1.0, 0.0]])
        halves.turn()
        model.weight.grad = model.weight.grad + torch.tensor([second])
        assert halves.figures() == {"gradient_over_noise": pytest.approx(expected)}


def test_a_standstill_raises_its_alarm(tmp_path, recipe, monkeypatch):
    table = PartTable("measure", {**rl.MEASURES.builtins, "motion_px": "fake_measures:falling"})
    monkeypatch.setattr(rl, "MEASURES", table)
    run = rl.train(recipe(tmp_path / "still"), SMALL, resume=None)
    alarms = log_of(run, "alarm")
    assert alarms and {row["alarm"] for row in alarms} >= {"static_collapse"}
    fake_measures.falling.calls = 0
    with pytest.raises(TrainingError, match="alarm static_collapse at update"):
        rl.train(recipe(tmp_path / "stop"), [*SMALL, "watch.stop_on_alarm=true"], resume=None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.window.width=4", "window: width 4 within evaluations 0 to 2 of 4"),
        ("rollout.shared_noise=false", "sharing.prefix and sharing.window must be off"),
        ("rollout.sharing.prefix=false", "sharing.window needs sharing.prefix"),
        ("objective.updates_per_rollout=3", "must be a multiple of updates_per_rollout 3"),
        (
            "reward.terms=[{scorers=['closness']}]",
            "measure: no 'closness'; did you mean 'closeness'?",
        ),
        ("watch.held_out_scorers=['closeness']", "closeness is in the reward"),
        ("reward.terms=[{scorers=['jitter']}]", "reward.terms: 'jitter' is a monitor"),
        ("parallel.sequence=2", "parallel.sequence 2: got 1 processes"),
        ("rollout.eta=1.5", "rollout.eta 1.5: cps allows at most 1"),
        ("rollout.eta=0", "eta"),
        ("prompts.manifest=a.jsonl", "either manifest or at least one of world and grid"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        rl.train(recipe(tmp_path / "wrong"), [*SMALL, override], resume=None)


def test_a_foreign_checkpoint_is_refused(tmp_path, recipe, whole):
    with pytest.raises(CheckpointError, match="is not a checkpoint of this recipe"):
        rl.train(recipe(tmp_path / "foreign"), [*SMALL, "trained='all'"], resume=str(whole))


def test_the_papers_values():
    paper = load_recipe(RECIPES_DIR / "rl-paper.toml", rl.RlRecipe)
    rollout, optimizer = paper.rollout, paper.optimizer
    assert (rollout.evaluations, rollout.eta, rollout.window.width) == (15, 0.5, 1)
    assert (rollout.group_size, rollout.group_size * rollout.num_groups) == (4, 128)
    assert (optimizer.learning_rate, optimizer.betas, paper.run.num_updates) == (
        1e-5,
        (0.9, 0.95),
        400,
    )
    assert paper.objective.ratio_epsilon == 1e-3
    assert [term.weight for term in paper.reward.terms] == [1.0, 0.2, 0.2]


RECIPES = [
    RECIPES_DIR / "rl-paper.toml",
    *RECIPES_DIR.glob("*-rl.toml"),
    *RECIPES_DIR.glob("ablation-*.toml"),
]
RECIPES = [path for path in RECIPES if not path.name.startswith("reproduce")]


@pytest.mark.parametrize("path", sorted(RECIPES), ids=lambda path: path.name)
def test_recipes_load(path):
    loaded = load_recipe(path, rl.RlRecipe)
    assert len(loaded.rollout.window.starts(loaded.rollout.evaluations)) > 0
