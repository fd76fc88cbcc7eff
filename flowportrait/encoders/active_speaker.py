"""Light-ASD (Liao et al. 2023, arXiv:2303.04439): whether the face that is seen speaks what is
heard.

The network under the official checkpoint's names. Pictures and sound pass through blocks of two
paths, with windows of 3 and 5, each first across (the picture, the spectrum) and then along time;
both are added at 25 Hz and read by one GRU forward and one backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowportrait.arrays import PerFrame, PlacePerFrame
from flowportrait.errors import CheckpointError

Features = Float[Tensor, "b f 128"]

FPS = 25
CEPSTRA_PER_FRAME = 4
SIDE_PX = 112
DURATIONS_S = (1, 2, 3, 4, 5, 6)
"""Lengths of the pieces that the authors' demo averages over. It lists some twice or thrice, as
weights, in a set, which forgets them.
"""
_WIDTHS = (32, 64, 128)
_MEAN = 0.4161
_STD = 0.1688
_REACH = (
    6  # frames to either side that a frame's embedding depends on: two for each of three blocks
)
_STRETCH = 50  # frames; more than fit a cache take longer


class _SeparableBlock(nn.Module):
    def __init__(self, narrow: int, wide: int, pictures: bool, stride: int = 1):
        super().__init__()
        convolution, norm, self.across = (
            (nn.Conv3d, nn.BatchNorm3d, "s") if pictures else (nn.Conv2d, nn.BatchNorm2d, "m")
        )
        for window in (3, 5):
            across = (1, window, window) if pictures else (window, 1)
            along = (window, 1, 1) if pictures else (1, window)
            steps = (1, stride, stride) if pictures else 1
            for name, inner, shape, step in (
                (self.across, narrow, across, steps),
                ("t", wide, along, 1),
            ):
                padding = tuple(side // 2 for side in shape)
                self.add_module(
                    f"{name}_{window}", convolution(inner, wide, shape, step, padding, bias=False)
                )
                self.add_module(f"bn_{name}_{window}", norm(wide, eps=1e-3))
        self.last = convolution(wide, wide, 1, bias=False)
        self.bn_last = norm(wide, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self._layer("last", sum(self._path(x, window) for window in (3, 5)))

    def _path(self, x: Tensor, window: int) -> Tensor:
        return self._layer(f"t_{window}", self._layer(f"{self.across}_{window}", x))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return F.relu(getattr(self, f"bn_{name}")(getattr(self, name)(x)), inplace=True)

    def fold(self) -> None:
        """Makes the batch norms part of the convolutions before them."""
        for name in [
            name.removeprefix("bn_") for name, _ in self.named_children() if name.startswith("bn_")
        ]:
            folded = fuse_conv_bn_eval(getattr(self, name), getattr(self, f"bn_{name}"))
            setattr(self, name, _AlongTime(folded) if folded.kernel_size[1:] == (1, 1) else folded)
            setattr(self, f"bn_{name}", nn.Identity())


class _AlongTime(nn.Module):
    """A convolution of video along time alone, as one of pictures as wide as a frame has pixels:
    torch is quicker.
    """

    def __init__(self, layer: nn.Conv3d):
        super().__init__()
        self.weight = layer.weight[..., 0]
        self.bias = layer.bias
        self.padding = (layer.padding[0], 0)

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f h w"]:
        found = F.conv2d(
            x.flatten(3),
            self.weight,
            self.bias,
            padding=self.padding,
        )
        return found.unflatten(3, x.shape[3:])


class LightAsd(nn.Module):
    """Faces and cepstra to the logits of silent and speaking; 1.0 million parameters."""

    def __init__(self):
        super().__init__()
        pairs = list(zip((1, *_WIDTHS), _WIDTHS, strict=False))
        self._add_encoders(pairs)
        # The second head, on pictures alone, served training only.
        self.lossAV, self.lossV = (
            nn.ModuleDict({"FC": nn.Linear(_WIDTHS[-1], 2)}) for _ in range(2)
        )

    def _add_encoders(self, pairs: list[tuple[int, int]]) -> None:
        """Layers under the names that the published weights have."""
        seen = {
            f"block{i + 1}": _SeparableBlock(*pair, True, 1 if i else 2)
            for i, pair in enumerate(pairs)
        }
        heard = {f"block{i + 1}": _SeparableBlock(*pair, False) for i, pair in enumerate(pairs)}
        grus = {
            name: nn.GRU(_WIDTHS[-1], _WIDTHS[-1], batch_first=True)
            for name in ("gru_forward", "gru_backward")
        }
        self.model = nn.ModuleDict(
            {
                "visualEncoder": nn.ModuleDict(seen),
                "audioEncoder": nn.ModuleDict(heard),
                "GRU": nn.ModuleDict(grus),
            }
        )

    def seen(self, faces: Float[Tensor, "b f 112 112"]) -> Features:
        """Visual features of grey levels from 0 to 255 at 25 fps."""
        x = (faces[:, None] / 255 - _MEAN) / _STD
        for index, block in enumerate(self.model["visualEncoder"].values()):
            x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)) if index else x
            x = block(x)
        return x.amax((3, 4)).transpose(1, 2)

    def heard(self, cepstra: Float[Tensor, "b n 13"]) -> Features:
        """Audio features of cepstra at 100 Hz, four per frame."""
        x = cepstra.transpose(1, 2)[:, None]
        for index, block in enumerate(self.model["audioEncoder"].values()):
            x = F.max_pool2d(x, (1, 3), (1, 2), (0, 1)) if index else x
            x = block(x)
        return x.mean(2).transpose(1, 2)

    def forward(
        self, faces: Float[Tensor, "b f 112 112"], cepstra: Float[Tensor, "b 4*f 13"]
    ) -> Float[Tensor, "b f 2"]:
        """Logits of every frame: silent, speaking."""
        return self.decided(self.seen(faces), self.heard(cepstra))

    def decided(self, seen: Features, heard: Features) -> Float[Tensor, "b f 2"]:
        """Logits of what was seen and heard."""
        grus = self.model["GRU"]
        x = F.gelu(grus["gru_forward"](seen + heard)[0])
        x = F.gelu(grus["gru_backward"](x.flip(1))[0].flip(1))
        return self.lossAV["FC"](x)


@lru_cache(maxsize=2)
def load_light_asd(path: Path) -> LightAsd:
    """Light-ASD with official weights. Raises CheckpointError when the file holds another
    network.
    """
    network = LightAsd()
    missing, unexpected = network.load_state_dict(
        torch.load(path, map_location="cpu", weights_only=True), strict=False
    )
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: not the weights of Light-ASD (lacks {len(missing)} tensors, has"
            f" {len(unexpected)}"
            " of another network)"
        )
    network.eval().requires_grad_(False)
    for block in network.modules():
        if isinstance(block, _SeparableBlock):
            block.fold()
    return network


@torch.inference_mode()
def speaking_logits(
    network: LightAsd,
    faces: UInt8[np.ndarray, "f 112 112"],
    cepstra: Float[np.ndarray, "n 13"],
    durations_s: Sequence[int] = DURATIONS_S,
) -> PlacePerFrame:
    """Logits of silent and speaking for every frame at 25 fps that has sound, the mean over pieces
    of several lengths.

    The network was trained on pieces of such lengths, and knows nothing beyond the ends of one.
    """
    return _logits(faces, cepstra, network, durations_s)


def _logits(
    faces: UInt8[np.ndarray, "f 112 112"],
    cepstra: Float[np.ndarray, "n 13"],
    network: LightAsd,
    durations_s: Sequence[int],
) -> PlacePerFrame:
    count = min(len(faces), len(cepstra) // CEPSTRA_PER_FRAME)
    seen_in = _seen_in_pieces(
        network, torch.from_numpy(faces[:count]).float(), max(durations_s) > 1
    )
    sounds = torch.from_numpy(cepstra).float()
    found = torch.zeros(count, 2)
    for duration in durations_s:
        for start in range(0, count, duration * FPS):
            stop = min(start + duration * FPS, count)
            heard = network.heard(
                sounds[None, CEPSTRA_PER_FRAME * start : CEPSTRA_PER_FRAME * stop]
            )
            found[start:stop] += network.decided(seen_in(start, stop)[None], heard)[0]
    return (found / len(durations_s)).numpy()


def _seen_in_pieces(
    network: LightAsd, faces: Float[Tensor, "f 112 112"], longer: bool
) -> Callable[[int, int], Float[Tensor, "p 128"]]:
    """Features of the frames of a piece that begins on a whole second, as if it were all there is.

    Beyond the ends of a piece there are zeros, which reach `_REACH` frames into it; the rest is as
    in the whole. So two passes over the pictures, the whole and its seconds, serve pieces of all
    lengths.
    """
    count = len(faces)
    seconds = torch.cat([network.seen(faces[None, i : i + FPS])[0] for i in range(0, count, FPS)])
    if not longer or count <= FPS:
        return lambda start, stop: seconds[start:stop]
    # In stretches that overlap, since the whole needs memory for every frame.
    whole = torch.cat(
        [_middle(network, faces, i, min(i + _STRETCH, count)) for i in range(0, count, _STRETCH)]
    )
    tail = network.seen(faces[None, -2 * _REACH :])[0, -_REACH:]

    def seen_in(start: int, stop: int) -> Tensor:
        if stop - start <= FPS:
            return seconds[start:stop]
        end = tail if stop == count else seconds[stop - _REACH : stop]
        return torch.cat(
            [seconds[start : start + _REACH], whole[start + _REACH : stop - _REACH], end]
        )

    return seen_in


def _middle(
    network: LightAsd, faces: Float[Tensor, "f 112 112"], start: int, stop: int
) -> Float[Tensor, "m 128"]:
    first = max(0, start - _REACH)
    last = min(len(faces), stop + _REACH)
    return network.seen(faces[None, first:last])[0, start - first : stop - first]


def speaking_probability(logits: PlacePerFrame) -> PerFrame:
    """The softmax of speaking; the demo decides by the sign of the second logit alone."""
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def face_of_crop(crops: UInt8[np.ndarray, "f 224 224 3"]) -> UInt8[np.ndarray, "f 112 112"]:
    """The network's input: the middle of SyncNet's crop, in grey."""
    edge = (crops.shape[1] - SIDE_PX) // 2
    middle = crops[:, edge : edge + SIDE_PX, edge : edge + SIDE_PX].astype(np.int32)
    # OpenCV's integers for 0.299, 0.587 and 0.114.
    return ((middle @ np.array([9798, 19235, 3735]) + (1 << 14)) >> 15).astype(np.uint8)
