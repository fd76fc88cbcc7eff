"""Cost of a clip to the network, in floating-point operations: the measure that rows are balanced
by.
"""

from __future__ import annotations

from flowportrait.model.blocks import MoTConfig
from flowportrait.model.layout import TokenGrid


def linear_flops(config: MoTConfig) -> int:
    """Operations of the matrix products of one token through all layers of its expert: 13.05 GFLOP
    for BAGEL-7B.
    """
    kv_size = config.num_kv_heads * config.head_size
    attention = config.hidden_size * (2 * config.hidden_size + 2 * kv_size)
    return 2 * config.num_layers * (attention + 3 * config.hidden_size * config.mlp_size)


def attention_flops(config: MoTConfig, queries: int, keys: int) -> int:
    """Operations of attention in all layers: queries with keys, and weights with values."""
    return 4 * config.hidden_size * config.num_layers * queries * keys


def clip_flops(config: MoTConfig, grid: TokenGrid) -> int:
    """Operations of a clip's forward pass: 4.24 PFLOP for 25 s at 384 px and BAGEL-7B's sizes; a
    backward costs twice that.
    """
    video = grid.num_video_tokens
    condition = grid.num_frames + grid.num_image_tokens
    flops = linear_flops(config) * video + attention_flops(config, video, video + condition)
    return flops + condition_flops(config, grid)


def condition_flops(config: MoTConfig, grid: TokenGrid) -> int:
    """Operations of the audio and image tokens alone, which sampling computes once."""
    audio = grid.num_frames
    image = grid.num_image_tokens
    spans = ((audio, audio), (image, audio + image))
    return linear_flops(config) * (audio + image) + sum(
        attention_flops(config, *span) for span in spans
    )
