"""The numbering of 68 landmarks, and how far the lips stand open."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Points = TypeVar("Points")  # an array of numpy or a tensor of torch; what is computed of it is one

POINTS = 68
INNER_LIPS = (slice(61, 64), slice(65, 68))  # upper and lower
UPPER_LIP, LOWER_LIP, CORNERS = (61, 62, 63), (67, 66, 65), (60, 64)  # of the inner lips
OUTER_CORNERS = (48, 54)  # of the mouth
EYES = (slice(36, 42), slice(42, 48))
UPPER_LIDS = (37, 38, 43, 44)
LOWER_LIDS = (41, 40, 47, 46)
MIRRORED = np.array(
    (
        *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42,
        47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62,
        61, 60, 67, 66, 65,
    )
)  # fmt: skip
"""For each point its counterpart on the other side of the face."""


def lip_opening(landmarks: Points) -> Points:
    """Inner-lip gap over the distance between the eyes, per frame, of landmarks [n, 68, 2]."""
    upper, lower = (landmarks[:, part].mean(1) for part in INNER_LIPS)
    return _length(lower - upper) / eye_distance(landmarks)


def mouth_width(landmarks: Points) -> Points:
    """Distance of the outer corners of the mouth over that of the eyes, per frame, of landmarks
    [n, 68, 2].
    """
    left, right = OUTER_CORNERS
    return _length(landmarks[:, right] - landmarks[:, left]) / eye_distance(landmarks)


def eye_distance(landmarks: Points) -> Points:
    """Distance of the middles of the eyes, per frame."""
    left, right = (landmarks[:, eye].mean(1) for eye in EYES)
    return _length(right - left)


def _length(vectors: Points) -> Points:
    """The lengths of vectors [n, 2]."""
    return (vectors**2).sum(-1) ** 0.5
