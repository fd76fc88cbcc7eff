"""Random appearance and framing, the same for the portrait and all frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from flowportrait.arrays import Array, Rng
from flowportrait.faces.landmarks import MIRRORED
from flowportrait.tensors import Crops

# Appendix B's square in terms of the 68-landmark hull: a detector's box stands 0.15 hull heights
# above the hull's centre and is 1.29 hull heights tall; the square is 1.5 times that (measured on
# 268 faces with CenterFace and YuNet).
BOX_RISE = 0.15
SQUARE_PER_HULL = 1.5 * 1.29
BEND = 0.04  # std of the points of a smooth warp, in half-pictures: faces of other shapes


@dataclass(frozen=True)
class Look:
    """One drawn look: where the square is cut and how colours change. `matrix` maps output [-1, 1]
    to input [-1, 1].
    """

    matrix: Float[Tensor, "2 3"]
    bend: Float[Tensor, "2 4 4"]
    gain: Float[Tensor, "3"]
    gamma: float
    saturation: float
    contrast: float
    light: Float[Tensor, "3"]  # constant, x and y slope of a brightness field
    channels: tuple[int, int, int]
    blurred: bool


def draw_look(
    rng: Rng,
    landmarks: Array,
    source_px: int,
    strength: float = 1.0,
    bend: float = BEND,
) -> Look:
    """A random look for a clip whose first-frame `landmarks` [68, 2] are in px (nan: the centre
    square is cut).

    `strength` 0 gives Appendix B's framing and the original colours. A `bend` lies in the picture
    and not in the face, which it deforms as the head moves: it teaches how faces look, and must not
    be where movement is learned.
    """
    centre = np.array([source_px / 2, source_px / 2])
    side = float(source_px)
    if np.isfinite(landmarks).all():
        low = landmarks.min(0)
        high = landmarks.max(0)
        height = max(high - low)
        centre = (low + high) / 2 - (0, BOX_RISE * height)
        side = min(SQUARE_PER_HULL * height, source_px)
        centre = np.clip(centre, side / 2, source_px - side / 2)
    spread = lambda low, high: float(1 + strength * (rng.uniform(low, high) - 1))  # noqa: E731
    side *= spread(0.86, 1.08)
    centre = centre + strength * rng.uniform(-0.05, 0.05, 2) * side
    angle = strength * rng.normal(0, 0.06)
    flip = 1.0
    if strength and rng.random() < 0.5:
        flip = -1.0
    scale = side / source_px
    stretch = spread(0.94, 1.06)
    cos = np.cos(angle) * scale
    sin = np.sin(angle) * scale
    offset = centre / source_px * 2 - 1
    matrix = np.array(
        [[cos * flip * stretch, -sin, offset[0]], [sin * flip * stretch, cos, offset[1]]]
    )
    strange = strength > 0 and rng.random() < 0.06
    return Look(
        matrix=torch.from_numpy(matrix).float(),
        bend=torch.from_numpy(
            rng.normal(0, bend * strength * (rng.random() < 0.7), (2, 4, 4))
        ).float(),
        gain=torch.tensor([spread(0.82, 1.2) for _ in range(3)]),
        gamma=spread(0.7, 1.4),
        saturation=spread(0.3, 1.5),
        contrast=spread(0.75, 1.25),
        light=torch.tensor(
            [spread(0.85, 1.15), strength * rng.normal(0, 0.12), strength * rng.normal(0, 0.1)]
        ).float(),
        channels=tuple(int(c) for c in rng.permutation(3)) if strange else (0, 1, 2),
        blurred=strength > 0 and rng.random() < 0.15,
    )


def apply_look(
    look: Look, frames: UInt8[np.ndarray, "f s s 3"], size_px: int
) -> Float[Tensor, "f 3 size size"]:
    """Frames cut and coloured, in [-1, 1]."""
    x = rearrange(torch.from_numpy(np.array(frames)), "f h w c -> f c h w").float()
    bend = F.interpolate(look.bend[None], (size_px, size_px), mode="bicubic", align_corners=True)[
        0
    ].permute(1, 2, 0)
    grid = F.affine_grid(look.matrix[None], (1, 3, size_px, size_px), align_corners=False) + bend
    x = (
        F.grid_sample(
            x, grid.expand(len(x), -1, -1, -1), padding_mode="reflection", align_corners=False
        )
        / 255
    )
    if look.blurred:
        x = F.interpolate(
            F.avg_pool2d(x, 2), (size_px, size_px), mode="bilinear", align_corners=False
        )
    return recolour(look, x).mul_(2).sub_(1)


def recolour(look: Look, x: Crops) -> Crops:
    """Square pictures in [0, 1] in the look's colours and light."""
    size_px = x.shape[-1]
    x = x[:, list(look.channels)] if look.channels != (0, 1, 2) else x
    grey = x.mean(1, keepdim=True)
    x = (grey + look.saturation * (x - grey)).clamp_(0, 1).pow_(look.gamma)
    ramp = torch.linspace(-1, 1, size_px)
    light = look.light[0] + look.light[1] * ramp[None, :] + look.light[2] * ramp[:, None]
    x = x * (look.gain[None, :, None, None] * light)
    return ((x - 0.5) * look.contrast + 0.5).clamp_(0, 1)


def move_landmarks(look: Look, landmarks: Array, source_px: int, size_px: int) -> Array:
    """Landmarks [..., 68, 2] of the source picture in px of the cut picture. Where the picture is
    mirrored, left and right points change places.
    """
    matrix = look.matrix.numpy().astype(np.float64)
    points = landmarks / source_px * 2 - 1
    to_output = lambda at: (at - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T  # noqa: E731
    moved = to_output(points)
    for _ in range(3):  # a fixed point of output = inverse(input - bend(output)); bends are gentle
        moved = to_output(points - _bend_at(look, moved))
    moved = moved[..., MIRRORED, :] if np.linalg.det(matrix[:, :2]) < 0 else moved
    return ((moved + 1) / 2 * size_px).astype(np.float32)


def _bend_at(look: Look, places: Array) -> Array:
    """The bend [..., 2] at places of the cut picture; beyond its edge as at the edge."""
    at = torch.from_numpy(np.nan_to_num(places)).float().reshape(1, -1, 1, 2)
    bend = F.grid_sample(
        look.bend[None], at, mode="bicubic", padding_mode="border", align_corners=True
    )
    return rearrange(bend, "1 d n 1 -> n d").numpy().reshape(places.shape)


def region_weight(
    landmarks: Float[Tensor, "n 68 2"], size_px: int, mouth: float, eyes: float
) -> Float[Tensor, "n s s"]:
    """1 everywhere, up to 1 + `mouth` at the lips and 1 + `eyes` at the eyes; 1 where landmarks are
    nan.
    """
    axis = torch.arange(size_px) + 0.5
    weight = torch.ones(len(landmarks), size_px, size_px)
    for points, height in ((slice(48, 68), mouth), (slice(36, 42), eyes), (slice(42, 48), eyes)):
        region = landmarks[:, points]
        centre = region.mean(1)
        radius = (region[..., 0].amax(1) - region[..., 0].amin(1)).clamp(6, size_px) * 0.55
        bell = torch.exp(
            -0.5 * ((axis[None, None] - centre[..., None]) / radius[:, None, None]) ** 2
        )
        weight += height * torch.nan_to_num(bell[:, 1, :, None] * bell[:, 0, None, :])
    return weight
