"""Hair of the head: a few hundred guides combed over the scalp, and thousands of strands that
follow them.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.spatial import cKDTree

from flowportrait.arrays import Array
from flowportrait.world.chart import COLUMNS, ROWS, Chart, smoothstep
from flowportrait.world.names import SKIN
from flowportrait.world.person import Attributes
from flowportrait.world.raster import vertex_normals
from flowportrait.world.rig import Rig
from flowportrait.world.skin import Painting

_CENTRE = np.array([0, 5.0, 1.5])
"""Hair keeps its distance from the head along rays from here."""
_NUM_GUIDES = 420
_MAP = (72, 144)
_X, _Y, _Z = np.eye(3)
Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How hair is combed. Lengths in cm at the top, the sides and the back; ranges are drawn per
    person.
    """

    points: int
    top: Range
    side: Range
    back: Range
    strands: int = 7500
    lift: float = 0.2
    """0 lies flat, 1 stands up."""
    parted: float = 0.0
    backward: float = 0.0
    forward: float = 0.0
    down: float = 0.4
    gravity: float = 0.15
    volume: float = 0.6
    """How far from the scalp hair may lie, cm."""
    unruly: float = 0.06
    lock: float = 0.4
    """How much strands gather towards their tips."""
    curl: float = 0.0
    """Radius of curls, cm."""
    turns: Range = (0.0, 0.0)
    """Radians of curl per cm."""
    cut_y: Range | None = None
    """Where a blunt cut ends the hair."""
    knot: bool = False
    fringe: bool = False


