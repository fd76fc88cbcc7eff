"""From a portrait's picture to what the model sees and the canvas that moves, and from frames back
to the picture.

The model knows a square around an upright face (Appendix B). What the user gets is made of the
user's own pixels: the square at its own size, or the whole picture with the square laid back into
it, in which everything outside the square stays the portrait's to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from flowportrait.arrays import Array, Picture
from flowportrait.codecs.canvas import Canvas, colour_line
from flowportrait.codecs.eyes import BROWS, EyeShape
from flowportrait.codecs.motion import gaussian
from flowportrait.errors import ConfigError
from flowportrait.faces.facemesh import PRESENT, FaceMesh
from flowportrait.faces.framing import (
    FaceBox,
    FaceDetector,
    Square,
    enlarged,
    face_in_square,
    find_face,
    portrait_square,
)
from flowportrait.faces.matte import PersonMatte
from flowportrait.faces.mesh import Mesh, turn

Places = Float[np.ndarray, "n 2"]

Grid = Float[np.ndarray, "g g"]

Frame = Literal["whole", "face"]
Size = int | Literal["auto"]

SIZES_PX = (128, 1024)
AUTO_PX = 512
"""The face's own square is shown at its own size, up to this one."""
PICTURE_PX = (1920, 1080)
"""Longer and shorter side of the largest whole picture."""
GRID = 64
"""Cells along a side of the square on which is said what moves."""
LEVEL_ROLL = math.radians(12)
"""Heads that are rolled less are taken as they are; the model knows them."""
FAR_TURN = math.radians(45)
STILL = 0.07
FULL = 0.3
"""Distances from the square's border, in half-squares, up to which nothing moves, and from which
everything does.
"""
MARGIN = 3
"""Cells around the person over which its movement fades out."""


@dataclass(frozen=True)
class Composite:
    """A portrait ready to be moved.

    `picture` uint8 [h, w, 3] is what is shown, the still parts of every frame; `square` lies in it,
    turned by `roll` radians (clockwise as seen). `mesh` is the face's, in pixels of the picture,
    None where no face was looked for or none was sure; `moving` [g, g] in [0, 1] says on a grid
    over the square what moves with the person, None if that is unknown and everything may.
    """

    picture: Picture
    square: Square
    roll: float
    frame: Frame
    mesh: Mesh | None
    moving: Grid | None
    warnings: tuple[str, ...] = ()

    def view(self, size_px: int) -> UInt8[np.ndarray, "s s 3"]:
        """The model's input: the upright square at its size."""
        x, y, side = self.square
        image = Image.fromarray(self.picture)
        if self.roll:
            image, x, y = _turned_upright(self.picture, self.square, self.roll)
        cut = image.crop((x, y, x + side, y + side))
        return np.asarray(cut.resize((size_px, size_px), Image.Resampling.LANCZOS))

    def landmarks(self) -> Float[np.ndarray, "68 2"] | None:
        """The portrait's 68 points in coordinates of the square, [-1, 1] from edge to edge."""
        if self.mesh is None:
            return None
        return self.to_square(self.mesh.landmarks68).astype(np.float32)

    def canvas(self, device: torch.device) -> Canvas:
        """The pixels of the square, the mask of moving ones, and the portrait's eyes."""
        x, y, side = self.square
        cut = torch.from_numpy(self.picture[y : y + side, x : x + side].copy()).to(device)
        pixels = cut.permute(2, 0, 1)[None].float() / 127.5 - 1
        moving = torch.from_numpy(self._weights()).to(device, torch.float32)[None, None]
        return Canvas(
            pixels,
            self.roll,
            moving,
            self._eyes(device),
            colour_line(pixels),
        )

    def laid_back(self, frames: UInt8[np.ndarray, "n s s 3"]) -> UInt8[np.ndarray, "n h w 3"]:
        """Composites frames of the square into the picture."""
        x, y, side = self.square
        if self.picture.shape[:2] == (side, side):
            return frames
        pictures = np.broadcast_to(self.picture, (len(frames), *self.picture.shape)).copy()
        pictures[:, y : y + side, x : x + side] = frames
        return pictures

    def on_grid(self, picture: Float[np.ndarray, "h w"]) -> Grid:
        """Values of the picture's pixels, averaged on a grid over the square."""
        image, (x, y, side) = Image.fromarray(picture), self.square
        if self.roll:
            centre = (x + side / 2, y + side / 2)
            image = image.rotate(math.degrees(self.roll), Image.Resampling.BILINEAR, center=centre)
        return np.asarray(
            image.resize((GRID, GRID), Image.Resampling.BOX, box=(x, y, x + side, y + side))
        )

    def to_square(self, points: Places) -> Places:
        """Points of the picture in coordinates of the upright square, [-1, 1] from edge to edge."""
        x, y, side = self.square
        centred = (points + 0.5 - (x + side / 2, y + side / 2)) * 2 / side
        return centred @ turn(self.roll)

    def _weights(self) -> Grid:
        """How much of each place of the grid is the model's: what moves, faded at the border."""
        weight = np.ones((GRID, GRID)) if self.moving is None else self.moving
        if self.frame == "whole":
            return weight * self._fade
        return weight

    @cached_property
    def _fade(self) -> Grid:
        """0 at the square's border, except where that is the picture's own; 1 well inside."""
        middles = (np.arange(GRID) + 0.5) * 2 / GRID - 1
        if self.roll:
            return _ease((1 - np.hypot(middles[:, None], middles[None]) - STILL) / (FULL - STILL))
        x, y, side = self.square
        height, width = self.picture.shape[:2]
        ramps = (
            _ease((1 + middles - STILL) / (FULL - STILL)),
            _ease((1 - middles - STILL) / (FULL - STILL)),
        )
        columns = (
            (1.0 if x == 0 else ramps[0]) * (1.0 if x + side == width else ramps[1]) * np.ones(GRID)
        )
        rows = (
            (1.0 if y == 0 else ramps[0])
            * (1.0 if y + side == height else ramps[1])
            * np.ones(GRID)
        )
        return rows[:, None] * columns[None]

    def _eyes(self, device: torch.device) -> tuple[EyeShape, EyeShape] | None:
        """The two eyes as the codec wants them, from left to right in the picture; None where no
        face was found.
        """
        if self.mesh is None:
            return None
        place = lambda points: torch.from_numpy(self.to_square(points)).to(device, torch.float32)  # noqa: E731
        irises = place(self.mesh.irises)
        radii = self.mesh.iris_radius * 2 / self.square.side
        right, left = (
            self.mesh.right_lids,
            self.mesh.left_lids[:, ::-1],
        )  # both from left to right in the picture
        points = self.mesh.landmarks68
        first, second = (
            EyeShape.of(
                place(lids[0]),
                place(lids[1]),
                irises[eye],
                float(radii[eye]),
                place(points[BROWS[eye]]),
            )
            for eye, lids in enumerate((right, left))
        )
        return first, second


