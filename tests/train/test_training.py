"""Whole runs at toy scale: both stages train, stop, continue exactly, and the result generates a
video.
"""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowportrait.config import load_recipe
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.registry import RECIPES_DIR
from flowportrait.train.run import OptimizerConfig
from flowportrait.train.tiny import codec, hearing, scratch
from flowportrait.train.tiny.scratch import ScratchRecipe

TINY_CODEC = [
    "codec.width=32", "codec.num_heads=2", "codec.portrait_depth=1", "codec.decoder_depth=1",
    "codec.landmarker_widths=[8,8,16]", "codec.control=32", "codec.size_px=64", "num_clips=2",
    "fit_groups=50",
    "run.log_every=1", "run.checkpoint_every=2", "run.sample_every=2",
    "optimizer.decay_from=2.0",  # a rate that does not depend on the number of updates
]  # fmt: skip
TINY_SFT = [
    "model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.num_kv_heads=1",
    "model.mlp_size=32", "model.vocab_size=0", "model.latent_side=4", "model.image_side=4",
    "model.audio_dim=16", "model.image_dim=184", "model.local_heads=1", "audio_encoder.width=16",
    "hearing.num_updates=2", "hearing.num_clips=2", "num_clips=2", "crop_latent_frames=4",
    "copies.world=1", "run.log_every=1", "run.checkpoint_every=2", "run.sample_every=2",
    "sampling.window_latent_frames=4", "sampling.evaluations=2", "optimizer.decay_from=2.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, small_world):
    """A function that writes a recipe for a stage into its own directory."""
    cache = tmp_path_factory.mktemp("cache")

    def write(directory, **lines):
        path = directory.with_suffix(".toml")
        text = "".join(f"{name} = {json.dumps(str(value))}\n" for name, value in lines.items())
        path.write_text(
            f'{text}[run]\ndirectory = "{directory}"\nnum_updates = 4\n'
            f'[data]\nworld = "{small_world}"\ncache = "{cache}"\n'
        )
        return path

    return write


@pytest.fixture(scope="module")
def codec_run(tmp_path_factory, recipe):
    directory = tmp_path_factory.mktemp("runs") / "codec"
    return codec.train(recipe(directory), TINY_CODEC, resume=None)


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory, recipe, codec_run):
    directory = tmp_path_factory.mktemp("runs") / "sft"
    return scratch.train(recipe(directory, codec=codec_run), TINY_SFT, resume=None)


def log_of(run, event=None):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row.get("event") == event]


