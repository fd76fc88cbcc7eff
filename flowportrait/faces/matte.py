"""The person in a portrait: MediaPipe's selfie segmentation, its edges refined.

Weights: `selfie_segmentation.tflite` (Apache-2.0) as the package mediapipe 0.10.21 carries it,
float16 as published; `bench/convert_selfie_matte.py` makes the file. The network sees 256 x 256 px
of the part of the picture that holds head and shoulders. Its mask is fitted to the picture's own
edges by a guided filter (He, Sun, Tang 2013, doi:10.1109/TPAMI.2012.213), whose coefficients are
computed on a reduced picture and used on the full one (He, Sun 2015, arXiv:1505.00996).
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flowportrait.arrays import Picture
from flowportrait.faces.framing import FaceBox
from flowportrait.faces.shipped import read_shipped
from flowportrait.registry import MODELS_DIR
from flowportrait.tensors import Maps

WEIGHTS = MODELS_DIR / "selfie-matte" / "model.safetensors"
WEIGHTS_SHA256 = "4a7163c472557923d0b9048baf9c63ef9710c395bba834af03a36af9e3180883"

SIDE_PX = 256
# Blocks of the encoder: channels in, widened to, channels out, kernel, stride, channels of the gate
# (0: none), hard swish instead of ReLU. The grid is 128 cells wide before and 16 behind them.
_BLOCKS = (
    (16, 16, 16, 3, 2, 8, False),
    (16, 72, 24, 3, 2, 0, False),
    (24, 88, 24, 3, 1, 0, False),
    (24, 96, 32, 5, 2, 24, True),
    (32, 128, 32, 5, 1, 32, True),
    (32, 128, 32, 5, 1, 32, True),
    (32, 96, 32, 5, 1, 24, True),
    (32, 96, 32, 5, 1, 24, True),
)
_TAPS = (0, 2)
"""Blocks whose outputs the decoder takes up again, besides the stem's: grids of 64 and 32 cells."""
_NECK = 128

_FACES_WIDE = 3.5
_LOWER = 0.1
"""Side of the part that is looked at, in sides of the face; how far it is lowered, in its own."""
_FULL_PX = 2048
_FILTER_PX = 512
"""Longest sides at which the matte and the guided filter's coefficients are computed."""
_RADIUS = 0.01
_RIDGE = 1e-4
"""Half the filter's window, in longest sides; the variance of colour that is taken for noise."""
_HAZE = 0.1
"""What counts as none, and from one downwards as all."""


class Gate(nn.Module):
    """A factor for each channel from the means of all (squeeze and excitation)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Maps) -> Float[Tensor, "b c 1 1"]:
        means = x.mean((2, 3), keepdim=True)
        return torch.sigmoid(self.excite(functional.relu(self.squeeze(means))))


class Block(nn.Module):
    """MobileNetV3's block: widen, filter each channel, gate, narrow; added if shapes allow."""

    def __init__(
        self,
        channels_in: int,
        wide: int,
        channels: int,
        kernel: int,
        stride: int,
        gate: int,
        swish: bool,
    ):
        super().__init__()
        self.widen = nn.Conv2d(channels_in, wide, 1)
        self.filter = nn.Conv2d(wide, wide, kernel, stride, groups=wide)
        self.gate = Gate(wide, gate) if gate else None
        self.narrow = nn.Conv2d(wide, channels, 1)
        self.activation = functional.hardswish if swish else functional.relu
        self.padding = _same_padding(kernel, stride)
        self.residual = stride == 1

    def forward(self, x: Maps) -> Float[Tensor, "b d h2 w2"]:
        y = self.activation(self.widen(x))
        y = self.activation(self.filter(functional.pad(y, self.padding)))
        y = self.narrow(y * self.gate(y) if self.gate else y)
        if self.residual:
            return x + y
        return y


class Merge(nn.Module):
    """A step of the decoder: twice the grid, then what the encoder had there, gated by both."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.narrow = nn.Conv2d(channels_in, channels, 1)
        self.gate = Gate(channels, channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.filter = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Maps, past: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.narrow(
            functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        )
        x = functional.relu(self.mix(past * self.gate(past + x) + x))
        return x + functional.relu(self.filter(x))


class SelfieNetwork(nn.Module):
    """The network: stem, the encoder of `_BLOCKS`, a neck gated by the whole picture, a decoder."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, _BLOCKS[0][0], 3, stride=2)
        self.blocks = nn.ModuleList(Block(*shape) for shape in _BLOCKS)
        last = _BLOCKS[-1][2]
        self.neck = nn.Conv2d(last, _NECK, 1)
        self.neck_gate = nn.Conv2d(last, _NECK, 1)
        past = [*(_BLOCKS[tap][2] for tap in reversed(_TAPS)), _BLOCKS[0][0]]
        self.merges = nn.ModuleList(map(Merge, [_NECK, *past], past))
        self.mask = nn.ConvTranspose2d(past[-1], 1, 2, stride=2)

    def forward(self, image: Float[Tensor, "b 3 256 256"]) -> Float[Tensor, "b 1 256 256"]:
        """The share of person in [0, 1] of each pixel of RGB in 0..1."""
        x = functional.hardswish(self.stem(functional.pad(image, _same_padding(3, 2))))
        past = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                past.append(x)
        means = x.mean((2, 3), keepdim=True)
        x = functional.relu(self.neck(x)) * torch.sigmoid(self.neck_gate(means))
        for merge in self.merges:
            x = merge(x, past.pop())
        return torch.sigmoid(self.mask(x))


