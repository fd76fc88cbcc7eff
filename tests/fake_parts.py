"""Codec and encoders with the real ones' behaviour and none of their cost."""

import torch
from einops import repeat
from torch import nn

from flowportrait.config import Frozen

STRIDE_PX = 8


class FakeCodec(nn.Module):
    """Shows each latent frame's mean of channel 0 as the brightness of its frames, above the
    portrait's red.

    The state across latent frames that a real codec has is there too: a frame also shows half of
    the latent frame before it.
    """

    channels, temporal_stride, spatial_stride = 4, 4, STRIDE_PX
    moves_portrait, settle_reach = False, 0

    class Config(Frozen):
        gain: float = 0.1

    def __init__(self, config: Config):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(config.gain))

    def prepare(self, portrait):
        return portrait

    def encode(self, frames, context):
        groups = torch.cat([frames[:, :, :1].repeat_interleave(4, 2), frames[:, :, 1:]], 2)
        means = torch.nn.functional.avg_pool3d(groups, (4, STRIDE_PX, STRIDE_PX))
        return torch.cat([means, means.mean(1, keepdim=True)], dim=1)

    def settle(self, latents):
        return latents

    def decode(self, latents, context, previous=None):
        level = latents[:, :1].mean(dim=(3, 4), keepdim=True)
        before = (
            torch.zeros_like(level[:, :, :1])
            if previous is None
            else previous[:, :1].mean((3, 4), True)
        )
        shown = level + 0.5 * torch.cat([before, level[:, :, :-1]], dim=2)
        frames = repeat(
            shown, "b 1 l 1 1 -> b c (l f) h w", f=4, c=3, h=context.shape[2], w=context.shape[3]
        )
        frames = self.gain * frames + 0.2 * context[:, :, None]
        return frames if previous is not None else frames[:, :, 3:]

    def decode_stream(self, blocks, context):
        before = None
        for latents in blocks:
            yield self.decode(latents, context, before)
            before = latents[:, :, -1:]


class FakeAudioEncoder(nn.Module):
    """The mean loudness of each video frame, in two features."""

    dim, rate_hz = 2, 24

    class Config(Frozen):
        pass

    def __init__(self, config: Config):
        super().__init__()
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, audio, num_frames):
        self.calls += 1
        needed = torch.nn.functional.pad(audio, (0, max(0, num_frames * 667 - audio.shape[1])))
        loudness = needed[:, : num_frames * 667].unflatten(1, (num_frames, 667)).abs().mean(-1)
        return loudness[..., None] * self.scale


class FakeImageEncoder(nn.Module):
    """The mean colour of each quarter of the portrait; it has no weights."""

    dim, grid = 3, (2, 2)

    class Config(Frozen):
        pass

    def __init__(self, config: Config):
        super().__init__()

    def forward(self, portrait, context):
        return (
            torch.nn.functional.adaptive_avg_pool2d(portrait, self.grid).flatten(2).transpose(1, 2)
        )
