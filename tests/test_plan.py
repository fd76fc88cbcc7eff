"""What a run costs: the arithmetic of the paper's setting, typed from it; and what the layers
really keep.
"""

import json
from pathlib import Path

import pytest
import torch

from flowportrait.cli import run
from flowportrait.errors import ConfigError
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.cost import attention_flops, clip_flops, linear_flops
from flowportrait.model.layout import RowLayout, TokenGrid
from flowportrait.model.mot import MoT, PackedRow
from flowportrait.plan import plan, rollout_evaluations
from flowportrait.plan_memory import GIB, activation_bytes
from flowportrait.train.rl import RlRecipe

RECIPES = Path(__file__).parents[1] / "recipes"
SFT, RL = RECIPES / "sft-paper.toml", RECIPES / "rl-paper.toml"


def test_the_papers_setting():
    cost = plan(SFT, num_gpus=64)
    assert cost.tokens_per_second_of_video == 3456
    assert cost.parameters + 402_552_736 - 17_439_744 + (4096 + 4900) * 3584 == 14_607_260_128
    assert (cost.clip_tokens, cost.tokens_per_update) == (151 * 576 + 601 + 729, 64 * 88_306)
    assert cost.clip_forward_pflop == pytest.approx(4.24, abs=0.01)
    assert cost.update_pflop == pytest.approx(64 * 4 * 4.24, rel=0.01)
    assert cost.update_s == pytest.approx(
        4 * 4240 / 395.6, rel=0.01
    )  # a row a GPU at 40 % of 989 TFLOP/s: 43 s
    assert cost.hours == pytest.approx(300_000 * cost.update_s / 3600)
    assert cost.gpu_hours == pytest.approx(64 * cost.hours)


def test_a_full_row():
    """1.17 PFLOP of matrices and 3.11 of attention: 4.28 for 89,600 tokens of which 86,400 are
    video.
    """
    config = MoTConfig()
    assert linear_flops(config) == pytest.approx(13.05e9, rel=0.001)
    assert linear_flops(config) * 89_600 == pytest.approx(1.17e15, rel=0.005)
    assert attention_flops(config, 86_400, 89_600) == pytest.approx(3.11e15, rel=0.005)
    assert linear_flops(config) * 89_600 + attention_flops(config, 86_400, 89_600) == pytest.approx(
        4.28e15, rel=0.002
    )
    five_s = TokenGrid(31, 24, 24, 27, 27)
    assert clip_flops(config, five_s) == pytest.approx(0.38e15, rel=0.02)


def test_memory_of_what_is_trained():
    """20 bytes a trained parameter, over all GPUs; frozen matrices 2."""
    full = plan(SFT, num_gpus=8).memory_gib
    spread = plan(SFT, num_gpus=32).memory_gib
    cost = plan(SFT, num_gpus=8)
    states = sum(full[name] for name in ("weights", "gradients", "optimizer", "average"))
    tables = (4096 + 4900) * 3584 * 4 / GIB
    frozen = (cost.parameters - cost.trained_parameters) * 2 / 8 / GIB
    assert states == pytest.approx(
        20 * cost.trained_parameters / 8 / GIB + frozen + tables, rel=0.001
    )
    assert (
        spread["optimizer"] == full["optimizer"] / 4
        and spread["activations"] == full["activations"]
    )
    half = plan(SFT, ["trained=generation"], num_gpus=8)
    assert half.trained_parameters == pytest.approx(6.57e9, rel=0.01)
    adapters = plan(SFT, ["trained=lora"], num_gpus=8)
    assert adapters.trained_parameters < 0.3e9 and adapters.update_pflop < half.update_pflop
    alone = plan(SFT, ["parallel.sequence=1"], num_gpus=8).memory_gib["activations"]
    assert alone / 8 < full["activations"] < alone / 7


def test_the_paper_recipe_fits_where_the_documents_launch_it():
    """Eight GPUs of 80 GB and any multiple; with a row on one GPU it does not."""
    for num_gpus in (8, 64):
        assert plan(SFT, num_gpus=num_gpus).as_dict()["fits"]
        assert not plan(SFT, ["parallel.sequence=1"], num_gpus=num_gpus).as_dict()["fits"]


def kept_bytes(config: MoTConfig, grid: TokenGrid) -> dict[str, int]:
    """Bytes that the layers of a model keep for the backward, by storage, with products in bf16 and
    without weights.
    """
    model = MoT(config)
    layout, kept = RowLayout((grid,)), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.dtype != torch.int64:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    row = PackedRow(
        layout,
        torch.randn(1, grid.num_frames, 8),
        torch.randn(1, grid.num_image_tokens, 8),
        torch.randn(1, grid.num_video_tokens, config.token_size),
        torch.rand(1, grid.latent_frames),
    )
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(row)
    weights = (
        sum(p.numel() for p in model.parameters()) * 2
    )  # bf16 copies, which autocast makes on one device
    return sum(size for size, _ in kept.values()) - weights


