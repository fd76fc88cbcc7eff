"""One still picture of one person, to be made to talk: python -m flowportrait.world.portrait PERSON
OUT.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait.world.articulate import close_lips
from flowportrait.world.camera import Motion
from flowportrait.world.head import build_head
from flowportrait.world.names import SHAPE, VISEME, VISEMES, weights
from flowportrait.world.scene import Scene

_FRIENDLY = weights(mouthSmile=0.10, eyeSquint=0.08)


def portrait(rig: str, person: int, size_px: int, take: int = 0) -> np.ndarray:
    """uint8 [size, size, 3]: the person of a seed looking at the viewer, mouth closed, nearly
    neutral.

    Light and background are those of the person's clip number `take` in a set of seed 0. Raises
    DataError when there is no such rig.
    """
    head = build_head(rig, person)
    faces = np.zeros((1, len(SHAPE)))
    faces[0, list(_FRIENDLY)] = list(_FRIENDLY.values())
    silence = np.eye(len(VISEMES))[[VISEME["sil"]]]
    faces = close_lips(faces, silence, head.lips).astype(np.float32)
    motion = Motion(
        faces,
        np.zeros((1, 6)),
        np.zeros((1, 2)),
        np.zeros(1),
    )
    [filmed] = Scene(head, [0, person, take], size_px).film(motion)
    return filmed.frame


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the picture that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m flowportrait.world.portrait", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "person",
        type=int,
        help="the person's seed, as in a record; those that end in 9 are for test",
    )
    parser.add_argument("out", type=Path, help="a .png or .jpg")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument(
        "--take", type=int, default=0, help="whose light and background: that clip of the person's"
    )
    parser.add_argument("--rig", default="anny", help="anny or FILE.npz")
    asked = parser.parse_args(arguments)
    if asked.out.suffix not in (".png", ".jpg") or not asked.out.parent.is_dir():
        parser.error(
            f"{asked.out}: cannot be written; give a name ending in .png or .jpg in a folder that"
            " exists"
        )
    Image.fromarray(portrait(asked.rig, asked.person, asked.size, asked.take)).save(
        asked.out, quality=92
    )


if __name__ == "__main__":
    main()
