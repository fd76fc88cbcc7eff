"""Portrait + speech -> talking video: encoders, model, sampler, codec, in that order.

A recording longer than the model's window is made window by window. Each window after the first
starts with the last latent frames of the one before, which stand clean (t = 0) while the new ones
are sampled behind them. Frames can be shown as soon as their window is sampled, and are decoded as
they are written: a long video does not need much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from flowportrait import media, registry
from flowportrait.arrays import Array, Picture
from flowportrait.codecs import LatentCodec
from flowportrait.codecs.liveliness import AS_IT_IS, EyeEvents, LipFactors, Strengths
from flowportrait.composite import Composite, Frame, Size, compose
from flowportrait.config import validate
from flowportrait.encoders import AudioEncoder, ImageEncoder
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
from flowportrait.modeldir import PARTS, ModelSpec, find_device, load_parts, mix_weights, mixed
from flowportrait.precision import matmul_precision
from flowportrait.sampling import Schedule, guided, sample
from flowportrait.shot import Crop, Encoded, Options, Progress, Result, Shot, counted
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Latents, PerClip
from flowportrait.weights import difference, shapes

Recording = str | Path | tuple[Array, int]

SILENCE = 4  # latent frames, in which is seen whether a portrait's lips close


@dataclass(frozen=True)
class Pipeline:
    """A loaded model: everything between a portrait with a recording and a video."""

    spec: ModelSpec
    model: MoT
    codec: LatentCodec
    audio_encoder: AudioEncoder
    image_encoder: ImageEncoder
    device: torch.device
    offload: bool = False  # on the device is only what is at work, the rest in CPU memory
    quantization: Quantization | None = None  # what the weights of the layers were brought to

    def generate(
        self,
        portrait: str | Path | Array,
        audio: Recording,
        *,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Generates a video of the portrait speaking the recording: round(seconds * 24) frames, the
        same for the same seed.

        `portrait` is a file or uint8 [h, w, 3]; `audio` a file or (float samples [s] or [s,
        channels], rate in Hz) of at least 0.5 s. `progress` is told (evaluations done, evaluations
        in all). Raises MediaError, DataError (no face, unusable arrays) or ConfigError.
        """
        shot = self.shot(portrait, audio, **options)
        latents = torch.cat(list(shot.latents(progress)), dim=2)
        return Result(latents, shot, self.spec.sampling.window_latent_frames)

    def stream(
        self,
        portrait: str | Path | Array,
        audio: Recording,
        **options: Unpack[Options],
    ) -> Iterator[tuple[Picture, Float[np.ndarray, "s ..."]]]:
        """As `generate`, but gives each frame as soon as it is made, with the sound of its 1/24 s
        at the recording's own rate. The first comes once the first window is sampled. Options and
        errors are those of `generate`.
        """
        shot = self.shot(portrait, audio, **options)
        samples = shot.sound.samples
        rate = shot.sound.sample_rate
        for index, frame in enumerate(shot.frames(shot.latents())):
            start, stop = (round(at * rate / self.spec.fps) for at in (index, index + 1))
            last = index == shot.num_frames - 1
            yield frame, samples[start:] if last else samples[start:stop]

    def shot(
        self,
        portrait: str | Path | Array,
        audio: Recording,
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
        chosen = {"head": head, "lips": lips, "eyes": eyes}
        strengths = validate(Strengths, chosen, where="strengths")
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
        """A portrait that is already cropped, at the model's own size."""
        return self._composite(portrait, self.spec.size_px, "face", "none", AS_IT_IS)

    def settled(
        self,
        clip: Encoded,
        latents: Latents,
        rest: PerClip | None,
        events: EyeEvents | None = None,
        strengths: Strengths = AS_IT_IS,
    ) -> Latents:
        """Sampled latents as they are shown; `rest` is that of `Pipeline.rest`."""
        if not self.codec.moves_portrait:
            return latents
        sampling = self.spec.sampling
        lips = LipFactors(sampling.lips, sampling.lip_width or sampling.lips)
        return self.codec.settle(latents, clip.context, events, strengths, rest, lips)

    @torch.no_grad()
    def rest(self, clip: Encoded, schedule: Schedule) -> Float[Tensor, "1"] | None:
        """The lip opening of this portrait in silence, sampled from the model. None for a codec
        that does not move the portrait.
        """
        if not self.codec.moves_portrait:
            return None
        frames = 1 + self.codec.temporal_stride * (SILENCE - 1)
        silence = torch.zeros(1, round(frames / self.spec.fps * SPEECH_HZ), device=self.device)
        still = replace(clip, audio=self.audio_encoder(silence, frames), latent_frames=SILENCE)
        return self.codec.lip_gap(
            torch.cat(list(self.sampled(still, schedule, 1.0, 0)), dim=2), clip.context
        )

    def _composite(
        self, image: Array, size: Size, frame: Frame | None, crop: Crop, strengths: Strengths
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
                f"{self.spec.name}: its codec only generates squares of {own_px} px; leave out"
                " size, frame, head, lips and eyes"
            )
        return compose(image, own_px, own_px, "face", crop, detector)

    @property
    def warnings(self) -> list[str]:
        """Warnings for users of this model, a line each."""
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
            raise ConfigError(f"evaluations: got {count}; give a number of at least 1")
        return Schedule(count, self.spec.sampling.shift)

    @torch.no_grad()
    def encode(
        self,
        portrait: Array,
        sound: media.Sound,
        latent_frames: int,
        composite: Composite | None = None,
    ) -> Encoded:
        """The framed portrait and the whole recording as the model's features, computed once for
        all windows. With a `composite` frames are shown on its canvas.
        """
        pixels = torch.from_numpy(portrait.copy()).to(self.device).float()
        picture = rearrange(pixels / 127.5 - 1, "h w c -> 1 c h w")
        num_frames = self._grid(latent_frames, opening=True).num_frames
        heard = media.heard(sound.samples, sound.sample_rate, SPEECH_HZ)
        speech = torch.from_numpy(heard).to(self.device)[None]
        context = self._context(picture, composite)
        image = self.image_encoder(picture, context)
        audio = self.audio_encoder(speech, num_frames)
        return Encoded(context, image, audio, latent_frames)

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
        longest = sampling.window_latent_frames
        prefix = sampling.prefix_latent_frames
        windows = plan_windows(clip.latent_frames, longest, prefix)
        on_step = counted(progress, len(windows) * len(schedule))
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
            raise ConfigError("toward: quantized weights cannot be mixed; leave out one of the two")
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


def _mixed(one: Pipeline, other: Pipeline, share: float) -> Pipeline:
    if not 0 <= share <= 1:
        raise ConfigError(
            f"share: got {share}; give a number from 0 (the model) to 1 (the model of toward)"
        )
    weights = one.model.state_dict(), other.model.state_dict()
    problem = difference(*map(shapes, reversed(weights)))
    if problem:
        raise ConfigError(
            f"toward: {other.spec.name} {problem}; give a model tuned from {one.spec.name}"
        )
    one.model.load_state_dict(mix_weights(*weights, share))
    return replace(one, spec=mixed(one.spec, other.spec, share))


@cache
def _kept(finder: Callable[[], Any]) -> Any:
    """A finder for portraits, loaded once: that takes longer than a look."""
    return finder()
