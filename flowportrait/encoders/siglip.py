"""The portrait as BAGEL sees pictures: the SigLIP vision transformer of its checkpoint
(arXiv:2303.15343).

So400m's sizes, read as BAGEL reads it: pictures of any shape keep it and are cut into patches of 14
px, a learned vector for the place of each patch (row * 70 + column) is added, and all patches of a
picture see each other. The output is normed; the connector to the language model and the fixed
table of places are part of the generator.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from flowportrait.config import Frozen
from flowportrait.tensors import Pictures, Tokens


class SiglipConfig(Frozen):
    """Sizes of the network. The defaults are those of BAGEL-7B-MoT's checkpoint."""

    size_px: int = Field(
        384, gt=0, description="side of the model's square portraits, which sets the grid of tokens"
    )
    width: int = Field(1152, gt=0)
    num_layers: int = Field(26, gt=0, description="BAGEL omits the last of SigLIP's 27 layers")
    num_heads: int = Field(16, gt=0)
    mlp_size: int = Field(4304, gt=0)
    patch_px: int = Field(14, gt=0)
    side: int = Field(70, gt=0, description="rows of the table of position embeddings")
    shortest_px: int = Field(224, gt=0, description="smaller pictures are upscaled")
    longest_px: int = Field(980, gt=0, description="larger pictures are downscaled")
    norm_eps: float = Field(1e-6, gt=0)


class SiglipAttention(nn.Module):
    """Full attention among the patches of a picture."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )

    def forward(self, x: Tokens) -> Tokens:
        split = (
            rearrange(proj(x), "b n (h e) -> b h n e", h=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(
            rearrange(F.scaled_dot_product_attention(*split), "b h n e -> b n (h e)")
        )


class SiglipLayer(nn.Module):
    """Attention and a tanh-GELU MLP, each behind a norm."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.self_attn = SiglipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(config.width, config.mlp_size),
                "fc2": nn.Linear(config.mlp_size, config.width),
            }
        )

    def forward(self, x: Tokens) -> Tokens:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.layer_norm2(x)), approximate="tanh"))


class SiglipEncoder(nn.Module):
    """SigLIP: one vector of width 1152 per 14 x 14 px of the portrait, 27 x 27 of them for 384 px.
    Its weights have BAGEL's names without `vit_model.`.
    """

    Config = SiglipConfig
    builds_empty = True  # has nothing but weights
    weights_from = "its weights are in BAGEL's file: flowportrait convert bagel FOLDER -o MODEL_DIR"

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.config = config
        self.dim = config.width
        numbers = 3 * config.patch_px**2
        self.vision_model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {
                        "patch_embedding": nn.Linear(numbers, config.width),
                        "position_embedding": nn.Embedding(config.side**2, config.width),
                    }
                ),
                "encoder": nn.ModuleDict(
                    {"layers": nn.ModuleList(SiglipLayer(config) for _ in range(config.num_layers))}
                ),
                "post_layernorm": nn.LayerNorm(config.width, config.norm_eps),
            }
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of the model's portraits."""
        return self.grid_of(self.config.size_px, self.config.size_px)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a picture of this size in pixels: its shape is kept, up to whole
        patches.
        """
        config = self.config
        scale = min(1.0, config.longest_px / max(height, width))
        scale = max(scale, config.shortest_px / min(height, width))
        scale = min(scale, config.longest_px / max(height, width))
        rows = max(1, round(height * scale / config.patch_px))
        cols = max(1, round(width * scale / config.patch_px))
        return min(rows, config.side), min(cols, config.side)

    def forward(self, portrait: Pictures, context: Any) -> Tokens:
        """Vectors of the patches, row by row. `portrait` in [-1, 1]."""
        rows, cols = self.grid_of(*portrait.shape[-2:])
        x = self.embed(self.patches(portrait, rows, cols), self.places(rows, cols))
        for layer in self.vision_model["encoder"]["layers"]:
            x = layer(x)
        return self.vision_model["post_layernorm"](x)

    def patches(self, portrait: Pictures, rows: int, cols: int) -> Float[Tensor, "b n p"]:
        """The picture in `rows x cols` patches, their numbers ordered (row, column, colour)."""
        size = rows * self.config.patch_px, cols * self.config.patch_px
        if portrait.shape[-2:] != size:
            portrait = F.interpolate(portrait, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return rearrange(portrait, "b c (y p) (x q) -> b (y x) (p q c)", y=rows, x=cols)

    def places(self, rows: int, cols: int) -> Int[Tensor, " n"]:
        """Rows of the learned table, for each patch."""
        device = self.vision_model["post_layernorm"].weight.device
        row = torch.arange(rows, device=device)
        col = torch.arange(cols, device=device)
        return (row[:, None] * self.config.side + col).flatten()

    def embed(self, patches: Float[Tensor, "b n p"], places: Int[Tensor, " n"]) -> Tokens:
        """Patches and where they are, as vectors."""
        embeddings = self.vision_model["embeddings"]
        return embeddings["patch_embedding"](patches) + embeddings["position_embedding"](places)
