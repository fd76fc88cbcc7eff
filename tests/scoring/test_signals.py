"""Signals of the offline judge that need no clip: repeats, blinks, and what is surprising about
their number.
"""

import numpy as np
import pytest

from flowportrait.scoring.metrics.blendshapes import eye_edges, features, shape_table
from flowportrait.scoring.metrics.signals import blinks, even_repeats, surprise
from flowportrait.scoring.metrics.tracking import MIRRORED
from flowportrait.world.names import ARKIT


@pytest.mark.parametrize("rate", [12, 15, 18, 20])
def test_a_steady_lower_rate_is_no_fault(rate):
    still = np.diff(np.floor(np.arange(73) * rate / 24 + 1e-6)) == 0
    even = even_repeats(still)
    assert not (even & ~still).any()
    assert even.sum() >= still.sum() - 1


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_frames_lost_at_random_stay_a_fault(share):
    rng = np.random.default_rng(0)
    taken = [even_repeats(rng.random(71) < share).any() for _ in range(200)]
    assert np.mean(taken) < 0.02
    assert not even_repeats(np.arange(71) > 71 * (1 - share)).any()


def test_how_surprising_a_number_of_blinks_is_depends_on_the_time():
    assert surprise(0, 3) > -0.2
    assert surprise(0, 20) < -1.3
    assert surprise(6, 20) == 0 and surprise(1, 3) == 0
    assert surprise(20, 10) < -2
    by_time = [surprise(0, seconds) for seconds in (1, 3, 10, 20, 40)]
    assert (
        all(a > b for a, b in zip(by_time[1:], by_time[2:], strict=False))
        and by_time[0] >= by_time[1]
    )


def test_blinks_are_counted_above_the_noise():
    rng = np.random.default_rng(1)
    open_eyes = 1 + rng.normal(0, 0.02, (240, 2))
    assert blinks(open_eyes) == []
    starts = [20, 80, 150, 151 + 60]
    for start in starts:
        open_eyes[start : start + 4] -= [[0.2], [0.5], [0.5], [0.2]]
    found = blinks(open_eyes)
    assert len(found) == len(starts) and all(
        abs(a - b) <= 1 for a, b in zip(found, starts, strict=True)
    )


def test_an_eye_that_shuts_loses_its_upright_edges():
    points = np.zeros((9, 68, 2))
    points[:, 36:42], points[:, 42:48] = [40.0, 50.0], [88.0, 50.0]
    frames = np.full((9, 128, 128, 3), 180, np.uint8)
    frames[:, 46:55, [36, 37, 43, 44, 84, 85, 91, 92]] = 40
    frames[4, 40:60] = 150
    edges = eye_edges(frames, points)
    assert edges.shape == (9, 2)
    assert (edges[[0, 1, 7, 8]] == 1).all() and (edges[4] < 0.2).all()
    assert features(points + np.arange(68)[:, None], edges).shape == (9, 138)


def test_the_table_of_shapes_keeps_what_it_reads_well():
    table = shape_table()
    assert {"jawOpen", "eyeBlinkLeft", "eyeBlinkRight"} <= set(table.names) <= set(ARKIT)
    assert table.weights.shape == (138, len(table.names)) and min(table.correlation) > 0.5


def test_a_mirror_swaps_sides_twice_to_nothing():
    mirror = np.array(MIRRORED)
    assert (mirror[mirror] == np.arange(68)).all()
    assert (mirror[[8, 27, 30, 33, 51, 57]] == [8, 27, 30, 33, 51, 57]).all()