def _styles() -> dict[str, Style]:
    """Every style by its name, from the table beside this file."""
    table = tomllib.loads(Path(__file__).with_name("hair_styles.toml").read_text(encoding="utf-8"))
    return {
        name: Style(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        for name, values in table.items()
    }


STYLES = _styles()
_SHORTER = {"wavy": 0.45, "curly": 0.5, "afro": 0.6}
"""What men's lengths of these styles are multiplied by."""


@dataclass(frozen=True)
class Hair:
    """Strands [s, p, 3] in the head's frame, the nearest to the viewer first, and how bright each
    one is [s].
    """

    strands: Array
    tone: Array


def grow_hair(person: Attributes, chart: Chart, head: Array, painting: Painting) -> Hair | None:
    """The person's hair; None when bald."""
    if person.hair_style == "bald":
        return None
    style = STYLES[person.hair_style]
    return _Barber(person, style, chart, head, painting).hair()


class _Barber:
    """Everything that growing one head of hair needs to know."""

    def __init__(
        self, person: Attributes, style: Style, chart: Chart, head: Array, painting: Painting
    ):
        self.rng = np.random.default_rng([person.seed, 3])
        self.style = style
        self.chart = chart
        self.head = head
        self.painting = painting
        shorter = 1.0
        if person.presentation == "m":
            shorter = _SHORTER.get(person.hair_style, 1.0)
        self.lengths = [
            self.rng.uniform(*span) * shorter for span in (style.top, style.side, style.back)
        ]
        self.parting_x = self.rng.uniform(-2.8, 2.8)
        self.turns = self.rng.uniform(*style.turns)
        self.cut_y = self.rng.uniform(*style.cut_y) if style.cut_y else None
        self.knot = np.array([0, _CENTRE[1] + self.rng.uniform(1.5, 5.0), -10.4])
        self.distances = _radial_map(chart.rig, head)

    def hair(self) -> Hair:
        roots, normals = self._roots(self.style.strands)
        chosen = self.rng.choice(len(roots), min(_NUM_GUIDES, len(roots)), replace=False)
        guides = self._grown(roots[chosen], normals[chosen])
        strands, lock = self._followers(roots, normals, roots[chosen], guides)
        strands = self._curled(self._outside_head(strands), lock)
        if self.cut_y is not None:
            strands = _cut(strands, strands[..., 1] < self.cut_y + self._ragged(len(strands)))
        strands, lock = self._face_left_free(strands, lock)
        if self.style.knot:
            extra = self._knot_strands(900)
            lock = np.concatenate([lock, self.rng.integers(0, len(chosen), len(extra))])
            strands = np.concatenate([strands, extra])
        tone_of_locks = self._tones(len(chosen))
        tone = tone_of_locks[lock] * self._tones(len(lock))
        order = np.argsort(-strands[..., 2].mean(1), kind="stable")
        nearest_first = np.ascontiguousarray(strands[order], np.float32)
        return Hair(nearest_first, tone[order].astype(np.float32))

    def _tones(self, count: int) -> Array:
        """[count] factors of brightness about 1."""
        return np.exp(self.rng.normal(size=count) * 0.13)

    def _ragged(self, count: int) -> Array:
        """[count, 1] cm by which strands end apart from a straight cut: a few long ones, no edge
        like a knife's.
        """
        return np.abs(self.rng.normal(size=(count, 1))) * 0.5

    def _roots(self, count: int) -> tuple[Array, Array]:
        """Places on the scalp and the normals there."""
        rig = self.chart.rig
        chart = self.chart
        x, y, z = rig.vertices[rig.triangles].mean(1).T
        ear = (np.abs(x) > 7.5) & (y < chart.brow_y - 0.2) & (z < 4)
        of_skin = (rig.parts[rig.triangles] == SKIN).all(1)
        grows = of_skin & (y > chart.brow_y - 13.5) & ~ear
        triangles = rig.triangles[grows]
        corners = chart.corners[grows]
        return self._drawn_roots(triangles, corners, count, rig)

    def _drawn_roots(self, triangles, corners, count: int, rig) -> tuple[Array, Array]:
        """Twice as many places as wanted, evenly over the area; those are kept that hit the
        scalp.
        """
        a, b, c = self.head[triangles.T]
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        area = area * (self._scalp_at(corners.mean(1)) > 0.02)
        picked = self.rng.choice(len(triangles), count * 2, p=area / area.sum())
        share = self.rng.dirichlet([1, 1, 1], count * 2)
        scalp = self._scalp_at(_within(corners[picked], share))
        least = self.rng.uniform(0.15, 0.85, len(scalp))
        kept = np.flatnonzero(scalp > least)[:count]
        normals = np.zeros_like(self.head)
        vertex_normals(self.head, rig.triangles, normals)
        at = triangles[picked[kept]]
        places = _within(self.head[at], share[kept])
        directions = _unit(_within(normals[at], share[kept]))
        return places.astype(float), directions.astype(float)

    def _scalp_at(self, place: Array) -> Array:
        """How much hair grows at places of the chart [n, 2], given as shares of it."""
        row = np.clip((place[:, 1] * ROWS).astype(int), 0, ROWS - 1)
        column = (place[:, 0] * COLUMNS).astype(int) % COLUMNS
        return self.painting.scalp[row, column]

    def _regions(self, roots: Array) -> tuple[Array, Array, Array, Array]:
        """Shares of top, side and back at each root, and the angle around the head."""
        outward = roots - _CENTRE
        around = np.abs(np.arctan2(outward[:, 0], outward[:, 2]))
        top = smoothstep(outward[:, 1] / np.linalg.norm(outward, axis=1), 0.35, 0.75)
        back = (1 - top) * smoothstep(around, 1.9, 2.5)
        return top, 1 - top - back, back, around

    def _combed(self, roots: Array, normals: Array) -> Array:
        """Directions in which guides leave the scalp."""
        style = self.style
        top, side, _, around = self._regions(roots)
        apart = np.tanh((roots[:, 0] - self.parting_x) * 1.3)
        sideways = style.parted * (top + 0.25 * side) * apart
        downwards = style.down * (0.35 + 0.65 * (1 - top))
        forwards = style.forward * (top + 0.2 * side)
        forwards = forwards - style.backward * (top + 0.8 * side)
        behind_temples = 0.25 * side * smoothstep(around, 0.9, 1.4)
        comb = sideways[:, None] * _X
        comb = comb - downwards[:, None] * _Y
        comb = comb + forwards[:, None] * _Z
        comb = comb - behind_temples[:, None] * _Z
        if style.knot:
            comb = _unit(self.knot - roots)
        comb = comb + style.unruly * self.rng.normal(size=comb.shape)
        comb = _unit(comb - (comb * normals).sum(1, keepdims=True) * normals)
        return _unit(normals * style.lift + comb * (1 - style.lift))

    def _grown(self, roots: Array, normals: Array) -> Array:
        """[g, p, 3] guides: step by step, pulled down, kept off the head."""
        style = self.style
        count = self.style.points
        top, side, back, _ = self._regions(roots)
        length = top * self.lengths[0] + side * self.lengths[1] + back * self.lengths[2]
        step = length * self.rng.uniform(0.9, 1.06, len(roots)) / (count - 1)
        direction = self._combed(roots, normals)
        wander = self.rng.normal(size=direction.shape)
        lift = style.volume * self.rng.uniform(0.2, 1.0, len(roots))
        points = np.empty((len(roots), count, 3))
        points[:, 0] = roots
        for j in range(1, count):
            far = j / (count - 1)
            before = points[:, j - 1]
            direction, pace = self._pulled(before, direction, step, far)
            direction = _unit(direction + style.unruly * 0.2 * wander * (0.3 + 0.4 * far))
            placed = before + direction * pace[:, None]
            points[:, j] = self._pushed(placed, lift * min(1, far * 2.5) + 0.05)
            direction = _unit(points[:, j] - before)
        if count > 6:
            return gaussian_filter1d(points, 0.6, axis=1, mode="nearest")
        return points

    def _pulled(
        self, points: Array, direction: Array, step: Array, far: float
    ) -> tuple[Array, Array]:
        """Directions bent by gravity or towards the knot, and steps that end there; `far` is the
        share of the guide that is laid.
        """
        style = self.style
        if style.knot:
            left = self.knot - points
            distance = np.linalg.norm(left, axis=1)
            towards_knot = left / (distance[:, None] + 1e-6)
            return direction * 0.45 + towards_knot * 0.55, np.minimum(step, distance * 0.9)
        pull = style.gravity * min(1, 0.35 + far)
        return direction * (1 - pull) - pull * _Y, step

    def _followers(self, roots, normals, guide_roots, guides) -> tuple[Array, Array]:
        """[s, p, 3] strands mixed from their three nearest guides, and the nearest one's number."""
        tree = cKDTree(np.concatenate([guide_roots], 1))
        distance, near = tree.query(roots, k=3)
        share = 1 / (distance + 0.15) ** 2
        share /= share.sum(1, keepdims=True)
        forms = guides - guides[:, :1]
        strands = np.einsum("sk,skpc->spc", share, forms[near])
        strands = strands * self.rng.uniform(0.9, 1.05, (len(roots), 1, 1))
        along = np.linspace(0, 1, self.style.points)[:, None]
        stray = self.rng.normal(size=(len(roots), 1, 3)) * self.style.unruly * 2.0 * along**1.5
        strands = strands + roots[:, None] + stray + normals[:, None] * 0.05 * along
        # Strands of a lock draw together towards the tip of their guide.
        lock = near[:, 0]
        guide = guides[lock]
        together = guide + (strands - guide) * (1 - 0.75 * self.style.lock * along)
        return together * along + strands * (1 - along), lock

    def _outside_head(self, strands: Array) -> Array:
        """Strands of which all but the roots keep off the head."""
        free = strands[:, 1:]
        pushed = self._pushed(free.reshape(-1, 3), 0.08)
        return np.concatenate([strands[:, :1], pushed.reshape(free.shape)], 1)

    def _pushed(self, points: Array, distance) -> Array:
        """Points moved outwards until they keep `distance` from the head."""
        rows, columns = _MAP
        outward = points - _CENTRE
        x, y, z = outward.T
        radius = np.linalg.norm(outward, axis=1)
        azimuth = np.arctan2(x, z)
        height = np.arcsin(np.clip(y / radius, -1, 1))
        column = (azimuth / (2 * np.pi) + 0.5) * columns
        row = (height / np.pi + 0.5) * (rows - 1)
        at = [row, column % columns]
        surface = map_coordinates(self.distances, at, order=1, mode="grid-wrap")
        scale = np.maximum(radius, surface + distance) / radius
        return _CENTRE + outward * scale[:, None]

    def _curled(self, strands: Array, lock: Array) -> Array:
        """Strands wound about where they ran; those of a lock begin their turns together."""
        if self.style.curl == 0:
            return strands
        tangent = _unit(np.gradient(strands, axis=1))
        length = np.linalg.norm(np.diff(strands, axis=1), axis=-1).sum(1)
        along = np.linspace(0, 1, self.style.points)[None]
        start = self.rng.uniform(0, 2 * np.pi, len(lock))[lock]
        start = start + self.rng.normal(size=len(lock)) * 0.35
        angle = start[:, None] + self.turns * along * length[:, None]
        cos = np.cos(angle)[..., None]
        sin = np.sin(angle)[..., None]
        across = _unit(np.cross(tangent, _Y))
        other = np.cross(tangent, across)
        radius = self.style.curl * np.minimum(1, along * 3)[..., None]
        return strands + (across * cos + other * sin) * radius

    def _face_left_free(self, strands: Array, lock: Array) -> tuple[Array, Array]:
        """Without what would hang before the face; a fringe is cut above the eyes instead."""
        before = self._before_face(strands)
        if self.style.fringe:
            return _cut(strands, before), lock
        # What enters late ends there; what would enter at once is left out.
        free = ~before[:, : strands.shape[1] * 3 // 5].any(1)
        return _cut(strands, before)[free], lock[free]

    def _before_face(self, strands: Array) -> Array:
        """[s, p] whether a point hangs before the face."""
        at = self.head[self.chart.rig.landmarks]
        half_width = np.abs(at[[0, 16], 0]).mean() * 0.74
        brow_y = at[17:27, 1].mean()
        eyes_z = at[[36, 45], 2].mean()
        x, y, z = np.moveaxis(strands, -1, 0)
        from_middle = np.abs(x) / half_width
        # Single strands on a bare forehead look like scratches, so it is free in an arc below the
        # hairline.
        free_to = brow_y + 1.2 + 2.6 * (1 - from_middle**2)
        if self.style.fringe:
            free_to = brow_y - 0.3
        return (from_middle < 1) & (y < free_to) & (z > eyes_z - 3)

    def _knot_strands(self, count: int) -> Array:
        """A ball of hair at the back of the head."""
        outward = _unit(self.rng.normal(size=(count, 3)))
        across = self.rng.normal(size=(count, 3))
        across = _unit(np.cross(outward, across))
        angle = np.linspace(0, 1.5, self.style.points)[None, :, None]
        around = outward[:, None] * np.cos(angle) + across[:, None] * np.sin(angle)
        return self.knot + [0, 0.6, -0.6] + self.rng.uniform(2.2, 3.0) * around


def _radial_map(rig: Rig, head: Array) -> Array:
    """[72, 144] distance of the head's surface from the centre, by height and angle; ears are left
    out.
    """
    x, y, z = rig.vertices.T
    ear = (np.abs(x) > 7.45) & (y > -3) & (y < 9) & (z < 4)
    outward = head[(rig.parts == SKIN) & ~ear] - _CENTRE
    radius = np.linalg.norm(outward, axis=1)
    towards_surface = cKDTree(outward / radius[:, None])
    distance, near = towards_surface.query(_rays().reshape(-1, 3), k=5)
    share = 1 / (distance + 0.02) ** 2
    surface = ((radius[near] * share).sum(1) / share.sum(1)).reshape(_MAP)
    return gaussian_filter(surface, 1, mode=("nearest", "wrap"))


def _rays() -> Array:
    """[72, 144, 3] directions from the centre, by height and angle."""
    rows, columns = _MAP
    azimuths = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    heights = np.linspace(-np.pi / 2, np.pi / 2, rows)
    around, height = np.meshgrid(azimuths, heights)
    x = np.cos(height) * np.sin(around)
    y = np.sin(height)
    z = np.cos(height) * np.cos(around)
    return np.stack([x, y, z], -1)


def _within(corners: Array, share: Array) -> Array:
    """[n, d] values within triangles, from those of their corners [n, 3, d]."""
    return (corners * share[..., None]).sum(1)


def _unit(vectors: Array) -> Array:
    """The same directions with length 1; what has none stays 0."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)


def _cut(strands: Array, ended: Array) -> Array:
    """Strands that end at the last point before the first `ended` one; their points spread anew, so
    that tips taper.
    """
    count = strands.shape[1]
    last = np.where(ended.any(1), np.maximum(ended.argmax(1) - 1, 0), count - 1)
    place = np.linspace(0, 1, count)[None] * last[:, None]
    before = np.minimum(place.astype(int), count - 2)
    rest = (place - before)[..., None]
    first = np.take_along_axis(strands, before[..., None], axis=1)
    second = np.take_along_axis(strands, before[..., None] + 1, axis=1)
    return first + rest * (second - first)
