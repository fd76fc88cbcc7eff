"""A portrait with a recording, ready to be sampled, and the video that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from flowportrait import media
from flowportrait.arrays import Array, Picture
from flowportrait.codecs import LatentCodec
from flowportrait.codecs.liveliness import AS_IT_IS, EyeEvents, Strengths, draw_eye_events
from flowportrait.composite import Composite, Frame, Size
from flowportrait.model.step_cache import StepCache
from flowportrait.modeldir import ModelSpec
from flowportrait.precision import matmul_precision
from flowportrait.sampling import Schedule
from flowportrait.tensors import Latents, PerClip

Crop = Literal["auto", "none"]


Progress = Callable[[int, int], None]  # (evaluations done, evaluations in all)


class Options(TypedDict, total=False):
    """Options of a video. `size` is the side of the face's square in pixels from 128 to 1024,
    "auto" for its own; `frame` is "whole" for the whole picture or "face" for that square alone
    (see `composite.compose`); a codec that shows its own size only takes no other. `evaluations`
    are the network's calls for each window, by default the model's own number. `guidance` 1 is
    none; another calls the network twice, once with all-zero audio features, as training drops the
    audio. The same `seed` gives the same video. `crop` "none" takes the largest centred square
    instead of that around the face. `head`, `lips` and `eyes` say how strong these movements are: 1
    is the model's own, 0 none, 2 the most. `step_cache` lets evaluations that change little reuse
    one before (`StepCache`): 0 is off, 0.02 a careful threshold for models of 15 and more
    evaluations.
    """

    size: Size
    frame: Frame | None
    evaluations: int | None
    guidance: float
    seed: int
    crop: Crop
    head: float
    lips: float
    eyes: float
    step_cache: float


@runtime_checkable
class ClipSampler(Protocol):
    """The part of `generate.Pipeline` that gives a shot its latents and frames."""

    spec: ModelSpec
    codec: LatentCodec
    device: torch.device

    @property
    def warnings(self) -> list[str]:
        """Warnings for users of this model, a line each."""

    def sampled(
        self,
        clip: Encoded,
        schedule: Schedule,
        guidance: float,
        seed: int,
        progress: Progress | None = None,
        cache: StepCache | None = None,
    ) -> Iterator[Float[Tensor, "1 c l h w"]]:
        """The latent frames of the clip, window by window."""

    def settled(
        self,
        clip: Encoded,
        latents: Latents,
        rest: PerClip | None,
        events: EyeEvents | None = None,
        strengths: Strengths = AS_IT_IS,
    ) -> Latents:
        """Sampled latents as they are shown."""


@dataclass(frozen=True)
class Shot:
    """A portrait and a recording ready to be sampled and shown."""

    pipeline: ClipSampler
    composite: Composite
    size: Size
    sound: media.Sound
    clip: Encoded
    schedule: Schedule
    guidance: float
    seed: int
    crop: Crop
    strengths: Strengths
    cache: StepCache  # counts what it saves
    num_frames: int
    rest: Float[Tensor, "1"] | None = None  # how far the lips are apart in silence, in half-squares

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about portrait, sound and model, a line each."""
        x, y, side = self.composite.square
        exposure = media.exposure_warnings(self.composite.picture[y : y + side, x : x + side])
        of_portrait = (*self.composite.warnings, *exposure)
        own = *self.pipeline.warnings, *self.cache.warnings
        return (*of_portrait, *self.sound.warnings, *own)

    def latents(self, progress: Progress | None = None) -> Iterator[Tensor]:
        """The clip's latent frames [1, c, l, h, w] as they are shown, in blocks, as their windows
        are sampled.
        """
        codec = self.pipeline.codec
        clip = self.clip
        raw = None
        done = 0
        before = codec.settle_reach
        for window in self.pipeline.sampled(
            clip, self.schedule, self.guidance, self.seed, progress, self.cache
        ):
            raw = window if raw is None else torch.cat([raw, window], dim=2)
            known = raw.shape[2]
            ready = known if known == clip.latent_frames else max(done, known - codec.settle_reach)
            first = max(0, done - before)
            settled = self._settled(raw[:, :, first:], first)
            yield settled[:, :, done - first : ready - first]
            done = ready

    def _settled(self, latents: Float[Tensor, "1 c l h w"], first: int) -> Tensor:
        events = draw_eye_events(self.num_frames, self.seed, self.strengths.eyes).groups(
            first, latents.shape[2]
        )
        return self.pipeline.settled(
            self.clip,
            latents,
            self.rest,
            events,
            self.strengths,
        )

    def frames(self, blocks: Iterable[Tensor]) -> Iterator[Picture]:
        """The frames of latent frames that come in blocks, one after another."""
        left = self.num_frames
        decoded = self.pipeline.codec.decode_stream(blocks, self.clip.context)
        while left > 0:
            # Not around the whole: what takes the frames, such as an encoder, must not compute in
            # these modes.
            with torch.inference_mode(), matmul_precision(self.pipeline.device.type):
                frames = next(decoded)[0]
            pixels = (frames.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
            pixels = self.composite.laid_back(
                rearrange(pixels, "c f h w -> f h w c").contiguous().cpu().numpy()
            )
            yield from pixels[:left]
            left -= len(pixels)


@dataclass(frozen=True)
class Result:
    """A generated clip. It keeps latents; `frames` and `save` decode them."""

    latents: Float[Tensor, "1 c l h w"] = field(repr=False)
    shot: Shot = field(repr=False)
    chunk: int = field(repr=False)  # latent frames decoded at a time

    @property
    def sound(self) -> media.Sound:
        """The recording as it was given."""
        return self.shot.sound

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return self.shot.num_frames

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.shot.pipeline.spec.fps

    @property
    def video_s(self) -> float:
        """Seconds of picture."""
        return self.num_frames / self.fps

    @property
    def size_px(self) -> int:
        """Side of the face's square in the video."""
        return self.shot.composite.square.side

    @property
    def model(self) -> str:
        """Name of the model that made it."""
        return self.shot.pipeline.spec.name

    @property
    def device(self) -> str:
        """Device of the sampling."""
        return str(self.shot.pipeline.device)

    @property
    def evaluations(self) -> int:
        """Network evaluations per window."""
        return len(self.shot.schedule)

    @property
    def evaluations_saved(self) -> int:
        """Network evaluations saved by the step cache, over all windows."""
        return self.shot.cache.saved

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about portrait, sound and model, a line each."""
        return self.shot.warnings

    @cached_property
    def frames(self) -> Array:
        """All frames, uint8 [f, h, w, 3]."""
        return np.stack(list(self.stream()))

    def stream(self) -> Iterator[Array]:
        """The frames one after another, uint8 [h, w, 3], decoded a few at a time."""
        return self.shot.frames(self.latents.split(self.chunk, dim=2))

    def save(self, path: str | Path) -> Path:
        """Writes the video with its sound, marked as generated, and gives the path. Raises
        MediaError.
        """
        mark = media.synthetic_mark(
            self.shot.pipeline.spec.name, self.shot.seed, version("flowportrait")
        )
        media.write_video(
            path,
            self.stream(),
            self.fps,
            self.sound.samples,
            self.sound.sample_rate,
            mark,
            preset="veryfast",
        )
        return Path(path)


@dataclass(frozen=True)
class Encoded:
    """A clip's inputs as features: the codec's `context`, image [1, i, d], audio [1, a, d] of all
    frames.
    """

    context: Any
    image: Tensor
    audio: Tensor
    latent_frames: int


def counted(progress: Progress | None, total: int) -> Callable[[], None] | None:
    """A function that tells `progress` of one more evaluation each time it is called."""
    if progress is None:
        return None
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return count
