"""Supervised fine-tuning at toy size: any number of processes makes the same updates, killed
anywhere, and resumes.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from encoded_toy import POISONED, poison, save_encoded
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.testing._internal.distributed.fake_pg import FakeStore
from toy_pipeline import save_toy, use_fake_parts

from flowportrait import precision
from flowportrait.config import load_recipe
from flowportrait.errors import ConfigError, DataError, TrainingError
from flowportrait.generate import load
from flowportrait.model.blocks import GEN, MoTConfig
from flowportrait.model.lora import LoraConfig
from flowportrait.model.mot import MoT
from flowportrait.registry import RECIPES_DIR
from flowportrait.train import sft, step
from flowportrait.train.parallel import Ranks, shard, whole_weights
from flowportrait.train.trainable import as_stored, choose_trained, halve_frozen

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("sft_process.py")
SMALL = [
    "data.row_tokens=150", "data.num_rows=4", "data.max_latent_frames=7",
    "optimizer.learning_rate=0.01", "optimizer.warmup_updates=0", "optimizer.ema_decay=0.5",
    "run.log_every=1", "run.checkpoint_every=1", "run.sample_every=2", "save_dtype=float32",
    "num_held_out=2",
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
def clips(tmp_path_factory, toy):
    return save_encoded(tmp_path_factory.mktemp("encoded") / "clips", toy)


@pytest.fixture(scope="module")
def recipe(toy, clips):
    """A function that writes the recipe of a run into its own directory."""

    def write(directory, num_updates=4):
        path = directory.with_suffix(".toml")
        path.write_text(
            f'start_from = "{toy}"\n[run]\ndirectory = "{directory}"\nnum_updates = {num_updates}\n'
            f'[data]\nencoded = ["{clips}"]\n'
        )
        return path

    return write


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe):
    """An uninterrupted run of one process in which update 1 is broken."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch.setattr)
        return sft.train(recipe(tmp_path_factory.mktemp("runs") / "whole"), SMALL, resume=None)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def updates_of(run):
    """The lines of updates; one that was killed and made again has two."""
    return [row for row in log_of(run) if "event" not in row]


def weights_of(run):
    return load_file(run / "model" / "model.safetensors")


