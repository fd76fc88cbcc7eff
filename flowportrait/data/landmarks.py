"""What 68 landmarks say of a face: how far lips and lids stand open."""

from __future__ import annotations

import numpy as np

INNER_LIPS = (slice(61, 64), slice(65, 68))  # upper and lower
EYES = (slice(36, 42), slice(42, 48))
UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Inner-lip gap over the distance between the eyes, per frame, of landmarks [n, 68, 2]."""
    upper, lower = (landmarks[:, part].mean(1) for part in INNER_LIPS)
    return np.linalg.norm(lower - upper, axis=-1) / _eye_distance(landmarks)


def lid_opening(landmarks: np.ndarray) -> np.ndarray:
    """Mean gap between upper and lower lids over the distance between the eyes, per frame."""
    gaps = np.linalg.norm(landmarks[:, UPPER_LIDS] - landmarks[:, LOWER_LIDS], axis=-1)
    return gaps.mean(-1) / _eye_distance(landmarks)


def _eye_distance(landmarks: np.ndarray) -> np.ndarray:
    left, right = (landmarks[:, eye].mean(1) for eye in EYES)
    return np.linalg.norm(right - left, axis=-1)
