"""The face of a clip as our own networks want to see it: framed as in Appendix B, with its 68
landmarks.

CenterFace finds the face now and then, its path is smoothed, and a landmarker of a `tiny` codec
reads every frame. Both come with the package. The landmarker was trained on rendered heads and one
real speaker; on other real faces it is coarser, and further from the front it fails without saying
so. A head that lies on its side or upside down is turned upright first, with a warning: players
show a video as its display matrix says, and some files say it wrongly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flowportrait.arrays import Array
from flowportrait.errors import DataError
from flowportrait.faces.facemesh import PRESENT, FaceMesh
from flowportrait.faces.framing import find_face
from flowportrait.faces.landmarker import SIZE_PX, find_landmarks
from flowportrait.faces.landmarks import MIRRORED
from flowportrait.media import FPS
from flowportrait.registry import FACE_DETECTORS
from flowportrait.scoring.metrics.view import Blocks, Unscorable, View, at_most

SQUARE_PER_BOX = 1.5  # App. B
DETECT_PX = 320  # pictures are looked at in this size: a face to be scored is never small
DETECT_EVERY = 12  # frames
SMOOTH_FRAMES = 8.0


class FaceTrack(NamedTuple):
    """A face at 24 fps: `frames` uint8 [f, 128, 128, 3], and `landmarks` [f, 68, 2] in their
    pixels. `squares` [f, 3] are where they were cut: x, y and side in pixels of the clip, turned so
    that the head is upright.
    """

    frames: Array
    landmarks: Array
    squares: Array

    @property
    def places(self) -> Array:
        """Landmarks [f, 68, 2] in the clip, in shares of the square's median side."""
        x_y = self.squares[:, None, :2]
        side = self.squares[:, None, 2:]
        return (x_y + self.landmarks / SIZE_PX * side) / np.median(side)


def track_face(view: View) -> FaceTrack:
    """The largest face of a clip, found once for all scorers. Raises Unscorable when half of the
    looks find none.
    """
    return view.keep("face track", lambda: _tracked(view))


def _tracked(view: View) -> FaceTrack:
    """The clip passes by twice, once to be searched and once to be cut."""
    turns = view.keep("quarter turns", lambda: _turns_to_upright(view))
    squares = view.keep("face squares", lambda: face_squares(_turned(view.blocks(FPS), turns)))
    frames = chain.from_iterable(_turned(view.blocks(FPS), turns))
    cut = np.stack([_cut(frame, square) for frame, square in zip(frames, squares, strict=True)])
    return FaceTrack(cut, find_landmarks(cut), squares)


def _turns_to_upright(view: View) -> int:
    """Quarter turns against the clock (0 to 3) that bring the head upright, where the clip's first
    pictures agree on them; said in the view's warnings.
    """
    first = None if view.is_upright else next(view.blocks(FPS), None)
    turns = 0 if first is None else _turns_of(first[0])
    if turns == 0 or turns != _turns_of(first[-1]):
        return 0
    view.warnings.append(
        f"{view.sample.clip.path.name}: the head lies "
        f"{'upside down' if turns == 2 else 'on its side'}; the face is scored after rotating it"
        " upright, all else as stored; rotate the video"
    )
    return turns


def _turns_of(frame: Array) -> int:
    """The same of one picture by the mesh of its largest face; 0 where there is no sure one."""
    small = at_most(frame[None], DETECT_PX)[0]
    try:
        face = find_face(small, _detector(), [])
    except DataError:
        return 0
    mesh = _mesh().find(small, face)
    if mesh.presence >= PRESENT:
        return round(mesh.roll / (math.pi / 2)) % 4
    return 0


def _turned(blocks: Blocks, quarter_turns: int) -> Blocks:
    for block in blocks:
        yield np.rot90(block, quarter_turns, axes=(1, 2)) if quarter_turns else block


def face_squares(blocks: Blocks) -> Array:
    """The smoothed square around the largest face in every frame: [f, 3], x, y and side in
    pixels.
    """
    found, count, frame = _detected(blocks)
    seen = [i for i, box in found.items() if box is not None]
    if len(seen) < max(1, len(found)) / 2:
        raise Unscorable(
            f"shows a face in {len(seen)} of {len(found)} analysed frames; at least half are needed"
        )
    boxes = np.stack([found[i] for i in seen])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    x, y = (_smooth(np.interp(np.arange(count), seen, centres[:, axis])) for axis in (0, 1))
    return _inside(x, y, float(np.median(sides)) * SQUARE_PER_BOX, *frame.shape[1::-1])


def _detected(blocks: Blocks) -> tuple[dict[int, Array | None], int, Array]:
    """The largest face in every few frames and in the last one, by frame; the number of frames, and
    the last one.
    """
    found: dict[int, Array | None] = {}
    count = 0
    frame = np.empty((1, 1, 3), np.uint8)
    for count, frame in enumerate(chain.from_iterable(blocks), 1):
        if (count - 1) % DETECT_EVERY == 0:
            found[count - 1] = _largest_face(frame)
    if count and count - 1 not in found:
        found[count - 1] = _largest_face(frame)
    return found, count, frame


def _largest_face(frame: Array) -> Array | None:
    """Its corners [4] in the frame's own pixels; it is looked at in at most `DETECT_PX`."""
    small = at_most(frame[None], DETECT_PX)[0]
    box = max(_detector().detect(small), key=lambda box: box.area, default=None)
    if box is None:
        return None
    return np.array(box[:4]) * (frame.shape[1] / small.shape[1])


@lru_cache(maxsize=1)
def _detector() -> Any:
    return FACE_DETECTORS.load("centerface")()


@lru_cache(maxsize=1)
def _mesh() -> FaceMesh:
    return FaceMesh()


def _smooth(path: Array) -> Array:
    reach = int(3 * SMOOTH_FRAMES)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTH_FRAMES) ** 2)
    return np.convolve(np.pad(path, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def _inside(
    x: Array,
    y: Array,
    side: float,
    width: int,
    height: int,
) -> Array:
    """Squares about centres, shifted back into the picture; they shrink only where they are larger
    than it.
    """
    side = min(side, width, height)
    left, top = (
        np.clip(middle - side / 2, 0, size - side) for middle, size in ((x, width), (y, height))
    )
    return np.stack([left, top, np.full_like(left, side)], 1)


def _cut(frame: Array, square: Array) -> Array:
    """The square of a frame, at the size that is looked at."""
    x, y, side = square
    size = SIZE_PX, SIZE_PX
    return np.asarray(
        Image.fromarray(frame).resize(
            size, Image.Resampling.BICUBIC, box=(x, y, x + side, y + side)
        )
    )


def mirror_error(track: FaceTrack, every: int = 8) -> float:
    """How far the landmarks of mirrored frames lie from the landmarks mirrored, in eye distances;
    large where the landmarker only guesses. One frame in `every` is asked.
    """
    straight = track.landmarks[::every]
    size = SIZE_PX - 1
    found = find_landmarks(np.ascontiguousarray(track.frames[::every, :, ::-1]))
    mirrored = found[:, MIRRORED] * [-1, 1] + [size, 0]
    eyes = np.linalg.norm(straight[:, 36:42].mean(1) - straight[:, 42:48].mean(1), axis=1).mean()
    return float(np.linalg.norm(mirrored - straight, axis=-1).mean() / eyes)
