"""From faces in every k-th frame to stretches with one face each, and to the squares that are cut
(App. B).

Scene cuts end a stretch, and so does a face that is gone for more than a second. Faces are told
apart by overlap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num
from pydantic import Field

from flowportrait.arrays import Array, PerFrame, Values
from flowportrait.config import Frozen
from flowportrait.faces.framing import SCALE, FaceBox, overlap, portrait_square
from flowportrait.files import JsonObject
from flowportrait.media import FPS


class FacesConfig(Frozen):
    """Face detection and tracking."""

    detector: str = Field(
        "centerface",
        description="centerface, or buffalo_sc, the paper's, whose weights are for research only",
    )
    detector_settings: JsonObject = {}
    detect_every: int = Field(
        4,
        ge=1,
        le=24,
        description="frames at 24 fps between detections; boxes are interpolated. App. B: 1",
    )
    max_gap_s: float = Field(
        1.0, gt=0, description="App. B: a longer gap without the face splits the video"
    )
    min_overlap: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="minimum intersection over union of successive boxes of one face. Unstated",
    )
    min_face_px: int = Field(
        64, ge=1, description="minimum length of the longer side of a face. Unstated"
    )
    max_turn_deg: float = Field(
        60.0,
        gt=0,
        le=180,
        description=(
            "maximum in-plane rotation of a face, to drop footage that lies on its side or is"
            " upside"
            " down; 180 turns the check off. Unstated"
        ),
    )


class ScenesConfig(Frozen):
    """Scene detection. Unstated in the paper: a track across a cut would join two people."""

    split: bool = True
    min_change: float = Field(
        8.0,
        gt=0,
        description="minimum mean change between frames at a cut, in levels from 0 to 255",
    )
    min_ratio: float = Field(
        4.0,
        gt=1,
        description="minimum ratio of that change to the largest change in neighbouring frames",
    )
    reach: int = Field(3, ge=1, description="number of neighbouring frames on either side")


class CropConfig(Frozen):
    """Cropping of the square around the face."""

    scale: float = Field(
        SCALE,
        gt=0,
        description="side of the square, relative to the longer side of the face (App. B)",
    )
    path: Literal["clip", "smooth", "frame"] = Field(
        "clip",
        description=(
            "clip: one fixed square that contains the face throughout; smooth: a square of fixed"
            " size on the smoothed path of the face; frame: a new square for every frame."
            " Unstated; with smooth and frame the background moves, and models learn that"
        ),
    )
    max_side_px: int = Field(
        384, ge=16, description="maximum side of a clip (§4.1); frames are never upscaled"
    )
    multiple_px: int = Field(
        16,
        ge=2,
        multiple_of=2,
        description="the side is a multiple of this: stride 8 of Wan-VAE times patch 2 (§4.1)",
    )
    min_side_px: int = Field(
        128, ge=16, description="minimum side of the square in the source. Unstated"
    )


@dataclass
class Track:
    """One face from tick `start` to before `stop`, seen at `ticks`."""

    start: int
    stop: int
    ticks: list[int] = field(default_factory=list)
    boxes: list[FaceBox] = field(default_factory=list)

    def boxes_at(self, ticks: Values) -> Float[np.ndarray, "n 4"]:
        """x0, y0, x1, y1 at these moments, in ticks; interpolated, and held beyond the ends. A box
        that is wrong for one look gives way to its neighbours (median of three).
        """
        known = np.array([box[:4] for box in self.boxes], float)
        padded = np.pad(known, ((1, 1), (0, 0)), mode="edge")
        known = np.median(
            np.stack(
                [
                    padded[:-2],
                    padded[1:-1],
                    padded[2:],
                ]
            ),
            axis=0,
        )
        return np.stack([np.interp(ticks, self.ticks, side) for side in known.T], 1)

    @property
    def face_px(self) -> float:
        """The longer side of the face's box, median."""
        return float(np.median([max(box.x1 - box.x0, box.y1 - box.y0) for box in self.boxes]))


def find_cuts(changes: Num[np.ndarray, " f"], config: ScenesConfig) -> list[int]:
    """Frames that open a new scene. `changes[i]` is how much frame i differs from the one before.

    A cut is a change that stands out alone; motion and flicker change many frames in a row.
    """
    if not config.split:
        return []
    values = changes.astype(float)
    cuts = []
    for i in np.flatnonzero(values >= config.min_change):
        around = np.concatenate(
            [values[max(0, i - config.reach) : i], values[i + 1 : i + 1 + config.reach]]
        )
        # Doubled frames of a slower source change nothing; what is left says how much moves.
        moving = around[around > 0]
        if values[i] >= config.min_ratio * (moving.max() if len(moving) else 0):
            cuts.append(int(i))
    return cuts


