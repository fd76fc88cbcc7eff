"""The whole way from portrait and recording to a video, with a small random model and fake
parts.
"""

import json

import numpy as np
import pytest
import torch

from flowportrait import media, registry
from flowportrait.errors import CheckpointError, ConfigError, DataError
from flowportrait.generate import Window, load, plan_windows
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.mot import MoT
from flowportrait.modeldir import ModelSpec, SamplingConfig, build_part, save_model
from flowportrait.registry import PartTable

SIZE_PX = 32
RATE_HZ = 16_000
SAMPLING = SamplingConfig(evaluations=2, shift=3.0, window_latent_frames=5, prefix_latent_frames=2)
MODEL = MoTConfig(
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    mlp_size=24,
    vocab_size=0,
    rope_theta=100.0,
    positions_per_second=24.0,
    latent_channels=4,
    latent_side=2,
    audio_dim=2,
    image_dim=3,
    image_side=2,
)
SPEC = ModelSpec(
    name="fake",
    model=MODEL,
    codec={"type": "fake"},
    audio_encoder={"type": "fake"},
    image_encoder={"type": "fake"},
    sampling=SAMPLING,
    size_px=SIZE_PX,
)


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    for name, kind, part in [
        ("CODECS", "codec", "FakeCodec"),
        ("AUDIO_ENCODERS", "audio encoder", "FakeAudioEncoder"),
        ("IMAGE_ENCODERS", "image encoder", "FakeImageEncoder"),
    ]:
        monkeypatch.setattr(registry, name, PartTable(kind, {"fake": f"fake_parts:{part}"}))


@pytest.fixture
def directory(tmp_path):
    torch.manual_seed(0)
    model = MoT(MODEL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    parts = {
        "model": model,
        "codec": build_part(registry.CODECS, SPEC.codec),
        "audio_encoder": build_part(registry.AUDIO_ENCODERS, SPEC.audio_encoder),
        "image_encoder": build_part(registry.IMAGE_ENCODERS, SPEC.image_encoder),
    }
    save_model(tmp_path / "fake", SPEC, parts)
    return tmp_path / "fake"


@pytest.fixture
def pipeline(directory):
    return load(directory, device="cpu")


def portrait() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def speech(seconds: float, channels: int = 1) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (round(seconds * RATE_HZ), channels))
    return samples[:, 0] if channels == 1 else samples, RATE_HZ


def make(pipeline, seconds=1.0, **options):
    return pipeline.generate(portrait(), speech(seconds), crop="none", **options)


def test_one_window_when_it_fits():
    assert plan_windows(5, longest=5, prefix=2) == [Window(0, 5, 0)]
    assert plan_windows(1, longest=5, prefix=2) == [Window(0, 1, 0)]


@pytest.mark.parametrize("total", range(1, 60))
@pytest.mark.parametrize(("longest", "prefix"), [(5, 2), (16, 2), (4, 1), (3, 2)])
def test_windows_cover_and_overlap(total, longest, prefix):
    windows = plan_windows(total, longest, prefix)
    assert windows[0].start == 0 and windows[-1].stop == total
    assert all(window.stop - window.start <= longest for window in windows)
    for before, after in zip(windows, windows[1:], strict=False):
        assert (after.start, after.prefix) == (
            before.stop - prefix,
            prefix,
        ) and after.stop > before.stop
    sizes = [window.stop - window.start for window in windows]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seconds", [0.5, 0.51, 1.0, 1.3, 20.0])
def test_length_rule(pipeline, seconds):
    result = make(pipeline, seconds, evaluations=1)
    assert result.num_frames == len(result.frames) == round(seconds * 24)
    assert result.frames.dtype == np.uint8 and result.frames.shape[1:] == (SIZE_PX, SIZE_PX, 3)
    assert result.video_s == pytest.approx(seconds, abs=0.5 / 24)


