"""Published weights come in, make a video through the same door as `tiny`, and go back to the
bit.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bagel_source
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowportrait import media
from flowportrait.cli import run
from flowportrait.codecs.wan import PUBLISHED_MEAN
from flowportrait.convert import convert_bagel, convert_speech, convert_wan, export
from flowportrait.convert_files import NEW_FILE
from flowportrait.encoders.siglip import SiglipConfig, SiglipEncoder
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.generate import load
from flowportrait.model import bagel
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.mot import MoT
from flowportrait.modeldir import ModelSpec, load_parts, save_spec
from flowportrait.records import ManifestRow, write_jsonl
from flowportrait.weights import (
    Held,
    find_weights,
    read_header,
    save_tensors,
    shapes,
    write_weights,
)

GOLDEN = Path(__file__).parent / "golden"
EXTRA = pytest.mark.skipif(
    not all(
        __import__("importlib.util").util.find_spec(name) for name in ("diffusers", "transformers")
    ),
    reason="the extra 'bagel' is not installed",
)


def published_7b() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the official file."""
    golden = json.loads((GOLDEN / "bagel7b_shapes.json").read_text())
    found = dict(golden["other"]) | golden["vision"]["other"]
    for count, prefix, layer in (
        (golden["num_layers"], "language_model.model.layers", golden["layer"]),
        (
            golden["vision"]["num_layers"],
            "vit_model.vision_model.encoder.layers",
            golden["vision"]["layer"],
        ),
    ):
        for index in range(count):
            found |= {f"{prefix}.{index}.{name}": shape for name, shape in layer.items()}
    assert len(found) == golden["num_tensors"] == 1223
    assert (
        sum(torch.Size(shape).numel() for shape in found.values())
        == golden["num_params"]
        == 14_607_260_128
    )
    return {name: tuple(shape) for name, shape in found.items()}


def test_the_official_file_is_ours_but_for_the_connector_of_speech():
    """Nothing of it is left over, and all that it lacks are four weights, by name."""
    published = published_7b()
    with torch.device("meta"):
        parts = MoT(MoTConfig()), SiglipEncoder(SiglipConfig())
    ours = bagel.join(*(shapes(part.state_dict()) for part in parts))
    assert sorted(ours.keys() - published.keys()) == [
        f"audio_connector.fc{i}.{n}" for i in (1, 2) for n in ("bias", "weight")
    ]
    assert {name: ours[name] for name in published} == published
    assert all(bagel.is_new(name) for name in ours.keys() - published.keys())


def test_sizes_are_told_by_the_official_file():
    """Its shapes and the few numbers of its two config files give exactly the defaults."""
    ours, seen = bagel.split(published_7b())
    assert (
        bagel.generator_sizes(ours, {"rope_theta": 1000000.0, "rms_norm_eps": 1e-06}) == MoTConfig()
    )
    assert (
        SiglipConfig(
            **bagel.vision_sizes(seen, {"num_attention_heads": 16, "num_hidden_layers": 27})
        )
        == SiglipConfig()
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return bagel_source.bagel(tmp_path_factory.mktemp("published") / "BAGEL")


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "small"
    convert_bagel(source, out, size_px=32)
    return out


def test_what_comes_back_is_the_file_that_went_in(source, converted, tmp_path):
    export(converted, tmp_path / "back")
    files = {path.name for path in (tmp_path / "back").iterdir()}
    assert files == {"ema.safetensors", "llm_config.json", "vit_config.json"}
    for name in files:
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()


def shards(source, folder):
    """BAGEL in five files with an index, as published ones lie; any order of names, any
    metadata.
    """
    folder.mkdir()
    for name in ("llm_config.json", "vit_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    weights, places = load_file(source / "ema.safetensors"), {}
    for index in range(5):
        own = dict(list(weights.items())[index::5])
        name = f"model-{index + 1:05d}-of-00005.safetensors"
        places |= dict.fromkeys(own, name)
        save_file(own, folder / name, {"format": "pt", "by": "somebody"})
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=4))
    return folder


