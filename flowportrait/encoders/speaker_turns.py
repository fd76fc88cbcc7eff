"""Who speaks when, and whether two do at once: pyannote's segmentation 3.0 (Plaquet and Bredin
2023, arXiv:2310.13025).

The network under the published checkpoint's names: learnt band-pass filters (SincNet,
arXiv:1808.00158), convolutions, LSTMs in both directions. Of every 17 ms it says which of up to
three speakers of the window are heard, at most two at
once: the classes are nobody, each of three, each pair of them.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.errors import CheckpointError
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Sound

WINDOW = 160_000  # samples that it was trained on
STEP, FIELD = 270, 991  # samples from one answer to the next, and those an answer looks at
NUM_CLASSES = 7
FIRST_PAIR = 4
_FILTERS = 80
_LENGTH = 251
_LEAST_HZ = 50  # of a filter's lower edge and of its width


class _Bands(nn.Module):
    """Forty learnt bands, each as an even and an odd filter."""

    def __init__(self):
        super().__init__()
        half = _LENGTH // 2
        self.low_hz_ = nn.Parameter(torch.zeros(_FILTERS // 2, 1))
        self.band_hz_ = nn.Parameter(torch.zeros(_FILTERS // 2, 1))
        self.register_buffer("window_", torch.zeros(half))
        self.register_buffer("n_", torch.zeros(1, half))

    def forward(self, x: Float[Tensor, "b 1 s"]) -> Float[Tensor, "b 80 f"]:
        low = _LEAST_HZ + self.low_hz_.abs()
        high = (low + _LEAST_HZ + self.band_hz_.abs()).clamp(_LEAST_HZ, SPEECH_HZ / 2)
        width = high - low
        # `n_` counts samples to the left of the middle, times 2 pi over the rate.
        rising = low * self.n_
        falling = high * self.n_
        half = self.n_ / 2
        even = (falling.sin() - rising.sin()) / half * self.window_
        odd = (rising.cos() - falling.cos()) / half * self.window_
        evens = torch.cat([even, 2 * width, even.flip(1)], 1)
        odds = torch.cat([odd, torch.zeros_like(width), -odd.flip(1)], 1)
        filters = torch.cat([evens / (2 * width), odds / (2 * width)])
        return F.conv1d(x, filters[:, None], stride=10)


class SpeakerTurns(nn.Module):
    """Sound to the logits of seven classes; 1.5 million parameters."""

    def __init__(self):
        super().__init__()
        first = nn.ModuleDict({"filterbank": _Bands()})
        self.sincnet = nn.ModuleDict(
            {
                "wav_norm1d": nn.InstanceNorm1d(1, affine=True),
                "conv1d": nn.ModuleList([first, nn.Conv1d(_FILTERS, 60, 5), nn.Conv1d(60, 60, 5)]),
                "norm1d": nn.ModuleList(
                    nn.InstanceNorm1d(width, affine=True) for width in (_FILTERS, 60, 60)
                ),
            }
        )
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, NUM_CLASSES)

    def forward(self, sound: Sound) -> Float[Tensor, "b f 7"]:
        """Speaker activity of sound in [-1, 1] at 16 kHz, at least `FIELD` samples; answer i is
        about those from STEP * i on.
        """
        x = self.sincnet["wav_norm1d"](sound[:, None])
        for index, (conv, norm) in enumerate(
            zip(self.sincnet["conv1d"], self.sincnet["norm1d"], strict=True)
        ):
            x = conv(x) if index else conv["filterbank"](x).abs()
            x = F.leaky_relu(norm(F.max_pool1d(x, 3)))
        x = self.lstm(x.transpose(1, 2))[0]
        for layer in self.linear:
            x = F.leaky_relu(layer(x))
        return self.classifier(x)


@lru_cache(maxsize=1)
def load_speaker_turns(path: Path) -> SpeakerTurns:
    """The network with published weights. Raises CheckpointError when the file holds another."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = SpeakerTurns()
    try:
        network.load_state_dict(state["state_dict"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not the weights of segmentation 3.0; {str(error).splitlines()[0]}"
        ) from error
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def heard_speakers(network: SpeakerTurns, sound: Float[Tensor, " s"]) -> Float[Tensor, "f 2"]:
    """Probability that somebody speaks, and that two do, every `STEP` samples; mean over windows
    that overlap.
    """
    count = max(0, 1 + (len(sound) - FIELD) // STEP)
    sums = torch.zeros(count, 2)
    times = torch.zeros(count, 1)
    hop = WINDOW // 2 // STEP  # answers
    last = max(0, math.ceil((len(sound) - WINDOW) / STEP))
    for first in sorted({*range(0, last, hop), last}) if count else ():
        likely = network(sound[None, first * STEP : first * STEP + WINDOW])[0].softmax(-1)
        found = torch.stack([1 - likely[:, 0], likely[:, FIRST_PAIR:].sum(-1)], 1)
        sums[first : first + len(found)] += found[: count - first]
        times[first : first + len(found)] += 1
    return sums / times.clamp(min=1)
