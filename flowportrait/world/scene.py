"""One head before a camera: where it stands, how it is lit, what is behind it, and frames of it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flowportrait.arrays import Array, Rng
from flowportrait.world.background import draw_background
from flowportrait.world.camera import Camera, Motion, rotation_of
from flowportrait.world.chart import smoothstep
from flowportrait.world.glasses import POINTS as GLASSES_POINTS
from flowportrait.world.glasses import make_glasses
from flowportrait.world.hair import Hair
from flowportrait.world.head import Head, iris_vertices, places
from flowportrait.world.light import DIRECTIONS, draw_lighting, in_harmonics, irradiance
from flowportrait.world.names import EYE_LEFT, EYE_RIGHT, GUM, MOUTH, SHAPE, SKIN, TEETH, TONGUE
from flowportrait.world.person import EYE_COLOURS
from flowportrait.world.raster import (
    GAMMA,
    develop,
    draw_strands,
    draw_triangles,
    empty_layers,
    vertex_normals,
)
from flowportrait.world.rig import Rig, vertices_of
from flowportrait.world.shade import follow_folds, shade, shade_hair
from flowportrait.world.tufts import Tuft

SUPERSAMPLING = 2
_LIGHT_EVERY = 6
"""Frames between exact lighting; between them it is blended, as heads turn slowly."""
_GRAIN = 0.006
_ALL_STRANDS_PX = 200
_SKIN_LANDMARKS = [29, 30, 31, 35, 2, 14, 27]
"""Where the light is metered."""
_BLINKS = [SHAPE[f"eye{'Blink'}{side}"] for side in ("Left", "Right")]
_SQUINTS = [SHAPE[f"eye{'Squint'}{side}"] for side in ("Left", "Right")]
_LIPS_MIDDLE = [62, 66]
_TIP_MOVES = np.array([0, 0.8, 3.0], np.float32)
"""Where the tip of a raised tongue goes: up, and more so forward, against the biting edge of the
upper teeth.
"""


class Filmed(NamedTuple):
    """One frame, and what lies where in it."""

    frame: Array
    """uint8 [size, size, 3]"""
    landmarks: Array
    """[68, 2] px"""
    irises: Array
    """[2, 2] px, the middle of the left and of the right iris, seen or not."""


class _Light(NamedTuple):
    """Light at one moment."""

    vertices: Array
    """[n, 5] light on white skin (3), visibility of key and fill lamp."""
    open_sky: Array
    """[n, 3] light on the neutral normals without shadows."""
    around: Array
    """[9, 3] harmonics in the head's frame."""
    mirrored: Array
    """[9, 3] harmonics in the world's frame."""
    hair: Array
    """[h, 3] colour of the points of hair."""

    def blended(self, other: "_Light", share: float) -> "_Light":
        """Between this moment and another."""
        return _Light(*(a + np.float32(share) * (b - a) for a, b in zip(self, other, strict=True)))