def test_shards_come_back_as_shards(source, tmp_path):
    """With their index; a file's own header is kept word for word."""
    folder = shards(source, tmp_path / "shards")
    convert_bagel(folder, tmp_path / "model", size_px=32)
    export(tmp_path / "model", tmp_path / "back")
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in (tmp_path / "back").iterdir()
    }
    for path in folder.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_the_index_counts_what_is_written(source, tmp_path):
    """Trained weights in float32 take twice the bytes."""
    folder = shards(source, tmp_path / "shards")
    spec = convert_bagel(folder, tmp_path / "model", size_px=32)
    model = {
        name: value.float()
        for name, value in load_file(tmp_path / "model" / "model.safetensors").items()
    }
    digest = save_tensors(tmp_path / "model" / "model.safetensors", model)
    save_spec(
        spec.model_copy(update={"sha256": {**spec.sha256, "model.safetensors": digest}}),
        tmp_path / "model",
    )
    export(tmp_path / "model", tmp_path / "back")
    before, after = (
        json.loads((place / "model.safetensors.index.json").read_text())
        for place in (folder, tmp_path / "back")
    )
    sizes = [
        value.numel() * value.element_size()
        for path in (tmp_path / "back").glob("model-*")
        for value in load_file(path).values()
    ]
    assert after["metadata"]["total_size"] == sum(sizes) > before["metadata"]["total_size"]
    assert after["weight_map"] == before["weight_map"]


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_named_as_one(source, tmp_path, indexed):
    folder = shards(source, tmp_path / "shards")
    if not indexed:
        (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00003-of-00005.safetensors").unlink()
    message = (
        r"model-00003-of-00005.safetensors: missing; the weights are 5 files: download all of them"
    )
    with pytest.raises(CheckpointError, match=message):
        convert_bagel(folder, tmp_path / "model", size_px=32)
    with pytest.raises(CheckpointError, match=message):
        find_weights(folder)
    for number in (1, 2, 4, 5):
        path = folder / f"model-{number:05d}-of-00005.safetensors"
        path.rename(folder / f"{number}.safetensors")
    if indexed:
        with pytest.raises(
            CheckpointError,
            match="missing; the weights are the 5 files that model.safetensors.ind",
        ):
            convert_bagel(folder, tmp_path / "model", size_px=32)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (360, "--size: got 360; a multiple of 16: 352 or 368"),
        (132, "--size: got 132; a multiple of 16: 128 or 144"),
        (112, "--size: got 112; the maximum of this model is 96 px"),
    ],
)
def test_a_size_that_no_video_can_have_is_refused(source, tmp_path, size, message, capsys):
    assert (
        run(["convert", "bagel", str(source), "-o", str(tmp_path / "model"), "--size", str(size)])
        == 2
    )
    assert message in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_what_was_put_aside_is_checked_before_it_is_given_back(source, tmp_path):
    convert_bagel(source, tmp_path / "model", size_px=32)
    header = tmp_path / "model" / "bagel" / "ema.safetensors.header"
    header.write_text(header.read_text().replace('"vae2llm.bias"', '"vae2llm.bais"'))
    with pytest.raises(
        CheckpointError, match="ema.safetensors.header: does not match its sha256 in config.json"
    ):
        export(tmp_path / "model", tmp_path / "back")


def test_a_trained_model_is_exported_with_what_bagel_has_not(source, converted, tmp_path):
    """Changed numbers in the same places; the connector beside them; and it converts to the same
    model again.
    """
    trained = tmp_path / "trained"
    convert_bagel(source, trained, size_px=32)
    _, parts = load_parts(trained, ("model",), "cpu")
    weights = {
        name: (value + 0.25).bfloat16() for name, value in parts["model"].state_dict().items()
    }
    (trained / NEW_FILE).unlink()
    save_file(weights, trained / "model.safetensors")
    values = json.loads((trained / "config.json").read_text())
    values |= {"untrained": [], "sha256": {}}
    (trained / "config.json").write_text(json.dumps(values))
    written = export(trained, tmp_path / "back")
    assert [path.name for path in written[:2]] == ["ema.safetensors", "flowportrait.safetensors"]
    old, new = (read_header(folder / "ema.safetensors") for folder in (source, tmp_path / "back"))
    assert old.text == new.text
    convert_bagel(tmp_path / "back", tmp_path / "again", size_px=32)
    _, again = load_parts(tmp_path / "again", ("model",), "cpu")
    for name, value in again["model"].state_dict().items():
        assert torch.equal(value, weights[name].float())


