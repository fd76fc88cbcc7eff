"""The small learned codec: latents carry what moves, the portrait carries what it looks like.

A group of four frames is encoded beside the portrait and decoded by warping the portrait with a flow field that the
latents predict, then mixing it with painted content (mouth inside, eyelids, revealed background).
Most work happens on the 1/8 grid, where it is matrix products; only three small convolutions run at 1/2.

Latent frames live in a `Subspace` of the grid: what a sampler draws outside of it means nothing and is not decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.config import Frozen

GROUP = 4  # frames per latent frame
STRIDE = 8  # pixels per latent cell
OPENINGS = torch.tensor([[0.098, 0.101], [0.062, 0.029]])  # mean and spread of lip and lid opening in rendered clips


@dataclass(frozen=True)
class PortraitContext:
    """A portrait as the codec sees it: `image` [b, 3, h, w] in [-1, 1] and its `tokens` [b, h/8, w/8, width]."""

    image: Tensor
    tokens: Tensor

    def repeat(self, times: int) -> PortraitContext:
        """Each portrait `times` times in a row, to go with the groups of its clip."""
        return PortraitContext(
            repeat(self.image, "b ... -> (b n) ...", n=times),
            repeat(self.tokens, "b ... -> (b n) ...", n=times),
        )


class Decoded(NamedTuple):
    """Frames [..., 4, 3, h, w] of groups; the warped portrait alone, which training also holds against the truth, since
    painting, quicker to learn, would leave the flow untaught; how much of each pixel is painted [..., 4, 1, h, w]."""

    frames: Tensor
    warped: Tensor
    painted: Tensor


class GridBlock(nn.Module):
    """Residual block on a token grid [b, y, x, width]: depthwise 3x3, attention, MLP."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU("tanh"), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[1]
        x = x + self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = rearrange(x, "b y x c -> b (y x) c")
        heads = rearrange(
            self.query_key_value(self.attention_norm(x)), "b n (p h d) -> p b h n d", p=3, h=self.num_heads
        )
        attended = F.scaled_dot_product_attention(*heads.unbind(0))
        x = x + self.attention_out(rearrange(attended, "b h n d -> b n (h d)"))
        x = x + self.mlp(self.mlp_norm(x))
        return rearrange(x, "b (y x) c -> b y x c", y=height)


