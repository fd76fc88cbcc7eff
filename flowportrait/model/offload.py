"""The understanding expert out of the way: sampling needs it once a window, for keys and values,
and then never.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from flowportrait.model.mot import GEN, MoT

SAMPLING = ("time_embedder.", "vae2llm.", "llm2vae.")


def understanding_weights(model: MoT) -> list[nn.Parameter]:
    """The weights that `condition` uses and `velocity` does not: half of the model, 14 GB of
    BAGEL-7B in bf16.
    """
    return [
        p
        for name, p in model.named_parameters()
        if GEN not in name and not name.startswith(SAMPLING)
    ]


def place(model: MoT, device: torch.device) -> None:
    """Moves the model to a device, all but what only understands, which stays where it is."""
    parked = {id(p) for p in understanding_weights(model)}
    model._apply(lambda tensor: tensor if id(tensor) in parked else tensor.to(device))


@contextmanager
def understanding_on(model: MoT, device: torch.device) -> Iterator[None]:
    """Within, the parked weights are on the device; afterwards they are where they were, and its
    memory is free.
    """
    parked = [(p, p.data) for p in understanding_weights(model)]
    for p, data in parked:
        p.data = data.to(device, non_blocking=True)
    try:
        yield
    finally:
        for p, data in parked:
            p.data = data