def test_same_seed_same_bytes(pipeline):
    one, again, other = (make(pipeline, 3.0, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one.latents, again.latents) and np.array_equal(one.frames, again.frames)
    assert not torch.equal(one.latents, other.latents)


def test_saved_file_is_the_same_for_the_same_seed(pipeline, tmp_path):
    files = [make(pipeline, 1.0, seed=3).save(tmp_path / f"{index}.mp4") for index in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sum(1 for _ in media.read_frames(files[0])) == 24


def test_windows_continue_from_clean_latent_frames(pipeline, monkeypatch):
    """The prefix enters each window at t = 0 and leaves it unchanged."""
    seen = []
    velocity = pipeline.model.velocity

    def watching(zt, t, condition, grid, *how):
        seen.append((zt.clone(), t.clone(), grid.opening))
        return velocity(zt, t, condition, grid, *how)

    monkeypatch.setattr(pipeline.model, "velocity", watching)
    result = make(pipeline, 2.0)
    windows = plan_windows(result.latents.shape[2], 5, 2)
    assert len(windows) > 2 and len(seen) == 2 * len(windows)
    for index, (zt, t, opening) in enumerate(seen):
        window = windows[index // 2]
        assert opening == (window.start == 0)
        assert (t[:, : window.prefix] == 0).all() and (t[:, window.prefix :] > 0).all()
        known = result.latents[:, :, window.start : window.start + window.prefix]
        assert torch.equal(zt[:, :, : window.prefix], known)


def test_each_window_hears_its_own_time(pipeline, monkeypatch):
    heard = []
    condition = pipeline.model.condition

    def watching(audio, image, grid):
        heard.append(audio)
        return condition(audio, image, grid)

    monkeypatch.setattr(pipeline.model, "condition", watching)
    result = make(pipeline, 2.0, evaluations=1)
    total = result.latents.shape[2]
    samples = torch.from_numpy(speech(2.0)[0]).float()[None]
    whole = pipeline.audio_encoder(samples, 1 + 4 * (total - 1))
    for window, audio in zip(plan_windows(total, 5, 2), heard, strict=True):
        first = 0 if window.start == 0 else 4 * window.start - 3
        assert torch.equal(audio, whole[:, first : 4 * window.stop - 3])


def test_audio_is_encoded_once(pipeline):
    make(pipeline, 5.0, evaluations=1)
    assert pipeline.audio_encoder.calls == 1


def test_streamed_frames_equal_one_decoding(pipeline):
    result = make(pipeline, 3.0)
    (block,) = pipeline.codec.decode_stream([result.latents], result.shot.clip.context)
    whole = ((block[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert np.array_equal(result.frames, whole.permute(1, 2, 3, 0).numpy()[: result.num_frames])


@pytest.mark.parametrize(("guidance", "calls_per_evaluation"), [(1.0, 1), (2.0, 2)])
def test_guidance_doubles_the_calls(pipeline, monkeypatch, guidance, calls_per_evaluation):
    calls = []
    velocity = pipeline.model.velocity
    monkeypatch.setattr(pipeline.model, "velocity", lambda *a: calls.append(1) or velocity(*a))
    result = make(pipeline, 0.5, guidance=guidance, evaluations=3)
    assert len(calls) == 3 * calls_per_evaluation * len(plan_windows(result.latents.shape[2], 5, 2))
    assert result.evaluations == 3


def test_progress_counts_to_the_end(pipeline):
    told = []
    make(pipeline, 2.0, progress=lambda done, total: told.append((done, total)))
    assert told == [(index + 1, len(told)) for index in range(len(told))]


def test_stereo_is_heard_as_its_mean_and_kept_in_the_file(pipeline, tmp_path):
    stereo = speech(1.0, channels=2)
    result = pipeline.generate(portrait(), stereo, crop="none")
    mono = pipeline.generate(portrait(), (stereo[0].mean(axis=1), RATE_HZ), crop="none")
    assert torch.allclose(result.latents, mono.latents, atol=1e-4)
    path = result.save(tmp_path / "stereo.mp4")
    assert media.read_audio(path, mono=False).samples.shape[1] == 2


@pytest.mark.parametrize(
    "samples", [np.zeros(16_000, np.int16), np.full(16_000, np.nan), np.zeros((2, 2, 2))]
)
def test_unusable_sound(pipeline, samples):
    with pytest.raises(DataError, match="audio: got .* give finite floats"):
        pipeline.generate(portrait(), (samples, RATE_HZ), crop="none")


def test_too_short_sound(pipeline):
    with pytest.raises(DataError, match="0.25 s of sound; give at least 0.5 s"):
        pipeline.generate(portrait(), speech(0.25), crop="none")


def test_unusable_portrait(pipeline):
    with pytest.raises(DataError, match="portrait: got float64"):
        pipeline.generate(np.zeros((8, 8, 3)), speech(1.0), crop="none")


def test_no_evaluations(pipeline):
    with pytest.raises(ConfigError, match="evaluations: got 0"):
        make(pipeline, evaluations=0)


def test_half_precision_files_load(directory, pipeline):
    parts = {
        name: getattr(pipeline, name)
        for name in ("model", "codec", "audio_encoder", "image_encoder")
    }
    save_model(directory, SPEC, parts, dtype=torch.float16)
    again = load(directory, device="cpu")
    weights = again.model.vae2llm.weight
    assert weights.dtype == torch.float32
    assert torch.equal(weights, pipeline.model.vae2llm.weight.half().float())


def test_a_part_without_weights_has_no_file(directory):
    assert not (directory / "image_encoder.safetensors").exists()
    assert {"model.safetensors", "codec.safetensors"} <= {path.name for path in directory.iterdir()}


def rewrite(directory, change):
    path = directory / "config.json"
    values = json.loads(path.read_text())
    change(values)
    values["sha256"].pop("config.json", None)  # changed on purpose
    path.write_text(json.dumps(values))


def test_absent_weights(directory):
    (directory / "codec.safetensors").unlink()
    with pytest.raises(CheckpointError, match="codec.safetensors: missing"):
        load(directory, device="cpu")


def test_damaged_weights(directory):
    path = directory / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="sha256"):
        load(directory, device="cpu")


def test_weights_that_are_no_weights(directory):
    (directory / "model.safetensors").write_bytes(b"hello")
    rewrite(directory, lambda values: values["sha256"].clear())
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load(directory, device="cpu")


def test_weights_of_another_size(directory):
    rewrite(directory, lambda values: values["model"].update(mlp_size=32))
    with pytest.raises(
        CheckpointError, match=r"gate_proj.weight' is \[24, 16\] where \[32, 16\] is needed"
    ):
        load(directory, device="cpu")


def test_configuration_of_another_schema(directory):
    rewrite(directory, lambda values: values.update(schema_version=99))
    with pytest.raises(CheckpointError, match="schema_version"):
        load(directory, device="cpu")


def test_unknown_part(directory):
    rewrite(directory, lambda values: values["codec"].update(type="fak"))
    with pytest.raises(ConfigError, match="did you mean 'fake'"):
        load(directory, device="cpu")


def test_unknown_device(directory):
    with pytest.raises(ConfigError, match="device: got 'tpu'; usable here: auto, cpu"):
        load(directory, device="tpu")


def test_prefix_must_leave_room():
    with pytest.raises(ValueError, match="must be smaller than window_latent_frames 4"):
        SamplingConfig(window_latent_frames=4, prefix_latent_frames=4)


def test_a_mixture_lies_between_two_models(directory, tmp_path):
    """At 0 and 1 it is one and the other; in the middle every weight is."""
    names, pipeline = ("model", "codec", "audio_encoder", "image_encoder"), load(directory, "cpu")
    parts = {name: getattr(pipeline, name) for name in names}
    with torch.no_grad():
        for p in parts["model"].parameters():
            p.add_(0.1)
    save_model(tmp_path / "tuned", SPEC.model_copy(update={"name": "tuned"}), parts)
    mixed = {
        share: load(directory, "cpu", toward=tmp_path / "tuned", share=share)
        for share in (0.0, 0.25, 1.0)
    }
    for share, pipeline in mixed.items():
        for weight, found in zip(
            load(directory, "cpu").model.parameters(), pipeline.model.parameters(), strict=True
        ):
            torch.testing.assert_close(found - weight, torch.full_like(weight, 0.1 * share))
    assert mixed[0.25].spec.name == "fake 0.75 + tuned 0.25"
    with pytest.raises(ConfigError, match="share: got 1.5"):
        load(directory, "cpu", toward=tmp_path / "tuned", share=1.5)


def test_a_mixture_of_unlike_models_is_refused(directory, tmp_path):
    pipeline = load(directory, "cpu")
    spec = SPEC.model_copy(update={"model": MODEL.model_copy(update={"mlp_size": 32})})
    parts = {name: getattr(pipeline, name) for name in ("codec", "audio_encoder", "image_encoder")}
    save_model(tmp_path / "wide", spec, {"model": MoT(spec.model), **parts})
    with pytest.raises(
        ConfigError, match="toward: fake 'language_model.*give a model tuned from fake"
    ):
        load(directory, "cpu", toward=tmp_path / "wide")
