"""Whether faces stand upright: footage on its side or upside down is dropped, never passed as good.

A detector finds such faces all the same. The face mesh tells how far each is turned; a second apart
is often enough, since a film seldom turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from flowportrait.arrays import Picture
from flowportrait.faces.facemesh import FaceMesh
from flowportrait.faces.framing import FaceBox
from flowportrait.media import FPS
from flowportrait.prepare.tracks import FacesConfig, Track

_CERTAIN = 0.5
"""Least presence of a mesh whose turn is believed."""


@cache
def _face_mesh() -> FaceMesh:
    """The mesh that tells turns, loaded once for all sources."""
    return FaceMesh()


@dataclass
class Turns:
    """Rotation of the faces of one source, measured about once a second."""

    config: FacesConfig
    found_deg: dict[tuple[int, FaceBox], float] = field(default_factory=dict)

    def look(
        self,
        tick: int,
        frame: Picture,
        faces: Iterable[FaceBox],
    ) -> None:
        """Measures the faces that were detected in a frame, if it is its turn."""
        every = self.config.detect_every * max(1, round(FPS / self.config.detect_every))
        if self.config.max_turn_deg >= 180 or tick % every:
            return
        for face in faces:
            mesh = _face_mesh().find(frame, face)
            if mesh.presence >= _CERTAIN:
                self.found_deg[tick, face] = abs(math.degrees(mesh.roll))

    def is_turned(self, track: Track) -> bool:
        """Whether a face is rotated by more than allowed, in most measurements."""
        looks = zip(track.ticks, track.boxes, strict=True)
        turns = [self.found_deg[look] for look in looks if look in self.found_deg]
        return bool(turns) and float(np.median(turns)) > self.config.max_turn_deg