def thumbnail(frame: Array) -> Array:
    """A few hundred pixels of a frame, enough to see a cut: int16 [about 36, about 36, 3]."""
    height, width = frame.shape[:2]
    return frame[height // 72 :: max(1, height // 36), width // 72 :: max(1, width // 36)].astype(
        np.int16
    )


def link(detections: Mapping[int, list[FaceBox]], scene: range, config: FacesConfig) -> list[Track]:
    """The faces of one scene. `detections` holds what was found at the ticks that were looked at.

    A face missing from m looks in a row is gone for m * detect_every frames; more than `max_gap_s`
    of them end its track, and the next sight opens another.
    """
    looks = [tick for tick in sorted(detections) if tick in scene]
    live = []
    ended = []
    most = round(config.max_gap_s * FPS)
    for tick in looks:
        for track in [
            t for t in live if _missed(t.ticks[-1], tick, looks) * config.detect_every > most
        ]:
            live.remove(track)
            ended.append(track)
        for track, box in _matched(live, detections[tick], config.min_overlap):
            if track is None:
                live.append(track := Track(tick, tick))
            track.ticks.append(tick)
            track.boxes.append(box)
    tracks = sorted(ended + live, key=lambda track: (track.ticks[0], track.boxes[0]))
    for track in tracks:
        # What lies between the scene's ends and the nearest look belongs to the face that is seen
        # there.
        track.start = scene.start if track.ticks[0] == looks[0] else track.ticks[0]
        track.stop = scene.stop if track.ticks[-1] == looks[-1] else track.ticks[-1] + 1
    return tracks


def _missed(last: int, tick: int, looks: list[int]) -> int:
    return bisect_left(looks, tick) - bisect_right(looks, last)


def _matched(
    live: list[Track], boxes: list[FaceBox], least: float
) -> list[tuple[Track | None, FaceBox]]:
    """Every box with the track it goes on with, or None; the best overlaps first."""
    pairs = sorted(
        (
            (overlap(track.boxes[-1], box), i, j)
            for i, track in enumerate(live)
            for j, box in enumerate(boxes)
        ),
        key=lambda pair: (-pair[0], *pair[1:]),
    )
    tracks: dict[int, int] = {}
    for value, i, j in pairs:
        if value >= least and i not in tracks.values() and j not in tracks:
            tracks[j] = i
    return [(live[tracks[j]] if j in tracks else None, box) for j, box in enumerate(boxes)]


def squares(
    boxes: Float[np.ndarray, "f 4"], size_px: tuple[int, int], config: CropConfig
) -> Int[np.ndarray, "f 3"]:
    """The square of every frame, x, y and side, within a picture of (width, height) px: shifted
    first where it would leave the picture, and smaller only where the picture is.
    """
    width, height = size_px
    if config.path == "frame":
        return np.array(
            [portrait_square(FaceBox(*box, 1.0), width, height, config.scale) for box in boxes]
        )
    return _squares(boxes, config, width, height)


def _squares(
    boxes: Float[np.ndarray, "f 4"], config: CropConfig, width, height
) -> Int[np.ndarray, "f 3"]:
    """[f, 3] x, y and side of squares around boxes, still or moving as is set."""
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    side = config.scale * float(np.median(sides))
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    y = (boxes[:, 1] + boxes[:, 3]) / 2
    if config.path == "clip":
        low = boxes[:, :2].min(0)
        high = boxes[:, 2:].max(0)
        side = max(side, float((high - low).max()))
        x = np.full(len(boxes), (low[0] + high[0]) / 2)
        y = np.full(len(boxes), (low[1] + high[1]) / 2)
    else:
        x = _smoothed(x)
        y = _smoothed(y)
    around = np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], 1)
    return np.array([portrait_square(FaceBox(*box, 1.0), width, height, 1.0) for box in around])


def _smoothed(path: PerFrame) -> PerFrame:
    """Weighted means over a second and a half to either side at most."""
    reach = min(36, len(path) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 12.0) ** 2)
    padded = path
    if reach:
        padded = np.pad(path, reach, mode="reflect", reflect_type="odd")
    return np.convolve(padded, weights / weights.sum(), mode="valid")


def side_of(square_px: int, config: CropConfig) -> int:
    """The side of the frames that are written for a square of the source."""
    return min(square_px, config.max_side_px) // config.multiple_px * config.multiple_px
