"""The generation expert's layers compiled by `torch.compile`: norms, rotation and SwiGLU around the
products become few kernels. Numbers change in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowportrait.errors import ConfigError
from flowportrait.model.mot import MoT


def compile_layers(model: MoT) -> None:
    """From now on the model's evaluations run compiled code, made at the first of them, once for
    all layers and lengths. What is computed once a window (`MoT.condition`), and training, are
    left.
    """
    for layer in model.layers:
        layer._generate = _told(torch.compile(layer._generate, dynamic=True))


def _told(compiled: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turns messages of the compiler into one line."""

    def call(*inputs: object) -> Tensor:
        try:
            return compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ConfigError(
                f"--compile: torch cannot compile here ({str(error).strip().splitlines()[0]}); it"
                " needs a C++ compiler (g++) on the CPU, Triton on CUDA, and whole files in its"
                " cache (TORCHINDUCTOR_CACHE_DIR); leave --compile"
            ) from error

    return call
