"""Whisper's encoder from a model in CTranslate2's format: every layer of it, in torch.

CTranslate2 itself gives the last layer only; what lips do is best read from a middle one.
"""

import math
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowportrait.errors import DataError
from flowportrait.precision import matmul_precision

NUM_MELS, FFT, HOP, SAMPLE_RATE = 80, 400, 160, 16_000
HEAD_SIZE = 64
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name of a `model.bin` of version 6: little endian; a name is its length (uint16)
    and its bytes, an array its rank (uint8), sizes (uint32), type (uint8), bytes (uint32) and data.

    Raises DataError for another kind of file.
    """
    data, at = path.read_bytes(), 0

    def take(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(f"<{kind}")
        return value

    def name() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at].rstrip(b"\0").decode()

    if take("I") != 6 or name() != "WhisperSpec":
        raise DataError(f"{path}: not a Whisper model of CTranslate2 (binary version 6)")
    take("I")
    arrays = {}
    for _ in range(take("I")):
        key, rank = name(), take("B")
        sizes = [take("I") for _ in range(rank)]
        kind, size = np.dtype(_TYPES[take("B")]), take("I")
        arrays[key] = np.frombuffer(data, kind, size // kind.itemsize, at).reshape(sizes)
        at += size
    return arrays


def mel_filters() -> Tensor:
    """Whisper's 80 triangles over 0 to 8 kHz on Slaney's scale (linear below 1 kHz, logarithmic
    above), each of unit area.
    """
    linear, step = 1000 / (200 / 3), math.log(6.4) / 27
    top = linear + math.log(8) / step
    places = np.linspace(0, top, NUM_MELS + 2)
    above = 1000 * np.exp(step * (places - linear))
    hz = np.where(places < linear, places * 200 / 3, above)
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)
    left, centre, right = hz[:-2, None], hz[1:-1, None], hz[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    shapes = np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)
    return torch.from_numpy(shapes).float()


class WhisperLayers:
    """The first `num_layers` of the encoder; `hear` gives the last of them."""

    def __init__(self, path: Path, num_layers: int):
        weights = read_weights(path)
        self.num_layers, self.filters = num_layers, mel_filters()
        self.weights = {
            key.removeprefix("encoder/"): torch.from_numpy(value.astype(np.float32))
            for key, value in weights.items()
            if key.startswith("encoder/") and value.ndim
        }
        if f"layer_{num_layers - 1}/ffn/linear_1/weight" not in self.weights:
            raise DataError(f"{path}: has no {num_layers} layers; give a smaller --layers")

    @torch.inference_mode()
    def hear(self, audio: Tensor) -> Tensor:
        """Vectors [n, width] at 50 Hz of mono sound [s] at 16 kHz of at most 30 s; n is s / 320."""
        w = self.weights
        with matmul_precision("cpu"):
            x = F.gelu(self._convolved(self._mels(audio)[None], "conv1", 1))
            x = F.gelu(self._convolved(x, "conv2", 2)).transpose(1, 2).float()
            x = x + w["position_encodings/encodings"][: x.shape[1]]
            for layer in range(self.num_layers):
                x = x + self._attended(x, f"layer_{layer}/self_attention/")
                x = x + self._thought(x, f"layer_{layer}/ffn/")
        return x[0]

    def _mels(self, audio: Tensor) -> Tensor:
        window = torch.hann_window(FFT)
        spectrum = torch.stft(audio, FFT, HOP, FFT, window, return_complex=True)[:, :-1]
        logs = (self.filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
        return (torch.maximum(logs, logs.max() - 8) + 4) / 4

    def _convolved(self, x: Tensor, name: str, stride: int) -> Tensor:
        w = self.weights
        return F.conv1d(x, w[f"{name}/weight"], w[f"{name}/bias"], stride, padding=1)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def _normed(self, x: Tensor, block: str) -> Tensor:
        gamma, beta = (self.weights[f"{block}layer_norm/{name}"] for name in ("gamma", "beta"))
        return F.layer_norm(x, gamma.shape, gamma, beta)

    def _attended(self, x: Tensor, block: str) -> Tensor:
        joint = self._linear(self._normed(x, block), f"{block}linear_0")
        parts = joint.unflatten(-1, (3, -1, HEAD_SIZE)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return self._linear(heard, f"{block}linear_1").float()

    def _thought(self, x: Tensor, block: str) -> Tensor:
        inner = F.gelu(self._linear(self._normed(x, block), f"{block}linear_0"))
        return self._linear(inner, f"{block}linear_1").float()
