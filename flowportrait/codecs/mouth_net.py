"""Mouths at full resolution: teeth, tongue and lip edges painted in a frame that is fixed to the
skull.

The patch covers the mouth from the nose down to the chin, as wide as the widest mouth. It follows
the eyes and the nose and not the lips, so that upper teeth lie at the same place of it in every
frame and can stay the same; where the portrait shows teeth they lie there too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.codecs.mouth import pixel_places
from flowportrait.faces.landmarker import ResidualConv

EYE_CORNERS = (36, 45)
NOSE_BASE = 33
OUTER_UPPER = (48, 49, 50, 51, 52, 53, 54)
OUTER_LOWER = (48, 59, 58, 57, 56, 55, 54)
INNER_UPPER = (60, 61, 62, 63, 64)
INNER_LOWER = (60, 67, 66, 65, 64)
DOWN = 0.39
REACH = (0.40, 0.335)
"""How far the patch's middle is below the nose, and half its sides, in distances between the eyes'
outer corners.
"""
SIZE = (96, 112)
PATCH_WIDTH = 0.34  # of the square, of an ordinary face
CELL = PATCH_WIDTH / SIZE[1]
SOFT = 0.02  # width of the edges of lip maps, in half-patches
EDGE = 0.4  # softness of a layer's border as it is shown, in pixels
CLOSED = 0.01  # lips that are no further apart, in half-patches, touch
TEETH_END = -0.02  # where upper teeth end before anything is learned, in half-patches
GROWN = (2, 4)  # how many cells beyond the gap and the lips paint reaches
COARSE = 16  # cells over which colours inside the mouth vary
FIELD = 0.1  # unit of the network's output for the teeth, in half-patches
LIP_SHIFT = 0.04  # how far the network moves the borders of the opening at most, in half-patches
OPEN = (0.05, 0.1)  # openings of a portrait from which its teeth begin to be shown, and are
BEGIN = (0.0, 0.0, 0.0, -0.8, -0.85, -0.85, 0.4, 0.35, 0.3, 0.0, 0.0)
"""What a new network paints: lips as they are, a dark mouth, light teeth, no shifts of borders."""


class SkullFrame(NamedTuple):
    """Where the patch lies: its `centre` [n, 1, 2] and its half sides `along` and `across` [n, 1,
    2] as vectors, in the square's coordinates.
    """

    centre: Tensor
    along: Tensor
    across: Tensor

    @classmethod
    def of(cls, landmarks: Float[Tensor, "n 68 2"]) -> SkullFrame:
        """The frame from the outer corners of the eyes and the base of the nose."""
        span = landmarks[:, EYE_CORNERS[1]] - landmarks[:, EYE_CORNERS[0]]
        down = torch.stack([-span[:, 1], span[:, 0]], -1)
        centre = landmarks[:, NOSE_BASE] + DOWN * down
        return cls(centre[:, None], REACH[0] * span[:, None], REACH[1] * down[:, None])

    def cut(
        self, frames: Float[Tensor, "n 3 h w"], size: tuple[int, int] = SIZE
    ) -> Float[Tensor, "n 3 y x"]:
        """The patch of each frame."""
        cells = pixel_places(*size, frames.device).flatten(0, 1)
        places = self.centre + cells[:, :1] * self.along + cells[:, 1:] * self.across
        return F.grid_sample(
            frames.float(), places.unflatten(1, size), padding_mode="border", align_corners=False
        )

    def within(self, points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        """Points in coordinates of the patch, [-1, 1] from edge to edge."""
        offset = points - self.centre
        return torch.stack([_share(offset, self.along), _share(offset, self.across)], -1)

    def lay(
        self, patch: Float[Tensor, "n c y x"], places: Float[Tensor, "h w 2"]
    ) -> Float[Tensor, "n c h w"]:
        """Patches on an empty picture whose pixels have these places in the square; the reverse of
        `cut`.
        """
        at = self.within(places.flatten(0, 1)[None].expand(len(patch), -1, -1)).unflatten(
            1, places.shape[:2]
        )
        return F.grid_sample(patch, at, align_corners=False)

    def part(self, rows: slice, columns: slice) -> SkullFrame:
        """The frame of some rows and columns of the patch's cells."""
        along, across = (
            ((cells.start + cells.stop) / side - 1, (cells.stop - cells.start) / side)
            for cells, side in ((columns, SIZE[1]), (rows, SIZE[0]))
        )
        centre = self.centre + along[0] * self.along + across[0] * self.across
        return SkullFrame(centre, along[1] * self.along, across[1] * self.across)

    def window(self) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
        """Middle and half the sides of the rectangle that holds all patches."""
        reach = (self.along.abs() + self.across.abs())[:, 0]
        low = (self.centre[:, 0] - reach).amin(0)
        high = (self.centre[:, 0] + reach).amax(0)
        return (low + high) / 2, (high - low) / 2


