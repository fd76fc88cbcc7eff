"""Memory and operations of a training or a generation, counted from the shapes of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flowportrait import registry
from flowportrait.files import JsonObject
from flowportrait.model.blocks import MLP_TOKENS, MoTConfig
from flowportrait.model.cost import clip_flops, linear_flops
from flowportrait.model.layout import RowLayout, TokenGrid, latent_frames_for
from flowportrait.model.mot import MoT
from flowportrait.model.offload import Place
from flowportrait.model.quantize import LAYERS
from flowportrait.modeldir import ModelSpec, build_part

GIB = 2**30


DECODE_FLOPS_PER_PIXEL = 4.99e12 / 384**2  # of the Wan-VAE, for a latent frame


def expert_bytes(weights: dict[str, Place], quantization: str | None) -> float:
    """Bytes of an expert: bf16 for matrices, float32 for the rest; eight bits with a scale per
    row.
    """
    total = 0.0
    for name, (module, key) in weights.items():
        count = module._parameters[key].numel()
        if not isinstance(module, torch.nn.Linear):
            total += 4 * count
        elif quantization and name.startswith(LAYERS) and key == "weight":
            total += count + 2 * module.out_features
        else:
            total += 2 * count
    return total


def _keys(config: MoTConfig) -> int:
    return config.num_kv_heads * config.head_size


def working_bytes(config: MoTConfig, num_tokens: int) -> float:
    """Memory of a layer's tokens while it computes: tokens, their norm, q before and after it is
    turned in float32, q, heads and output in bf16, keys and values; SwiGLU's three products in bf16
    of some tokens at a time.
    """
    hidden = config.hidden_size
    keys = _keys(config)
    return (
        num_tokens * (22 * hidden + 12 * keys) + min(num_tokens, MLP_TOKENS) * 6 * config.mlp_size
    )


def part_gib(table: registry.PartTable, part: JsonObject) -> float:
    """Memory of an encoder or codec, which stay in float32."""
    with torch.device("meta"):
        module = build_part(table, part, empty=True)
    return sum(value.numel() * value.element_size() for value in module.state_dict().values()) / GIB


def longest_grid(spec: ModelSpec, clip_s: float, longest: int) -> TokenGrid:
    """The token layout of the longest clip of a training run."""
    codec = registry.CODECS.load(spec.codec["type"])
    rows, cols = build_part(registry.IMAGE_ENCODERS, spec.image_encoder, empty=True).grid
    side = spec.size_px // (codec.spatial_stride * spec.model.patch)
    latent_frames = min(longest, latent_frames_for(round(clip_s * spec.fps), codec.temporal_stride))
    return TokenGrid(
        latent_frames,
        side,
        side,
        rows,
        cols,
        patch=spec.model.patch,
        temporal_stride=codec.temporal_stride,
        fps=spec.fps,
    )


def training_flops(config: MoTConfig, grid: TokenGrid, trained: str, recompute: bool) -> float:
    """Operations of a clip's forward pass, recomputation and backward pass; frozen matrices need
    half of a backward pass.
    """
    linear = linear_flops(config) * RowLayout((grid,)).num_tokens
    attention = clip_flops(config, grid) - linear
    return linear * (1 + recompute + (1 if trained == "lora" else 2)) + attention * (3 + recompute)


def state_bytes(model: MoT, num_gpus: int, shards: int) -> dict[str, float]:
    """Memory of weights on a GPU, with gradients and the optimizer's state of those that are
    trained.
    """
    size = lambda p: p.numel() * p.element_size()  # noqa: E731
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    layer = sum(p.numel() for p in model.layers[0].parameters())
    outer = sum(map(size, parameters)) - sum(size(p) for p in model.layers.parameters())
    # Sharded: two layers at a time in bf16 and what lies around the layers; alone: bf16 copies of
    # what is trained.
    gathered = 2 * 2 * layer + outer if num_gpus > 1 else 2 * trained
    return {
        "weights": (
            sum(map(size, parameters)) / shards + sum(b.numel() * 4 for b in model.buffers())
        ),
        "gradients": 4 * trained / shards,
        "optimizer": 8 * trained / shards,
        "average": 4 * trained / shards,
        "gathered": gathered,
    }


def row_bytes(config: MoTConfig, num_tokens: int, recompute: bool) -> dict[str, float]:
    """Memory of the tokens that a GPU computes. `working`: a layer's backward has, beside what was
    kept, the gradients of SwiGLU's three products in bf16 and of the tokens and their norm in
    float32; an estimate.
    """
    working = num_tokens * (6 * config.mlp_size + 8 * config.hidden_size)
    return {"activations": activation_bytes(config, num_tokens, recompute), "working": working}


def activation_bytes(config: MoTConfig, num_tokens: int, recompute: bool) -> float:
    """Memory that a forward keeps for the backward, with products in bf16 and the tokens themselves
    in float32.

    With recomputation the layers' inputs, and one layer at a time as it is without: what its norms
    need (fused norms need less), three bf16 copies of the normed tokens for q, k and v and two for
    the MLP, heads, SwiGLU.
    """
    hidden, keys, inner = (
        config.hidden_size,
        config.num_kv_heads * config.head_size,
        config.mlp_size,
    )
    layer = SAVED_HIDDEN * hidden + SAVED_KEYS * keys + SAVED_INNER * inner
    each = 4 * hidden * config.num_layers + layer if recompute else layer * config.num_layers
    return num_tokens * each


SAVED_HIDDEN = 38
SAVED_KEYS = 12
SAVED_INNER = 8
"""Bytes that a layer keeps of a token, for each number of its width, of its keys, and of the MLP's
inside.
"""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: dense bf16 operations a second at its peak, and memory."""

    bf16_tflops: float
    memory_gib: float


GPUS = {
    "a100": Gpu(312, 80), "a100-40": Gpu(312, 40), "h100": Gpu(989, 80), "h200": Gpu(989, 141),
    "b200": Gpu(2250, 180), "l40s": Gpu(362, 48), "rtx4090": Gpu(165, 24),
}  # fmt: skip
"""Makers' figures, without sparsity."""


CARDS_GIB = (8, 12, 16, 24, 48, 80)
"""Memory of the cards that a plan for generating speaks of."""


CONTEXT_GIB = 1.0  # of CUDA itself, its libraries and what the allocator cannot use; an estimate
