"""The background of a head: plain, a gradient, soft lights, or a blurred room."""

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.chart import smoothstep

_KINDS = {"gradient": 0.25, "vignette": 0.3, "lights": 0.2, "room": 0.25}


def draw_background(rng: Rng, size: int) -> tuple[str, Array]:
    """The kind, and its picture [size, size, 3] as it appears on a screen, in [0, 1]."""
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    y, x = np.mgrid[0:size, 0:size] / size
    colour = rng.uniform(0.08, 0.75, 3) * rng.uniform(0.4, 1)
    colour = colour.mean() * 0.65 + colour * 0.35
    darker = colour * rng.uniform(0.35, 0.9)
    turn = rng.uniform(0, 2 * np.pi)
    slope = y * np.cos(turn) + x * np.sin(turn)
    slope = ((slope - slope.min()) / np.ptp(slope))[..., None]
    picture = colour * (1 - slope) + darker * slope
    if kind == "vignette":
        edge = smoothstep(np.hypot(x - 0.5, y - 0.42), 0.1, 0.8)[..., None]
        picture = colour * (1 - edge) + darker * 0.7 * edge
    elif kind == "lights":
        for _ in range(12):
            radius = rng.uniform(0.03, 0.12)
            place = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 0.8))
            spot = 0.4 * (1 - smoothstep(place, radius * 0.75, radius * 1.15))[..., None]
            picture = picture * (1 - spot) + np.clip(colour * rng.uniform(0.7, 1.8, 3), 0, 1) * spot
    elif kind == "room":
        for _ in range(5):
            blur = rng.uniform(0.015, 0.05)
            tint = np.clip(colour * rng.uniform(0.5, 1.5, 3), 0, 1)
            left = rng.uniform(-0.1, 0.9)
            top = rng.uniform(-0.1, 0.6)
            panel = _band(x, left, left + rng.uniform(0.1, 0.5), blur) * _band(
                y, top, top + rng.uniform(0.2, 0.8), blur
            )
            picture = picture * (1 - panel[..., None]) + tint * panel[..., None]
    return kind, np.clip(picture, 0, 0.95).astype(np.float32)


def _band(place: Array, low: float, high: float, blur: float) -> Array:
    """1 between `low` and `high`, falling off to both sides over `blur`."""
    return smoothstep(place, low - blur, low + blur) * (
        1 - smoothstep(place, high - blur, high + blur)
    )
