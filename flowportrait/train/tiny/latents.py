"""Clips as the generator learns them: latents and portrait features in flat arrays, several
augmented copies of each.

With the codec out of the loop an update costs only the generator.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flowportrait.arrays import Rng
from flowportrait.codecs.motion import GROUP
from flowportrait.codecs.portrait import PortraitCodec
from flowportrait.data.augment import apply_look, draw_look, move_landmarks
from flowportrait.encoders import ImageEncoder
from flowportrait.faces.landmarks import eye_distance, lip_opening
from flowportrait.train.tiny.frames import CachedClip, ClipCache, in_todays_words

PORTRAIT_ERROR = 0.01  # std of errors of the portrait's landmarks, in half-pictures


@dataclass(frozen=True)
class LatentClip:
    """One augmented copy of a clip. Latent frame 0 is video frame `first_frame` alone, latent frame
    k the four frames that end at `first_frame + 4 k`.
    """

    clip: int  # index into the cache's clips
    copy: int  # index into `image`
    split: str
    start: int  # first row in the latent arrays
    num_latents: int
    first_frame: int


class LatentCache:
    """`latents` [n, c, h, w] float16, one row a latent frame; `image` [clips, i, d] and `portrait`
    [clips, 68, 2], the portrait's landmarks; `opening` [n, 4]: lip opening of the four frames of
    each row (a clip's first row repeats one frame).
    """

    def __init__(self, root: Path):
        index = json.loads((Path(root) / "index.json").read_text())
        self.clips = [LatentClip(**in_todays_words(clip)) for clip in index["clips"]]
        self.latents, self.image, self.portrait, self.opening = (
            np.load(Path(root) / f"{name}.npy")
            for name in ("latents", "image", "portrait", "opening")
        )

    @cached_property
    def faces(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Lip opening of each copy's portrait, and the distance between its eyes."""
        return lip_opening(self.portrait), eye_distance(self.portrait)

    @classmethod
    def build(
        cls,
        root: Path,
        cache: ClipCache,
        codec: PortraitCodec,
        image_encoder: ImageEncoder,
        copies: int,
        seed: int,
        log=print,
    ):
        """Encode every training clip `copies` times, each time with another look and portrait, and
        every held-out clip once with its own colours; clips with untracked frames are left out. A
        finished cache of the same codec is reused.
        """
        root = Path(root)
        made_of = f"{_digest(codec)}-{copies}-{seed}-{len(cache.clips)}"
        index = root / "index.json"
        if index.is_file() and json.loads(index.read_text())["made_of"] == made_of:
            return cls(root)
        root.mkdir(parents=True, exist_ok=True)
        clips = []
        columns = {name: [] for name in ("latents", "opening")}
        start = 0
        images = []
        portraits = []
        for number, clip in enumerate(cache.clips):
            if clip.split == "test" or not cache.tracked(clip):
                continue
            for copy in range(copies if clip.split == "train" else 1):
                rng = np.random.default_rng([seed, number, copy])
                first_frame, rows, image, portrait = _encode(cache, clip, codec, image_encoder, rng)
                clips.append(
                    LatentClip(
                        number, len(images), clip.split, start, len(rows["latents"]), first_frame
                    )
                )
                start += len(rows["latents"])
                images.append(image)
                portraits.append(portrait)
                for name, value in rows.items():
                    columns[name].append(value)
            if number % 100 == 0:
                log(f"latents {root.name}: {number}/{len(cache.clips)} clips")
        for name, parts in columns.items():
            np.save(root / f"{name}.npy", np.concatenate(parts))
        np.save(root / "image.npy", np.stack(images))
        np.save(root / "portrait.npy", np.stack(portraits))
        index.write_text(json.dumps({"made_of": made_of, "clips": [vars(clip) for clip in clips]}))
        return cls(root)


@torch.inference_mode()
def _encode(
    cache: ClipCache,
    clip: CachedClip,
    codec: PortraitCodec,
    image_encoder: ImageEncoder,
    rng: Rng,
):
    """First frame, arrays by name, image features and landmarks of the portrait of one copy. Motion
    is taken from the true landmarks; the portrait's are given the errors that found ones have.
    """
    size_px = codec.config.size_px
    training = clip.split == "train"
    first = 0
    if training:
        first = int(rng.integers(GROUP))
    num_latents = 1 + (clip.num_frames - first - 1) // GROUP
    offsets = first + np.arange(1 + GROUP * (num_latents - 1))
    chosen = first if not training or rng.random() < 0.5 else int(rng.integers(clip.num_frames))
    indices = clip.frame_start + np.concatenate([[chosen], offsets])
    look = draw_look(
        rng, cache.landmarks[clip.frame_start], cache.size_px, 1.0 if training else 0.0, bend=0.0
    )
    picture = apply_look(look, cache.frames[indices[:1]], size_px)
    landmarks = move_landmarks(look, cache.landmarks[indices], cache.size_px, 2) - 1
    points = torch.from_numpy(landmarks)
    latents = codec.encode_landmarks(points[None, 1:], points[:1])[0].transpose(0, 1)
    found = points[:1] + (
        PORTRAIT_ERROR * torch.from_numpy(rng.normal(size=(1, 68, 2))).float() if training else 0
    )
    image = image_encoder(picture, codec.prepare(picture, found))[0]
    gaps = lip_opening(landmarks[1:])
    opening = np.concatenate([np.repeat(gaps[:1], GROUP - 1), gaps]).reshape(num_latents, GROUP)
    rows = {"latents": latents.half().numpy(), "opening": opening.astype(np.float32)}
    return first, rows, image.half().numpy(), landmarks[0]


def _digest(codec: PortraitCodec) -> str:
    """Of the weights that make latents; landmarker and decoder may change without making a cache
    stale.
    """
    digest = hashlib.sha256()
    for name, value in codec.state_dict().items():
        if name.startswith(("motion.",)):
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
