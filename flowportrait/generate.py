"""Portrait + speech -> talking video: encoders, model, sampler, codec, in that order.

A recording longer than the model's window is made window by window. Each window after the first
starts with the last latent frames of the one before, which stand clean (t = 0) while the new ones
are sampled behind them. Frames can be shown as soon as their window is sampled, and are decoded as
they are written: a long video does not need much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from flowportrait import media, registry
from flowportrait.codecs.liveliness import AS_IT_IS, EyeEvents, Strengths, draw_eye_events
from flowportrait.composite import Composite, Frame, Size, compose
from flowportrait.config import validate
from flowportrait.errors import ConfigError
from flowportrait.faces.facemesh import FaceMesh
from flowportrait.faces.matte import PersonMatte
from flowportrait.model.compiled import compile_layers
from flowportrait.model.layout import TokenGrid, Window, latent_frames_for, plan_windows
from flowportrait.model.mot import MoT
from flowportrait.model.offload import understanding_on
from flowportrait.model.quantize import Quantization
from flowportrait.model.sequence import Share, alone
from flowportrait.model.step_cache import StepCache
from flowportrait.modeldir import PARTS, ModelSpec, find_device, load_parts, mixed
from flowportrait.precision import matmul_precision
from flowportrait.sampling import Schedule, guided, sample
from flowportrait.weights import difference, shapes

AUDIO_RATE_HZ = 16_000  # of what the audio encoders hear

SILENCE = 4  # latent frames, in which is seen whether a portrait's lips close
Crop = Literal["auto", "none"]
Progress = Callable[[int, int], None]  # (evaluations done, evaluations in all)


class Options(TypedDict, total=False):
    """How a video is made.

    `size` is the side of the face's square in pixels from 128 to 1024, "auto" for its own; `frame`
    is "whole" for the whole picture or "face" for that square alone (see `composite.compose`); a
    codec that shows its own size only takes no other. `evaluations` are the network's calls for
    each window, by default the model's own number. `guidance` 1 is none; another calls the network
    twice, once with all-zero audio features, as training drops the audio. The same `seed` gives the
    same video. `crop` "none" takes the largest centred square instead of that around the face.
    `head`, `lips` and `eyes` say how strong these movements are: 1 is the model's own, 0 none, 2
    the most. `step_cache` lets evaluations that change little reuse one before (`StepCache`): 0 is
    off, 0.02 a careful threshold for models of 15 and more evaluations.
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


