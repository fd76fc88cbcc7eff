"""Light: area lights around the head, and what of their light reaches each point of it (precomputed
transfer).

Visibility of every vertex towards 144 directions is found once per head from depth maps, hair
included; light on a frame is then one matrix product, with soft self-shadows that follow the
turning head. Diffusing the transfer over the mesh, widest for red, is the scattering of light
inside skin.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from flowportrait.arrays import Array, Rng
from flowportrait.world.chart import blend
from flowportrait.world.raster import COMPILED, draw_triangles, njit, transform

NUM_DIRECTIONS = 144
_MAP_SIZE = 176
_MAP_EXTENT = 23.0
_MAP_CENTRE = np.array([0, -2.0, 1.0], np.float32)
_SCATTERING_CM = 0.35
_SCATTERED = 0.55
_SCATTERING_PASSES = (8, 3, 1)
"""How often light is diffused over the skin, for red, green and blue."""


def _sphere(count: int) -> Array:
    """[count, 3] directions spread evenly (Fibonacci)."""
    index = np.arange(count) + 0.5
    y = 1 - 2 * index / count
    turn = np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(turn), y, radius * np.sin(turn)], 1).astype(np.float32)


def harmonics(directions: Array) -> Array:
    """[..., 9] real spherical harmonics up to the second order."""
    x = directions[..., 0]
    y = directions[..., 1]
    z = directions[..., 2]
    return np.stack(
        [
            0.282095 + 0 * x,
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        -1,
    )


DIRECTIONS = _sphere(NUM_DIRECTIONS)
_HARMONICS = harmonics(DIRECTIONS).astype(np.float32)
SOLID_ANGLE = 4 * np.pi / NUM_DIRECTIONS


@dataclass(frozen=True)
class Lamp:
    """A soft round light: where it comes from, its colour times strength, and how narrow it is."""

    direction: Array
    colour: Array
    sharpness: float


@dataclass(frozen=True)
class Lighting:
    """Key, fill and rim lamps with light from above and below."""

    mood: str
    lamps: tuple[Lamp, Lamp, Lamp]
    sky: Array
    ground: Array

    def radiance(self, head_rotation: Array) -> Array:
        """[144, 3] light arriving from each direction of the turned head's own frame."""
        world = DIRECTIONS @ head_rotation.T
        upward = (world[:, 1] * 0.5 + 0.5)[:, None]
        total = blend(self.ground, self.sky, upward)
        for lamp in self.lamps:
            lobe = np.exp(lamp.sharpness * (world @ lamp.direction - 1))[:, None]
            total = total + lamp.colour * lobe * np.sqrt(lamp.sharpness / 12)
        return total.astype(np.float32)


_MOODS = {  # share, key, fill, ambient, sharpness of the key
    "studio": (0.30, 5.0, 1.9, 0.60, 24.0),
    "soft": (0.34, 3.0, 1.7, 0.80, 8.0),
    "side": (0.10, 5.6, 1.0, 0.45, 20.0),
    "window": (0.18, 4.6, 1.1, 0.55, 10.0),
    "top": (0.08, 4.6, 1.5, 0.55, 18.0),
}


def draw_lighting(rng: Rng) -> Lighting:
    """Light as in a room, a studio, at a window."""
    mood = str(rng.choice(list(_MOODS), p=[share for share, *_ in _MOODS.values()]))
    _, key, fill, ambient, sharpness = _MOODS[mood]
    azimuth = rng.uniform(0.25, 0.95) * rng.choice([-1, 1])
    height = rng.uniform(0.2, 0.8)
    if mood == "side":
        azimuth = np.sign(azimuth) * rng.uniform(0.95, 1.25)
    if mood == "top":
        height = rng.uniform(0.8, 0.95)
    warmth = rng.uniform(-1, 1)
    warm, cool = (
        np.array([1 + 0.12 * warmth, 1, 1 - 0.16 * warmth]),
        np.array([1 - 0.08 * warmth, 1, 1 + 0.1 * warmth]),
    )
    lamps = (
        Lamp(_towards(azimuth, height), key * warm, sharpness),
        Lamp(_towards(-azimuth * rng.uniform(0.6, 1.2), rng.uniform(-0.1, 0.4)), fill * cool, 5.0),
        Lamp(
            _towards(np.pi - azimuth * 0.6, rng.uniform(0.2, 0.7)),
            rng.uniform(0, 2.5) * np.ones(3),
            14.0,
        ),
    )
    sky = ambient * np.array([0.95, 1, 1.08]) * rng.uniform(0.8, 1.2)
    return Lighting(mood, lamps, sky, ambient * np.array([0.62, 0.55, 0.5]) * rng.uniform(0.6, 1.1))


