"""Spectacle frames: two rims, a bridge and two temples as thick strands."""

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.rig import Rig

POINTS = 40
_COLOURS = ((0.01, 0.01, 0.01), (0.05, 0.025, 0.012), (0.12, 0.12, 0.13), (0.14, 0.03, 0.03))


def make_glasses(rng: Rng, rig: Rig, head: Array) -> tuple[Array, Array]:
    """[5, 40, 3] strands in the head's frame, and the frame's colour."""
    at = head[rig.landmarks]
    eyes = rig.eye_centres(head)
    half_width, half_height, squareness = (
        rng.uniform(2.35, 2.7),
        rng.uniform(1.7, 2.1),
        rng.choice([2.0, 2.6, 4.0]),
    )
    eye_x = float(np.abs(eyes[:, 0]).mean()) * 1.06
    eye_y = float(eyes[:, 1].mean())
    front = max(at[[37, 38, 43, 44], 2].max() + 1.3, at[27, 2] + 0.3)

    def depth(x):
        """Frames bend back towards the temples."""
        return front - 0.033 * x**2

    angle = np.linspace(0, 2 * np.pi, POINTS)
    along = np.linspace(0, 1, POINTS)
    wide = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / squareness)
    tall = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / squareness)
    strands = []
    for side in (1, -1):
        x = side * eye_x + half_width * wide
        strands.append(np.stack([x, eye_y - 0.35 + half_height * tall, depth(x)], 1))
    inner = eye_x - half_width
    x = np.linspace(-inner, inner, POINTS)
    strands.append(
        np.stack([x, eye_y + 0.15 + 0.25 * np.cos(x / inner * 1.5), front + 0.05 + 0 * x], 1)
    )
    hinge = eye_x + half_width
    ear = np.abs(at[[0, 16], 0]).mean() + 0.45
    for side in (1, -1):
        x = side * (hinge + (ear - hinge) * np.minimum(1, along * 1.5))
        z = depth(hinge) + (-1.5 - depth(hinge)) * along
        strands.append(np.stack([x, eye_y + 0.4 - 0.6 * along**3, z], 1))
    return np.stack(strands).astype(np.float32), np.array(
        _COLOURS[rng.integers(len(_COLOURS))], np.float32
    )