def launch(count, where, path, *options):
    """The exit codes of the ranks of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(PROCESS), str(count), where, str(path), *SMALL, *options]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=-1, stderr=-3, timeout=900, check=True
    )
    return json.loads(ran.stdout.splitlines()[-1])


def killed(codes):
    """Whether a rank died by the signal and no other came to the end: some find out by a broken
    connection.
    """
    return -9 in codes and 0 not in codes


def test_four_two_and_one_process_make_one_run_however_they_end(tmp_path, recipe, whole):
    """Four (two groups that share rows; two copies of the weights) die in an update, two (who share
    rows) in writing a checkpoint; one goes on to the end. It is the run of one process that nothing
    happened to.
    """
    path, directory = recipe(tmp_path / "mixed"), tmp_path / "mixed"
    assert killed(launch(4, "update", path, "parallel.sequence=2", "parallel.shard=2"))
    kept = {"checkpoint-0000001", "checkpoint-0000002"}
    assert {p.name for p in directory.glob("checkpoint*")} == kept
    assert killed(launch(2, "checkpoint", path, "parallel.sequence=2"))
    assert {p.name for p in directory.glob("checkpoint*")} == {*kept, "checkpoint.part"}
    with pytest.MonkeyPatch.context() as patch:
        poison(patch.setattr)
        assert sft.train(path, SMALL, resume="auto") == directory
    mine, theirs = updates_of(directory), {row["update"]: row for row in updates_of(whole)}
    assert [row["update"] for row in mine] == [1, 2, 3, 3, 4]  # by four, four, two, one and one
    for row in mine:
        for name in (
            () if row["update"] == 2 else ("loss", "clips", "gradient_norm", "rate")
        ):  # 2 was skipped
            assert row[name] == pytest.approx(theirs[row["update"]][name], rel=1e-4)
    assert_close(
        weights_of(directory), weights_of(whole), rtol=1e-3, atol=1e-4
    )  # a rate of 0.01, three times
    held_out = (
        [row["held_out_loss"] for row in log_of(run) if row.get("event") == "sample"]
        for run in (directory, whole)
    )
    assert next(held_out) == pytest.approx(next(held_out), rel=1e-4)


@pytest.mark.parametrize("beside", [False, True])
def test_sigterm_costs_nothing(tmp_path, recipe, whole, beside):
    """One of two ranks is asked; both finish the update, write a checkpoint and leave with 0. Its
    damage is named then, and the run goes on from the one before it, to the same end.
    """
    path, directory = recipe(tmp_path / "asked"), tmp_path / "asked"
    options = [f"run.checkpoint_beside={str(beside).lower()}"]
    assert launch(2, "sigterm", path, *options) == [0, 0]
    assert log_of(directory)[-1]["event"] == "stopped" and log_of(directory)[-1]["update"] == 3
    shard = directory / "checkpoint-0000003" / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 :][:64] = bytes(64)
    shard.write_bytes(content[:-64] + bytes(64))
    with pytest.MonkeyPatch.context() as patch:
        poison(patch.setattr)
        sft.train(path, [*SMALL, *options], resume="auto")
    broken = next(row for row in log_of(directory) if row.get("event") == "broken_checkpoint")
    assert (broken["checkpoint"], broken["taken"]) == ("checkpoint-0000003", "checkpoint-0000002")
    assert broken["problem"].startswith("__1_0.distcp is not what was written")
    assert [row["update"] for row in updates_of(directory)] == [1, 2, 3, 3, 4]
    assert_close(weights_of(directory), weights_of(whole), rtol=1e-3, atol=1e-4)


def test_a_broken_update_is_skipped_and_its_clip_named(whole, tmp_path, recipe):
    skipped = [row for row in log_of(whole) if row.get("event") == "skipped"]
    assert [(row["update"], row["reason"], row["clips"]) for row in skipped] == [
        (1, "loss is not finite", [POISONED])
    ]
    assert all(torch.isfinite(value).all() for value in weights_of(whole).values())


def test_a_run_without_finite_gradients_stops(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(step, "MAX_SKIPPED", 2)
    path = recipe(tmp_path / "broken")
    with pytest.raises(TrainingError, match="2 updates in a row had no finite gradient"):
        sft.train(path, [*SMALL, "time_shift=inf"], resume=None)


@pytest.mark.parametrize("trained", ["full", "generation", "lora"])
def test_what_learns_and_that_the_result_generates(tmp_path, recipe, toy, trained):
    options = [
        *SMALL,
        f"trained={trained}",
        "lora.rank=2",
        "optimizer.ema_decay=0",
        "run.num_updates=2",
    ]
    run = sft.train(recipe(tmp_path / trained), options, resume=None)
    before, after = load_file(toy / "model.safetensors"), weights_of(run)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"llm2vae.weight", "audio_connector.fc1.weight"} <= changed
    expert = {name for name in changed if "language_model" in name and GEN not in name}
    assert bool(expert) == ("connector.fc1.weight" in changed) == (trained == "full")
    assert any("norm" in name for name in changed if GEN in name) == (trained != "lora")
    assert "language_model.model.layers.0.mlp_moe_gen.up_proj.weight" in changed
    assert load(run / "model").spec.name == "toy-sft"


def test_a_lora_run_resumes_without_its_frozen_weights(tmp_path, recipe):
    options = [*SMALL, "trained=lora", "lora.rank=2"]
    path = recipe(tmp_path / "lora")
    sft.train(path, [*options, "run.num_updates=2"], resume=None)
    resumed = sft.train(path, options, resume="auto")
    straight = sft.train(recipe(tmp_path / "straight"), options, resume=None)
    assert_close(weights_of(resumed), weights_of(straight), rtol=0, atol=0)
    stored = sum(p.stat().st_size for p in resumed.glob("checkpoint-0000004/*.distcp"))
    full = sum(
        p.stat().st_size
        for p in sft.train(
            recipe(tmp_path / "full"), [*SMALL, "run.num_updates=1"], resume=None
        ).glob("checkpoint-*/*.distcp")
    )
    assert stored < full


def test_frozen_weights_lose_nothing(toy, monkeypatch):
    """What bf16 products run in is rounded while a run lasts, and not in the model that it writes;
    times are never rounded.
    """
    stored = load_file(toy / "model.safetensors")
    monkeypatch.setattr(precision, "fast_bf16", lambda device: True)
    model = load(toy).model
    choose_trained(model, "generation", LoraConfig())
    halve_frozen(model, "cpu")
    assert model.time_embedder.mlp[0].weight.dtype == torch.float32
    weights = whole_weights(model)
    rounded = [name for name in stored if not torch.equal(weights[name].float(), stored[name])]
    assert rounded and not any(GEN in name for name in rounded)
    for name, value in as_stored(weights, toy).items():
        assert_close(value, stored[name], rtol=0, atol=0)


@pytest.mark.parametrize("trained, learning", [("full", 12.87e9), ("lora", 193e6)])
def test_bagel_7b_spreads_over_64_processes(trained, learning, monkeypatch):
    """Shapes alone, with a process group that does nothing: what the first of 64 ranks would
    hold.
    """
    monkeypatch.setattr(precision, "fast_bf16", lambda device: True)
    dist.init_process_group("fake", rank=0, world_size=64, store=FakeStore())
    try:
        with torch.device("meta"):
            model = MoT(MoTConfig())
        choose_trained(model, trained, LoraConfig())
        halve_frozen(model, "cuda:0")
        shard(model, Ranks(0, 64))
        weights = [(p.requires_grad, p.numel(), p.to_local()) for p in model.parameters()]
    finally:
        dist.destroy_process_group()
    assert sum(own.numel() for learns, _, own in weights if learns) == pytest.approx(
        learning / 64, rel=0.01
    )
    frozen = [(whole, own) for learns, whole, own in weights if not learns]
    own_bytes = sum(own.numel() * own.element_size() for _, own in frozen)
    assert own_bytes == pytest.approx(2 * sum(whole for whole, _ in frozen) / 64, rel=0.01)  # bf16


def test_what_does_not_fit_is_refused(tmp_path, recipe, clips):
    path = recipe(tmp_path / "a")
    with pytest.raises(ConfigError, match="data.row_tokens 30: a clip of 7 latent frames has"):
        sft.train(path, [*SMALL, "data.row_tokens=30"], resume=None)
    with pytest.raises(
        DataError, match="encoded.jsonl; give a dataset that `flowportrait encode` has finished"
    ):
        sft.train(path, [*SMALL, f"data.encoded=['{tmp_path}']"], resume=None)
    with pytest.raises(DataError, match="encode the clips with this model"):
        sft.train(path, [*SMALL, "start_from=tiny"], resume=None)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU, there are 1; NC"):
        Ranks.join("cuda")


def test_the_paper_recipe():
    recipe = load_recipe(RECIPES_DIR / "sft-paper.toml", sft.SftRecipe)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.betas) == (5e-5, (0.9, 0.95))
    assert (recipe.run.num_updates, recipe.data.row_tokens, recipe.sampling.evaluations) == (
        300_000,
        89_600,
        25,
    )
    assert recipe.optimizer.rate_at(10**6, 300_000) == 5e-5
