"""Movements of a face beside speech, and the strength of all: blinks, looks, and the strengths that
users set.

A sampler of few evaluations averages rare events away: nobody blinked. Blinks and small looks
hardly depend on what is said, so they are drawn as the events they are, with the rates and shapes
that are measured on people, and laid into the latents. There they are motion like any other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from flowportrait.codecs.eyes import EYES, MEET
from flowportrait.config import Frozen
from flowportrait.media import FPS
from flowportrait.tensors import PerClip

PointsOfPictures = Float[Tensor, "b k 2"]
StablePoints = Float[Tensor, "b l 4 k 2"]

STABLE = (
    27,
    28,
    29,
    30,
    31,
    33,
    35,
    36,
    39,
    42,
    45,
)  # points that move with the skull: nose bridge, eye corners
MOUTH = (*range(3, 14), *range(48, 68))
LIDS_AND_BROWS = (*range(17, 27), 37, 38, 40, 41, 43, 44, 46, 47)
UPPER = (37, 38, 43, 44)
LOWER = (41, 40, 47, 46)
LIPS = slice(48, 68)
UPPER_LIP = (61, 62, 63)
LOWER_LIP = (67, 66, 65)
# How far the points of jaw and lower lip go when the jaw closes by 1.
JAW = {
    **dict(zip(range(4, 13), (0.2, 0.4, 0.65, 0.8, 0.8, 0.8, 0.65, 0.4, 0.2), strict=True)),
    48: 0.35, 54: 0.35, 55: 0.6, 56: 0.9, 57: 0.9, 58: 0.9, 59: 0.6, 60: 0.35, 64: 0.35, 65: 1.0,
    66: 1.0, 67: 1.0,
}  # fmt: skip

# Blinks: one in 3.1 s in conversation (Bentivoglio et al. 1997 have 17 to 26 a minute), closing in
# a third of the time that opening takes (VanderWerf et al. 2003).
BLINK_EVERY_S = 3.1
BLINK_AT_LEAST_S = 0.7
BLINK = (0.25, 0.85, 1.0, 1.0, 0.7, 0.4, 0.18, 0.06)  # closure in successive frames at 24 fps
# Looks: fixations of about a second, small and about the viewer's eyes; a saccade of that size
# takes one frame.
FIXATION_S, LOOK = 1.1, (0.075, 0.035)  # half widths of the eye
FARTHEST = (0.3, 0.15)
# of the nose's way over the eyes' goes back in the irises, so that the eyes stay on the viewer
COUNTER = 0.3
# the components of motion keep five eighths of a jaw that is closed so: more is asked of them
KEPT = 1.6
# half-squares: a scream is closed by half, for a chin that goes further up bares a neck nobody saw
WIDEST_REST = 0.09


class Strengths(Frozen):
    """How much of each movement is shown: 1 is the model's own, 0 none."""

    head: float = Field(1.0, ge=0, le=2)
    lips: float = Field(1.0, ge=0, le=2)
    eyes: float = Field(1.0, ge=0, le=2)


AS_IT_IS = Strengths()


class EyeEvents(NamedTuple):
    """The eyes in every frame: how far blinks `close` them [f] in [0, 1], where they look [f, 2] in
    half widths of the eye, x to the right and y down.
    """

    close: Tensor
    look: Tensor

    def groups(self, start: int, count: int) -> EyeEvents:
        """Those of `count` latent frames of four from `start` on; the first latent frame is video
        frame 0 alone.
        """
        at = (torch.arange(4 * count) + 4 * start - 3).clamp(0, len(self.close) - 1)
        return EyeEvents(self.close[at].view(count, 4), self.look[at].view(count, 4, 2))


def draw_eye_events(num_frames: int, seed: int, strength: float = 1.0) -> EyeEvents:
    """Blinks and looks of a clip at 24 fps; a longer clip of the same seed begins alike. `strength`
    scales how far eyes look and how often they blink; below 1 blinks do not close whole.
    """
    blinks = np.random.default_rng([seed, 1])
    looks = np.random.default_rng([seed, 2])
    close = np.zeros(num_frames + len(BLINK))
    look = np.zeros((num_frames, 2))
    at = blinks.uniform(0.5, BLINK_EVERY_S)
    while strength > 0 and at * FPS < num_frames:
        first = int(at * FPS)
        close[first : first + len(BLINK)] = np.maximum(close[first : first + len(BLINK)], BLINK)
        at += BLINK_AT_LEAST_S + blinks.exponential(
            (BLINK_EVERY_S - BLINK_AT_LEAST_S) / max(1.0, strength)
        )
    start = 0
    while start < num_frames:
        stop = start + max(5, int(looks.gamma(3.0, FIXATION_S / 3) * FPS))
        look[start:stop] = looks.normal(0, LOOK) * strength
        start = stop
    look[1:] = (look[1:] + look[:-1]) / 2  # the eye is under way for a frame
    close = close[:num_frames] * min(1.0, strength)
    return EyeEvents(torch.from_numpy(close).float(), torch.from_numpy(look).float())


