"""Rigs: one file format for every head, loaded into meshes that take identities and ARKit face
shapes.

A rig file is an npz of plain arrays (`vertices`, `triangles`, `parts`, `expressions`,
`expression_deltas`, `shapes`, `shape_deltas`, `landmarks`, `lips`, `rim`) and a JSON text `about`;
`import_rig` writes it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy import sparse

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.registry import name_hint
from flowportrait.world.names import ARKIT, EYE_LEFT, EYE_RIGHT, NUM_PARTS, SHAPE, SKIN

RIGS_DIR = Path(__file__).parent / "rigs"
EYE_DISTANCE = 6.232
"""Between the eyes' centres, cm, of every head."""
EYES_MIDDLE = np.array([0.0, 3.6016, 7.982])
"""Where the middle between the eyes lies; fixed, so that all heads share one chart."""
AXIS_Z = 1.5
"""Depth of the vertical axis about which charts and hair are laid."""
FORMAT = 1


@dataclass(frozen=True)
class About:
    """The description in a rig file. The gains bring the rigs' own units of motion to one scale."""

    name: str
    licence: str
    subdivided: bool
    nape_cm: float = 0.0
    teeth_gain: float = 1.0


@dataclass(frozen=True)
class Rig:
    """A head that can be anybody and make any face. n vertices after subdivision, c before it."""

    about: About
    vertices: Array
    """[n, 3] the average head."""
    triangles: Array
    """[t, 3]"""
    coarse: Array
    """[t', 3] those before subdivision, over the same vertices; good enough to throw shadows."""
    parts: Array
    """[n] part of each vertex, see `names`."""
    expressions: Array
    """[52, n, 3] what each ARKit shape adds."""
    shapes: tuple[str, ...]
    """The names of what makes identities differ."""
    shape_deltas: Array
    """[m, c, 3]"""
    landmarks: Array
    """[68] vertices of the iBUG landmarks."""
    lips: Array
    """[n] how much a vertex belongs to the red of the lips, in [0, 1]; empty when only landmarks
    tell.
    """
    rim: Array
    """Vertices along the rims of the lids, where lashes grow."""
    control: Array
    """[c, 3] the average head before subdivision."""
    subdivision: sparse.csr_matrix | None

    def identity(self, coefficients: Array) -> Array:
        """[n, 3] the neutral head for `coefficients` [m], eyes at their fixed place and
        distance.
        """
        control = self.control + np.tensordot(coefficients.astype(np.float32), self.shape_deltas, 1)
        head = control if self.subdivision is None else self.subdivision @ control
        return self._placed(head).astype(np.float32)

    def eye_centres(self, head: Array) -> Array:
        """[2, 3] centres of the left and the right eyeball."""
        boxes = (head[self.parts == part] for part in (EYE_LEFT, EYE_RIGHT))
        return np.stack([(box.min(0) + box.max(0)) / 2 for box in boxes])

    def pose(self, head: Array, faces: Array) -> Array:
        """[f, n, 3] the head making each of the `faces` [f, 52]."""
        moved = faces.astype(np.float32) @ self.expressions.reshape(len(ARKIT), -1)
        return moved.reshape(len(faces), *head.shape) + head

    def _placed(self, head: Array) -> Array:
        """The head moved and scaled until its eyes are where all heads have them."""
        left, right = self.eye_centres(head)
        return (head - (left + right) / 2) * (
            EYE_DISTANCE / np.linalg.norm(left - right)
        ) + EYES_MIDDLE


def load_rig(name_or_file: str | Path) -> Rig:
    """A shipped rig by name, or a rig file. Raises DataError when it is neither."""
    shipped = {path.stem: path for path in RIGS_DIR.glob("*.npz")}
    path = shipped.get(str(name_or_file), Path(name_or_file))
    if not path.is_file():
        raise DataError(
            f"rig: no rig or file '{name_or_file}'; {name_hint(str(name_or_file), shipped)}"
        )
    try:
        with np.load(path) as stored:
            arrays = {key: stored[key] for key in stored.files}
        about = json.loads(str(arrays["about"]))
        if about.pop("format") != FORMAT:
            raise DataError(
                f"{path}: a rig of another format; create it again with `flowportrait world"
                " import-rig`"
            )
        return _build(About(**about), arrays)
    except (OSError, BadZipFile, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not a rig ({error}); create one with `flowportrait world import-rig`"
        ) from error


