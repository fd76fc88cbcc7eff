"""The Mixture of Transformers (§3.1): one expert understands audio and image, one generates video.

Both experts have their own weights everywhere and meet only in attention. Since audio and image
never see the video, their keys and values are computed once (`condition`) and every evaluation
(`velocity`) runs the video tokens alone. Training runs both through the same layers one after the
other (`forward`), on rows of packed clips. Weights carry BAGEL's names; the generation expert's end
in `_moe_gen`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.model.attention import Spans
from flowportrait.model.blocks import GEN, INIT_STD, UND, KeysValues, LanguageModel, MoTConfig
from flowportrait.model.embed import (
    Connector,
    GridPositions,
    Rope,
    TimeEmbedder,
    rope_table,
)
from flowportrait.model.layout import RowLayout, TokenGrid
from flowportrait.model.sequence import SequenceShare
from flowportrait.model.step_cache import Reuse
from flowportrait.tensors import Latents, Tokens

AudioVectors = Float[Tensor, "b a da"]
ImageVectors = Float[Tensor, "b i di"]

LatentTimes = Float[Tensor, "b l"]
Patches = Float[Tensor, "b n p"]


@dataclass(frozen=True)
class Condition:
    """The audio and the image as video tokens see them: keys and values per layer. Empty when both
    blocks were dropped.
    """

    layers: tuple[KeysValues, ...] = ()


@dataclass(frozen=True)
class PackedRow:
    """`b` rows of packed clips, all of one layout, as training gives them to the network. `share`
    is the part of the video tokens that this process computes, where several processes share the
    row.
    """

    layout: RowLayout
    audio: AudioVectors
    image: ImageVectors
    video: Patches  # noisy latents, patchified
    t: LatentTimes  # per latent frame of all clips; 0 marks a clean one
    share: SequenceShare | None = None


class MoT(nn.Module):
    """Velocity of latents given audio and portrait features.

    >>> grid = TokenGrid(latent_frames=7, rows=8, cols=8)
    >>> v = model.velocity(zt, t, model.condition(audio, image, grid), grid)
    """

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.language_model = LanguageModel(config)
        self.time_embedder = TimeEmbedder(width)
        self.vae2llm = nn.Linear(config.token_size, width)
        self.llm2vae = nn.Linear(width, config.token_size)
        self.latent_pos_embed = GridPositions(config.latent_side, width)
        self.connector = Connector(config.image_dim, width)
        self.vit_pos_embed = GridPositions(config.image_side, width)
        self.audio_connector = Connector(config.audio_dim, width, config.audio_layers)
        self._initialise()

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers."""
        return self.language_model.model.layers

    def condition(
        self,
        audio: AudioVectors | None,
        image: ImageVectors | None,
        grid: TokenGrid,
    ) -> Condition:
        """Keys and values, for the video tokens, of the audio (one vector per video frame) and of
        the portrait.

        None drops a block: the video then attends to one source less.
        """
        layout = RowLayout((grid,))
        return self._understood(audio, image, layout)

    def _understood(
        self, audio: AudioVectors | None, image: ImageVectors | None, layout
    ) -> Condition:
        """Keys and values of sound and portrait, once for all evaluations."""
        x, rope = self._condition_tokens(audio, image, layout)
        if x is None:
            return Condition()
        spans = Spans(
            layout.audio_lengths if audio is not None else (0,),
            layout.image_lengths if image is not None else (0,),
            layout.video_lengths,
        )
        known = []
        for layer in self.layers:
            x, keys_values = layer.understand(x, rope, spans, last=layer is self.layers[-1])
            known.append(keys_values)
        return Condition(tuple(known))

    def velocity(
        self,
        zt: Latents,
        t: LatentTimes,
        condition: Condition,
        grid: TokenGrid,
        share: SequenceShare | None = None,
        reuse: Reuse | None = None,
    ) -> Latents:
        """The velocity at `zt`, float32. `t` in [0, 1] per latent frame; 0 marks a clean latent
        frame. Of several processes each computes its `share` of the tokens, and all get the whole.
        With `reuse` all layers but the first may be taken from an evaluation before.
        """
        layout = RowLayout((grid,))
        first, rope = self._video_tokens(grid.patchify(zt), t, layout, share)
        spans = Spans(layout.audio_lengths, layout.image_lengths, layout.video_lengths, share)

        def through(x: Tensor, start: int, stop: int) -> Tensor:
            known = condition.layers or (None,) * len(self.layers)
            for index in range(start, stop):
                x = self.layers[index].generate(x, rope, spans, known[index])
            return x

        count = len(self.layers)
        if reuse is None:
            x = through(first, 0, count)
        else:
            x = reuse(first, through(first, 0, 1), lambda x: through(x, 1, count))
        tokens = self._velocity_tokens(x)
        return grid.unpatchify(tokens if share is None else share.whole(tokens))

    def forward(self, row: PackedRow) -> Patches:
        """The velocity of the video tokens of packed clips (of this process's share of them),
        float32.
        """
        layout = row.layout
        condition, condition_rope = self._condition_tokens(row.audio, row.image, layout)
        video, video_rope = self._video_tokens(
            row.video,
            row.t,
            layout,
            row.share,
        )
        spans = Spans(layout.audio_lengths, layout.image_lengths, layout.video_lengths, row.share)
        for layer in self.layers:
            ropes = condition_rope, video_rope
            condition, video = layer(condition, video, ropes, spans, last=layer is self.layers[-1])
        return self._velocity_tokens(video)

    def embed_latents(self, zt: Latents, t: LatentTimes, grid: TokenGrid) -> Tokens:
        """Video tokens: the noisy latents, plus their time, plus their place in the picture."""
        return self._video_tokens(grid.patchify(zt), t, RowLayout((grid,)))[0]

    def embed_image(self, image: ImageVectors, grid: TokenGrid) -> Float[Tensor, "b i d"]:
        """Image tokens: the portrait's features, plus their place in the picture."""
        return (
            self.connector(image).float()
            + self.vit_pos_embed(grid.image_rows, grid.image_cols).float()
        )

    def embed_audio(self, audio: AudioVectors) -> Float[Tensor, "b a d"]:
        """Audio tokens: the features alone; their position says when they are heard."""
        return self.audio_connector(audio).float()

    def _condition_tokens(
        self, audio: Tensor | None, image: Tensor | None, layout: RowLayout
    ) -> tuple[Tensor | None, Rope | None]:
        """Tokens [b, n, d] of the blocks that are there, audio first, and their rotary tables."""
        blocks = []
        positions = []
        if audio is not None:
            blocks.append(self.embed_audio(audio))
            positions.append(layout.audio_positions(self.config.positions_per_second))
        if image is not None:
            pictures = zip(layout.grids, image.split(layout.image_lengths, dim=1), strict=True)
            blocks += [self.embed_image(picture, grid) for grid, picture in pictures]
            positions.append(layout.image_positions())
        if not blocks:
            return None, None
        x = torch.cat(blocks, dim=1)
        return x, self._rope(torch.cat(positions), x.device)

    def _video_tokens(
        self,
        patches: Patches,
        t: LatentTimes,
        layout: RowLayout,
        share: SequenceShare | None = None,
    ) -> tuple[Tokens, Rope]:
        """The noisy latents plus their time plus their place, of the `share` of them; and their
        rotary tables.
        """
        mine = slice(None) if share is None else share.span
        places = [
            self.latent_pos_embed.ids(g.rows, g.cols).repeat(g.latent_frames) for g in layout.grids
        ]
        place = self.latent_pos_embed.pos_embed[torch.cat(places)[mine]].float()
        time = self.time_embedder(t)[:, layout.latent_frame_of_token()[mine].to(t.device)]
        positions = layout.video_positions(self.config.positions_per_second)[mine]
        return self.vae2llm(patches[:, mine]).float() + time + place, self._rope(
            positions, patches.device
        )

    def _velocity_tokens(self, x: Tokens) -> Patches:
        return self.llm2vae(self.language_model.model.norm_moe_gen(x)).float()

    def _rope(self, positions: Tensor, device: torch.device) -> Rope:
        return rope_table(positions.to(device), self.config.head_size, self.config.rope_theta)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Fresh weights: normal 0.02, the generation expert a copy of the other, and a velocity of
        zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        weights = dict(self.named_parameters())
        for name, weight in weights.items():
            if GEN in name:
                weight.copy_(weights[name.replace(GEN, UND)])
        nn.init.zeros_(self.llm2vae.weight)
        for layer in self.layers:
            if self.config.local_heads:
                layer.self_attn.start_local(self.config.local_heads)
