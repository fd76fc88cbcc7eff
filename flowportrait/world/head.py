"""A head made ready: one person's geometry, paint, hair, how light reaches it, and how its lids and
lips close.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.chart import Chart, blend, smoothstep
from flowportrait.world.hair import Hair, grow_hair
from flowportrait.world.light import Shape, skin_diffusion, transfer, visibility
from flowportrait.world.names import (
    EYE_LEFT,
    EYE_RIGHT,
    GUM,
    MOUTH,
    SHAPE,
    SKIN,
    SOCKET,
    TEETH,
    TONGUE,
    weights,
)
from flowportrait.world.person import Attributes, draw_person
from flowportrait.world.raster import vertex_normals
from flowportrait.world.rig import Rig, load_rig, vertices_of
from flowportrait.world.skin import Painting, paint
from flowportrait.world.tufts import Tuft, plant_tufts

IRIS_CM = 0.65
_ARCH_CM = 3.1
_TOOTH_CM = 0.78
"""Radius of the arch of the teeth, and the width of one."""
_INNER_UPPER = [61, 62, 63]
_INNER_LOWER = [67, 66, 65]
_UPPER_LID = {1: [43, 44], -1: [37, 38]}
_LOWER_LID = {1: [46, 47], -1: [40, 41]}
_REST_LID_CM = (0.16, 0.34)
"""How high above the eye's centre the upper lid rests."""
_LOWER_LID_CM = 0.57
"""How far below the eye's centre the lower lid rests at most: white below the iris makes a
stare.
"""
_SPEAKING = weights(jawOpen=0.12, mouthLowerDown=0.1)
_WIDE_OPEN = weights(jawOpen=0.75, mouthLowerDown=0.6, mouthUpperUp=0.6, eyeBlink=1.0)


@dataclass(frozen=True)
class Lids:
    """Weights of the left and the right eye: of eyeBlink at rest and when the lids meet, of
    eyeSquint at rest.
    """

    rest: Array
    closed: Array
    raised: Array


@dataclass(frozen=True)
class LipGap:
    """Height of the opening between the lips, cm: `neutral + face @ per_shape`."""

    neutral: float
    per_shape: Array

    def of(self, faces: Array) -> Array:
        """[f] for faces [f, 52]; below 0 the lips press into each other."""
        return self.neutral + faces @ self.per_shape


@dataclass(frozen=True)
class Head:
    """Everything about a person that is constant over a clip."""

    person: Attributes
    rig: Rig
    chart: Chart
    neutral: Array
    """[n, 3], clothes included."""
    painting: Painting
    hair: Hair | None
    tufts: list[Tuft]
    lids: Lids
    lips: LipGap
    normals: Array
    """[n, 3] those that `transfer` was found with."""
    transfer: list[Array]
    """[n, 144] for red, green and blue."""
    lamp_visibility: Array
    """[n, 144]"""
    hair_light: Array | None
    """[points of hair, 9]"""


@lru_cache(maxsize=2)
def chart_of(rig: str) -> Chart:
    """The chart of a rig by name or file, kept for the next head."""
    return Chart(load_rig(rig))


def build_head(rig: str, seed: int) -> Head:
    """The person of `seed` on a rig, by name or file; about two seconds of work."""
    chart = chart_of(rig)
    person, bare = draw_person(chart.rig, seed)
    painting = paint(person, chart)
    neutral = _dressed(chart, bare, painting)
    hair = grow_hair(person, chart, neutral, painting)
    tufts = plant_tufts(person, chart, neutral, painting)
    lit = _lit(chart.rig, neutral, hair)
    rng = np.random.default_rng([seed, 5])
    return Head(
        person,
        chart.rig,
        chart,
        neutral,
        painting,
        hair,
        tufts,
        _lids(chart.rig, neutral, rng),
        _lip_gap(chart.rig, neutral),
        *lit,
    )


def _normals(rig: Rig, points: Array) -> Array:
    """[n, 3] unit normals of a head's vertices."""
    normals = np.zeros_like(points)
    vertex_normals(points, rig.triangles, normals)
    return normals


def _dressed(chart: Chart, bare: Array, painting: Painting) -> Array:
    """The head with the cloth's thickness below the collar."""
    around = (chart.azimuth / (2 * np.pi) + 0.5) * len(painting.collar) - 0.5
    collar = np.interp(around, np.arange(len(painting.collar)), painting.collar)
    thick = (
        painting.cloth_cm * smoothstep(collar - chart.y, 0.0, 0.5) * vertices_of(chart.rig, SKIN)
    )
    return (bare + _normals(chart.rig, bare) * thick[:, None]).astype(np.float32)


def _face(shapes: dict[int, float]) -> Array:
    """[1, 52] weights of the shapes named by index, all others 0."""
    face = np.zeros((1, len(SHAPE)), np.float32)
    face[0, list(shapes)] = list(shapes.values())
    return face


