"""Log-mel spectrogram and a small convolutional encoder: speech features without any download."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Sound, Tokens

HOP = 160  # 10 ms
FFT = 512
NUM_MELS = 80
MEL_HZ = SPEECH_HZ / HOP
FRAME_HZ = 24


def mel_filters() -> Float[Tensor, "80 257"]:
    """Triangular filters evenly spaced on the (HTK) mel scale from 50 Hz to 8 kHz."""
    mel = lambda hz: 2595 * math.log10(1 + hz / 700)  # noqa: E731
    points = 700 * (10 ** (torch.linspace(mel(50), mel(8000), NUM_MELS + 2) / 2595) - 1)
    bins = torch.linspace(0, SPEECH_HZ / 2, FFT // 2 + 1)
    left = points[:-2, None]
    centre = points[1:-1, None]
    right = points[2:, None]
    return torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(
        min=0
    )


class DilatedConv(nn.Module):
    """Dilated convolution over time with a residual, on [b, c, n]."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.near = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.near(self.norm(x)), approximate="tanh"))


class MelEncoder(nn.Module):
    """Dilated convolutions over 80 log-mel bands at 100 Hz, resampled to 24 vectors per second.

    Levels are relative to the loud parts of the recording, so that gain does not matter.
    """

    rate_hz = FRAME_HZ

    class Config(Frozen):
        """Sizes of the encoder."""

        width: int = 192
        dilations: tuple[int, ...] = (1, 2, 4, 8)
        step: int = Field(1, ge=1, description="mel frames per hidden vector, before resampling")

    def __init__(self, config: Config):
        super().__init__()
        self.dim = config.width
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.vector_hz = MEL_HZ / config.step
        self.stem = nn.Conv1d(
            NUM_MELS,
            config.width,
            5,
            config.step,
            padding=2,
        )
        self.blocks = nn.Sequential(*(DilatedConv(config.width, d) for d in config.dilations))
        self.gather = nn.Conv1d(config.width, config.width, 5, padding=2)
        self.out_norm = nn.LayerNorm(config.width)

    def forward(self, audio: Sound, num_frames: int) -> Tokens:
        """One vector per video frame; sound missing at the end counts as silence."""
        needed = math.ceil(num_frames / FRAME_HZ * SPEECH_HZ)
        audio = F.pad(audio, (0, max(0, needed - audio.shape[-1])))
        return self.encode(self.mels(audio), num_frames)

    @torch.no_grad()
    def mels(self, audio: Sound) -> Float[Tensor, "b 80 m"]:
        """Levelled log-mels; vector j is centred at j / 100 s. About 0 in loud speech, at least -3
        in silence.
        """
        with torch.autocast(audio.device.type, enabled=False):
            window = torch.hann_window(400, device=audio.device)
            spectrum = torch.stft(
                audio.float(),
                FFT,
                HOP,
                400,
                window,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            logs = (self.filters @ spectrum.abs().square()).clamp(min=1e-10).log()
            loud = logs.mean(1).quantile(0.9, dim=1)[:, None, None].clamp(min=-12)
            return ((logs - loud) / 3).clamp(-3, 3)

    def encode(self, mels: Float[Tensor, "b 80 m"], num_frames: int) -> Tokens:
        """The learned part."""
        x = self.blocks(F.gelu(self.stem(mels), approximate="tanh"))
        moments = torch.arange(num_frames, device=x.device) * (self.vector_hz / FRAME_HZ)
        below = moments.floor().long().clamp(max=x.shape[-1] - 1)
        above = (below + 1).clamp(max=x.shape[-1] - 1)
        x = torch.lerp(x[..., below], x[..., above], (moments - below).to(x.dtype))
        return self.out_norm(rearrange(x + self.gather(x), "b c n -> b n c").float())
