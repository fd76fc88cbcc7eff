"""The small learned codec: latents say where the face went, the portrait says what it looks like.

A convolutional landmarker finds 68 points in every frame. Their movement since the portrait, in 64 principal
components, is a frame's motion; four motions in a row, cosine-transformed over time, are one latent frame: its 2 x 2
neighbouring tokens hold the four temporal frequencies, and the grid repeats them. Reading averages the copies, which
removes most of what a sampler draws that is no motion; fast frequencies are small, so their errors stay small.

The decoder warps the portrait with a flow that starts as an interpolation of the moved points and is refined on the 1/8
grid, and mixes it with painted content (mouth inside, eyelids, revealed background). Identity, hair and light stay the
portrait's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.codecs.mouth import POINTS, MouthPainter, mouth_map, pixel_places
from flowportrait.config import Frozen

GROUP = 4  # frames per latent frame
STRIDE = 8  # pixels per latent cell
PATCH = 2  # latent cells along a side of a token


@dataclass(frozen=True)
class PortraitContext:
    """A portrait as the codec sees it: `image` [b, 3, h, w] in [-1, 1], its `tokens` [b, h/8, w/8, width] and its
    `landmarks` [b, 68, 2] as (x, y) in [-1, 1]."""

    image: Tensor
    tokens: Tensor
    landmarks: Tensor

    def repeat(self, times: int) -> PortraitContext:
        """Each portrait `times` times in a row, to go with the groups of its clip."""
        return PortraitContext(
            *(repeat(part, "b ... -> (b n) ...", n=times) for part in (self.image, self.tokens, self.landmarks))
        )


class Decoded(NamedTuple):
    """Frames [..., 4, 3, h, w] of groups; the warped portrait alone, which training also holds against the truth, since
    painting, quicker to learn, would leave the flow untaught; how much of each pixel is painted [..., 4, 1, h, w]."""

    frames: Tensor
    warped: Tensor
    painted: Tensor


class GridBlock(nn.Module):
    """Residual block on a token grid [b, y, x, width]: depthwise 3x3, attention, MLP.

    With `control` > 0 a vector of that width shifts and scales what the norms give, as in DiT (arXiv:2212.09748).
    """

    def __init__(self, width: int, num_heads: int, control: int = 0):
        super().__init__()
        self.num_heads = num_heads
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU("tanh"), nn.Linear(3 * width, width))
        self.modulation = nn.Linear(control, 4 * width) if control else None

    def forward(self, x: Tensor, control: Tensor | None = None) -> Tensor:
        height = x.shape[1]
        x = x + self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = rearrange(x, "b y x c -> b (y x) c")
        attended, mixed = self.attention_norm, self.mlp_norm
        if self.modulation is not None:
            shift, scale, mlp_shift, mlp_scale = self.modulation(control)[:, None].chunk(4, -1)
            attended = lambda tokens: self.attention_norm(tokens) * (1 + scale) + shift  # noqa: E731
            mixed = lambda tokens: self.mlp_norm(tokens) * (1 + mlp_scale) + mlp_shift  # noqa: E731
        x = x + self._attend(attended(x))
        x = x + self.mlp(mixed(x))
        return rearrange(x, "b (y x) c -> b y x c", y=height)

    def _attend(self, x: Tensor) -> Tensor:
        heads = rearrange(self.query_key_value(x), "b n (p h d) -> p b h n d", p=3, h=self.num_heads)
        attended = F.scaled_dot_product_attention(*heads.unbind(0))
        return self.attention_out(rearrange(attended, "b h n d -> b n (h d)"))


class GridStack(nn.Module):
    """Blocks over a grid whose cells have a learned position each."""

    def __init__(self, width: int, depth: int, num_heads: int, grid: int, control: int = 0):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, grid, grid, width) * 0.02)
        self.blocks = nn.ModuleList(GridBlock(width, num_heads, control) for _ in range(depth))

    def forward(self, x: Tensor, control: Tensor | None = None) -> Tensor:
        x = x + self.position.to(x.dtype)
        for block in self.blocks:
            x = block(x, control)
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


class ResidualConv(nn.Module):
    """Two 3x3 convolutions beside the input [n, width, h, w]."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            change = conv(F.silu(norm(change)))
        return x + change


