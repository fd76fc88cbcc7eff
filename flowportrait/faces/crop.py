"""The cut of a face that SyncNet and Light-ASD were trained on, array for array that of their
authors' demos.

A square of 1.4 face boxes' half sides, more chin than forehead, its path smoothed by medians.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8

from flowportrait.arrays import Array, Frames, Picture

SIDE_PX = 224
CHIN, MARGIN = 0.4, 110  # how much the crop exceeds the face, and the grey it is padded with


def smoothed_path(boxes: Num[np.ndarray, "f 4"]) -> Float[np.ndarray, "f 3"]:
    """Where to cut each frame: x, y and half the side of its face box (x0, y0, x1, y1), medians
    over 13 frames.
    """
    x0, y0, x1, y1 = boxes.T.astype(float)
    sides = (x0 + x1) / 2, (y0 + y1) / 2, np.maximum(x1 - x0, y1 - y0) / 2
    return np.stack([_median_of_13(path) for path in sides], 1)


def _median_of_13(path: Array) -> Array:
    padded = np.pad(path, 6)  # zeros, as scipy.signal.medfilt pads
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 13), axis=1)


def crop_face(frame: Picture, x: float, y: float, half: float) -> UInt8[np.ndarray, "224 224 3"]:
    """The square about (x, y); what lies outside the frame is grey."""
    border = int(half * (1 + 2 * CHIN))
    rows = _cut(
        y + border,
        half,
        half * (1 + 2 * CHIN),
        len(frame),
        border,
    )
    columns = _cut(x + border, half * (1 + CHIN), half * (1 + CHIN), frame.shape[1], border)
    inside = frame[
        max(rows.start, 0) : max(rows.stop, 0), max(columns.start, 0) : max(columns.stop, 0)
    ]
    above = max(0, -rows.start)
    below = max(0, rows.stop - len(frame))
    left = max(0, -columns.start)
    right = max(0, columns.stop - frame.shape[1])
    edges = (above, below), (left, right), (0, 0)
    return resized(np.pad(inside, edges, constant_values=MARGIN)[None])[0]


def _cut(middle: float, before: float, behind: float, side: int, border: int) -> slice:
    """Pixels of the frame, whose grey border is `border` wide; the authors round in a frame that
    has it.
    """
    start, stop = (
        min(int(at), side + 2 * border) - border for at in (middle - before, middle + behind)
    )
    return slice(start, stop)


def resized(frames: Frames) -> UInt8[np.ndarray, "f 224 224 3"]:
    """Bilinear resizing as in OpenCV, without antialiasing."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    sized = F.interpolate(pixels, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
    return sized.round_().permute(0, 2, 3, 1).byte().numpy()
