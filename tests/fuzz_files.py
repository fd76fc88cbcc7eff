"""Reads damaged copies of small files, one after another, in a process whose memory is limited.

python fuzz_files.py FOLDER SEED COUNT FOLDER holds whole files; a line of JSON for each input on
stdout: first its number and name, then what came of it ("read", or the one line of the error), or
the traceback of anything else.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import traceback
from itertools import islice
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.errors import MediaError
from flowportrait.pictures import read_portrait
from flowportrait.prepare.footage import Unusable, probe
from flowportrait.study.blind import blind_copy

MEMORY_BYTES = 3 << 30
PICTURES = (".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp", ".avif")
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, preferably near the start, where heads are; or a part cut out or off."""
    data = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(data[: rng.integers(1, len(data))])
    if kind == 1:
        start, end = sorted(rng.integers(0, len(data), 2).tolist())
        return bytes(data[:start] + data[end:]) or b"\0"
    reach = len(data) if kind == 2 else min(len(data), 600)
    for place in rng.integers(0, reach, rng.integers(1, 12)).tolist():
        data[place] = int(rng.integers(256))
    return bytes(data)


def read(path: Path, folder: Path) -> list[str]:
    """Reads a file in every way that commands do; gives the lines of the errors."""
    if path.suffix in PICTURES:
        tries = [lambda: read_portrait(path)]
    else:
        tries = [
            lambda: media.read_audio(path, min_s=0.0, max_s=60.0),
            lambda: media.read_audio(path, mono=False, max_s=60.0),
            lambda: media.read_pcm(path, 16_000),
        ]
        if path.suffix not in SOUNDS:
            tries += [
                lambda: media.Clip(path).facts,
                lambda: list(islice(media.read_frames(path), 500)),
                lambda: list(islice(media.read_frames(path, fps=24), 2000)),
                lambda: blind_copy(path, folder / "copy.mp4"),
                lambda: probe(path).sound(folder),
                lambda: list(islice(probe(path).frames(24), 2000)),
            ]
    lines = []
    for one in tries:
        try:
            one()
        except (MediaError, Unusable) as error:
            lines.append(str(error))
    return lines


def main(whole: Path, seed: int, count: int) -> None:
    """Reads `count` damaged files."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    files = sorted(whole.iterdir())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            source = files[number % len(files)]
            print(json.dumps({"number": number, "file": source.name}), flush=True)
            path = folder / f"{number}{source.suffix}"
            path.write_bytes(damaged(source.read_bytes(), np.random.default_rng([seed, number])))
            try:
                print(json.dumps({"lines": read(path, folder)}), flush=True)
            except Exception:  # noqa: BLE001  whatever is no error of ours is what is looked for
                print(json.dumps({"traceback": traceback.format_exc()}), flush=True)
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