class MouthLayers(NamedTuple):
    """A mouth in three layers, from back to front.

    Lips are the frame with a `change` of its colours [n, 3, y, x]; the `inside` of the mouth [n, 3,
    y, x] is where `opening` [n, 1, y, x] is above 0, and the teeth, coloured `enamel` [n, 3, y, x],
    where `teeth` [n, 1, y, x] is above 0, too. The last two hide `cover` [n, 1, y, x] of the frame.

    All are smooth maps. `opening` and `teeth` are heights above a layer's border, as in a signed
    distance field (Green 2007, alpha-tested magnification), so that the border is as sharp as a
    picture of any size can show it: a coarse network cannot draw a sharp edge, but it can say where
    one is.
    """

    change: Tensor
    inside: Tensor
    enamel: Tensor
    cover: Tensor
    opening: Tensor
    teeth: Tensor

    @classmethod
    def of(cls, maps: Float[Tensor, "n 12 y x"]) -> MouthLayers:
        """The layers of their maps side by side."""
        return cls(*maps.split([3, 3, 3, 1, 1, 1], 1))

    @property
    def maps(self) -> Float[Tensor, "n 12 y x"]:
        """All maps side by side."""
        return torch.cat(list(self), 1)

    def over(
        self, frames: Float[Tensor, "n 3 y x"], soft: Float[Tensor, "#n 1 1 1"]
    ) -> Float[Tensor, "n 3 y x"]:
        """Frames with mouths; borders are `soft` half-patches wide."""
        open_share = torch.sigmoid(self.opening / soft) * self.cover
        shown = torch.lerp(frames + self.change, self.inside, open_share)
        return torch.lerp(shown, self.enamel, open_share * torch.sigmoid(self.teeth / soft))


