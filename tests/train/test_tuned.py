"""Model directories of runs: their own cards, weights on disk once, and no changed byte that goes
unseen.
"""

import errno
import json
import os
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file
from toy_pipeline import save_toy, use_fake_parts

from flowportrait.errors import CheckpointError
from flowportrait.modeldir import CONFIG, PARTS, load_parts, load_spec
from flowportrait.train.parallel import Ranks
from flowportrait.train.trainable import check_weights
from flowportrait.train.tuned import Story, keep_as, write_tuned

STORY = Story(
    "Reinforcement learning", 3, 10, ("clips",), {"held_out_reward": 0.25, "jitter": None}
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    use_fake_parts(monkeypatch.setattr)


@pytest.fixture
def toy(tmp_path):
    directory = save_toy(tmp_path / "toy")
    (directory / "CARD.md").write_text("# toy\n\nLicence: of the toy. Measured: 27.1 dB.\n")
    (directory / "bagel").mkdir()
    (directory / "bagel" / "llm_config.json").write_text("{}")
    return directory


def tune(toy, directory, name="toy-rl"):
    weights = {key: value + 1 for key, value in load_file(toy / "model.safetensors").items()}
    return write_tuned(directory, toy, load_spec(toy), {"name": name}, weights, STORY), weights


def everything(directory):
    spec, parts = load_parts(directory, PARTS, "cpu")
    said = spec.model_dump(exclude={"sha256"})
    return said, {
        f"{part}.{name}": value
        for part in PARTS
        for name, value in parts[part].state_dict().items()
    }


def test_a_tuned_model_has_its_own_card_and_keeps_the_one_it_began_from(toy, tmp_path):
    _, weights = tune(toy, tmp_path / "run" / "model")
    out = tmp_path / "run" / "model"
    card = (out / "CARD.md").read_text()
    assert card.startswith("# toy-rl\n") and "27.1" not in card
    assert "3 of 10 updates" in card and "- clips" in card and "| held_out_reward | 0.25 |" in card
    assert "jitter" not in card and str(tmp_path) not in card
    assert (
        "CARD.toy.md" in card and (out / "CARD.toy.md").read_text() == (toy / "CARD.md").read_text()
    )
    assert (out / "bagel" / "llm_config.json").is_file()
    said, values = everything(out)
    assert said["name"] == "toy-rl"
    assert all(torch.equal(values[f"model.{name}"], value) for name, value in weights.items())
    tune(out, tmp_path / "again" / "model", "toy-again")
    assert {path.name for path in (tmp_path / "again" / "model").glob("CARD*")} == {
        "CARD.md",
        "CARD.toy.md",
        "CARD.toy-rl.md",
    }


def test_the_best_model_is_on_disk_once_and_outlives_the_last(toy, tmp_path):
    tune(toy, tmp_path / "model")
    keep_as(tmp_path / "model", "best")
    model, best = (tmp_path / name / "model.safetensors" for name in ("model", "best"))
    assert model.samefile(best)
    before = everything(tmp_path / "best")
    tune(tmp_path / "best", tmp_path / "model")
    after = everything(tmp_path / "best")
    assert before[0] == after[0] and all(
        torch.equal(before[1][name], after[1][name]) for name in before[1]
    )
    assert not model.samefile(best)


def test_a_disk_without_links_gets_copies(toy, tmp_path, monkeypatch):
    def refuse(source, place):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    tune(toy, tmp_path / "model")
    keep_as(tmp_path / "model", "best")
    assert (tmp_path / "best" / "model.safetensors").is_file()


def test_a_full_disk_is_named_and_the_model_before_stays(toy, tmp_path, monkeypatch):
    tune(toy, tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10))
    with pytest.raises(
        CheckpointError, match=r"model: needs 0.0 GB, 0.0 GB are free; free some space"
    ):
        tune(toy, tmp_path / "model")
    assert load_spec(tmp_path / "model").name == "toy-rl"


@pytest.mark.parametrize("count", [1, 64])
def test_flipped_bytes_of_a_model_are_refused_by_name_or_harmless(toy, tmp_path, count):
    tune(toy, tmp_path / "model")
    rng, refused, kept = random.Random(count), 0, everything(tmp_path / "model")
    files = sorted(path for path in (tmp_path / "model").rglob("*") if path.is_file())
    assert len(files) >= 5
    for path in files:
        whole = path.read_bytes()
        for _ in range(20):
            content = bytearray(whole)
            for at in rng.sample(range(len(whole)), min(count, len(whole))):
                content[at] ^= rng.randint(1, 255)
            path.write_bytes(content)
            try:
                said, values = everything(tmp_path / "model")
            except CheckpointError as error:
                refused += 1
                assert "\n" not in str(error) and str(tmp_path / "model") in str(error)
                assert path.name in str(error) or path.name == CONFIG
                continue
            assert path.suffix in (".md", ".json") and said == kept[0]
            assert all(torch.equal(values[name], value) for name, value in kept[1].items())
        path.write_bytes(whole)
    assert refused > 60
    assert everything(tmp_path / "model")[0] == kept[0]


def test_a_training_does_not_begin_from_a_changed_model(toy):
    spec, path = load_spec(toy), toy / "model.safetensors"
    check_weights(toy, spec, Ranks())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: does not match its sha256 in config.json"
    ):
        check_weights(toy, spec, Ranks())
    path.unlink()
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: missing, but named in config.json"
    ):
        check_weights(toy, spec, Ranks())


def test_a_config_that_was_changed_on_purpose_says_so(toy):
    values = json.loads((toy / CONFIG).read_text())
    values["sampling"]["shift"] = 7.0
    (toy / CONFIG).write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match="does not match its sha256; .* remove 'config.json' from its sha256"
    ):
        load_spec(toy)
    del values["sha256"][CONFIG]
    (toy / CONFIG).write_text(json.dumps(values))
    assert load_spec(toy).sampling.shift == 7.0
