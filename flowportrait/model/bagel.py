"""BAGEL's checkpoint and ours: who owns which tensor, and what sizes it tells (arXiv:2505.14683).

The generator's weights carry BAGEL's own names; those of its vision transformer begin with
`vit_model.` there and are the image encoder's here. Nothing is renamed otherwise, cut or merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flowportrait.errors import CheckpointError
from flowportrait.model.blocks import MoTConfig

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[int, ...]]

VISION = "vit_model."
NEW = ("audio_connector.",)
"""Beginnings of the names of weights that BAGEL has not."""
OTHER_LATENTS = ("vae2llm.", "llm2vae.")
"""Weights that BAGEL trained on the latents of another codec (FLUX's): of the right shape, of
another meaning.
"""
PATCH = 2  # latent cells along a side of a token; BAGEL's code says so, none of its files

T = TypeVar("T")


def split(weights: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """The generator's weights and the image encoder's, each by its name here."""
    ours = {name: value for name, value in weights.items() if not name.startswith(VISION)}
    vision = {
        name.removeprefix(VISION): value
        for name, value in weights.items()
        if name.startswith(VISION)
    }
    return ours, vision


def join(model: Mapping[str, T], vision: Mapping[str, T]) -> dict[str, T]:
    """Joins both under BAGEL's names; the inverse of `split`."""
    return {
        **model,
        **{f"{VISION}{name}": value for name, value in vision.items()},
    }


def is_new(name: str) -> bool:
    """Whether a weight of the generator is missing in BAGEL."""
    return name.startswith(NEW)


def generator_sizes(shapes: Shapes, language: Mapping[str, Any]) -> MoTConfig:
    """The sizes of the generator by its tensors and by what they do not tell: `llm_config.json`'s
    rope_theta and rms_norm_eps. Raises CheckpointError where a tensor that tells is not there.
    """
    layer = "language_model.model.layers.0"
    vocabulary, width = _shape(shapes, "language_model.model.embed_tokens.weight")
    head = _shape(shapes, f"{layer}.self_attn.q_norm.weight")[0]
    return MoTConfig(
        hidden_size=width,
        num_layers=_count(shapes, "language_model.model.layers"),
        num_heads=_shape(shapes, f"{layer}.self_attn.q_proj.weight")[0] // head,
        num_kv_heads=_shape(shapes, f"{layer}.self_attn.k_proj.weight")[0] // head,
        mlp_size=_shape(shapes, f"{layer}.mlp.gate_proj.weight")[0],
        vocab_size=vocabulary,
        rope_theta=language.get("rope_theta", MoTConfig.model_fields["rope_theta"].default),
        norm_eps=language.get("rms_norm_eps", MoTConfig.model_fields["norm_eps"].default),
        patch=PATCH,
        latent_channels=_shape(shapes, "vae2llm.weight")[1] // PATCH**2,
        latent_side=_side(shapes, "latent_pos_embed.pos_embed"),
        image_dim=_shape(shapes, "connector.fc1.weight")[1],
        image_side=_side(shapes, "vit_pos_embed.pos_embed"),
    )


def vision_sizes(shapes: Shapes, vision: Mapping[str, Any]) -> dict[str, int | float]:
    """The sizes of the image encoder, as its `Config` names them. `vit_config.json` counts one
    layer more than the file
    holds: BAGEL leaves the last one out.
    """
    return _sizes_of_vision(shapes, vision)


def _sizes_of_vision(shapes: Shapes, vision: Mapping[str, Any]) -> dict[str, int | float]:
    """Sizes of the image encoder by the shapes of its weights."""
    stem = "vision_model.embeddings"
    width, numbers = _shape(shapes, f"{stem}.patch_embedding.weight")
    side = _side(shapes, f"{stem}.position_embedding.weight")
    patch = round((numbers / 3) ** 0.5)
    return {
        "width": width,
        "num_layers": _count(shapes, "vision_model.encoder.layers"),
        "num_heads": vision["num_attention_heads"],
        "mlp_size": _shape(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight")[0],
        "patch_px": patch,
        "side": side,
        "longest_px": side * patch,
        "shortest_px": min(224, side * patch),
        "norm_eps": vision.get("layer_norm_eps", 1e-6),
    }


def _shape(shapes: Shapes, name: str) -> Shape:
    """The shape of a tensor. Raises CheckpointError where it is missing."""
    if name not in shapes:
        raise CheckpointError(
            f"no tensor '{name}', which every BAGEL checkpoint has; give a BAGEL checkpoint"
        )
    return shapes[name]


def _side(shapes: Shapes, name: str) -> int:
    """Of the square grid whose places a table has one row for each."""
    return round(_shape(shapes, name)[0] ** 0.5)


def _count(shapes: Shapes, layers: str) -> int:
    """The number of numbered layers under a name."""
    numbers = {
        int(name.removeprefix(f"{layers}.").split(".")[0])
        for name in shapes
        if name.startswith(f"{layers}.")
    }
    if not numbers:
        raise CheckpointError(
            f"no tensor '{layers}.0...', which every BAGEL checkpoint has; give a BAGEL checkpoint"
        )
    return max(numbers) + 1
