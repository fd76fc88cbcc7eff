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
        """The frame from the outer corners of the eyes and the base of the nose."""
        span = landmarks[:, EYE_CORNERS[1]] - landmarks[:, EYE_CORNERS[0]]
        down = torch.stack([-span[:, 1], span[:, 0]], -1)
        centre = landmarks[:, NOSE_BASE] + DOWN * down
        return cls(centre[:, None], REACH[0] * span[:, None], REACH[1] * down[:, None])

    def cut(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 96 112"]:
        """The patch of each frame."""
        cells = pixel_places(*SIZE, frames.device).flatten(0, 1)
        places = self.centre + cells[:, :1] * self.along + cells[:, 1:] * self.across
        return F.grid_sample(
            frames.float(), places.unflatten(1, SIZE), padding_mode="border", align_corners=False
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
        low = (self.centre[:, 0] - reach).amin(0)
        high = (self.centre[:, 0] + reach).amax(0)
        return (low + high) / 2, (high - low).amax() / 2


class MouthNet(nn.Module):
    """Paints mouths into patches: a small U-Net of the frame as it is without a painted mouth, of
    the portrait's own mouth, and of where the lips are in both.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 80)):
        super().__init__()
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
        self.leave = nn.Conv2d(fine, 4 * 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        edge = torch.minimum(*(1 - pixel_places(*SIZE, torch.device("cpu")).abs()).unbind(-1))
        self.register_buffer("window", (edge / 0.12).clamp(0, 1), persistent=False)

    def forward(
        self,
        shown: Float[Tensor, "n 3 96 112"],
        lips: Float[Tensor, "n 2 96 112"],
        portrait: Float[Tensor, "m 3 96 112"],
        portrait_lips: Float[Tensor, "m 2 96 112"],
    ) -> Float[Tensor, "n 4 96 112"]:
        """Patches as `Mouth.patch` gives them, which cover nothing: between the lips, on them and
        about them the frame is changed by what is added. There may be one portrait (m = 1) for all
        patches.
        """
        x = self._entered(shown, lips, 0) + self._entered(portrait, portrait_lips, 1)
        return self._change(x, lips)

    def _change(self, x, lips: Float[Tensor, "n 2 96 112"]) -> Float[Tensor, "n 4 96 112"]:
        """Change of the frame about the lips."""
        fine = self.fine(x)
        middle = self.middle(self.to_middle(fine))
        x = self.coarse(self.to_coarse(middle))
        x = self.middle_again(middle + _doubled(self.from_coarse(x)))
        x = self.fine_again(fine + _doubled(self.from_middle(x)))
        change = F.pixel_shuffle(self.leave(x), 2).float()
        gap = _grown(lips[:, :1], 2) * self.window
        about = _grown(lips[:, 1:], 4) * self.window
        # All is added to the frame, also between the lips: what is replaced would have passed
        # through the patch's pixels twice, and lost the detail of teeth that the portrait shows.
        return torch.cat([(gap + (1 - gap) * about) * change, torch.zeros_like(gap)], 1)

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
    ) -> tuple[SkullFrame, Float[Tensor, "n 4 96 112"]]:
        """Mouths for frames without one; all landmarks in coordinates of those pictures."""
        where = SkullFrame.of(landmarks)
        own = SkullFrame.of(portrait_landmarks)
        patch = self(
            where.cut(frames),
            lip_maps(where, landmarks),
            own.cut(portrait),
            lip_maps(own, portrait_landmarks),
        )
        return where, patch


def lip_maps(frame: SkullFrame, landmarks: Float[Tensor, "n 68 2"]) -> Float[Tensor, "n 2 96 112"]:
    """About 1 between the inner lips, and within the outer ones, with soft edges."""
    points = frame.within(landmarks)
    places = pixel_places(*SIZE, landmarks.device)
    maps = []
    for upper, lower in ((INNER_UPPER, INNER_LOWER), (OUTER_UPPER, OUTER_LOWER)):
        x = places[0, :, 0].expand(len(points), -1).contiguous()
        above, below = (_curve(points[:, list(part)], x) for part in (upper, lower))
        y = places[:, 0, 1][None, :, None]
        inside = torch.sigmoid((y - above[:, None]) / SOFT) * torch.sigmoid(
            (below[:, None] - y) / SOFT
        )
        left = points[:, upper[0], :1]
        right = points[:, upper[-1], :1]
        beside = torch.sigmoid((x - left) / SOFT) * torch.sigmoid((right - x) / SOFT)
        maps.append(inside * beside[:, None])
    return torch.stack(maps, 1)


def _curve(points: Float[Tensor, "n k 2"], x: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    """Heights at `x` of the line through points that go from left to right."""
    at = points[..., 0].cummax(-1).values.contiguous()
    right = torch.searchsorted(at, x).clamp(1, at.shape[1] - 1)
    x0 = at.gather(1, right - 1)
    x1 = at.gather(1, right)
    y0 = points[..., 1].gather(1, right - 1)
    y1 = points[..., 1].gather(1, right)
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
    padded = F.pad(x, border)
    size = x.shape[axis]
    for shift in range(2 * reach + 1):
        yield padded.narrow(axis, shift, size)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
