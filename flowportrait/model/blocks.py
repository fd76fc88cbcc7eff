"""The blocks of the Mixture of Transformers: attention, MLP, and a layer of two experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowportrait.config import Frozen
from flowportrait.model.attention import Spans
from flowportrait.model.embed import (
    Rope,
    rotate,
)
from flowportrait.tensors import Tokens

AnyRows = Float[Tensor, "*n d"]

UND, GEN = "", "_moe_gen"  # suffix of the weights of the understanding and of the generation expert


TEXT = ("language_model.model.embed_tokens.", "language_model.lm_head.")
"""Weights for text in and out, which no video needs: 2.2 GB of BAGEL-7B in bf16."""


INIT_STD = 0.02


MLP_TOKENS = 8192
"""Tokens whose products inside an MLP are made at a time: 0.9 GB of BAGEL-7B in bf16 while
sampling, where all tokens of a window of 25 s would take 10 GB. With a gradient, which keeps them
all, they are made in the same pieces: products of other shapes may differ in their last bits, and
the first ratio of an update would not be 1.
"""


class MoTConfig(Frozen):
    """Sizes of the model. The defaults are BAGEL-7B-MoT's."""

    hidden_size: int = Field(3584, gt=0, multiple_of=4)
    num_layers: int = Field(28, gt=0)
    num_heads: int = Field(28, gt=0)
    num_kv_heads: int = Field(4, gt=0)
    mlp_size: int = Field(18944, gt=0)
    vocab_size: int = Field(
        152064, ge=0, description="0: a model without text, embedding and output head"
    )
    rope_theta: float = Field(1e6, gt=1)
    norm_eps: float = Field(1e-6, gt=0)
    positions_per_second: float = Field(
        6.0,
        gt=0,
        description="Unstated in the paper; 6 is BAGEL's one position per latent frame at 24 fps",
    )
    latent_channels: int = Field(16, gt=0)
    patch: int = Field(2, gt=0, description="side of a token in latent cells")
    latent_side: int = Field(64, gt=0, description="rows of the position table of latent tokens")
    audio_dim: int = Field(
        1280, gt=0, description="Unstated in the paper; 1280 is Whisper-large's width"
    )
    audio_layers: int = Field(
        1, gt=0, description="layers of the speech network that are concatenated in audio_dim"
    )
    image_dim: int = Field(1152, gt=0)
    image_side: int = Field(70, gt=0, description="rows of the position table of image tokens")
    local_heads: int = Field(
        0,
        ge=0,
        description=(
            "query heads initialised to attend to the same moment in time; helps training from"
            " scratch"
        ),
    )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def token_size(self) -> int:
        """Numbers in one latent token."""
        return self.latent_channels * self.patch**2

    @model_validator(mode="after")
    def _heads_divide(self) -> MoTConfig:
        """Refuses widths that do not divide into heads."""
        if (
            self.hidden_size % self.num_heads
            or self.head_size % 2
            or self.num_heads % self.num_kv_heads
        ):
            raise ValueError(
                f"hidden_size {self.hidden_size}, num_heads {self.num_heads}, num_kv_heads"
                f" {self.num_kv_heads}; hidden_size must divide into heads of even size, and"
                " num_heads into num_kv_heads groups"
            )
        if self.audio_dim % self.audio_layers:
            raise ValueError(
                f"audio_dim {self.audio_dim}: must be a multiple of audio_layers"
                f" {self.audio_layers}"
            )
        return self

    @classmethod
    def tiny(cls, audio_dim: int, image_dim: int) -> MoTConfig:
        """The model that trains and runs on two CPU cores. Its positions tell single video frames
        apart.
        """
        return cls(
            hidden_size=256,
            num_layers=8,
            num_heads=8,
            num_kv_heads=4,
            mlp_size=704,
            vocab_size=0,
            rope_theta=100.0,
            positions_per_second=24.0,
            latent_channels=16,
            latent_side=16,
            audio_dim=audio_dim,
            image_dim=image_dim,
            image_side=16,
        )


KeysValues = tuple[Tensor, Tensor]  # of one layer, each [b, kv heads, n, e]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: AnyRows) -> AnyRows:
        return F.rms_norm(
            x.float(),
            self.weight.shape,
            self.weight.float(),
            self.eps,
        )


