"""Motion found at the model's size, shown with the portrait's own pixels at any size.

A decoder says where each place of a frame comes from, and what is painted over it, on grids of the
model's size. Both are smooth; the portrait is not. So the flow is interpolated, the full picture is
warped by it, and of the painting only the difference from the warped portrait is added: skin, hair
and brush strokes keep their sharpness.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.codecs.eyes import EyeMotion, EyeShape, move_eye
from flowportrait.codecs.mouth import MouthFrame, pixel_places
from flowportrait.codecs.mouth_net import SkullFrame

KEPT = (
    0.2,
    0.6,
)  # masks below the first show paint alone, above the second the portrait's own detail


Part = tuple[slice, slice]
"""Rows and columns of a canvas."""


class Painted(NamedTuple):
    """Frames at the model's size: the `flow` [n, 2, u, v] to the portrait in half-squares, the
    portrait `warped` by it [n, 3, s, s], the `paint` [n, 3, s, s], and the `mask` [n, 1, s, s], 1
    where the warped portrait is shown.
    """

    flow: Tensor
    warped: Tensor
    paint: Tensor
    mask: Tensor

    @property
    def mixed(self) -> Float[Tensor, "n 3 s s"]:
        """The frames, but for eyes and mouth."""
        return self.mask * self.warped + (1 - self.mask) * self.paint


@dataclass(frozen=True)
class Canvas:
    """The pixels that are moved, and where they lie.

    `pixels` [1, 3, h, w] in [-1, 1]. A canvas covers the model's square; `roll` (radians) is how
    far the square is turned against it, about the common centre, clockwise as seen. `moving` [1, 1,
    g, g] in [0, 1] says on a grid over the square how much of its movement each place takes part
    in, None everywhere all of it. `eyes` are the portrait's, `grey` holds the portrait's only
    colours when it has no others (see `colour_line`).
    """

    pixels: Float[Tensor, "1 3 h w"]
    roll: float = 0.0
    moving: Float[Tensor, "1 1 g g"] | None = None
    eyes: tuple[EyeShape, EyeShape] | None = None
    grey: Float[Tensor, "2 3"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    @cached_property
    def places(self) -> Float[Tensor, "h w 2"]:
        """Every pixel in coordinates of the square; in [-1, 1] where the square is."""
        places = pixel_places(*self.size, self.pixels.device)
        return places @ self._turn.T if self.roll else places

    @cached_property
    def _turn(self) -> Float[Tensor, "2 2"]:
        """From displacements on the canvas to those of the square."""
        angle = torch.tensor(self.roll, device=self.pixels.device)
        cos = torch.cos(angle)
        sin = torch.sin(angle)
        return torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])

    @cached_property
    def _own_places(self) -> Float[Tensor, "h w 2"]:
        return pixel_places(*self.size, self.pixels.device)

    def lifted(
        self, fields: Float[Tensor, "n c u v"], part: Part | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Fields over the square at the canvas's resolution, by cubic interpolation; of a part of
        the canvas, or all of it.
        """
        rows, columns = (slice(None), slice(None)) if part is None or self.roll else part
        down = cubic_matrix(fields.shape[-2], self.size[0], fields.device)[rows]
        along = cubic_matrix(fields.shape[-1], self.size[1], fields.device)[columns]
        lifted = down @ (fields.float() @ along.T)
        if self.roll:
            places = self.places if part is None else self.places[part]
            places = places.expand(len(lifted), -1, -1, -1)
            lifted = F.grid_sample(lifted, places, padding_mode="border", align_corners=False)
        return lifted

    def show(self, painted: Painted, eyes: tuple[EyeMotion, EyeMotion] | None = None) -> Tensor:
        """Frames [n, 3, h, w] with moved eyes, but for the mouth."""
        flow, residual, shown = self._fields(painted)
        part = self._moving_part
        flow = self.lifted(flow, part)
        extra = self.lifted(torch.cat([residual, shown], 1), part)
        residual = extra[:, :3]
        shown = extra[:, 3:].clamp_(0, 1)
        warped = self._warped(flow, part)
        if self.eyes is not None and eyes is not None:
            for shape, motion in zip(self.eyes, eyes, strict=True):
                self._move_eye(shape, motion, flow, warped, residual, shown)
        moved = warped.mul_(shown).add_(residual)
        if moved.shape[-2:] == self.size:
            return moved
        frames = self.pixels.float().repeat(len(moved), 1, 1, 1)
        frames[:, :, part[0], part[1]] = moved
        return frames

    @cached_property
    def _moving_part(self) -> Part:
        """The rows and columns outside of which nothing moves."""
        height, width = self.size
        if self.moving is None or self.roll:
            return slice(0, height), slice(0, width)
        takes_part = self.moving[0, 0] > 0
        return (
            _reach(takes_part.any(1), height),
            _reach(takes_part.any(0), width),
        )

    def _warped(self, flow: Float[Tensor, "n 2 y x"], part: Part) -> Float[Tensor, "n 3 y x"]:
        """The portrait's pixels moved by flows in square coordinates, in a part of the canvas.

        Interpolation is cubic (Keys 1981, a = -1/2). Along one axis that is linear interpolation of
        the pixels less f (1 - f) / 2 times that of their second differences, f being the fraction
        of a pixel; both axes are added up, and second differences are those of the luma. So it
        costs half as much more than linear interpolation, which blurs skin and hair.
        """
        if self.roll:  # the transpose of the turn is its inverse
            flow = torch.einsum("n d y x, d e -> n e y x", flow, self._turn)
        places = flow.movedim(1, -1) + self._own_places[part]
        pixels = self._with_curvature.expand(len(flow), -1, -1, -1)
        sampled = F.grid_sample(pixels, places, padding_mode="border", align_corners=False)
        half = flow.new_tensor(self.size[::-1])[:, None, None] / 2
        share = (flow * half).frac_().abs_()
        bent = torch.addcmul(share, share, share, value=-1).mul_(sampled[:, 3:])
        warped = sampled[:, :3]
        return warped.sub_(bent[:, :1], alpha=0.5).sub_(bent[:, 1:], alpha=0.5)

    @cached_property
    def _with_curvature(self) -> Float[Tensor, "1 5 h w"]:
        """The pixels, and the second differences of their luma along x and along y."""
        luma = _luma(self.pixels.float().movedim(1, -1))[:, None]
        padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
        across = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] - 2 * luma
        down = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] - 2 * luma
        return torch.cat([self.pixels.float(), across, down], 1)

    def points(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Points of the square in coordinates of the canvas."""
        return points @ self._turn if self.roll else points

    def lay(
        self,
        frames: Float[Tensor, "n 3 h w"],
        patch: Float[Tensor, "n 4 y x"],
        where: MouthFrame | SkullFrame,
        width: float,
    ) -> Float[Tensor, "n 3 h w"]:
        """The frames with painted mouths (see `Mouth.patch`), in place; `where` in the canvas's
        coordinates. `width` is that of an ordinary patch as a share of the square's: patches are
        made finer or coarser by it, alike in every frame.
        """
        if self.grey is not None:
            patch = torch.cat(
                [on_colour_line(patch[:, :3], self.grey, patch[:, 3:]), patch[:, 3:]], 1
            )
        patch = _at_scale(patch, width * self.size[1])
        return self._lay_patch(where, patch, frames)

    def _lay_patch(
        self,
        where: MouthFrame | SkullFrame,
        patch: Float[Tensor, "n 4 y x"],
        frames: Float[Tensor, "n 3 h w"],
    ) -> Float[Tensor, "n 3 h w"]:
        window = self._window(*where.window())
        if window is not None:
            rows, columns = window
            laid = where.lay(patch, self._own_places[window])
            under = frames[:, :, rows, columns]
            frames[:, :, rows, columns] = under * (1 - laid[:, 3:].clamp(0, 1)) + laid[:, :3]
        return frames

    def _fields(self, painted: Painted) -> tuple[Tensor, Tensor, Tensor]:
        """On the model's grids: the flow, what is added, and how much of the portrait's own pixels
        is shown.
        """
        flow = painted.flow.float()
        paint = painted.paint
        if self.grey is not None:
            paint = on_colour_line(paint, self.grey)
        shown = ((painted.mask - KEPT[0]) / (KEPT[1] - KEPT[0])).clamp(0, 1)
        added = (1 - painted.mask) * (paint - painted.warped)
        if self.moving is not None:
            flow = flow * _resized(self.moving, flow.shape[-2:])
            weight = _resized(self.moving, added.shape[-2:])
            added = added * weight
            shown = 1 - weight * (1 - shown)
        return flow, added + (1 - shown) * painted.warped, shown

    def _move_eye(
        self,
        shape: EyeShape,
        motion: EyeMotion,
        flow: Tensor,
        warped: Tensor,
        residual: Tensor,
        shown: Tensor,
    ) -> None:
        """Changes the moving part of frames about one eye, in place."""
        centre, half = motion.region()
        part = self._moving_part
        window = self._window(self.points(centre), half * (1.5 if self.roll else 1), part)
        if window is None:
            return
        rows, columns = (
            slice(side.start - whole.start, side.stop - whole.start)
            for side, whole in zip(window, part, strict=True)
        )
        under = flow[:, :, rows, columns].movedim(1, -1)
        eye = move_eye(shape, motion, self.places[window], under, 2 / self.size[0])
        layers = self._warped(rearrange(eye.flows, "k n y x d -> (k n) d y x"), window)
        layers = layers.unflatten(0, (3, -1)) * eye.shares[:, :, None]
        weight = eye.weight[:, None]
        before = warped[:, :, rows, columns]  # there may be the other eye
        warped[:, :, rows, columns] = torch.where(weight > 0, layers.sum(0), before)
        residual[:, :, rows, columns] *= 1 - weight
        shown[:, :, rows, columns] += weight * (1 - shown[:, :, rows, columns])

    def _window(self, centre: Tensor, half: Tensor, part: Part | None = None) -> Part | None:
        """Rows and columns about a place of the canvas, as far as they are in a part of it."""
        height, width = self.size
        whole = part or (slice(0, height), slice(0, width))
        sides = []
        for place, side, length in zip(centre.tolist()[::-1], whole, (height, width), strict=True):
            low, high = ((place + reach + 1) / 2 * length for reach in (-float(half), float(half)))
            sides.append(slice(max(side.start, int(low)), min(side.stop, int(high) + 1)))
        return tuple(sides) if all(side.start < side.stop for side in sides) else None


_MATRICES: dict[tuple[int, int, str], Tensor] = {}


def cubic_matrix(source: int, target: int, device: torch.device) -> Float[Tensor, "target source"]:
    """Interpolation of `source` samples at `target` places by cubic convolution (Keys 1981, a =
    -1/2), pixel centres aligned and borders repeated; the identity for equal sizes. Two products
    with such matrices are several times faster on a CPU than torch's own bicubic interpolation.
    """
    key = source, target, str(device)
    if key not in _MATRICES:
        at = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
        matrix = torch.zeros(target, source, dtype=torch.float64)
        base = at.floor().long()
        for tap in range(-1, 3):
            distance = (at - (base + tap)).abs()
            near = 1.5 * distance**3 - 2.5 * distance**2 + 1
            far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
            weight = torch.where(
                distance <= 1, near, far.where(distance < 2, torch.zeros_like(far))
            )
            matrix.scatter_add_(1, (base + tap).clamp(0, source - 1)[:, None], weight[:, None])
        _MATRICES[key] = matrix.float().to(device)
    return _MATRICES[key]


def colour_line(
    pixels: Float[Tensor, "1 3 h w"], tolerance: float = 0.02
) -> Float[Tensor, "2 3"] | None:
    """(offset, slope) of the colours of a grey or toned picture as a function of its luma, None for
    a coloured one.

    Where every pixel lies on such a line within `tolerance` (of a range of 2), painting must too:
    lips painted red on a grey photograph are no portrait of anybody.
    """
    colours = rearrange(pixels, "1 c h w -> (h w) c").float()
    luma = _luma(colours)
    spread = luma - luma.mean()
    slope = (spread[:, None] * (colours - colours.mean(0))).mean(0) / spread.square().mean().clamp(
        min=1e-6
    )
    offset = colours.mean(0) - slope * luma.mean()
    missed = (offset + luma[:, None] * slope - colours).square().mean().sqrt()
    return torch.stack([offset, slope]) if missed < tolerance else None


def on_colour_line(
    pixels: Float[Tensor, "n 3 h w"], line: Float[Tensor, "2 3"], share: Tensor | float = 1.0
) -> Float[Tensor, "n 3 h w"]:
    """Colours replaced by those of the line that are as bright; `share` is how much of a colour
    each pixel holds, 0 where it is a difference of colours.
    """
    luma = _luma(pixels.movedim(1, -1))[:, None]
    return share * line[0][:, None, None] + luma * line[1][:, None, None]


def _luma(colours: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    return colours @ torch.tensor(
        [0.299, 0.587, 0.114],
        device=colours.device,
        dtype=colours.dtype,
    )


def _at_scale(patch: Float[Tensor, "n c y x"], pixels_across: float) -> Float[Tensor, "n c p q"]:
    """A patch that is shown `pixels_across` wide: finer where that is much more than it has,
    coarser where less.
    """
    height, width = patch.shape[-2:]
    finer = min(4, int(pixels_across / width + 0.5))
    if finer > 1:
        rows, columns = (cubic_matrix(side, side * finer, patch.device) for side in (height, width))
        return rows @ (patch @ columns.T)
    coarser = min(4, int(width / pixels_across + 0.4))
    return F.avg_pool2d(patch, coarser) if coarser > 1 else patch


def _reach(takes_part: Bool[Tensor, " g"], length: int) -> slice:
    """The pixels of a side of `length` from the first to the last cell that takes part, with a
    border as wide as interpolation reaches; a whole side where none does.
    """
    cells = torch.nonzero(takes_part)[:, 0]
    count = len(takes_part)
    if len(cells) == 0:
        return slice(0, length)
    # Weights are interpolated from grids as coarse as 64 cells, by up to three cells on each side.
    border = max(3, count // 20)
    first = int(cells[0]) - border
    last = int(cells[-1]) + 1 + border
    return slice(max(0, first * length // count), min(length, -(-last * length // count)))


def _resized(weight: Float[Tensor, "1 1 g g"], size: tuple[int, int]) -> Float[Tensor, "1 1 h w"]:
    if weight.shape[-2:] == size:
        return weight
    return F.interpolate(weight, size, mode="bilinear", align_corners=False, antialias=True)
