"""Movements of landmarks as latent numbers, on the latent grid, and as a first flow of the
picture.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.codecs.mouth import pixel_places
from flowportrait.faces.landmarks import POINTS
from flowportrait.tensors import Latents

MotionOfGroups = Float[Tensor, "b l 4 d"]

GROUP = 4  # frames per latent frame
PATCH = 2  # latent cells along a side of a token


class MotionBasis(nn.Module):
    """Movements of the 68 points as latent numbers and back: a linear map, fitted once to the
    training clips.
    """

    # the first components: the whole head across, up and down, and turning; lips begin with the
    # fourth
    HEAD = 3
    # half-pictures: components and frequencies that hardly move count less than their spread alone
    # says
    FLOOR = 0.006
    GAZE_SPREAD = (
        0.2,
        0.08,
        0.05,
        0.04,
    )  # of a gaze's four temporal frequencies, in half widths of the eye

    def __init__(self, size: int, gaze: bool = False):
        """`size` numbers a frame. With `gaze` the last two of them are where the eyes look and no
        components.
        """
        super().__init__()
        self.num_components = size - 2 * gaze
        self.register_buffer("basis", torch.eye(size, 2 * POINTS))
        self.register_buffer("spread", torch.ones(GROUP, size))
        self.register_buffer("cosines", cosine_transform(), persistent=False)

    @torch.no_grad()
    def fit(self, moves: Float[Tensor, "n 4 k 2"]) -> float:
        """Principal components of movements of groups of four frames; gives the share of their
        variance kept.
        """
        rows = moves.flatten(2).flatten(0, 1)
        self.basis.copy_(torch.linalg.svd(rows.T @ rows)[2][: len(self.basis)])
        self.make_room_for_gaze()
        parts = _mix(self.cosines, moves.flatten(2) @ self.basis.T)
        spread = (parts.square().mean(0) + self.FLOOR**2).sqrt()
        self.spread[:, : self.num_components] = spread[:, : self.num_components]
        return float((rows @ self.basis.T).square().sum() / rows.square().sum())

    @torch.no_grad()
    def make_room_for_gaze(self) -> None:
        """Takes the last two components out of the movement of landmarks, where a gaze is to
        stand.
        """
        self.basis[self.num_components :] = 0
        self.spread[:, self.num_components :] = torch.tensor(self.GAZE_SPREAD)[:, None]

    def parts_of(
        self, moves: Float[Tensor, "b l 4 k 2"], gaze: Float[Tensor, "b l 4 2"] | None = None
    ) -> MotionOfGroups:
        """Normalised temporal frequencies of the movements of groups of four frames, and of their
        gaze: how far the irises are from where the portrait has them, in half widths of the eye, x
        to the right and y down.
        """
        numbers = _project(moves.flatten(-2), self.basis.T)
        if gaze is not None and self.num_components < len(self.basis):
            numbers = torch.cat([numbers[..., : self.num_components], gaze.to(numbers)], -1)
        return _mix(self.cosines, numbers) / self.spread

    def gaze_of(self, parts: MotionOfGroups) -> Float[Tensor, "b l 4 2"]:
        """The gaze in the four frames of each group; 0 where the motion knows none."""
        if self.num_components == len(self.basis):
            return parts.new_zeros(*parts.shape[:-1], 2)
        return _mix(
            self.cosines.T,
            parts[..., self.num_components :] * self.spread[:, self.num_components :],
        )

    def moves_of(self, parts: MotionOfGroups) -> Float[Tensor, "b l 4 k 2"]:
        """Movements of the points in the four frames of each group; the inverse of `parts_of`."""
        return _project(_mix(self.cosines.T, parts * self.spread), self.basis).unflatten(
            -1, (POINTS, 2)
        )

    def settle_head(self, parts: MotionOfGroups, width: float = 2.0) -> MotionOfGroups:
        """The head's components averaged over `width` frames (a Gaussian's) to both sides; all
        others as they are.

        Heads are heavy, and a small generator draws each latent frame a little elsewhere: the eye
        sees a jump at every fourth frame.
        """
        moves = _mix(self.cosines.T, parts * self.spread)[..., : self.HEAD]
        line = F.pad(rearrange(moves, "b l g k -> b k (l g)"), (8, 8), mode="replicate")
        kernel = gaussian(width, 8).to(parts.device)
        smooth = F.conv1d(line, kernel.expand(self.HEAD, 1, -1), groups=self.HEAD)
        settled = parts.clone()
        smooth = _mix(self.cosines, rearrange(smooth, "b k (l g) -> b l g k", g=GROUP))
        settled[..., : self.HEAD] = smooth / self.spread[:, : self.HEAD]
        return settled


def _project(x: Tensor, matrix: Tensor) -> Tensor:
    """A matrix product in float32 also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ matrix


