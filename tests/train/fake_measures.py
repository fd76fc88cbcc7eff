"""Scorers with chosen faults."""

import math

from flowportrait.train import measures


def sometimes(clip):
    """No score for clips whose first pixel says so."""
    return math.nan if int(clip.frames[-1, 0, 0, 0]) % 5 == 0 else measures.closeness(clip)


def never(clip):
    return math.nan


def even(clip):
    return 0.1


class Falling:
    """Less at every call: what a monitor sees of a video that comes to a standstill."""

    def __init__(self):
        self.calls = 0

    def __call__(self, clip):
        self.calls += 1
        return 1.0 / self.calls


falling = Falling()