def compose(
    image: Picture,
    model_px: int,
    size: Size = "auto",
    frame: Frame = "whole",
    crop: Literal["auto", "none"] = "auto",
    detector: FaceDetector | None = None,
    mesh: FaceMesh | None = None,
    matte: PersonMatte | None = None,
) -> Composite:
    """Prepares a portrait: finds the face (not with crop "none": then the square is the largest
    centred one), cuts and scales. `size` is the side of the face's square: "auto" its own, at most
    512 px, where the square alone is shown; a whole picture keeps its size up to 1920 x 1080.
    Raises DataError without a face, ConfigError for a size.
    """
    low = min(SIZES_PX[0], model_px)
    high = SIZES_PX[1]
    if size != "auto" and not low <= size <= high:
        raise ConfigError(f"size: got {size}; give auto or a number of pixels from {low} to {high}")
    height, width = image.shape[:2]
    warnings: list[str] = []
    if crop == "none":
        side = min(width, height)
        square = Square((width - side) // 2, (height - side) // 2, side)
        roll = 0.0
        found = None if mesh is None else _sure(mesh.find(image, face_in_square(square)))
    else:
        assert detector is not None, "crop 'auto' needs a detector"
        face = find_face(image, detector, warnings)
        found = None if mesh is None else _sure(mesh.find(image, face))
        square, roll = _square_of(face, found, width, height)
    warnings += _warnings_of(square, model_px, found, roll)
    if found is not None and _is_cut_off(found, width, height):
        warnings.append("portrait: the mouth is cut off by the picture's edge; show the whole face")
    origin = (square.x, square.y) if frame == "face" else (0, 0)
    picture, square, scale = _scaled(image, square, size, frame, model_px)
    moved = None if found is None else _moved(found, origin, scale)
    made = Composite(picture, square, roll, frame, moved, None, tuple(warnings))
    if matte is None or moved is None:
        return made
    return replace(made, moving=_moving(made, matte))


def _sure(mesh: Mesh) -> Mesh | None:
    if mesh.presence >= PRESENT:
        return mesh
    return None


def _moved(mesh: Mesh, origin: tuple[int, int], scale: float) -> Mesh:
    """The mesh in a picture that begins at `origin` and is scaled; pixel centres lie at whole
    numbers.
    """
    points = (mesh.points + 0.5 - np.array(origin, np.float32)) * np.float32(scale) - 0.5
    return Mesh(
        points.astype(np.float32),
        mesh.depth * np.float32(scale),
        mesh.presence,
    )


def _square_of(
    face: FaceBox,
    mesh: Mesh | None,
    width: int,
    height: int,
) -> tuple[Square, float]:
    """The square about a face and its roll. That of a rolled head lies about the points of its
    mesh.
    """
    if mesh is None or abs(mesh.roll) < LEVEL_ROLL:
        return portrait_square(face, width, height), 0.0
    level = mesh.points @ turn(mesh.roll)
    low = level.min(0)
    high = level.max(0)
    x, y = (low + high) / 2 @ turn(-mesh.roll)
    half = max(high - low) * 1.05 / 2
    return (
        portrait_square(FaceBox(x - half, y - half, x + half, y + half, 1.0), width, height),
        mesh.roll,
    )


def _is_cut_off(mesh: Mesh, width: int, height: int) -> bool:
    """Whether some of the lips lie beyond the picture, where the mesh only guesses them."""
    lips = mesh.outer_lips.reshape(-1, 2)
    return bool((lips < 0).any() or (lips > (width - 1, height - 1)).any())


def _warnings_of(square: Square, model_px: int, mesh: Mesh | None, roll: float) -> list[str]:
    """Warnings about an enlarged picture, and about heads that are turned or rolled far."""
    warnings = enlarged(square, model_px)
    if mesh is None:
        return warnings
    yaw, pitch = mesh.yaw_pitch
    if max(abs(yaw), abs(pitch)) > FAR_TURN:
        degrees = round(math.degrees(max(abs(yaw), abs(pitch))))
        warnings.append(
            f"portrait: the head is turned by about {degrees} degrees; the model knows up to 45"
        )
    if roll:
        warnings.append(
            f"portrait: the head is rolled by {round(math.degrees(roll))} degrees; it is rotated"
            " upright"
        )
    if _eyes_shut(mesh):
        warnings.append("portrait: the eyes are closed and stay so; give a picture with open eyes")
    return warnings


def _moving(composite: Composite, matte: PersonMatte) -> Grid | None:
    """The person with a soft edge around, so that the background keeps still; None where the matte
    misses the face.
    """
    box = face_in_square(composite.square)
    person = composite.on_grid(matte.find(composite.picture, box).astype(np.float32))
    face = _oval(composite.to_square(composite.mesh.oval))
    if person[face > 0.5].mean() < 0.5:
        return None
    grown = F.max_pool2d(
        torch.from_numpy(np.maximum(person, face)).float()[None], 2 * MARGIN + 1, 1, MARGIN
    )
    kernel = gaussian(MARGIN / 2, MARGIN)
    padded = F.pad(grown, (MARGIN,) * 4, mode="replicate")
    soft = F.conv2d(padded[None], (kernel[:, None] * kernel)[None, None])
    return soft[0, 0].clamp(0, 1).numpy()


def _oval(points: Places) -> Grid:
    image = Image.new("L", (GRID, GRID))
    ImageDraw.Draw(image).polygon([tuple(point) for point in (points + 1) / 2 * GRID], fill=1)
    return np.asarray(image, np.float32)


def _eyes_shut(mesh: Mesh) -> bool:
    """Whether both lids are nearly together: a gap under a tenth of the eye's width."""
    shares = []
    for upper, lower in (mesh.right_lids, mesh.left_lids):
        width = np.linalg.norm(upper[-1] - upper[0])
        shares.append(np.linalg.norm(lower[3:6] - upper[3:6], axis=-1).mean() / max(width, 1e-6))
    return max(shares) < 0.1


def _scaled(
    image: Picture, square: Square, size: Size, frame: Frame, model_px: int
) -> tuple[UInt8[np.ndarray, "p q 3"], Square, float]:
    """The picture to show, the square in it, and by how much it was scaled."""
    x, y, side = square
    if frame == "face":
        shown = size
        if size == "auto":
            shown = min(max(side, model_px), AUTO_PX)
        shown -= shown % 2
        cut = image[y : y + side, x : x + side]
        return _resized(cut, shown, shown), Square(0, 0, shown), shown / side
    height, width = image.shape[:2]
    longer, shorter = PICTURE_PX
    largest = min(longer / max(width, height), shorter / min(width, height))
    scale = min(1.0 if size == "auto" else size / side, largest)
    if scale == 1.0:
        picture = np.ascontiguousarray(image[: height - height % 2, : width - width % 2])
    else:
        picture = _resized(image, 2 * round(width * scale / 2), 2 * round(height * scale / 2))
    shown = min(round(side * scale), *picture.shape[:2])
    left = min(round(x * scale), picture.shape[1] - shown)
    top = min(round(y * scale), picture.shape[0] - shown)
    return picture, Square(left, top, shown), scale


def _resized(image: Picture, width: int, height: int) -> UInt8[np.ndarray, "p q 3"]:
    """The picture at that size (Lanczos); as it is where it has the size."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(image)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
    )


def _turned_upright(picture: Picture, square: Square, roll: float) -> tuple[Image.Image, int, int]:
    """The neighbourhood of a rolled square with the head upright, and the square's corner in it."""
    x, y, side = square
    margin = side // 2  # a turned square reaches 0.21 sides further
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    near = Image.fromarray(padded[y : y + side + 2 * margin, x : x + side + 2 * margin])
    return near.rotate(math.degrees(roll), Image.Resampling.BICUBIC), margin, margin


def _ease(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
