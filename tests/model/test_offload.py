"""Sampling with one expert at a time: the device never holds both, and nothing else changes."""

import importlib.util

import pytest
import torch
from test_mot import CONFIG, GRID, clip
from torch.testing import assert_close

from flowportrait.model import blocks, offload
from flowportrait.model.blocks import MLP, TEXT
from flowportrait.model.mot import MoT
from flowportrait.model.offload import (
    generation_weights,
    place,
    understanding_on,
    understanding_weights,
    wait_aside,
)
from flowportrait.model.quantize import quantize

CPU = torch.device("cpu")


def drawn(config=CONFIG):
    torch.manual_seed(0)
    model = MoT(config).requires_grad_(False)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def taken_away(weights):
    """They are there no more: whatever needs them fails."""
    for module, key in weights.values():
        module._parameters[key] = torch.nn.Parameter(torch.empty(0), requires_grad=False)


@torch.no_grad()
def test_each_expert_works_without_the_other():
    audio, image, zt, t = clip(1)
    model = drawn()
    condition = model.condition(audio, image, GRID)
    expected = model.velocity(zt, t, condition, GRID)
    taken_away(generation_weights(model))
    again = model.condition(audio, image, GRID)
    for (k, v), (k_was, v_was) in zip(again.layers, condition.layers, strict=True):
        assert torch.equal(k, k_was) and torch.equal(v, v_was)
    model = drawn()
    taken_away(understanding_weights(model))
    assert_close(model.velocity(zt, t, condition, GRID), expected, rtol=0, atol=0)


def devices(weights):
    return {module._parameters[key].device.type for module, key in weights.values()}


def test_the_device_holds_one_expert_at_a_time(monkeypatch):
    model, device, moves = drawn(), torch.device("meta"), []
    place(model, device)
    assert devices(understanding_weights(model)) == {"cpu"}
    assert devices(generation_weights(model)) == {"meta"}
    assert all(buffer.is_meta for buffer in model.buffers())
    kept = {name: m._parameters[k] for name, (m, k) in understanding_weights(model).items()}
    # What is on the meta device cannot come back, so that moves are only noted.
    monkeypatch.setattr(offload, "_move", lambda weights, to: moves.append((set(weights), to.type)))
    with understanding_on(model, device):
        assert moves == [
            (set(generation_weights(model)), "cpu"),
            (set(understanding_weights(model)), "meta"),
        ]
    assert moves[2:] == [(set(generation_weights(model)), "meta")]
    for name, (module, key) in understanding_weights(model).items():
        assert module._parameters[key] is kept[name]


@torch.no_grad()
def test_swapping_changes_no_number():
    audio, image, zt, t = clip(1)
    model = drawn()
    expected = model.velocity(zt, t, model.condition(audio, image, GRID), GRID)
    place(model, CPU)
    with understanding_on(model, CPU):
        condition = model.condition(audio, image, GRID)
    assert_close(model.velocity(zt, t, condition, GRID), expected, rtol=0, atol=0)


@torch.no_grad()
def test_an_mlp_in_pieces_is_the_same(monkeypatch):
    mlp, x = MLP(8, 24), torch.randn(2, 50, 8)
    whole = mlp(x)
    monkeypatch.setattr(blocks, "MLP_TOKENS", 16)
    pieces = mlp(x)
    assert_close(pieces, whole)
    with torch.enable_grad():  # in an update as in the rollout before it
        assert torch.equal(mlp(x).detach(), pieces)


def test_an_encoder_is_on_the_device_while_it_is_called():
    encoder, seen = torch.nn.Linear(3, 3), []
    move = encoder.to
    encoder.to = lambda device: (seen.append(str(device)), move("cpu"))[1]
    wait_aside(encoder, torch.device("cuda"))
    encoder(torch.ones(1, 3))
    assert seen == ["cuda", "cpu"]


@torch.no_grad()
def test_no_video_needs_the_weights_of_text():
    audio, image, zt, t = clip(1)
    whole = drawn(CONFIG.model_copy(update={"vocab_size": 11}))
    assert sum(name.startswith(TEXT) for name, _ in whole.named_parameters()) == 2
    model = MoT(CONFIG.model_copy(update={"vocab_size": 0}))
    state = whole.state_dict().items()
    model.load_state_dict({name: value for name, value in state if not name.startswith(TEXT)})
    expected = whole.velocity(zt, t, whole.condition(audio, image, GRID), GRID)
    got = model.velocity(zt, t, model.condition(audio, image, GRID), GRID)
    assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="the extra 'quantize' is not installed: pip install 'flowportrait[quantize]'",
)
@pytest.mark.parametrize("kind, limit", [("int8", 0.02), ("fp8", 0.08)])
@torch.no_grad()
def test_weights_of_eight_bits_give_nearly_the_same(kind, limit):
    """Also when the experts are swapped, which takes quantised weights along."""
    audio, image, zt, t = clip(1)
    model = MoT(CONFIG).requires_grad_(False)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1)
    expected = model.velocity(zt, t, model.condition(audio, image, GRID), GRID)
    quantize(model, kind)
    place(model, CPU)
    with understanding_on(model, CPU):
        condition = model.condition(audio, image, GRID)
    got = model.velocity(zt, t, condition, GRID)
    error = float((got - expected).norm() / expected.norm())
    assert 0 < error < limit
