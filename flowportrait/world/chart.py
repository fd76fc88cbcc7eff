"""The chart on which skin is painted: a cylinder around the head's axis, unrolled; the same for all
heads of a rig.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import splev, splprep
from scipy.ndimage import gaussian_filter, zoom

from flowportrait.arrays import Array, Rng
from flowportrait.world.names import SKIN
from flowportrait.world.raster import draw_triangles, empty_layers
from flowportrait.world.rig import AXIS_Z, Rig

COLUMNS = 1024
ROWS = 704
TOP_Y = 15.0
BOTTOM_Y = -21.0
CM_PER_RADIAN = 9.0
"""About the head's radius, so that places on the chart read as centimetres on the face."""
_CHEST_BELOW = (8.0, 13.0)
_CHEST_BEHIND = 7.0
CM_PER_ROW = (TOP_Y - BOTTOM_Y) / ROWS

_AZIMUTHS = (np.arange(COLUMNS) + 0.5) / COLUMNS * 2 * np.pi - np.pi
_HEIGHTS = TOP_Y - (np.arange(ROWS) + 0.5) * CM_PER_ROW
X, Y = (grid.astype(np.float32) for grid in np.meshgrid(_AZIMUTHS * CM_PER_RADIAN, _HEIGHTS))
"""[ROWS, COLUMNS] place of each pixel, cm: around from the nose (to the viewer's right positive),
and up.
"""
AZIMUTHS = _AZIMUTHS


def smoothstep(value, low, high):
    """0 below `low`, 1 above `high`, smooth between; works downwards too when `low` is the
    larger.
    """
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(value, middle, width):
    """1 where `value` is `middle`, falling off to both sides within about `width`."""
    return np.exp(-(((value - middle) / width) ** 2))


def blend(first, second, share):
    """Between two values or pictures: the second where `share` is 1."""
    return first * (1 - share) + second * share


def blob(x: float, y: float, wide: float, tall: float) -> Array:
    """A soft spot on the chart, 1 in its middle."""
    return np.exp(-(((X - x) / wide) ** 2) - ((Y - y) / tall) ** 2)


def noise(rng: Rng, scale_cm: float) -> Array:
    """Smooth noise of unit deviation over the chart, with features of about `scale_cm`."""
    pixels = scale_cm / CM_PER_ROW
    rows = max(2, int(ROWS / pixels) + 3)
    columns = max(2, int(COLUMNS / pixels) + 3)
    coarse = rng.normal(size=(rows, columns)).astype(np.float32)
    factors = (ROWS / rows * 1.02, COLUMNS / columns * 1.02)
    fine = zoom(coarse, factors, order=1 if pixels < 3 else 2)[:ROWS, :COLUMNS]
    return fine / (fine.std() + 1e-6)


def pixel(x, y) -> tuple[Array, Array]:
    """Column and row (not rounded) of places in centimetres."""
    return (np.asarray(x) / CM_PER_RADIAN / (2 * np.pi) + 0.5) * COLUMNS, (
        TOP_Y - np.asarray(y)
    ) / CM_PER_ROW


@dataclass(frozen=True)
class Chart:
    """Position of a rig's average head on the chart."""

    rig: Rig

    @cached_property
    def azimuth(self) -> Array:
        """[n] radians around the axis, 0 at the nose. Below the neck the axis lies further back,
        behind the chest.
        """
        axis_z = AXIS_Z - _CHEST_BEHIND * smoothstep(-self.y, *_CHEST_BELOW)
        return np.arctan2(self.rig.vertices[:, 0], self.rig.vertices[:, 2] - axis_z)

    @cached_property
    def x(self) -> Array:
        """[n] centimetres around."""
        return self.azimuth * CM_PER_RADIAN

    @property
    def y(self) -> Array:
        """[n] centimetres up."""
        return self.rig.vertices[:, 1]

    @cached_property
    def corners(self) -> Array:
        """[t, 3, 2] place of each triangle's corners as shares of the chart; whole across the seam
        at the back.
        """
        across = self.azimuth / (2 * np.pi) + 0.5
        down = (TOP_Y - self.y) / (TOP_Y - BOTTOM_Y)
        across = across[self.rig.triangles]
        wrapped = (np.ptp(across, axis=1) > 0.5)[:, None] & (across < 0.5)
        corners = np.stack([across + wrapped, down[self.rig.triangles]], -1)
        return np.ascontiguousarray(corners, np.float32)

    def landmarks(self, *indices: int) -> tuple[Array, Array]:
        """x and y of landmarks on the chart."""
        vertices = self.rig.landmarks[list(indices)]
        return self.x[vertices], self.y[vertices]

    def height(self, *indices: int) -> float:
        """Mean height of landmarks."""
        return float(self.landmarks(*indices)[1].mean())

    @cached_property
    def brow_y(self) -> float:
        """Height of the brows."""
        return self.height(*range(17, 27))

    @cached_property
    def mouth_y(self) -> float:
        """Height of the corners of the mouth."""
        return self.height(48, 54)

    @cached_property
    def lips(self) -> Array:
        """How much each pixel is red of the lips, in [0, 1]."""
        if len(self.rig.lips) == 0:
            drawn = self._outlined(range(48, 60))
        else:
            drawn = self.painted(self.rig.lips)
        return gaussian_filter(drawn, 0.8)

    @cached_property
    def lip_line(self) -> Array:
        """How close a pixel is to where the lips meet, in [0, 1]; the lips' inner side lies
        there.
        """
        x, y = self.landmarks(*range(60, 68))
        line = np.interp(X, np.sort(x[:5]), y[:5][np.argsort(x[:5])])
        near = bump(Y, line, 0.13)
        return (near * smoothstep(np.abs(X), np.abs(x).max() + 0.25, np.abs(x).max() - 0.3)).astype(
            np.float32
        )

    def painted(self, values: Array) -> Array:
        """Values of vertices [n] spread over the chart, from the face's outer skin only."""
        rig = self.rig
        front = (rig.parts[rig.triangles[:, 0]] == SKIN) & (
            rig.vertices[rig.triangles].mean(1)[:, 2] > 2
        )
        triangles = np.ascontiguousarray(rig.triangles[front])
        column, row = pixel(self.x, self.y)
        outward = np.hypot(rig.vertices[:, 0], rig.vertices[:, 2] - AXIS_Z) / 100
        _, _, depth, ids, share = empty_layers(COLUMNS)
        screen = np.stack([column, row, outward], 1).astype(np.float32)
        draw_triangles(screen, triangles, 0, depth, ids, share)
        ids = ids[:ROWS]
        share = share[:ROWS]
        weights = np.stack(
            [
                share[..., 0],
                share[..., 1],
                1 - share.sum(-1),
            ],
            -1,
        )
        return ((values[triangles[ids]] * weights).sum(-1) * (ids >= 0)).astype(np.float32)

    def _outlined(self, indices: range) -> Array:
        """The area within a smooth closed curve through landmarks, drawn at twice the size."""
        x, y = self.landmarks(*indices)
        curve, _ = splprep([np.append(x, x[0]), np.append(y, y[0])], s=0, per=1)
        columns, rows = pixel(*splev(np.linspace(0, 1, 200), curve))
        image = Image.new("L", (COLUMNS * 2, ROWS * 2))
        ImageDraw.Draw(image).polygon(
            [(2 * c, 2 * r) for c, r in zip(columns, rows, strict=True)], fill=255
        )
        return np.asarray(image.resize((COLUMNS, ROWS), Image.Resampling.BOX), np.float32) / 255
