"""Weights of the transformer's matrix products in eight bits, by torchao: half of bf16's memory.

Each row of a matrix has a scale of its own; activations stay as they are, and products are computed
in the weights' former format. What lies around the layers is not touched.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from flowportrait.errors import require
from flowportrait.model.mot import MoT

Quantization = Literal["int8", "fp8"]
LAYERS = "language_model.model.layers."


def quantize(model: MoT, kind: Quantization) -> None:
    """Replaces the weights of the layers, in place. Raises MissingDependency without torchao."""
    torchao = require("torchao.quantization", extra="quantize")
    config = {
        "int8": torchao.Int8WeightOnlyConfig,
        "fp8": torchao.Float8WeightOnlyConfig,
    }[kind]
    torchao.quantize_(model, config(version=2) if kind == "int8" else config(), _is_product)
    for name, module in model.named_modules():
        if _is_product(module, name):
            module.register_forward_pre_hook(_in_its_format)


def _is_product(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.startswith(LAYERS)


def _in_its_format(module: nn.Linear, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Brings the input to the weights' format, as autocast does for plain weights alone."""
    return (inputs[0].to(module.weight.dtype),)