def test_activations_are_what_layers_keep():
    """Two models that differ by four layers: what these keep, against the formula."""
    grid = TokenGrid(40, 4, 4, 4, 4)
    sizes = {
        "hidden_size": 64,
        "num_heads": 4,
        "num_kv_heads": 2,
        "mlp_size": 256,
        "vocab_size": 0,
        "latent_channels": 4,
        "latent_side": 8,
        "image_side": 8,
        "audio_dim": 8,
        "image_dim": 8,
    }
    few, many = (MoTConfig(num_layers=count, **sizes) for count in (1, 5))
    kept = kept_bytes(many, grid) - kept_bytes(few, grid)
    tokens = RowLayout((grid,)).num_tokens
    expected = activation_bytes(many, tokens, False) - activation_bytes(few, tokens, False)
    assert kept == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("options", "sampled", "passes"),
    [
        ({"sharing": {"prefix": False, "window": False}}, 60, 4),
        ({"sharing": {"prefix": True, "window": False}}, 40.5, 4),
        ({}, 37.5, 1),
        ({"window": {"first": 4, "last": 10}}, 36, 1),
        ({"window": {"width": 3}}, 40.5, 9),
    ],
)
def test_what_siblings_share(options, sampled, passes):
    """The table of docs/rl.md."""
    values = {
        "run": {"directory": "x"},
        "model": "tiny",
        "prompts": {"manifest": "x"},
        "rollout": options,
    }
    assert rollout_evaluations(RlRecipe.model_validate(values)) == (sampled, passes)


def test_reinforcement_learning():
    cost = plan(RL, num_gpus=8)
    assert cost.num_updates == 400 and cost.clip_s == 5
    velocity = 0.37
    assert cost.update_pflop == pytest.approx(
        32 * (37.5 * velocity + 4 * 0.38 + 4 * 0.155), rel=0.05
    )
    assert (
        cost.as_dict()["fits"] and not plan(RL, ["recompute=false"], num_gpus=8).as_dict()["fits"]
    )
    plain = ["rollout.sharing.prefix=false", "rollout.sharing.window=false"]
    assert plan(RL, plain, num_gpus=8).update_pflop > 1.5 * cost.update_pflop


def test_command(capsys):
    assert run(["plan", str(SFT), "--gpus", "64", "--gpu", "h200", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])
    assert (
        found["num_gpus"] == 64
        and found["gpu_memory_gib"] == 141
        and found["fits"] in (True, False)
    )
    assert any(
        "models/flowportrait-7b is not there: taken to be BAGEL-7B-MoT" in line for line in out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(SFT), "--gpu", "h10"], "--gpu: got 'h10'; did you mean 'h100'?"),
        ([str(RECIPES / "tiny-codec.toml")], "not of kind 'codec'"),
        (
            [str(SFT), "--set", "data.row_tokens=50000"],
            "a clip of 25 s has 88306 tokens; give more",
        ),
        ([str(SFT), "--set", "parallel.sequence=3"], "must divide the 8 GPUs"),
    ],
)
def test_what_cannot_be_planned(arguments, message, capsys):
    assert run(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_every_run_of_the_paper_can_be_planned():
    for recipe in sorted(RECIPES.glob("*.toml")):
        if "codec" in recipe.read_text() or any(
            name in recipe.name for name in ("landmarker", "tiny", "prepare", "reproduce")
        ):
            continue
        assert plan(recipe).hours > 0


def test_a_kind_that_is_no_gpu():
    with pytest.raises(ConfigError, match="allowed: a100"):
        plan(SFT, gpu="abacus")


def test_what_the_run_would_refuse_the_plan_refuses():
    with pytest.raises(ConfigError, match="parallel.sequence 3: got 64 processes"):
        plan(RL, ["parallel.sequence=3"], num_gpus=64)
    with pytest.raises(ConfigError, match="'jitter' is a monitor"):
        plan(RL, ["reward.terms=[{scorers=['jitter']}]"])
    paid = ["scoring.judge.preset='gemini-flash'", "scoring.judge.backend={}"]
    with pytest.raises(ConfigError, match="judge.budget: lip_sync uses a paid judge"):
        plan(RL, paid)
    assert plan(RL, [*paid, "scoring.judge.budget.max_tokens=1000"]).notes
    priced = "scoring.judge.prices={input_usd_per_million=1, output_usd_per_million=2}"
    with pytest.raises(ConfigError, match="judge.budget"):
        plan(RL, [priced])


def test_groups_fewer_than_gpus_and_clips_that_are_shared():
    """On 64 GPUs two share a clip, or half of them sample along for nothing."""
    eight, alone = plan(RL, num_gpus=8), plan(RL, num_gpus=64)
    shared = plan(RL, ["parallel.sequence=2"], num_gpus=64)
    assert shared.hours == pytest.approx(eight.hours / 8)
    assert alone.hours == pytest.approx(2 * shared.hours)
    assert any("32 of them sample along for nothing" in note for note in alone.notes)
    assert shared.memory_gib["activations"] < 0.6 * alone.memory_gib["activations"]
    adapters = plan(RL, ["trained='lora'"], num_gpus=8)
    assert adapters.trained_parameters < 0.05 * eight.trained_parameters
    assert adapters.total_gib < eight.total_gib


def test_rewards_and_judges_are_counted():
    notes = plan(RL, num_gpus=8).notes
    looks = (400 // 20 + 1) * 16
    calls = 400 * 128 + looks
    told = next(note for note in notes if note.startswith("lip_sync: "))
    assert told.startswith(f"lip_sync: {calls:,} calls of the judge, about ")
    frames, seconds = 121, 121 / 24
    tokens = float(told.split("about ")[1].split(" ")[0]) / calls
    assert tokens > frames * 130 + seconds * 13
    assert any(note.startswith("consistency: about ") for note in notes)
