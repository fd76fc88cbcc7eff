"""Encoding: what a shard holds, going on after a kill, and the real parts on a rendered clip."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from toy_pipeline import save_toy, use_fake_parts

from flowportrait import cli, media
from flowportrait.config import load_recipe
from flowportrait.data.encoded import EncodedSet
from flowportrait.data.rows import Rows, RowsConfig
from flowportrait.data.sources import load_sources
from flowportrait.errors import DataError
from flowportrait.generate import load
from flowportrait.modeldir import load_parts
from flowportrait.prepare import dataset
from flowportrait.prepare.settings import PrepareConfig
from flowportrait.records import ManifestRow, write_jsonl
from flowportrait.train.encode import Encoder, clips_of, encode

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples" / "world"

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    use_fake_parts(monkeypatch.setattr)
    return save_toy(tmp_path / "model")


def test_a_shard_holds_what_the_parts_make_of_a_clip(tmp_path, small_world, toy):
    out = tmp_path / "out"
    clips, left_out = encode(small_world, out, str(toy), device="cpu", clips_per_shard=4)
    wanted = [
        (clip.key, clip.split == "train")
        for clip in load_sources(world=small_world)
        if clip.split != "test"
    ]
    assert [(clip.id, clip.split == "train") for clip in clips] == wanted and not left_out
    assert (clips[0].latent_frames, clips[0].num_portraits, clips[0].latents_each) == (11, 2, True)
    latents, audio, image = EncodedSet(out).read(clips[0])
    pipeline, source = load(toy, device="cpu"), media.Clip(small_world / "blob_1000_0.mp4")
    samples = media.resample(source.sound.samples, source.sound.sample_rate, 16_000)
    assert_close(
        audio, pipeline.audio_encoder(torch.from_numpy(samples)[None], 41)[0], atol=2e-3, rtol=0
    )
    frames = read_framed(small_world, toy)[:41]
    assert_close(
        latents, pipeline.codec.encode(frames.transpose(0, 1)[None], None)[0], atol=2e-3, rtol=0
    )
    assert_close(image, pipeline.image_encoder(frames[:1], None)[0], atol=2e-3, rtol=0)


def contents(folder):
    """What every file of a folder says; safetensors writes the lines of its metadata in any
    order.
    """
    return {
        path.name: (
            {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
            if path.suffix == ".safetensors"
            else path.read_bytes()
        )
        for path in folder.iterdir()
    }


def test_it_goes_on_with_the_shards_that_are_not_there(tmp_path, small_world, toy):
    out = tmp_path / "out"
    encode(small_world, out, str(toy), device="cpu", clips_per_shard=2)
    whole = contents(out)
    (out / "shard-00001.safetensors").unlink()  # killed in it
    (out / "shard-00001.safetensors.part").write_bytes(b"half")
    (out / "encoded.jsonl").unlink()
    with pytest.raises(
        DataError, match="no encoded.jsonl; give a dataset that `flowportrait encode` has finished"
    ):
        _ = EncodedSet(out).clips
    kept = (out / "shard-00000.safetensors").stat().st_mtime_ns
    encode(small_world, out, str(toy), device="cpu", clips_per_shard=2)
    assert contents(out) == whole
    assert (out / "shard-00000.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(DataError, match="was started with another model or other settings"):
        encode(small_world, out, str(toy), device="cpu", num_portraits=1)


def test_parts_that_know_nothing_of_each_other_make_the_same_dataset(
    tmp_path, small_world, toy, capsys
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    encode(small_world, whole, str(toy), device="cpu", clips_per_shard=2)
    command = [
        "encode",
        str(small_world),
        "-o",
        str(out),
        "--model",
        str(toy),
        "--clips-per-shard",
        "2",
    ]
    for number in (2, 3, 1):
        assert not (out / "encoded.jsonl").exists()
        assert cli.run([*command, "--device", "cpu", "--part", f"{number}/3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"part 2 of 3 is done: {out}; the part that is done last writes the index"
    assert said[-1].endswith(f" clips, 0 left out: {out}")
    assert contents(out) == contents(whole)


def test_from_storage_to_storage_it_makes_the_same_dataset(bucket, tmp_path, small_world, toy):
    """Model included; another machine finds all shards there."""
    encode(small_world, tmp_path / "whole", str(toy), device="cpu", clips_per_shard=2)
    for folder, name in ((small_world, "world"), (toy, "model")):
        bucket.put(str(folder), f"data/{name}", recursive=True)
    command = ["encode", "s3://data/world", "-o", "s3://data/encoded", "--clips-per-shard", "2"]
    command += ["--model", "s3://data/model", "--device", "cpu"]
    assert cli.run(command) == 0
    bucket.get("data/encoded", str(tmp_path / "got"), recursive=True)
    assert contents(tmp_path / "got") == contents(tmp_path / "whole")
    sent, put = [], type(bucket)._put_file

    async def noted(self, path, name, **options):
        sent.append(name)
        return await put(self, path, name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
        patch.setattr(type(bucket), "_put_file", noted)
        assert cli.run(command) == 0
    assert "data/encoded/shard-00000.safetensors" in bucket.find("data/encoded")
    assert not any("shard" in name for name in sent)


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="the extra 'ray' is not installed: pip install 'flowportrait[ray]'",
)
def test_two_workers_of_a_cluster_make_the_same_dataset(tmp_path, small_world, toy):
    """Killed in the first shard, another worker makes it."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    encode(small_world, whole, str(toy), device="cpu", clips_per_shard=2)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("encode_process.py"), small_world, out, toy],
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(out) == contents(whole)