class Landmarker(nn.Module):
    """68 points [n, 68, 2] of frames [n, 3, h, w] in [-1, 1]: convolutions at 1/4, 1/8 and 1/16, read off together,
    then moved by what lies about each of them at 1/4, `refinements` times.

    A transformer of the same cost learned to follow landmarks several times more slowly.
    """

    READ = 16  # numbers read off every cell of 16 x 16 pixels

    def __init__(self, widths: tuple[int, int, int], grid: int, refinements: int = 0):
        super().__init__()
        fine, middle, coarse = widths
        self.body = nn.Sequential(
            nn.Conv2d(3, fine, 4, stride=4),
            ResidualConv(fine),
            nn.Conv2d(fine, middle, 3, stride=2, padding=1),
            ResidualConv(middle),
            nn.Conv2d(middle, coarse, 3, stride=2, padding=1),
            ResidualConv(coarse),
            nn.GroupNorm(8, coarse),
            nn.SiLU(),
            nn.Conv2d(coarse, self.READ, 1),
            nn.SiLU(),
        )
        self.points = nn.Linear(self.READ * (grid // 2) ** 2, 2 * POINTS)
        self.refiners = nn.ModuleList(PointRefiner(fine, 2 / grid / 2**step) for step in range(refinements))

    def forward(self, frames: Tensor) -> Tensor:
        fine = self.body[:2](frames.contiguous(memory_format=torch.channels_last))
        cells = self.body[2:](fine)
        points = self.points(cells.flatten(1)).float().unflatten(-1, (POINTS, 2))
        for refiner in self.refiners:
            points = points + refiner(fine, points)
        return points


class PointRefiner(nn.Module):
    """Steps [n, 68, 2] that bring points nearer to where they belong, from the features [n, c, y, x] about each.

    Read off whole pictures alone, points lie 0.8 px off at 128 px even on people that were trained on; what stands
    beside a point tells its place within the pixel. All points see each other: a jaw or a hidden eye has no corner.
    """

    TAPS = 3  # along a side of the square that is looked at

    def __init__(self, channels: int, reach: float, hidden: int = 128):
        """`reach` from the point to the square's edge, in half-pictures."""
        super().__init__()
        offsets = torch.linspace(-reach, reach, self.TAPS)
        self.register_buffer("taps", torch.cartesian_prod(offsets, offsets), persistent=False)
        self.look = nn.Linear(channels * self.TAPS**2, hidden)
        self.which = nn.Parameter(torch.randn(POINTS, hidden) * 0.02)
        self.place = nn.Linear(2, hidden)
        self.together = nn.Linear(POINTS, POINTS)
        self.step = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2))
        nn.init.zeros_(self.step[-1].weight)
        nn.init.zeros_(self.step[-1].bias)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        places = points.detach()[:, :, None] + self.taps
        seen = F.grid_sample(features.float(), places, padding_mode="border", align_corners=False)
        hidden = self.look(rearrange(seen, "n c k t -> n k (c t)")) + self.which + self.place(points.detach())
        hidden = hidden + self.together(F.silu(hidden).transpose(1, 2)).transpose(1, 2)
        return self.step(hidden).float()