class MouthNet(nn.Module):
    """Paints mouths into patches: a small U-Net of the frame as it is without a painted mouth, of
    the portrait's own mouth, and of where the lips are in both. One that is not `layered`, as in
    checkpoints before the seventh, has a change of the frame's colours alone.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 80), layered: bool = True):
        super().__init__()
        self.layered = layered
        fine, middle, coarse = widths
        self.enter = nn.Conv2d(4 * 10, fine, 3, padding=1)
        self.fine = ResidualConv(fine)
        self.to_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = ResidualConv(middle)
        self.to_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(ResidualConv(coarse), ResidualConv(coarse))
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.middle_again = ResidualConv(middle)
        self.from_middle = nn.Conv2d(middle, fine, 1)
        self.fine_again = ResidualConv(fine)
        self.leave = nn.Conv2d(fine, 4 * (len(BEGIN) if layered else 3), 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        if layered:  # teeth and their gaps lie at the same places of every patch
            self.place = nn.Parameter(torch.zeros(1, fine, SIZE[0] // 2, SIZE[1] // 2))
            self.leave.bias.data = torch.tensor(BEGIN).repeat_interleave(4)
        edge = torch.minimum(*(1 - pixel_places(*SIZE, torch.device("cpu")).abs()).unbind(-1))
        self.register_buffer("window", (edge / 0.12).clamp(0, 1), persistent=False)

    def forward(
        self,
        shown: Float[Tensor, "n 3 96 112"],
        lips: Float[Tensor, "n 2 96 112"],
        portrait: Float[Tensor, "m 3 96 112"],
        portrait_lips: Float[Tensor, "m 2 96 112"],
    ) -> Float[Tensor, "n c 96 112"]:
        """Maps that `layers` turns into a mouth. One portrait (m = 1) may serve all patches."""
        x = self._entered(shown, lips, 0) + self._entered(portrait, portrait_lips, 1)
        if self.layered:
            x = x + self.place
        fine = self.fine(x)
        middle = self.middle(self.to_middle(fine))
        x = self.coarse(self.to_coarse(middle))
        x = self.middle_again(middle + _doubled(self.from_coarse(x)))
        x = self.fine_again(fine + _doubled(self.from_middle(x)))
        return F.pixel_shuffle(self.leave(x), 2).float()

    def layers(
        self,
        output: Float[Tensor, "n c 96 112"],
        lips: Float[Tensor, "n 2 96 112"],
        opening: Float[Tensor, "n 1 96 112"],
        portrait_lips: Float[Tensor, "m 2 96 112"],
    ) -> MouthLayers:
        """The mouth of the network's output. `opening` says how far each place is within the inner
        lips. What a portrait with an open mouth shows is changed and not covered: its teeth are the
        person's own.
        """
        gap = _grown(lips[:, :1], GROWN[0]) * self.window
        about = _grown(lips[:, 1:], GROWN[1]) * self.window
        about = gap + (1 - gap) * about
        change = about * output[:, :3]
        if not self.layered:
            none = torch.zeros_like(gap)
            return MouthLayers(change, *[torch.zeros_like(change)] * 2, none, none - 1, none - 1)
        height = pixel_places(*SIZE, output.device)[None, None, :, :, 1]
        # Colours that vary in detail, and an opening that may close, would be used in place of
        # borders, and be a blur.
        return MouthLayers(
            change=change,
            inside=_coarse(output[:, 3:6]),
            enamel=_coarse(output[:, 6:9]),
            cover=about * _closed_share(portrait_lips),
            opening=opening - CLOSED + about * LIP_SHIFT * torch.tanh(output[:, 9:10]),
            teeth=TEETH_END - height + FIELD * output[:, 10:11],
        )

    def _entered(self, picture: Tensor, lips: Tensor, part: int) -> Float[Tensor, "n c h w"]:
        """Output of the first convolution for one half of its channels: 0 is the frame, 1 the
        portrait, which stays the same.
        """
        x = F.pixel_unshuffle(torch.cat([picture, lips], 1), 2)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = self.enter.weight[:, 20 * part : 20 * (part + 1)]
        return F.conv2d(
            x,
            weight,
            self.enter.bias if part == 0 else None,
            padding=1,
        )

    def paint(
        self,
        frames: Float[Tensor, "n 3 h w"],
        landmarks: Float[Tensor, "n 68 2"],
        portrait: Float[Tensor, "1 3 p q"],
        portrait_landmarks: Float[Tensor, "1 68 2"],
    ) -> tuple[SkullFrame, MouthLayers]:
        """Mouths for frames without one, and where they lie: no more of the patch than is painted
        in any of them. All landmarks are in coordinates of those pictures.
        """
        where = SkullFrame.of(landmarks)
        own = SkullFrame.of(portrait_landmarks)
        lips = lip_maps(where, landmarks)
        own_lips = lip_maps(own, portrait_landmarks)
        output = self(where.cut(frames), lips, own.cut(portrait), own_lips)
        layers = self.layers(output, lips, opening_map(where, landmarks), own_lips)
        rows, columns = (_extent(lips[:, 1].amax(0).amax(axis)) for axis in (1, 0))
        maps = layers.maps[:, :, rows, columns]
        return where.part(rows, columns), MouthLayers.of(maps)


def lip_maps(
    frame: SkullFrame, landmarks: Float[Tensor, "n 68 2"], size: tuple[int, int] = SIZE
) -> Float[Tensor, "n 2 y x"]:
    """About 1 between the inner lips, and within the outer ones, with soft edges."""
    points = frame.within(landmarks)
    maps = []
    for upper, lower in ((INNER_UPPER, INNER_LOWER), (OUTER_UPPER, OUTER_LOWER)):
        sides = [torch.sigmoid(side / SOFT) for side in _inward(points, upper, lower, size)]
        maps.append(sides[0] * sides[1] * (sides[2] * sides[3]))
    return torch.stack(maps, 1)


def opening_map(
    frame: SkullFrame, landmarks: Float[Tensor, "n 68 2"]
) -> Float[Tensor, "n 1 96 112"]:
    """How far each place is within the inner lips, in half-patches; negative outside."""
    sides = _inward(frame.within(landmarks), INNER_UPPER, INNER_LOWER, SIZE)
    return torch.minimum(torch.minimum(sides[0], sides[1]), torch.minimum(sides[2], sides[3]))[
        :, None
    ]


def _inward(
    points: Float[Tensor, "n 68 2"],
    upper: tuple[int, ...],
    lower: tuple[int, ...],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How far each place of a patch is below the upper curve, above the lower one, and within both
    of their ends: [n, y, x] twice, [n, 1, x] twice.
    """
    places = pixel_places(*size, points.device)
    x = places[0, :, 0].expand(len(points), -1).contiguous()
    y = places[:, 0, 1][None, :, None]
    above, below = (_curve(points[:, list(part)], x)[:, None] for part in (upper, lower))
    left, right = (points[:, upper[end], None, :1] for end in (0, -1))
    return y - above, below - y, x[:, None] - left, right - x[:, None]