def _towards(azimuth: float, height: float) -> Array:
    """The unit vector to the right by an angle and up by another, in radians."""
    across = np.cos(height)
    return np.array(
        [
            np.sin(azimuth) * across,
            np.sin(height),
            np.cos(azimuth) * across,
        ]
    )


def in_harmonics(radiance: Array) -> Array:
    """[9, 3] harmonics of light [144, 3]."""
    return (_HARMONICS.T @ radiance * SOLID_ANGLE).astype(np.float32)


# ------------------------------------------------------------------------------------- what reaches
# a point


@dataclass(frozen=True)
class Shape:
    """A posed mesh with its normals, as light sees it; `occluders` are the triangles that throw
    shadows.
    """

    points: Array
    normals: Array
    occluders: Array


def visibility(shape: Shape, hair: Array | None) -> tuple[Array, Array | None]:
    """[n, 144] share of light let through to each vertex, and [h, 9] harmonics of it for points of
    hair [s, p, 3].
    """
    seen = np.zeros((len(shape.points), NUM_DIRECTIONS), np.float32)
    points = None if hair is None else np.ascontiguousarray(hair.reshape(-1, 3))
    in_hair = None if points is None else np.zeros((len(points), 9), np.float32)
    lifted = shape.points + np.float32(0.12) * shape.normals
    for k, direction in enumerate(DIRECTIONS):
        frame = _frame(direction)
        surface = np.full((_MAP_SIZE, _MAP_SIZE), -1e9, np.float32)
        flat = _onto_map(shape.points, frame)
        draw_triangles(flat, shape.occluders, 0, surface, None, None)
        through = np.empty(len(flat), np.float32)
        _look_up(_onto_map(lifted, frame), surface, 0.22, through)
        through *= shape.normals @ direction > 0
        if points is not None:
            flat_hair = _onto_map(points, frame)
            top = np.full_like(surface, -1e9)
            count = np.zeros(surface.shape, np.int32)
            _splat_hair(flat_hair, hair.shape[1], top, count)
            _under_hair(flat, top, count, through)
            inside = np.empty(len(points), np.float32)
            _within_hair(flat_hair, surface, top, inside)
            in_hair += inside[:, None] * _HARMONICS[k] * SOLID_ANGLE
        seen[:, k] = through
    return seen, in_hair


def _frame(direction: Array) -> Array:
    """[3, 3] rows: right, up and the direction itself."""
    up = np.array([0, 1, 0]) if abs(direction[1]) < 0.9 else np.array([1, 0, 0])
    right = np.cross(up, direction)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(direction, right), direction]).astype(np.float32)


def _onto_map(points: Array, frame: Array) -> Array:
    """[n, 3] column, row and height of points on the depth map seen along a direction."""
    scale = np.array([0.5 * _MAP_SIZE / _MAP_EXTENT] * 2 + [1], np.float32)
    matrix = frame * scale[:, None]
    flat = np.empty_like(points)
    transform(
        points,
        matrix,
        np.float32([0.5 * _MAP_SIZE] * 2 + [0]) - matrix @ _MAP_CENTRE,
        flat,
    )
    return flat


@njit(**COMPILED)
def _look_up(flat, surface, bias, out):
    """Share of four neighbouring map points that do not lie above a vertex."""
    size = surface.shape[0]
    for i in range(flat.shape[0]):
        x = int(flat[i, 0])
        y = int(flat[i, 1])
        if x < 0 or y < 0 or x >= size or y >= size:
            out[i] = 1.0
            continue
        free = 0.0
        for dy in range(2):
            for dx in range(2):
                if surface[min(size - 1, y + dy), min(size - 1, x + dx)] - flat[i, 2] <= bias:
                    free += 0.25
        out[i] = free


