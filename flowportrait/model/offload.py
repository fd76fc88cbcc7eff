"""One expert at a time on the device: sampling needs the understanding expert once a window, for
keys and values, and the generation expert for all that comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from flowportrait.model.blocks import GEN
from flowportrait.model.mot import MoT

SAMPLING = ("time_embedder.", "vae2llm.", "llm2vae.")
Place = tuple[nn.Module, str]
Places = dict[str, Place]
"""Where a weight stands: its module, and its name there."""


def understanding_weights(model: MoT) -> Places:
    """The weights that `condition` uses and `velocity` does not: half of the model, 13 GB of
    BAGEL-7B in bf16 without the text's.
    """
    return _chosen(model, lambda name: GEN not in name and not name.startswith(SAMPLING))


def generation_weights(model: MoT) -> Places:
    """The weights of the layers that `velocity` uses and `condition` does not."""
    return _chosen(model, lambda name: GEN in name)


def place(model: MoT, device: torch.device) -> None:
    """Moves the model to a device, all but what only understands, which stays where it is."""
    stays = understanding_weights(model)
    _move(_chosen(model, lambda name: name not in stays), device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def wait_aside(module: nn.Module, device: torch.device) -> None:
    """Moves a module to CPU memory, and to the device only during its calls."""
    module.register_forward_pre_hook(lambda module, inputs: module.to(device) and None)
    module.register_forward_hook(lambda module, inputs, output: module.to("cpu") and None)


@contextmanager
def understanding_on(model: MoT, device: torch.device) -> Iterator[None]:
    """Within, the understanding expert is on the device and the generation expert in CPU memory;
    afterwards it is the other way round. The device never holds both.
    """
    away = understanding_weights(model)
    kept = {name: _weight(at) for name, at in away.items()}
    _move(generation_weights(model), torch.device("cpu"))
    try:
        _move(away, device)
        yield
    finally:
        for name, (module, key) in away.items():
            module._parameters[key] = kept[name]
        _move(generation_weights(model), device)


def _chosen(model: MoT, wanted: Callable[[str], bool]) -> Places:
    """The weights whose full names are wanted, with the modules that hold them."""
    return {
        name: (module, key)
        for prefix, module in model.named_modules()
        for key, weight in module._parameters.items()
        if weight is not None and wanted(name := f"{prefix}.{key}" if prefix else key)
    }


def _weight(at: Place) -> nn.Parameter:
    module, key = at
    return module._parameters[key]


def _move(weights: Places, device: torch.device) -> None:
    """One by one, so that what is left behind is free before the next one comes. Parameters are
    replaced, because those of quantised weights cannot be filled anew.
    """
    for module, key in weights.values():
        value = module._parameters[key].detach().to(device)
        module._parameters[key] = nn.Parameter(value, requires_grad=False)