class GridStack(nn.Module):
    """Blocks over a grid whose cells get a learned position (bilinearly resized for other picture sizes)."""

    def __init__(self, width: int, depth: int, num_heads: int, grid: int = 16):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, width, grid, grid) * 0.02)
        self.blocks = nn.ModuleList(GridBlock(width, num_heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        position = self.position
        if position.shape[-2:] != x.shape[1:3]:
            position = F.interpolate(position, x.shape[1:3], mode="bilinear", align_corners=False)
        x = x + position.permute(0, 2, 3, 1).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return x


class FineStem(nn.Module):
    """Pictures [b, c, h, w] to tokens [b, h/8, w/8, width] by way of a 1/4 grid, where small motions still show."""

    def __init__(self, in_channels: int, width: int, fine_width: int = 64):
        super().__init__()
        self.patch = nn.Conv2d(in_channels, fine_width, 4, stride=4)
        self.depthwise = nn.Conv2d(fine_width, fine_width, 5, padding=2, groups=fine_width)
        self.mix = nn.Sequential(
            nn.Linear(fine_width, 2 * fine_width), nn.GELU("tanh"), nn.Linear(2 * fine_width, fine_width)
        )
        self.merge = nn.Linear(4 * fine_width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x.contiguous(memory_format=torch.channels_last))
        x = (x + self.depthwise(x)).permute(0, 2, 3, 1)
        x = x + self.mix(x)
        return self.merge(rearrange(x, "b (y p) (x q) c -> b y x (p q c)", p=2, q=2))


class Subspace(nn.Module):
    """The span of a few orthonormal patterns, each a whole latent frame [c, h, w]: principal components of what the
    encoder made of the training clips before it was confined to them, those of the mouth's and the eyes' cells first.

    A small generator errs in every direction; of c h w = 4096 directions only these matter, so that averaging over the
    grid removes most of its errors. Latents here have zero mean and on average unit variance.
    """

    # (share of the patterns; rows and columns as shares of the grid): a framed face has its mouth and eyes here. Over
    # the whole grid alone lips, which are small, came out last and were lost.
    REGIONS = ((0.375, (0.56, 0.88), (0.25, 0.75)), (0.125, (0.31, 0.56), (0.19, 0.81)))

    def __init__(self, num_patterns: int, size: int):
        super().__init__()
        self.register_buffer("patterns", torch.eye(num_patterns, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, latents: Float[Tensor, "n c h w"]) -> float:
        """Find the patterns in `latents`; gives the share of their variance that is kept."""
        rows = latents.flatten(1)
        self.mean.copy_(rows.mean(0))
        rows = rows - self.mean
        self.patterns.zero_()
        total, found = len(self.patterns), 0
        for share, *region in (*self.REGIONS, (1.0, (0, 1), (0, 1))):
            count = min(round(share * total), total - found)
            left = rows - (rows @ self.patterns.T) @ self.patterns
            inside = (left.view_as(latents) * _inside(latents.shape, *region)).flatten(1)
            patterns = torch.pca_lowrank(inside, q=min(count + 32, *inside.shape), center=False, niter=4)[2]
            self.patterns[found : found + count] = patterns[:, :count].T
            self.patterns.copy_(torch.linalg.qr(self.patterns.T).Q.T)
            self.patterns[found + count :] = 0
            found += count
        kept = (rows @ self.patterns.T).square().sum(1).mean()
        self.scale.copy_((rows.shape[1] / kept).sqrt())
        return float(kept / rows.square().sum(1).mean())

    def coefficients(self, latents: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n k"]:
        """How much of each pattern latents hold. float32."""
        with torch.autocast(latents.device.type, enabled=False):
            return latents.float().flatten(-3) @ self.patterns.T

    def enter(self, x: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
        """What the encoder says, as latents."""
        return self._combine(self.coefficients(x) - self.patterns @ self.mean, x.shape) * self.scale

    def leave(self, latents: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
        """What latents (with anything beside the subspace) say to the decoder."""
        return self._combine(self.coefficients(latents) / self.scale, latents.shape) + self.mean.view(
            latents.shape[-3:]
        )

    def _combine(self, coefficients: Float[Tensor, "*n k"], shape: torch.Size) -> Tensor:
        with torch.autocast(coefficients.device.type, enabled=False):
            return (coefficients @ self.patterns).view(shape)


def _inside(shape: torch.Size, rows: tuple[float, float], columns: tuple[float, float]) -> Float[Tensor, "h w"]:
    """1 in a region of the latent grid, 0 elsewhere."""
    mask = torch.zeros(shape[-2:])
    (top, bottom), (left, right) = (
        [round(share * size) for share in part] for part, size in zip((rows, columns), shape[-2:], strict=True)
    )
    mask[top:bottom, left:right] = 1
    return mask


class Painter(nn.Module):
    """Decoder tokens to frames: flow at 1/4 warps the portrait, three 3x3 convolutions at 1/2 paint and mask."""

    PAINT = 12  # painted features per half-size pixel
    FLOW_SCALE = 0.25  # tokens speak in units of a quarter of half the picture

    def __init__(self, width: int, hidden: int = 24):
        super().__init__()
        self.flow = nn.Linear(width, GROUP * 2 * 2 * 2)
        self.paint = nn.Linear(width, GROUP * 4 * 4 * self.PAINT)
        self.refine = nn.Sequential(
            nn.Conv2d(12 + self.PAINT, hidden, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(hidden, 4 * 4, 3, padding=1),
        )
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(self.flow.bias)

    def forward(self, tokens: Tensor, portrait: Tensor) -> Decoded:
        """`tokens` [b, y, x, width] of one group each, `portrait` [b, 3, h, w]."""
        warped = self._warp(self.flow(tokens), portrait)
        paint = rearrange(self.paint(tokens), "b y x (f p q c) -> (b f) (y p) (x q) c", f=GROUP, p=4, q=4)
        half = rearrange(warped.to(paint.dtype), "n c (y p) (x q) -> n y x (p q c)", p=2, q=2)
        refined = self.refine(torch.cat([half, paint], -1).permute(0, 3, 1, 2))
        refined = rearrange(refined, "n (p q c) y x -> n c (y p) (x q)", p=2, q=2).float()
        mask, painted = torch.sigmoid(refined[:, :1]), refined[:, 1:]
        mixed = mask * warped + (1 - mask) * painted
        return Decoded(*(rearrange(x, "(b f) c h w -> b f c h w", f=GROUP) for x in (mixed, warped, 1 - mask)))

    def _warp(self, flow: Tensor, portrait: Tensor) -> Float[Tensor, "n 3 h w"]:
        flow = rearrange(flow.float(), "b y x (f p q d) -> (b f) d (y p) (x q)", f=GROUP, p=2, q=2, d=2)
        height, width = portrait.shape[-2:]
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        rows = (torch.arange(height, device=flow.device) + 0.5) * 2 / height - 1
        columns = (torch.arange(width, device=flow.device) + 0.5) * 2 / width - 1
        identity = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        pictures = repeat(portrait.float(), "b ... -> (b f) ...", f=GROUP)
        return F.grid_sample(pictures, identity + self.FLOW_SCALE * flow, padding_mode="border", align_corners=False)


class PortraitCodec(nn.Module):
    """16 channels at 1/8 in space and 1/4 in time; group-wise causal: a latent frame sees its own four frames and the
    portrait, its decoding also the latent frame before it. Latents are normalised by running channel statistics."""

    temporal_stride = GROUP
    spatial_stride = STRIDE

    class Config(Frozen):
        """Sizes of the codec; the defaults are those of the shipped `tiny` model."""

        channels: int = 16
        width: int = 160
        num_heads: int = 5
        portrait_depth: int = 2
        encoder_depth: int = 2
        decoder_depth: int = 4
        num_patterns: int = 0  # dimensions of the subspace of latent frames; 0: no subspace, all of them
        size_px: int = 128

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.channels = config.channels
        grid = config.size_px // STRIDE
        self.portrait_stem = FineStem(3, config.width)
        self.portrait_stack = GridStack(config.width, config.portrait_depth, config.num_heads, grid)
        self.encoder_stem = FineStem(3 * (GROUP + 1), config.width)
        self.encoder_stack = GridStack(config.width, config.encoder_depth, config.num_heads, grid)
        self.to_latent = nn.Linear(config.width, config.channels)
        self.normalise = nn.BatchNorm2d(config.channels, affine=False, momentum=0.02)
        size = config.channels * grid**2
        self.subspace = Subspace(config.num_patterns, size) if config.num_patterns else None
        self.openings = nn.Linear(config.num_patterns or size, GROUP * 2)  # of lips and lids, see `read_openings`
        self.no_previous = nn.Parameter(torch.zeros(config.channels))
        self.from_latent = nn.Linear(2 * config.channels, config.width)
        self.decoder_stack = GridStack(config.width, config.decoder_depth, config.num_heads, grid)
        self.painter = Painter(config.width)

    def prepare(self, portrait: Float[Tensor, "b 3 h w"]) -> PortraitContext:
        """Portrait tokens, once per clip."""
        return PortraitContext(portrait, self.portrait_stack(self.portrait_stem(portrait)))

    def encode(self, frames: Float[Tensor, "b 3 f h w"], context: PortraitContext) -> Float[Tensor, "b c l hl wl"]:
        """Latents of 1 + 4 n frames; ValueError for another count."""
        num_frames = frames.shape[2]
        if num_frames % GROUP != 1:
            raise ValueError(f"codec: got {num_frames} frames; allowed are 1 + 4 n (1, 5, 9, ...)")
        first = repeat(frames[:, :, :1], "b c 1 h w -> b c g h w", g=GROUP)
        groups = rearrange(torch.cat([first, frames[:, :, 1:]], 2), "b c (l g) h w -> b l g c h w", g=GROUP)
        return rearrange(self.encode_groups(groups, context), "b l c h w -> b c l h w")

    def encode_groups(
        self, groups: Float[Tensor, "b l 4 3 h w"], context: PortraitContext, confined: bool = True
    ) -> Float[Tensor, "b l c hl wl"]:
        """Latents of groups of four frames, each group for itself; not `confined`: before they enter the subspace."""
        num_groups = groups.shape[1]
        portrait = repeat(context.image, "b c h w -> (b l) c h w", l=num_groups)
        pictures = torch.cat([rearrange(groups, "b l g c h w -> (b l) (g c) h w"), portrait], 1)
        tokens = self.encoder_stack(self.encoder_stem(pictures))
        latents = self.normalise(self.to_latent(tokens).permute(0, 3, 1, 2).float())
        if self.subspace is not None and confined:
            latents = self.subspace.enter(latents)
        return rearrange(latents, "(b l) c h w -> b l c h w", l=num_groups)

    def read_openings(self, latents: Float[Tensor, "b l c hl wl"]) -> Float[Tensor, "b l 4 2"]:
        """Lip and lid opening (see `data/landmarks.py`) of every frame as a linear map of latents: sight without
        decoding."""
        mean, spread = OPENINGS.to(latents)
        return self.openings(self.coefficients(latents)).unflatten(-1, (GROUP, 2)) * spread + mean

    def coefficients(self, latents: Float[Tensor, "*n c hl wl"]) -> Float[Tensor, "*n k"]:
        """The numbers that count in a latent frame: those of the subspace, or all. float32."""
        return latents.float().flatten(-3) if self.subspace is None else self.subspace.coefficients(latents)

    def decode(
        self,
        latents: Float[Tensor, "b c l hl wl"],
        context: PortraitContext,
        previous: Float[Tensor, "b c 1 hl wl"] | None = None,
    ) -> Float[Tensor, "b 3 f h w"]:
        """Frames in [-1, 1]; see `LatentCodec.decode`."""
        latents = rearrange(latents, "b c l h w -> b l c h w")
        before = None if previous is None else rearrange(previous, "b c 1 h w -> b c h w")
        groups = self.decode_groups(latents, context, before).frames
        frames = rearrange(groups, "b l g c h w -> b c (l g) h w").clamp(-1, 1)
        return frames if previous is not None else frames[:, :, GROUP - 1 :]

    def decode_groups(
        self, latents: Float[Tensor, "b l c hl wl"], context: PortraitContext, before: Tensor | None = None
    ) -> Decoded:
        """Four frames for every latent frame; `before` [b, c, hl, wl] precedes the first."""
        batch, num_groups, _, height, width = latents.shape
        if self.subspace is not None:
            latents = self.subspace.leave(latents)
            before = None if before is None else self.subspace.leave(before)
        if before is None:
            before = repeat(self.no_previous, "c -> b c h w", b=batch, h=height, w=width)
        previous = torch.cat([before[:, None].to(latents.dtype), latents[:, :-1]], 1)
        tokens = self.from_latent(rearrange(torch.cat([latents, previous], 2), "b l c h w -> (b l) h w c"))
        repeated = context.repeat(num_groups)
        tokens = self.decoder_stack(tokens + repeated.tokens)
        decoded = self.painter(tokens, repeated.image)
        return Decoded(*(rearrange(x, "(b l) g c h w -> b l g c h w", l=num_groups) for x in decoded))