def _build(about: About, arrays: dict[str, Array]) -> Rig:
    """A rig from the file's arrays, subdivided where its description says so."""
    control, triangles, parts = (
        arrays["vertices"].astype(np.float32),
        arrays["triangles"],
        arrays["parts"],
    )
    lips = arrays["lips"].astype(np.float32)
    deltas = arrays["expression_deltas"].astype(np.float32)
    vertices = control
    matrix = None
    coarse = np.ascontiguousarray(triangles, np.int32)
    if about.subdivided:
        matrix, triangles = loop_subdivision(triangles, len(control))
        parts = np.asarray(matrix @ np.eye(NUM_PARTS, dtype=np.float32)[parts]).argmax(1)
        vertices = matrix @ control
        lips = matrix @ lips
    expressions = np.zeros((len(ARKIT), len(vertices), 3), np.float32)
    for name, delta in zip(arrays["expressions"], deltas, strict=True):
        expressions[SHAPE[str(name)]] = delta if matrix is None else matrix @ delta
    return Rig(
        about=about,
        vertices=vertices.astype(np.float32),
        triangles=np.ascontiguousarray(triangles, np.int32),
        coarse=coarse,
        parts=parts.astype(np.int8),
        expressions=expressions,
        shapes=tuple(map(str, arrays["shapes"])),
        shape_deltas=arrays["shape_deltas"].astype(np.float32),
        landmarks=arrays["landmarks"],
        lips=lips,
        rim=arrays["rim"],
        control=control,
        subdivision=matrix,
    )


def loop_subdivision(triangles: Array, num_vertices: int) -> tuple[sparse.csr_matrix, Array]:
    """One step of Loop's subdivision (1987): the matrix [n, c] over vertices, and the four times as
    many triangles.
    """
    corners = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    opposite = np.concatenate([triangles[:, 2], triangles[:, 0], triangles[:, 1]])
    edges, edge_of = np.unique(np.sort(corners, axis=1), axis=0, return_inverse=True)
    edge_of = edge_of.ravel()
    num_faces = np.bincount(edge_of, minlength=len(edges))
    inner = num_faces == 2
    # New vertices, on edges: 3/8 of the ends and 1/8 of the two opposite corners; 1/2 each at a
    # border.
    end = np.where(inner, 0.375, 0.5)
    rows = [np.arange(len(edges)), np.arange(len(edges)), edge_of[inner[edge_of]]]
    columns = [edges[:, 0], edges[:, 1], opposite[inner[edge_of]]]
    values = [end, end, np.full(len(rows[2]), 0.125)]
    shape = (len(edges), num_vertices)
    on_edges = sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape
    )
    matrix = (
        sparse.vstack([_old_vertices(edges, inner, num_vertices), on_edges])
        .tocsr()
        .astype(np.float32)
    )
    middle = num_vertices + edge_of.reshape(3, -1).T
    a, b, c = triangles.T
    x, y, z = middle.T
    split = np.concatenate(
        [np.stack(new, 1) for new in ((a, x, z), (b, y, x), (c, z, y), (x, y, z))]
    )
    return matrix, split.astype(np.int32)


def _old_vertices(edges: Array, inner: Array, num_vertices: int) -> sparse.csr_matrix:
    """[c, c] old vertices move towards their neighbours; at a border only along it."""
    both = np.concatenate([edges, edges[:, ::-1]])
    border = np.zeros(num_vertices, bool)
    border[edges[~inner].ravel()] = True
    keep = np.concatenate([~inner, ~inner]) | ~border[both[:, 0]]
    both = both[keep]
    valence = np.bincount(both[:, 0], minlength=num_vertices)
    share = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))
    share = np.where(border, np.where(valence == 2, 0.125, 0.0), share)
    around = sparse.csr_matrix(
        (share[both[:, 0]], (both[:, 0], both[:, 1])), (num_vertices, num_vertices)
    )
    return around + sparse.diags(1 - share * valence)


def vertices_of(rig: Rig, *parts: int) -> Array:
    """[n] bool: whether a vertex belongs to one of `parts`."""
    return np.isin(rig.parts, parts or (SKIN,))
