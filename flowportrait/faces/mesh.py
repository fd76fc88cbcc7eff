"""The 478 points of MediaPipe's face mesh and what can be read from them; which point is which.

The mesh's numbering is that of MediaPipe's canonical face model (Apache-2.0), points 468 to 477 are
the irises. Right and left are the subject's own: the right eye lies to the left in a picture that
is not mirrored. Right comes first, as in the 68 points of the dlib/iBUG order.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

NUM_POINTS = 478

_POINTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_BEHIND_68 = [point for part in _POINTS["behind_68"].values() for point in part]
"""For each of the 68 points of the dlib/iBUG order a mesh point, or two whose midpoint it is."""
_FIRST_OF_68 = np.array([np.ravel(points)[0] for points in _BEHIND_68])
_LAST_OF_68 = np.array([np.ravel(points)[-1] for points in _BEHIND_68])

OUTER_EYE_CORNERS = (33, 263)
RIGHT_LIDS = np.array(_POINTS["right_lids"])
LEFT_LIDS = np.array(_POINTS["left_lids"])
"""[2, 9] the upper and the lower lid, from the outer corner of the eye to the inner."""
OUTER_LIPS = np.array(_POINTS["outer_lips"])
INNER_LIPS = np.array(_POINTS["inner_lips"])
"""[2, 11] the upper and the lower edge, from the right corner of the mouth to the left."""
FACE_OVAL = np.array(_POINTS["face_oval"])
"""The closed outline of the face, from the middle of the forehead over the subject's left side."""
IRIS_CENTRES = np.array(_POINTS["iris_centres"])
IRIS_RINGS = np.array(_POINTS["iris_rings"])
_ACROSS = np.array(_POINTS["across"])
_DOWN = np.array(_POINTS["down"])
"""Both ends of lines that run across the face and down it, for its attitude."""


def landmarks68(points: Float[np.ndarray, "*n 478 d"]) -> Float[np.ndarray, "*n 68 d"]:
    """The 68 points of the dlib/iBUG order of meshes."""
    return (points[..., _FIRST_OF_68, :] + points[..., _LAST_OF_68, :]) / 2


@dataclass(frozen=True)
class Mesh:
    """A face in pixels of its picture, x to the right and y down, pixel centres at whole numbers.

    `depth` grows away from the viewer, in the same pixels, from an origin within the head;
    `presence` is the network's belief, in [0, 1], that there is a face.
    """

    points: Float[np.ndarray, "478 2"]
    depth: Float[np.ndarray, " 478"]
    presence: float

    @property
    def landmarks68(self) -> Float[np.ndarray, "68 2"]:
        """The 68 points of the dlib/iBUG order."""
        return landmarks68(self.points)

    @property
    def irises(self) -> Float[np.ndarray, "2 2"]:
        """Centres of the right and the left iris."""
        return self.points[IRIS_CENTRES]

    @property
    def iris_radius(self) -> Float[np.ndarray, " 2"]:
        """Radii of the right and the left iris: mean distance of the four points on the rim, px."""
        spokes = self.points[IRIS_RINGS] - self.irises[:, None]
        return np.linalg.norm(spokes, axis=-1).mean(1)

    @property
    def right_lids(self) -> Float[np.ndarray, "2 9 2"]:
        """Upper and lower lid of the right eye, each from the outer corner to the inner."""
        return self.points[RIGHT_LIDS]

    @property
    def left_lids(self) -> Float[np.ndarray, "2 9 2"]:
        """Upper and lower lid of the left eye, each from the outer corner to the inner."""
        return self.points[LEFT_LIDS]

    @property
    def outer_lips(self) -> Float[np.ndarray, "2 11 2"]:
        """Outer edge of the upper and of the lower lip, each from the right corner to the left."""
        return self.points[OUTER_LIPS]

    @property
    def inner_lips(self) -> Float[np.ndarray, "2 11 2"]:
        """Inner edge of the upper and of the lower lip, each from the right corner to the left."""
        return self.points[INNER_LIPS]

    @property
    def oval(self) -> Float[np.ndarray, "36 2"]:
        """The closed outline of the face, from the middle of the forehead over the left side."""
        return self.points[FACE_OVAL]

    @property
    def roll(self) -> float:
        """Turn in the picture's plane, radians in (-pi, pi]: 0 upright, positive clockwise."""
        right, left = self.points[list(OUTER_EYE_CORNERS)]
        return float(np.arctan2(left[1] - right[1], left[0] - right[0]))

    @property
    def yaw_pitch(self) -> tuple[float, float]:
        """Rough turns out of the picture's plane, radians: yaw to the right as seen when the head
        is upright, pitch upwards. Read from the network's depths, which are no measurement."""
        solid = np.column_stack((self.points @ turn(self.roll), self.depth))
        across, down = ((solid[end] - solid[start]).mean(0) for start, end in (_ACROSS, _DOWN))
        return float(np.arctan2(across[2], across[0])), float(np.arctan2(-down[2], down[1]))


def turn(angle: float) -> Float[np.ndarray, "2 2"]:
    """Multiplied from the right, takes a turn clockwise as seen by `angle` radians back."""
    cosine = np.cos(angle)
    sine = np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]], np.float32)
