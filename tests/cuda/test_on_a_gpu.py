"""What only a GPU can show: kernels that have no other device, memory, and that numbers agree.

They are asked for alone, `pytest tests/cuda`: all other tests are those of a CPU and do not see the
GPU (`tests/conftest.py`). Limits on rounding are for bf16, whose products are off by half a percent
or so.
"""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from flowportrait import cli, media, plan_memory, pretrained
from flowportrait.generate import load
from flowportrait.model import attention, blocks
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.compiled import compile_layers
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mot import MoT
from flowportrait.model.offload import place, understanding_on
from flowportrait.model.quantize import quantize
from flowportrait.precision import matmul_precision
from flowportrait.records import Score, read_jsonl
from flowportrait.registry import SAMPLES_DIR
from flowportrait.sampling import Schedule
from flowportrait.train.grpo import ObjectiveConfig
from flowportrait.train.rl import choose_trained
from flowportrait.train.rollout import RolloutPlan, first_noise, passes, rng_for, roll_out

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "train")]
from encoded_toy import poison, save_encoded  # noqa: E402
from test_sft import SMALL as SMALL_RUN  # noqa: E402
from test_sft import launch, updates_of  # noqa: E402
from toy_pipeline import save_toy, use_fake_parts  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs an NVIDIA GPU, and to be asked for alone: pytest tests/cuda",
)
CUDA = torch.device("cuda")
WEIGHTS = TESTS.parents[1] / "shared" / "weights"
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


@pytest.fixture(autouse=True)
def empty():
    """No test counts what another has left."""
    torch.cuda.empty_cache()
    torch.ones(8, 8, device=CUDA) @ torch.ones(8, 8, device=CUDA)  # cuBLAS takes its workspace


def inputs(device=CUDA):
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=rng).to(device)  # noqa: E731
    audio, image = draw(1, GRID.num_frames, 192), draw(1, GRID.num_image_tokens, 184)
    return audio, image, draw(1, 16, 9, 16, 16), torch.full((1, 9), 0.5, device=device)


