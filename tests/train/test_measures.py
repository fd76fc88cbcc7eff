"""Simple scorers and monitors: what they say of clips whose motion is known."""

import math

import numpy as np
import pytest

from flowportrait.media import Sound
from flowportrait.scoring.reward import Candidate
from flowportrait.train import measures

FRAMES, SIZE, RATE = 24, 64, 16_000
BLOCKS = np.random.default_rng(0).integers(40, 216, (SIZE // 8, SIZE // 8, 3))
PICTURE = BLOCKS.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def clip(opening, sound=None, truth=None, frames=None):
    """A still picture whose mouth darkens by `opening` [f] in [0, 1]."""
    made = np.repeat(PICTURE[None], len(opening), 0).copy() if frames is None else frames
    if frames is None:
        made[:, 42:54, 24:40] = (200 - 150 * np.asarray(opening)).astype(np.uint8)[
            :, None, None, None
        ]
    samples = np.zeros(len(opening) * RATE // 24, np.float32) if sound is None else sound
    return Candidate("key", made, 24.0, Sound(samples, RATE), made[0], truth)


WAVE = 0.5 + 0.5 * np.sin(np.arange(FRAMES))
TRUE = clip(WAVE).frames


def test_lips_that_follow_the_truth():
    assert measures.lip_truth(clip(WAVE, truth=TRUE)) > 0.99
    assert measures.lip_truth(clip(0.5 * WAVE, truth=TRUE)) > 0.99
    assert measures.lip_truth(clip(1 - WAVE, truth=TRUE)) < -0.99
    assert (
        measures.lip_truth(clip(np.full(FRAMES, 0.5), truth=TRUE)) == 0
    )  # a mouth that stands still is no failure


def test_what_cannot_be_measured_is_nan():
    assert math.isnan(measures.lip_truth(clip(WAVE))) and math.isnan(measures.closeness(clip(WAVE)))
    assert math.isnan(measures.lip_truth(clip(WAVE, truth=clip(np.zeros(FRAMES)).frames)))
    assert math.isnan(measures.lip_loudness(clip(WAVE)))
    assert math.isnan(measures.jitter(clip(WAVE[:2]))) and math.isnan(
        measures.motion_px(clip(WAVE[:1]))
    )


def test_lips_that_follow_the_sound():
    loudness = np.repeat(0.02 + WAVE, RATE // 24 + 1)[: FRAMES * RATE // 24]
    hum = (0.3 * loudness * np.sin(np.arange(len(loudness)))).astype(np.float32)
    assert (
        measures.lip_loudness(clip(WAVE, hum))
        > 0.7
        > 0
        > measures.lip_loudness(clip(1 - WAVE, hum))
    )


def test_monitors_know_a_still_a_moving_and_a_trembling_picture():
    rolled = np.stack([np.roll(PICTURE, i, axis=1) for i in range(FRAMES)])
    trembling = np.stack([np.roll(PICTURE, i % 2, axis=1) for i in range(FRAMES)])
    still, moving, shaking = (
        clip(WAVE, frames=f) for f in (np.repeat(PICTURE[None], FRAMES, 0), rolled, trembling)
    )
    assert (
        measures.motion_px(still)
        == measures.difference_energy(still)
        == measures.jitter(still)
        == 0
    )
    assert measures.motion_px(moving) == pytest.approx(measures.motion_px(shaking), rel=0.1)
    assert 0.3 < measures.motion_px(moving) < 2
    assert measures.jitter(shaking) == pytest.approx(2, abs=0.1) and measures.jitter(moving) < 1.2
    assert measures.smoothness(shaking) == -measures.jitter(shaking)


def test_monitors_know_drift_and_blur():
    drifting = np.clip(PICTURE[None] + np.arange(FRAMES)[:, None, None, None], 0, 255).astype(
        np.uint8
    )
    assert measures.colour_drift(clip(WAVE, frames=drifting)) == pytest.approx(
        18 * math.sqrt(3), rel=0.05
    )
    blurred = (PICTURE.astype(int) + np.roll(PICTURE, 1, 0) + np.roll(PICTURE, 1, 1)) // 3
    sharp, soft = (
        clip(WAVE, frames=np.repeat(p.astype(np.uint8)[None], 3, 0)) for p in (PICTURE, blurred)
    )
    assert measures.sharpness(soft) < 0.7 * measures.sharpness(sharp)
    assert (
        measures.closeness(clip(WAVE, truth=TRUE))
        == 0
        > measures.closeness(clip(1 - WAVE, truth=TRUE))
    )
