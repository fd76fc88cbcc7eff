"""Precision of matrix products: bf16 where it is fast. Norms, RoPE, losses and sampler state stay
fp32 everywhere.
"""

from __future__ import annotations

from functools import cache

import torch


@cache
def fast_bf16(device_type: str) -> bool:
    """Whether this machine multiplies bf16 faster than fp32: CUDA, or a CPU with AVX512-BF16 or
    AMX.

    Without them CPU bf16 products are emulated, up to a hundred times slower than fp32 (measured on
    an AVX2 machine).
    """
    return device_type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def matmul_precision(device_type: str) -> torch.autocast:
    """A context in which matrix products run in the machine's fastest sufficient precision."""
    return torch.autocast(device_type, torch.bfloat16, enabled=fast_bf16(device_type))
