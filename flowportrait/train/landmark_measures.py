"""Measures of a clip's landmarks beside the real clip's: rewards and monitors that need no pixel.

A codec that moves landmarks says where they are without decoding, so an update costs half as much.
All are nan where the real clip, or its landmarks, are not known.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from flowportrait.codecs.liveliness import STABLE, head_of
from flowportrait.faces.landmarks import lip_opening
from flowportrait.scoring.reward import Candidate, Measure

LEAST_OPENING = 0.01
"""Eye distances by which the real lips must vary to count as moving."""
LEAST_MOVE = 0.002
"""Half-pictures by which the real face or head must vary to count as moving."""
EXPRESSIVE = (*range(17, 27), 48, 54)  # brows and the corners of the mouth

of_points = partial(Measure, reads="points")
monitor = partial(of_points, monitor=True)


@of_points
def landmark_lips(clip: Candidate) -> float:
    """Correlation of the lips' opening with the real one; nan where the real lips stand still."""
    return follows(*_openings(clip))


@of_points
def landmark_lip_size(clip: Candidate) -> float:
    """Concordance of the lips' opening with the real one (Lin 1989) about their own means: 1 where
    they move alike, less where they differ in time or amplitude. Their means are left out, because
    finders of landmarks differ in how far apart closed lips are.
    """
    made, true = _openings(clip)
    if len(true) < 3 or true.std() < LEAST_OPENING:
        return math.nan
    together = 2 * ((made - made.mean()) * (true - true.mean())).mean()
    return float(together / (made.var() + true.var()))


@of_points
def landmark_expression(clip: Candidate) -> float:
    """Minus the distance of brows' and mouth corners' liveliness from the real face's, in e-folds;
    the head's own movement does not count.
    """
    return _alike(clip, lambda points: _face_moves(points)[:, EXPRESSIVE])


@of_points
def landmark_motion(clip: Candidate) -> float:
    """Minus the distance of the head's liveliness from the real head's, in e-folds."""
    return _alike(clip, lambda points: points[:, STABLE])


@of_points
def landmark_closeness(clip: Candidate) -> float:
    """Minus the mean distance of the landmarks from the real ones, in percent of the picture."""
    made, true = _both(clip)
    return -50 * float(np.linalg.norm(made - true, axis=-1).mean()) if len(true) else math.nan


@of_points
def landmark_steadiness(clip: Candidate) -> float:
    """Minus the jitter of the landmarks. A still clip is the steadiest of all."""
    return -landmark_jitter(clip)


@partial(monitor, better="lower")
def landmark_jitter(clip: Candidate) -> float:
    """Change of change over change, after Eq. 15 but of landmarks: 0 for even motion, up to 2."""
    if clip.points is None or len(clip.points) < 3:
        return math.nan
    change = np.diff(clip.points, axis=0)
    size = np.linalg.norm(change, axis=-1).mean()
    return float(np.linalg.norm(np.diff(change, axis=0), axis=-1).mean() / (size + 1e-4))


@monitor
def landmark_speed(clip: Candidate) -> float:
    """How far landmarks move, in percent of the picture per frame."""
    if clip.points is None or len(clip.points) < 2:
        return math.nan
    return 50 * float(np.linalg.norm(np.diff(clip.points, axis=0), axis=-1).mean())


def follows(made: np.ndarray, true: np.ndarray) -> float:
    """Correlation of two openings [f], in eye distances, where the true one moves, else nan; 0 for
    a made one that stands still, without a jump on the way.
    """
    if len(true) < 3 or true.std() < LEAST_OPENING:
        return math.nan
    together = ((made - made.mean()) * (true - true.mean())).mean()
    return float(together / (math.hypot(made.std(), LEAST_OPENING / 2) * true.std()))


def _both(clip: Candidate) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [f, 68, 2] made and true, equally long; none where one of them is not known."""
    if clip.points is None or clip.true_points is None:
        return np.zeros((0, 68, 2)), np.zeros((0, 68, 2))
    count = min(len(clip.points), len(clip.true_points))
    return clip.points[:count].astype(np.float64), clip.true_points[:count].astype(np.float64)


def _openings(clip: Candidate) -> tuple[np.ndarray, np.ndarray]:
    made, true = _both(clip)
    return lip_opening(made), lip_opening(true)


def _alike(clip: Candidate, moves_of) -> float:
    """Minus |log| of how much the made points vary over how much the real ones do."""
    made, true = _both(clip)
    if len(true) < 3:
        return math.nan
    spread, real = (float(moves_of(points).std(0).mean()) for points in (made, true))
    return math.nan if real < LEAST_MOVE else -abs(math.log((spread + LEAST_MOVE / 10) / real))


def _face_moves(points: np.ndarray) -> np.ndarray:
    """Movement [f, 68, 2] since the first frame without the head's."""
    moves = torch.from_numpy(points - points[:1])[None, :, None]
    head = head_of(moves, torch.from_numpy(points[:1]))
    return (moves - head)[0, :, 0].numpy()
