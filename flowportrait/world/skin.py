"""Painting a person onto the chart: skin from melanin and blood, lips, beard shadow, scalp, brows,
clothes.

No photograph enters. Colours are absorption of a pale base by two pigments, so that skin tones stay
plausible.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from flowportrait.arrays import Array
from flowportrait.world.chart import (
    AZIMUTHS,
    CM_PER_RADIAN,
    Chart,
    X,
    Y,
    blend,
    blob,
    bump,
    noise,
    smoothstep,
)
from flowportrait.world.person import BEARDS, HAIR_COLOURS, Attributes

_BASE = np.array([0.76, 0.565, 0.445])
_MELANIN = np.array([1.0, 1.36, 1.85])
_HAEMOGLOBIN = np.array([0.12, 0.95, 0.80])
_LIPSTICKS = (
    (0.42, 0.06, 0.07),
    (0.35, 0.10, 0.10),
    (0.48, 0.16, 0.15),
    (0.30, 0.05, 0.10),
    (0.50, 0.20, 0.18),
)
_CLOTHS = (
    (0.6, 0.6, 0.6), (0.03, 0.035, 0.05), (0.05, 0.08, 0.2), (0.25, 0.03, 0.035),
    (0.04, 0.14, 0.09), (0.5, 0.38, 0.2), (0.3, 0.33, 0.38), (0.1, 0.1, 0.11), (0.55, 0.25, 0.3),
    (0.08, 0.2, 0.32), (0.7, 0.68, 0.62),
)  # fmt: skip
_COLLARS = {  # height at the side, dip in front, thickness in cm
    "crew": (-13.6, -1.3, 0.25), "v": (-12.6, -5.0, 0.25), "turtle": (-10.2, -0.6, 0.45),
    "shirt": (-12.2, -4.2, 0.4), "wide": (-15.0, -1.4, 0.25),
}  # fmt: skip
_HAIRLINE_DEGREES = (0, 12, 24, 34, 44, 52, 58, 64, 70, 76, 84, 97, 108, 118, 128, 150, 180)
_HAIRLINE_ABOVE_BROW = (
    5.5,
    5.5,
    5.1,
    4.2,
    2.9,
    1.6,
    -0.6,
    -3.6,
    -5.6,
    -5.0,
    -0.3,
    -0.2,
    -1.8,
    -6.5,
    -8.6,
    -11.8,
    -12.6,
)
_NAPE = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.2, 0.7, 1, 1, 1)
"""How far each hairline point follows a rig whose nape lies higher."""


@dataclass(frozen=True)
class Painting:
    """A person's surface on the chart, and masks that hair is planted by."""

    colour: Array
    """[rows, columns, 3] reflectance."""
    gloss: Array
    """[rows, columns] strength of the specular lobes; 0 on cloth."""
    scalp: Array
    """Where hair grows, in [0, 1]."""
    beard: Array
    brows: Array
    brow_colour: Array
    hair_colour: Array
    collar: Array
    """[columns] height of the cloth's edge."""
    cloth_cm: float
    roughness: float
    teeth: float


def skin_colour(melanin, haemoglobin) -> Array:
    """Reflectance [..., 3] of skin with these pigments."""
    melanin = np.asarray(melanin)[..., None]
    haemoglobin = np.asarray(haemoglobin)[..., None]
    return _BASE * np.exp(-melanin * _MELANIN - haemoglobin * _HAEMOGLOBIN)


