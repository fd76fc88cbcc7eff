"""What scorers of faces make of faces whose movements are known; MediaPipe itself is tried on a
drawn portrait.
"""

from pathlib import Path

import numpy as np
import pytest

from flowportrait import media
from flowportrait.media import Sound
from flowportrait.scoring.metrics import mediapipe
from flowportrait.scoring.metrics.view import CandidateView, Unscorable
from flowportrait.scoring.reward import Candidate

ROOT = Path(__file__).parents[2]
LANDMARKER = ROOT.parent / "shared" / "weights" / "face_landmarker.task"
FPS, SECONDS = 25, 4
COUNT = FPS * SECONDS
RNG = np.random.default_rng(5)
LOUD = np.repeat(RNG.uniform(0.05, 0.9, COUNT // 2), 2)  # of each frame
LOUD[40:60] = 0


def view(loud=LOUD):
    noise = RNG.uniform(-1, 1, COUNT * 640).astype(np.float32)
    sound = Sound(noise * np.repeat(loud, 640).astype(np.float32), 16_000)
    frames = np.zeros((COUNT, 8, 8, 3), np.uint8)
    return CandidateView(Candidate("a", frames, FPS, sound, frames[0]))


def scorer(kind, opening=None, blink=None):
    """The scorer, seeing a face that opens lips and shuts lids like this."""
    lips, lids = (np.zeros(COUNT) if given is None else given for given in (opening, blink))
    seen = mediapipe.FaceOverTime(np.ones(COUNT, bool), lips, lids, np.zeros((COUNT, 5, 2)))
    made = kind()
    made.seen = lambda view: seen
    return made


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_lips_that_follow_the_sound_are_found_at_their_lag(late):
    reading = scorer(mediapipe.MouthLoudness, np.roll(np.log10(LOUD + 0.001), late)).read(view())
    assert reading.parts["lag"] == -late and reading.parts["best"] > 0.9
    assert (reading.value > 0.9) == (late == 0)


def test_a_mouth_that_rests_in_pauses_and_one_that_does_not():
    restless = RNG.uniform(0, 0.3, COUNT)
    resting = np.where(LOUD > 0, restless, 0.0)
    assert scorer(mediapipe.MouthInSilence, resting).read(view()).value < 0.05
    assert scorer(mediapipe.MouthInSilence, restless).read(view()).value == pytest.approx(
        1, abs=0.3
    )
    with pytest.raises(Unscorable, match="s of silence"):
        scorer(mediapipe.MouthInSilence, restless).read(view(np.full(COUNT, 0.5)))
    with pytest.raises(Unscorable, match="does not move"):
        scorer(mediapipe.MouthInSilence, np.zeros(COUNT)).read(view())


def test_blinks_are_counted_once_and_flutter_is_not():
    lids = np.full(COUNT, 0.1)
    lids[10:14], lids[50:53] = 0.9, 0.7
    lids[80:90] = 0.4 + 0.05 * RNG.uniform(-1, 1, 10)  # half shut
    reading = scorer(mediapipe.BlinkRate, blink=lids).read(view())
    assert reading.parts["blinks"] == 2 and reading.value == pytest.approx(30)


def test_loudness_is_that_of_each_frame():
    sound = np.concatenate([np.full(640, 0.1, np.float32), np.zeros(640, np.float32)])
    assert mediapipe.loudness_db(sound, 3, 25) == pytest.approx([-20, -80, -80], abs=1e-3)


@pytest.mark.skipif(
    not LANDMARKER.is_file(), reason="../shared/weights/face_landmarker.task is not there"
)
def test_a_real_landmarker_sees_our_portrait(monkeypatch):
    pytest.importorskip("mediapipe", reason="the extra 'scorers-faces' is not installed")
    portrait = media.read_portrait(ROOT / "flowportrait" / "samples" / "portrait.png")
    seen = mediapipe.look(LANDMARKER, iter([np.stack([portrait, np.zeros_like(portrait)])]))
    assert (
        seen.found.tolist() == [True, False]
        and 0 <= seen.lip_opening[0] < 0.5
        and np.isnan(seen.blink[1])
    )
