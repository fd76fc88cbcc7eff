"""Portrait framing as in Appendix B: find the face, make its box square, enlarge it, stay in the
picture.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from flowportrait.arrays import Array, Picture
from flowportrait.errors import DataError

SCALE = 1.5
"""How much larger than the face the square is (App. B)."""


class FaceBox(NamedTuple):
    """A face in pixels of its picture, x to the right and y down, with the detector's score in [0,
    1].
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float

    @property
    def area(self) -> float:
        """Square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


def overlap(a: FaceBox, b: FaceBox) -> float:
    """Intersection over union."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    shared = max(width, 0.0) * max(height, 0.0)
    if shared:
        return shared / (a.area + b.area - shared)
    return 0.0


class Square(NamedTuple):
    """A square of whole pixels: its upper left corner and its side."""

    x: int
    y: int
    side: int


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces. Detectors are named in `registry.FACE_DETECTORS`."""

    name: str

    def detect(self, image: Array) -> list[FaceBox]:
        """The faces of a uint8 [h, w, 3] picture in its own pixels, the surest first; [] if there
        is none.
        """


@dataclass(frozen=True)
class FramingReport:
    """Crop of a portrait."""

    square: Square
    face: FaceBox | None
    warnings: tuple[str, ...] = ()


def portrait_square(box: FaceBox, width: int, height: int, scale: float = SCALE) -> Square:
    """The square around a face within a picture of `width` x `height` px.

    The box's longer side, times `scale`, about the box's centre. Where that leaves the picture it
    is shifted back in, and it shrinks only when it is larger than the picture's shorter side (App.
    B).
    """
    side = min(round(max(box.x1 - box.x0, box.y1 - box.y0) * scale), width, height)
    x = round((box.x0 + box.x1 - side) / 2)
    y = round((box.y0 + box.y1 - side) / 2)
    return Square(
        min(max(x, 0), width - side),
        min(max(y, 0), height - side),
        side,
    )


def frame_portrait(
    image: Array,
    size_px: int,
    crop: Literal["auto", "none"],
    detector: FaceDetector | None = None,
) -> tuple[Array, FramingReport]:
    """The portrait as the model wants it, uint8 [size_px, size_px, 3], and how it was cut.

    "auto" cuts around the largest face (a `detector` is needed), "none" takes the largest centred
    square. Raises DataError when there is no face.
    """
    return _framed(image, crop, detector, size_px)


def _framed(
    image: Array, crop: Literal["auto", "none"], detector: FaceDetector | None, size_px: int
) -> tuple[Array, FramingReport]:
    height, width = image.shape[:2]
    if crop == "none":
        side = min(width, height)
        report = FramingReport(
            Square(
                (width - side) // 2,
                (height - side) // 2,
                side,
            ),
            face=None,
        )
    else:
        assert detector is not None, "crop 'auto' needs a detector"
        report = _around_the_face(image, detector, size_px)
    x, y, side = report.square
    cut = Image.fromarray(image).crop((x, y, x + side, y + side))
    return np.asarray(cut.resize((size_px, size_px), Image.Resampling.LANCZOS)), report


def _around_the_face(image: Array, detector: FaceDetector, size_px: int) -> FramingReport:
    """The square around the largest face, with warnings of what may go wrong."""
    height, width = image.shape[:2]
    warnings: list[str] = []
    face = find_face(image, detector, warnings)
    square = portrait_square(face, width, height)
    return FramingReport(square, face, (*warnings, *enlarged(square, size_px)))


def face_in_square(square: Square) -> FaceBox:
    """The face's box in a square that was cropped around it."""
    x, y, side = square
    edge = (side - side / SCALE) / 2
    return FaceBox(
        x + edge,
        y + edge,
        x + side - edge,
        y + side - edge,
        1.0,
    )


def enlarged(square: Square, size_px: int) -> list[str]:
    """A warning where the square has fewer pixels than it is shown with."""
    if square.side >= size_px:
        return []
    return [
        f"portrait: the face's square is {square.side} px, enlarged to {size_px}; it will look soft"
    ]


def find_face(image: Picture, detector: FaceDetector, warnings: list[str]) -> FaceBox:
    """The largest face, also of a head that lies on its side or upside down. Raises DataError where
    there is none.
    """
    for quarter_turns in range(4):
        faces = detector.detect(np.ascontiguousarray(np.rot90(image, quarter_turns)))
        if faces:
            if len(faces) > 1:
                warnings.append(f"portrait: {len(faces)} faces found; the largest is used")
            return _turned_back(
                max(faces, key=lambda found: found.area), quarter_turns, image.shape
            )
    height, width = image.shape[:2]
    raise DataError(
        f"portrait: no face found in {width}x{height} px; give a picture of one face, or a picture"
        " already cropped to the face with --crop none"
    )


def _turned_back(box: FaceBox, quarter_turns: int, shape: tuple[int, ...]) -> FaceBox:
    """A box found in np.rot90(image, quarter_turns), in the image."""
    height, width = shape[:2]
    x0, y0, x1, y1, score = box
    turned_width = width if quarter_turns % 2 else height  # before the last turn
    for _ in range(quarter_turns):  # np.rot90 brings (x, y) to (y, width - x)
        x0, y0, x1, y1 = turned_width - y1, x0, turned_width - y0, x1
        turned_width = height if turned_width == width else width
    return FaceBox(x0, y0, x1, y1, score)
