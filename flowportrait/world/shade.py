"""Colour of each pixel: skin with two specular lobes, eyes with iris and wet cornea, teeth, gums,
tongue; hair.

The compiled functions take plain arrays. A row of `surface` [n, 8] is one vertex: normal (3,
world), light (3), how much of the key and of the fill lamp it sees (2).
"""

import math

import numpy as np

from flowportrait.world.names import EYE_LEFT, EYE_RIGHT, GUM, MOUTH, SKIN, TEETH, TONGUE
from flowportrait.world.raster import COMPILED, HIDDEN, njit

_PUPIL = 0.36
"""Radius of the pupil, in iris radii."""
_TEETH_RGB = (0.62, 0.56, 0.47)
_TONGUE_RGB = (0.46, 0.17, 0.165)
_GUM_RGB = (0.34, 0.105, 0.10)
_MOUTH_RGB = (0.26, 0.065, 0.06)
_SOCKET_RGB = (0.42, 0.20, 0.17)
_DARK = -9.0
"""Exponent below which a highlight is not seen."""
_SAME_SURFACE = np.float32(0.005)
"""Share of the distance by which samples of one surface may lie behind each other; a third of a
centimetre.
"""


@njit(**COMPILED)
def _environment(harmonics, c, x, y, z):
    """Light of colour channel `c` from one direction, from the first four harmonics."""
    light = 0.282095 * harmonics[0, c] + 0.488603 * (
        y * harmonics[1, c] + z * harmonics[2, c] + x * harmonics[3, c]
    )
    return max(0.0, light)


@njit(**COMPILED)
def _skin_gloss(nx, ny, nz, lamp, roughness):
    """Two lobes (spherical Gaussians), one lamp, viewed along z."""
    hx = lamp[0]
    hy = lamp[1]
    hz = lamp[2] + 1.0
    scale = 1.0 / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
    half = (nx * hx + ny * hy + nz * hz) * scale
    towards = nx * lamp[0] + ny * lamp[1] + nz * lamp[2]
    if half <= 0.7 or towards <= 0:
        return 0.0
    wide = 2.0 / roughness**4
    if wide * (half - 1) < _DARK:
        return 0.0
    facing = max(nz, 0.02)
    fresnel = 0.03 + 0.97 * (1 - hz * scale) ** 5
    narrow = wide / 0.68**4
    lobes = (
        0.7 * wide * math.exp(wide * (half - 1)) + 0.3 * narrow * math.exp(narrow * (half - 1))
    ) / 6.2832
    return fresnel * lobes * towards / (4 * max(0.15, 0.5 * (towards + facing)) * max(0.35, facing))


@njit(**COMPILED)
def _iris(x, y, colour, c):
    """Reflectance of the eye at a place in iris radii from its centre."""
    radius = math.sqrt(x * x + y * y)
    if radius >= 1.06:
        away = min(1.0, (radius - 1.06) / 1.1)
        white, falling = (0.60, 0.05) if c == 0 else ((0.55, 0.17) if c == 1 else (0.52, 0.18))
        return white - falling * away
    angle = math.atan2(y, x)
    fibres = 0.5 + 0.5 * math.sin(angle * 37 + 3 * math.sin(angle * 11 + 1.3)) * math.sin(
        angle * 23 + 2.0
    )
    outward = max(0.0, min(1.0, (radius - _PUPIL) / 0.38))
    warm = 1.25 - 0.15 * c
    value = colour[c] * (warm + (0.88 - warm) * outward) * (0.8 + 0.55 * fibres)
    value *= max(0.0, min(1.0, (radius - _PUPIL) / 0.06))
    value *= 0.25 + 0.75 * max(0.0, min(1.0, (1.0 - radius) / 0.16))
    rim = max(0.0, min(1.0, (radius - 0.94) / 0.12))
    return value * (1 - rim) + (0.5 - 0.02 * c) * rim


@njit(**COMPILED)
def _wet(nx, ny, nz, lamp, power):
    """A sharp highlight, one lamp, viewed along z."""
    hx = lamp[0]
    hy = lamp[1]
    hz = lamp[2] + 1.0
    half = (nx * hx + ny * hy + nz * hz) / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
    if half > 0:
        return half**power
    return 0.0


@njit(**COMPILED)
def _flesh(part, c, teeth):
    """Reflectance of what lies inside the mouth."""
    if part == TEETH:
        return teeth * _TEETH_RGB[c]
    if part == TONGUE:
        return _TONGUE_RGB[c]
    if part == GUM:
        return _GUM_RGB[c]
    if part == MOUTH:
        return _MOUTH_RGB[c]
    return _SOCKET_RGB[c]


@njit(**COMPILED)
def _tooth(x, y):
    """How light a row of teeth is, and how much it is gum there: x counts teeth, y is cm from the
    biting edge.
    """
    apart = abs(x - math.floor(x + 0.5))
    # Crowns end in arches, low between two teeth.
    gum = min(1.0, max(0.0, (y - 1.02 + 0.9 * (0.5 - apart) ** 2) / 0.08))
    gap = 0.62 * math.exp(-((apart / 0.085) ** 2))
    rounded = 1.0 - 0.28 * max(0.0, 1.0 - apart / 0.22) - 0.22 * max(0.0, 1.0 - y / 0.16)
    return rounded * (1.0 - gap * (1.0 - gum)), gum


