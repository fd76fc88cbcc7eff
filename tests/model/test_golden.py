"""Every vit-free number of tests/golden/bagel_tiny, which the official BAGEL code computed, to
1e-5.
"""

import pytest
import torch
from einops import rearrange
from golden_bagel import END_OF_IMAGE, START_OF_IMAGE, model, native, numbers, owned, text
from torch.testing import assert_close

from flowportrait import flow
from flowportrait.model.blocks import UND
from flowportrait.model.embed import GridPositions, rope_table, sincos_table, time_sinusoid
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mask import Attend, allowed, portrait_splits
from flowportrait.model.packed import Packed, packed_forward
from flowportrait.sampling import Schedule, sample

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def mot():
    return model()


def test_mask_of_packed_samples():
    golden = numbers("native_llm")
    packed = native(None, golden["packed_sequence_in"])
    assert torch.equal(packed.allowed, golden["mask_allowed"])


def test_rope_of_packed_samples(mot):
    golden = numbers("native_llm")
    cos, sin = rope_table(
        golden["position_ids"].float(), mot.config.head_size, mot.config.rope_theta
    )
    assert_close(torch.cat([cos, cos], -1), golden["rope_cos"], **CLOSE)
    assert_close(torch.cat([sin, sin], -1), golden["rope_sin"], **CLOSE)


def test_text_embedding(mot):
    golden = numbers("native_llm")
    assert_close(
        text(mot, golden["text_ids"]), golden["packed_sequence_in"][golden["text_indexes"]], **CLOSE
    )


def test_packed_forward_layer_by_layer(mot):
    golden = numbers("native_llm")
    hidden = packed_forward(mot, native(mot, golden["packed_sequence_in"]))
    for ours, theirs in zip(hidden, ("layer0_out", "layer1_out", "last_hidden"), strict=True):
        assert_close(ours, golden[theirs], **CLOSE)


def test_input_norms(mot):
    golden = numbers("native_llm")
    layer = mot.language_model.model.layers[0]
    x, und, gen = golden["layer0_in"], golden["und_indexes"], golden["vae_indexes"]
    assert_close(layer.input_layernorm(x)[und], golden["layer0_attn_in"][und], **CLOSE)
    assert_close(layer.input_layernorm_moe_gen(x)[gen], golden["layer0_attn_in"][gen], **CLOSE)


def test_flow_targets_and_shifted_times():
    golden = numbers("native_flow")
    t = flow.shift_time(torch.sigmoid(golden["t_logit"]), shift=3.0)
    assert_close(t, golden["t_shifted"], **CLOSE)
    clean, noise, column = golden["latent_tokens_clean"], golden["noise"], t[:, None]
    assert_close(flow.interpolate(clean, noise, column), golden["x_t"], **CLOSE)
    assert_close(flow.target_velocity(clean, noise)[t > 0], golden["target"], **CLOSE)


def test_patchify_order():
    golden, tokens = numbers("native_flow"), []
    for padded, (rows, cols) in zip(
        golden["padded_latent"], golden["latent_shapes"].tolist(), strict=True
    ):
        latent = padded[None, :, None, : 2 * rows, : 2 * cols]
        tokens.append(TokenGrid(1, rows, cols).patchify(latent)[0])
    assert_close(torch.cat(tokens), golden["latent_tokens_clean"], **CLOSE)


def test_latent_tokens_and_velocity(mot):
    golden, sequence = numbers("native_flow"), numbers("native_llm")
    assert_close(mot.time_embedder(golden["t_shifted"]), golden["t_embed"], **CLOSE)
    assert_close(mot.vae2llm(golden["x_t"]), golden["vae2llm_out"], **CLOSE)
    shapes = golden["latent_shapes"].tolist()
    ids = torch.cat([mot.latent_pos_embed.ids(*shape) for shape in shapes])
    assert torch.equal(ids, golden["latent_position_ids"])
    places = torch.cat([mot.latent_pos_embed(*shape) for shape in shapes])
    assert_close(places, golden["latent_pos_embed"], **CLOSE)
    tokens = golden["vae2llm_out"] + golden["t_embed"] + places
    assert_close(tokens, sequence["packed_sequence_in"][sequence["vae_indexes"]], **CLOSE)
    assert_close(mot.llm2vae(golden["llm2vae_in"]), golden["v_pred"], **CLOSE)
    assert_close((golden["v_pred"] - golden["target"]) ** 2, golden["mse_per_element"], **CLOSE)


