"""Wavefront files: the vertices and triangles of a mesh."""

from pathlib import Path

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import DataError


def read_obj_vertices(path: Path) -> Array:
    """[v, 3] the vertices of a Wavefront file."""
    with path.open(encoding="utf-8") as file:
        rows = [line.split()[1:4] for line in file if line.startswith("v ")]
    if not rows:
        raise DataError(f"{path}: holds no vertices; give the unchanged file")
    return np.array(rows, np.float32)


def read_obj(path: Path) -> tuple[Array, Array]:
    """Vertices [v, 3] and triangles [t, 3] of a Wavefront file, polygons cut into fans."""
    triangles: list[tuple[int, int, int]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("f "):
                corners = [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
                triangles += [
                    (corners[0], b, c) for b, c in zip(corners[1:], corners[2:], strict=False)
                ]
    return read_obj_vertices(path), np.array(triangles, np.int32)
