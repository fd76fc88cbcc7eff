"""Lips as MediaPipe's face mesh sees them: a look at pixels that no training has rewarded."""

from __future__ import annotations

import hashlib
import math
from functools import partial

import torch
from einops import rearrange

from flowportrait.arrays import Array
from flowportrait.codecs.finder import mesh_sight
from flowportrait.faces.landmarks import lip_opening
from flowportrait.scoring.reward import Candidate, Measure
from flowportrait.train.landmark_measures import follows

_KEPT = 256  # openings of real clips, which come again at every look

_openings: dict[bytes, Array | None] = {}


@partial(Measure, monitor=True)
def mesh_lips(clip: Candidate) -> float:
    """Correlation of the lips' opening with the real clip's, both as the face mesh sees them; nan
    without one, where it sees no face, or where the real lips stand still.
    """
    true = None if clip.truth is None else _true_opening(clip.truth)
    made = None if true is None else _opening(clip.frames)
    if made is None:
        return math.nan
    count = min(len(made), len(true))
    return float(follows(*map(torch.from_numpy, (made[:count], true[:count]))))


def _true_opening(truth: Array) -> Array | None:
    """How far the mouth of a true clip is open, found once."""
    key = hashlib.sha256(truth.tobytes()).digest()
    if key not in _openings:
        while len(_openings) >= _KEPT:
            _openings.pop(next(iter(_openings)), None)
        _openings[key] = _opening(truth)
    return _openings[key]


def _opening(frames: Array) -> Array | None:
    """[f] how far the mouth is open; None without a face."""
    pixels = torch.from_numpy(frames.copy()).float() / 127.5 - 1
    with torch.inference_mode():
        seen = mesh_sight(rearrange(pixels, "f h w c -> f c h w"))
    if seen is None:
        return None
    return lip_opening(seen.points.numpy())
