"""`flowportrait encode`: a dataset of clips becomes latents and frozen condition features, once for
all trainings.

The parts of a model directory do it (codec, audio encoder, image encoder), whatever they are. It
goes on where it was stopped; processes of `torchrun`, of a Ray cluster, or on machines that know
nothing of each other share the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.cluster import Engine, Part, hand_out
from flowportrait.codecs import LatentCodec
from flowportrait.data import encoded
from flowportrait.data.augment import apply_look, draw_look
from flowportrait.data.dataset import read_dataset
from flowportrait.data.encoded import EncodedHeader, half, shard_path
from flowportrait.data.sources import SourceClip
from flowportrait.encoders import AudioEncoder, ImageEncoder
from flowportrait.errors import DataError, MediaError, require
from flowportrait.files import JsonObject
from flowportrait.modeldir import ModelSpec, find_device, load_parts
from flowportrait.progress import Progress
from flowportrait.records import EncodedClip
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Crops
from flowportrait.train.parallel import Ranks

MIN_LATENT_FRAMES = 2


@dataclass(frozen=True)
class Encoder:
    """The parts of a model that encode, and how."""

    spec: ModelSpec
    codec: LatentCodec
    audio_encoder: AudioEncoder
    image_encoder: ImageEncoder
    device: str
    num_portraits: int
    longest_s: float
    seed: int

    @property
    def header(self) -> EncodedHeader:
        """Facts of the encoder that are written into the dataset."""
        side = self.spec.size_px // self.codec.spatial_stride
        image_rows, image_cols = self.image_encoder.grid
        settings = {
            "num_portraits": self.num_portraits,
            "longest_s": self.longest_s,
            "seed": self.seed,
        }
        return self._header(settings, side, image_rows, image_cols)

    def _header(
        self, settings: JsonObject, side: int, image_rows: int, image_cols: int
    ) -> EncodedHeader:
        """The description at the head of encoded clips."""
        return EncodedHeader(
            made_of=parts_digest(self.spec),
            model=self.spec.name,
            settings=settings,
            channels=self.codec.channels,
            rows=side,
            cols=side,
            temporal_stride=self.codec.temporal_stride,
            fps=self.spec.fps,
            audio_dim=self.audio_encoder.dim,
            image_dim=self.image_encoder.dim,
            image_rows=image_rows,
            image_cols=image_cols,
        )

    @torch.inference_mode()
    def encode(self, clip: SourceClip, shard: str) -> tuple[dict[str, Tensor], EncodedClip]:
        """Tensors by name and the record of one clip. Raises DataError or MediaError for one that
        cannot be used.
        """
        frames, sound = self._read(clip)
        stride = self.codec.temporal_stride
        latent_frames = 1 + (len(frames) - 1) // stride
        num_frames = 1 + stride * (latent_frames - 1)
        rng = np.random.default_rng([self.seed, *hashlib.sha256(clip.key.encode()).digest()[:8]])
        portraits = [0, *rng.integers(len(frames), size=self.num_portraits - 1).tolist()]
        video = rearrange(frames[:num_frames], "f c h w -> 1 c f h w").to(self.device)
        tensors, latents_each = {}, False
        tensors["audio"] = self.audio_encoder(
            torch.from_numpy(sound)[None].to(self.device), num_frames
        )[0]
        for number, frame in enumerate(portraits):
            picture = frames[frame : frame + 1].to(self.device)
            context = self.codec.prepare(picture)
            latents_each = context is not None
            tensors[f"image.{number}"] = self.image_encoder(picture, context)[0]
            if number == 0 or latents_each:
                tensors[f"latents.{number}"] = self.codec.encode(video, context)[0]
        named = {
            f"{clip.key}/{name}": half(value, f"{clip.video}: {name}")
            for name, value in tensors.items()
        }
        record = EncodedClip(
            id=clip.key,
            shard=shard,
            split=clip.split,
            latent_frames=latent_frames,
            num_portraits=len(portraits),
            latents_each=latents_each,
        )
        return named, record

    def _read(self, clip: SourceClip) -> tuple[Crops, Array]:
        """Framed frames in [-1, 1] at the model's rate and size, and the sound at 16 kHz."""
        source = media.Clip(clip.video)
        fps = self.spec.fps
        frames = source.frames_at(fps)[: round(self.longest_s * fps)]
        count = len(frames)
        least = 1 + self.codec.temporal_stride * (MIN_LATENT_FRAMES - 1)
        if count < least:
            raise DataError(
                f"{clip.video}: {count} frames at {fps:g} fps; at least {least} are needed"
            )
        sound = media.heard(source.sound.samples, source.sound.sample_rate, SPEECH_HZ)
        return (
            _framed(frames, clip.labels, self.spec.size_px),
            sound[: round(count / fps * SPEECH_HZ)],
        )


