"""Contact sheets: what the figures cannot say has to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

LABEL_PX = 14


def strip(frames: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` frames of a clip [f, h, w, 3], evenly spaced, first and last included."""
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def write_sheet(path: Path, rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> None:
    """One labelled row of uint8 [s, s, 3] pictures per entry; all of one size, all rows of one
    length.
    """
    size, columns = rows[0][1][0].shape[0], max(len(pictures) for _, pictures in rows)
    sheet = Image.new("RGB", (columns * size, len(rows) * (size + LABEL_PX)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, pictures) in enumerate(rows):
        top = i * (size + LABEL_PX)
        draw.text((2, top + 1), label, fill="black")
        for j, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (j * size, top + LABEL_PX))
    sheet.save(path)