class Motion(nn.Module):
    """Movements of the 68 points as latent numbers and back: a linear map, fitted once to the training clips."""

    HEAD = 3  # the first components: the whole head across, up and down, and turning; lips begin with the fourth
    FLOOR = 0.006  # half-pictures: components and frequencies that hardly move count less than their spread alone says

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("basis", torch.eye(size, 2 * POINTS))
        self.register_buffer("spread", torch.ones(GROUP, size))
        self.register_buffer("cosines", cosine_transform(), persistent=False)

    @torch.no_grad()
    def fit(self, moves: Float[Tensor, "n 4 k 2"]) -> float:
        """Principal components of movements of groups of four frames; gives the share of their variance kept."""
        rows = moves.flatten(2).flatten(0, 1)
        self.basis.copy_(torch.linalg.svd(rows.T @ rows)[2][: len(self.basis)])
        parts = _mix(self.cosines, moves.flatten(2) @ self.basis.T)
        self.spread.copy_((parts.square().mean(0) + self.FLOOR**2).sqrt())
        return float((rows @ self.basis.T).square().sum() / rows.square().sum())

    def parts_of(self, moves: Float[Tensor, "b l 4 k 2"]) -> Float[Tensor, "b l 4 d"]:
        """Normalised temporal frequencies of the movements of groups of four frames."""
        return _mix(self.cosines, _project(moves.flatten(-2), self.basis.T)) / self.spread

    def moves_of(self, parts: Float[Tensor, "b l 4 d"]) -> Float[Tensor, "b l 4 k 2"]:
        """Movements of the points in the four frames of each group; the inverse of `parts_of`."""
        return _project(_mix(self.cosines.T, parts * self.spread), self.basis).unflatten(-1, (POINTS, 2))

    def settle_head(self, parts: Float[Tensor, "b l 4 d"], width: float = 2.0) -> Float[Tensor, "b l 4 d"]:
        """The head's components averaged over `width` frames (a Gaussian's) to both sides; all others as they are.

        Heads are heavy, and a small generator draws each latent frame a little elsewhere: the eye sees a jump at
        every fourth frame.
        """
        moves = _mix(self.cosines.T, parts * self.spread)[..., : self.HEAD]
        time = torch.arange(-8, 9, device=parts.device)
        kernel = torch.exp(-0.5 * (time / width) ** 2)
        line = F.pad(rearrange(moves, "b l g k -> b k (l g)"), (8, 8), mode="replicate")
        smooth = F.conv1d(line, (kernel / kernel.sum()).expand(self.HEAD, 1, -1), groups=self.HEAD)
        settled = parts.clone()
        smooth = _mix(self.cosines, rearrange(smooth, "b k (l g) -> b l g k", g=GROUP))
        settled[..., : self.HEAD] = smooth / self.spread[:, : self.HEAD]
        return settled