class Scene:
    """A head, its surroundings drawn from `seed`, and the buffers to film it in."""

    def __init__(self, head: Head, seed: Sequence[int], size_px: int):
        rng = np.random.default_rng([*seed, 6])
        self.head = head
        self.size_px = size_px
        self._side = size_px * SUPERSAMPLING
        self.lighting = draw_lighting(rng)
        self.background, picture = draw_background(rng, size_px)
        self._background = (picture**GAMMA).astype(np.float32)
        self._camera = self._draw_camera(rng)
        self._gain = self._metered()
        self._exposure = float(rng.uniform(0.92, 1.08))
        self._hair, self._hair_light = _thinned(head, size_px)
        self._paint = np.concatenate([head.painting.colour, head.painting.gloss[..., None]], 2)
        self._places = places(head.rig, head.neutral)
        self._mark_vertices(head)
        self._glasses = None
        if head.person.glasses:
            self._glasses = make_glasses(rng, head.rig, head.neutral)
        self._layers = empty_layers(self._side)
        self._grain = np.random.default_rng([*seed, 7])

    def _mark_vertices(self, head: Head) -> None:
        """Notes which vertices are lit, turned or reported in ways of their own."""
        self._inside = np.flatnonzero(vertices_of(head.rig, GUM, TEETH, MOUTH, TONGUE))
        self._inside_gain = _gain_inside(head.rig, self._inside)
        self._outside = vertices_of(head.rig, SKIN)
        self._irises = iris_vertices(head.rig, head.neutral)
        self._turning = smoothstep(head.neutral[:, 1], -16.5, -8.5).astype(np.float32)

    def film(self, motion: Motion) -> Iterator[Filmed]:
        """The frames of a performance."""
        last = len(motion.faces) - 1
        before = self._light(motion.pose[0])
        for start in range(0, last + 1, _LIGHT_EVERY):
            stop = min(start + _LIGHT_EVERY, last + 1)
            after = self._light(motion.pose[min(start + _LIGHT_EVERY, last)])
            heads = self._posed(Motion(*(track[start:stop] for track in motion)))
            for k, points in enumerate(heads):
                i = start + k
                yield self._frame(
                    points, motion.faces[i], motion.pose[i], before.blended(after, k / _LIGHT_EVERY)
                )
            before = after

    # ------------------------------------------------------------------------------------------
    # set-up

    def _draw_camera(self, rng: Rng) -> Camera:
        """A camera at a portrait's distance; the head sits near the middle."""
        side = self._side
        at = self.head.neutral[self.head.rig.landmarks]
        distance = float(rng.uniform(62, 85))
        seen_cm = float(rng.uniform(28.5, 34))
        centre = (side * (0.5 + rng.uniform(-0.02, 0.02)), side * (0.5 + rng.uniform(-0.02, 0.01)))
        place = np.array([0, at[[27, 8], 1].mean() + 1.2, distance], np.float32)
        return Camera(place, side * distance / seen_cm, centre)

    def _metered(self) -> float:
        """Gain that brings the face's skin to a normal brightness; dark skin stays darker than fair
        skin.
        """
        radiance = self.lighting.radiance(np.eye(3))
        rows = self.head.rig.landmarks[_SKIN_LANDMARKS]
        light = np.mean(
            [passed[rows] @ radiance[:, c] for c, passed in enumerate(self.head.transfer)]
        )
        return float(np.clip(1.0 / light, 0.2, 3.0))

    # -------------------------------------------------------------------------------------------
    # light

    def _light(self, pose: Array) -> _Light:
        """Light at one pose of the head."""
        head = self.head
        rotation = rotation_of(*pose[:3])
        radiance = self.lighting.radiance(rotation) * np.float32(self._gain)
        around = in_harmonics(radiance)
        vertices = np.empty((len(head.neutral), 5), np.float32)
        for c in range(3):
            vertices[:, c] = head.transfer[c] @ radiance[:, c]
        for c, lamp in enumerate(self.lighting.lamps[:2]):
            lobe = np.exp(26 * (DIRECTIONS @ (lamp.direction @ rotation) - 1))
            vertices[:, 3 + c] = head.lamp_visibility @ (lobe / lobe.sum()).astype(np.float32)
        open_sky = np.empty((len(head.neutral), 3), np.float32)
        irradiance(head.normals, around, open_sky)
        mirrored = in_harmonics(self.lighting.radiance(np.eye(3)) * np.float32(self._gain))
        return _Light(vertices, open_sky, around, mirrored, self._hair_colour(rotation, around))

    def _lamp_colours(self) -> Array:
        """[2, 3] highlights of the key and the fill lamp."""
        key, fill = self.lighting.lamps[:2]
        return (np.stack([key.colour, fill.colour * 0.6]) * self._gain * 0.42).astype(np.float32)

    def _hair_colour(self, rotation: Array, around: Array) -> Array:
        if self._hair is None:
            return np.zeros((0, 3), np.float32)
        strands = self._hair.strands
        light = self._hair_light @ around * np.float32(1.15 / np.pi)
        # Nine harmonics ring around bright coloured lamps; no channel may stray far from the
        # others.
        grey = np.maximum(light.mean(1, keepdims=True), 0.01)
        light = np.clip(light, 0.7 * grey, 1.3 * grey)
        lamps = np.stack([lamp.direction @ rotation for lamp in self.lighting.lamps[:2]]).astype(
            np.float32
        )
        return self._lit_hair(strands, light, lamps, rotation)

    def _lit_hair(self, strands, light, lamps, rotation: Array) -> Array:
        out = np.empty((strands.shape[0] * strands.shape[1], 3), np.float32)
        shade_hair(
            strands.reshape(-1, 3),
            strands.shape[1],
            light,
            lamps,
            self._lamp_colours(),
            self.head.painting.hair_colour * 1.8,
            self._hair.tone,
            0.36,
            0.35,
            rotation[2].astype(np.float32),
            out,
        )
        return out

    # ----------------------------------------------------------------------------------------
    # geometry

    def _posed(self, motion: Motion) -> Array:
        """[f, n, 3] heads making the faces, in the head's own frame, eyes turned and tongue
        moved.
        """
        head = self.head
        rig = self.head.rig
        faces = motion.faces.copy()
        lids = head.lids
        faces[:, _SQUINTS] += lids.raised * (1 - faces[:, _BLINKS])
        faces[:, _BLINKS] = lids.rest + (lids.closed - lids.rest) * faces[:, _BLINKS]
        heads = rig.pose(head.neutral, faces)
        centres = rig.eye_centres(head.neutral)
        return self._turn_eyes(heads, motion, centres, rig)

    def _turn_eyes(self, heads: Array, motion: Motion, centres, rig) -> Array:
        for points, (right, up), face, tongue in zip(
            heads, motion.gaze, motion.faces, motion.tongue, strict=True
        ):
            turn = rotation_of(right, -up, 0).astype(np.float32)
            for part, centre in zip((EYE_LEFT, EYE_RIGHT), centres, strict=True):
                eye = rig.parts == part
                points[eye] = (
                    (points[eye] - centre) @ turn.T
                    + centre
                    - [0, 0, 0.07 * min(1, face[_BLINKS[0]])]
                )
            self._raise_tongue(points, tongue * (0.35 + 1.3 * face[SHAPE["jawOpen"]]))
        return heads

    def _raise_tongue(self, points: Array, amount: float) -> None:
        tongue = self.head.rig.parts == TONGUE
        if amount > 0 and tongue.any():
            z = points[tongue, 2]
            tip = np.clip((z - z.min()) / np.ptp(z), 0, 1) ** 2
            points[tongue] += np.float32(amount) * tip[:, None] * _TIP_MOVES

    # -------------------------------------------------------------------------------------------
    # frame

    def _frame(self, points: Array, face: Array, pose: Array, light: _Light) -> Filmed:
        rig = self.head.rig
        image, unseen, depth, ids, share = self._layers
        for layer, blank in ((image, 0), (unseen, 1), (depth, 0), (ids, -1)):
            layer.fill(blank)
        screen = self._camera.screen(points, pose, self._turning)
        draw_triangles(screen, rig.triangles, -1, depth, ids, share)
        surface = self._surface(points, face, pose, light)
        # From front to back: what is covered is not drawn.
        if self._hair is not None:
            width = self.head.hair.strands.shape[0] / self._hair.strands.shape[0]
            self._draw(
                self._hair.strands,
                light.hair,
                pose,
                opacity=0.6,
                width=width,
                taper=0.35,
                bias=0.0015,
            )
        if self._glasses is not None:
            strands, colour = self._glasses
            colours = np.tile(
                colour * np.float32(3.6 * self._gain), (strands.shape[0] * GLASSES_POINTS, 1)
            )
            self._draw(strands, colours, pose, opacity=0.95, width=2.4, taper=1e-6, bias=0.003)
        for tuft in reversed(self.head.tufts):
            self._draw_tuft(tuft, points, face, pose, surface[:, 3:6])
        self._shade(surface, light)
        frame = np.empty((self.size_px, self.size_px, 3), np.uint8)
        grain = self._grain.standard_normal((self.size_px, self.size_px), np.float32) * np.float32(
            _GRAIN
        )
        develop(image, unseen, self._background, SUPERSAMPLING, self._exposure, grain, frame)
        places = screen[:, :2] / SUPERSAMPLING
        return Filmed(frame, places[rig.landmarks], places[self._irises])

    def _surface(self, points: Array, face: Array, pose: Array, light: _Light) -> Array:
        """[n, 8] what `shade` wants to know of each vertex."""
        rig = self.head.rig
        normals = np.empty_like(points)
        now = np.empty_like(points)
        vertex_normals(points, rig.triangles, normals)
        surface = np.empty((len(points), 8), np.float32)
        surface[:, :3] = normals @ rotation_of(*pose[:3]).T.astype(np.float32)
        surface[:, 3:] = light.vertices
        irradiance(normals, light.around, now)
        follow_folds(self._outside, now, light.open_sky, surface)
        surface[self._inside, 3:6] *= self._light_inside(points, face)[:, None]
        return surface

    def _light_inside(self, points: Array, face: Array) -> Array:
        """How much of its light each vertex of the mouth gets: less behind narrow lips, and the
        deeper it lies.
        """
        opened = 0.25 + 1.6 * face[SHAPE["jawOpen"]] + 0.5 * face[SHAPE["mouthFunnel"]]
        opened += 0.35 * (face[SHAPE["mouthUpperUpLeft"]] + face[SHAPE["mouthLowerDownLeft"]])
        opened = min(max(opened, 0.2), 1.1)
        lips = points[self.head.rig.landmarks[_LIPS_MIDDLE], 2].mean()
        deep = np.maximum(lips - points[self._inside, 2], 0)
        reached = opened * np.exp(-0.3 * np.maximum(deep - 0.6, 0))
        return self._inside_gain * (reached + max(0, 1 - opened) * np.exp(-2.2 * deep))

    def _shade(self, surface: Array, light: _Light) -> None:
        head, (image, unseen, depth, ids, share) = self.head, self._layers
        lamps = np.stack([lamp.direction for lamp in self.lighting.lamps[:2]]).astype(np.float32)
        wider = [
            np.sqrt(head.painting.roughness**2 + 0.36 / lamp.sharpness)
            for lamp in self.lighting.lamps[:2]
        ]
        shade(
            ids,
            share,
            depth,
            head.rig.triangles,
            head.rig.parts,
            surface,
            head.chart.corners,
            self._paint,
            self._places,
            np.array(EYE_COLOURS[head.person.eye_colour], np.float32),
            lamps,
            self._lamp_colours(),
            np.array(wider, np.float32),
            head.painting.teeth * head.rig.about.teeth_gain,
            light.mirrored,
            image,
            unseen,
        )

    def _draw_tuft(self, tuft: Tuft, points, face: Array, pose: Array, light: Array) -> None:
        shut = 0.0
        if tuft.lid:
            shut = float(
                np.clip(
                    face[_BLINKS[0 if tuft.lid > 0 else 1]] + 0.6 * face[SHAPE["eyeLookDownLeft"]],
                    0,
                    1,
                )
            )
        strands = tuft.points(points, shut)
        gain = 1.0 if tuft.lid else 2.0
        opacity = tuft.opacity * max(0.0, 1 - 1.5 * shut) if tuft.tears else tuft.opacity
        colours = light[tuft.vertices[:, 0]] * tuft.tone[:, None] * (tuft.colour * np.float32(gain))
        self._draw(
            strands,
            np.repeat(colours, strands.shape[1], 0),
            pose,
            opacity,
            tuft.width,
            tuft.taper,
            0.004,
        )

    def _draw(
        self, strands, colours, pose, opacity: float, width: float, taper: float, bias: float
    ) -> None:
        """Strands [s, p, 3] of the head's frame; `width` in five-hundredths of the picture."""
        image, unseen, depth, _, _ = self._layers
        screen = self._camera.screen(strands.reshape(-1, 3), pose)
        draw_strands(
            screen,
            strands.shape[1],
            np.ascontiguousarray(colours, np.float32),
            depth,
            opacity,
            width * self._side / 512,
            taper,
            bias,
            image,
            unseen,
        )


def _thinned(head: Head, size_px: int) -> tuple[Hair | None, Array | None]:
    """Hair and its light for pictures of a size: small ones get half of the strands, twice as
    wide.
    """
    if head.hair is None or size_px >= _ALL_STRANDS_PX:
        return head.hair, head.hair_light
    strands = head.hair.strands
    light = head.hair_light.reshape(*strands.shape[:2], -1)[::2]
    thin = Hair(np.ascontiguousarray(strands[::2]), np.ascontiguousarray(head.hair.tone[::2]))
    return thin, np.ascontiguousarray(light.reshape(-1, light.shape[-1]))


def _gain_inside(rig: Rig, vertices: Array) -> Array:
    """Of the light on `vertices` of the mouth: upper teeth catch most of it, lower ones stand in
    the lip's shadow.
    """
    with_jaw = rig.expressions[SHAPE["jawOpen"], vertices, 1]
    row = np.where(with_jaw < 0.5 * with_jaw.min(), 0.75, 1.05)
    return np.where(rig.parts[vertices] == TEETH, row, 0.85).astype(np.float32)
