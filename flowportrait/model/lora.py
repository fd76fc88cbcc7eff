"""Low-rank adapters (arXiv:2106.09685) on the generation expert: W + (alpha / rank) B A, of which A
and B alone learn.

Names of the frozen weights stay what they are, so checkpoints load as before; `merged` gives back a
plain model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.model.blocks import GEN
from flowportrait.model.mot import MoT


class LoraConfig(Frozen):
    """Size of the adapters. Unstated in the paper, which trains all weights."""

    rank: int = Field(64, ge=1, description="rank of the adapters. Unstated")
    alpha: float = Field(64.0, gt=0, description="adapters are scaled by alpha / rank. Unstated")


class AdaptedLinear(nn.Linear):
    """A frozen linear layer with an adapter beside it, which starts at zero."""

    def __init__(self, linear: nn.Linear, config: LoraConfig):
        super().__init__(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta"
        )
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = config.alpha / config.rank
        self.lora_a = nn.Parameter(
            linear.weight.new_empty(config.rank, linear.in_features, dtype=torch.float32)
        )
        self.lora_b = nn.Parameter(
            linear.weight.new_empty(linear.out_features, config.rank, dtype=torch.float32)
        )
        with torch.no_grad():
            for own, fresh in zip((self.lora_a, self.lora_b), self.fresh(None), strict=True):
                own.copy_(fresh)

    def fresh(self, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A and B to start from: B of zeros, so that nothing is changed yet."""
        a = torch.randn(self.lora_a.shape, generator=rng) / math.sqrt(self.in_features)
        return a, torch.zeros(self.lora_b.shape)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


def adapt(model: MoT, config: LoraConfig) -> None:
    """Puts adapters on every projection and MLP of the generation expert, in place."""
    for layer in model.layers:
        for holder in (layer.self_attn, layer._modules[f"mlp{GEN}"]):
            for name, module in list(holder.named_children()):
                if isinstance(module, nn.Linear) and (GEN in name or holder is not layer.self_attn):
                    setattr(holder, name, AdaptedLinear(module, config))


def is_adapter(name: str) -> bool:
    """Whether a weight of this name belongs to an adapter."""
    return name.rpartition(".")[2] in ("lora_a", "lora_b")


def merged(weights: dict[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The weights of a plain model that computes the same; float32 products, each weight's own
    dtype.
    """
    plain = {name: value for name, value in weights.items() if not is_adapter(name)}
    for name, b in weights.items():
        if name.endswith(".lora_b"):
            base = name.removesuffix("lora_b")
            change = b.float() @ weights[f"{base}lora_a"].float() * (config.alpha / config.rank)
            plain[f"{base}weight"] = (plain[f"{base}weight"].float() + change).to(
                plain[f"{base}weight"].dtype
            )
    return plain
