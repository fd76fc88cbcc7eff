"""Which clips are trained on: whole identities, voices and sentences are held out, over all folders
together.
"""

import json

import pytest

from flowportrait.data.sources import load_sources
from flowportrait.errors import DataError


def world(folder, *rows):
    """A folder of records (key, identity seed, engine, voice, text)."""
    folder.mkdir()
    records = [
        {
            "key": key,
            "identity": {"seed": seed},
            "voice": {"engine": engine, "name": name},
            "text": text,
        }
        for key, seed, engine, name, text in rows
    ]
    (folder / "clips.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_nothing_of_the_test_split_of_one_folder_is_trained_on_in_another(tmp_path):
    one = world(
        tmp_path / "one",
        ("test", 19, "flite 2.2", "kal16", "held out words"),
        ("seen voice", 29, "flite 2.2", "slt", "other words"),
        ("plain", 1, "flite 2.2", "slt", "words"),
    )
    two = world(
        tmp_path / "two",
        ("its sentence", 2, "festival", "ked_diphone", "held out words"),
        ("its speaker", 3, "festival", "kal_diphone", "words"),
        ("blend", 4, "Kokoro-82M", "blend:jf_nezumi=0.6,jm_kumo=0.4", "words"),
        ("new", 5, "festival", "ked_diphone", "new words"),
    )
    splits = {clip.key: clip.split for clip in load_sources(world=[one, two])}
    assert splits == {"test": "test", "seen voice": "held_out", "plain": "train", "new": "train"}
    alone = {clip.key: clip.voice for clip in load_sources(world=two)}
    assert alone == {"its sentence": "festival-ked_diphone", "new": "festival-ked_diphone"}


def test_a_records_own_split_counts(tmp_path):
    folder = world(
        tmp_path / "one", ("a", 1, "flite 2.2", "slt", "a"), ("b", 1, "flite 2.2", "slt", "b")
    )
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    rows[0]["split"] = "validation"
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [clip.split for clip in load_sources(world=folder)] == ["held_out", "train"]
    rows[1]["split"] = "valid"
    (folder / "clips.jsonl").write_text(json.dumps(rows[1]))
    with pytest.raises(
        DataError, match="b: got split 'valid'; give one of train, validation, test"
    ):
        load_sources(world=folder)


def test_a_folder_without_its_index_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"one: no clips.jsonl; expected a folder of rendered clips"
    ):
        load_sources(world=[tmp_path / "one"])
    with pytest.raises(DataError, match="no source given"):
        load_sources()
