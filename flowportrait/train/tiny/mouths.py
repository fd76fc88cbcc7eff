"""Stretches of mouths with their sound, looks drawn at random: what the network of `sync-small`
learns from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.data.augment import draw_look, recolour
from flowportrait.encoders.mel import MelEncoder
from flowportrait.encoders.sync import LUMA, as_seen, cut_mouths, mouth_places
from flowportrait.train.tiny.batches import Pool
from flowportrait.train.tiny.frames import CachedClip, ClipCache
from flowportrait.train.tiny.mels import Hearing, augment_mels


@dataclass(frozen=True)
class Heard:
    """The sound of a cache: log-mels by clip, and the mouth shapes of all its frames (nan: not
    labelled).
    """

    mels: dict[str, Float[Tensor, "80 m"]]
    shapes: Float[np.ndarray, "frames 27"]

    @classmethod
    def of(cls, cache: ClipCache, encoder: MelEncoder) -> Heard:
        """Of every clip of the cache."""
        hearing = Hearing.of(cache, encoder)
        return cls(
            {clip.key: mels for clip, mels in zip(cache.clips, hearing.mels, strict=True)},
            hearing.shapes,
        )


@dataclass(frozen=True)
class MouthBatch:
    """`mouths` of frames start .. start + f of each clip, and the sound of that stretch with
    `reach` frames more on both sides: `mels` are the whole clip's, `start` counts frames, `shapes`
    are the labelled mouth shapes. Where `held`, the lips of one frame are laid over all, and only
    chin and cheeks speak: nothing may be read from those.
    """

    mouths: Float[Tensor, "b f s s"]
    mels: Float[Tensor, "b 80 m"]
    shapes: Float[Tensor, "b f 27"]
    start: list[int]
    held: Bool[Tensor, " b"]


def mouth_batch(
    pool: Pool,
    hearing: Mapping[str, Heard],
    rng: np.random.Generator,
    num_clips: int,
    num_frames: int,
    reach: int,
    held_share: float = 0.0,
) -> MouthBatch:
    """Random stretches of different clips; the first `held_share` of them with lips that stand
    still.
    """
    drawn: dict[str, tuple[ClipCache, CachedClip]] = {}
    while len(drawn) < num_clips:
        cache, clip = pool.draw(rng)
        if clip.num_frames >= num_frames + 2 * reach:
            drawn[clip.key] = cache, clip
    mouths, mels, shapes, starts = [], [], [], []
    num_held = round(held_share * num_clips)
    for number, (cache, clip) in enumerate(drawn.values()):
        start = int(rng.integers(reach, clip.num_frames - num_frames - reach + 1))
        rows = slice(clip.frame_start + start, clip.frame_start + start + num_frames)
        heard = hearing[str(cache.root)]
        mouths.append(_mouths(cache, rows, rng, number < num_held))
        mels.append(augment_mels(heard.mels[clip.key], rng))
        shapes.append(torch.from_numpy(heard.shapes[rows]))
        starts.append(start)
    longest = max(sound.shape[1] for sound in mels)
    padded = [F.pad(sound, (0, longest - sound.shape[1]), value=-3.0) for sound in mels]
    return MouthBatch(
        torch.stack(mouths),
        torch.stack(padded),
        torch.stack(shapes),
        starts,
        torch.arange(num_clips) < num_held,
    )


def clip_mouths(cache: ClipCache, clip: CachedClip) -> Float[Tensor, "f s s"]:
    """A whole clip as the network sees it, cut by its labelled landmarks."""
    rows = slice(clip.frame_start, clip.frame_start + clip.num_frames)
    frames = torch.from_numpy(np.array(cache.frames[rows]))
    landmarks = torch.from_numpy(cache.landmarks[rows])
    return as_seen(cut_mouths(frames, mouth_places(landmarks)))


def _mouths(
    cache: ClipCache, rows: slice, rng: np.random.Generator, held: bool
) -> Float[Tensor, "f s s"]:
    frames = torch.from_numpy(np.array(cache.frames[rows]))
    landmarks = torch.from_numpy(cache.landmarks[rows])
    look = draw_look(rng, cache.landmarks[rows.start], cache.size_px)
    places = mouth_places(landmarks + _landmark_noise(landmarks, rng))
    bent = 1.5 * look.bend  # faces differ more about the mouth than as a whole
    mouths = cut_mouths(frames, _moved(places, rng), bent)
    mouths = recolour(look, _with_held_lips(mouths, rng) if held else mouths)
    return as_seen(_worn(mouths, rng), _grey_weights(rng))


def _landmark_noise(landmarks: Tensor, rng: np.random.Generator) -> Tensor:
    """Errors of a landmarker: a constant one for each point and a smaller one for each frame, about
    2 % of a face.
    """
    size = float((landmarks[0].amax(0) - landmarks[0].amin(0)).max())
    constant, fresh = (
        rng.normal(0, share * size, shape)
        for share, shape in ((0.012, (1, 68, 2)), (0.008, landmarks.shape))
    )
    return torch.from_numpy(constant + fresh).float()


def _moved(places: Float[Tensor, "f 2 3"], rng: np.random.Generator) -> Float[Tensor, "f 2 3"]:
    """Larger or smaller, turned, stretched, mirrored and off centre."""
    angle = rng.normal(0, 0.08)
    size = rng.uniform(0.8, 1.25)
    stretch = rng.uniform(0.88, 1.14)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos = np.cos(angle) * size
    sin = np.sin(angle) * size
    change = torch.tensor(
        [[cos * flip * stretch, -sin / stretch], [sin * flip * stretch, cos / stretch]]
    ).float()
    offset = torch.from_numpy(rng.normal(0, 0.09, 2)).float()
    linear = places[..., :2]
    return torch.cat([linear @ change, places[..., 2:] + (linear @ offset[:, None])], -1)


def _with_held_lips(
    mouths: Float[Tensor, "f 3 s s"], rng: np.random.Generator
) -> Float[Tensor, "f 3 s s"]:
    """The middle of one frame laid over all frames, softly; squares move with the head, so this is
    a frozen mouth.
    """
    axis = torch.linspace(-1, 1, mouths.shape[-1])
    x = axis[None] / rng.uniform(0.5, 0.75)
    y = (axis[:, None] - rng.uniform(0, 0.1)) / rng.uniform(0.3, 0.6)
    mask = ((1.35 - torch.hypot(x.expand_as(y + x), y + 0 * x)) / 0.35).clamp(0, 1)
    return torch.lerp(mouths, mouths[int(rng.integers(len(mouths)))], mask)


def _worn(mouths: Float[Tensor, "f 3 s s"], rng: np.random.Generator) -> Float[Tensor, "f 3 s s"]:
    """Wear by cameras and encoders: pictures from smaller ones, flicker, noise; now and then a
    frame that stays.
    """
    side = mouths.shape[-1]
    if rng.random() < 0.5:
        smaller = int(side * rng.uniform(0.35, 0.9))
        small = F.interpolate(mouths, (smaller, smaller), mode="area")
        mouths = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)
    return _flickering(rng, mouths)


def _flickering(
    rng: np.random.Generator, mouths: Float[Tensor, "f 3 s s"]
) -> Float[Tensor, "f 3 s s"]:
    """Noise, flicker and now and then a repeated frame."""
    gain = torch.from_numpy(
        1 + 0.02 * rng.random() * rng.normal(size=(len(mouths), 1, 1, 1))
    ).float()
    noise = torch.from_numpy(rng.standard_normal(mouths.shape, np.float32)) * float(
        rng.uniform(0, 0.03)
    )
    mouths = mouths * gain + noise
    if rng.random() < 0.15:
        lost = rng.random(len(mouths)) < 0.15
        lost[0] = False
        mouths = mouths[np.maximum.accumulate(np.where(lost, 0, np.arange(len(lost))))]
    return mouths


def _grey_weights(rng: np.random.Generator) -> Float[Tensor, "3"]:
    """Grey from other shares of the colours: lips darker or lighter than skin."""
    shares = np.array(LUMA) + rng.normal(0, 0.2, 3)
    return torch.from_numpy(shares / max(0.3, shares.sum())).float()
