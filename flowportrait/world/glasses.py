"""Spectacle frames: two rims, a bridge and two temples as thick strands."""

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.rig import Rig

POINTS = 40
_COLOURS = ((0.01, 0.01, 0.01), (0.05, 0.025, 0.012), (0.12, 0.12, 0.13), (0.14, 0.03, 0.03))


def make_glasses(rng: Rng, rig: Rig, head: Array) -> tuple[Array, Array]:
    """[5, 40, 3] strands in the head's frame, and the frame's colour."""
    frame = _Frame(rng, head[rig.landmarks], rig.eye_centres(head))
    rims = [frame.rim(side) for side in (1, -1)]
    temples = [frame.temple(side) for side in (1, -1)]
    strands = np.stack([*rims, frame.bridge(), *temples])
    colour = _COLOURS[rng.integers(len(_COLOURS))]
    return strands.astype(np.float32), np.array(colour, np.float32)


class _Frame:
    """The measures of a frame that fits a face, cm; `at` are its landmarks [68, 3]."""

    def __init__(self, rng: Rng, at: Array, eyes: Array):
        self.half_width = rng.uniform(2.35, 2.7)
        self.half_height = rng.uniform(1.7, 2.1)
        self.squareness = rng.choice([2.0, 2.6, 4.0])
        self.eye_x = float(np.abs(eyes[:, 0]).mean()) * 1.06
        self.eye_y = float(eyes[:, 1].mean())
        before_lids = at[[37, 38, 43, 44], 2].max() + 1.3
        before_nose = at[27, 2] + 0.3
        self.front = max(before_lids, before_nose)
        self.ear_x = np.abs(at[[0, 16], 0]).mean() + 0.45

    def depth(self, x):
        """Frames bend back towards the temples."""
        return self.front - 0.033 * x**2

    def rim(self, side: int) -> Array:
        """[40, 3] a closed curve around an eye, between an ellipse and a rectangle."""
        angle = np.linspace(0, 2 * np.pi, POINTS)
        x = side * self.eye_x + self.half_width * self._rounded(np.cos(angle))
        y = self.eye_y - 0.35 + self.half_height * self._rounded(np.sin(angle))
        return np.stack([x, y, self.depth(x)], 1)

    def _rounded(self, wave: Array) -> Array:
        """A sine or cosine of the angle, pressed towards 1 the more square the rim is."""
        return np.sign(wave) * np.abs(wave) ** (2 / self.squareness)

    def bridge(self) -> Array:
        """[40, 3] an arch from rim to rim over the nose."""
        inner = self.eye_x - self.half_width
        x = np.linspace(-inner, inner, POINTS)
        y = self.eye_y + 0.15 + 0.25 * np.cos(x / inner * 1.5)
        z = self.front + 0.05 + 0 * x
        return np.stack([x, y, z], 1)

    def temple(self, side: int) -> Array:
        """[40, 3] from a rim's outer end back over the ear."""
        along = np.linspace(0, 1, POINTS)
        hinge = self.eye_x + self.half_width
        x = side * (hinge + (self.ear_x - hinge) * np.minimum(1, along * 1.5))
        y = self.eye_y + 0.4 - 0.6 * along**3
        z = self.depth(hinge) + (-1.5 - self.depth(hinge)) * along
        return np.stack([x, y, z], 1)