def change(source, folder, edit):
    weights = load_file(source / "ema.safetensors")
    edit(weights)
    folder.mkdir()
    for name in ("llm_config.json", "vit_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    save_file(weights, folder / "ema.safetensors")
    return folder


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("connector.fc2.bias"), "lacks 'connector.fc2.bias'"),
        (
            lambda w: w.update(left_over=torch.zeros(1)),
            "holds 'left_over', which the model has not",
        ),
        (
            lambda w: w.update({"vae2llm.bias": torch.zeros(3)}),
            r"'vae2llm.bias' is \[3\] where \[64\] is needed",
        ),
        (
            lambda w: w.pop("language_model.model.embed_tokens.weight"),
            "no tensor 'language_model.model.embed_tokens",
        ),
        (
            lambda w: w.pop("vit_model.vision_model.post_layernorm.bias"),
            "lacks 'vision_model.post_layernorm.bias'",
        ),
    ],
)
def test_other_weights_are_refused(source, tmp_path, edit, message):
    with pytest.raises(CheckpointError, match=message):
        convert_bagel(change(source, tmp_path / "changed", edit), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_not_there_is_named(source, converted, tmp_path, capsys):
    assert run(["convert", "bagel", str(tmp_path / "no"), "-o", str(tmp_path / "model")]) == 2
    assert "no: no such file or folder; give the published weights" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["convert", "bagel", str(tmp_path / "empty"), "-o", str(tmp_path / "model")]) == 2
    assert (
        "no ema.safetensors (29.2 GB); download it from huggingface.co/ByteDance-Seed"
        in capsys.readouterr().err
    )
    with pytest.raises(ConfigError, match="already contains a model"):
        convert_bagel(source, converted)
    with pytest.raises(ConfigError, match="create one with: flowportrait convert bagel"):
        convert_wan(source, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="was not converted from BAGEL"):
        export(Path(__file__).parents[1] / "flowportrait" / "models" / "tiny", tmp_path / "back")


def test_a_cut_off_file_is_refused(source, tmp_path):
    path = tmp_path / "cut.safetensors"
    whole = (source / "ema.safetensors").read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="cut.safetensors: .*download it again"):
            read_header(path)


@EXTRA
def test_a_part_without_weights_says_where_they_come_from(converted):
    with pytest.raises(
        CheckpointError, match="codec.safetensors: missing; Wan2.1_VAE.pth .*sha256 38071ab59bd9"
    ):
        load_parts(converted, ("codec",), "cpu")
    with pytest.raises(
        CheckpointError, match="audio_encoder.safetensors: missing; .*whisper-large-v3"
    ):
        load_parts(converted, ("audio_encoder",), "cpu")


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """All four parts, through the command line."""
    folder = tmp_path_factory.mktemp("whole")
    wan, whisper = bagel_source.wan(folder / "vae"), bagel_source.whisper(folder / "whisper")
    model = str(folder / "whole")
    for arguments in (
        ["bagel", str(source), "-o", model, "--size", "32"],
        ["wan", str(wan), "-o", model],
        ["whisper", str(whisper), "-o", model, "--layers", "0,2"],
    ):
        assert run(["convert", *arguments]) == 0
    return Path(model)


@EXTRA
def test_portrait_and_sound_become_a_video(whole, tmp_path, capsys):
    """The way of `tiny`, window after window; an untrained model says that it is one."""
    pipeline = load(whole, device="cpu")
    assert pipeline.model.audio_connector.mixture.shape == (2,)
    assert pipeline.spec.model.audio_dim == 32 and pipeline.codec.channels == 4
    rng = np.random.default_rng(0)
    portrait = rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    sound = rng.uniform(-0.3, 0.3, 16_000).astype(np.float32), 16_000
    result = pipeline.generate(portrait, sound, evaluations=2, crop="none")
    assert result.frames.shape == (24, 32, 32, 3) and result.latents.isfinite().all()
    assert result.frames.std() > 1
    assert any(
        "never trained: audio_connector., vae2llm., llm2vae." in warning
        for warning in result.warnings
    )
    assert result.save(tmp_path / "out.mp4").stat().st_size > 1000