@dataclass(frozen=True)
class ShardMaker:
    """All of a run of `encode` but where it computes; what is loaded is loaded when first needed,
    also in a process that this was sent to.
    """

    files: tuple[SourceClip, ...]
    out: Path
    model: str
    clips_per_shard: int
    settings: Mapping[str, Any]
    device: str

    @cached_property
    def encoder(self) -> Encoder:
        """The parts of the model."""
        spec, parts = load_parts(
            self.model, ("codec", "audio_encoder", "image_encoder"), self.device
        )
        return Encoder(
            spec,
            **parts,
            device=str(find_device(self.device)),
            **self.settings,
        )

    @property
    def numbers(self) -> range:
        """Of the shards."""
        return range(-(-len(self.files) // self.clips_per_shard))

    def __call__(self, number: int) -> int:
        """Makes a shard. Raises DataError where it cannot be written."""
        clips = self.files[number * self.clips_per_shard :][: self.clips_per_shard]
        path = shard_path(self.out, number)
        try:
            _encode_shard(self.encoder, clips, path)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be written ({error.strerror}); give another -o"
            ) from error
        return number


def encode(
    dataset: Path,
    out: Path,
    model: str = "tiny",
    *,
    num_portraits: int = 2,
    longest_s: float = 25.0,
    clips_per_shard: int = 64,
    seed: int = 0,
    device: str = "auto",
    engine: Engine = "local",
    workers: int = 1,
    part: Part | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[list[EncodedClip], list[str]]:
    """Encodes a folder of clips (`manifest.jsonl`, or rendered with `clips.jsonl`) into the
    directory `out`.

    Of each clip the features of `num_portraits` pictures are kept: the first frame, as the model is
    used, and random others, so that a training need not learn to copy it. Shards are made by this
    process (or those that `torchrun` started), or by `workers` of a Ray cluster; of a `part` only
    its shards, into the same `out` as the others', and whichever part is the last writes the index.
    Gives the clips, and why others were left out; nothing as long as other parts are lacking.
    """
    if engine == "ray":
        require("ray", extra="ray")
    settings = {"num_portraits": num_portraits, "longest_s": longest_s, "seed": seed}
    files = tuple(clips_of(dataset))
    ranks = Ranks.join(device)
    where = "cpu" if engine == "ray" else ranks.device
    maker = ShardMaker(files, out, model, clips_per_shard, settings, where)
    if ranks.first:
        encoded.begin(out, maker.encoder.header)
    ranks.wait()
    numbers = part.of_list(maker.numbers) if part else list(maker.numbers)
    numbers = [number for number in numbers if not shard_path(out, number).is_file()]
    if engine == "ray":
        _make_on_ray(replace(maker, device=device), numbers, workers, progress)
    else:
        for done, number in enumerate(numbers[ranks.rank :: ranks.world], 1):
            maker(number)
            progress(min(len(numbers), done * ranks.world), len(numbers))
    ranks.wait()
    shards = [shard_path(out, number) for number in maker.numbers]
    if not ranks.first or (part and not all(path.is_file() for path in shards)):
        return [], []
    return encoded.finish(out, shards)


def _make_on_ray(maker: ShardMaker, numbers: list[int], workers: int, progress: Progress) -> None:
    """Each worker has a GPU of its own where the cluster has any and `device` does not say
    otherwise.
    """
    for done, (number, made) in enumerate(hand_out(maker, numbers, workers, maker.device), 1):
        if made is None:
            raise DataError(
                f"{shard_path(maker.out, number)}: two workers died while writing it; run again"
                " without --engine ray to see why"
            )
        progress(done, len(numbers))


def parts_digest(spec: ModelSpec) -> str:
    """Of all that turns clips into latents and features; two models with the same one can share an
    encoded dataset.
    """
    names = ("codec", "audio_encoder", "image_encoder")
    parts = [[getattr(spec, name), spec.sha256.get(f"{name}.safetensors")] for name in names]
    text = json.dumps([parts, spec.size_px, spec.fps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def clips_of(dataset: Path) -> list[SourceClip]:
    """The clips of a dataset but those of the test split. Raises DataError for a folder without an
    index.
    """
    return [clip for clip in read_dataset(dataset) if clip.split != "test"]


def _encode_shard(encoder: Encoder, clips: Sequence[SourceClip], path: Path) -> None:
    """Encodes clips into one file; those that cannot be read are listed as left out."""
    tensors = {}
    records = []
    left_out = []
    for clip in clips:
        try:
            own, record = encoder.encode(clip, path.name)
        except (DataError, MediaError) as error:
            left_out.append(str(error))
            continue
        tensors |= own
        records.append(record)
    encoded.write_shard(path, tensors, records, left_out)


def _framed(frames: Array, landmarks: Path | None, size_px: int) -> Crops:
    """uint8 frames [f, h, w, 3] cut to the square and brought to the model's size, in [-1, 1]."""
    if landmarks is not None:
        with np.load(landmarks) as stored:
            scale = frames.shape[1] / (float(stored["size_px"]) if "size_px" in stored else 128.0)
            points = stored["landmarks68"][0].astype(np.float32) * scale
        return apply_look(
            draw_look(np.random.default_rng(0), points, frames.shape[1], strength=0.0),
            frames,
            size_px,
        )
    height, width = frames.shape[1:3]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    square = torch.from_numpy(frames[:, top : top + side, left : left + side].copy())
    pictures = rearrange(square, "f h w c -> f c h w").float() / 127.5 - 1
    if side == size_px:
        return pictures
    return F.interpolate(pictures, (size_px, size_px), mode="bicubic", antialias=True).clamp(-1, 1)
