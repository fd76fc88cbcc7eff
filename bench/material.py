"""What the bench measures on: held-out clips and real videos, framed the way a user's portrait is
framed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import DataError, MediaError
from flowportrait.faces.framing import FaceDetector, Square, frame_portrait
from flowportrait.media import FPS, Sound, read_audio, read_frames
from flowportrait.registry import FACE_DETECTORS

VIDEO_KINDS = (".mp4", ".mpg", ".mov", ".webm")
SOUND_KINDS = (".wav", ".mp3", ".flac", ".m4a", ".ogg")
PICTURE_KINDS = (".jpg", ".jpeg", ".png", ".webp")


AS_TRAINED = {"seed": 0, "crop": "none", "size": 128, "frame": "face"}
"""How a pipeline makes a video of a portrait that is cut already, at the size that the model was
trained on.
"""


@dataclass(frozen=True)
class FramedClip:
    """A clip cut to the square around its first frame's face, at 24 fps."""

    key: str
    path: Path
    frames: np.ndarray  # uint8 [f, s, s, 3]
    landmarks68: (
        np.ndarray | None
    )  # ground truth, float32 [f, 68, 2] in px of `frames`; rendered clips only
    segments: list[tuple[float, float, str]] | None  # visemes in time; rendered clips only

    @cached_property
    def sound(self) -> Sound:
        """The clip's own sound, mono, as long as its frames."""
        sound = read_audio(self.path)
        return Sound(
            sound.samples[: round(len(self.frames) / FPS * sound.sample_rate)], sound.sample_rate
        )


class Framing:
    """Cuts clips as Appendix B cuts portraits, with the product's default detector."""

    def __init__(self, size_px: int):
        self.size_px = size_px
        self._detector: FaceDetector = FACE_DETECTORS.load("centerface")()

    def clip(self, key: str, path: Path, max_s: float) -> FramedClip:
        """At most `max_s` of a video; raises DataError when its first frame shows no face."""
        frames = list(islice(read_frames(path, fps=FPS), round(max_s * FPS)))
        return FramedClip(key, path, self._cut(frames, self._square(frames[0])), None, None)

    def world_clip(self, clip: SourceClip, segments: list, max_s: float) -> FramedClip:
        """A rendered clip with its ground truth."""
        frames = list(islice(read_frames(clip.video, fps=FPS), round(max_s * FPS)))
        square = self._square(frames[0])
        with np.load(clip.labels) as labels:
            landmarks = labels["landmarks68"].astype(np.float32)[: len(frames)]
        landmarks = (landmarks - (square.x, square.y)) * (self.size_px / square.side)
        cut = self._cut(frames[: len(landmarks)], square)
        return FramedClip(clip.key, clip.video, cut, landmarks, segments)

    def _square(self, frame: np.ndarray) -> Square:
        return frame_portrait(frame, self.size_px, "auto", self._detector)[1].square

    def _cut(self, frames: list[np.ndarray], square: Square) -> np.ndarray:
        x, y, side = square
        size = (self.size_px, self.size_px)
        box = (x, y, x + side, y + side)
        return np.stack(
            [Image.fromarray(f).resize(size, Image.Resampling.LANCZOS, box) for f in frames]
        )


def world_clips(
    root: Path, split: str, framing: Framing, limit: int, max_s: float = 5.0
) -> Iterator[FramedClip]:
    """Rendered clips of a split, spread evenly over it; "both" means held-out and test people."""
    records = (json.loads(line) for line in (root / "clips.jsonl").read_text().splitlines())
    segments = {record["key"]: record["visemes_seg"] for record in records}
    splits = ("test", "held_out") if split == "both" else (split,)
    for clip in _spread([clip for clip in load_sources(world=root) if clip.split in splits], limit):
        yield framing.world_clip(clip, segments[clip.key], max_s)


def grid_clips(
    root: Path, split: str, framing: Framing, limit: int, max_s: float = 5.0
) -> Iterator[FramedClip]:
    """GRID clips of a split (test: sentences that were never trained on)."""
    for clip in _spread([clip for clip in load_sources(grid=root) if clip.split == split], limit):
        yield framing.clip(clip.key, clip.video, max_s)


def real_clips(
    folder: Path, framing: Framing, limit: int, max_s: float = 4.0
) -> Iterator[FramedClip]:
    """The videos real__* of a folder; those without a face in the first frame are named and left
    out.
    """
    for path in _spread(files_of([folder], VIDEO_KINDS, prefix="real__"), limit):
        try:
            yield framing.clip(path.stem, path, max_s)
        except (DataError, MediaError) as error:
            print(f"left out {path.name}: {error}")


def files_of(paths: list[Path], kinds: tuple[str, ...], prefix: str = "") -> list[Path]:
    """The files among `paths` and in the folders among them, sorted by name."""
    files = [
        file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    return [file for file in files if file.suffix.lower() in kinds and file.name.startswith(prefix)]


def _spread(items: list, limit: int) -> list:
    if len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]
