"""What MediaPipe's face mesh sees of the lips: a look at pixels that no training has rewarded."""

from __future__ import annotations

import hashlib
from functools import cache, partial

import numpy as np

from flowportrait.faces.facemesh import FaceMesh
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.landmarks import lip_opening
from flowportrait.scoring.reward import Candidate, Measure
from flowportrait.train.landmark_measures import follows

_KEPT = 256  # openings of real clips, which come again at every look

_openings: dict[bytes, np.ndarray] = {}


@partial(Measure, monitor=True)
def mesh_lips(clip: Candidate) -> float:
    """Correlation of the lips' opening with the real clip's, both as the face mesh sees them; nan
    without one, or where its lips stand still.
    """
    if clip.truth is None:
        return float("nan")
    key = hashlib.sha256(clip.truth.tobytes()).digest()
    true = _openings.get(key)
    if true is None:
        while len(_openings) >= _KEPT:
            _openings.pop(next(iter(_openings)), None)
        true = _openings[key] = _opening(clip.truth)
    made = _opening(clip.frames)
    count = min(len(made), len(true))
    return follows(made[:count], true[:count])


def _opening(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    # Appendix B's square is one and a half times the face's box.
    box = FaceBox(width / 6, height / 6, 5 * width / 6, 5 * height / 6, 1.0)
    meshes = _mesh().follow(frames, box)
    return lip_opening(np.stack([mesh.landmarks68 for mesh in meshes]))


@cache
def _mesh() -> FaceMesh:
    return FaceMesh()