def portrait_packed(kind: str) -> Packed:
    """The paper's layout with the golden positions `kind` ("int" or "float")."""
    golden = numbers("portrait")
    tokens = torch.cat([golden["audio_embed"], golden["vit_tokens"], golden["video_tokens_in"]])
    mask = allowed([portrait_splits(10, 6, 18)])
    return Packed(
        tokens, golden[f"{kind}.position_ids"].float(), owned(golden["gen_indexes"], 34), mask
    )


def test_portrait_mask():
    assert torch.equal(portrait_packed("int").allowed, numbers("portrait")["mask_allowed"])


def test_portrait_video_tokens(mot):
    golden = numbers("portrait")
    grid = TokenGrid(3, 2, 3)
    clean = grid.patchify(golden["video_latent"][None])
    assert_close(clean[0], golden["video_latent_tokens_clean"], **CLOSE)
    noised = flow.interpolate(clean, golden["video_noise"], 0.62)
    assert_close(noised[0], golden["x_t"], **CLOSE)
    tokens = mot.embed_latents(grid.unpatchify(noised), torch.full((1, 3), 0.62), grid)
    assert_close(tokens[0], golden["video_tokens_in"], **CLOSE)


@pytest.mark.parametrize("kind", ["int", "float"])
def test_portrait_forward(mot, kind):
    golden = numbers("portrait")
    hidden = packed_forward(mot, portrait_packed(kind))
    for ours, theirs in zip(hidden, ("layer0_out", "layer1_out", "last_hidden"), strict=True):
        assert_close(ours, golden[f"{kind}.{theirs}"], **CLOSE)
    assert_close(mot.llm2vae(hidden[-1][golden["gen_indexes"]]), golden[f"{kind}.v_pred"], **CLOSE)


def test_portrait_forward_with_markers(mot):
    golden = numbers("portrait")
    start, end = text(mot, [START_OF_IMAGE]), text(mot, [END_OF_IMAGE])
    audio_start, audio_end = text(mot, golden["bnd.audio_start_end_ids"]).split(1)
    tokens = torch.cat(
        [audio_start, golden["audio_embed"], audio_end]
        + [start, golden["vit_tokens"], end]
        + [start, golden["video_tokens_in"], end]
    )
    assert_close(tokens, golden["bnd.sequence_in"], **CLOSE)
    mask = allowed([portrait_splits(12, 8, 20)])
    assert torch.equal(mask, golden["bnd.mask_allowed"])
    packed = Packed(
        tokens, golden["bnd.position_ids"].float(), owned(golden["bnd.gen_indexes"], 40), mask
    )
    hidden = packed_forward(mot, packed)
    for ours, theirs in zip(hidden, ("layer0_out", "layer1_out", "last_hidden"), strict=True):
        assert_close(ours, golden[f"bnd.{theirs}"], **CLOSE)
    assert_close(mot.llm2vae(hidden[-1][golden["bnd.gen_indexes"]]), golden["bnd.v_pred"], **CLOSE)


def test_gradients_of_the_flow_loss():
    mot, golden, expected = model(), numbers("portrait"), numbers("grads")
    packed = portrait_packed("int")
    packed.tokens.requires_grad_()
    velocity = mot.llm2vae(packed_forward(mot, packed)[-1][golden["gen_indexes"]])
    target = flow.target_velocity(golden["video_latent_tokens_clean"], golden["video_noise"])
    loss = ((velocity - target) ** 2).mean()
    loss.backward()
    assert_close(loss[None], expected["full.loss"], **CLOSE)
    assert_close(packed.tokens.grad, expected["full.grad_sequence_in"], **CLOSE)
    weights = dict(mot.named_parameters())
    norms = {name: norm for name, norm in expected.items() if name.startswith("full.gradnorm.")}
    assert len(norms) == 60
    for name, norm in norms.items():
        assert_close(weights[name.removeprefix("full.gradnorm.")].grad.norm()[None], norm, **CLOSE)


