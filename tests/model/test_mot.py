"""The product path (condition once, then velocity) against the packed definition, and the weights'
names.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from flowportrait.errors import ConfigError
from flowportrait.model.blocks import GEN, MoTConfig
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mask import allowed, portrait_splits
from flowportrait.model.mot import Condition, MoT
from flowportrait.model.packed import Packed, packed_forward

CONFIG = MoTConfig(
    hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2, mlp_size=48, vocab_size=0,
    rope_theta=100.0, positions_per_second=24.0, latent_channels=4, latent_side=6, audio_dim=10,
    image_dim=12, image_side=4,
)  # fmt: skip
GRID = TokenGrid(latent_frames=3, rows=2, cols=3, image_rows=2, image_cols=2)


@pytest.fixture(scope="module")
def mot() -> MoT:
    """A model whose every weight is random, so that swapped experts or a forgotten norm show."""
    torch.manual_seed(0)
    model = MoT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def clip(seed: int, grid: TokenGrid = GRID):
    """Random audio, image, latents and times of one clip."""
    rng = torch.Generator().manual_seed(seed)
    audio = torch.randn(1, grid.num_frames, 10, generator=rng)
    image = torch.randn(1, grid.num_image_tokens, 12, generator=rng)
    zt = torch.randn(1, 4, grid.latent_frames, 2 * grid.rows, 2 * grid.cols, generator=rng)
    return audio, image, zt, torch.rand(1, grid.latent_frames, generator=rng)


def packed_clip(mot: MoT, grid: TokenGrid, audio, image, zt, t):
    """The same clip as packed tokens, positions and owners, with its splits."""
    parts = mot.embed_audio(audio), mot.embed_image(image, grid), mot.embed_latents(zt, t, grid)
    lengths = [part.shape[1] for part in parts]
    rate = mot.config.positions_per_second
    positions = torch.cat(
        [grid.audio_positions(rate), grid.image_positions(), grid.video_positions(rate)]
    )
    is_video = torch.arange(sum(lengths)) >= sum(lengths[:2])
    return torch.cat(parts, dim=1)[0], positions, is_video, portrait_splits(*lengths)


def packed_velocity(mot: MoT, hidden: torch.Tensor, is_video: torch.Tensor, grid: TokenGrid):
    return grid.unpatchify(mot.llm2vae(hidden[is_video])[None])


@torch.no_grad()
@pytest.mark.parametrize("opening", [True, False])
def test_condition_and_velocity_equal_the_packed_forward(mot, opening):
    grid = TokenGrid(3, 2, 3, image_rows=2, image_cols=2, opening=opening)
    audio, image, zt, t = clip(1, grid)
    tokens, positions, is_video, splits = packed_clip(mot, grid, audio, image, zt, t)
    hidden = packed_forward(mot, Packed(tokens, positions, is_video, allowed([splits])))[-1]
    velocity = mot.velocity(zt, t, mot.condition(audio, image, grid), grid)
    assert_close(velocity, packed_velocity(mot, hidden, is_video, grid), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_alone_equals_packed_with_others(mot):
    other_grid = TokenGrid(2, 1, 2, image_rows=1, image_cols=2)
    one = packed_clip(mot, GRID, *clip(1))
    two = packed_clip(mot, other_grid, *clip(2, other_grid))
    tokens, positions, is_video = (torch.cat([a, b]) for a, b in zip(one[:3], two[:3], strict=True))
    together = packed_forward(mot, Packed(tokens, positions, is_video, allowed([one[3], two[3]])))[
        -1
    ]
    alone = [packed_forward(mot, Packed(*each[:3], allowed([each[3]])))[-1] for each in (one, two)]
    assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_batch_equals_one_by_one(mot):
    clips = [clip(seed) for seed in (1, 2)]
    audio, image, zt, t = (torch.cat(parts) for parts in zip(*clips, strict=True))
    together = mot.velocity(zt, t, mot.condition(audio, image, GRID), GRID)
    for row, (audio, image, zt, t) in enumerate(clips):
        alone = mot.velocity(zt, t, mot.condition(audio, image, GRID), GRID)
        assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dropped_blocks(mot):
    audio, image, zt, t = clip(1)
    whole = mot.velocity(zt, t, mot.condition(audio, image, GRID), GRID)
    for kept in [(None, image), (audio, None), (None, None)]:
        without = mot.velocity(zt, t, mot.condition(*kept, GRID), GRID)
        assert without.shape == zt.shape and not torch.allclose(without, whole)
    assert mot.condition(None, None, GRID) == Condition()


@torch.no_grad()
def test_a_clean_prefix_is_seen_by_the_other_latent_frames(mot):
    audio, image, zt, _ = clip(1)
    condition = mot.condition(audio, image, GRID)
    noisy = mot.velocity(zt, torch.tensor([[0.7, 0.7, 0.7]]), condition, GRID)
    prefixed = mot.velocity(zt, torch.tensor([[0.0, 0.7, 0.7]]), condition, GRID)
    assert not torch.allclose(noisy[:, :, 1:], prefixed[:, :, 1:])


def test_fresh_model():
    mot = MoT(MoTConfig.tiny(audio_dim=64, image_dim=32))
    weights = dict(mot.named_parameters())
    gen = [name for name in weights if GEN in name]
    assert gen and all(torch.equal(weights[name], weights[name.replace(GEN, "")]) for name in gen)
    grid = TokenGrid(2, 8, 8)
    condition = mot.condition(torch.randn(1, 5, 64), torch.randn(1, 64, 32), grid)
    assert not mot.velocity(torch.randn(1, 16, 2, 16, 16), torch.rand(1, 2), condition, grid).any()


def test_half_precision_autocast_keeps_the_velocity(mot):
    audio, image, zt, t = clip(1)
    exact = mot.velocity(zt, t, mot.condition(audio, image, GRID), GRID)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = mot.velocity(zt, t, mot.condition(audio, image, GRID), GRID)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).std() < 0.1 * exact.std()


def test_names_and_shapes_are_those_of_bagel_7b():
    """On the meta device; the audio connector is ours, `vit_model.*` belongs to the image
    encoder.
    """
    golden = json.loads((Path(__file__).parents[1] / "golden" / "bagel7b_shapes.json").read_text())
    expected = dict(golden["other"])
    for index in range(golden["num_layers"]):
        prefix = f"language_model.model.layers.{index}."
        expected |= {prefix + name: shape for name, shape in golden["layer"].items()}
    with torch.device("meta"):
        ours = {name: list(value.shape) for name, value in MoT(MoTConfig()).state_dict().items()}
    new = {name for name in ours if name.startswith("audio_connector.")}
    assert len(new) == 4
    assert {name: shape for name, shape in ours.items() if name not in new} == expected


def test_recomputed_layers_have_the_same_gradients(mot):
    """Of an evaluation behind shared keys and values, as reinforcement learning has it; layers keep
    less.
    """
    audio, image, zt, t = clip(1)
    with torch.no_grad():
        condition = mot.condition(audio, image, GRID)
    gradients, kept = [], []
    for recomputes in (False, True):
        for layer in mot.layers:
            layer.recomputes = recomputes
        mot.zero_grad()
        count = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, count=count: count.append(x.numel()) or x, lambda x: x
        ):
            loss = mot.velocity(zt, t, condition, GRID).square().sum()
        loss.backward()
        kept.append(sum(count))
        gradients.append(
            {name: p.grad.clone() for name, p in mot.named_parameters() if p.grad is not None}
        )
    for layer in mot.layers:
        layer.recomputes = False
    assert gradients[0].keys() == gradients[1].keys() and kept[1] < kept[0] / 2
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_frozen_tables_are_not_trained():
    names = {name for name, _ in MoT(CONFIG).named_parameters()}
    assert not any("pos_embed" in name for name in names)


def test_a_grid_beyond_the_table_is_one_clear_line(mot):
    grid = TokenGrid(1, 7, 2)
    with pytest.raises(ConfigError, match="7 x 2 tokens; the maximum is 6 per side"):
        mot.velocity(torch.zeros(1, 4, 1, 14, 4), torch.zeros(1, 1), Condition(), grid)


def test_heads_must_divide():
    with pytest.raises(ValueError, match="must divide"):
        MoTConfig(hidden_size=36, num_heads=8)
