"""What only a GPU can show: kernels that have no other device, memory, and that numbers agree."""

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.testing import assert_close

from flowportrait import plan
from flowportrait.generate import load
from flowportrait.model import attention
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mot import MoT, MoTConfig
from flowportrait.model.offload import place, understanding_on
from flowportrait.model.quantize import quantize
from flowportrait.precision import matmul_precision

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU: torch.cuda.is_available() is false"
)
CUDA = torch.device("cuda")
# BAGEL's proportions at a seventh of its width.
SMALL = MoTConfig(
    hidden_size=512,
    num_layers=4,
    num_heads=8,
    num_kv_heads=2,
    mlp_size=2688,
    vocab_size=0,
    latent_side=64,
    audio_dim=192,
    image_dim=184,
    image_side=16,
)
GRID = TokenGrid(latent_frames=9, rows=8, cols=8, image_rows=8, image_cols=8)


def model_of(config=SMALL, dtype=torch.float32):
    torch.manual_seed(0)
    model = MoT(config).requires_grad_(False)
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1)
    for module in model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(dtype)
    return model


def inputs(device=CUDA):
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=rng).to(device)  # noqa: E731
    audio, image = draw(1, GRID.num_frames, 192), draw(1, GRID.num_image_tokens, 184)
    return audio, image, draw(1, 16, 9, 16, 16), torch.full((1, 9), 0.5, device=device)


@torch.inference_mode()
def velocity(model, device=CUDA):
    audio, image, zt, t = inputs(device)
    with matmul_precision(device.type):
        return model.velocity(zt, t, model.condition(audio, image, GRID), GRID)


def error(got, expected):
    return float((got.cpu() - expected.cpu()).norm() / expected.cpu().norm())


def test_attention_in_one_kernel_is_that_of_plain_calls():
    """Forward and backward; the lengths lie on the device once."""
    torch.manual_seed(0)
    q_lengths, k_lengths = (64, 32, 128), (96, 40, 200)
    shapes = [(2, 8, sum(q_lengths), 64), *[(2, 2, sum(k_lengths), 64)] * 2]
    given = [torch.randn(shape, device=CUDA, dtype=torch.bfloat16) for shape in shapes]
    fast = [x.clone().requires_grad_() for x in given]
    plain = [x.float().requires_grad_() for x in given]
    attention._edges.cache_clear()
    for _ in range(3):
        one = attention.attend_spans(*fast, q_lengths, k_lengths)
    assert attention._edges.cache_info().misses == 2
    cuts = [(*accumulate(lengths, initial=0),) for lengths in (q_lengths, k_lengths)]
    calls = [
        attention.attend(plain[0][:, :, a:b], *(x[:, :, c:d] for x in plain[1:]))
        for a, b, c, d in zip(cuts[0], cuts[0][1:], cuts[1], cuts[1][1:], strict=False)
    ]
    each = torch.cat(calls, dim=2)
    assert_close(one.float(), each, rtol=0.02, atol=0.02)
    one.float().square().sum().backward()
    each.square().sum().backward()
    for x, y in zip(fast, plain, strict=True):
        assert error(x.grad.float(), y.grad) < 0.02


def test_bf16_products_are_near_to_float32_on_the_cpu():
    model = model_of()
    expected = velocity(model, torch.device("cpu"))
    assert error(velocity(model.to(CUDA)), expected) < 0.02


def test_an_evaluation_repeats_to_the_bit():
    """The first ratio of an update is exactly 1 because of it."""
    model = model_of().to(CUDA)
    assert torch.equal(velocity(model), velocity(model))


def test_offloaded_it_is_the_same_with_one_expert_on_the_card():
    model = model_of(dtype=torch.bfloat16)
    whole = velocity(model.to(CUDA))
    held = torch.cuda.memory_allocated()
    place(model.cpu(), CUDA)
    away = held - torch.cuda.memory_allocated()
    audio, image, zt, t = inputs()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode(), matmul_precision("cuda"):
        with understanding_on(model, CUDA):
            condition = model.condition(audio, image, GRID)
        got = model.velocity(zt, t, condition, GRID)
    assert torch.equal(got, whole)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert away > 0.4 * weights
    assert torch.cuda.max_memory_allocated() < held - 0.2 * weights


@pytest.mark.parametrize("kind, limit", [("int8", 0.03), ("fp8", 0.1)])
def test_weights_of_eight_bits(kind, limit):
    if kind == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8 (compute capability below 8.9)")
    pytest.importorskip("torchao")
    model = model_of(dtype=torch.bfloat16).to(CUDA)
    expected = velocity(model)
    quantize(model, kind)
    assert 0 < error(velocity(model), expected) < limit


def test_memory_of_an_evaluation_is_what_the_plan_says():
    """Many tokens, so that what the plan estimates weighs; at most a fifth more."""
    grid = replace(GRID, latent_frames=101, rows=24, cols=24)
    model = model_of(dtype=torch.bfloat16).to(CUDA)
    audio = torch.randn(1, grid.num_frames, 192, device=CUDA)
    image = torch.randn(1, grid.num_image_tokens, 184, device=CUDA)
    zt, t = torch.randn(1, 16, 101, 48, 48, device=CUDA), torch.full((1, 101), 0.5, device=CUDA)
    with torch.inference_mode(), matmul_precision("cuda"):
        condition = model.condition(audio, image, grid)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.velocity(zt, t, condition, grid)
    tokens = grid.num_video_tokens + grid.num_frames + grid.num_image_tokens
    used = torch.cuda.max_memory_allocated() - before
    assert used < 1.2 * plan._working_bytes(SMALL, tokens)


def test_tiny_makes_the_same_video(portrait_and_sound):
    picture, sound = portrait_and_sound
    frames = [
        load("tiny", device=device).generate(picture, sound, size=128).frames.astype(float)
        for device in ("cpu", "cuda")
    ]
    assert abs(frames[0] - frames[1]).mean() < 1.0


@pytest.fixture
def portrait_and_sound():
    from flowportrait import media
    from flowportrait.registry import SAMPLES_DIR

    sound = media.read_audio(SAMPLES_DIR / "speech.wav")
    samples = sound.samples[: sound.sample_rate]
    return media.read_portrait(SAMPLES_DIR / "portrait.png"), (samples, sound.sample_rate)