def with_events(
    moves: StablePoints, portrait: PointsOfPictures, events: EyeEvents
) -> tuple[StablePoints, Float[Tensor, "b l 4 2"]]:
    """Movements with blinks in them, and the gaze: looks, and what keeps the eyes on the viewer
    when the head turns.
    """
    points = portrait[:, None, None] + moves
    gap = points[..., LOWER, :] - points[..., UPPER, :]
    close = events.close.to(moves)[None, :, :, None, None]
    moved = moves.clone()
    moved[..., UPPER, :] += close * (1 - MEET) * gap
    moved[..., LOWER, :] -= close * MEET * gap
    corners = [eye.start for eye in EYES] + [eye.start + 3 for eye in EYES]
    half_width = (portrait[:, [39, 45]] - portrait[:, [36, 42]]).norm(dim=-1).mean(1) / 2
    over_eyes = moves[..., 30, :] - moves[..., corners, :].mean(-2)
    gaze = events.look.to(moves) - COUNTER * over_eyes / half_width[:, None, None, None].clamp(
        min=1e-3
    )
    farthest = torch.tensor(FARTHEST, device=moves.device)
    return moved, torch.minimum(torch.maximum(gaze, -farthest), farthest)


def lip_gap(points: Float[Tensor, "*n k 2"]) -> Float[Tensor, "*n"]:
    """The gap between the inner lips across the mouth, 0 where they cross."""
    return (
        (_across(points) * (points[..., LOWER_LIP, :] - points[..., UPPER_LIP, :]).mean(-2))
        .sum(-1)
        .clamp(min=0)
    )


def with_closed_lips(
    moves: StablePoints, portrait: PointsOfPictures, rest: PerClip
) -> StablePoints:
    """Movements whose jaw is closed by as much as the lips stand apart in silence, `rest`: a
    portrait that laughs or has its mouth open would never bring its lips together.
    """
    points = portrait[:, None, None] + moves
    amount = KEPT * torch.minimum(lip_gap(points), rest.clamp(max=WIDEST_REST)[:, None, None])
    return moves - _jaw(moves)[:, None] * (amount[..., None] * _across(points))[..., None, :]


class LipFactors(NamedTuple):
    """How many times as far as they are sampled lips open, and mouths grow wider and narrower."""

    opening: float = 1.0
    width: float = 1.0


AS_SAMPLED = LipFactors()


def with_larger_lips(
    moves: StablePoints, portrait: PointsOfPictures, factors: LipFactors
) -> StablePoints:
    """Movements whose lips go further. Lips that touch go on touching."""
    points = portrait[:, None, None] + moves
    mouth = points[..., LIPS, :]
    across = _across(points)
    along = torch.stack([across[..., 1], -across[..., 0]], -1)
    wider = (factors.width - 1) * (_width(points) / _width(portrait)[:, None, None] - 1)
    aside = ((mouth - mouth.mean(-2, keepdim=True)) * along[..., None, :]).sum(-1)
    larger = moves.clone()
    larger[..., LIPS, :] += (wider[..., None] * aside)[..., None] * along[..., None, :]
    opened = KEPT * (factors.opening - 1) * lip_gap(points)
    return larger + _jaw(moves)[:, None] * (opened[..., None] * across)[..., None, :]


def _width(points: Float[Tensor, "*n k 2"]) -> Float[Tensor, "*n"]:
    """Of the mouth, in distances between the outer corners of the eyes."""
    mouth = points[..., 54, :] - points[..., 48, :]
    eyes = points[..., 45, :] - points[..., 36, :]
    return mouth.norm(dim=-1) / eyes.norm(dim=-1).clamp(min=1e-4)


def _jaw(like: Tensor) -> Float[Tensor, " k"]:
    share = torch.zeros(like.shape[-2], device=like.device)
    share[list(JAW)] = torch.tensor(list(JAW.values()), device=like.device)
    return share


def _across(points: Float[Tensor, "*n k 2"]) -> Float[Tensor, "*n 2"]:
    """The unit vector from the upper lip to the lower, at right angles to the line between the
    corners of the mouth.
    """
    along = points[..., 64, :] - points[..., 60, :]
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    return across / across.norm(dim=-1, keepdim=True).clamp(min=1e-4)


def head_of(
    moves: Float[Tensor, "b l g k 2"], portrait: PointsOfPictures
) -> Float[Tensor, "b l g k 2"]:
    """The head's part of movements: the affine map that the stable points follow. The rest is the
    face's own.
    """
    homogeneous = torch.cat([portrait, torch.ones_like(portrait[..., :1])], -1)
    fit = torch.linalg.pinv(homogeneous[:, STABLE])  # [b, 3, points]
    affine = torch.einsum("bij,blfjd->blfid", fit, moves[..., STABLE, :])
    return torch.einsum("bki,blfid->blfkd", homogeneous, affine)


def at_strengths(
    moves: StablePoints, portrait: PointsOfPictures, strengths: Strengths
) -> StablePoints:
    """Movements of which the head's, the mouth's and the eyes' part is scaled."""
    head = head_of(moves, portrait)
    share = torch.ones(moves.shape[-2], device=moves.device)
    share[list(MOUTH)], share[list(LIDS_AND_BROWS)] = strengths.lips, strengths.eyes
    return strengths.head * head + share[:, None] * (moves - head)