def paint(person: Attributes, chart: Chart) -> Painting:
    """The person's skin, scalp and clothes."""
    rng = np.random.default_rng([person.seed, 2])
    fine = noise(rng, 0.22)
    coarse = noise(rng, 0.8)
    hair = np.array(HAIR_COLOURS[person.hair_colour], np.float32) * np.float32(
        rng.uniform(0.85, 1.2)
    )
    colour = _skin(person, chart, rng, fine, coarse)
    colour = _with_lips(colour, person, chart, rng, fine)
    beard = _beard_mask(chart)
    colour = _darkened(colour, hair, BEARDS[person.beard][0] * beard * (1 + 0.22 * noise(rng, 0.1)))
    scalp = _scalp_mask(person, chart, rng)
    cover = {"bald": rng.uniform(0.05, 0.25), "buzz": 0.7}.get(person.hair_style, 0.9)
    rooted = (smoothstep(scalp, 0.25, 1.0) * cover)[..., None]
    root_colour = hair * min(1, 0.3 / hair.max()) * 0.75 * (1 + 0.15 * fine[..., None])
    colour = blend(colour, root_colour, rooted)
    brows = _brow_mask(person, chart, rng)
    brow_colour = _brow_colour(person, hair)
    shade = (0.5 * gaussian_filter(brows, 2))[..., None]
    colour = blend(colour, colour * 0.4 + brow_colour * 0.5, shade)
    colour *= (1 + 0.025 * fine + 0.02 * noise(rng, 0.12))[..., None]
    collar = _collar(person, chart)
    clothed = smoothstep(collar - Y, -0.05, 0.12)[..., None]
    colour = blend(colour, _cloth(person, rng, collar, fine), clothed)
    gloss = _gloss(person, chart, rng, fine) * (1 - 0.85 * scalp * cover)
    gloss *= 1 - 0.5 * np.clip(BEARDS[person.beard][0] * beard, 0, 1)
    return Painting(
        colour=np.clip(colour, 0.002, 0.95).astype(np.float32),
        gloss=np.where(clothed[..., 0] > 0.5, 0, gloss).astype(np.float32),
        scalp=scalp,
        beard=beard,
        brows=brows,
        brow_colour=brow_colour.astype(np.float32),
        hair_colour=hair,
        collar=collar[0],
        cloth_cm=_COLLARS[person.cloth][2],
        roughness=float(rng.uniform(0.38, 0.5)),
        teeth=float(rng.uniform(0.8, 1.1) * (1 - 0.12 * person.age_proxy)),
    )


def _skin(person: Attributes, chart: Chart, rng, fine: Array, coarse: Array) -> Array:
    """Reflectance of bare skin: flush on cheeks and nose, darker lids, neck, freckles, moles, lines
    of age.
    """
    wide = noise(rng, 3.0)
    melanin = person.melanin * (1 + 0.035 * wide + 0.035 * coarse)
    blood = person.hemoglobin * (1 + 0.07 * wide + 0.08 * coarse + 0.07 * fine)
    nose_y = chart.height(33)
    chin_y = chart.height(8)
    flush = rng.uniform(0.05, 0.25)
    lids = rng.uniform(0.03, 0.14) + 0.1 * person.age_proxy
    for corners in ((36, 39), (42, 45)):
        x, y = (float(values.mean()) for values in chart.landmarks(*corners))
        blood += flush * blob(x * 1.15, (y + chart.mouth_y) / 2, 2.4, 1.7)
        under = blob(x, y - 0.1, 2.3, 1.25)
        melanin += lids * under * (0.4 + 0.5 * person.melanin)
        blood += lids * 0.9 * blob(x, y - 0.6, 1.9, 0.8) + 0.12 * blob(x, y + 0.2, 1.9, 0.9)
    blood += rng.uniform(0.05, 0.2) * blob(0, nose_y + 1.2, 1.6, 1.3) + 0.08 * blob(
        0, chin_y + 1, 1.5, 1.2
    )
    around = np.abs(np.degrees(X / CM_PER_RADIAN))
    blood += 0.12 * bump(around, 98, 16) * smoothstep(Y, -3, -1) * (1 - smoothstep(Y, 6, 8))
    melanin += (0.06 + 0.06 * person.melanin) * smoothstep(-Y, 7.5, 11) * 0.8
    if rng.random() < 0.3 and person.melanin < 0.35:
        melanin += (
            rng.uniform(0.1, 0.35) * smoothstep(noise(rng, 0.16), 1.2, 2.4) * blob(0, 1.2, 7, 3.2)
        )
    for _ in range(rng.poisson(2.0)):
        radius = rng.uniform(0.07, 0.13)
        melanin += rng.uniform(0.4, 1.0) * blob(
            rng.uniform(-6, 6), rng.uniform(-6, 8), radius, radius
        )
    lines = _lines_of_age(chart) * np.clip(person.age_proxy - 0.25, 0, 1)
    return skin_colour(melanin + (0.25 + 0.4 * person.melanin) * lines, blood + 0.3 * lines)


def _lines_of_age(chart: Chart) -> Array:
    """Forehead lines, crow's feet, and the folds from nose to mouth, in [0, 1]."""
    lines = np.zeros_like(X)
    for above, wide in ((2.2, 3.6), (3.1, 4.0), (4.0, 3.4)):
        bend = chart.brow_y + above - 0.015 * X**2 + 0.12 * np.sin(X * 1.7 + above)
        broken = 0.55 + 0.45 * np.sin(X * 2.3 + 5 * above)
        lines += 0.7 * broken * bump(Y, bend, 0.13) * smoothstep(np.abs(X), wide + 1, wide - 2)
    return _wings_and_crows_feet(chart, lines)


