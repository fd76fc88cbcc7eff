"""The 478 points of MediaPipe's face mesh and what can be read from them; which point is which.

The mesh's numbering is that of MediaPipe's canonical face model (Apache-2.0), points 468 to 477 are
the irises. Right and left are the subject's own: the right eye lies to the left in a picture that
is not mirrored. Right comes first, as in the 68 points of the dlib/iBUG order.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

NUM_POINTS = 478

MESH_POINTS_OF_68 = (
    *((127,), (234,), (93,), (132,), (172,), (150,), (149,), (148,)),  # jaw, right side
    (152,),  # chin
    *((377,), (378,), (379,), (397,), (361,), (323,), (454,), (356,)),  # jaw, left side
    *((70,), (63,), (105,), (66,), (107,)),  # right brow
    *((336,), (296,), (334,), (293,), (300,)),  # left brow
    *((168,), (197,), (195,), (4,)),  # nose bridge
    *((98,), (97,), (2,), (326,), (327,)),  # under the nose
    *((33,), (160,), (158,), (133,), (153,), (144,)),  # right eye
    *((362,), (385,), (387,), (263,), (373,), (380,)),  # left eye
    *((61,), (39, 40), (37,), (0,), (267,), (269, 270), (291,)),  # outer lips, upper
    *((321,), (314, 405), (17,), (84, 181), (91,)),  # outer lips, lower
    *((78,), (81,), (13,), (311,), (308,)),  # inner lips, upper
    *((402,), (14,), (178,)),  # inner lips, lower
)
"""Mesh points behind each of the 68 points of the dlib/iBUG order; two mean their midpoint."""
_FIRST_OF_68 = np.array([points[0] for points in MESH_POINTS_OF_68])
_LAST_OF_68 = np.array([points[-1] for points in MESH_POINTS_OF_68])

OUTER_EYE_CORNERS = (33, 263)
# Lids from the outer corner of the eye to the inner, which both arcs share: upper, lower.
RIGHT_LIDS = np.array(
    [
        [33, 246, 161, 160, 159, 158, 157, 173, 133],
        [33, 7, 163, 144, 145, 153, 154, 155, 133],
    ]
)
LEFT_LIDS = np.array(
    [
        [263, 466, 388, 387, 386, 385, 384, 398, 362],
        [263, 249, 390, 373, 374, 380, 381, 382, 362],
    ]
)
# Edges of the lips from the right corner of the mouth to the left; both arcs share the corners.
OUTER_LIPS = np.array(
    [
        [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291],
        [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291],
    ]
)
INNER_LIPS = np.array(
    [
        [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308],
        [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308],
    ]
)
FACE_OVAL = np.array(
    [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152]
    + [148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
)
"""The closed outline of the face, from the middle of the forehead over the subject's left side."""
IRIS_CENTRES = np.array([468, 473])
IRIS_RINGS = np.array([[469, 470, 471, 472], [474, 475, 476, 477]])

# Ends of lines that run across the face from right to left, and down it, for its attitude.
_ACROSS = (np.array([234, 127, 93, 33]), np.array([454, 356, 323, 263]))
_DOWN = (np.array([10]), np.array([152]))


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
