"""Optical flow of a framed face without a network: Lucas and Kanade (1981) on a pyramid, and what
of it is the head's.

Small motion of a large face is all that is asked of it; RAFT (`motion.py`) is better and needs
weights.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LEVELS = 3
ITERATIONS = 2
ROUNDS = 3
WINDOW_PX = 7
DAMPING = 2e-4
"""Of squared slopes of light in 0..1: below it (plain skin, or the noise of a codec) flow is drawn
to none.
"""


@torch.inference_mode()
def face_flow(
    light: Float[Tensor, "f h w"],
) -> tuple[Float[Tensor, "f-1 2 h w"], Float[Tensor, "f-1 h w"]]:
    """Flow (x, y) in px from every frame to the next, and how far each of it can be trusted, 0 to
    1.

    `light` in 0..1, its sides multiples of 2**(LEVELS - 1). Where nothing has an edge, flow and
    trust are 0.
    """
    levels = [light[:, None]]
    while len(levels) < LEVELS:
        levels.append(F.avg_pool2d(levels[-1], 2))
    flow = torch.zeros(len(light) - 1, 2, *levels[-1].shape[2:])
    for level in reversed(levels):
        if flow.shape[2:] != level.shape[2:]:
            flow = 2 * F.interpolate(
                flow, size=level.shape[2:], mode="bilinear", align_corners=False
            )
        flow, trust = _refined(_smooth(level), flow)
    return flow, trust


def _slopes(light: Tensor) -> tuple[Tensor, Tensor]:
    """How light changes across a pixel, to the right and down; borders are repeated."""
    padded = F.pad(light, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, :]
    down = padded[..., 1:-1]
    slope_x = (across[..., 2:] - across[..., :-2]) / 2
    slope_y = (down[..., 2:, :] - down[..., :-2, :]) / 2
    return slope_x, slope_y


def _refined(light: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Lucas-Kanade steps at one size; the slopes are those of the first frame of each pair."""
    before = light[:-1]
    after = light[1:]
    slope_x, slope_y = _slopes(before)
    xx = _window(slope_x * slope_x)
    xy = _window(slope_x * slope_y)
    yy = _window(slope_y * slope_y)
    weaker = (xx + yy) / 2 - torch.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    xx = xx + DAMPING
    yy = yy + DAMPING
    determinant = xx * yy - xy * xy
    for _ in range(ITERATIONS):
        change = _moved(after, flow) - before
        x = _window(slope_x * change)
        y = _window(slope_y * change)
        step = torch.cat([xy * y - yy * x, xy * x - xx * y], 1) / determinant
        flow = flow + step.clamp(-1, 1)
    return flow, (weaker / (weaker + DAMPING))[:, 0]


def _moved(image: Tensor, flow: Tensor) -> Tensor:
    """The image with each pixel taken from where the flow points."""
    height, width = image.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = torch.stack(
        [(x + flow[:, 0]) * 2 / (width - 1) - 1, (y + flow[:, 1]) * 2 / (height - 1) - 1], -1
    )
    return F.grid_sample(image, where, mode="bilinear", padding_mode="border", align_corners=True)


def _window(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, WINDOW_PX, 1, WINDOW_PX // 2, count_include_pad=False)


def _smooth(image: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


@torch.inference_mode()
def head_flow(
    flow: Float[Tensor, "n 2 h w"], weight: Float[Tensor, "n h w"]
) -> Float[Tensor, "n 2 h w"]:
    """The part of the flow that a rigid, gently curved head would make, fitted where `weight` says.

    Eight numbers a frame: a shift, a linear map, and the two of a plane that turns. Fitted again
    with less weight where it did not fit, so that brows and lips do not pull the head along.
    """
    return _plane_flow(flow, weight)


def _plane_flow(flow: Tensor, weight: Tensor) -> Tensor:
    """The flow of the plane that most of the weighted flow agrees with."""
    whole = _plane(*flow.shape[2:])
    part = slice(None, None, 2)
    # A quarter of the pixels decides as well as all of them.
    basis = whole[:, :, part, part].flatten(2)
    target = flow[:, :, part, part].flatten(2)
    weight = weight[:, part, part].flatten(1)
    used = weight
    for _ in range(ROUNDS):
        weighted = torch.einsum("akp,np->nakp", basis, used)
        normal = torch.einsum("nakp,alp->nkl", weighted, basis) + 1e-4 * torch.eye(8)
        found = torch.linalg.solve(normal, torch.einsum("nakp,nap->nk", weighted, target))
        error = (target - torch.einsum("nk,akp->nap", found, basis)).norm(dim=1)
        scale = (
            2 * (error * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-6)
            + 1e-4
        )
        used = weight / (1 + (error / scale) ** 2)
    return torch.einsum("nk,akhw->nahw", found, whole)


def _plane(height: int, width: int) -> Float[Tensor, "2 8 h w"]:
    """The effect of each of the eight numbers of a plane's motion on the flow (x, y)."""
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    zero = torch.zeros_like(x)
    one = torch.ones_like(x)
    across = torch.stack([one, x, y, zero, zero, zero, x * x, x * y])
    return torch.stack([across, torch.stack([zero, zero, zero, one, x, y, x * y, y * y])])


def framed_light(frames: np.ndarray, side_px: int = 64) -> Float[Tensor, "f h w"]:
    """Frames uint8 [f, h, w, 3] or [f, h, w] as light in 0..1, made small by whole pixels."""
    light = torch.from_numpy(
        frames.mean(-1, dtype=np.float32) if frames.ndim == 4 else frames.astype(np.float32)
    )
    step = light.shape[-1] // side_px
    if step > 1:
        return F.avg_pool2d(light[:, None] / 255, step)[:, 0]
    return light / 255
