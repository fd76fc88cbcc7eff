"""The packed forward: any sequence of both experts' tokens under an explicit mask, in one attention
call.

It is the definition that `MoT.forward`, `MoT.condition` and `MoT.velocity` are measured against,
and the form in which BAGEL's own numbers are given. It computes both experts for every token and
keeps one, so it is for checking, not for speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowportrait.model.attention import attend
from flowportrait.model.blocks import GEN, UND
from flowportrait.model.embed import rope_table
from flowportrait.model.mot import MoT
from flowportrait.tensors import Rows


@dataclass(frozen=True)
class Packed:
    """Packed tokens: where they start from, who owns them, when they are, whom they see."""

    tokens: Rows
    positions: Float[Tensor, " n"]
    is_video: Bool[Tensor, " n"]  # owned by the generation expert
    allowed: Bool[Tensor, "n n"]


def packed_forward(model: MoT, packed: Packed) -> list[Rows]:
    """The tokens after each layer and, as the last entry, after the final norm of their expert."""
    rope = rope_table(packed.positions, model.config.head_size, model.config.rope_theta)
    transformer = model.language_model.model
    x = packed.tokens[None]
    hidden = []
    for layer in transformer.layers:
        of_und = layer.project(x, UND, rope)
        of_gen = layer.project(x, GEN, rope)
        q, k, v = (_own(packed, u, g) for u, g in zip(of_und, of_gen, strict=True))
        heads = attend(q, k, v, packed.allowed)
        x = _own(packed, layer.update(x, heads, UND), layer.update(x, heads, GEN))
        hidden.append(x[0])
    last = _own(packed, transformer.norm(x), transformer.norm_moe_gen(x))
    return [*hidden, last[0]]


def _own(packed: Packed, of_und: Tensor, of_gen: Tensor) -> Tensor:
    """Each token's own expert's result; tokens are the last axis but one."""
    return torch.where(packed.is_video[:, None], of_gen, of_und)
