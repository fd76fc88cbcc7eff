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

EYE_CORNERS, NOSE_BASE = (36, 45), 33
OUTER_UPPER, OUTER_LOWER = (48, 49, 50, 51, 52, 53, 54), (48, 59, 58, 57, 56, 55, 54)
INNER_UPPER, INNER_LOWER = (60, 61, 62, 63, 64), (60, 67, 66, 65, 64)
NOSE_DOWN = 0.5  # of an ordinary face from the front, see `head_pose`
DOWN, REACH = 0.39, (0.40, 0.335)
"""How far the patch's middle is below the nose, and half its sides, in distances between the eyes'
outer corners.
"""
SIZE = (96, 112)
FINE_SIZE = (192, 224)
PATCH_WIDTH = 0.34  # of the square, of an ordinary face
SOFT = 0.02  # width of the edges of lip maps, in half-patches


class SkullFrame(NamedTuple):
    """Where the patch lies: its `centre` [n, 1, 2] and its half sides `along` and `across` [n, 1,
    2] as vectors, in the square's coordinates.
    """

    centre: Tensor
    along: Tensor
    across: Tensor

    @classmethod
    def of(cls, landmarks: Float[Tensor, "n 68 2"]) -> SkullFrame:
        """From the outer corners of the eyes and the base of the nose."""
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

    def window(self) -> tuple[Float[Tensor, "2"], Float[Tensor, ""]]:
        """Middle and half the side of the square that holds all patches."""
        reach = (self.along.abs() + self.across.abs())[:, 0]
        low, high = (self.centre[:, 0] - reach).amin(0), (self.centre[:, 0] + reach).amax(0)
        return (low + high) / 2, (high - low).amax() / 2