@njit(**COMPILED)
def _mixed(values, a, b, c, w0, w1, column):
    """One column of `values` within a triangle."""
    return w0 * values[a, column] + w1 * values[b, column] + (1 - w0 - w1) * values[c, column]


@njit(**COMPILED)
def _normal(surface, a, b, c, w0, w1):
    """The unit normal within a triangle."""
    nx = _mixed(surface, a, b, c, w0, w1, 0)
    ny = _mixed(surface, a, b, c, w0, w1, 1)
    nz = _mixed(surface, a, b, c, w0, w1, 2)
    scale = 1.0 / (math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
    return nx * scale, ny * scale, nz * scale


@njit(**COMPILED)
def _chart_pixel(corners, w0, w1, rows, columns):
    """Row and column of the chart at a place in a triangle [3, 2]."""
    w2 = np.float32(1) - w0 - w1
    u = int((w0 * corners[0, 0] + w1 * corners[1, 0] + w2 * corners[2, 0]) * columns)
    u -= columns if u >= columns else 0
    v = int((w0 * corners[0, 1] + w1 * corners[1, 1] + w2 * corners[2, 1]) * rows)
    return min(max(v, 0), rows - 1), min(max(u, 0), columns - 1)


@njit(**COMPILED)
def _light_on_skin(surface, a, b, c, w0, w1, lamps, lamp_colours, roughness, harmonics, out):
    """Fills `out` [6] with the light that skin scatters and the light it mirrors where its oil is
    1.
    """
    nx, ny, nz = _normal(surface, a, b, c, w0, w1)
    shine_key = _skin_gloss(nx, ny, nz, lamps[0], roughness[0]) * _mixed(
        surface, a, b, c, w0, w1, 6
    )
    shine_fill = _skin_gloss(nx, ny, nz, lamps[1], roughness[1]) * _mixed(
        surface, a, b, c, w0, w1, 7
    )
    facing = max(nz, 0.02)
    mirror = (
        (0.035 + 0.34 * (1 - facing) ** 5)
        * 0.8
        * min(1.0, _mixed(surface, a, b, c, w0, w1, 4) * 1.8)
    )
    rx = 2 * facing * nx
    ry = 2 * facing * ny
    rz = 2 * facing * nz - 1
    for channel in range(3):
        out[channel] = _mixed(surface, a, b, c, w0, w1, 3 + channel)
        out[3 + channel] = (
            lamp_colours[0, channel] * shine_key + lamp_colours[1, channel] * shine_fill
        )
        out[3 + channel] += mirror * _environment(harmonics, channel, rx, ry, rz)


@njit(**COMPILED)
def _shade_other(
    part, surface, a, b, c, w0, w1, places, eye_colour, lamps, lamp_colours, teeth, harmonics, out
):
    """Fills `out` [3] with the light of a pixel of an eye or of the inside of the mouth."""
    nx, ny, nz = _normal(surface, a, b, c, w0, w1)
    key = _mixed(surface, a, b, c, w0, w1, 6)
    fill = _mixed(surface, a, b, c, w0, w1, 7)
    px = _mixed(places, a, b, c, w0, w1, 0)
    py = _mixed(places, a, b, c, w0, w1, 1)
    eye, shine_key, shine_fill, mirror, light, gum = (
        part in (EYE_LEFT, EYE_RIGHT),
        0.0,
        0.0,
        0.0,
        1.0,
        0.0,
    )
    if eye:
        shine_key = min(1.5, 2.7 * _wet(nx, ny, nz, lamps[0], 420.0)) * min(1.0, 2.5 * key + 0.15)
        shine_fill = min(1.5, 2.7 * _wet(nx, ny, nz, lamps[1], 420.0)) * min(1.0, 2.5 * fill + 0.15)
        mirror = 0.02 * min(1.0, _mixed(surface, a, b, c, w0, w1, 4) * 1.8)
    elif part == TEETH:
        light, gum = _tooth(px, py)
        shine_key = 0.35 * _wet(nx, ny, nz, lamps[0], 60.0) * key * light * light
    elif part in (TONGUE, GUM):
        shine_key = 0.25 * _wet(nx, ny, nz, lamps[0], 40.0) * key
    facing = max(nz, 0.02)
    rx = 2 * facing * nx
    ry = 2 * facing * ny
    rz = 2 * facing * nz - 1
    for channel in range(3):
        if eye:
            colour = _iris(px, py, eye_colour, channel)
        else:
            colour = _flesh(part, channel, teeth) * light
            colour += gum * (_flesh(GUM, channel, teeth) - colour)
        value = colour * _mixed(surface, a, b, c, w0, w1, 3 + channel)
        value += lamp_colours[0, channel] * shine_key + lamp_colours[1, channel] * shine_fill
        if mirror > 0:
            value += mirror * _environment(harmonics, channel, rx, ry, rz)
        out[channel] = value


@njit(**COMPILED)
def shade(
    ids,
    barycentric,
    depth,
    triangles,
    parts,
    surface,
    chart,
    paint,
    places,
    eye_colour,
    lamps,
    lamp_colours,
    roughness,
    teeth,
    harmonics,
    image,
    unseen,
):
    """Adds to `image` the light of what `ids` names, where it is not hidden by what is drawn
    already.

    `chart` [t, 3, 2] places corners in `paint` [rows, columns, 4], colour and oil; `places` [n, 2]
    are iris radii from the middle of the iris, or teeth and cm on a row of teeth; `lamps` [2, 3]
    and `roughness` [2] are of key and fill. Light changes slowly over skin, so the samples of a
    shown pixel, two by two, share it; paint is their own.
    """
    light = np.zeros(6)
    value = np.zeros(3)
    for row in range(0, ids.shape[0], 2):
        for column in range(0, ids.shape[1], 2):
            lit_at = np.float32(0)
            for k in range(4):
                y = row + k // 2
                x = column + k % 2
                t = ids[y, x]
                seen = unseen[y, x]
                if t < 0 or seen < HIDDEN:
                    continue
                unseen[y, x] = 0.0
                a = triangles[t, 0]
                b = triangles[t, 1]
                c = triangles[t, 2]
                w0 = barycentric[y, x, 0]
                w1 = barycentric[y, x, 1]
                part = parts[a]
                if part != SKIN:
                    _shade_other(
                        part,
                        surface,
                        a,
                        b,
                        c,
                        w0,
                        w1,
                        places,
                        eye_colour,
                        lamps,
                        lamp_colours,
                        teeth,
                        harmonics,
                        value,
                    )
                    for channel in range(3):
                        image[y, x, channel] += seen * value[channel]
                    continue
                if abs(depth[y, x] - lit_at) > _SAME_SURFACE * depth[y, x]:
                    lit_at = depth[y, x]
                    _light_on_skin(
                        surface, a, b, c, w0, w1, lamps, lamp_colours, roughness, harmonics, light
                    )
                v, u = _chart_pixel(chart[t], w0, w1, paint.shape[0], paint.shape[1])
                oil = paint[v, u, 3]
                for channel in range(3):
                    image[y, x, channel] += seen * (
                        paint[v, u, channel] * light[channel] + oil * light[3 + channel]
                    )


@njit(**COMPILED)
def follow_folds(skin, now, neutral, surface):
    """Scales the light in `surface` where there is `skin` [n] by how an expression turns it, within
    bounds.
    """
    for i in range(surface.shape[0]):
        if skin[i]:
            for c in range(3):
                surface[i, 3 + c] *= min(max(now[i, c] / neutral[i, c], 0.35), 2.2)


@njit(**COMPILED)
def shade_hair(
    points, per_strand, light, lamps, lamp_colours, albedo, tone, gloss, rootwards, view, out
):
    """Fills `out` [h, 3] with the colour of hair points (Kajiya and Kay 1989, two highlights).

    `light` [h, 3] is what reaches each point, `tone` [strands] how bright a strand is; roots are
    darker by `rootwards`. Lamps and `view` are in the head's frame. Light hair scatters within
    itself and mirrors less.
    """
    gloss *= 1.0 / (1.0 + 2.5 * (albedo[0] + albedo[1] + albedo[2]))
    for i in range(points.shape[0]):
        along = i % per_strand
        strand = i // per_strand
        before = i if along == 0 else i - 1
        after = i if along == per_strand - 1 else i + 1
        tx = points[after, 0] - points[before, 0]
        ty = points[after, 1] - points[before, 1]
        tz = points[after, 2] - points[before, 2]
        scale = 1.0 / (math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9)
        tx = tx * scale
        ty = ty * scale
        tz = tz * scale
        left = 1 - along / (per_strand - 1.0)
        brightness = (1 - rootwards * left * left) * tone[strand]
        for c in range(3):
            out[i, c] = light[i, c] * albedo[c] * brightness
        along_view = tx * view[0] + ty * view[1] + tz * view[2]
        across_view = math.sqrt(max(0.0, 1 - along_view * along_view))
        reached = min(1.0, (light[i, 0] + light[i, 1] + light[i, 2]) * 0.5)
        for q in range(2):
            along_lamp = tx * lamps[q, 0] + ty * lamps[q, 1] + tz * lamps[q, 2]
            across_lamp = math.sqrt(max(0.0, 1 - along_lamp * along_lamp))
            mirrored = across_lamp * across_view - along_lamp * along_view
            if mirrored <= 0:
                continue
            first = gloss * 0.6 * mirrored**40 * reached
            second = gloss * 0.55 * max(0.0, mirrored - 0.05) ** 10 * reached
            for c in range(3):
                out[i, c] += (
                    lamp_colours[q, c]
                    * (first * (0.04 + 0.4 * albedo[c]) + second * albedo[c])
                    * tone[strand]
                )
