"""Shortcuts of sampling: what they leave out is counted, what they change is bounded, and switched
off they change nothing.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_mot import CONFIG, GRID, clip
from torch.testing import assert_close

from flowportrait import batch, cli, media
from flowportrait.errors import ConfigError
from flowportrait.generate import load
from flowportrait.model.blocks import Layer
from flowportrait.model.compiled import compile_layers
from flowportrait.model.mot import MoT
from flowportrait.registry import SAMPLES_DIR

EVALUATIONS = 15


@pytest.fixture(scope="module")
def pipeline():
    return load("tiny", device="cpu")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A file with a second of speech."""
    sound = media.read_audio(SAMPLES_DIR / "speech.wav")
    path = tmp_path_factory.mktemp("second") / "speech.mp4"
    frames = torch.zeros(24, 16, 16, 3, dtype=torch.uint8).numpy()
    media.write_video(path, frames, 24, sound.samples[: sound.sample_rate], sound.sample_rate, {})
    return path


@pytest.fixture(scope="module")
def plain(pipeline, second):
    return made(pipeline, second)


def made(pipeline, second, evaluations=EVALUATIONS, **options):
    return pipeline.generate(
        SAMPLES_DIR / "portrait.png", second, evaluations=evaluations, **options
    )


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_a_cache_that_is_off_or_never_used_changes_no_bit(pipeline, second, plain):
    assert plain.evaluations_saved == 0 and not plain.warnings
    for threshold in (0.0, 1e-9):
        result = made(pipeline, second, step_cache=threshold)
        assert torch.equal(result.latents, plain.latents) and result.evaluations_saved == 0
    assert "none of the evaluations saved; a higher threshold" in result.warnings[-1]


def test_a_higher_threshold_saves_more_and_the_change_is_bounded(pipeline, second, plain):
    saved, errors = [0], [0.0]
    for threshold in (0.02, 0.05, 0.15):
        result = made(pipeline, second, step_cache=threshold)
        saved.append(result.evaluations_saved)
        errors.append(error(result.latents, plain.latents))
        assert errors[-1] < 2 * threshold
    assert saved == sorted(set(saved)) and errors == sorted(set(errors))
    assert saved[-1] < EVALUATIONS


def test_an_evaluation_that_is_saved_costs_one_layer(pipeline, second, monkeypatch):
    calls, real = [], Layer.generate
    monkeypatch.setattr(Layer, "generate", lambda *inputs: calls.append(1) or real(*inputs))
    shot = pipeline.shot(SAMPLES_DIR / "portrait.png", second, evaluations=6, step_cache=0.1)
    calls.clear()
    cache, layers = shot.cache, len(pipeline.model.layers)
    for guidance, branches in ((1.0, 1), (2.0, 2)):
        before, known = len(calls), (cache.evaluations, cache.saved)
        for _ in pipeline.sampled(shot.clip, shot.schedule, guidance, 0, None, cache):
            pass
        asked, saved = cache.evaluations - known[0], cache.saved - known[1]
        assert asked == 6 * branches and 0 < saved < asked
        assert len(calls) - before == asked + (asked - saved) * (layers - 1)


def test_few_evaluations_are_said_to_be_too_few(pipeline, second):
    for threshold in (0.01, 0.3):
        result = made(pipeline, second, evaluations=2, step_cache=threshold)
        assert "2 evaluations a window are too few for it" in result.warnings[-1]


def test_the_command_tells_what_was_saved(second, tmp_path, capsys):
    command = ["generate", str(SAMPLES_DIR / "portrait.png"), str(second), "--json", "-o"]
    out = str(tmp_path / "out.mp4")
    assert cli.run([*command, out, "--evaluations", "8", "--step-cache", "0.1"]) == 0
    said = capsys.readouterr().out.splitlines()
    info = json.loads(said[-1])
    assert info["step_cache"] == 0.1 and info["evaluations_saved"] > 0
    assert f"step cache: {info['evaluations_saved']} of 8 evaluations saved" in said
    for wrong in ("-0.1", "1"):
        assert cli.run([*command, out, "--step-cache", wrong]) == 2
        assert f"--step-cache: got {float(wrong)}; give a share" in capsys.readouterr().err


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_what_is_no_threshold(pipeline, second, threshold):
    with pytest.raises(ConfigError, match="step_cache: got"):
        made(pipeline, second, step_cache=threshold)


def test_a_video_made_otherwise_is_not_taken_for_this_one(plain):
    """`generate DATASET` keeps what is there only where threshold and weights are the same."""
    info = batch.info_of(plain, "", "", "a.mp4", 0.0)
    settings = batch.MakerSettings(
        evaluations=EVALUATIONS, crop="auto", frame=info.frame, size=info.size
    )
    maker = batch.Maker("tiny", {}, Path(), settings)
    own = {"model_sha256": maker.model_digest}
    assert maker.fits(info.model_copy(update=own))
    for other in ({"step_cache": 0.1}, {"quantize": "int8"}):
        assert not maker.fits(info.model_copy(update=own | other))


# ------------------------------------------------------------------------------------------------
# compiled


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """What other tests, or runs that were killed, have compiled is not there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()


def drawn():
    torch.manual_seed(0)
    model = MoT(CONFIG).requires_grad_(False)
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1)
    return model


@torch.inference_mode()
def velocities(model):
    """Of clips of three lengths."""
    audio, image, zt, t = clip(1)
    for count in (1, 2, 3):
        grid = replace(GRID, latent_frames=count)
        heard = audio[:, : grid.num_frames]
        condition = model.condition(heard, image, grid)
        yield model.velocity(zt[:, :, :count], t[:, :count], condition, grid)


def test_compiled_layers_give_the_same_to_the_last_bits(fresh):
    """By one graph for all lengths from two latent frames on, and all layers."""
    model = drawn()
    expected = list(velocities(model))
    compile_layers(model)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = list(velocities(model))
    for got, wanted in zip(found, expected, strict=True):
        assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 2


def test_without_a_compiler_it_is_one_line(fresh):
    model = drawn()
    compile_layers(model)
    nowhere = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-g++")})
    with nowhere, pytest.raises(ConfigError) as refused:
        next(velocities(model))
    assert "--compile: torch cannot compile here (" in str(refused.value)
    assert "\n" not in str(refused.value)
