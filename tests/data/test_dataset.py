"""Whoever reads a dataset reads the same clips with the same splits."""

import json
import shutil
from pathlib import Path

import pytest

from flowportrait.batch import clips_to_make
from flowportrait.data.dataset import read_dataset
from flowportrait.errors import DataError
from flowportrait.records import ManifestRow, write_jsonl
from flowportrait.train.encode import clips_of
from flowportrait.train.prompts import Prompts, PromptsConfig

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples" / "world"


def keys(clips):
    return [clip.key for clip in clips]


def test_generating_encoding_and_prompts_hold_out_the_same_rendered_clips():
    held_out = keys(read_dataset(SAMPLES, "held_out"))
    assert keys(clips_to_make(SAMPLES, "held_out").clips) == held_out
    assert [clip.key for clip in clips_of(SAMPLES) if clip.split == "held_out"] == held_out
    prompts = Prompts(
        PromptsConfig(world=SAMPLES), size_px=128, max_latent_frames=10, temporal_stride=4
    )
    assert keys(prompts.held_out) == held_out
    records = [json.loads(line) for line in (SAMPLES / "clips.jsonl").read_text().splitlines()]
    tested = {record["key"] for record in records if record["split"] == "test"}
    assert held_out and tested and not tested & set(held_out)
    assert set(keys(clips_to_make(SAMPLES, "test").clips)) == tested
    assert not tested & set(keys(clips_of(SAMPLES)))
    assert len(clips_to_make(SAMPLES, "all").clips) == len(records)


def test_a_manifest_holds_out_the_same_clips_for_all(tmp_path):
    facts = {"num_frames": 16, "fps": 24, "size_px": 128, "sample_rate_hz": 16000}
    splits = ["train", "held_out", "test", "held_out"]
    rows = [
        ManifestRow(id=f"clip {i}", video=f"{i}.mp4", split=split, **facts)
        for i, split in enumerate(splits)
    ]
    write_jsonl(tmp_path / "manifest.jsonl", rows)
    held_out = ["clip 1", "clip 3"]
    for place in (tmp_path, tmp_path / "manifest.jsonl"):
        assert keys(read_dataset(place, "held_out")) == held_out
        assert keys(clips_to_make(place, "held_out").clips) == held_out
    assert [clip.key for clip in clips_of(tmp_path) if clip.split == "held_out"] == held_out
    config = PromptsConfig(manifest=tmp_path / "manifest.jsonl")
    assert (
        keys(Prompts(config, size_px=128, max_latent_frames=10, temporal_stride=4).held_out)
        == held_out
    )


def test_a_split_without_clips_names_the_others(tmp_path):
    shutil.copy(SAMPLES / "clips.jsonl", tmp_path)
    kept = [line for line in (tmp_path / "clips.jsonl").read_text().splitlines() if "train" in line]
    (tmp_path / "clips.jsonl").write_text("\n".join(kept) + "\n")
    words = "no clips in the split 'test'; give another --split: train, held_out, test or all"
    with pytest.raises(DataError, match=words):
        read_dataset(tmp_path, "test")