def inference_context(mot) -> torch.Tensor:
    """Text, then an image with its markers: the 13 tokens that inference caches."""
    return numbers("native_llm")["packed_sequence_in"][:13]


def inference_velocity(mot, z, t):
    """Velocity of 2x2 latent tokens [4, 16] with markers around them, after `inference_context`."""
    golden = numbers("kvcache_sampler")
    latents = mot.vae2llm(z) + mot.time_embedder(torch.full((4,), t)) + mot.latent_pos_embed(2, 2)
    start, end = text(mot, [START_OF_IMAGE]), text(mot, [END_OF_IMAGE])
    tokens = torch.cat([inference_context(mot), start, latents, end])
    positions = torch.cat(
        [numbers("native_llm")["position_ids"][:13], golden["gen.packed_position_ids"]]
    ).float()
    mask = allowed([[(5, Attend.CAUSAL), (8, Attend.FULL), (6, Attend.NOISE)]])
    video = 13 + golden["gen.packed_vae_token_indexes"]
    return mot.llm2vae(
        packed_forward(mot, Packed(tokens, positions, owned(video, 19), mask))[-1][video]
    )


@torch.no_grad()
def test_cached_keys_and_values(mot):
    golden = numbers("kvcache_sampler")
    positions = numbers("native_llm")["position_ids"][:13].float()
    rope = rope_table(positions, mot.config.head_size, mot.config.rope_theta)
    mask = allowed([[(5, Attend.CAUSAL), (8, Attend.FULL)]])
    tokens = inference_context(mot)
    hidden = packed_forward(
        mot, Packed(tokens, positions, owned(torch.tensor([], dtype=int), 13), mask)
    )
    for index, x in enumerate([tokens, hidden[0]]):
        _, keys, values = mot.language_model.model.layers[index].project(x[None], UND, rope)
        assert_close(
            rearrange(keys, "1 h n e -> n h e"), golden[f"cache_key_layer{index}"], **CLOSE
        )
        assert_close(
            rearrange(values, "1 h n e -> n h e"), golden[f"cache_value_layer{index}"], **CLOSE
        )


@torch.no_grad()
def test_inference_velocity(mot):
    golden = numbers("kvcache_sampler")
    velocity = inference_velocity(mot, golden["x_t"], float(golden["t"][0]))
    assert_close(velocity, golden["v_cached"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("points", "shift"), [(2, 1.0), (5, 3.0), (25, 1.0), (25, 3.0)])
def test_euler_sampler(mot, points, shift):
    """BAGEL counts time points: N of them are N - 1 evaluations."""
    golden = numbers("kvcache_sampler")
    schedule = Schedule(evaluations=points - 1, shift=shift)
    assert_close(
        torch.tensor(schedule.times), golden[f"euler.n{points}.shift{shift}.timesteps"], **CLOSE
    )
    z0 = sample(lambda z, t: inference_velocity(mot, z, t), golden["init_noise"], schedule)
    assert_close(z0, golden[f"euler.n{points}.shift{shift}"], **CLOSE)


def test_tables_at_full_size():
    golden = numbers("fullsize_tables")
    assert_close(
        sincos_table(64, 3584)[golden["latent_pos_rows"]], golden["latent_pos_values"], **CLOSE
    )
    assert_close(sincos_table(70, 3584)[golden["vit_pos_rows"]], golden["vit_pos_values"], **CLOSE)
    assert_close(time_sinusoid(golden["timesteps"]), golden["timestep_sinusoid_256"], **CLOSE)
    assert torch.equal(GridPositions(64, 4).ids(24, 24), golden["latent_ids_24x24"])
    assert torch.equal(GridPositions(70, 4).ids(27, 27), golden["vit_ids_27x27"])


def test_rope_at_full_size():
    golden = numbers("fullsize_tables")
    cos, sin = rope_table(golden["rope_positions"], 128, 1e6)
    assert_close(torch.cat([cos, cos], -1), golden["rope_cos_128"], **CLOSE)
    assert_close(torch.cat([sin, sin], -1), golden["rope_sin_128"], **CLOSE)
