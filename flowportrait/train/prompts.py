"""Prompts of reinforcement learning: clips whose portrait and speech are given, with the real clip
to compare.

Any source of clips serves: a manifest (`records.ManifestRow`) or the folders that supervised
training reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from flowportrait import media
from flowportrait.arrays import Array, Rng
from flowportrait.config import Frozen
from flowportrait.data.augment import apply_look, draw_look, move_landmarks
from flowportrait.data.dataset import read_dataset
from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import DataError
from flowportrait.generate import Pipeline
from flowportrait.model.layout import Window
from flowportrait.model.sequence import Share, alone
from flowportrait.precision import matmul_precision
from flowportrait.sampling import Velocity
from flowportrait.scoring.reward import Candidate
from flowportrait.shot import Encoded
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import LandmarkTrack


class PromptsConfig(Frozen):
    """Where prompts come from: a manifest of square clips, or the folders of `data/sources.py`."""

    manifest: Path | None = None
    world: Path | None = None
    grid: Path | None = None
    grid_labels: Path | None = None
    max_latent_frames: int | None = Field(
        None, ge=2, description="maximum length of a prompt; none: one window of the model"
    )
    random_start: bool = Field(
        True,
        description=(
            "start prompts at a random frame of their clip; held-out prompts start at the first"
        ),
    )

    @model_validator(mode="after")
    def _one_source(self) -> PromptsConfig:
        if (self.manifest is None) == (self.world is None and self.grid is None):
            raise ValueError("give either manifest or at least one of world and grid")
        return self


@dataclass(frozen=True)
class Prompt:
    """A framed portrait and speech, with the real clip: its first frame is the portrait."""

    key: str
    truth: Array  # uint8 [f, size, size, 3]
    sound: media.Sound
    mouth: tuple[int, int, int, int] | None
    latent_frames: int  # of the real clip; it is cut so that they fit exactly
    points: Array | None = None  # [f, 68, 2] in [-1, 1], where all of them are labelled

    @property
    def portrait(self) -> Array:
        """uint8 [size, size, 3]."""
        return self.truth[0]


class Prompts:
    """Prompts by index. Which clip update n asks for is a function of (seed, n) alone; every clip
    comes once an epoch. `temporal_stride` is the codec's.
    """

    def __init__(
        self, config: PromptsConfig, size_px: int, max_latent_frames: int, temporal_stride: int
    ):
        self.config = config
        self.size_px = size_px
        self.stride = temporal_stride
        most = config.max_latent_frames or max_latent_frames
        self.max_frames = 1 + self.stride * (most - 1)
        sources = _sources(config)
        self.train = [source for source in sources if source.split == "train"]
        self.held_out = [source for source in sources if source.split == "held_out"]
        for split in ("train", "held_out"):
            if not getattr(self, split):
                raise DataError(f"prompts: no clip of the {split} split; give clips of both")

    def draw(self, seed: int, draw: int) -> Prompt:
        """Training prompt number `draw` of a run."""
        rng = None
        if self.config.random_start:
            rng = np.random.default_rng([seed, draw, 5])
        return self._cut(self._source(seed, draw), rng)

    def num_frames(self, seed: int, draw: int) -> int:
        """How long training prompt number `draw` is, by its file's header."""
        source = self._source(seed, draw)
        return min(media.frames_in(media.Clip(source.video).facts.duration_s), self.max_frames)

    def _source(self, seed: int, draw: int) -> SourceClip:
        epoch, place = divmod(draw, len(self.train))
        order = np.random.default_rng([seed, epoch, 4]).permutation(len(self.train))
        return self.train[order[place]]

    def held_out_prompt(self, index: int, count: int) -> Prompt:
        """Prompt `index` of `count`, spread over the held-out clips; the same in every run."""
        return self._cut(
            self.held_out[index * len(self.held_out) // count % len(self.held_out)], None
        )

    def _cut(self, source: SourceClip, rng: Rng | None) -> Prompt:
        """A stretch of the clip, framed by the landmarks of its first frame where they are known
        (App. B).
        """
        clip = media.Clip(source.video)
        nearest = media.nearest_frames(len(clip.frames), clip.fps, media.FPS)
        count = len(nearest)
        latent_frames = 1 + (min(count, self.max_frames) - 1) // self.stride
        length = 1 + self.stride * (latent_frames - 1)
        start = 0
        if rng:
            start = int(rng.integers(count - length + 1))
        indices = nearest[start : start + length]
        frames = clip.frames[indices]
        landmarks = _landmarks(source, indices, frames.shape[1])
        look = draw_look(np.random.default_rng(0), landmarks[0], frames.shape[1], strength=0.0)
        framed = apply_look(look, frames, self.size_px)
        moved = move_landmarks(look, landmarks, frames.shape[1], self.size_px)
        mouth = _mouth_box(moved[0], self.size_px)
        points = None
        if np.isfinite(moved).all():
            points = 2 * moved / self.size_px - 1
        sound = media.resample(clip.sound.samples, clip.sound.sample_rate, SPEECH_HZ)
        first = round(start / media.FPS * SPEECH_HZ)
        stop = round((start + length) / media.FPS * SPEECH_HZ)
        pixels = to_pixels(rearrange(framed, "f c h w -> 1 c f h w"))
        speech = media.Sound(sound[first:stop], SPEECH_HZ)
        return Prompt(source.key, pixels, speech, mouth, latent_frames, points)


def _sources(config: PromptsConfig) -> list[SourceClip]:
    if config.manifest:
        return read_dataset(config.manifest)
    return load_sources(config.world or (), config.grid, config.grid_labels)


def _landmarks(source: SourceClip, frames: Array, source_px: int) -> Array:
    """The landmarks [f, 68, 2] of frames [f] in px of the video, nan where they are not known."""
    if source.labels is None:
        return np.full((len(frames), 68, 2), np.nan, np.float32)
    with np.load(source.labels) as stored:
        points = stored["landmarks68"]
        labelled_px = 128.0
        if "size_px" in stored:
            labelled_px = float(stored["size_px"])
        at = np.minimum(frames, len(points) - 1)
        return points[at].astype(np.float32) * (source_px / labelled_px)


def _mouth_box(landmarks: Array, size_px: int) -> tuple[int, int, int, int] | None:
    """The box of the lips, wider by a fifth and open below, where an opening mouth goes; None if
    not known.
    """
    if not np.isfinite(landmarks).all():
        return None
    low = landmarks[48:68].min(0)
    high = landmarks[48:68].max(0)
    margin = 0.2 * (high[0] - low[0])
    box = (low[0] - margin, low[1] - margin / 2, high[0] + margin, high[1] + 2 * margin)
    left, top, right, bottom = (int(np.clip(round(float(side)), 0, size_px)) for side in box)
    if right - left > 3 and bottom - top > 3:
        return (left, top, right, bottom)
    return None


def to_pixels(frames: Float[Tensor, "1 c f h w"]) -> Array:
    """Frames in [-1, 1] as uint8 [f, h, w, c]."""
    levels = ((frames[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(levels, "c f h w -> f h w c").cpu().numpy()


def velocity_of(pipeline: Pipeline, clip: Encoded, shared: bool, share: Share = alone) -> Velocity:
    """The velocity of a whole clip in one window, without guidance (§4.1). `shared`: audio and
    portrait are turned into keys and values now and once, else at every call. `share` gives this
    process's part of the video tokens.
    """
    window = Window(0, clip.latent_frames, 0)

    def conditioned() -> Velocity:
        known = torch.empty(latent_shape(pipeline, clip, latent_frames=0), device=pipeline.device)
        return pipeline.velocity(clip, window, known[None], share=share)

    if shared:
        return conditioned()
    return lambda zt, t: conditioned()(zt, t)


def latent_shape(
    pipeline: Pipeline, clip: Encoded, latent_frames: int | None = None
) -> tuple[int, ...]:
    """(c, l, h, w) of the clip's latents."""
    side = pipeline.spec.size_px // pipeline.codec.spatial_stride
    return (
        pipeline.codec.channels,
        clip.latent_frames if latent_frames is None else latent_frames,
        side,
        side,
    )


@torch.no_grad()
def true_points(pipeline: Pipeline, prompt: Prompt) -> Array | None:
    """Landmarks [f, 68, 2] of the real clip in [-1, 1]: those of its labels or, where they are not
    complete, what the codec finds. None for a codec that moves no landmarks.
    """
    if prompt.points is not None or not pipeline.codec.moves_portrait:
        return prompt.points
    pixels = torch.from_numpy(prompt.truth.copy()).to(pipeline.device).float() / 127.5 - 1
    return pipeline.codec.points_in(rearrange(pixels, "f h w c -> f c h w")).cpu().numpy()


@torch.no_grad()
def candidate(
    pipeline: Pipeline,
    prompt: Prompt,
    clip: Encoded,
    z0: Float[Tensor, "1 c l h w"],
    rest: Float[Tensor, "1"] | None = None,
    decoded: bool = True,
) -> Candidate | None:
    """A sampled clip as `generate` shows it, for the scorers; None when its latents or its frames
    are not finite. Blinks and looks are left out: they are drawn, and would be noise in a reward.
    `rest` is that of `Pipeline.rest`; not `decoded` the clip has landmarks alone.
    """
    shown = pipeline.settled(clip, z0, rest)
    if not torch.isfinite(shown).all():
        return None
    frames = None
    if decoded:
        with matmul_precision(pipeline.device.type):
            pixels = pipeline.codec.decode(shown, context=clip.context)
        if not torch.isfinite(pixels).all():
            return None
        frames = to_pixels(pixels)
    return as_candidate(pipeline, prompt, clip, shown, frames)


def as_candidate(
    pipeline: Pipeline, prompt: Prompt, clip: Encoded, shown: Tensor, frames: Array | None
) -> Candidate:
    """Latents as they are shown, and their frames if they were decoded, beside the real clip."""
    return Candidate(
        prompt.key,
        frames,
        pipeline.spec.fps,
        prompt.sound,
        prompt.portrait,
        prompt.truth,
        prompt.mouth,
        _points(pipeline, clip, shown),
        prompt.points,
    )


def _points(pipeline: Pipeline, clip: Encoded, shown: Tensor) -> Array | None:
    if not pipeline.codec.moves_portrait:
        return None
    return points_of(pipeline, clip, shown).cpu().numpy()


def points_of(
    pipeline: Pipeline, clip: Encoded, shown: Float[Tensor, "1 c l h w"]
) -> LandmarkTrack:
    """Landmarks of the clip's frames; the first latent frame is one frame."""
    points = pipeline.codec.landmarks_of(shown, clip.context.landmarks)
    skipped = pipeline.codec.temporal_stride - 1
    return rearrange(points, "1 l g k d -> (l g) k d")[skipped:]