class Attention(nn.Module):
    """Both experts' projections around the attention of one layer; the attention itself is shared
    (`model/attention.py`)."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.head_size = config.head_size
        kv_size = config.num_kv_heads * config.head_size
        for expert in (UND, GEN):
            self.add_module(f"q_proj{expert}", nn.Linear(config.hidden_size, config.hidden_size))
            self.add_module(f"k_proj{expert}", nn.Linear(config.hidden_size, kv_size))
            self.add_module(f"v_proj{expert}", nn.Linear(config.hidden_size, kv_size))
            self.add_module(
                f"o_proj{expert}", nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            )
            self.add_module(f"q_norm{expert}", RMSNorm(config.head_size, config.norm_eps))
            self.add_module(f"k_norm{expert}", RMSNorm(config.head_size, config.norm_eps))

    def project(self, x: Tokens, expert: str, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b, heads, n, e]; the first two are normed per head and
        turned.
        """
        part = self._modules
        q, k, v = (
            part[f"{name}_proj{expert}"](x).unflatten(-1, (-1, self.head_size)) for name in "qkv"
        )
        q = rotate(part[f"q_norm{expert}"](q), rope).to(v.dtype)
        k = rotate(part[f"k_norm{expert}"](k), rope).to(v.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def output(self, heads: Float[Tensor, "b heads n e"], expert: str) -> Tokens:
        """The result of attention, back in the width of the tokens."""
        return self._modules[f"o_proj{expert}"](heads.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def start_local(self, num_heads: int, strength: float = 1.0) -> None:
        """Biases the first `num_heads` query heads, and their key heads, toward tokens of the same
        moment.

        A constant vector in q and k, turned by RoPE, makes their product fall with the distance in
        time. From there alignment of sound and lips need not be discovered; training is free to
        leave it.
        """
        per_key = self.q_proj.out_features // self.k_proj.out_features
        for expert in (UND, GEN):
            for name, count in (("q_proj", num_heads), ("k_proj", -(-num_heads // per_key))):
                bias = self._modules[f"{name}{expert}"].bias.unflatten(0, (-1, self.head_size))
                bias[:count, : self.head_size // 2] = strength


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: AnyRows) -> AnyRows:
        if x.shape[-2] <= MLP_TOKENS:
            return self._products(x)
        return torch.cat([self._products(part) for part in x.split(MLP_TOKENS, dim=-2)], dim=-2)

    def _products(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One transformer layer of both experts. `recomputes`: training keeps its inputs alone and
    computes it again for the gradient.
    """

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.recomputes = False
        self.self_attn = Attention(config)
        for expert in (UND, GEN):
            self.add_module(f"mlp{expert}", MLP(config.hidden_size, config.mlp_size))
            self.add_module(
                f"input_layernorm{expert}", RMSNorm(config.hidden_size, config.norm_eps)
            )
            self.add_module(
                f"post_attention_layernorm{expert}", RMSNorm(config.hidden_size, config.norm_eps)
            )

    def project(self, x: Tokens, expert: str, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the tokens `x`, each [b, heads, n, e]."""
        return self.self_attn.project(self._modules[f"input_layernorm{expert}"](x), expert, rope)

    def update(self, x: Tokens, heads: Float[Tensor, "b heads n e"], expert: str) -> Tokens:
        """The tokens `x` after what attention found for them (`heads`) and after the MLP."""
        x = x + self.self_attn.output(heads, expert)
        return x + self._modules[f"mlp{expert}"](
            self._modules[f"post_attention_layernorm{expert}"](x)
        )

    def understand(
        self, x: Tokens, rope: Rope, spans: Spans, last: bool
    ) -> tuple[Tokens, KeysValues]:
        """Audio and image tokens after this layer, and their keys and values for the video. After
        the `last` layer nothing asks for the tokens any more, and they stay as they are.
        """
        q, k, v = self.project(x, UND, rope)
        return (x if last else self.update(x, spans.condition(q, k, v), UND)), (k, v)

    def generate(self, x: Tokens, rope: Rope, spans: Spans, known: KeysValues | None) -> Tokens:
        """Video tokens after this layer."""
        if self.recomputes and torch.is_grad_enabled():
            inputs = x, rope, spans, known
            return checkpoint(
                self._generate, *inputs, use_reentrant=False, preserve_rng_state=False
            )
        return self._generate(x, rope, spans, known)

    def _generate(self, x, rope, spans, known):
        return self.update(x, spans.generate(*self.project(x, GEN, rope), known), GEN)

    def forward(
        self,
        condition: Tensor | None,
        video: Tensor,
        ropes: tuple[Rope | None, Rope],
        spans: Spans,
        last: bool,
    ) -> tuple[Tensor | None, Tensor]:
        """Returns the condition's tokens (None where there is none, and after the last layer) and
        the video's.
        """
        if self.recomputes and torch.is_grad_enabled():
            inputs = condition, video, ropes, spans, last
            return checkpoint(self._both, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self._both(condition, video, ropes, spans, last)

    def _both(self, condition, video, ropes, spans, last):
        """The layer for condition and video together."""
        known = None
        # By way of the class: FSDP gathers and frees weights around an instance's methods, which
        # `forward` does once.
        if condition is not None:
            condition, known = Layer.understand(
                self,
                condition,
                ropes[0],
                spans,
                last,
            )
        return None if last else condition, Layer._generate(
            self,
            video,
            ropes[1],
            spans,
            known,
        )


class Transformer(nn.Module):
    """The stack of layers with the last norm of each expert."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        if config.vocab_size:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.norm_eps)


class LanguageModel(nn.Module):
    """BAGEL's name for the transformer and, where there is text, its output head."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.model = Transformer(config)
        if config.vocab_size:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
