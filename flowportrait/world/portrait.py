"""One still picture of one person, to talk with."""

import numpy as np

from flowportrait.world.articulate import close_lips
from flowportrait.world.head import build_head
from flowportrait.world.names import SHAPE, VISEME, VISEMES, weights
from flowportrait.world.scene import Motion, Scene

_FRIENDLY = weights(mouthSmile=0.10, eyeSquint=0.08)


def portrait(rig: str, person: int, size_px: int, take: int = 0) -> np.ndarray:
    """uint8 [size, size, 3]: the person of a seed looking at the viewer, mouth closed, nearly neutral.

    Light and background are those of the person's clip number `take` in a set of seed 0. Raises DataError when
    there is no such rig.
    """
    head = build_head(rig, person)
    faces = np.zeros((1, len(SHAPE)))
    faces[0, list(_FRIENDLY)] = list(_FRIENDLY.values())
    silence = np.eye(len(VISEMES))[[VISEME["sil"]]]
    faces = close_lips(faces, silence, head.lips).astype(np.float32)
    motion = Motion(faces, np.zeros((1, 6)), np.zeros((1, 2)), np.zeros(1))
    [filmed] = Scene(head, [0, person, take], size_px).film(motion)
    return filmed.frame