def _wings_and_crows_feet(chart: Chart, lines: Array) -> Array:
    """Lines from nose to mouth and beside the eyes."""
    for wing, corner, eye in ((31, 48, 36), (35, 54, 45)):
        (x0, x1, xe), (y0, y1, ye) = chart.landmarks(wing, corner, eye)
        along = np.clip((Y - y1 + 0.5) / (y0 - y1 + 0.5), 0, 1)
        path = x1 * 1.22 + (x0 * 1.35 - x1 * 1.22) * along**1.4
        inside = smoothstep(Y, y1 - 1.0, y1) * smoothstep(Y, y0 + 0.5, y0 - 0.3)
        lines += 0.7 * bump(X, path, 0.24) * inside
        for slope in (-0.45, -0.1, 0.3):
            outwards = (np.abs(X) - abs(xe)) * (np.sign(X) == np.sign(xe))
            crow = bump(Y - ye, slope * outwards, 0.07)
            lines += 0.5 * crow * smoothstep(outwards, 0.25, 0.5) * smoothstep(outwards, 1.6, 0.9)
    return np.clip(lines, 0, 1.3)


def _with_lips(colour: Array, person: Attributes, chart: Chart, rng, fine: Array) -> Array:
    """Colours with the red of the lips, painted or not, and the dark line between them."""
    red = skin_colour(person.melanin * 0.75 + 0.12, person.hemoglobin + rng.uniform(0.45, 0.85))
    if person.lipstick:
        red = red * 0.45 + np.array(_LIPSTICKS[rng.integers(len(_LIPSTICKS))]) * 0.55
    lips = chart.lips[..., None]
    colour = blend(colour, red * (1 + 0.10 * fine[..., None]), lips)
    # Where the lips meet they are thin, wet and in each other's shadow.
    return colour * (1 - 0.45 * chart.lip_line[..., None] * np.array([0.8, 1.0, 1.0]))


def _darkened(colour: Array, hair: Array, amount: Array) -> Array:
    """Skin with short hairs in it."""
    amount = np.clip(amount, 0, 0.8)[..., None]
    return blend(colour, colour * 0.4 + hair * min(1, 0.12 / hair.max()) * 0.35, amount)


def _beard_mask(chart: Chart) -> Array:
    """[rows, columns] where a beard grows, in [0, 1]: under a line from nose to ears, not on the
    lips.
    """
    around = np.abs(X)
    mouth = chart.mouth_y
    nose = chart.height(33)
    chin = chart.height(8)
    line = np.interp(
        around,
        [0, 2.6, 3.6, 6.0, 9.5, 11.2, 12.5],
        [nose - 0.35, nose - 0.6, mouth - 0.4, mouth + 0.3, mouth + 2.6, mouth + 4.4, mouth + 4.6],
    )
    mask = (
        smoothstep(line - Y, -0.2, 1.1)
        * (1 - smoothstep(around, 11.4, 12.8))
        * smoothstep(Y, chin - 4.2, chin - 2.2)
    )
    mask *= 1 - gaussian_filter((chart.lips > 0.15).astype(np.float32), 5)
    return np.clip(mask * (1 - 0.35 * blob(0, mouth + 1.3, 0.5, 0.9)), 0, 1).astype(np.float32)


def _scalp_mask(person: Attributes, chart: Chart, rng) -> Array:
    """[rows, columns] where hair of the head grows, in [0, 1]; men's hairlines recede with age."""
    receding = rng.uniform(-0.2, 0.35) + (
        0.5 * person.age_proxy if person.presentation == "m" else 0
    )
    around = np.abs(X[0]) / CM_PER_RADIAN
    nape = np.array(_NAPE) * chart.rig.about.nape_cm
    line = chart.brow_y + np.interp(
        np.degrees(around), _HAIRLINE_DEGREES, np.array(_HAIRLINE_ABOVE_BROW) + nape
    )
    line = line + receding * (1.6 * bump(around, 0.62, 0.22) + 0.7 * bump(around, 0, 0.5))
    ragged = 0.22 * noise(rng, 0.35) + 0.14 * noise(rng, 0.12)
    return smoothstep(Y - line + ragged, -0.7, 1.0).astype(np.float32)