def _same_padding(kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Zeros left, right, above, below; even sides need one less before them than behind them."""
    total = kernel - stride
    return (total // 2, total - total // 2) * 2


class PersonMatte:
    """Finds the share of person in each pixel of a portrait."""

    def __init__(self):
        self.network = SelfieNetwork().eval()
        weights = read_shipped(WEIGHTS, WEIGHTS_SHA256, owner="person matte")
        self.network.load_state_dict({name: value.float() for name, value in weights.items()})

    @torch.inference_mode()
    def find(self, image: Picture, face: FaceBox | None = None) -> Float[np.ndarray, "h w"]:
        """The matte, float32 in [0, 1]: 1 is person.

        With a `face` the network looks at the part around it alone, so that a person who is small
        in the picture is seen as large as one who fills it; all outside that part is background.
        """
        height, width = image.shape[:2]
        x0, y0, x1, y1 = part_around(face, width, height) if face else (0, 0, width, height)
        part = np.ascontiguousarray(image[y0:y1, x0:x1], dtype=np.float32) / 255
        pixels = _at_most(rearrange(torch.from_numpy(part), "h w c -> 1 c h w"), _FULL_PX)
        matte = refined(self.network(_resized(pixels, (SIDE_PX, SIDE_PX))), pixels)
        whole = np.zeros((height, width), np.float32)
        whole[y0:y1, x0:x1] = _resized(matte, (y1 - y0, x1 - x0))[0, 0].numpy()
        return whole


def part_around(face: FaceBox, width: int, height: int) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) of a picture that is looked at for the person with this face."""
    side = _FACES_WIDE * max(face.x1 - face.x0, face.y1 - face.y0)
    x = (face.x0 + face.x1) / 2
    y = (face.y0 + face.y1) / 2 + _LOWER * side
    x0 = max(0, round(x - side / 2))
    y0 = max(0, round(y - side / 2))
    x1 = min(width, round(x + side / 2))
    y1 = min(height, round(y + side / 2))
    return min(x0, width - 1), min(y0, height - 1), max(x0 + 1, x1), max(y0 + 1, y1)


def refined(
    mask: Float[Tensor, "1 1 256 256"], pixels: Float[Tensor, "1 3 h w"]
) -> Float[Tensor, "1 1 h w"]:
    """The mask at the size of the picture, its edges moved to those of the picture nearby.

    Within each window the matte is taken to be linear in colour. That leaves some haze on both
    sides of an edge, which is cut off.
    """
    guide = _at_most(pixels, _FILTER_PX)
    height, width = guide.shape[-2:]
    radius = max(1, round(_RADIUS * max(height, width)))
    slope, offset = _linear_fit(guide, _resized(mask, (height, width)), radius)
    slope = _resized(slope, pixels.shape[-2:])
    offset = _resized(offset, pixels.shape[-2:])
    matte = (slope * pixels).sum(1, keepdim=True) + offset
    return ((matte - _HAZE) / (1 - 2 * _HAZE)).clamp(0, 1)


def _linear_fit(
    guide: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "1 1 h w"], radius: int
) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 1 h w"]]:
    """Slope and offset of mask = slope . guide + offset: ridge regression by windows, averaged."""
    pairs = rearrange(guide[:, :, None] * guide[:, None], "1 c d h w -> 1 (c d) h w")
    means = _box_mean(torch.cat([guide, mask, pairs, guide * mask], 1), radius)
    mean, mask_mean, pairs, shared = means.split([3, 1, 9, 3], 1)
    covariance = pairs - rearrange(mean[:, :, None] * mean[:, None], "1 c d h w -> 1 (c d) h w")
    covariance = rearrange(covariance, "1 (c d) h w -> h w c d", c=3) + _RIDGE * torch.eye(3)
    shared = rearrange(shared - mean * mask_mean, "1 c h w -> h w c 1")
    slope = rearrange(torch.linalg.solve(covariance, shared), "h w c 1 -> 1 c h w")
    offset = mask_mean - (slope * mean).sum(1, keepdim=True)
    slope, offset = _box_mean(torch.cat([slope, offset], 1), radius).split([3, 1], 1)
    return slope, offset


def _box_mean(values: Float[Tensor, "1 c h w"], radius: int) -> Float[Tensor, "1 c h w"]:
    """The mean over the square window of 2 radius + 1 px around each pixel, less at the edges."""
    values = values.contiguous(memory_format=torch.channels_last)  # takes half as long
    for window, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        values = functional.avg_pool2d(values, window, 1, padding, count_include_pad=False)
    return values.contiguous()


def _at_most(pixels: Float[Tensor, "1 c h w"], side_px: int) -> Float[Tensor, "1 c h2 w2"]:
    """The picture, reduced if its longest side is longer than `side_px`."""
    height, width = pixels.shape[-2:]
    scale = min(1.0, side_px / max(height, width))
    return _resized(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))


def _resized(values: Float[Tensor, "1 c h w"], size: tuple[int, int]) -> Float[Tensor, "1 c h2 w2"]:
    """Bilinear, averaging where it shrinks."""
    if values.shape[-2:] == size:
        return values
    return functional.interpolate(
        values, size, mode="bilinear", antialias=True, align_corners=False
    )
