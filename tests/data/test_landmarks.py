"""Landmarks: mirroring, and how far lips stand open."""

from dataclasses import replace

import numpy as np
import torch

from flowportrait.data.augment import Look, apply_look, draw_look, move_landmarks
from flowportrait.faces.landmarks import MIRRORED, lip_opening


def test_mirroring_twice_changes_nothing_and_keeps_the_parts_of_the_face():
    assert (MIRRORED[MIRRORED] == np.arange(68)).all()
    for part in (
        range(17),
        range(17, 27),
        range(27, 31),
        range(31, 36),
        range(36, 48),
        range(48, 60),
        range(60, 68),
    ):
        assert set(MIRRORED[list(part)]) == set(part)


def test_a_mirrored_look_keeps_every_point_on_its_own_side():
    """Point 0 begins the jaw on the left of the picture, whether or not the picture was
    mirrored.
    """
    points = np.random.default_rng(0).uniform(40, 88, (68, 2)).astype(np.float32)
    points[:17, 0] = np.linspace(20, 108, 17)
    looks: list[Look] = [draw_look(np.random.default_rng(seed), points, 128) for seed in range(8)]
    mirrored = [np.linalg.det(look.matrix[:, :2].numpy()) < 0 for look in looks]
    assert any(mirrored) and not all(mirrored)
    for look in looks:
        moved = move_landmarks(look, points, 128, 128)
        assert moved[0, 0] < moved[16, 0]


def test_the_opening_is_the_gap_over_the_distance_of_the_eyes():
    points = np.zeros((1, 68, 2), np.float32)
    points[0, 36:42, 0], points[0, 42:48, 0] = -20, 20
    points[0, 61:64, 1], points[0, 65:68, 1] = -3, 5
    assert abs(lip_opening(points)[0] - 0.2) < 0.01


def test_a_bent_picture_takes_its_landmarks_along():
    """A bright dot at a point of the source is found, in the bent cut, where the moved point
    says.
    """
    points = np.stack(np.meshgrid(np.linspace(44, 84, 4), np.linspace(44, 84, 17)), -1).reshape(
        68, 2
    )
    points = points.astype(np.float32)
    looks = [draw_look(np.random.default_rng(seed), points, 128) for seed in range(6)]
    assert any(look.bend.abs().max() > 0.05 for look in looks)
    rows, columns = np.mgrid[:128, :128] + 0.5
    shown = 5
    x, y = points[shown]
    dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
    frames = np.repeat((dot * 255).astype(np.uint8)[None, :, :, None], 3, -1)
    for look in looks:
        cut = apply_look(
            replace(look, gain=torch.ones(3), light=torch.tensor([1.0, 0, 0])), frames, 128
        )[0].mean(0)
        mass = (cut - cut.min()).numpy() ** 2
        found = (mass * columns).sum() / mass.sum(), (mass * rows).sum() / mass.sum()
        mirrored = np.linalg.det(look.matrix[:, :2].numpy()) < 0
        index = list(MIRRORED).index(shown) if mirrored else shown
        np.testing.assert_allclose(found, move_landmarks(look, points, 128, 128)[index], atol=0.6)
