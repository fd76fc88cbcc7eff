"""Measures of landmarks: what they say of faces whose movement is known."""

import math

import numpy as np
import pytest

from flowportrait.media import Sound
from flowportrait.registry import MEASURES
from flowportrait.scoring.reward import Candidate
from flowportrait.scoring.rewards import named
from flowportrait.train import landmark_measures as measures

FRAMES = 24
WAVE = 0.5 + 0.5 * np.sin(np.arange(FRAMES))
FACE = np.random.default_rng(0).uniform(-0.4, 0.4, (68, 2))
FACE[36:42], FACE[42:48] = (-0.2, -0.1), (0.2, -0.1)
FACE[48:68] = (0.0, 0.3)


def points(opening=0.0 * WAVE, shift=0.0, brows=0.0):
    """A face whose lips open by `opening` [f] eye distances, moved by `shift` [f] to the right."""
    made = np.repeat(FACE[None], FRAMES, 0)
    made[:, 61:64, 1] -= 0.2 * np.asarray(opening)[:, None]
    made[:, 65:68, 1] += 0.2 * np.asarray(opening)[:, None]
    made[:, 17:27, 1] += np.broadcast_to(brows, FRAMES)[:, None]
    made[..., 0] += np.broadcast_to(shift, FRAMES)[:, None]
    return made


def clip(made, true=None):
    return Candidate("key", None, 24.0, Sound(np.zeros(1), 1), FACE, None, None, made, true)


TRUE = points(0.3 * WAVE, 0.02 * WAVE, 0.02 * WAVE[::-1])


def test_lips_that_follow():
    assert measures.landmark_lips(clip(points(0.3 * WAVE), TRUE)) > 0.99
    assert measures.landmark_lips(clip(points(0.1 * WAVE), TRUE)) > 0.98
    assert measures.landmark_lips(clip(points(0.3 - 0.3 * WAVE), TRUE)) < -0.99
    assert measures.landmark_lips(clip(points(), TRUE)) == 0
    assert math.isnan(measures.landmark_lips(clip(points(0.3 * WAVE), points())))


def test_size_of_the_lips_movement_counts_in_concordance_alone():
    for size, expected in ((0.3, 1.0), (0.15, 0.8), (0.6, 0.8)):  # 2 s / (1 + s^2)
        found = measures.landmark_lip_size(clip(points(size * WAVE), TRUE))
        assert found == pytest.approx(expected, abs=1e-6)
    level = measures.landmark_lip_size(clip(points(0.1 + 0.3 * WAVE), TRUE))
    assert level == pytest.approx(1, abs=1e-6)  # lips that rest further apart


@pytest.mark.parametrize("level", [-0.04, 0.0, 0.04])
def test_level_of_the_lips(level):
    opening = 0.05 + 0.3 * WAVE
    found = measures.landmark_lip_level(clip(points(opening + level), points(opening)))
    assert found == pytest.approx(-abs(level), abs=1e-6)


def test_width_of_the_mouth():
    def with_corners(aside):
        made = TRUE.copy()
        made[:, 48, 0] -= 0.2 + 0.05 * np.asarray(aside)
        made[:, 54, 0] += 0.2 + 0.05 * np.asarray(aside)
        return made

    width = measures.landmark_mouth_width
    assert width(clip(with_corners(WAVE), with_corners(WAVE))) == pytest.approx(1)
    assert width(clip(with_corners(0.5 * WAVE), with_corners(WAVE))) == pytest.approx(0.8)
    assert width(clip(with_corners(-WAVE), with_corners(WAVE))) == pytest.approx(-1)
    assert math.isnan(width(clip(with_corners(WAVE), TRUE)))  # the real mouth keeps its width


def test_liveliness_of_face_and_head_are_told_apart():
    same, still = clip(TRUE, TRUE), clip(points(0.3 * WAVE), TRUE)
    head = clip(points(0.3 * WAVE, 0.02 * WAVE), TRUE)
    face = clip(points(0.3 * WAVE, 0.0, 0.02 * WAVE[::-1]), TRUE)
    assert measures.landmark_expression(same) > measures.landmark_expression(still)
    assert measures.landmark_motion(head) > measures.landmark_motion(still)
    assert measures.landmark_expression(face) == pytest.approx(
        measures.landmark_expression(same), abs=0.02
    )
    assert measures.landmark_motion(face) < measures.landmark_motion(head)
    twice = clip(points(0.3 * WAVE, 0.04 * WAVE), TRUE)
    assert measures.landmark_motion(twice) == pytest.approx(-math.log(2), abs=0.05)


def test_closeness_and_steadiness():
    assert measures.landmark_closeness(clip(TRUE, TRUE)) == 0
    aside = points(0.3 * WAVE, 0.02 * WAVE + 0.02, 0.02 * WAVE[::-1])
    assert measures.landmark_closeness(clip(aside, TRUE)) == pytest.approx(-1)  # of 100 percent
    even, shaking = (
        points(shift=0.01 * np.arange(FRAMES)),
        points(shift=0.01 * (-1) ** np.arange(24)),
    )
    assert measures.landmark_jitter(clip(even)) == pytest.approx(0, abs=1e-9)
    assert measures.landmark_jitter(clip(shaking)) == pytest.approx(2, abs=0.02)
    steadiness = measures.landmark_steadiness
    assert steadiness(clip(even, TRUE)) > steadiness(clip(shaking, TRUE))
    assert measures.landmark_speed(clip(even)) == pytest.approx(0.5)


def test_without_landmarks_there_is_no_number():
    names = [name for name in MEASURES.names() if name.startswith("landmark_")]
    found = {name: named(MEASURES, name) for name in names}
    assert len(found) == 10 and all(measure.reads == "points" for measure in found.values())
    assert all(math.isnan(measure(clip(None, TRUE))) for measure in found.values())
