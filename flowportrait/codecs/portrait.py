"""The small learned codec: latents say where the face went, the portrait says what it looks like.

A convolutional landmarker finds 68 points in every frame. Their movement since the portrait, in 64
principal components, is a frame's motion; four motions in a row, cosine-transformed over time, are
one latent frame: its 2 x 2 neighbouring tokens hold the four temporal frequencies, and the grid
repeats them. Reading averages the copies, which removes most of what a sampler draws that is no
motion; fast frequencies are small, so their errors stay small.

The decoder warps the portrait with a flow that starts as an interpolation of the moved points and
is refined on the 1/8 grid, and mixes it with painted content (mouth inside, eyelids, revealed
background). Identity, hair and light stay the portrait's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.codecs import mouth, mouth_net
from flowportrait.codecs.ahead import computed_ahead
from flowportrait.codecs.canvas import Canvas, Painted
from flowportrait.codecs.eyes import eye_motions, eyes_of
from flowportrait.codecs.finder import mesh_sight
from flowportrait.codecs.grid import FineStem, GridStack
from flowportrait.codecs.liveliness import (
    AS_IT_IS,
    AS_SAMPLED,
    EyeEvents,
    LipFactors,
    Strengths,
    at_strengths,
    lip_gap,
    with_closed_lips,
    with_events,
    with_larger_lips,
)
from flowportrait.codecs.motion import (
    GROUP,
    PATCH,
    LandmarkFlow,
    MotionBasis,
    gather_from_grid,
    in_groups,
    spread_over_grid,
    standing_still,
)
from flowportrait.codecs.mouth import MouthFrame, MouthPainter, mouth_map
from flowportrait.codecs.mouth_net import MouthNet
from flowportrait.codecs.painter import Drafts, Painter, smoothed
from flowportrait.config import Frozen
from flowportrait.faces.landmarker import Landmarker
from flowportrait.faces.landmarks import POINTS

STRIDE = 8  # pixels per latent cell
SHOWN = 4  # frames that are put on a canvas together


@dataclass(frozen=True)
class PortraitContext:
    """A portrait as the codec sees it: `image` [b, 3, h, w] in [-1, 1], its `tokens` [b, h/8, w/8,
    width] and its `landmarks` [b, 68, 2] as (x, y) in [-1, 1]; and the `canvas` that a single
    portrait is shown on.
    """

    image: Tensor
    tokens: Tensor
    landmarks: Tensor
    canvas: Canvas | None = None

    def canvases(self) -> list[Canvas]:
        """Canvases of the clips: `canvas` for the one portrait, or the portraits themselves."""
        if self.canvas is not None:
            return [self.canvas]
        return [
            Canvas(image[None], eyes=eyes_of(own))
            for image, own in zip(self.image, self.landmarks, strict=True)
        ]


class Decoded(NamedTuple):
    """Frames [..., 4, 3, h, w] of groups; the warped portrait alone, which training also holds
    against the truth, since painting, quicker to learn, would leave the flow untaught; how much of
    each pixel is painted [..., 4, 1, h, w].
    """

    frames: Tensor
    warped: Tensor
    painted: Tensor


class PortraitCodec(nn.Module):
    """A warped portrait: 16 channels at 1/8 of the size and 1/4 of the frame rate, causal. Decoding
    a latent frame takes the portrait, the motion of its four frames and that of the four before.
    """

    temporal_stride = GROUP
    spatial_stride = STRIDE
    moves_portrait = True
    settle_reach = 2  # latent frames behind one that decide how it is shown

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
        gaze: bool = False
        """Whether the last two numbers of a frame's motion are the gaze direction."""
        mesh: bool = False
        """Whether the face mesh finds the landmarks; the landmarker then handles only faces on
        which the mesh has low confidence."""
        native_mouth: bool = False
        """Whether a separate network, trained last, paints mouths at full resolution."""

        @property
        def motion_size(self) -> int:
            """Numbers in one frame's motion: as many as one latent token holds."""
            return self.channels * PATCH**2

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.channels = config, config.channels
        self.grid = config.size_px // STRIDE
        self.landmarker = Landmarker(
            config.landmarker_widths, self.grid, config.landmarker_refinements
        )
        self.motion = MotionBasis(config.motion_size, config.gaze)
        self.portrait_stem = FineStem(3, config.width)
        self.portrait_stack = GridStack(
            config.width, config.portrait_depth, config.num_heads, self.grid
        )
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
        self.decoder_stack = GridStack(
            config.width, config.decoder_depth, config.num_heads, self.grid, config.control
        )
        self.painter = Painter(config.width)
        self.mouth_painter = MouthPainter()
        self.mouth_net = MouthNet() if config.native_mouth else None

    def prepare(
        self,
        portrait: Float[Tensor, "b 3 h w"],
        landmarks: Float[Tensor, "b 68 2"] | None = None,
        canvas: Canvas | None = None,
    ) -> PortraitContext:
        """Tokens and landmarks (found, unless given) of the portrait, once per clip. With a
        `canvas` frames are shown on it instead of on the portrait.
        """
        tokens = self.portrait_stack(self.portrait_stem(portrait))
        if landmarks is None:
            landmarks = torch.cat([self.points_in(picture[None]) for picture in portrait])
        return PortraitContext(portrait, tokens, landmarks, canvas)

    def encode(
        self, frames: Float[Tensor, "b 3 f h w"], context: PortraitContext
    ) -> Float[Tensor, "b c l hl wl"]:
        """Latents of 1 + 4 n frames. ValueError for another count. Movement is what one finder sees
        against what it sees in the portrait, whoever found the context's landmarks: finders differ
        in where a jaw or a brow is.
        """
        clips = zip(frames.transpose(1, 2), context.image, strict=True)
        return torch.cat([self._encoded(clip, portrait[None]) for clip, portrait in clips])

    def _encoded(
        self, frames: Float[Tensor, "f 3 h w"], portrait: Float[Tensor, "1 3 h w"]
    ) -> Float[Tensor, "1 c l hl wl"]:
        if self.config.mesh:
            own, seen = mesh_sight(portrait), mesh_sight(frames)
            if own is not None and seen is not None:
                gaze = seen.gaze_since(own)[None] if self.config.gaze else None
                return self.encode_landmarks(seen.points[None], own.points, gaze)
        return self.encode_landmarks(self.landmarker(frames)[None], self.landmarker(portrait))

    def points_in(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f 68 2"]:
        """Landmarks of a portrait or of successive frames: by the face mesh, where this codec uses
        it and it is sure, or by the landmarker.
        """
        seen = mesh_sight(frames) if self.config.mesh else None
        return self.landmarker(frames) if seen is None else seen.points

    def encode_landmarks(
        self,
        landmarks: Float[Tensor, "b f 68 2"],
        portrait: Float[Tensor, "b 68 2"],
        gaze: Float[Tensor, "b f 2"] | None = None,
    ) -> Float[Tensor, "b c l hl wl"]:
        """Latents of 1 + 4 n frames whose landmarks are known, and where it is, the gaze (see
        `Motion.parts_of`). ValueError for another count.
        """
        num_frames = landmarks.shape[1]
        if num_frames % GROUP != 1:
            raise ValueError(f"codec: got {num_frames} frames; give 1 + 4 n frames (1, 5, 9, ...)")
        moves = in_groups(landmarks - portrait[:, None])
        parts = self.motion.parts_of(moves, None if gaze is None else in_groups(gaze))
        return spread_over_grid(parts, self.grid, self.grid)

    def landmarks_of(
        self, latents: Float[Tensor, "b c l hl wl"], portrait: Float[Tensor, "b 68 2"]
    ) -> Float[Tensor, "b l 4 68 2"]:
        """Landmarks in the four frames of each latent frame, without decoding."""
        return portrait[:, None, None] + self.motion.moves_of(gather_from_grid(latents.float()))

    def settle(
        self,
        latents: Float[Tensor, "b c l hl wl"],
        context: PortraitContext,
        events: EyeEvents | None = None,
        strengths: Strengths = AS_IT_IS,
        rest: Float[Tensor, " b"] | None = None,
        lips: LipFactors = AS_SAMPLED,
    ) -> Float[Tensor, "b c l hl wl"]:
        """Latents of a clip as they are shown: a head that moves smoothly, lips that close although
        they are `rest` apart in silence and go further by `lips`, movements as strong as they
        are wanted, blinks and looks. `events` are those of its latent frames.
        """
        parts = self.motion.settle_head(gather_from_grid(latents.float()))
        if strengths != AS_IT_IS or events is not None or rest is not None or lips != AS_SAMPLED:
            moves, gaze = self.motion.moves_of(parts), self.motion.gaze_of(parts)
            if rest is not None:
                moves = with_closed_lips(moves, context.landmarks, rest)
            if lips != AS_SAMPLED:
                moves = with_larger_lips(moves, context.landmarks, lips)
            if strengths != AS_IT_IS:
                moves = at_strengths(moves, context.landmarks, strengths)
            if events is not None:
                moves, gaze = with_events(moves, context.landmarks, events)
            parts = self.motion.parts_of(moves, gaze)
        return spread_over_grid(parts, self.grid, self.grid)

    def lip_gap(
        self, latents: Float[Tensor, "b c l hl wl"], context: PortraitContext
    ) -> Float[Tensor, " b"]:
        """Mean distance between the lips, in half-squares."""
        return lip_gap(self.landmarks_of(latents, context.landmarks)).mean((1, 2))

    def decode(
        self, latents: Float[Tensor, "b c l hl wl"], context: PortraitContext
    ) -> Float[Tensor, "b 3 f h w"]:
        """Frames of a clip in [-1, 1], as large as the context's canvas."""
        return torch.cat(list(self.decode_stream([latents], context)), 2)

    def decode_stream(self, blocks: Iterable[Tensor], context: PortraitContext) -> Iterator[Tensor]:
        """The frames [b, 3, f, h, w] of latents [b, c, l, hl, wl] that come in blocks, a few at a
        time; a block's come once the two latent frames behind it are known.
        """
        pieces = self._pieces(blocks, context)
        show = partial(self._show, context=context)
        for shown in computed_ahead(show, pieces, context.image.device):
            yield rearrange(shown, "(f b) c h w -> b c f h w", b=len(context.landmarks))

    def _pieces(self, blocks: Iterable[Tensor], context: PortraitContext) -> Iterator[Drafts]:
        """Smoothed drafts of a few frames of all clips at a time."""
        num_clips = len(context.landmarks)
        skip = (GROUP - 1) * num_clips  # the first latent frame is one frame
        for drafts in smoothed(self._drafts(blocks, context)):
            drafts, skip = drafts.rows(skip), 0
            for start in range(0, len(drafts.fine), SHOWN * num_clips):
                yield drafts.rows(start, start + SHOWN * num_clips)

    def _drafts(self, blocks: Iterable[Tensor], context: PortraitContext) -> Iterator[Drafts]:
        """Drafts of frames in order, those of all clips side by side."""
        before = None
        for latents in blocks:
            parts = gather_from_grid(latents.float())
            if before is None:
                before = standing_still(parts)
            drafts = self._draft(parts, context, before)
            yield Drafts(
                *(rearrange(part, "(b f) ... -> (f b) ...", b=len(parts)) for part in drafts)
            )
            before = parts[:, -1]

    def _show(self, drafts: Drafts, context: PortraitContext) -> Float[Tensor, "n 3 h w"]:
        """Frames of all clips side by side, on their canvases."""
        num_frames = len(drafts.fine) // len(context.landmarks)
        portraits = repeat(context.image, "b ... -> (f b) ...", f=num_frames)
        painted = self.painter.finish(drafts, portraits)
        with torch.autocast(
            drafts.fine.device.type, enabled=False
        ):  # places need more than bf16's eight bits
            clips = [
                self._shown_clip(index, canvas, painted, drafts, context)
                for index, canvas in enumerate(context.canvases())
            ]
        return rearrange(torch.stack(clips, 1), "f b ... -> (f b) ...")

    def _shown_clip(
        self, index: int, canvas: Canvas, painted: Painted, drafts: Drafts, context: PortraitContext
    ) -> Float[Tensor, "f 3 h w"]:
        """The frames of one of the clips."""
        rows, one = slice(index, None, len(context.landmarks)), slice(index, index + 1)
        landmarks, own = drafts.landmarks[rows], context.landmarks[index]
        eyes = None
        if canvas.eyes is not None:
            gaze = drafts.gaze[rows]
            eyes = tuple(
                eye_motions(landmarks, own, shape, eye, gaze)
                for eye, shape in enumerate(canvas.eyes)
            )
        frames = canvas.show(Painted(*(part[rows] for part in painted)), eyes)
        at = canvas.points(landmarks)
        if self.mouth_net is None:
            mouths = self.mouth_painter.paint(context.image[one], context.landmarks[one], landmarks)
            return canvas.lay(frames, mouths.patch, MouthFrame.of(at), mouth.PATCH_WIDTH)
        where, patch = self.mouth_net.paint(
            frames, at, canvas.pixels, canvas.points(context.landmarks[one])
        )
        return canvas.lay(frames, patch, where, mouth_net.PATCH_WIDTH)

    def without_mouth(
        self, parts: Float[Tensor, "1 l 4 d"], context: PortraitContext
    ) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 68 2"]]:
        """Frames on the canvas of one portrait before a mouth is painted, and their landmarks: what
        a mouth painter learns from. Before the first the clip stands still.
        """
        drafts = self._draft(parts, context, standing_still(parts))
        painted = self.painter.finish(drafts, context.image.expand(len(drafts.fine), -1, -1, -1))
        (canvas,) = context.canvases()
        return canvas.show(painted), drafts.landmarks

    def decode_parts(self, parts: Float[Tensor, "b l 4 d"], context: PortraitContext) -> Decoded:
        """Four frames for every latent frame at the model's size, as training sees them: neither
        averaged over time nor with eyes moved, so that flow and painting learn all they can. Before
        the first the clip stands still.
        """
        num_groups = parts.shape[1]
        drafts = self._draft(parts, context, standing_still(parts))
        repeated = repeat(context.image, "b ... -> (b n) ...", n=GROUP * num_groups)
        painted = self.painter.finish(drafts, repeated)
        frames = self.mouth_painter(
            painted.mixed, context.image, context.landmarks, drafts.landmarks
        )
        return Decoded(
            *(
                rearrange(x, "(b l g) c h w -> b l g c h w", l=num_groups, g=GROUP)
                for x in (frames, painted.warped, 1 - painted.mask)
            )
        )

    def _draft(
        self,
        parts: Float[Tensor, "b l 4 d"],
        context: PortraitContext,
        before: Float[Tensor, "b 4 d"],
    ) -> Drafts:
        """Drafts of all frames of groups, in order; `before` is the group that precedes them."""
        num_groups = parts.shape[1]
        previous = torch.cat([before[:, None], parts[:, :-1]], 1)
        shape = repeat(context.landmarks, "b k d -> b n (k d)", n=num_groups)
        told = torch.cat([self._components(parts), self._components(previous), 2 * shape], -1)
        control = self.control(told.flatten(0, 1))
        moves = self.motion.moves_of(parts).flatten(1, 2)
        landmarks = (context.landmarks[:, None] + moves).flatten(0, 1)
        coarse = self.landmark_flow(context.landmarks, moves, self.config.size_px // 4)
        tokens = self._tokens(
            repeat(context.tokens, "b ... -> (b n) ...", n=num_groups), control, coarse
        )
        fine, paint = self.painter.draft(self.decoder_stack(tokens, control))
        gap = mouth_map(landmarks, self.config.size_px // 2)
        gaze = self.motion.gaze_of(parts).flatten(0, 2)
        return Drafts(fine, paint, coarse.flatten(0, 1), gap, landmarks, gaze)

    def _components(self, parts: Float[Tensor, "b l 4 d"]) -> Float[Tensor, "b l e"]:
        """The numbers of each group that flow and painting follow; where the eyes look is
        geometry.
        """
        known = torch.arange(parts.shape[-1], device=parts.device) < self.motion.num_components
        return (parts * known).flatten(-2)

    def _tokens(
        self, portrait: Float[Tensor, "b y x d"], control: Tensor, coarse: Tensor
    ) -> Tensor:
        """The decoder's input: the portrait, what the motion says of each place, the first flow."""
        placed = rearrange(self.placed(control), "b (y x c) -> b y x c", y=self.grid, x=self.grid)
        flow = rearrange(coarse, "b (l g) d (y p) (x q) -> (b l) y x (g d p q)", g=GROUP, p=2, q=2)
        return portrait + self.place(placed) + self.tell_flow(flow / Painter.FLOW_SCALE)
