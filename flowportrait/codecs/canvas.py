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
from jaxtyping import Float
from torch import Tensor

from flowportrait.codecs.eyes import EyeMotion, EyeShape, move_eye, region_of
from flowportrait.codecs.mouth import MouthFrame, pixel_places
from flowportrait.codecs.mouth_net import SkullFrame

KEPT = (
    0.2,
    0.6,
)  # masks below the first show paint alone, above the second the portrait's own detail


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
        cos, sin = torch.cos(angle), torch.sin(angle)
        return torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])

    @cached_property
    def _own_places(self) -> Float[Tensor, "h w 2"]:
        return pixel_places(*self.size, self.pixels.device)

    def lifted(self, fields: Float[Tensor, "n c u v"]) -> Float[Tensor, "n c h w"]:
        """Fields over the square at the canvas's resolution, by cubic interpolation."""
        rows = cubic_matrix(fields.shape[-2], self.size[0], fields.device)
        columns = (
            rows
            if self.size[0] == self.size[1]
            else cubic_matrix(fields.shape[-1], self.size[1], fields.device)
        )
        lifted = rows @ (fields.float() @ columns.T)
        if self.roll:
            places = self.places.expand(len(lifted), -1, -1, -1)
            lifted = F.grid_sample(lifted, places, padding_mode="border", align_corners=False)
        return lifted

    def show(
        self, painted: Painted, eyes: list[tuple[EyeMotion, EyeMotion]] | None = None
    ) -> Tensor:
        """Frames [n, 3, h, w] with moved eyes, but for the mouth."""
        flow, residual, shown = self._fields(painted)
        flow = rearrange(self.lifted(flow), "n d y x -> n y x d")
        extra = self.lifted(torch.cat([residual, shown], 1))
        residual, shown = extra[:, :3], extra[:, 3:].clamp_(0, 1)
        warped = self._warped(flow)
        if self.eyes is not None and eyes is not None:
            for number, motions in enumerate(eyes):
                for shape, motion in zip(self.eyes, motions, strict=True):
                    self._move_eye(
                        shape, motion, flow[number], warped[number], residual[number], shown[number]
                    )
        return warped.mul_(shown).add_(residual)

    def _warped(
        self,
        flow: Float[Tensor, "n y x 2"],
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Float[Tensor, "n 3 y x"]:
        """The portrait's pixels moved by flows in square coordinates, in a window of the canvas.

        Interpolation is cubic (Keys 1981, a = -1/2). Along one axis that is linear interpolation of
        the pixels less f (1 - f) / 2 times that of their second differences, f being the fraction
        of a pixel; both axes are added up, and second differences are those of the luma. So it
        costs half as much more than linear interpolation, which blurs skin and hair.
        """
        flow = flow @ self._turn if self.roll else flow  # the transpose of the turn is its inverse
        places = flow + self._own_places[rows, columns]
        pixels = self._with_curvature.expand(len(flow), -1, -1, -1)
        sampled = F.grid_sample(pixels, places, padding_mode="border", align_corners=False)
        share = (places + 1) * (places.new_tensor(self.size[::-1]) / 2) - 0.5
        share -= share.floor()
        bent = (share * (1 - share)).mul_(sampled[:, 3:].movedim(1, -1)).sum(-1)
        return sampled[:, :3].sub_(bent[:, None], alpha=0.5)

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
        flow, paint = painted.flow.float(), painted.paint
        if self.grey is not None:
            paint = on_colour_line(paint, self.grey)
        shown = ((painted.mask - KEPT[0]) / (KEPT[1] - KEPT[0])).clamp(0, 1)
        added = (1 - painted.mask) * (paint - painted.warped)
        if self.moving is not None:
            flow = flow * _resized(self.moving, flow.shape[-2:])
            weight = _resized(self.moving, added.shape[-2:])
            added, shown = added * weight, 1 - weight * (1 - shown)
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
        """Changes one frame about one eye, in place."""
        centre, half = region_of(motion)
        window = self._window(self.points(centre), half * (1.5 if self.roll else 1))
        if window is None:
            return
        rows, columns = window
        eye = move_eye(shape, motion, self.places[window], flow[window], 2 / self.size[0])
        warped[:, rows, columns] = (self._warped(eye.flows, *window) * eye.shares[:, None]).sum(0)
        residual[:, rows, columns] *= 1 - eye.weight
        shown[:, rows, columns] = torch.lerp(
            shown[:, rows, columns], torch.ones_like(eye.weight), eye.weight
        )

    def _window(self, centre: Tensor, half: Tensor) -> tuple[slice, slice] | None:
        """Rows and columns about a place of the canvas, as far as they are on it."""
        (x, y), reach = centre.tolist(), float(half)
        height, width = self.size
        rows = slice(
            max(0, int((y - reach + 1) / 2 * height)),
            min(height, int((y + reach + 1) / 2 * height) + 1),
        )
        columns = slice(
            max(0, int((x - reach + 1) / 2 * width)),
            min(width, int((x + reach + 1) / 2 * width) + 1),
        )
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


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
    return colours @ torch.tensor([0.299, 0.587, 0.114], device=colours.device, dtype=colours.dtype)


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


def _resized(weight: Float[Tensor, "1 1 g g"], size: tuple[int, int]) -> Float[Tensor, "1 1 h w"]:
    if weight.shape[-2:] == size:
        return weight
    return F.interpolate(weight, size, mode="bilinear", align_corners=False, antialias=True)