@njit(**COMPILED)
def _splat_hair(flat, per_strand, top, count):
    """The upper side of the hair in `top`, and how many strands cross each map point."""
    size = top.shape[0]
    for i in range(flat.shape[0]):
        if i % per_strand == per_strand - 1:
            continue
        x0 = flat[i, 0]
        y0 = flat[i, 1]
        x1 = flat[i + 1, 0]
        y1 = flat[i + 1, 1]
        steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
        for k in range(steps):
            f = (k + 0.5) / steps
            x = int(x0 + f * (x1 - x0))
            y = int(y0 + f * (y1 - y0))
            if x >= 0 and y >= 0 and x < size and y < size:
                top[y, x] = max(top[y, x], flat[i, 2] + f * (flat[i + 1, 2] - flat[i, 2]))
                count[y, x] += 1


@njit(**COMPILED)
def _under_hair(flat, top, count, through):
    """Weakens light on vertices that have hair above them."""
    size = top.shape[0]
    for i in range(flat.shape[0]):
        x = int(flat[i, 0])
        y = int(flat[i, 1])
        if x >= 0 and y >= 0 and x < size and y < size and top[y, x] - flat[i, 2] > 0.35:
            through[i] *= np.exp(-0.22 * count[y, x])


@njit(**COMPILED)
def _within_hair(flat, surface, top, out):
    """Share of light left at points of hair, by how deep below its upper side they lie."""
    size = top.shape[0]
    for i in range(flat.shape[0]):
        x = int(flat[i, 0])
        y = int(flat[i, 1])
        out[i] = 1.0
        if x >= 0 and y >= 0 and x < size and y < size:
            below = top[y, x] - flat[i, 2]
            if below > 0.05:
                out[i] = np.exp(-1.1 * (below - 0.05))
            if surface[y, x] - flat[i, 2] > 0.5:
                out[i] *= 0.05


def skin_diffusion(points: Array, skin: Array) -> sparse.csr_matrix:
    """[n, n] one pass of light spreading over skin triangles [t, 3]; identity elsewhere."""
    edges = np.concatenate(
        [
            skin[:, [0, 1]],
            skin[:, [1, 2]],
            skin[:, [2, 0]],
        ]
    )
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    weight = np.exp(-((length / _SCATTERING_CM) ** 2)) + 1e-4
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    near = sparse.coo_matrix((np.tile(weight, 2), (rows, columns)), (len(points),) * 2).tocsr()
    total = np.asarray(near.sum(1)).ravel()
    spread = np.where(total > 0, _SCATTERED / np.maximum(total, 1e-9), 0)
    kept = np.where(total > 0, 1 - _SCATTERED, 1.0)
    return (sparse.diags(spread) @ near + sparse.diags(kept)).tocsr().astype(np.float32)


def transfer(shape: Shape, seen: Array, diffusion: sparse.csr_matrix) -> list[Array]:
    """For red, green and blue: [n, 144] how much light from each direction leaves a vertex of white
    skin.
    """
    passed = seen * np.maximum(0, shape.normals @ DIRECTIONS.T) * (SOLID_ANGLE / np.pi)
    by_passes = [passed.astype(np.float32)]
    for _ in range(max(_SCATTERING_PASSES)):
        by_passes.append(diffusion @ by_passes[-1])
    return [np.ascontiguousarray(by_passes[passes]) for passes in _SCATTERING_PASSES]


@njit(**COMPILED)
def irradiance(normals, light, out):
    """Fills `out` [n, 3] with unshadowed light on each normal, from harmonics [9, 3] (Ramamoorthi
    2001).
    """
    for i in range(normals.shape[0]):
        x = normals[i, 0]
        y = normals[i, 1]
        z = normals[i, 2]
        for c in range(3):
            value = (
                0.886227 * light[0, c]
                + 1.023328 * (light[1, c] * y + light[2, c] * z + light[3, c] * x)
                + 0.858086 * (light[4, c] * x * y + light[5, c] * y * z + light[7, c] * x * z)
                + 0.247708 * (3 * z * z - 1) * light[6, c]
                + 0.429043 * (x * x - y * y) * light[8, c]
            )
            out[i, c] = max(value, 0.02)
