"""Face shapes by ARKit's names, read from 68 landmarks and the eyes by a small linear table: what a
face does.

The table (face_shapes.safetensors) was fitted to the world's own ground truth (`python -m
bench.face_shapes`). It gives how far each shape is from the clip's median face: a smile that is
held throughout cannot be told from a mouth that is made like that. Only shapes that it reads well
on people it was not fitted to are in it. The shipped landmarker hardly sees lids close, so how open
an eye is comes from the picture: the upright edges of iris and white vanish.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open

from flowportrait.arrays import Array, Frames, Landmarks, PerFrame, PlacePerFrame

TABLE = Path(__file__).with_name("face_shapes.safetensors")
_EYES = (slice(36, 42), slice(42, 48))
_BOX = (0.32, 0.2)  # half of an eye's box, in eye distances


class ShapeTable(NamedTuple):
    """`weights` [138, shapes]: from `features` to shapes; `correlation` of each with the truth on
    held-out people.
    """

    names: tuple[str, ...]
    weights: Array
    correlation: tuple[float, ...]


@lru_cache(maxsize=1)
def shape_table() -> ShapeTable:
    """The shipped table."""
    with safe_open(TABLE, "np") as file:
        about = file.metadata()
        correlation = tuple(map(float, about["correlation"].split()))
        return ShapeTable(
            tuple(about["names"].split()),
            file.get_tensor("weights"),
            correlation,
        )


def upright(landmarks: Landmarks) -> Landmarks:
    """Landmarks with the eyes level, the middle between them at 0 and their median distance 1."""
    left, right = (landmarks[:, eye].mean(1) for eye in _EYES)
    across = right - left
    size = np.linalg.norm(across, axis=1)
    cos = across[:, 0] / size
    sin = across[:, 1] / size
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    return np.einsum("fij,fkj->fki", turn, landmarks - ((left + right) / 2)[:, None]) / np.median(
        size
    )


@torch.inference_mode()
def eye_edges(frames: Frames, landmarks: Landmarks) -> PlacePerFrame:
    """Mean upright slope of light in a box about each eye, over its median in the clip: 1 open,
    about 0.4 shut.
    """
    light = torch.from_numpy(frames.mean(-1, dtype=np.float32))[:, None]
    left, right = (landmarks[:, eye].mean(1) for eye in _EYES)
    middle = _calm((left + right) / 2)
    across = _calm(right - left)
    return _edges_beside(across, middle, light)


def _edges_beside(across, middle, light) -> PlacePerFrame:
    """[f, 2] how strong edges of light are in boxes at both ends of a line, over their median."""
    size = np.median(np.linalg.norm(across, axis=1))
    along = across / np.linalg.norm(across, axis=1, keepdims=True)
    x, y = np.meshgrid(np.linspace(-_BOX[0], _BOX[0], 24), np.linspace(-_BOX[1], _BOX[1], 12))
    down = np.stack([-along[:, 1], along[:, 0]], 1)
    edges = []
    for side in (-0.5, 0.5):
        where = middle[:, None, None] + size * (
            (x + side)[..., None] * along[:, None, None] + y[..., None] * down[:, None, None]
        )
        where = (where + 0.5) * 2 / np.array(light.shape[:1:-1]) - 1
        box = F.grid_sample(
            light, torch.from_numpy(where).float(), padding_mode="border", align_corners=False
        )[:, 0]
        edges.append(box.diff(dim=2).abs().mean((1, 2)).numpy())
    both = np.stack(edges, 1)
    return both / np.maximum(np.median(both, 0), 1e-6)


def features(landmarks: Landmarks, eyes: PlacePerFrame) -> Float[np.ndarray, "f 138"]:
    """Input of the table: upright landmarks less their median over the clip, and how far
    `eye_edges` fall.
    """
    points = upright(landmarks).reshape(len(landmarks), -1)
    return np.concatenate([points - np.median(points, 0), 1 - eyes], 1)


def face_shapes(landmarks: Landmarks, eyes: PlacePerFrame) -> dict[str, PerFrame]:
    """The shapes of every frame by ARKit's names, 0 the clip's median face and 1 the whole shape
    away from it.
    """
    table = shape_table()
    return dict(zip(table.names, (features(landmarks, eyes) @ table.weights).T, strict=True))


def _calm(path: Array) -> Array:
    """[f, 2] smoothed over seven frames: the landmarker's noise would move the box over the eye."""
    padded = np.pad(path, ((3, 3), (0, 0)), mode="edge")
    return np.stack(
        [np.convolve(padded[:, axis], np.ones(7) / 7, mode="valid") for axis in (0, 1)], 1
    )