def same_weights(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_codec_run_continues_with_the_update_it_would_have_made(
    tmp_path, recipe, codec_run
):
    path = recipe(tmp_path / "codec")
    codec.train(path, [*TINY_CODEC, "run.num_updates=2"], resume=None)
    resumed = codec.train(path, TINY_CODEC, resume="auto")
    assert same_weights(
        load_file(resumed / "codec.safetensors"), load_file(codec_run / "codec.safetensors")
    )
    assert [row["loss"] for row in log_of(resumed)] == [row["loss"] for row in log_of(codec_run)]


def test_a_stopped_sft_run_continues_with_the_update_it_would_have_made(
    tmp_path, recipe, codec_run, sft_run
):
    path = recipe(tmp_path / "sft", codec=codec_run)
    scratch.train(path, [*TINY_SFT, "run.num_updates=2"], resume=None)
    resumed = scratch.train(path, TINY_SFT, resume="auto")
    weights = "model/model.safetensors"
    assert same_weights(load_file(resumed / weights), load_file(sft_run / weights))
    assert [row["flow"] for row in log_of(resumed)] == [row["flow"] for row in log_of(sft_run)]


def test_asked_to_end_while_it_learns_to_hear_it_goes_on_from_there(
    tmp_path, recipe, codec_run, sft_run, monkeypatch
):
    path, listened = recipe(tmp_path / "sft", codec=codec_run), hearing._named_shapes
    before = signal.getsignal(signal.SIGTERM)

    def terminated(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return listened(*arguments)

    monkeypatch.setattr(hearing, "_named_shapes", terminated)
    run = scratch.train(path, TINY_SFT, resume=None)
    assert [row["update"] for row in log_of(run / "hearing", "stopped")] == [1]
    assert not (run / "model").exists() and not (run / "log.jsonl").exists()
    monkeypatch.setattr(hearing, "_named_shapes", listened)
    assert scratch.train(path, TINY_SFT, resume="auto") == run
    weights = "model/model.safetensors"
    assert same_weights(load_file(run / weights), load_file(sft_run / weights))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_trained_model_directory_generates(sft_run):
    from flowportrait.generate import load

    portrait = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    hum = np.sin(np.arange(24_000) / 16_000 * 900).astype(np.float32)
    result = load(sft_run / "model").generate(portrait, (hum, 16_000), crop="none")
    assert result.frames.shape == (36, 64, 64, 3)
    assert sorted(path.name for path in sft_run.glob("*.mp4")) == [
        "sample_000002_world.mp4",
        "sample_000004_world.mp4",
    ]


def test_the_codec_keeps_what_it_encodes_after_a_few_updates_more_than_before(codec_run):
    """The log carries held-out figures, and copying the portrait is among them for comparison."""
    samples = log_of(codec_run, "sample")
    assert [row["update"] for row in samples] == [2, 4]
    assert all(
        np.isfinite(row["psnr_held_out"]) and np.isfinite(row["psnr_copying_portrait"])
        for row in samples
    )


def test_resuming_from_elsewhere_and_foreign_checkpoints_are_refused(tmp_path, recipe, codec_run):
    with pytest.raises(ConfigError, match=r"--resume: no checkpoint in"):
        codec.train(recipe(tmp_path / "a"), TINY_CODEC, resume=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="already contains a run; resume it with --resume auto"):
        codec.train(recipe(codec_run), TINY_CODEC, resume=None)
    wider = ["codec.width=64", *TINY_CODEC[1:]]
    with pytest.raises(CheckpointError, match="is not a checkpoint of this recipe"):
        codec.train(recipe(tmp_path / "b"), wider, resume=str(codec_run))
    with pytest.raises(ConfigError, match="contains no config.json"):
        scratch.train(recipe(tmp_path / "c", codec=tmp_path), TINY_SFT)


@pytest.mark.parametrize("trained", ["decoder", "landmarker"])
def test_a_part_trained_on_leaves_the_other_as_it_was(tmp_path, recipe, codec_run, trained):
    path = recipe(tmp_path / trained, start_from=codec_run, trained=trained)
    before = load_file(codec_run / "codec.safetensors")
    after = load_file(codec.train(path, TINY_CODEC, resume=None) / "codec.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert ("landmarker" in changed) == (trained == "landmarker") == ("painter" not in changed)
    assert "motion" not in changed


def test_sft_goes_on_from_a_model_directory(tmp_path, recipe, codec_run, sft_run):
    path = recipe(tmp_path / "more", codec=codec_run, start_from=sft_run / "model")
    more = scratch.train(
        path, [*TINY_SFT, "run.num_updates=2", "optimizer.learning_rate=0.0"], resume=None
    )
    weights = "model/model.safetensors"
    assert same_weights(load_file(more / weights), load_file(sft_run / weights))
    assert not (more / "hearing").exists()


def test_learning_rate_warms_up_holds_and_falls():
    rates = OptimizerConfig(learning_rate=1.0, warmup_updates=10, decay_from=0.5, final_scale=0.1)
    assert rates.rate_at(0, 100) == pytest.approx(0.1)
    assert rates.rate_at(30, 100) == 1.0
    assert rates.rate_at(100, 100) == pytest.approx(0.1)
    assert OptimizerConfig().rate_at(10**6, 10) == 5e-5  # the paper's constant rate


@pytest.mark.parametrize(
    "name, kind",
    [
        ("tiny-codec", codec.CodecRecipe),
        ("tiny-landmarker", codec.CodecRecipe),
        ("tiny-sft", ScratchRecipe),
    ],
)
def test_shipped_recipes_load(name, kind):
    load_recipe(RECIPES_DIR / f"{name}.toml", kind)