def _lit(rig: Rig, neutral: Array, hair: Hair | None):
    """Normals, transfer, lamp visibility and light in the hair.

    Light inside the mouth and on closed lids comes from a second pose, mouth wide open and eyes
    shut.
    """
    occluding = np.isin(rig.parts, (SKIN, SOCKET, MOUTH))[rig.coarse[:, 0]]
    occluders = np.ascontiguousarray(rig.coarse[occluding])
    poses = rig.pose(neutral, np.concatenate([_face(_SPEAKING), _face(_WIDE_OPEN)]))
    speaking, wide = (Shape(points, _normals(rig, points), occluders) for points in poses)
    seen, in_hair = visibility(speaking, None if hair is None else hair.strands)
    seen_wide, _ = visibility(wide, None)
    lids = np.linalg.norm(
        rig.expressions[[SHAPE["eyeBlinkLeft"], SHAPE["eyeBlinkRight"]]].sum(0), axis=1
    )
    second = smoothstep(lids, 0.15, 0.5) * (rig.parts == SKIN)
    second[vertices_of(rig, GUM, TEETH, MOUTH, TONGUE)] = 1
    second = second[:, None].astype(np.float32)
    seen = blend(seen, seen_wide, second)
    normals = blend(speaking.normals, wide.normals, second)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    skin = rig.triangles[(rig.parts[rig.triangles] == SKIN).all(1)]
    diffusion = skin_diffusion(speaking.points, skin)
    passed = transfer(Shape(speaking.points, normals, occluders), seen, diffusion)
    return normals.astype(np.float32), passed, diffusion @ (diffusion @ seen), in_hair


def _lids(rig: Rig, neutral: Array, rng: Rng) -> Lids:
    """Solved from how far eyeBlink moves the lids: rest leaves part of the iris covered, closed
    makes them meet.
    """
    height = rng.uniform(*_REST_LID_CM)
    rest = []
    closed = []
    raised = []
    for side, eye, name in zip((1, -1), rig.eye_centres(neutral), ("Left", "Right"), strict=True):
        upper = rig.landmarks[_UPPER_LID[side]]
        lower = rig.landmarks[_LOWER_LID[side]]
        blink, squint = rig.expressions[[SHAPE[f"eyeBlink{name}"], SHAPE[f"eyeSquint{name}"]]]
        down = blink[upper, 1].mean()
        rest.append((height - (neutral[upper, 1].mean() - eye[1])) / down)
        opening = neutral[upper, 1].mean() - neutral[lower, 1].mean()
        closed.append(opening / (blink[lower, 1].mean() - down))
        low = eye[1] - _LOWER_LID_CM - neutral[lower, 1].mean()
        raised.append(low / max(squint[lower, 1].mean(), 0.05))
    return Lids(np.clip(rest, -0.35, 0.35), np.clip(closed, 0.6, 1.3), np.clip(raised, 0, 0.7))


def _lip_gap(rig: Rig, neutral: Array) -> LipGap:
    """The distance of the inner lips, and what each face shape adds to it."""
    upper = rig.landmarks[_INNER_UPPER]
    lower = rig.landmarks[_INNER_LOWER]
    apart = (rig.expressions[:, upper, 1] - rig.expressions[:, lower, 1]).mean(1)
    return LipGap(float((neutral[upper, 1] - neutral[lower, 1]).mean()), apart.astype(np.float32))


def places(rig: Rig, neutral: Array) -> Array:
    """[n, 2] where a vertex lies on its eye or its row of teeth, for `shade` to paint it.

    On eyes, in iris radii from the middle of the iris, and far away on the eye's back. On rows of
    teeth, in teeth from the middle and cm from the biting edge; heads with gums of their own have
    each tooth modelled.
    """
    found = np.full((len(neutral), 2), 0.5, np.float32)
    for part, centre in zip((EYE_LEFT, EYE_RIGHT), rig.eye_centres(neutral), strict=True):
        eye = rig.parts == part
        from_centre = neutral[eye] - centre
        found[eye] = from_centre[:, :2] / IRIS_CM * np.where(from_centre[:, 2:] > 0, 1, 9)
    if not vertices_of(rig, GUM).any():
        teeth = vertices_of(rig, TEETH)
        jaw = rig.expressions[SHAPE["jawOpen"], :, 1]
        lower = teeth & (jaw < 0.5 * jaw[teeth].min())
        for row, towards_edge in ((teeth & ~lower, -1), (lower, 1)):
            found[row] = _places_on_row(neutral[row], towards_edge)
    return found


def _places_on_row(row: Array, towards_edge: int) -> Array:
    """[v, 2] teeth and cm on an arch [v, 3]; `towards_edge` is -1 for upper teeth, which bite
    downwards.
    """
    around = np.arctan2(row[:, 0], row[:, 2] - (row[:, 2].max() - _ARCH_CM))
    height = towards_edge * row[:, 1]
    bins = np.arange(-2.2, 2.3, 0.2)
    near = np.abs(around[None] - bins[:, None]) < 0.2
    used = near.any(1)
    edge = np.array([height[of].max() for of in near[used]])
    return np.stack(
        [around * _ARCH_CM / _TOOTH_CM, np.interp(around, bins[used], edge) - height], 1
    )


def iris_vertices(rig: Rig, neutral: Array) -> Array:
    """[2] the vertex in the middle of the left and of the right iris: of those in front, the
    nearest to the axis.
    """
    middles = []
    for part, centre in zip((EYE_LEFT, EYE_RIGHT), rig.eye_centres(neutral), strict=True):
        eye = np.flatnonzero(rig.parts == part)
        from_centre = neutral[eye] - centre
        off_axis = np.hypot(from_centre[:, 0], from_centre[:, 1])
        middles.append(eye[np.where(from_centre[:, 2] > 0, off_axis, np.inf).argmin()])
    return np.array(middles)
