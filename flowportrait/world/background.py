"""The background of a head: plain, a gradient, soft lights, or a blurred room."""

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.chart import blend, smoothstep

_KINDS = {"gradient": 0.25, "vignette": 0.3, "lights": 0.2, "room": 0.25}


def draw_background(rng: Rng, size: int) -> tuple[str, Array]:
    """The kind, and its picture [size, size, 3] as it appears on a screen, in [0, 1]."""
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    y, x = np.mgrid[0:size, 0:size] / size
    colour = rng.uniform(0.08, 0.75, 3) * rng.uniform(0.4, 1)
    colour = colour.mean() * 0.65 + colour * 0.35
    darker = colour * rng.uniform(0.35, 0.9)
    picture = _gradient(rng, x, y, colour, darker)
    if kind == "vignette":
        edge = smoothstep(np.hypot(x - 0.5, y - 0.42), 0.1, 0.8)[..., None]
        picture = blend(colour, darker * 0.7, edge)
    elif kind == "lights":
        for _ in range(12):
            picture = _with_light(rng, x, y, colour, picture)
    elif kind == "room":
        for _ in range(5):
            picture = _with_panel(rng, x, y, colour, picture)
    return kind, np.clip(picture, 0, 0.95).astype(np.float32)


def _gradient(rng: Rng, x: Array, y: Array, colour: Array, darker: Array) -> Array:
    """From one colour to the other, in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    slope = y * np.cos(turn) + x * np.sin(turn)
    share = (slope - slope.min()) / np.ptp(slope)
    return blend(colour, darker, share[..., None])


def _with_light(rng: Rng, x: Array, y: Array, colour: Array, picture: Array) -> Array:
    """The picture with a soft round spot."""
    radius = rng.uniform(0.03, 0.12)
    from_middle = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 0.8))
    spot = 0.4 * (1 - smoothstep(from_middle, radius * 0.75, radius * 1.15))
    tint = np.clip(colour * rng.uniform(0.7, 1.8, 3), 0, 1)
    return blend(picture, tint, spot[..., None])


def _with_panel(rng: Rng, x: Array, y: Array, colour: Array, picture: Array) -> Array:
    """The picture with an upright rectangle, out of focus: a door, a shelf or a window."""
    blur = rng.uniform(0.015, 0.05)
    tint = np.clip(colour * rng.uniform(0.5, 1.5, 3), 0, 1)
    left = rng.uniform(-0.1, 0.9)
    top = rng.uniform(-0.1, 0.6)
    across = _band(x, left, left + rng.uniform(0.1, 0.5), blur)
    down = _band(y, top, top + rng.uniform(0.2, 0.8), blur)
    panel = across * down
    return blend(picture, tint, panel[..., None])


def _band(place: Array, low: float, high: float, blur: float) -> Array:
    """1 between `low` and `high`, falling off to both sides over `blur`."""
    above_low = smoothstep(place, low - blur, low + blur)
    above_high = smoothstep(place, high - blur, high + blur)
    return above_low * (1 - above_high)
