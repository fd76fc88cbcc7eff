"""Frames of videos of the same speech below each other, for pages.

    python -m bench.strips VIDEO... --out docs/before-after.jpg [--times 0 1.2 2.4 3.6] [--side 384]

A row is a video, a column a time; squares of another size are enlarged bicubically, as a player
would show them.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait.media import Clip


def row(video: Path, times: list[float], side: int) -> np.ndarray:
    """The frames of a video that are on show at these times, uint8 [side, n side, 3]."""
    clip = Clip(video)
    numbers = [min(len(clip.frames) - 1, round(time * clip.fps)) for time in times]
    scaled = (
        Image.fromarray(clip.frames[number]).resize((side, side), Image.Resampling.BICUBIC)
        for number in numbers
    )
    return np.concatenate([np.asarray(frame) for frame in scaled], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=float, nargs="+", default=[0.0, 1.2, 2.4, 3.6])
    parser.add_argument("--side", type=int, default=384, help="of a frame, px")
    options = parser.parse_args()
    rows = [row(video, options.times, options.side) for video in options.videos]
    Image.fromarray(np.concatenate(rows)).save(options.out, quality=90)


if __name__ == "__main__":
    main()
