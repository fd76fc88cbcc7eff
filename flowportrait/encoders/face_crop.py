"""The cut of a face that SyncNet and Light-ASD were trained on, array for array that of their authors' demos.

A square of 1.4 face boxes' half sides, more chin than forehead, its path smoothed by medians.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8

SIDE_PX = 224
CHIN, MARGIN = 0.4, 110  # how much the crop exceeds the face, and the grey it is padded with


def smoothed_path(boxes: Num[np.ndarray, "f 4"]) -> Float[np.ndarray, "f 3"]:
    """Where to cut each frame: x, y and half the side of its face box (x0, y0, x1, y1), medians over 13 frames."""
    x0, y0, x1, y1 = boxes.T.astype(float)
    sides = (x0 + x1) / 2, (y0 + y1) / 2, np.maximum(x1 - x0, y1 - y0) / 2
    return np.stack([_median_of_13(path) for path in sides], 1)


def _median_of_13(path: np.ndarray) -> np.ndarray:
    padded = np.pad(path, 6)  # zeros, as scipy.signal.medfilt pads
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 13), axis=1)


def crop_face(frame: UInt8[np.ndarray, "h w 3"], x: float, y: float, half: float) -> UInt8[np.ndarray, "224 224 3"]:
    """The square about (x, y); what lies outside the frame is grey."""
    border = int(half * (1 + 2 * CHIN))
    padded = np.pad(frame, ((border, border), (border, border), (0, 0)), constant_values=MARGIN)
    x, y = x + border, y + border
    cut = padded[
        int(y - half) : int(y + half * (1 + 2 * CHIN)),
        int(x - half * (1 + CHIN)) : int(x + half * (1 + CHIN)),
    ]
    return resized(cut[None])[0]


def resized(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f 224 224 3"]:
    """As OpenCV resizes: four neighbours are mixed and nothing is smoothed first, however small a face becomes."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    sized = F.interpolate(pixels, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
    return sized.round_().permute(0, 2, 3, 1).byte().numpy()
