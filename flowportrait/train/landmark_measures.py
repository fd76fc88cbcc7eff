"""Measures of a clip's landmarks beside the real clip's: rewards and monitors that need no pixel.

A codec that moves landmarks says where they are without decoding, so an update costs half as much.
All are nan where the real clip, or its landmarks, are not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowportrait.arrays import Array
from flowportrait.codecs.liveliness import STABLE, head_of
from flowportrait.faces.landmarks import lip_opening, mouth_width
from flowportrait.scoring.reward import Candidate, Measure
from flowportrait.tensors import LandmarkTrack

TensorPerFrame = Float[Tensor, " f"]

LEAST_OPENING = 0.01
"""Eye distances by which the real mouth must vary to count as moving."""
LEAST_MOVE = 0.002
"""Half-pictures by which the real face or head must vary to count as moving."""
STILL = 1e-6  # half-pictures of a point that stands still
EXPRESSIVE = (*range(17, 27), 48, 54)  # brows and the corners of the mouth

of_points = partial(Measure, reads="points")
monitor = partial(of_points, monitor=True)


def differentiable(measure: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """A measure of a clip by its function of landmarks [f, 68, 2] made and true."""

    @wraps(measure)
    def of_clip(clip: Candidate) -> float:
        made, true = (torch.from_numpy(points) for points in _both(clip))
        if len(true):
            return float(measure(made, true))
        return math.nan

    return of_points(of_clip, of_points=measure)


@differentiable
def landmark_lips(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Correlation of the lips' opening with the real one; nan where the real lips stand still."""
    return follows(lip_opening(made), lip_opening(true))


@differentiable
def landmark_lip_size(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Concordance of the lips' opening with the real one about their own means: finders of
    landmarks differ in how far apart closed lips are.
    """
    return concords(lip_opening(made), lip_opening(true))


@differentiable
def landmark_mouth_width(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Concordance of the mouth's width with the real one about their own means: lips that round and
    spread.
    """
    return concords(mouth_width(made), mouth_width(true))


@differentiable
def landmark_lip_level(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Minus how far the lips' mean opening is from the real one's, in eye distances. Correlation
    and concordance leave it out; it keeps a mouth shut in silence.
    """
    return -(lip_opening(made).mean() - lip_opening(true).mean()).abs()


@differentiable
def landmark_expression(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Minus the distance of brows' and mouth corners' liveliness from the real face's, in e-folds;
    the head's own movement does not count.
    """
    return _as_lively(*(_face_moves(points)[:, EXPRESSIVE] for points in (made, true)))


@differentiable
def landmark_motion(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Minus the distance of the head's liveliness from the real head's, in e-folds."""
    return _as_lively(*(points[:, STABLE] for points in (made, true)))


@differentiable
def landmark_closeness(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Minus the mean distance of the landmarks from the real ones, in percent of the picture."""
    return -50 * torch.linalg.vector_norm(made - true, dim=-1).mean()


@differentiable
def landmark_steadiness(made: LandmarkTrack, true: LandmarkTrack) -> Tensor:
    """Minus the jitter of the landmarks. A still clip is the steadiest of all."""
    return -_jitter(made)


@partial(monitor, better="lower")
def landmark_jitter(clip: Candidate) -> float:
    """Change of change over change, after Eq. 15 but of landmarks: 0 for even motion, up to 2."""
    if clip.points is None:
        return math.nan
    return float(_jitter(torch.from_numpy(clip.points.astype(np.float64))))


@monitor
def landmark_speed(clip: Candidate) -> float:
    """How far landmarks move, in percent of the picture per frame."""
    if clip.points is None or len(clip.points) < 2:
        return math.nan
    return 50 * float(np.linalg.norm(np.diff(clip.points, axis=0), axis=-1).mean())


def follows(made: TensorPerFrame, true: TensorPerFrame) -> Tensor:
    """Correlation of two openings, in eye distances, where the true one moves, else nan; 0 for a
    made one that stands still, without a jump on the way.
    """
    still = LEAST_OPENING / 2
    size = (made.var(correction=0) + still**2).sqrt() * true.std(correction=0)
    return _where_it_moves(true, _together(made, true) / size)


def concords(made: TensorPerFrame, true: TensorPerFrame) -> Tensor:
    """Concordance (Lin 1989) about their own means, in eye distances: 1 where they move alike, less
    where they differ in time or amplitude; nan where the true one stands still.
    """
    size = made.var(correction=0) + true.var(correction=0)
    return _where_it_moves(true, 2 * _together(made, true) / size)


def _together(made: TensorPerFrame, true: TensorPerFrame) -> Tensor:
    """Their covariance."""
    return ((made - made.mean()) * (true - true.mean())).mean()


def _where_it_moves(true: TensorPerFrame, number: Tensor) -> Tensor:
    """The number, nan where the real mouth stands still."""
    moves = len(true) >= 3 and float(true.std(correction=0)) >= LEAST_OPENING
    if moves:
        return number
    return number * math.nan


def _both(clip: Candidate) -> tuple[Array, Array]:
    """Landmarks [f, 68, 2] made and true, equally long; none where one of them is not known."""
    if clip.points is None or clip.true_points is None:
        return np.zeros((0, 68, 2)), np.zeros((0, 68, 2))
    count = min(len(clip.points), len(clip.true_points))
    return clip.points[:count].astype(np.float64), clip.true_points[:count].astype(np.float64)


def _as_lively(made: Float[Tensor, "f n 2"], true: Float[Tensor, "f n 2"]) -> Tensor:
    """Minus |log| of how much the made points vary over how much the real ones do; nan where these
    stand still.
    """
    spread = _spread(made)
    real = _spread(true)
    lively = len(true) >= 3 and float(real) >= LEAST_MOVE
    if lively:
        return -(((spread + LEAST_MOVE / 10) / real).log()).abs()
    return spread * math.nan


def _spread(points: Float[Tensor, "f n 2"]) -> Tensor:
    """The standard deviation of coordinates over time, mean over all of them; its gradient is
    finite where they stand still, too.
    """
    return (points.var(0, correction=0) + STILL**2).sqrt().mean()


def _jitter(points: LandmarkTrack) -> Tensor:
    """Change of change over change; nan for fewer than three frames."""
    if len(points) < 3:
        return points.sum() * math.nan
    change = points.diff(dim=0)
    size = torch.linalg.vector_norm(change, dim=-1).mean()
    return torch.linalg.vector_norm(change.diff(dim=0), dim=-1).mean() / (size + 1e-4)


def _face_moves(points: LandmarkTrack) -> LandmarkTrack:
    """Movement since the first frame without the head's."""
    moves = (points - points[:1])[None, :, None]
    return (moves - head_of(moves, points[:1]))[0, :, 0]