def _curve(points: Float[Tensor, "n k 2"], x: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    """Heights at `x` of the line through points that go from left to right."""
    at = points[..., 0].cummax(-1).values.contiguous()
    right = torch.searchsorted(at, x).clamp(1, at.shape[1] - 1)
    x0 = at.gather(1, right - 1)
    x1 = at.gather(1, right)
    y0 = points[..., 1].gather(1, right - 1)
    y1 = points[..., 1].gather(1, right)
    return torch.lerp(y0, y1, ((x - x0) / (x1 - x0).clamp(min=1e-4)).clamp(0, 1))


def _extent(lips: Float[Tensor, " cells"]) -> slice:
    """From the first to the last cell that paint about the lips reaches."""
    within = torch.nonzero(lips > 1e-3)[:, 0]
    if len(within) == 0:
        return slice(0, len(lips))
    border = 2 * GROWN[1]  # paint, its soft edge, and what interpolation takes
    return slice(max(0, int(within[0]) - border), min(len(lips), int(within[-1]) + 1 + border))


def _share(offset: Float[Tensor, "n k 2"], side: Float[Tensor, "n 1 2"]) -> Float[Tensor, "n k"]:
    return (offset * side).sum(-1) / side.square().sum(-1).clamp(min=1e-8)


def _grown(x: Float[Tensor, "n 1 y x"], reach: int) -> Float[Tensor, "n 1 y x"]:
    """A soft map whose edge lies `reach` cells further out."""
    for axis in (-2, -1):
        x = torch.stack(list(_windows(x, reach, axis))).amax(0)
    soft = reach // 2
    for axis in (-2, -1):
        x = sum(_windows(x, soft, axis)) / (2 * soft + 1)
    return x


def _windows(x: Float[Tensor, "n 1 y x"], reach: int, axis: int) -> Iterator[Tensor]:
    """The map shifted by up to `reach` cells to both sides along an axis, 0 beyond its border.

    Whole maps combined are several times faster on a CPU than pooling with a stride of 1.
    """
    border = (0, 0, reach, reach) if axis == -2 else (reach, reach)
    padded = F.pad(x, border)
    size = x.shape[axis]
    for shift in range(2 * reach + 1):
        yield padded.narrow(axis, shift, size)


def _closed_share(lips: Float[Tensor, "m 2 96 112"]) -> Float[Tensor, "m 1 1 1"]:
    """1 for a mouth that shows nothing of its inside, 0 for one that is `OPEN` half-patches or more
    open.
    """
    gap = lips[:, :1].sum(-2, keepdim=True).amax(-1, keepdim=True) * 2 / SIZE[0]
    return ((OPEN[1] - gap) / (OPEN[1] - OPEN[0])).clamp(0, 1)


def _coarse(x: Float[Tensor, "n c 96 112"]) -> Float[Tensor, "n c 96 112"]:
    """The map without what is finer than `COARSE` cells."""
    return F.interpolate(F.avg_pool2d(x, COARSE), SIZE, mode="bilinear", align_corners=False)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