def gaussian(width: float, reach: int) -> Float[Tensor, " k"]:
    """Weights of 2 `reach` + 1 samples that sum to 1."""
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    return kernel / kernel.sum()


def cosine_transform(length: int = GROUP) -> Float[Tensor, "k f"]:
    """Orthonormal DCT-II over `length` moments, constant first."""
    k = torch.arange(length)[:, None]
    f = torch.arange(length)[None]
    rows = torch.cos(math.pi / length * (f + 0.5) * k) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows


def _mix(matrix: Tensor, vectors: Float[Tensor, "*n f d"]) -> Float[Tensor, "*n k d"]:
    """`matrix` [k, f] times vectors, in float32 also where products are taken in bf16."""
    return (matrix[:, :, None] * vectors[..., None, :, :]).sum(-2)


def spread_over_grid(parts: Float[Tensor, "b l k d"], height: int, width: int) -> Latents:
    """Four vectors of 4 c numbers each, laid out over 2 x 2 tokens and repeated over the whole
    latent frame.
    """
    rows = height // (2 * PATCH)
    columns = width // (2 * PATCH)
    return repeat(
        parts,
        "b l (k m) (p q c) -> b c l (y k p) (x m q)",
        k=2,
        m=2,
        p=PATCH,
        q=PATCH,
        y=rows,
        x=columns,
    )


def gather_from_grid(latents: Latents) -> Float[Tensor, "b l k d"]:
    """The inverse of `spread_over_grid`: the mean of all copies."""
    layout = "b c l (y k p) (x m q) -> b l (k m) (p q c)"
    return reduce(latents, layout, "mean", k=2, m=2, p=PATCH, q=PATCH)


def in_groups(x: Float[Tensor, "b f ..."]) -> Float[Tensor, "b l 4 ..."]:
    """Values of 1 + 4 n frames, group by group; the first group is the first frame."""
    first = x[:, :1].expand(-1, GROUP - 1, *x.shape[2:])
    return torch.cat([first, x], 1).unflatten(1, (-1, GROUP))


def standing_still(parts: MotionOfGroups) -> Float[Tensor, "b 4 d"]:
    """The group before the first: its mean motion, and no movement."""
    before = torch.zeros_like(parts[:, 0])
    before[:, 0] = parts[:, 0, 0]
    return before


class LandmarkFlow(nn.Module):
    """A first guess of the flow: every place moves with the landmarks near it, far places stay. The
    decoder refines it; one without it took thousands of updates to find the head.
    """

    def __init__(self):
        super().__init__()
        self.log_reach = nn.Parameter(
            torch.tensor(math.log(0.12))
        )  # of a landmark, in half pictures
        self.still = nn.Parameter(torch.tensor(-8.0))  # logit of not moving

    def forward(
        self, portrait: Float[Tensor, "b 68 2"], moves: Float[Tensor, "b n 68 2"], side: int
    ) -> Float[Tensor, "b n 2 side side"]:
        """Displacement from each place of the frames to its source in the portrait, in half
        pictures.
        """
        landmarks = portrait[:, None] + moves
        places = pixel_places(side, side, moves.device).flatten(0, 1)
        distance = (
            places.square().sum(-1)[:, None]
            - 2 * _dot(places, landmarks)
            + landmarks.square().sum(-1)[:, :, None]
        )
        logits = -distance / (2 * torch.exp(2 * self.log_reach))
        weights = torch.cat([logits, self.still.expand(*logits.shape[:-1], 1)], -1).softmax(-1)[
            ..., :-1
        ]
        flow = torch.stack([(weights * -moves[:, :, None, :, axis]).sum(-1) for axis in (0, 1)], 2)
        return rearrange(flow, "b n d (y x) -> b n d y x", y=side)


def _dot(
    places: Float[Tensor, "p 2"], points: Float[Tensor, "b n k 2"]
) -> Float[Tensor, "b n p k"]:
    """Scalar products, in float32 also under autocast."""
    x, y = places.unbind(-1)
    return x[:, None] * points[:, :, None, :, 0] + y[:, None] * points[:, :, None, :, 1]
