"""Training data of the mouth painter: patches of frames as the codec shows them without a painted
mouth, beside the same patches of the true frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from flowportrait.codecs.canvas import Canvas
from flowportrait.codecs.motion import GROUP
from flowportrait.codecs.mouth_net import SkullFrame
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.data.sources import RENDERED_SPLITS, SourceClip
from flowportrait.errors import DataError
from flowportrait.faces.facemesh import FaceMesh
from flowportrait.faces.framing import Square, face_in_square
from flowportrait.faces.landmarks import lip_opening
from flowportrait.media import read_frames

STRETCH = 2 * GROUP  # frames in a row


@dataclass(frozen=True)
class MouthPatches:
    """n stretches of 8 frames: patches `shown` and `true` uint8 [n, 8, 96, 112, 3], the `landmarks`
    [n, 8, 68, 2] in the square; the portrait's patch [n, 96, 112, 3] and landmarks [n, 68, 2]; and
    the `split` of each stretch.
    """

    shown: UInt8[np.ndarray, "n 8 96 112 3"]
    true: UInt8[np.ndarray, "n 8 96 112 3"]
    landmarks: Float[np.ndarray, "n 8 68 2"]
    portrait: UInt8[np.ndarray, "n 96 112 3"]
    portrait_landmarks: Float[np.ndarray, "n 68 2"]
    split: list[str]

    @classmethod
    def build(
        cls, root: Path, clips: list[SourceClip], codec: PortraitCodec, seed: int, log=print
    ) -> MouthPatches:
        """Cuts the patches of all clips but the test split's into `root`; what is there already is
        read.
        """
        root.mkdir(parents=True, exist_ok=True)
        index = root / "index.json"
        keys = [clip.key for clip in clips]
        if not index.is_file() or json.loads(index.read_text())["keys"] != keys:
            rows: dict[str, list] = {name: [] for name in cls.__dataclass_fields__}
            mesh = FaceMesh()
            for number, clip in enumerate(clips):
                if clip.split == "test":
                    continue
                for row in _stretches(clip, codec, mesh, np.random.default_rng([seed, number])):
                    for name, value in zip(rows, (*row, clip.split), strict=True):
                        rows[name].append(value)
                if number % 20 == 0:
                    log(
                        f"mouth patches: {number}/{len(clips)} clips, {len(rows['split'])}"
                        " stretches",
                        flush=True,
                    )
            splits = rows.pop("split")
            for name, values in rows.items():
                np.save(root / f"{name}.npy", np.stack(values))
            index.write_text(json.dumps({"keys": keys, "split": splits}))
        arrays = {
            name: np.load(root / f"{name}.npy", mmap_mode="r")
            for name in cls.__dataclass_fields__
            if name != "split"
        }
        splits = json.loads(index.read_text())["split"]
        return cls(**arrays, split=[RENDERED_SPLITS.get(split, split) for split in splits])


def _stretches(
    clip: SourceClip, codec: PortraitCodec, mesh: FaceMesh, rng: np.random.Generator
) -> Iterator[tuple]:
    """Of a clip: from its first frame, from one with an open mouth and, where it is rendered, from
    another.
    """
    frames = np.stack(list(read_frames(clip.video)))
    size = frames.shape[1]
    if len(frames) < STRETCH + 1 or frames.shape[2] != size:
        raise DataError(
            f"{clip.video}: {len(frames)} frames of {frames.shape[2]}x{size} px; give square clips"
            " with more frames"
        )
    known = _labels(clip, size)
    find = lambda number: mesh.find(frames[number], face_in_square(Square(0, 0, size)))  # noqa: E731
    if known is None:
        start = int(rng.integers(0, len(frames) - STRETCH))
        numbers = [0, *range(start, start + STRETCH)]
        found = [find(number) for number in numbers]
        if min(one.presence for one in found) < 0.9:
            return
        points = np.stack([_in_square(one.landmarks68, size) for one in found])
        yield _cut(frames, 0, np.array(numbers[1:]), points[0], points[1:] - points[0], codec)
        return
    wide = int(np.argmax(lip_opening(known)[: len(frames)]))
    for portrait in (0, wide, int(rng.integers(len(frames)))):
        found = find(portrait)
        if found.presence < 0.9:
            continue
        own = _in_square(found.landmarks68, size)
        for _ in range(2):
            start = int(rng.integers(0, min(len(frames), len(known)) - STRETCH + 1))
            numbers = np.arange(start, start + STRETCH)
            moves = (known[numbers] - known[portrait]) * 2 / size
            yield _cut(frames, portrait, numbers, own, moves, codec)


@torch.inference_mode()
def _cut(
    frames,
    portrait: int,
    numbers: np.ndarray,
    own: np.ndarray,
    moves: np.ndarray,
    codec: PortraitCodec,
) -> tuple:
    size_px = codec.config.size_px
    pixels = _pixels(frames[portrait][None])
    small = torch.nn.functional.interpolate(
        pixels, (size_px, size_px), mode="bilinear", antialias=True
    )
    landmarks = torch.from_numpy(own).float()[None]
    context = codec.prepare(small, landmarks, Canvas(pixels))
    groups = torch.from_numpy(moves).float().unflatten(0, (-1, GROUP))[None]
    shown, at = codec.without_mouth(codec.motion.parts_of(groups), context)
    where, own_frame = SkullFrame.of(at), SkullFrame.of(landmarks)
    true = where.cut(_pixels(frames[numbers]))
    portrait = _bytes(own_frame.cut(pixels))[0]
    return _bytes(where.cut(shown)), _bytes(true), at.numpy(), portrait, landmarks[0].numpy()


def _labels(clip: SourceClip, size: int) -> np.ndarray | None:
    """Landmarks of a rendered clip in pixels of its frames; other clips are looked at."""
    if clip.source != "world" or clip.labels is None:
        return None
    with np.load(clip.labels) as stored:
        written = float(stored["size_px"]) if "size_px" in stored else size
        return stored["landmarks68"].astype(np.float32) * (size / written)


def _in_square(points: np.ndarray, size: int) -> np.ndarray:
    """Pixels, whose centres lie at whole numbers, as places in the square."""
    return (points + 0.5) * 2 / size - 1


def _pixels(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    return rearrange(
        torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1, "n h w c -> n c h w"
    )


def _bytes(patches: Float[Tensor, "n 3 y x"]) -> UInt8[np.ndarray, "n y x 3"]:
    return (
        rearrange((patches.clamp(-1, 1) + 1) * 127.5, "n c y x -> n y x c").round().byte().numpy()
    )
