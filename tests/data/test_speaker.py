"""Which face speaks when: times, blocks, pauses, several faces."""

import films
import numpy as np
import pytest

from flowportrait import media
from flowportrait.encoders.active_speaker import LightAsd
from flowportrait.faces.framing import FaceBox
from flowportrait.prepare import speaker
from flowportrait.prepare.footage import probe
from flowportrait.prepare.speaker import SpeakerConfig, confidences, runs_of, speaking_stretches
from flowportrait.prepare.tracks import Track


def track(start, stop, x=20.0, side=60.0):
    return Track(start, stop, [start], [FaceBox(x, 40.0, x + side, 40.0 + side, 0.9)])


def test_runs_close_gaps():
    flags = np.array([0, 1, 1, 0, 1, 0, 0, 1], bool)
    assert runs_of(flags) == [(1, 3), (4, 5), (7, 8)]
    assert runs_of(flags, 1) == [(1, 5), (7, 8)] and runs_of(flags, 2) == [(1, 8)]
    assert runs_of(np.zeros(3, bool)) == [] and runs_of(np.ones(3, bool)) == [(0, 3)]


@pytest.mark.parametrize(("silent", "kept"), [(24, [(0, 84)]), (25, [(0, 30), (55, 85)])])
def test_a_pause_of_up_to_a_second_stays(silent, kept):
    values = np.concatenate([np.full(30, 0.9), np.full(silent, 0.49), np.full(30, 0.5)])
    found = speaking_stretches([track(0, len(values))], [values], SpeakerConfig())
    assert [(run.start, run.stop) for run in found] == kept


def test_without_pauses_every_frame_below_goes():
    values = np.array([0.9] * 10 + [0.4] + [0.9] * 5)
    found = speaking_stretches([track(100, 116)], [values], SpeakerConfig(max_pause_s=0))
    assert [(run.start, run.stop) for run in found] == [(100, 110), (111, 116)]


def test_logits_are_cut_at_zero():
    values = np.array([-0.2] * 30 + [0.1] * 30)
    assert (
        speaking_stretches([track(0, 60)], [values], SpeakerConfig(confidence="logit"))[0].start
        == 30
    )
    assert not speaking_stretches(
        [track(0, 60)], [values], SpeakerConfig(confidence="logit", threshold=0.5)
    )


def test_of_several_faces_the_surest_has_the_moment():
    sure, less, later = track(0, 50), track(20, 90, x=100.0), track(200, 240)
    values = [np.full(50, 0.9), np.full(70, 0.6), np.full(40, 0.7)]
    found = speaking_stretches([sure, less, later], values, SpeakerConfig())
    assert [(run.track is sure, run.start, run.stop) for run in found] == [
        (True, 0, 50),
        (False, 50, 90),
        (False, 200, 240),
    ]


def test_unasked_the_largest_has_the_moment():
    small, large = track(0, 100, side=40.0), track(30, 60, x=100.0, side=80.0)
    found = speaking_stretches([small, large], None, SpeakerConfig(network="none"))
    assert [(run.track is large, run.start, run.stop) for run in found] == [
        (False, 0, 30),
        (True, 30, 60),
        (False, 60, 100),
    ]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A film of four seconds whose left half is white from 1.5 s on, and loud from 2.5 s on."""
    frames = np.full((96, 160, 240, 3), 40, np.uint8)
    frames[36:, :, :120] = 220
    sound = films.noise(4, 0.01)
    sound[round(2.5 * films.RATE) :] *= 50
    media.write_video(tmp_path / "a.mp4", frames, 24, sound, films.RATE, {})
    footage = probe(tmp_path / "a.mp4")

    def ask(tracks, of, durations=(1, 2)):
        def logits(network, faces, cepstra, durations_s):
            assert 4 * len(faces) <= len(cepstra) and len(faces) <= np.lcm.reduce(durations) * 25
            seen = faces.mean((1, 2)) > 128
            heard = cepstra[: 4 * len(faces) : 4, 0] > 14
            return np.stack(
                [np.zeros(len(faces)), np.where(seen if of == "faces" else heard, 9.0, -9.0)], 1
            )

        monkeypatch.setattr(speaker, "speaking_logits", logits)
        config = SpeakerConfig(durations_s=durations)
        return confidences(footage, footage.sound(tmp_path), tracks, LightAsd(), config)

    return ask


@pytest.mark.parametrize("durations", [(1,), (1, 2), (5,)])
def test_a_face_is_seen_and_heard_at_its_time_in_blocks_of_any_length(watched, durations):
    left, right = watched([track(6, 96), track(0, 96, x=150.0)], "faces", durations)
    assert (len(left), len(right)) == (90, 96) and right.max() < 0.01
    assert abs(int(np.argmax(left > 0.5)) + 6 - 36) <= 1
    left, right = watched([track(6, 96), track(0, 96, x=150.0)], "sound", durations)
    assert (
        abs(int(np.argmax(left > 0.5)) + 6 - 60) <= 1 and abs(int(np.argmax(right > 0.5)) - 60) <= 1
    )
