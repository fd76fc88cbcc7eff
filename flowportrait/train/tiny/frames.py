"""Decoded training clips in flat arrays: random access to any frame costs one page read, not a
video seek.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.data.sources import RENDERED_SPLITS, SourceClip
from flowportrait.errors import DataError
from flowportrait.media import FPS
from flowportrait.sound import SPEECH_HZ

NUM_ARKIT = 52


@dataclass(frozen=True)
class CachedClip:
    """One clip's place in the arrays of a `ClipCache`."""

    key: str
    source: str
    identity: str
    voice: str
    text: str
    split: str
    frame_start: int
    num_frames: int
    audio_start: int
    num_samples: int
    labelled: bool


def in_todays_words(clip: dict) -> dict:
    """A clip of a cache's index; caches of earlier versions call the held-out split validation."""
    return clip | {"split": RENDERED_SPLITS.get(clip["split"], clip["split"])}


class ClipCache:
    """Frames uint8 [n, s, s, 3] at 24 fps, sound int16 at 16 kHz, landmarks [n, 68, 2] in px,
    blendshapes [n, 52].

    Unlabelled frames carry nan landmarks and blendshapes. Built once by `build`, then read through
    memory maps.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        index = json.loads((self.root / "index.json").read_text())
        self.size_px: int = index["size_px"]
        self.clips = [CachedClip(**in_todays_words(clip)) for clip in index["clips"]]
        total = index["num_frames"]
        self.frames = np.memmap(
            self.root / "frames.u8", np.uint8, "r", shape=(total, self.size_px, self.size_px, 3)
        )
        self.audio = np.memmap(self.root / "audio.i16", np.int16, "r")
        self.landmarks = np.load(self.root / "landmarks.npy")
        self.arkit = np.load(self.root / "arkit.npy")
        self._tracked: dict[str, bool] = {}

    def audio_of(self, clip: CachedClip) -> Array:
        """The whole sound of a clip, float32 in [-1, 1]."""
        return (
            self.audio[clip.audio_start : clip.audio_start + clip.num_samples].astype(np.float32)
            / 32768
        )

    def tracked(self, clip: CachedClip) -> bool:
        """Whether every frame of a clip has landmarks."""
        if clip.key not in self._tracked:
            rows = self.landmarks[clip.frame_start : clip.frame_start + clip.num_frames]
            self._tracked[clip.key] = bool(np.isfinite(rows).all())
        return self._tracked[clip.key]

    @classmethod
    def build(cls, root: Path, clips: list[SourceClip], size_px: int, log=print) -> ClipCache:
        """Decode `clips` into `root`; an existing complete cache of the same clips is reused."""
        root = Path(root)
        keys = [clip.key for clip in clips]
        index = root / "index.json"
        if index.is_file() and [c["key"] for c in json.loads(index.read_text())["clips"]] == keys:
            return cls(root)
        root.mkdir(parents=True, exist_ok=True)
        rows = []
        landmarks = []
        arkit = []
        num_frames = 0
        num_samples = 0
        with (
            (root / "frames.u8").open("wb") as frame_file,
            (root / "audio.i16").open("wb") as audio_file,
        ):
            for number, clip in enumerate(clips):
                frames, audio = _decode(clip.video, size_px)
                clip_landmarks, clip_arkit = labels_of(clip, len(frames), size_px)
                rows.append(
                    {
                        name: getattr(clip, name)
                        for name in ("key", "source", "identity", "voice", "text", "split")
                    }
                    | dict(
                        frame_start=num_frames,
                        num_frames=len(frames),
                        audio_start=num_samples,
                        num_samples=len(audio),
                        labelled=bool(np.isfinite(clip_arkit).any()),
                    )
                )
                frame_file.write(frames.tobytes())
                audio_file.write(audio.tobytes())
                landmarks.append(clip_landmarks)
                arkit.append(clip_arkit)
                num_frames += len(frames)
                num_samples += len(audio)
                if number % 100 == 0:
                    log(f"cache {root.name}: {number}/{len(clips)} clips, {num_frames} frames")
        np.save(root / "landmarks.npy", np.concatenate(landmarks))
        np.save(root / "arkit.npy", np.concatenate(arkit))
        index.write_text(json.dumps({"size_px": size_px, "num_frames": num_frames, "clips": rows}))
        return cls(root)


def _decode(path: Path, size_px: int) -> tuple[Array, Array]:
    """Frames [n, size, size, 3] at 24 fps and 16 kHz mono int16 sound of one square video file."""
    frames = media.Clip(path).frames_at(FPS)
    sound = media.read_pcm(path, SPEECH_HZ)
    if not len(sound):
        raise DataError(f"{path}: its sound track is empty; give a clip with sound")
    if frames.shape[1:3] != (size_px, size_px):
        sized = [
            Image.fromarray(frame).resize((size_px, size_px), Image.Resampling.BICUBIC)
            for frame in frames
        ]
        frames = np.stack([np.asarray(frame) for frame in sized])
    return frames, sound


def labels_of(clip: SourceClip, num_frames: int, size_px: int) -> tuple[Array, Array]:
    """Landmarks [n, 68, 2] in px of frames of that size and blendshapes [n, 52] of a clip's frames
    at 24 a second; nan where it has no labels.
    """
    landmarks = np.full((num_frames, 68, 2), np.nan, np.float32)
    arkit = np.full((num_frames, NUM_ARKIT), np.nan, np.float32)
    if clip.labels is None:
        return landmarks, arkit
    with np.load(clip.labels) as stored:
        points = stored["landmarks68"].astype(np.float32)
        shapes = stored["arkit"].astype(np.float32)
        scale = size_px / (float(stored["size_px"]) if "size_px" in stored else 128.0)
        if clip.source == "grid":
            indices = media.nearest_frames(len(points), 25.0, FPS)[:num_frames]
            points = points[indices]
            shapes = shapes[indices]
    count = min(num_frames, len(points))
    landmarks[:count] = points[:count] * scale
    arkit[:count] = shapes[:count]
    return landmarks, arkit