def _project(x: Tensor, matrix: Tensor) -> Tensor:
    """A matrix product in float32 also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ matrix


def cosine_transform(length: int = GROUP) -> Float[Tensor, "k f"]:
    """Orthonormal DCT-II over `length` moments, constant first."""
    k, f = torch.arange(length)[:, None], torch.arange(length)[None]
    rows = torch.cos(math.pi / length * (f + 0.5) * k) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows


def _mix(matrix: Tensor, vectors: Float[Tensor, "*n f d"]) -> Float[Tensor, "*n k d"]:
    """`matrix` [k, f] times vectors, in float32 also where products are taken in bf16."""
    return (matrix[:, :, None] * vectors[..., None, :, :]).sum(-2)


def spread_over_grid(parts: Float[Tensor, "b l k d"], height: int, width: int) -> Float[Tensor, "b c l h w"]:
    """Four vectors of 4 c numbers each, laid out over 2 x 2 tokens and repeated over the whole latent frame."""
    rows, columns = height // (2 * PATCH), width // (2 * PATCH)
    return repeat(parts, "b l (k m) (p q c) -> b c l (y k p) (x m q)", k=2, m=2, p=PATCH, q=PATCH, y=rows, x=columns)


def gather_from_grid(latents: Float[Tensor, "b c l h w"]) -> Float[Tensor, "b l k d"]:
    """The inverse of `spread_over_grid`: the mean of all copies."""
    layout = "b c l (y k p) (x m q) -> b l (k m) (p q c)"
    return reduce(latents, layout, "mean", k=2, m=2, p=PATCH, q=PATCH)


class LandmarkFlow(nn.Module):
    """A first guess of the flow: every place moves with the landmarks near it, far places stay. The decoder refines it;
    one without it took thousands of updates to find the head."""

    def __init__(self):
        super().__init__()
        self.log_reach = nn.Parameter(torch.tensor(math.log(0.12)))  # of a landmark, in half pictures
        self.still = nn.Parameter(torch.tensor(-8.0))  # logit of not moving

    def forward(
        self, portrait: Float[Tensor, "b 68 2"], moves: Float[Tensor, "b n 68 2"], side: int
    ) -> Float[Tensor, "b n 2 side side"]:
        """Where each place of the frames lies in the portrait, less the place itself, in half pictures."""
        landmarks = portrait[:, None] + moves
        places = pixel_places(side, side, moves.device).flatten(0, 1)
        distance = (
            places.square().sum(-1)[:, None] - 2 * _dot(places, landmarks) + landmarks.square().sum(-1)[:, :, None]
        )
        logits = -distance / (2 * torch.exp(2 * self.log_reach))
        weights = torch.cat([logits, self.still.expand(*logits.shape[:-1], 1)], -1).softmax(-1)[..., :-1]
        flow = torch.stack([(weights * -moves[:, :, None, :, axis]).sum(-1) for axis in (0, 1)], 2)
        return rearrange(flow, "b n d (y x) -> b n d y x", y=side)


def _dot(places: Float[Tensor, "p 2"], points: Float[Tensor, "b n k 2"]) -> Float[Tensor, "b n p k"]:
    """Scalar products, in float32 also under autocast."""
    x, y = places.unbind(-1)
    return x[:, None] * points[:, :, None, :, 0] + y[:, None] * points[:, :, None, :, 1]


class Painter(nn.Module):
    """Decoder tokens to frames: flow at 1/2 warps the portrait, three 3x3 convolutions at 1/2 paint and mask."""

    PAINT = 12  # painted features per half-size pixel
    FLOW_SCALE = 0.25  # tokens speak in units of a quarter of half the picture

    def __init__(self, width: int, hidden: int = 24):
        super().__init__()
        self.flow = nn.Linear(width, GROUP * 4 * 4 * 2)
        self.paint = nn.Linear(width, GROUP * 4 * 4 * self.PAINT)
        self.refine = nn.Sequential(
            nn.Conv2d(12 + self.PAINT + 3, hidden, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GELU("tanh"),
            nn.Conv2d(hidden, 4 * 4, 3, padding=1),
        )
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(self.flow.bias)

    def forward(
        self, tokens: Tensor, portrait: Tensor, coarse: Float[Tensor, "n 2 y x"], mouth: Float[Tensor, "n 1 u v"]
    ) -> Decoded:
        """`tokens` [b, y, x, width] of one group each, `portrait` [b, 3, h, w], and of all frames the `coarse` flow at
        1/4 and the map of the open `mouth` at 1/2."""
        warped = self._warp(self.flow(tokens), portrait, coarse)
        paint = rearrange(self.paint(tokens), "b y x (f p q c) -> (b f) (y p) (x q) c", f=GROUP, p=4, q=4)
        half = rearrange(warped.to(paint.dtype), "n c (y p) (x q) -> n y x (p q c)", p=2, q=2)
        told = torch.cat([mouth, F.interpolate(coarse, mouth.shape[-2:]) / self.FLOW_SCALE], 1)
        refined = self.refine(
            torch.cat([half, paint, told.permute(0, 2, 3, 1).to(paint.dtype)], -1).permute(0, 3, 1, 2)
        )
        refined = rearrange(refined, "n (p q c) y x -> n c (y p) (x q)", p=2, q=2).float()
        mask, painted = torch.sigmoid(refined[:, :1]), refined[:, 1:]
        mixed = mask * warped + (1 - mask) * painted
        return Decoded(*(rearrange(x, "(b f) c h w -> b f c h w", f=GROUP) for x in (mixed, warped, 1 - mask)))

    def _warp(self, fine: Tensor, portrait: Tensor, coarse: Tensor) -> Float[Tensor, "n 3 h w"]:
        fine = rearrange(fine.float(), "b y x (f p q d) -> (b f) d (y p) (x q)", f=GROUP, p=4, q=4, d=2)
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        flow = coarse + self.FLOW_SCALE * fine
        height, width = portrait.shape[-2:]
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        pictures = repeat(portrait.float(), "b ... -> (b f) ...", f=GROUP)
        places = pixel_places(height, width, flow.device) + flow
        return F.grid_sample(pictures, places, padding_mode="border", align_corners=False)


class PortraitCodec(nn.Module):
    """16 channels at 1/8 in space and 1/4 in time; causal: a latent frame holds the motion of its own four frames,
    and its decoding sees the portrait, these four motions and the four before."""

    temporal_stride = GROUP
    spatial_stride = STRIDE

    class Config(Frozen):
        """Sizes of the codec; the defaults are those of the shipped `tiny` model."""

        channels: int = 16
        width: int = 160
        num_heads: int = 5
        portrait_depth: int = 2
        landmarker_widths: tuple[int, int, int] = (64, 96, 160)
        landmarker_refinements: int = 2
        decoder_depth: int = 4
        control: int = 256
        size_px: int = 128

        @property
        def motion_size(self) -> int:
            """Numbers in one frame's motion: as many as one latent token holds."""
            return self.channels * PATCH**2

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.grid = config.size_px // STRIDE
        self.landmarker = Landmarker(config.landmarker_widths, self.grid, config.landmarker_refinements)
        self.motion = Motion(config.motion_size)
        self.portrait_stem = FineStem(3, config.width)
        self.portrait_stack = GridStack(config.width, config.portrait_depth, config.num_heads, self.grid)
        self.control = nn.Sequential(
            nn.Linear(2 * GROUP * config.motion_size + 2 * POINTS, config.control),
            nn.SiLU(),
            nn.Linear(config.control, config.control),
            nn.LayerNorm(config.control, elementwise_affine=False),
        )
        self.placed = nn.Linear(config.control, 16 * self.grid**2)
        self.place = nn.Linear(16, config.width)
        self.landmark_flow = LandmarkFlow()
        self.tell_flow = nn.Linear(GROUP * 2 * 2 * 2, config.width)
        self.decoder_stack = GridStack(config.width, config.decoder_depth, config.num_heads, self.grid, config.control)
        self.painter = Painter(config.width)
        self.mouth_painter = MouthPainter()

    def prepare(
        self, portrait: Float[Tensor, "b 3 h w"], landmarks: Float[Tensor, "b 68 2"] | None = None
    ) -> PortraitContext:
        """Tokens and landmarks (found, unless given) of the portrait, once per clip."""
        tokens = self.portrait_stack(self.portrait_stem(portrait))
        return PortraitContext(portrait, tokens, self.landmarker(portrait) if landmarks is None else landmarks)

    def encode(self, frames: Float[Tensor, "b 3 f h w"], context: PortraitContext) -> Float[Tensor, "b c l hl wl"]:
        """Latents of 1 + 4 n frames. ValueError for another count."""
        num_frames = frames.shape[2]
        found = self.landmarker(rearrange(frames, "b c f h w -> (b f) c h w"))
        return self.encode_landmarks(rearrange(found, "(b f) k d -> b f k d", f=num_frames), context.landmarks)

    def encode_landmarks(
        self, landmarks: Float[Tensor, "b f 68 2"], portrait: Float[Tensor, "b 68 2"]
    ) -> Float[Tensor, "b c l hl wl"]:
        """Latents of 1 + 4 n frames whose landmarks are known. ValueError for another count."""
        num_frames = landmarks.shape[1]
        if num_frames % GROUP != 1:
            raise ValueError(f"codec: got {num_frames} frames; allowed are 1 + 4 n (1, 5, 9, ...)")
        moves = landmarks - portrait[:, None]
        moves = torch.cat([moves[:, :1].expand(-1, GROUP - 1, -1, -1), moves], 1)
        parts = self.motion.parts_of(rearrange(moves, "b (l g) k d -> b l g k d", g=GROUP))
        return spread_over_grid(parts, self.grid, self.grid)

    def landmarks_of(
        self, latents: Float[Tensor, "b c l hl wl"], portrait: Float[Tensor, "b 68 2"]
    ) -> Float[Tensor, "b l 4 68 2"]:
        """Where the points are in the four frames of each latent frame: sight without decoding."""
        return portrait[:, None, None] + self.motion.moves_of(gather_from_grid(latents.float()))

    def settle(self, latents: Float[Tensor, "b c l hl wl"]) -> Float[Tensor, "b c l hl wl"]:
        """Latents of a whole clip with a head that moves smoothly."""
        return spread_over_grid(self.motion.settle_head(gather_from_grid(latents.float())), self.grid, self.grid)

    def decode(
        self,
        latents: Float[Tensor, "b c l hl wl"],
        context: PortraitContext,
        previous: Float[Tensor, "b c 1 hl wl"] | None = None,
    ) -> Float[Tensor, "b 3 f h w"]:
        """Frames in [-1, 1]. With `previous`, the latent frame before these, a longer clip goes on."""
        parts = gather_from_grid(latents.float())
        before = None if previous is None else gather_from_grid(previous.float())[:, 0]
        groups = self.decode_parts(parts, context, before).frames
        frames = rearrange(groups, "b l g c h w -> b c (l g) h w").clamp(-1, 1)
        return frames if previous is not None else frames[:, :, GROUP - 1 :]

    def decode_stream(
        self, latents: Float[Tensor, "b c l hl wl"], context: PortraitContext, block: int
    ) -> Iterator[Tensor]:
        """Frames of `block` latent frames at a time; see `LatentCodec`."""
        for start in range(0, latents.shape[2], block):
            before = latents[:, :, start - 1 : start] if start else None
            yield self.decode(latents[:, :, start : start + block], context, before)

    def decode_parts(
        self, parts: Float[Tensor, "b l 4 d"], context: PortraitContext, before: Tensor | None = None
    ) -> Decoded:
        """Four frames for every latent frame; `before` [b, 4, d] precedes the first, which otherwise stands still."""
        num_groups = parts.shape[1]
        if before is None:
            before = torch.zeros_like(parts[:, 0])
            before[:, 0] = parts[:, 0, 0]
        previous = torch.cat([before[:, None], parts[:, :-1]], 1)
        repeated = context.repeat(num_groups)
        shape = repeated.landmarks.flatten(1).unflatten(0, (-1, num_groups))
        control = self.control(torch.cat([parts.flatten(-2), previous.flatten(-2), 2 * shape], -1).flatten(0, 1))
        moves = self.motion.moves_of(parts).flatten(1, 2)
        landmarks = (context.landmarks[:, None] + moves).flatten(0, 1)
        coarse = self.landmark_flow(context.landmarks, moves, self.config.size_px // 4)
        mouth = mouth_map(landmarks, self.config.size_px // 2)
        tokens = self._tokens(repeated, control, coarse)
        decoded = self.painter(self.decoder_stack(tokens, control), repeated.image, coarse.flatten(0, 1), mouth)
        frames = self.mouth_painter(decoded.frames.flatten(0, 1), context.image, context.landmarks, landmarks)
        decoded = decoded._replace(frames=frames.view_as(decoded.frames))
        return Decoded(*(rearrange(x, "(b l) g c h w -> b l g c h w", l=num_groups) for x in decoded))

    def _tokens(self, context: PortraitContext, control: Tensor, coarse: Tensor) -> Tensor:
        """What the decoder starts from: the portrait, what the motion says of each place, the first flow."""
        placed = rearrange(self.placed(control), "b (y x c) -> b y x c", y=self.grid, x=self.grid)
        flow = rearrange(coarse, "b (l g) d (y p) (x q) -> (b l) y x (g d p q)", g=GROUP, p=2, q=2)
        return context.tokens + self.place(placed) + self.tell_flow(flow / Painter.FLOW_SCALE)