@EXTRA
def test_it_is_trained_as_any_model_and_goes_back(whole, tmp_path):
    """encode, train sft, generate, export: what was trained is no longer called untrained, and
    BAGEL's file has it.
    """
    rng = np.random.default_rng(0)
    for index in range(2):
        frames, sound = (
            rng.integers(0, 255, (24, 64, 64, 3), np.uint8),
            rng.normal(0, 0.1, 16_000).astype(np.float32),
        )
        media.write_video(tmp_path / f"{index}.mp4", frames, 24.0, sound, 16_000, {})
    facts = {"num_frames": 24, "fps": 24.0, "size_px": 64, "sample_rate_hz": 16_000}
    rows = [ManifestRow(id=f"clip{index}", video=f"{index}.mp4", **facts) for index in range(2)]
    write_jsonl(tmp_path / "manifest.jsonl", rows)
    encoded = tmp_path / "encoded"
    assert (
        run(["encode", str(tmp_path), "-o", str(encoded), "--model", str(whole), "--device", "cpu"])
        == 0
    )
    values = {
        "run.directory": tmp_path / "run",
        "run.num_updates": 2,
        "run.sample_every": 2,
        "start_from": whole,
        "data.num_rows": 1,
        "data.row_tokens": 300,
        "device": "cpu",
        "optimizer.learning_rate": 0.01,
        "optimizer.warmup_updates": 0,
    }
    options = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    (tmp_path / "recipe.toml").write_text(f'[data]\nencoded = ["{encoded}"]\n')
    assert run(["train", "sft", str(tmp_path / "recipe.toml"), *options]) == 0
    trained = tmp_path / "run" / "model"
    pipeline = load(trained, device="cpu")
    assert pipeline.spec.untrained == () and not (trained / NEW_FILE).exists()
    assert pipeline.model.audio_connector.mixture.abs().sum() > 0
    written = export(trained, tmp_path / "back")
    assert {path.name for path in written} >= {"ema.safetensors", "flowportrait.safetensors"}
    model = pipeline.model.state_dict()
    back = load_file(tmp_path / "back" / "ema.safetensors")
    assert torch.equal(back["vae2llm.weight"].float(), model["vae2llm.weight"].float())


