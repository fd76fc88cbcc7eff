"""Weights inside the package: read whole, and only if they are the file that was shipped."""

import hashlib
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from flowportrait.errors import CheckpointError


def read_shipped(path: Path, sha256: str, owner: str) -> dict[str, Tensor]:
    """The tensors of a shipped safetensors file, as stored.

    Raises CheckpointError, naming the weights' `owner`, when the file is missing or is another one.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: the {owner}'s weights are missing; install flowportrait again"
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"{path}: damaged, not the file that was shipped; install flowportrait again"
        )
    return load(data)
