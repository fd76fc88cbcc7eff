"""The rasteriser: triangles with a depth buffer, strands with coverage. Depth is 1/distance, so
larger is nearer.

Everything here is compiled by numba at first use and cached; one thread, so that frames are the
same every time.
"""

import math

import numpy as np

from flowportrait.arrays import Array
from flowportrait.errors import require

njit = require("numba", extra="world").njit

COMPILED = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}
GAMMA = 2.2
HIDDEN = np.float32(0.004)
"""Share of a pixel too small to draw into."""
_FILLED = np.float32(0.03)
_SHORT = np.float32(0.02)
_EDGE = -1e-6
_SHOWN = (np.linspace(0, 1, 4096) ** (2 / GAMMA)).astype(np.float32)
"""Brightness on the screen, by the square root of light."""


@njit(**COMPILED)
def transform(points, matrix, offset, out):
    """Fills `out` [n, 3] with matrix @ point + offset."""
    for i in range(points.shape[0]):
        x = points[i, 0]
        y = points[i, 1]
        z = points[i, 2]
        for c in range(3):
            out[i, c] = matrix[c, 0] * x + matrix[c, 1] * y + matrix[c, 2] * z + offset[c]


@njit(**COMPILED)
def project(points, matrix, offset, follows, focal_px, centre_x, centre_y, camera, out):
    """Fills `out` [n, 3] with x and y in pixels and 1/depth of turned points, seen from `camera`
    along -z.

    `follows` [n] is the share in which a point follows the turn, matrix @ point + offset; None for
    all of it.
    """
    for i in range(points.shape[0]):
        x = points[i, 0]
        y = points[i, 1]
        z = points[i, 2]
        share = 1.0 if follows is None else follows[i]
        right = x + share * (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + offset[0] - x)
        up = y + share * (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + offset[1] - y)
        near = z + share * (matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + offset[2] - z)
        nearness = 1.0 / (camera[2] - near)
        out[i, 0] = centre_x + focal_px * (right - camera[0]) * nearness
        out[i, 1] = centre_y - focal_px * (up - camera[1]) * nearness
        out[i, 2] = nearness


@njit(**COMPILED)
def _bounds(low, high, size):
    """First and last pixel whose centre lies between two coordinates, within the picture."""
    return max(0, int(math.ceil(low - 0.5))), min(size - 1, int(math.floor(high - 0.5)))


