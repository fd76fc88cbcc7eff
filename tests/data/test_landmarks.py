"""Landmarks: mirroring, and how far lips and lids stand open."""

import numpy as np

from flowportrait.data.augment import Look, draw_look, move_landmarks
from flowportrait.data.landmarks import MIRRORED, lid_opening, lip_opening


def test_mirroring_twice_changes_nothing_and_keeps_the_parts_of_the_face():
    assert (MIRRORED[MIRRORED] == np.arange(68)).all()
    for part in (range(17), range(17, 27), range(27, 31), range(31, 36), range(36, 48), range(48, 60), range(60, 68)):
        assert set(MIRRORED[list(part)]) == set(part)


def test_a_mirrored_look_keeps_every_point_on_its_own_side():
    """Point 0 begins the jaw on the left of the picture, whether or not the picture was mirrored."""
    points = np.random.default_rng(0).uniform(40, 88, (68, 2)).astype(np.float32)
    points[:17, 0] = np.linspace(20, 108, 17)
    looks: list[Look] = [draw_look(np.random.default_rng(seed), points, 128) for seed in range(8)]
    mirrored = [np.linalg.det(look.matrix[:, :2].numpy()) < 0 for look in looks]
    assert any(mirrored) and not all(mirrored)
    for look in looks:
        moved = move_landmarks(look, points, 128, 128)
        assert moved[0, 0] < moved[16, 0]


def test_openings_are_gaps_over_the_distance_of_the_eyes():
    points = np.zeros((1, 68, 2), np.float32)
    points[0, 36:42, 0], points[0, 42:48, 0] = -20, 20
    points[0, 61:64, 1], points[0, 65:68, 1] = -3, 5
    points[0, [37, 38, 43, 44], 1], points[0, [41, 40, 47, 46], 1] = -1, 3
    assert abs(lip_opening(points)[0] - 0.2) < 0.01
    assert abs(lid_opening(points)[0] - 0.1) < 0.01