def test_clips_that_cannot_be_used_are_left_out_and_named(tmp_path, toy, capsys):
    rng = np.random.default_rng(0)
    media.write_video(
        tmp_path / "good.mp4",
        rng.integers(0, 255, (24, 96, 64, 3), np.uint8),
        12.0,
        rng.normal(0, 0.1, 32_000).astype(np.float32),
        16_000,
        {},
    )
    media.write_video(
        tmp_path / "short.mp4",
        rng.integers(0, 255, (3, 64, 64, 3), np.uint8),
        24.0,
        np.zeros(2000, np.float32),
        16_000,
        {},
    )
    facts = {"num_frames": 24, "fps": 12.0, "size_px": 64, "sample_rate_hz": 16_000}
    rows = [
        ManifestRow(id=name, video=f"{name}.mp4", **facts) for name in ("good", "short", "gone")
    ]
    write_jsonl(tmp_path / "manifest.jsonl", rows)
    command = [
        "encode",
        str(tmp_path),
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(toy),
        "--longest",
        "1.5",
        "--json",
    ]
    assert cli.run([*command, "--device", "cpu"]) == 0
    clips = EncodedSet(tmp_path / "out").clips
    assert [(clip.id, clip.latent_frames) for clip in clips] == [
        ("good", 9)
    ]  # 36 frames at 24 a second
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f"1 clips, 2 left out: {tmp_path / 'out'}"
    left_out = json.loads(said[-1])["left_out"]
    assert [reason.split(":")[0].rpartition("/")[2] for reason in left_out] == [
        "short.mp4",
        "gone.mp4",
    ]
    with pytest.raises(DataError, match="neither manifest.jsonl nor clips.jsonl"):
        encode(tmp_path / "model", tmp_path / "none", str(toy), device="cpu")


def test_tinys_latents_of_a_rendered_clip_are_the_clip(tmp_path):
    """Encoded by the shipped model's parts, decoded again, nearer to the frames than the portrait
    is.
    """
    record = next(
        line
        for line in (SAMPLES / "clips.jsonl").read_text().splitlines()
        if '"anny_00000_1"' in line
    )
    (tmp_path / "clips.jsonl").write_text(json.dumps(json.loads(record)) + "\n")
    for suffix in (".mp4", ".npz"):
        (tmp_path / f"anny_00000_1{suffix}").symlink_to(SAMPLES / f"anny_00000_1{suffix}")
    encode(tmp_path, tmp_path / "out", "tiny", device="cpu", num_portraits=1)
    pipeline = load("tiny", device="cpu")
    rows = Rows(RowsConfig(encoded=[tmp_path / "out"], num_rows=1), pipeline.spec.model, seed=0)
    cut = rows.draw(0)[0][0][0]
    latents, audio, image = cut.source.read(cut.clip)
    assert audio.shape == (4 * latents.shape[1] - 3, 192) and image.shape == (64, 184)
    frames = read_framed(tmp_path)
    with torch.inference_mode():
        decoded = pipeline.codec.decode(latents[None], pipeline.codec.prepare(frames[:1]))[
            0
        ].transpose(0, 1)
    true = frames[: len(decoded)]
    distance = lambda shown: float((shown - true).square().mean())  # noqa: E731
    assert distance(decoded) < 0.6 * distance(frames[:1].expand_as(true))


def read_framed(root, model="tiny"):
    """The first clip's frames as they are encoded."""
    spec, parts = load_parts(model, ("codec", "audio_encoder", "image_encoder"), "cpu")
    encoder = Encoder(spec, **parts, device="cpu", num_portraits=1, longest_s=25.0, seed=0)
    return encoder._read(clips_of(root)[0])[0]


def test_what_prepare_wrote_is_read(tmp_path, monkeypatch, toy):
    def here(preparer, sources, workers):
        return ((source, preparer.prepare(source)) for source in sources)

    monkeypatch.setattr(dataset, "prepare_all", here)
    source = sorted(SAMPLES.glob("*.mp4"))[0]
    config = load_recipe(
        None, PrepareConfig, ["speaker.network=none", "crop.min_side_px=64", "faces.min_face_px=32"]
    )
    (row,) = dataset.prepare([source], tmp_path / "prepared", config).rows()
    assert row.size_px % 16 == 0 and row.duration_s > 1
    clips, left_out = encode(tmp_path / "prepared", tmp_path / "out", str(toy), device="cpu")
    assert not left_out and [clip.id for clip in clips] == [row.id]
    assert clips[0].latent_frames == 1 + (row.num_frames - 1) // 4
    assert EncodedSet(tmp_path / "out").read(clips[0])[1].abs().max() > 0
