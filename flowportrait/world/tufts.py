"""Short hair that rides on the moving skin: brows, lashes and beards."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from flowportrait.arrays import Array, Rng
from flowportrait.world.chart import Chart, X, Y
from flowportrait.world.names import SKIN
from flowportrait.world.person import BEARDS, Attributes
from flowportrait.world.raster import vertex_normals
from flowportrait.world.skin import Painting

_LASH_COLOUR = np.array([0.014, 0.011, 0.010], np.float32)
_TEARS = np.array([0.36, 0.31, 0.30], np.float32)
_POINTS = 4


@dataclass(frozen=True)
class Tuft:
    """Strands of one kind; each is rooted in three vertices by their shares and keeps its form,
    `offsets`.
    """

    vertices: Array
    """[s, 3]"""
    shares: Array
    """[s, 3]"""
    offsets: Array
    """[s, p, 3]"""
    colour: Array
    tone: Array
    """[s]"""
    opacity: float
    width: float
    """In units of a five-hundredth of the picture."""
    lid: int = 0
    """1 or -1 for lashes of the left or right eye, which turn with the lid."""
    upper: bool = False
    taper: float = 0.6
    """Share of its length over which a strand thins out."""
    tears: bool = False
    """Whether it is the wet rim of the eye, which is gone when the lids meet."""

    def points(self, head: Array, closed: float) -> Array:
        """[s, p, 3] where the strands are on a posed head; `closed` is how far the lid is down."""
        roots = (head[self.vertices] * self.shares[..., None]).sum(1)
        offsets = self.offsets
        if self.lid:
            angle = (0.95 if self.upper else 0.1) * closed
            turn = np.array(
                [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
            )
            offsets = offsets @ turn.T.astype(np.float32)
        return roots[:, None] + offsets


def plant_tufts(person: Attributes, chart: Chart, head: Array, painting: Painting) -> list[Tuft]:
    """Brows, beard where there is one, and lashes."""
    rng = np.random.default_rng([person.seed, 4])
    soil = _Soil(chart, head)
    tufts = [_brows(rng, soil, painting)]
    length = BEARDS[person.beard][1]
    if length > 0:
        tufts.append(_beard(rng, soil, painting, length))
    return tufts + _lashes(rng, chart, 0.75 if person.presentation == "m" else 1.0)


class _Soil:
    """The face's outer skin, to root strands in by their place on the chart."""

    def __init__(self, chart: Chart, head: Array):
        rig = chart.rig
        normals = np.zeros_like(head)
        vertex_normals(head, rig.triangles, normals)
        front = (
            (rig.parts == SKIN)
            & (np.abs(chart.azimuth) < 1.6)
            & (rig.vertices[:, 1] > -12)
            & (rig.vertices[:, 2] > 0)
        )
        self._vertices = np.flatnonzero(front & (normals[:, 2] > -0.35))
        self._tree = cKDTree(np.stack([chart.x, chart.y], 1)[self._vertices])
        self._normals = normals

    def roots(self, rng: Rng, density: Array, count: int):
        """x, y, vertices, shares and normals of `count` places drawn by a density on the chart."""
        share = density.ravel() / density.sum()
        row, column = np.unravel_index(rng.choice(share.size, count, p=share), density.shape)
        x = X[0, column] + rng.uniform(-0.05, 0.05, count)
        y = Y[row, 0] + rng.uniform(-0.05, 0.05, count)
        distance, near = self._tree.query(np.stack([x, y], 1), k=3)
        shares = 1 / (distance + 0.02)
        shares = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
        vertices = self._vertices[near]
        return x, y, vertices, shares, _unit((self._normals[vertices] * shares[..., None]).sum(1))


def _brows(rng: Rng, soil: _Soil, painting: Painting) -> Tuft:
    """Hairs of the brows, combed outwards, the inner ones up."""
    x, _, vertices, shares, normals = soil.roots(rng, painting.brows**1.3, 1300)
    outward = np.clip((np.abs(x) - 1.2) / 4.5, 0, 1)
    direction = (
        np.stack(
            [
                np.sign(x) * (0.45 + 0.55 * outward),
                0.7 * (1 - outward) ** 1.5 - 0.12 * outward,
                -0.1 - 0.35 * outward,
            ],
            1,
        )
        + rng.normal(size=(len(x), 3)) * 0.28
    )
    direction = _unit(direction - 0.85 * (direction * normals).sum(1, keepdims=True) * normals)
    offsets = _bent(direction, normals, rng.uniform(0.2, 0.5, len(x)), hug=0.10)
    return Tuft(
        vertices, shares, offsets, painting.brow_colour, _tone(rng, len(x)), opacity=0.28, width=0.8
    )


