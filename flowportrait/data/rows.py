"""Rows of packed clips drawn from encoded datasets: which clips, which stretch of each, what of it
is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flowportrait.arrays import Rng
from flowportrait.config import Frozen
from flowportrait.data.encoded import EncodedSet
from flowportrait.data.packing import Piece, Stream, pack
from flowportrait.errors import ConfigError, DataError
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.cost import clip_flops
from flowportrait.model.layout import RowLayout, TokenGrid
from flowportrait.records import EncodedClip


class RowsConfig(Frozen):
    """Source of the clips and settings of their packing."""

    encoded: list[Path] = Field(
        min_length=1, description="datasets written by `flowportrait encode`"
    )
    row_tokens: int = Field(
        89_600, gt=0, description="maximum number of tokens per packed row (§4.1)"
    )
    num_rows: int = Field(
        8, ge=1, description="rows per update, over all processes. Unstated in the paper"
    )
    max_latent_frames: int = Field(
        151,
        ge=2,
        description=(
            "maximum length; a longer clip is cut to a stretch of this many latent frames (25 s)"
        ),
    )
    prefix_latent_frames: int = Field(
        2, ge=1, description="latent frames given clean when a stretch continues from earlier ones"
    )
    opening_share: float = Field(
        0.4, ge=0, le=1, description="share of stretches that start at the beginning of their clip"
    )
    prefix_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the other stretches that continue from clean latent frames",
    )
    first_portrait_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "share of portraits that are the clip's first frame; other frames keep the model from"
            " copying the pose. Unstated"
        ),
    )
    drop_audio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="probability of dropping the audio condition, for guidance. Unstated",
    )
    drop_image: float = Field(
        0.1, ge=0, le=1, description="probability of dropping the portrait condition. Unstated"
    )


@dataclass(frozen=True)
class Cut:
    """A stretch of a clip, from latent frame `start` on; the first `prefix` of its latent frames
    stand clean.
    """

    source: EncodedSet
    clip: EncodedClip
    grid: TokenGrid
    start: int = 0
    prefix: int = 0
    portrait: int = 0
    keeps_audio: bool = True
    keeps_image: bool = True

    @property
    def num_learnt_tokens(self) -> int:
        """Video tokens that have an error to learn from."""
        return (self.grid.latent_frames - self.prefix) * self.grid.tokens_per_latent_frame


@dataclass(frozen=True)
class Loaded:
    """A row of cuts with its tensors: audio [1, a, da] and image [1, i, di] of all, latents [1, c,
    l, h, w] of each.
    """

    cuts: Sequence[Cut]
    layout: RowLayout
    audio: Tensor
    image: Tensor
    latents: Sequence[Tensor]


class Rows:
    """The rows of a training. Raises DataError or ConfigError where datasets, model and budget do
    not fit.
    """

    def __init__(self, config: RowsConfig, model: MoTConfig, seed: int):
        self.config = config
        self.model = model
        self.seed = seed
        self.sets = [EncodedSet(root) for root in config.encoded]
        for dataset in self.sets:
            self._check(dataset)
        everything = [(dataset, clip) for dataset in self.sets for clip in dataset.clips]
        self.train = [pair for pair in everything if pair[1].split == "train"]
        self.held_out = [pair for pair in everything if pair[1].split == "held_out"]
        if not self.train:
            raise DataError(
                f"{config.encoded[0]}: no clips in the train split; encode a dataset with training"
                " clips"
            )
        self.stream = Stream(len(self.train), seed)

    def draw(self, position: int) -> tuple[list[list[Cut]], int]:
        """The rows of an update that begins at this place in the stream of clips, and the place
        after them.
        """
        return pack(self._piece, position, self.config.num_rows, self.config.row_tokens)

    def _piece(self, position: int) -> Piece[Cut]:
        """The cut at a position of the endless stream, with its length and its work."""
        dataset, clip = self.train[self.stream[position]]
        cut = self._cut(dataset, clip, np.random.default_rng([self.seed, position, 8]))
        layout = RowLayout((cut.grid,))
        return Piece(cut, layout.num_tokens, clip_flops(self.model, cut.grid))

    def _cut(self, dataset: EncodedSet, clip: EncodedClip, rng: Rng) -> Cut:
        """A whole clip, or a stretch of one that is too long."""
        config = self.config
        length = min(clip.latent_frames, config.max_latent_frames)
        opens = rng.random() < config.opening_share
        continues = rng.random() < config.prefix_share
        start = 0
        if length < clip.latent_frames and not opens:
            start = int(rng.integers(1, clip.latent_frames - length + 1))
        first, portrait = (
            rng.random() < config.first_portrait_share,
            int(rng.integers(clip.num_portraits)),
        )
        return Cut(
            dataset,
            clip,
            self.grid(dataset, length, opening=start == 0),
            start,
            prefix=min(config.prefix_latent_frames, length - 1) if start and continues else 0,
            portrait=0 if first else portrait,
            keeps_audio=rng.random() >= config.drop_audio,
            keeps_image=rng.random() >= config.drop_image,
        )

    def held_out_cut(self, index: int) -> Cut:
        """The opening of a held-out clip, whole if it is not too long."""
        dataset, clip = self.held_out[index]
        return Cut(
            dataset,
            clip,
            self.grid(dataset, min(clip.latent_frames, self.config.max_latent_frames), True),
        )

    def grid(self, dataset: EncodedSet, latent_frames: int, opening: bool) -> TokenGrid:
        """The token layout of a stretch."""
        header = dataset.header
        patch = self.model.patch
        return TokenGrid(
            latent_frames,
            header.rows // patch,
            header.cols // patch,
            header.image_rows,
            header.image_cols,
            patch=patch,
            temporal_stride=header.temporal_stride,
            fps=header.fps,
            opening=opening,
        )

    def load(self, cuts: Sequence[Cut], device: str = "cpu") -> Loaded:
        """The tensors of a row. What is dropped is all zeros, as `generate` has it for guidance."""
        audio = []
        image = []
        latents = []
        for cut in cuts:
            z0, heard, seen = cut.source.read(cut.clip, cut.portrait)
            first = max(0, 1 + cut.grid.temporal_stride * (cut.start - 1))
            latents.append(z0[None, :, cut.start : cut.start + cut.grid.latent_frames].to(device))
            audio.append(heard[first : first + cut.grid.num_frames] * cut.keeps_audio)
            image.append(seen * cut.keeps_image)
        layout = RowLayout(tuple(cut.grid for cut in cuts))
        return Loaded(
            cuts, layout, *(torch.cat(x)[None].to(device) for x in (audio, image)), latents
        )

    def _check(self, dataset: EncodedSet) -> None:
        header = dataset.header
        model = self.model
        got = header.channels, header.audio_dim, header.image_dim
        wanted = model.latent_channels, model.audio_dim, model.image_dim
        if got != wanted:
            raise DataError(
                f"{dataset.root}: latent channels, audio and image width are {got}, the model's are"
                f" {wanted}; encode the clips with this model"
            )
        longest = min(
            max((clip.latent_frames for clip in dataset.clips), default=1),
            self.config.max_latent_frames,
        )
        tokens = RowLayout((self.grid(dataset, longest, opening=False),)).num_tokens
        if tokens > self.config.row_tokens:
            raise ConfigError(
                f"data.row_tokens {self.config.row_tokens}: a clip of {longest} latent frames has"
                f" {tokens} tokens; give more, or a smaller data.max_latent_frames"
            )
