"""Sampling with the understanding expert away: it is there for keys and values, and for nothing
else.
"""

import torch
from test_mot import CONFIG, GRID, clip
from torch.testing import assert_close

from flowportrait.model.mot import MoT
from flowportrait.model.offload import place, understanding_on, understanding_weights


@torch.no_grad()
def test_sampling_needs_no_understanding():
    torch.manual_seed(0)
    model = MoT(CONFIG)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    audio, image, zt, t = clip(1)
    expected = model.velocity(zt, t, model.condition(audio, image, GRID), GRID)
    parked = understanding_weights(model)
    kept = [p.data for p in parked]
    with understanding_on(model, torch.device("cpu")):
        condition = model.condition(audio, image, GRID)
    assert all(
        p.data is not None and torch.equal(p, data) for p, data in zip(parked, kept, strict=True)
    )
    for p in parked:
        p.data = torch.empty(0)
    assert_close(model.velocity(zt, t, condition, GRID), expected, rtol=0, atol=0)
    assert sum(data.numel() for data in kept) > 0.4 * sum(
        p.numel() for p in MoT(CONFIG).parameters()
    )


def test_placing_moves_the_rest():
    model = MoT(CONFIG)
    place(model, torch.device("meta"))
    stayed = {id(p) for p in understanding_weights(model)}
    assert all(p.is_meta != (id(p) in stayed) for p in model.parameters())
    assert all(buffer.is_meta for buffer in model.buffers())