def _brow_mask(person: Attributes, chart: Chart, rng) -> Array:
    """Density of the brows: full in the middle, thin and broken towards both ends, no two alike."""
    heavy = rng.uniform(0.7, 1.15) * (1.05 if person.presentation == "m" else 0.75)
    mask = np.zeros_like(X)
    own = np.random.default_rng([person.seed, 10])
    drop = own.uniform(0.5, 0.72)
    arch = own.uniform(-0.12, 0.2)
    thin = own.uniform(0.25, 0.6)
    patchy = 1 + 0.38 * noise(own, 0.3) + 0.25 * noise(own, 0.12)
    for indices in (range(17, 22), range(22, 27)):
        x, y = chart.landmarks(*indices)
        order = np.argsort(np.abs(x))
        inner = np.abs(x[order[0]])
        outer = np.abs(x[order[-1]])
        along = (np.abs(X) - inner) / (outer - inner)
        # Between the landmarks' arch and a straight line, and lower: landmarks lie along the upper
        # edge.
        straight = y[order[0]] + (y[order[-1]] - y[order[0]]) * along
        middle = np.interp(np.abs(X), np.abs(x[order]), y[order]) * 0.75 + straight * 0.25 - drop
        middle += arch * bump(along, 0.62, 0.22) + own.normal() * 0.05
        wide = (
            0.44
            * heavy
            * np.interp(along, [-0.1, 0, 0.2, 0.6, 0.9, 1.05], [0.3, 0.7, 1, 0.8, thin, 0.1])
        )
        ends = smoothstep(along, -0.12, 0.18) * (1 - smoothstep(along, 0.72, 1.08))
        hairs = (
            np.exp(-1.2 * ((Y - middle) / wide) ** 2)
            * (0.2 + 0.8 * ends)
            * (along > -0.1)
            * (along < 1.08)
        )
        mask = np.maximum(
            mask, hairs * np.clip(patchy, 0.15, 1.5) * (np.sign(X) == np.sign(x.mean()))
        )
    return np.clip(mask, 0, 1).astype(np.float32)


def _brow_colour(person: Attributes, hair: Array) -> Array:
    """Colour of brows: darker than the hair, and not grey where the hair is."""
    if person.hair_colour in ("grey", "white"):
        return np.array([0.062, 0.057, 0.053])
    return hair * min(0.6, 0.09 / hair.max()) * np.array([1.0, 0.88, 0.78]) + np.array(
        [0.014, 0.009, 0.006]
    )


def _collar(person: Attributes, chart: Chart) -> Array:
    """[1, columns] height of the cloth's edge around the neck."""
    side, dip, _ = _COLLARS[person.cloth]
    around = np.abs(AZIMUTHS)[None]
    shapes = {"v": smoothstep(around, 1.05, 0.1), "shirt": smoothstep(around, 0.8, 0.1)}
    return side + dip * shapes.get(person.cloth, bump(around, 0, 0.8))


def _cloth(person: Attributes, rng, collar: Array, fine: Array) -> Array:
    """[rows, columns, 3] cloth of one colour, plain, striped or checked."""
    colour = np.array(_CLOTHS[rng.integers(len(_CLOTHS))]) * rng.uniform(0.75, 1.2)
    weave = 1 + 0.06 * noise(rng, 0.4) + 0.04 * fine
    pattern = rng.random()
    if pattern < 0.14:
        weave *= 1 - 0.4 * smoothstep(np.sin(Y * rng.uniform(3, 6)), 0.1, 0.5)
    elif pattern < 0.24:
        weave *= (
            1
            - 0.25 * smoothstep(np.sin(X * 4), 0.3, 0.7)
            - 0.2 * smoothstep(np.sin(Y * 4), 0.3, 0.7)
        )
    return _collared(collar, weave, person, colour)


def _collared(collar: Array, weave, person: Attributes, colour) -> Array:
    """The cloth with a fold at its edge; a shirt's collar lies over it, open in front."""
    fold = collar - Y
    weave *= 1 - 0.35 * bump(fold, 0.5, 0.12)
    if person.cloth == "shirt":
        front = np.abs(X) / CM_PER_RADIAN < 1.5
        weave *= 1 + 0.12 * ((fold > 0) & (fold < 2.6)) - 0.45 * bump(fold, 2.6, 0.15) * front
    return weave[..., None] * colour


def _gloss(person: Attributes, chart: Chart, rng, fine: Array) -> Array:
    """[rows, columns] oil on the skin: more on forehead and nose; lips have their own."""
    oil = rng.uniform(0.25, 0.55)
    gloss = (
        0.75
        + 0.4 * blob(0, chart.brow_y + 2.5, 4, 2)
        + 0.6 * blob(0, chart.height(33) + 2, 1.3, 2.6)
    )
    gloss = oil * (gloss + 0.10 * fine)
    return gloss * (1 - chart.lips) + chart.lips * rng.uniform(0.4, 1.0)
