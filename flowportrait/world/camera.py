"""The camera of a scene, and the turn and place of the head that it films."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from flowportrait.arrays import Array
from flowportrait.world.raster import (
    project,
)

_PIVOT = np.array([0, -8.0, -1.5], np.float32)
"""The head turns about here, in the neck."""


class Motion(NamedTuple):
    """The motion of a head, one row a frame."""

    faces: Array
    """[f, 52] ARKit weights; eyeBlink 1 means that the lids meet."""
    pose: Array
    """[f, 6] yaw, pitch, roll in radians; x, y, z in cm."""
    gaze: Array
    """[f, 2] to the viewer's right and up, radians."""
    tongue: Array
    """[f] how far the tip of the tongue is raised, in [0, 1]."""


@dataclass(frozen=True)
class Camera:
    """A pinhole looking along -z; pixels are those of the supersampled picture."""

    place: Array
    """[3]"""
    focal_px: float
    centre: tuple[float, float]

    def screen(self, points: Array, pose: Array, follows: Array | None = None) -> Array:
        """[n, 3] x and y in pixels and 1/depth of points of the head's frame; the neck `follows`
        only in part.
        """
        seen = np.empty_like(points)
        rotation = rotation_of(*pose[:3]).astype(np.float32)
        offset = _PIVOT - rotation @ _PIVOT + pose[3:].astype(np.float32)
        project(
            points,
            rotation,
            offset,
            follows,
            self.focal_px,
            *self.centre,
            self.place,
            seen,
        )
        return seen


@lru_cache(maxsize=64)
def rotation_of(yaw: float, pitch: float, roll: float) -> Array:
    """[3, 3] the head's turn: roll first, then pitch, then yaw; radians."""
    cy = np.cos(yaw)
    sy = np.sin(yaw)
    cp = np.cos(pitch)
    sp = np.sin(pitch)
    cr = np.cos(roll)
    sr = np.sin(roll)
    about_y = np.array(
        [
            [cy, 0, sy],
            [0, 1, 0],
            [-sy, 0, cy],
        ]
    )
    about_x = np.array(
        [
            [1, 0, 0],
            [0, cp, -sp],
            [0, sp, cp],
        ]
    )
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z