class MouthNet(nn.Module):
    """Paints mouths into patches: a small U-Net of the frame as it is without a painted mouth, of
    the portrait's own mouth, and of where the lips are in both.

    A `fine` one adds detail to what the U-Net paints, in patches of twice as many pixels along each
    side. It knows features that stand still in the skull and are shifted as the head turns: where
    people's teeth are when the portrait does not show them.
    """

    def __init__(self, fine: bool = False, widths: tuple[int, int, int] = (24, 48, 80)):
        super().__init__()
        self.size = FINE_SIZE if fine else SIZE
        first, middle, coarse = widths
        self.enter = nn.Conv2d(4 * 10, first, 3, padding=1)
        self.fine = ResidualConv(first)
        self.to_middle = nn.Conv2d(first, middle, 3, stride=2, padding=1)
        self.middle = ResidualConv(middle)
        self.to_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(ResidualConv(coarse), ResidualConv(coarse))
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.middle_again = ResidualConv(middle)
        self.from_middle = nn.Conv2d(middle, first, 1)
        self.fine_again = ResidualConv(first)
        self.leave = nn.Conv2d(first, 4 * 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.detail = Detail(first) if fine else None
        edge = torch.minimum(*(1 - pixel_places(*self.size, torch.device("cpu")).abs()).unbind(-1))
        self.register_buffer("window", (edge / 0.12).clamp(0, 1), persistent=False)

    def forward(
        self,
        shown: Float[Tensor, "n 3 y x"],
        lips: Float[Tensor, "n 2 y x"],
        portrait: Float[Tensor, "m 3 y x"],
        portrait_lips: Float[Tensor, "m 2 y x"],
        pose: Float[Tensor, "n 2"],
    ) -> Float[Tensor, "n 4 y x"]:
        """Patches as `Mouth.patch` gives them. The gap between the lips is replaced; lips and what
        is about them are changed by what is added, and keep the detail of the portrait. `pose` is
        that of `head_pose`. There may be one portrait (m = 1) for all patches.
        """
        frame, own = torch.cat([shown, lips], 1), torch.cat([portrait, portrait_lips], 1)
        if self.detail is None:
            change = F.pixel_shuffle(self.leave(self._features(frame, own)), 2).float()
        else:
            features = self._features(F.avg_pool2d(frame, 2), F.avg_pool2d(own, 2))
            change = _doubled(F.pixel_shuffle(self.leave(features), 2).float())
            change = change + self.detail(frame, own, change, features, pose)
        gap, about = (
            self._grown(part, reach) * self.window
            for part, reach in zip(lips.split(1, 1), (2, 4), strict=True)
        )
        return torch.cat([gap * (shown + change) + (1 - gap) * about * change, gap], 1)

    def paint(
        self,
        frames: Float[Tensor, "n 3 h w"],
        landmarks: Float[Tensor, "n 68 2"],
        portrait: Float[Tensor, "1 3 p q"],
        portrait_landmarks: Float[Tensor, "1 68 2"],
    ) -> tuple[SkullFrame, Float[Tensor, "n 4 y x"]]:
        """Mouths for frames without one; all landmarks in coordinates of those pictures."""
        where, own = SkullFrame.of(landmarks), SkullFrame.of(portrait_landmarks)
        maps = lip_maps(own, portrait_landmarks, self.size)
        patch = self(
            where.cut(frames, self.size),
            lip_maps(where, landmarks, self.size),
            own.cut(portrait, self.size),
            maps,
            head_pose(landmarks),
        )
        return where, patch

    def _grown(self, lips: Float[Tensor, "n 1 y x"], reach: int) -> Float[Tensor, "n 1 y x"]:
        if self.detail is None:
            return _grown(lips, reach)
        return _doubled(_grown(F.avg_pool2d(lips, 2), reach))

    def _features(
        self, frame: Float[Tensor, "n 5 y x"], portrait: Float[Tensor, "m 5 y x"]
    ) -> Float[Tensor, "n c h w"]:
        fine = self.fine(_entered(self.enter, frame, portrait))
        middle = self.middle(self.to_middle(fine))
        x = self.coarse(self.to_coarse(middle))
        x = self.middle_again(middle + _doubled(self.from_coarse(x)))
        return self.fine_again(fine + _doubled(self.from_middle(x)))


class Detail(nn.Module):
    """What a fine painter adds to the change that the U-Net makes, given that change at twice the
    size and the U-Net's last features.
    """

    def __init__(self, known: int, width: int = 16):
        super().__init__()
        self.enter = nn.Conv2d(4 * 10, width, 3, padding=1)
        self.enter_change = nn.Conv2d(4 * 3, width, 3, padding=1)
        self.enter_features = nn.Conv2d(known, width, 1)
        self.skull = nn.Parameter(0.1 * torch.randn(1, width, *SIZE))
        self.turn = nn.Linear(2, 2, bias=False)
        self.first, self.second = ResidualConv(width), ResidualConv(width)
        self.leave = nn.Conv2d(width, 4 * 3, 3, padding=1)
        for start_at_zero in (self.turn.weight, self.leave.weight, self.leave.bias):
            nn.init.zeros_(start_at_zero)

    def forward(
        self,
        frame: Float[Tensor, "n 5 y x"],
        portrait: Float[Tensor, "m 5 y x"],
        change: Float[Tensor, "n 3 y x"],
        features: Float[Tensor, "n c h w"],
        pose: Float[Tensor, "n 2"],
    ) -> Float[Tensor, "n 3 y x"]:
        """What is added; y x are those of fine patches, h w a quarter of them."""
        changed = self.enter_change(F.pixel_unshuffle(change, 2))
        x = _entered(self.enter, frame, portrait) + changed + self._in_skull(pose)
        x = x + _doubled(self.enter_features(features))
        return F.pixel_shuffle(self.leave(self.second(self.first(x))), 2).float()

    def _in_skull(self, pose: Float[Tensor, "n 2"]) -> Float[Tensor, "n c h w"]:
        """The learned features, shifted by the head's pose."""
        places = pixel_places(*SIZE, pose.device) + self.turn(pose)[:, None, None]
        features = self.skull.float().expand(len(pose), -1, -1, -1)
        return F.grid_sample(features, places.float(), padding_mode="border", align_corners=False)


def _entered(conv: nn.Conv2d, frame: Tensor, portrait: Tensor) -> Float[Tensor, "n c h w"]:
    """A first convolution of frames beside their portrait, which stays the same: its half is
    computed once.
    """
    half = conv.in_channels // 2
    entered = []
    for x, weight, bias in (
        (frame, conv.weight[:, :half], conv.bias),
        (portrait, conv.weight[:, half:], None),
    ):
        cells = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        entered.append(F.conv2d(cells, weight, bias, padding=1))
    return entered[0] + entered[1]


def head_pose(landmarks: Float[Tensor, "n 68 2"]) -> Float[Tensor, "n 2"]:
    """How far the base of the nose is from the middle between the eyes' outer corners, along the
    line of the eyes and down from it, in distances between these corners: it moves as a head turns
    and nods. A face from the front is near (0, 0).
    """
    left, right = landmarks[:, EYE_CORNERS[0]], landmarks[:, EYE_CORNERS[1]]
    span = (right - left)[:, None]
    down = torch.stack([-span[..., 1], span[..., 0]], -1)
    nose = (landmarks[:, NOSE_BASE] - (left + right) / 2)[:, None]
    return torch.cat([_share(nose, span), _share(nose, down) - NOSE_DOWN], -1)


def lip_maps(
    frame: SkullFrame, landmarks: Float[Tensor, "n 68 2"], size: tuple[int, int] = SIZE
) -> Float[Tensor, "n 2 y x"]:
    """About 1 between the inner lips, and within the outer ones, with soft edges."""
    points = frame.within(landmarks)
    places = pixel_places(*size, landmarks.device)
    maps = []
    for upper, lower in ((INNER_UPPER, INNER_LOWER), (OUTER_UPPER, OUTER_LOWER)):
        x = places[0, :, 0].expand(len(points), -1).contiguous()
        above, below = (_curve(points[:, list(part)], x) for part in (upper, lower))
        y = places[:, 0, 1][None, :, None]
        inside = torch.sigmoid((y - above[:, None]) / SOFT) * torch.sigmoid(
            (below[:, None] - y) / SOFT
        )
        left, right = points[:, upper[0], :1], points[:, upper[-1], :1]
        beside = torch.sigmoid((x - left) / SOFT) * torch.sigmoid((right - x) / SOFT)
        maps.append(inside * beside[:, None])
    return torch.stack(maps, 1)


def _curve(points: Float[Tensor, "n k 2"], x: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    """Heights at `x` of the line through points that go from left to right."""
    at = points[..., 0].cummax(-1).values.contiguous()
    right = torch.searchsorted(at, x).clamp(1, at.shape[1] - 1)
    x0, x1 = at.gather(1, right - 1), at.gather(1, right)
    y0, y1 = points[..., 1].gather(1, right - 1), points[..., 1].gather(1, right)
    return torch.lerp(y0, y1, ((x - x0) / (x1 - x0).clamp(min=1e-4)).clamp(0, 1))


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
    padded, size = F.pad(x, border), x.shape[axis]
    for shift in range(2 * reach + 1):
        yield padded.narrow(axis, shift, size)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