def _beard(rng: Rng, soil: _Soil, painting: Painting, length: float) -> Tuft:
    """Hairs of the beard, which hang down and lie close to the skin."""
    x, _, vertices, shares, normals = soil.roots(
        rng, painting.beard**1.2, int(2400 + 2000 * min(1, length))
    )
    direction = np.stack(
        [
            0.12 * np.sign(x),
            np.full_like(x, -1),
            np.full_like(x, 0.15),
        ],
        1,
    )
    direction = direction + rng.normal(size=direction.shape) * 0.25
    direction = _unit(
        direction - 0.8 * (direction * normals).sum(1, keepdims=True) * normals + 0.3 * normals
    )
    colour = painting.hair_colour * min(1, 0.14 / painting.hair_colour.max())
    offsets = _bent(direction, normals, length * rng.uniform(0.5, 1.1, len(x)), hug=0.10)
    return Tuft(vertices, shares, offsets, colour, _tone(rng, len(x)), opacity=0.4, width=0.9)


def _lashes(rng: Rng, chart: Chart, fullness: float) -> list[Tuft]:
    """Rows of lashes along the rims of both eyes, and the wet line at the lower ones."""
    rig = chart.rig
    tufts = []
    for side, eye in zip((1, -1), rig.eye_centres(rig.vertices), strict=True):
        rim = rig.rim[np.abs(rig.vertices[rig.rim] - eye).max(1) < 2.6]
        place = rig.vertices[rim]
        if len(rim) < 8:
            continue
        ends = place[[place[:, 0].argmin(), place[:, 0].argmax()]]
        split = np.interp(place[:, 0], ends[:, 0], ends[:, 1])
        for upper in (True, False):
            row = rim[place[:, 1] > split + 0.05] if upper else rim[place[:, 1] < split - 0.05]
            if len(row) > 2:
                row = row[np.argsort(rig.vertices[row, 0])]
                tufts.append(_lash_row(rng, row, side, upper, fullness))
                if not upper:
                    tufts.append(_wet_line(row, rig.vertices, side))
    return tufts


def _wet_line(row: Array, head: Array, side: int) -> Tuft:
    """The film of tears along the rim of the lower lid: pieces from each vertex of it to the
    next.
    """
    here = row[1:-2]
    after = row[2:-1]
    along = (head[after] - head[here])[:, None] * np.linspace(0, 1, _POINTS, dtype=np.float32)[
        :, None
    ]
    offsets = (along + np.float32([0, 0.03, 0.03])).astype(np.float32)
    return _tears(here, offsets, side)


def _tears(here, offsets, side: int) -> Tuft:
    """Pieces of the tear film rooted at single vertices."""
    vertices = np.stack([here] * 3, 1)
    shares = np.tile(np.float32([1, 0, 0]), (len(here), 1))
    return Tuft(
        vertices,
        shares,
        offsets,
        _TEARS,
        np.ones(len(here), np.float32),
        opacity=0.3,
        width=0.9,
        lid=side,
        taper=1e-6,
        tears=True,
    )


def _lash_row(rng: Rng, row: Array, side: int, upper: bool, fullness: float) -> Tuft:
    """Lashes of one lid, fanned outwards and bent up at the upper lid, down at the lower one."""
    count = int((130 if upper else 36) * fullness)
    place = rng.uniform(0, len(row) - 1.001, count)
    first = place.astype(int)
    rest = place % 1
    shares = np.stack([1 - rest, rest, 0 * rest], 1).astype(np.float32)
    outward = 2 * place / (len(row) - 1) - 1
    direction = np.stack(
        [outward * 0.7, np.full(count, 0.02 if upper else -0.45), np.full(count, 0.85)], 1
    )
    direction = _unit(direction + rng.normal(size=direction.shape) * 0.1)
    length = (0.40 if upper else 0.17) * fullness * rng.uniform(0.7, 1.1, count)
    offsets = np.zeros((count, _POINTS, 3), np.float32)
    for j in range(1, _POINTS):
        offsets[:, j] = offsets[:, j - 1] + direction * (length / (_POINTS - 1))[:, None]
        direction[:, 1] += 0.20 if upper else -0.1
        direction = _unit(direction)
    vertices = np.stack([row[first], row[first + 1], row[first]], 1)
    return Tuft(
        vertices,
        shares,
        offsets,
        _LASH_COLOUR,
        np.ones(count, np.float32),
        0.4 if upper else 0.14,
        0.9,
        side,
        upper,
    )


def _bent(
    direction: Array,
    normals: Array,
    length: Array,
    hug: float,
) -> Array:
    """[s, p, 3] strands that start along `direction` and bend towards the skin."""
    offsets = np.zeros((len(length), _POINTS, 3), np.float32)
    for j in range(1, _POINTS):
        offsets[:, j] = offsets[:, j - 1] + direction * (length / (_POINTS - 1))[:, None]
        direction = _unit(direction - hug * normals)
    return (offsets + 0.04 * normals[:, None]).astype(np.float32)


def _tone(rng: Rng, count: int) -> Array:
    """[count] brightness of single hairs, about 1."""
    return np.exp(rng.normal(size=count) * 0.2).astype(np.float32)


def _unit(vectors: Array) -> Array:
    """The same directions with length 1."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)