@torch.inference_mode()
def velocity(model, device=CUDA):
    """On the CPU in float32, also where it is fast at bf16."""
    audio, image, zt, t = inputs(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
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
        assert error(x.grad.float(), y.grad) < 0.03


def test_bf16_products_are_near_to_float32_on_the_cpu():
    model = model_of()
    expected = velocity(model, torch.device("cpu"))
    assert error(velocity(model.to(CUDA)), expected) < 0.02


def test_an_evaluation_repeats_to_the_bit():
    model = model_of().to(CUDA)
    assert torch.equal(velocity(model), velocity(model))


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_first_ratio_of_an_update_is_exactly_one(pieces, monkeypatch):
    """A rollout computes without a gradient and the update with one: the same kernels must do both.
    Where this fails, a run on this GPU needs `objective.old_log_prob = "update"`, and says so.
    """
    monkeypatch.setattr(blocks, "MLP_TOKENS", -(-GRID.num_video_tokens // pieces))
    model = model_of().to(CUDA)
    choose_trained(model, "generation")
    audio, image, _, _ = inputs()

    def velocity(zt, t):
        times = torch.full((len(zt), GRID.latent_frames), t, device=CUDA)
        with matmul_precision("cuda"):
            return model.velocity(zt, times, model.condition(audio, image, GRID), GRID)

    own, objective = RolloutPlan(Schedule(6, 3.0), range(2, 3), 0.5, range(5)), ObjectiveConfig()
    z1 = first_noise((16, 9, 16, 16), 0, 0, 0, 4, shared=True).to(CUDA)
    with torch.no_grad():
        group = roll_out(velocity, z1, [rng_for(0, 0, 0, i) for i in range(4)], own, objective)
    advantage = torch.tensor([1.0, -1.5, 0.2, 0.3], device=CUDA)
    scored = torch.ones(4, dtype=torch.bool)
    part = next(passes(velocity, group, advantage, scored, own, objective))
    assert not part.log_ratio.any()
    part.loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


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
    assert used < 1.2 * plan_memory.working_bytes(SMALL, tokens)


def test_compiled_layers_are_near_and_need_no_more_memory():
    grid = replace(GRID, latent_frames=51, rows=24, cols=24)
    audio = torch.randn(1, grid.num_frames, 192, device=CUDA)
    image = torch.randn(1, grid.num_image_tokens, 184, device=CUDA)
    zt, t = torch.randn(1, 16, 51, 48, 48, device=CUDA), torch.full((1, 51), 0.5, device=CUDA)
    model, found, used = model_of(dtype=torch.bfloat16).to(CUDA), [], []
    with torch.inference_mode(), matmul_precision("cuda"):
        condition = model.condition(audio, image, grid)
        for compiled in (False, True):
            if compiled:
                compile_layers(model)
                model.velocity(zt, t, condition, grid)  # what compiling itself needs
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            found.append(model.velocity(zt, t, condition, grid))
            used.append(torch.cuda.max_memory_allocated() - before)
    assert error(found[1], found[0]) < 0.02
    assert used[1] < 1.1 * used[0]


def test_a_step_cache_that_saves_nothing_changes_no_bit(portrait_and_sound):
    picture, sound = portrait_and_sound
    pipeline = load("tiny", device="cuda")
    how = {"size": 128, "evaluations": 8}
    plain = pipeline.generate(picture, sound, **how)
    unused = pipeline.generate(picture, sound, **how, step_cache=1e-9)
    cached = pipeline.generate(picture, sound, **how, step_cache=0.05)
    assert torch.equal(unused.latents, plain.latents)
    assert cached.evaluations_saved > 0 and error(cached.latents, plain.latents) < 0.2


def test_tiny_makes_the_same_video(portrait_and_sound):
    picture, sound = portrait_and_sound
    frames = [
        load("tiny", device=device).generate(picture, sound, size=128).frames.astype(float)
        for device in ("cpu", "cuda")
    ]
    assert abs(frames[0] - frames[1]).mean() < 1.0


@pytest.fixture
def portrait_and_sound():
    sound = media.read_audio(SAMPLES_DIR / "speech.wav")
    samples = sound.samples[: sound.sample_rate]
    return media.read_portrait(SAMPLES_DIR / "portrait.png"), (samples, sound.sample_rate)


# ------------------------------------------------------------------------------------------------
# scorers


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A picture that moves, and its truth, which moves faster."""
    monkeypatch.chdir(tmp_path)
    levels = np.random.default_rng(0).integers(40, 200, (16, 16, 3))
    picture = np.kron(levels, np.ones((8, 8, 1))).astype(np.uint8)
    for folder, step in (("made", 1), ("truth", 2)):
        Path(folder).mkdir()
        frames = [np.roll(picture, i * step, axis=1) for i in range(12)]
        media.write_video(f"{folder}/a.mp4", frames, 24, np.zeros(8000, np.float32), 16000, {})


@pytest.mark.parametrize("scorer", ["perceptual-lite0", "lpips", "raft-jitter"])
def test_scorers_on_the_device_give_the_same(scorer, clips):
    """But for rounding: convolutions on CUDA round to TF32, as torch has it."""
    weights, settings = (
        {"perceptual-lite0": "lite0", "lpips": "alex", "raft-jitter": ""}[scorer],
        [],
    )
    if weights and not pretrained.WEIGHTS[weights].found():
        pytest.skip(f"the weights of {scorer} are not here: {pretrained.WEIGHTS[weights].where()}")
    if not weights:
        file = WEIGHTS / "raft-small.pth"
        if not file.is_file():
            pytest.skip(f"{file} is not here")
        settings = ["--set", f"scorers.{scorer}.weights={file}"]
    command = ["score", "made", "--truth", "truth", "--scorers", scorer, *settings]
    found = []
    for device in ("cpu", "cuda"):
        own = ["--set", f"scorers.{scorer}.device={device}", "-o", f"{device}.jsonl"]
        assert cli.run([*command, *own]) == 0
        (score,) = read_jsonl(f"{device}.jsonl", Score)
        assert not score.reason
        found.append(score.value)
    assert found[1] == pytest.approx(found[0], rel=0.02)


# ------------------------------------------------------------------------------------------------
# training


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A function that writes the recipe of a toy run into its own directory."""
    use_fake_parts(monkeypatch.setattr)
    poison(monkeypatch.setattr)
    toy = save_toy(tmp_path / "toy")
    encoded = save_encoded(tmp_path / "encoded", toy)

    def write(name):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'start_from = "{toy}"\n[run]\ndirectory = "{tmp_path / name}"\nnum_updates = 4\n'
            f'[data]\nencoded = ["{encoded}"]\n'
        )
        return path

    return write


def losses(run):
    return [row["loss"] for row in updates_of(run) if row["update"] != 2]  # 2 is broken on purpose


def test_one_process_under_fsdp2_and_nccl_trains_as_one_without(recipe, tmp_path):
    from flowportrait.train import sft

    plain = losses(sft.train(recipe("plain"), SMALL_RUN, resume=None))
    assert launch(1, "end", recipe("sharded")) == [0]
    assert losses(tmp_path / "sharded") == pytest.approx(plain, rel=0.05)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="two processes need two GPUs: NCCL refuses to share one"
)
def test_two_processes_train_as_one(recipe, tmp_path):
    assert launch(1, "end", recipe("one")) == [0] and launch(2, "end", recipe("two")) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.05)


# ------------------------------------------------------------------------------------------------
# figures


def test_the_benchmark_tells_how_much_of_the_peak_is_used(tmp_path):
    """`bench.backbone`, whose ways must agree; what it measures on this GPU is in the file."""
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench.backbone", "--device", "cuda", "--seconds", "1"]
    subprocess.run([*command, "--rounds", "1", "-o", out], cwd=TESTS.parent, check=True)
    for row in json.loads(out.read_text())["rows"]:
        assert row["velocity_gap"] < 0.02 and row["gradient_gap"] < 0.05
        assert row["tokens_per_second"] > 0
        assert row["mfu"] is None or 0 < row["mfu"] < 1