@njit(**COMPILED)
def draw_triangles(screen, triangles, facing, depth, ids, barycentric):
    """Raises `depth` to the nearest triangle and keeps, per pixel, which one it is and where in it
    the pixel lies.

    `facing` -1 or 1 keeps only triangles wound that way on the screen, 0 keeps all. With `ids` and
    `barycentric` None only `depth` is drawn, as shadows need it.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a = triangles[t, 0]
        b = triangles[t, 1]
        c = triangles[t, 2]
        x0, y0, x1, y1, x2, y2 = (
            screen[a, 0],
            screen[a, 1],
            screen[b, 0],
            screen[b, 1],
            screen[c, 0],
            screen[c, 1],
        )
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0 or area * facing < 0:
            continue
        left, right = _bounds(min(x0, x1, x2), max(x0, x1, x2), width)
        top, bottom = _bounds(min(y0, y1, y2), max(y0, y1, y2), height)
        if left > right or top > bottom:
            continue
        inverse = 1.0 / area
        z0 = screen[a, 2]
        z1 = screen[b, 2]
        z2 = screen[c, 2]
        # Shares change evenly along a row.
        step0 = (y1 - y2) * inverse
        step1 = (y2 - y0) * inverse
        for y in range(top, bottom + 1):
            px = left + 0.5
            py = y + 0.5
            w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
            w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
            for x in range(left, right + 1):
                w2 = 1.0 - w0 - w1
                if w0 >= _EDGE and w1 >= _EDGE and w2 >= _EDGE:
                    z = w0 * z0 + w1 * z1 + w2 * z2
                    if z > depth[y, x]:
                        depth[y, x] = z
                        if ids is not None:
                            ids[y, x] = t
                            barycentric[y, x, 0] = w0
                            barycentric[y, x, 1] = w1
                w0 += step0
                w1 += step1


@njit(**COMPILED)
def vertex_normals(points, triangles, out):
    """Fills `out` [n, 3] with unit normals, each triangle counting by its area."""
    out[:] = 0
    for t in range(triangles.shape[0]):
        a = triangles[t, 0]
        b = triangles[t, 1]
        c = triangles[t, 2]
        ux, uy, uz = (
            points[b, 0] - points[a, 0],
            points[b, 1] - points[a, 1],
            points[b, 2] - points[a, 2],
        )
        vx, vy, vz = (
            points[c, 0] - points[a, 0],
            points[c, 1] - points[a, 1],
            points[c, 2] - points[a, 2],
        )
        nx = uy * vz - uz * vy
        ny = uz * vx - ux * vz
        nz = ux * vy - uy * vx
        for k in range(3):
            i = triangles[t, k]
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        scale = 1.0 / (math.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12)
        out[i, 0] *= scale
        out[i, 1] *= scale
        out[i, 2] *= scale


@njit(**COMPILED)
def _is_hidden(point, nearer, depth, unseen):
    """Whether a point of a strand lies behind something."""
    row = int(point[1])
    column = int(point[0])
    if row < 0 or column < 0 or row >= depth.shape[0] or column >= depth.shape[1]:
        return False
    return unseen[row, column] < HIDDEN or point[2] * nearer < depth[row, column]


@njit(**COMPILED)
def draw_strands(screen, per_strand, colours, depth, opacity, width_px, taper, bias, image, unseen):
    """Draws polylines of `per_strand` points, the nearest first, each behind what is drawn already.

    A strand covers the two pixels across it by their share, so that its edge is smooth; towards its
    end it thins out over the last `taper` of its length. What is nearer in `depth` hides it.
    `unseen` [h, w] is the share of a pixel that nothing has covered yet, and `image` the light of
    all that covers it.
    """
    height, width = depth.shape
    # Single precision throughout takes three fifths of the time.
    one = np.float32(1.0)
    half = np.float32(0.5 * width_px)
    nearer = np.float32(1.0 + bias)
    left_step = one / np.float32((per_strand - 1.0) * taper)
    for strand in range(screen.shape[0] // per_strand):
        ends_hidden = _is_hidden(screen[strand * per_strand], nearer, depth, unseen)
        for along in range(per_strand - 1):
            i = strand * per_strand + along
            starts_hidden = ends_hidden
            ends_hidden = _is_hidden(screen[i + 1], nearer, depth, unseen)
            x0 = screen[i, 0]
            y0 = screen[i, 1]
            z0 = screen[i, 2] * nearer
            dx, dy, dz = (
                screen[i + 1, 0] - x0,
                screen[i + 1, 1] - y0,
                screen[i + 1, 2] * nearer - z0,
            )
            steep = abs(dy) >= abs(dx)
            length = max(abs(dx), abs(dy))
            if (starts_hidden and ends_hidden) or length < _SHORT:
                continue
            if (
                max(x0, x0 + dx) < 0
                or min(x0, x0 + dx) >= width
                or max(y0, y0 + dy) < 0
                or min(y0, y0 + dy) >= height
            ):
                continue
            steps = int(length) + 1
            # A piece shorter than a pixel covers its share of one.
            laid = np.float32(opacity) * min(one, length * np.float32(1.5))
            left = np.float32(per_strand - 1 - along) * left_step
            red = colours[i, 0]
            green = colours[i, 1]
            blue = colours[i, 2]
            reddens, greens, blues = (
                colours[i + 1, 0] - red,
                colours[i + 1, 1] - green,
                colours[i + 1, 2] - blue,
            )
            for k in range(steps):
                f = (np.float32(k) + np.float32(0.5)) / np.float32(steps)
                x = x0 + f * dx
                y = y0 + f * dy
                z = z0 + f * dz
                strength = laid * min(one, left - f * left_step)
                low = (x if steep else y) - half
                high = low + np.float32(2.0) * half
                if low < 0:
                    continue
                for place in range(int(low), int(high) + 1):
                    row, column = (int(y), place) if steep else (place, int(x))
                    if row < 0 or column < 0 or row >= height or column >= width:
                        continue
                    free = unseen[row, column]
                    if free < HIDDEN or z < depth[row, column]:
                        continue
                    share = min(np.float32(place) + one, high) - max(np.float32(place), low)
                    amount = min(one, strength * share) * free
                    # What little is left of a pixel goes to the strand that nearly fills it.
                    if free - amount < _FILLED:
                        amount = free
                    unseen[row, column] = free - amount
                    image[row, column, 0] += amount * (red + f * reddens)
                    image[row, column, 1] += amount * (green + f * greens)
                    image[row, column, 2] += amount * (blue + f * blues)


@njit(**COMPILED)
def develop(image, unseen, background, supersampling, exposure, grain, out):
    """Averages the supersampled picture into `out` uint8 over the background; bright light is
    compressed softly.

    `background` is light as well; `grain` [h, w] is added to what is shown.
    """
    share = 1.0 / (supersampling * supersampling)
    last = _SHOWN.shape[0] - 1
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            red = green = blue = covered = 0.0
            for row in range(y * supersampling, (y + 1) * supersampling):
                for column in range(x * supersampling, (x + 1) * supersampling):
                    part = 1.0 - unseen[row, column]
                    if part > 1e-6:
                        part, gain = part * share, exposure / part
                        covered += part
                        red += part * _compressed(image[row, column, 0] * gain)
                        green += part * _compressed(image[row, column, 1] * gain)
                        blue += part * _compressed(image[row, column, 2] * gain)
            for c in range(3):
                light = (red if c == 0 else (green if c == 1 else blue)) + (
                    1 - covered
                ) * background[y, x, c]
                shown = _SHOWN[int(math.sqrt(min(max(light, 0.0), 1.0)) * last + 0.5)] + grain[y, x]
                out[y, x, c] = int(min(max(shown, 0.0), 1.0) * 255 + 0.5)


@njit(**COMPILED)
def _compressed(light):
    """Light with its brightest parts squeezed, as film does."""
    return light * (1 + light / 9.0) / (1 + light * 0.42)


def empty_layers(size: int) -> tuple[Array, Array, Array, Array, Array]:
    """Image, unseen shares, depth, triangle ids and barycentric coordinates of a square picture,
    all blank.
    """
    return (
        np.zeros((size, size, 3), np.float32),
        np.ones((size, size), np.float32),
        np.zeros((size, size), np.float32),
        np.full((size, size), -1, np.int32),
        np.zeros((size, size, 2), np.float32),
    )
