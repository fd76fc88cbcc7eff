"""Light-ASD against the authors' code and weights (tests/golden/scorers/light_asd.json)."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowportrait import media
from flowportrait.encoders import active_speaker
from flowportrait.encoders.cepstra import mfcc
from flowportrait.errors import CheckpointError
from flowportrait.media import Clip
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics.active_speaker import ActiveSpeaker
from flowportrait.scoring.metrics.view import View

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "scorers"
EXPECTED = json.loads((GOLDEN / "light_asd.json").read_text())
FOLDERS = [
    ROOT.parent / "shared" / "weights",
    Path(os.environ.get("FLOWPORTRAIT_WEIGHTS", ROOT / "no")),
]
CLIPS = ROOT / "flowportrait" / "samples" / "world"

spec = importlib.util.spec_from_file_location("recipes", GOLDEN / "recipes.py")
recipes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipes)


def weights(name):
    """The official file, by its digest."""
    for path in (path for folder in FOLDERS for path in folder.glob("*.model")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == EXPECTED[name]["file_sha256"]:
            return path
    pytest.skip(
        f"Light-ASD's weight/{name}.model is not in ../shared/weights or $FLOWPORTRAIT_WEIGHTS"
    )


@pytest.mark.parametrize("name", ["pretrain_AVA_CVPR", "finetuning_TalkSet"])
def test_logits_are_the_authors(name):
    network, expected = active_speaker.load_light_asd(weights(name)), EXPECTED[name]
    faces = active_speaker.face_of_crop(recipes.synth_video(60, 224, 224))
    assert hashlib.sha256(faces.tobytes()).hexdigest() == EXPECTED["visual_input_sha256"]
    faces, cepstra = faces[:50], mfcc(recipes.synth_audio())[:200]
    logits = active_speaker.speaking_logits(network, faces, cepstra, durations_s=(2,))
    assert logits[:, 0] == pytest.approx(expected["logit0"], abs=1e-4)
    assert logits[:, 1] == pytest.approx(expected["logit1"], abs=1e-4)
    assert active_speaker.speaking_probability(logits) == pytest.approx(
        expected["softmax1"], abs=1e-4
    )
    mean = active_speaker.speaking_logits(network, faces, cepstra)
    assert mean[:, 1] == pytest.approx(
        expected["official_demo_multi_duration_mean (set dedups to {1..6})"], abs=1e-4
    )


def test_folded_norms_change_nothing(tmp_path):
    network = active_speaker.LightAsd()
    state = recipes.fill_state_dict(network.state_dict(), 5)
    network.load_state_dict(state)
    assert sum(p.numel() for p in network.parameters()) == 1_021_636
    torch.save(state, tmp_path / "w.model")
    rng = np.random.default_rng(0)
    faces, cepstra = rng.integers(0, 255, (9, 112, 112), np.uint8), rng.normal(size=(40, 13))
    with torch.inference_mode():
        expected = network.eval()(
            torch.from_numpy(faces)[None].float(), torch.from_numpy(cepstra)[None, :36].float()
        )
    folded = active_speaker.load_light_asd(tmp_path / "w.model")
    found = active_speaker.speaking_logits(folded, faces, cepstra, durations_s=(1,))
    assert found == pytest.approx(expected[0].numpy(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("count", [7, 25, 31, 50, 139, 290])
def test_pieces_of_all_lengths_share_their_pictures_and_change_nothing(count, tmp_path):
    torch.save(
        recipes.fill_state_dict(active_speaker.LightAsd().state_dict(), 5), tmp_path / "w.model"
    )
    network = active_speaker.load_light_asd(tmp_path / "w.model")
    rng = np.random.default_rng(0)
    faces, cepstra = (
        rng.integers(0, 255, (count, 112, 112), np.uint8),
        rng.normal(size=(4 * count, 13)),
    )
    found = active_speaker.speaking_logits(network, faces, cepstra, durations_s=(1, 2, 5))
    expected = np.zeros((count, 2))
    for duration in (1, 2, 5):
        for start in range(0, count, duration * 25):
            cut = slice(start, start + duration * 25), slice(4 * start, 4 * (start + duration * 25))
            with torch.inference_mode():
                piece = network(
                    torch.from_numpy(faces[cut[0]])[None].float(),
                    torch.from_numpy(cepstra[cut[1]])[None].float(),
                )
            expected[cut[0]] += piece[0].numpy() / 3
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.model")
    with pytest.raises(
        CheckpointError,
        match=r"w.model: not the weights of Light-ASD \(lacks \d+ tensors, has 1 of another",
    ):
        active_speaker.load_light_asd(tmp_path / "w.model")


def test_silence_is_told_from_speech(tmp_path):
    """A rendered person who speaks, and the same pictures over silence."""
    scorer = ActiveSpeaker(
        ActiveSpeaker.Config(weights=weights("pretrain_AVA_CVPR"), durations_s=(2,))
    )
    clip = sorted(CLIPS.rglob("*.mp4"))[0]
    frames = np.stack(list(media.read_frames(clip)))
    media.write_video(
        tmp_path / "silent.mp4",
        frames,
        Clip(clip).fps,
        np.zeros(int(len(frames) / Clip(clip).fps * 16_000), np.float32),
        16_000,
        {},
    )
    spoken, silent = (
        scorer.read(View(Sample("c", Clip(path)))) for path in (clip, tmp_path / "silent.mp4")
    )
    assert spoken.value > silent.value + 0.3 and silent.parts["speaking_share"] == 0
