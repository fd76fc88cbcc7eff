"""SCRFD (arXiv:2105.04714), InsightFace's face detector: that of the pack `buffalo_sc`, which the
paper uses, and those of its other packs. The network runs in ONNX Runtime.

InsightFace gives its weights away for non-commercial research alone
(github.com/deepinsight/insightface#license). They are neither shipped nor fetched; a user who may
use them names the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch.nn import functional

from flowportrait.arrays import Array
from flowportrait.errors import CheckpointError, ConfigError, require
from flowportrait.faces.framing import FaceBox, overlap

FILE = "det_500m.onnx"
"""The detector within the pack buffalo_sc."""
STRIDES = (8, 16, 32)
PER_CELL = 2  # boxes that each cell of a grid tells
LICENCE = "InsightFace's weights are for non-commercial research alone"
_MEAN, _SPREAD = 127.5, 128.0


class ScrfdDetector:
    """InsightFace's SCRFD face detector.

    The picture is resized into a square of `side_px`; faces below `min_score` are dropped, and of
    those that overlap by more than `max_overlap` the one with the highest score is kept.

    `weights` is det_500m.onnx, or the folder of the pack with it. Raises ConfigError without them,
    CheckpointError for a file that is none, MissingDependency without onnxruntime.
    """

    name = "buffalo_sc"

    def __init__(
        self,
        weights: str | Path | None = None,
        min_score: float = 0.5,
        side_px: int = 640,
        max_overlap: float = 0.4,
    ):
        if weights is None:
            raise ConfigError(
                f"face detector buffalo_sc: no weights; {LICENCE}: give {FILE} by"
                " --set faces.detector_settings.weights=FILE, or take centerface"
            )
        path = Path(weights)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; give {FILE} of InsightFace's buffalo_sc ({LICENCE})"
            )
        if side_px < 32 or side_px % 32:
            raise ConfigError(f"side_px: got {side_px}; give a multiple of 32")
        self.min_score = min_score
        self.side_px = side_px
        self.max_overlap = max_overlap
        self._session = _session(path)
        outputs = len(self._session.get_outputs())
        if outputs not in (6, 9):
            raise CheckpointError(
                f"{path}: has {outputs} outputs; a face detector of InsightFace has 6, or 9 with"
                " points"
            )

    def detect(self, image: Array) -> list[FaceBox]:
        """The faces of a uint8 [h, w, 3] picture in its own pixels, the surest first; [] if there
        is none.
        """
        height, width = image.shape[:2]
        scale = self.side_px / max(height, width)
        (name,) = (given.name for given in self._session.get_inputs())
        outputs = self._session.run(None, {name: _squared(image, self.side_px, scale)})
        found = decode(outputs, self.side_px, self.min_score)
        found[:, 0:4:2] = (found[:, 0:4:2] / scale).clip(0, width)
        found[:, 1:4:2] = (found[:, 1:4:2] / scale).clip(0, height)
        kept: list[FaceBox] = []
        for box in (FaceBox(*row) for row in found[np.argsort(-found[:, 4], kind="stable")]):
            if all(overlap(box, other) <= self.max_overlap for other in kept):
                kept.append(box)
        return [box for box in kept if box.x1 - box.x0 >= 1 and box.y1 - box.y0 >= 1]


def _session(path: Path):
    """The network, loaded on the CPU. Raises CheckpointError for a file that is none."""
    runtime = require("onnxruntime", extra="onnx")
    own = runtime.capi.onnxruntime_pybind11_state
    refusals = own.Fail, own.InvalidProtobuf, own.InvalidGraph, own.InvalidArgument
    options = runtime.SessionOptions()
    # One thread, as the processes of `prepare` share the machine; and sums in one order.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (*refusals, own.NotImplemented) as error:
        raise CheckpointError(
            f"{path}: cannot be loaded ({str(error).splitlines()[0]}); download it again"
        ) from error


def _squared(image: Array, side_px: int, scale: float) -> Float[np.ndarray, "1 3 s s"]:
    """The picture in the upper left corner of a square of zeros, which become -1 as black does."""
    height, width = (max(1, int(side * scale)) for side in image.shape[:2])
    pixels = torch.tensor(np.ascontiguousarray(image), dtype=torch.float32)
    pixels = functional.interpolate(
        rearrange(pixels, "h w c -> 1 c h w"), (height, width), mode="bilinear"
    )
    padded = functional.pad(pixels, (0, side_px - width, 0, side_px - height))
    return ((padded - _MEAN) / _SPREAD).numpy()


def decode(outputs: list[Array], side_px: int, min_score: float) -> Float[np.ndarray, "n 5"]:
    """x0, y0, x1, y1 and score of all boxes, in pixels of the square. Outputs are scores of every
    stride, then distances of every stride from a cell's upper left corner to the four sides, in
    cells; points, where there are any, come last.
    """
    boxes = []
    for index, stride in enumerate(STRIDES):
        scores = outputs[index].reshape(-1)
        sides = outputs[index + len(STRIDES)].reshape(-1, 4) * stride
        cells = side_px // stride
        y, x = np.divmod(np.arange(cells * cells).repeat(PER_CELL), cells)
        x = x * stride
        y = y * stride
        corners = np.stack(
            [x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3], scores], axis=1
        )
        boxes.append(corners[scores >= min_score])
    return np.concatenate(boxes).astype(np.float64)
