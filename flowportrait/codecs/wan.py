"""The video VAE of Wan 2.1 (arXiv:2503.20314): 16 channels at 1/8 in space and 1/4 in time, causal.

diffusers has the network; here are its units, the normalisation of latents that diffusers leaves to
the caller, and
streams: the network goes from latent frame to latent frame with a memory of the convolutions' last
inputs, so a clip in pieces gives what the whole gives, to the bit, and needs no more memory than a
piece. Encoding runs in float32 whatever the autocast (bf16 shifts what the generator learns);
decoding runs in the precision around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.errors import require
from flowportrait.tensors import Pictures

Latents = Float[Tensor, "b c l hl wl"]

PUBLISHED_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
PUBLISHED_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
GROUP = 4  # frames per latent frame after the first


class WanConfig(Frozen):
    """Sizes of the network and the spread of its latents. The defaults are those of
    Wan2.1_VAE.pth.
    """

    width: int = Field(96, gt=0)
    channels: int = Field(16, gt=0)
    multipliers: tuple[int, int, int, int] = (1, 2, 4, 4)
    latent_mean: tuple[float, ...] = PUBLISHED_MEAN
    latent_std: tuple[float, ...] = PUBLISHED_STD

    @model_validator(mode="after")
    def _one_of_each_channel(self) -> WanConfig:
        """Refuses statistics that are not one number for each latent channel."""
        if not self.channels == len(self.latent_mean) == len(self.latent_std):
            raise ValueError(
                f"latent_mean has {len(self.latent_mean)} and latent_std {len(self.latent_std)}"
                f" numbers; give one for each of the {self.channels} channels"
            )
        return self


class WanCodec(nn.Module):
    """The video VAE of Wan 2.1. Its weights have the names used by diffusers."""

    temporal_stride = GROUP
    spatial_stride = 8
    moves_portrait = False
    settle_reach = 0
    weights_from = (
        "Wan2.1_VAE.pth (507,609,880 bytes, Apache-2.0) is at"
        " huggingface.co/Wan-AI/Wan2.1-T2V-1.3B, sha256"
        " 38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981: flowportrait convert"
        " wan Wan2.1_VAE.pth -o MODEL_DIR"
    )
    Config = WanConfig

    def __init__(self, config: WanConfig):
        super().__init__()
        require("diffusers", extra="bagel")
        from diffusers.models.autoencoders.autoencoder_kl_wan import (
            AutoencoderKLWan,
            WanCausalConv3d,
        )

        self._add_network(config, AutoencoderKLWan)
        self.memories = {
            part: sum(isinstance(module, WanCausalConv3d) for module in part.modules())
            for part in (self.encoder, self.decoder)
        }
        self.mean, self.std = (
            torch.tensor(values).view(1, -1, 1, 1, 1)
            for values in (config.latent_mean, config.latent_std)
        )

    def _add_network(self, config: WanConfig, AutoencoderKLWan) -> None:
        """Makes diffusers' network of this size and keeps its halves."""
        self.channels = config.channels
        network = AutoencoderKLWan(
            base_dim=config.width,
            z_dim=config.channels,
            dim_mult=list(config.multipliers),
            num_res_blocks=2,
            temperal_downsample=[False, True, True],
        )
        self.encoder = network.encoder
        self.quant_conv = network.quant_conv
        self.decoder = network.decoder
        self.post_quant_conv = network.post_quant_conv

    def prepare(self, portrait: Pictures) -> None:
        """Nothing: this codec does not look at the portrait."""

    def encode(self, frames: Float[Tensor, "b 3 f h w"], context: Any) -> Latents:
        """Latents (the posterior's mean) of 1 + 4 n frames. ValueError for another count, or sides
        that 8 does not divide.
        """
        return torch.cat(list(self.encode_stream([frames])), dim=2)

    @torch.no_grad()
    def encode_stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The latent frames [b, c, 1, hl, wl] of a clip that comes in blocks [b, 3, f, h, w] of any
        lengths, 1 + 4 n frames in all.
        """
        memory = [None] * self.memories[self.encoder]
        waiting = None
        due = 1
        for block in blocks:
            _check_sides(block, self.spatial_stride)
            waiting = block if waiting is None else torch.cat([waiting, block], dim=2)
            while waiting.shape[2] >= due:
                now = waiting[:, :, :due]
                waiting = waiting[:, :, due:]
                due = GROUP
                yield self._encode_group(now, memory)
        if waiting is None or due == 1 or waiting.shape[2]:
            left = 0 if waiting is None else waiting.shape[2]
            raise ValueError(
                f"codec: got {left} frames beyond the last group; give 1 + 4 n frames (1, 5, ...)"
            )

    def _encode_group(self, frames: Tensor, memory: list[Any]) -> Float[Tensor, "b c 1 hl wl"]:
        """One frame at the start, later four."""
        device = self.quant_conv.weight.device
        with torch.autocast(device.type, enabled=False):
            found = self.encoder(
                frames.to(device, torch.float32),
                feat_cache=memory,
                feat_idx=[0],
            )
            mean = self.quant_conv(found).chunk(2, dim=1)[0]
        return (mean - self.mean.to(device)) / self.std.to(device)

    def settle(self, latents: Latents) -> Latents:
        """The latents as they are: nothing is smoothed."""
        return latents

    def decode(self, latents: Latents, context: Any) -> Float[Tensor, "b 3 f h w"]:
        """Frames in [-1, 1]: one of the first latent frame, four of each other."""
        return torch.cat(list(self.decode_stream(latents.split(1, dim=2), context)), dim=2)

    def decode_stream(self, blocks: Iterable[Tensor], context: Any) -> Iterator[Tensor]:
        """The frames [b, 3, f, h, w] of a clip that comes in blocks of latent frames, block by
        block.
        """
        memory = [None] * self.memories[self.decoder]
        opens = True
        for block in blocks:
            groups = []
            for latents in block.split(1, dim=2):
                groups.append(self._decode_group(latents, memory, opens))
                opens = False
            yield torch.cat(groups, dim=2)

    def _decode_group(
        self, latents: Float[Tensor, "b c 1 hl wl"], memory: list[Any], opens: bool
    ) -> Tensor:
        """Frames in [-1, 1] of one latent frame; `memory` is what the convolutions keep of those
        before it.
        """
        device = self.post_quant_conv.weight.device
        plain = latents.to(device).float() * self.std.to(device) + self.mean.to(device)
        frames = self.decoder(
            self.post_quant_conv(plain), feat_cache=memory, feat_idx=[0], first_chunk=opens
        )
        return frames.float().clamp(-1, 1)


def _check_sides(frames: Tensor, stride: int) -> None:
    """Raises ValueError for frames whose sides the latent grid does not divide."""
    height, width = frames.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"codec: got frames of {height} x {width} px; sides must be multiples of {stride}"
        )