@dataclass(frozen=True)
class Shot:
    """A portrait and a recording ready to be sampled and shown."""

    pipeline: Pipeline
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
        """What the user should know of portrait, sound and model, a line each."""
        x, y, side = self.composite.square
        exposure = media.exposure_warnings(self.composite.picture[y : y + side, x : x + side])
        of_portrait = (*self.composite.warnings, *exposure)
        own = *self.pipeline.warnings, *self.cache.warnings
        return (*of_portrait, *self.sound.warnings, *own)

    def latents(self, progress: Progress | None = None) -> Iterator[Tensor]:
        """The clip's latent frames [1, c, l, h, w] as they are shown, in blocks, as their windows
        are sampled.
        """
        codec, clip = self.pipeline.codec, self.clip
        raw, done, before = None, 0, codec.settle_reach
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
        return self.pipeline.settled(self.clip, latents, self.rest, events, self.strengths)

    def frames(self, blocks: Iterable[Tensor]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
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
        """What is said, as it was given."""
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
        """Where it was sampled."""
        return str(self.shot.pipeline.device)

    @property
    def evaluations(self) -> int:
        """Calls of the network for each window."""
        return len(self.shot.schedule)

    @property
    def evaluations_saved(self) -> int:
        """Calls of the network, of all windows, that the step cache spared."""
        return self.shot.cache.saved

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of portrait, sound and model, a line each."""
        return self.shot.warnings

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames, uint8 [f, h, w, 3]."""
        return np.stack(list(self.stream()))

    def stream(self) -> Iterator[np.ndarray]:
        """The frames one after another, uint8 [h, w, 3], decoded a few at a time."""
        return self.shot.frames(self.latents.split(self.chunk, dim=2))

    def save(self, path: str | Path) -> Path:
        """Writes the video with its sound, marked as generated, and gives the path. Raises
        MediaError.
        """
        from flowportrait import __version__

        mark = media.synthetic_mark(self.shot.pipeline.spec.name, self.shot.seed, __version__)
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
class Pipeline:
    """A loaded model: everything between a portrait with a recording and a video."""

    spec: ModelSpec
    model: MoT
    codec: nn.Module
    audio_encoder: nn.Module
    image_encoder: nn.Module
    device: torch.device
    offload: bool = False  # on the device is only what is at work, the rest in CPU memory
    quantization: Quantization | None = None  # what the weights of the layers were brought to

    def generate(
        self,
        portrait: str | Path | np.ndarray,
        audio: str | Path | tuple[np.ndarray, int],
        *,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Makes the portrait say the recording: round(seconds * 24) frames, the same for the same
        seed.

        `portrait` is a file or uint8 [h, w, 3]; `audio` a file or (float samples [s] or [s,
        channels], rate in Hz) of at least 0.5 s. `progress` is told (evaluations done, evaluations
        in all). Raises MediaError, DataError (no face, unusable arrays) or ConfigError.
        """
        shot = self.shot(portrait, audio, **options)
        return Result(
            torch.cat(list(shot.latents(progress)), dim=2),
            shot,
            self.spec.sampling.window_latent_frames,
        )

    def stream(
        self,
        portrait: str | Path | np.ndarray,
        audio: str | Path | tuple[np.ndarray, int],
        **options: Unpack[Options],
    ) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "s ..."]]]:
        """As `generate`, but gives each frame as soon as it is made, with the sound of its 1/24 s
        at the recording's own rate. The first comes once the first window is sampled. Options and
        errors are those of `generate`.
        """
        shot = self.shot(portrait, audio, **options)
        samples, rate = shot.sound.samples, shot.sound.sample_rate
        for index, frame in enumerate(shot.frames(shot.latents())):
            start, stop = (round(at * rate / self.spec.fps) for at in (index, index + 1))
            last = index == shot.num_frames - 1
            yield frame, samples[start:] if last else samples[start:stop]

    def shot(
        self,
        portrait: str | Path | np.ndarray,
        audio: str | Path | tuple[np.ndarray, int],
        *,
        size: Size = "auto",
        frame: Frame | None = None,
        evaluations: int | None = None,
        guidance: float = 1.0,
        seed: int = 0,
        crop: Crop = "auto",
        head: float = 1.0,
        lips: float = 1.0,
        eyes: float = 1.0,
        step_cache: float = 0.0,
    ) -> Shot:
        """Portrait and recording, read and encoded, ready to be sampled; `Options` says what the
        options mean.
        """
        strengths = validate(
            Strengths, {"head": head, "lips": lips, "eyes": eyes}, where="strengths"
        )
        schedule = self._schedule(evaluations)
        cache = StepCache(step_cache, len(schedule))
        image, sound = media.picture_of(portrait), media.sound_of(audio)
        composite = self._composite(image, size, frame, crop, strengths)
        num_frames = media.frames_in(sound.duration_s)
        latent_frames = latent_frames_for(num_frames, self.codec.temporal_stride)
        clip = self.encode(composite.view(self.spec.size_px), sound, latent_frames, composite)
        rest = self.rest(clip, schedule)
        return Shot(
            self,
            composite,
            size,
            sound,
            clip,
            schedule,
            guidance,
            seed,
            crop,
            strengths,
            cache,
            num_frames,
            rest,
        )

    def composed(self, portrait: UInt8[np.ndarray, "s s 3"]) -> Composite:
        """A portrait that is framed already, to be shown at the model's own size."""
        return self._composite(portrait, self.spec.size_px, "face", "none", AS_IT_IS)

    def settled(
        self,
        clip: Encoded,
        latents: Float[Tensor, "b c l h w"],
        rest: Float[Tensor, " b"] | None,
        events: EyeEvents | None = None,
        strengths: Strengths = AS_IT_IS,
    ) -> Float[Tensor, "b c l h w"]:
        """Sampled latents as they are shown; `rest` is that of `Pipeline.rest`."""
        if not self.codec.moves_portrait:
            return latents
        lips = self.spec.sampling.lips
        return self.codec.settle(latents, clip.context, events, strengths, rest, lips)

    @torch.no_grad()
    def rest(self, clip: Encoded, schedule: Schedule) -> Float[Tensor, "1"] | None:
        """How far the lips of this portrait are apart while nothing is said: sampled, as the model
        means it. None for a codec that does not move the portrait.
        """
        if not self.codec.moves_portrait:
            return None
        frames = 1 + self.codec.temporal_stride * (SILENCE - 1)
        silence = torch.zeros(1, round(frames / self.spec.fps * AUDIO_RATE_HZ), device=self.device)
        still = replace(clip, audio=self.audio_encoder(silence, frames), latent_frames=SILENCE)
        return self.codec.lip_gap(
            torch.cat(list(self.sampled(still, schedule, 1.0, 0)), dim=2), clip.context
        )

    def _composite(
        self, image: np.ndarray, size: Size, frame: Frame | None, crop: Crop, strengths: Strengths
    ) -> Composite:
        own_px = self.spec.size_px
        detector = _kept(registry.FACE_DETECTORS.load("centerface")) if crop == "auto" else None
        if self.codec.moves_portrait:
            return compose(
                image,
                own_px,
                size,
                frame or "whole",
                crop,
                detector,
                _kept(FaceMesh),
                _kept(PersonMatte),
            )
        if size not in ("auto", own_px) or frame == "whole" or strengths != AS_IT_IS:
            raise ConfigError(
                f"{self.spec.name}: its codec shows a square of {own_px} px as it is; leave size,"
                " frame and strengths"
            )
        return compose(image, own_px, own_px, "face", crop, detector)

    @property
    def warnings(self) -> list[str]:
        """What whoever uses this model should know."""
        if not self.spec.untrained:
            return []
        what = ", ".join(self.spec.untrained)
        return [
            f"{self.spec.name}: never trained: {what}; what it makes means nothing before"
            " `flowportrait train sft`"
        ]

    def _schedule(self, evaluations: int | None) -> Schedule:
        count = self.spec.sampling.evaluations if evaluations is None else evaluations
        if count < 1:
            raise ConfigError(f"evaluations: got {count}; give a number from 1 on")
        return Schedule(count, self.spec.sampling.shift)

    @torch.no_grad()
    def encode(
        self,
        portrait: np.ndarray,
        sound: media.Sound,
        latent_frames: int,
        composite: Composite | None = None,
    ) -> Encoded:
        """What the framed portrait and the whole recording mean to the model, computed once for all
        windows. With a `composite` frames are shown on its canvas.
        """
        pixels = torch.from_numpy(portrait.copy()).to(self.device).float()
        picture = rearrange(pixels / 127.5 - 1, "h w c -> 1 c h w")
        grid = self._grid(latent_frames, opening=True)
        speech = media.heard(sound.samples, sound.sample_rate, AUDIO_RATE_HZ)
        context = self._context(picture, composite)
        return Encoded(
            context=context,
            image=self.image_encoder(picture, context),
            audio=self.audio_encoder(
                torch.from_numpy(speech).to(self.device)[None], grid.num_frames
            ),
            latent_frames=latent_frames,
        )

    def _context(self, picture: Float[Tensor, "1 3 h w"], composite: Composite | None) -> Any:
        if composite is None or not self.codec.moves_portrait:
            return self.codec.prepare(picture)
        known = composite.landmarks()
        landmarks = None if known is None else torch.from_numpy(known).to(self.device)[None]
        return self.codec.prepare(picture, landmarks, composite.canvas(self.device))

    @torch.no_grad()
    def sampled(
        self,
        clip: Encoded,
        schedule: Schedule,
        guidance: float,
        seed: int,
        progress: Progress | None = None,
        cache: StepCache | None = None,
    ) -> Iterator[Float[Tensor, "1 c l h w"]]:
        """The latent frames of the clip, window by window; the noise comes from one generator per
        clip.
        """
        rng = torch.Generator().manual_seed(seed)
        sampling = self.spec.sampling
        longest, prefix = sampling.window_latent_frames, sampling.prefix_latent_frames
        windows = plan_windows(clip.latent_frames, longest, prefix)
        on_step = _counter(progress, len(windows) * len(schedule))
        side = self.spec.size_px // self.codec.spatial_stride
        known = torch.empty(1, self.codec.channels, 0, side, side, device=self.device)
        for window in windows:
            num_new = window.stop - window.start - window.prefix
            noise = torch.randn(1, self.codec.channels, num_new, side, side, generator=rng).to(
                self.device
            )
            before = known[:, :, known.shape[2] - window.prefix :]
            velocity = self.velocity(clip, window, before, guidance, cache=cache)
            new = sample(velocity, noise, schedule, on_step=on_step)
            known = torch.cat([known, new], dim=2)[:, :, -longest:]
            yield new

    def velocity(
        self,
        clip: Encoded,
        window: Window,
        known: Float[Tensor, "1 c p h w"],
        guidance: float = 1.0,
        share: Share = alone,
        cache: StepCache | None = None,
    ) -> Callable[[Tensor, float], Tensor]:
        """(zt, t) -> velocity of the window's new latent frames; the `known` ones stand clean
        before them. `share` says which part of the video tokens this process computes.
        """
        grid = self._grid(window.stop - window.start, opening=window.start == 0)
        stride = self.codec.temporal_stride
        first = max(0, 1 + stride * (window.start - 1))
        audio = clip.audio[:, first : first + grid.num_frames]

        def conditioned(features: Tensor) -> Callable[[Tensor, float], Tensor]:
            reuse = cache.window() if cache else None
            here = understanding_on(self.model, self.device) if self.offload else nullcontext()
            with matmul_precision(self.device.type), here:
                condition = self.model.condition(features, clip.image, grid)

            def velocity(zt: Tensor, t: float) -> Tensor:
                times = torch.full((1, grid.latent_frames), t, device=self.device)
                times[:, : window.prefix] = 0
                with matmul_precision(self.device.type):
                    latents = torch.cat([known, zt], dim=2)
                    mine = share(grid.num_video_tokens)
                    whole = self.model.velocity(latents, times, condition, grid, mine, reuse)
                return whole[:, :, window.prefix :]

            return velocity

        if guidance == 1.0:
            return conditioned(audio)
        return guided(conditioned(audio), conditioned(torch.zeros_like(audio)), guidance)

    def _grid(self, latent_frames: int, opening: bool) -> TokenGrid:
        """The token layout of a window of this model."""
        patch = self.spec.model.patch
        side = self.spec.size_px // (self.codec.spatial_stride * patch)
        image_rows, image_cols = self.image_encoder.grid
        return TokenGrid(
            latent_frames,
            side,
            side,
            image_rows,
            image_cols,
            patch=patch,
            temporal_stride=self.codec.temporal_stride,
            fps=self.spec.fps,
            opening=opening,
        )


@dataclass(frozen=True)
class Encoded:
    """A clip's inputs as features: the codec's `context`, image [1, i, d], audio [1, a, d] of all
    frames.
    """

    context: Any
    image: Tensor
    audio: Tensor
    latent_frames: int


# ------------------------------------------------------------------------------------- model
# directories


def load(
    name_or_directory: str | Path,
    device: str = "auto",
    toward: str | Path | None = None,
    share: float = 0.5,
    offload: bool = False,
    wide: bool = False,
    quantization: Quantization | None = None,
    compiled: bool = False,
) -> Pipeline:
    """The pipeline of a shipped model ("tiny") or of a model directory, ready to generate.

    With `toward`, another model that was tuned from this one, the generator's weights are the
    mixture `share` of the way there: 0 is this model, 1 the other, and between them reinforcement
    learning can be taken half back. With `offload` only what is at work is on the device, one
    expert at a time, and the rest in CPU memory. Weights that are stored in bf16 stay so where
    products run in it anyway, or all become float32 with `wide`, for training; `quantization`
    brings those of the layers to eight bits. `compiled` makes code for this machine of the layers
    at their first use (`compile_layers`). Raises ConfigError for a name or device that does not
    exist, CheckpointError for files that are absent, damaged or of another shape than config.json
    says.
    """
    if toward is not None:
        if quantization:
            raise ConfigError("toward: weights of eight bits cannot be mixed; leave one of the two")
        one, other = (
            load(name, device, None, share, offload, wide) for name in (name_or_directory, toward)
        )
        pipeline = _mixed(one, other, share)
    else:
        spec, parts = load_parts(name_or_directory, PARTS, device, offload, wide, quantization)
        pipeline = Pipeline(
            spec, **parts, device=find_device(device), offload=offload, quantization=quantization
        )
    if compiled:
        compile_layers(pipeline.model)
    return pipeline


def mix_weights(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights `share` of the way from `one` to `other`, which must have the same names and
    shapes.
    """
    return {name: torch.lerp(value, other[name], share) for name, value in one.items()}


def _mixed(one: Pipeline, other: Pipeline, share: float) -> Pipeline:
    if not 0 <= share <= 1:
        raise ConfigError(
            f"share: got {share}; give a number from 0 (the model) to 1 (the one it goes toward)"
        )
    weights = one.model.state_dict(), other.model.state_dict()
    problem = difference(*map(shapes, reversed(weights)))
    if problem:
        raise ConfigError(
            f"toward: {other.spec.name} {problem}; give a model tuned from {one.spec.name}"
        )
    one.model.load_state_dict(mix_weights(*weights, share))
    return replace(one, spec=mixed(one.spec, other.spec, share))


# ------------------------------------------------------------------------------------------------
# inputs


@cache
def _kept(finder: Callable[[], Any]) -> Any:
    """What looks at portraits, loaded once: that takes longer than a look."""
    return finder()


def _counter(progress: Progress | None, total: int) -> Callable[[], None] | None:
    """A function that tells `progress` of one more evaluation each time it is called."""
    if progress is None:
        return None
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return count