@EXTRA
def test_both_layouts_of_the_video_codec_are_one(source, tmp_path):
    """The published .pth and diffusers' folder give the same file; of the former the statistics are
    known, too.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    def sixteen_channels(weights):
        weights |= {"vae2llm.weight": torch.zeros(64, 64), "llm2vae.weight": torch.zeros(64, 64)}
        weights |= {"llm2vae.bias": torch.zeros(64)}

    AutoencoderKLWan(base_dim=4).save_pretrained(tmp_path / "vae")
    names = {
        new: old
        for old, (new, _) in json.loads((GOLDEN / "wanvae_manifest.json").read_text())[
            "tensors"
        ].items()
    }
    weights = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    torch.save({names[name]: value for name, value in weights.items()}, tmp_path / "Wan2.1_VAE.pth")
    folder, specs = change(source, tmp_path / "sixteen", sixteen_channels), []
    for layout in ("vae", "Wan2.1_VAE.pth"):
        convert_bagel(folder, tmp_path / f"model of {layout}", size_px=32)
        specs.append(convert_wan(tmp_path / layout, tmp_path / f"model of {layout}"))
        _, parts = load_parts(tmp_path / f"model of {layout}", ("codec",), "cpu")
        assert all(
            torch.equal(value, weights[name]) for name, value in parts["codec"].state_dict().items()
        )
        assert parts["codec"].mean.flatten().tolist() == pytest.approx(PUBLISHED_MEAN)
    assert [spec.codec["width"] for spec in specs] == [4, 4]


@EXTRA
def test_statistics_of_another_codec_must_be_told(source, whole, tmp_path):
    names = {
        new: old
        for old, (new, _) in json.loads((GOLDEN / "wanvae_manifest.json").read_text())[
            "tensors"
        ].items()
    }
    weights = load_file(whole / "codec.safetensors")
    torch.save({names[name]: value for name, value in weights.items()}, tmp_path / "four.pth")
    with pytest.raises(ConfigError, match="give one for each of the 4 channels"):
        convert_wan(tmp_path / "four.pth", whole)


@EXTRA
def test_a_codec_of_other_channels_is_refused(whole, tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    AutoencoderKLWan(
        base_dim=4, z_dim=6, latents_mean=[0.0] * 6, latents_std=[1.0] * 6
    ).save_pretrained(tmp_path / "six")
    with pytest.raises(ConfigError, match="6 latent channels, the generator has 4"):
        convert_wan(tmp_path / "six", whole)


@EXTRA
def test_an_older_wav2vec2_takes_the_place_of_whisper(source, tmp_path):
    """A pickle with a head and former names; its own layers are mixed by the connector."""
    import transformers

    out = tmp_path / "model"
    convert_bagel(source, out, size_px=32)
    folder = bagel_source.wav2vec2(tmp_path / "wav2vec2")
    convert_speech("whisper", bagel_source.whisper(tmp_path / "whisper"), out)
    spec = convert_speech("wav2vec2", folder, out)
    assert spec.audio_encoder["levels"] is False and (
        spec.model.audio_dim,
        spec.model.audio_layers,
    ) == (48, 3)
    _, parts = load_parts(out, ("audio_encoder", "model"), "cpu")
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    values = {
        k: v
        for k, v in bagel_source.WAV2VEC2.items()
        if k not in ("model_type", "transformers_version")
    }
    theirs = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**values)).eval()
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): v
        for name, v in state.items()
    }
    theirs.load_state_dict(renamed)
    with torch.no_grad():
        heard = theirs.wav2vec2(audio).last_hidden_state
    torch.testing.assert_close(
        parts["audio_encoder"].listen(audio)[..., 32:], heard, atol=1e-5, rtol=0
    )
    (folder / "config.json").write_text(
        json.dumps(bagel_source.WAV2VEC2 | {"intermediate_size": 48})
    )
    with pytest.raises(
        CheckpointError,
        match=r"intermediate_dense.weight' is \[32, 16\] where \[48, 16\] is needed",
    ):
        convert_speech("wav2vec2", folder, out)


LARGE = """
import resource, sys, torch
from pathlib import Path
from flowportrait.convert import convert_bagel, export
from flowportrait.modeldir import load_parts
source, out = Path(sys.argv[1]), Path(sys.argv[2])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
load_parts  # imported
start = peak()
convert_bagel(source, out / "model", 128)
converted = peak()
export(out / "model", out / "back")
exported = peak()
load_parts(out / "model", ("model",), "cpu")
print(converted - start, exported - start, peak() - start)
"""


def test_a_large_checkpoint_in_many_shards_needs_the_memory_of_a_tensor(source, tmp_path):
    """In bf16 201 MB in 24 files, converted and exported within 40 MB; loaded, it is float32 and
    nothing beside.
    """
    folder = tmp_path / "large"
    folder.mkdir()
    for name in ("llm_config.json", "vit_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = MoTConfig(
        hidden_size=768,
        num_layers=8,
        num_heads=4,
        num_kv_heads=2,
        mlp_size=2048,
        vocab_size=64,
        latent_channels=4,
        latent_side=8,
        image_dim=32,
        image_side=8,
        audio_dim=1280,
    )
    with torch.device("meta"):
        wanted = MoT(config).state_dict()
    seen = {
        k: v for k, v in load_file(source / "ema.safetensors").items() if k.startswith("vit_model.")
    }
    names = [name for name in wanted if not bagel.is_new(name)]
    for index in range(24):
        own = {
            name: torch.zeros(wanted[name].shape, dtype=torch.bfloat16) for name in names[index::24]
        }
        save_file(own | (seen if index == 0 else {}), folder / f"part-{index:02d}.safetensors")
    size_mb = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20
    assert size_mb > 200
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(folder), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    converted, exported, loaded = map(float, done.stdout.split())
    assert exported < 40 and converted < 40
    assert loaded < 2 * size_mb + 40  # the weights in float32
    for path in folder.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_files_of_tensors_are_those_of_safetensors_but_for_their_mode(tmp_path):
    weights = {
        "z": torch.randn(3, 2),
        "a.b": torch.randn(4).half(),
        "c": torch.tensor(3),
        "bb": torch.randn(2).bfloat16(),
        "bool": torch.tensor([True, False]),
        "u": torch.zeros(3, dtype=torch.uint8),
        "e": torch.zeros(0, 3),
        "turned": torch.randn(3, 5).T,
        "i": torch.zeros(2, dtype=torch.int32),
        "d": torch.zeros(2).double(),
    }
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "theirs")
    before = os.umask(0o027)
    try:
        digest = save_tensors(tmp_path / "ours", weights)
    finally:
        os.umask(before)
    content = (tmp_path / "ours").read_bytes()
    assert (
        content == (tmp_path / "theirs").read_bytes()
        and digest == hashlib.sha256(content).hexdigest()
    )
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o640


def test_writing_keeps_numbers_of_every_format(tmp_path):
    weights = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor(True),
        "c": torch.zeros(0, 4, dtype=torch.int64),
        "d": torch.ones(3, dtype=torch.bfloat16),
    }
    save_file(weights, tmp_path / "one.safetensors")
    found = find_weights(tmp_path / "one.safetensors")
    write_weights(tmp_path / "two.safetensors", found)
    again = load_file(tmp_path / "two.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[k], v) and again[k].dtype == v.dtype for k, v in weights.items())
    assert all(torch.equal(found[k].tensor(), v) for k, v in weights.items())


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(
        CheckpointError, match="big.safetensors: needs 0.0 GB, 0.0 GB are free; free some space"
    ):
        write_weights(tmp_path / "big.safetensors", {"a": Held(torch.zeros(3))})
    assert not list(tmp_path.iterdir())


def test_directories_of_before_still_load():
    assert ModelSpec.model_fields["untrained"].default == ()
