"""`flowportrait doctor`: what can run here, how fast it is, what is missing and how to get it.

A section for the machine, commands, scorers, extras and weights; `--fix` installs extras.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from flowportrait import needs, registry
from flowportrait.errors import CheckpointError, FlowPortraitError, StageFailed
from flowportrait.files import sha256_of
from flowportrait.needs import Need
from flowportrait.pretrained import WEIGHTS, Weights, cache_dir

_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
# Small enough that emulated bfloat16, a hundred times slower than float32, still answers at once.
_MATMUL_SIDE = 512
_NAME_WIDTH = 27
_DETECTOR = "centerface"


@dataclass(frozen=True)
class Check:
    """One line of the report. "broken" stops `generate`; "missing" is optional and names its
    remedy.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str
    section: str = "machine"

    def line(self) -> str:
        """A line for the terminal."""
        return f"{self.state:<8}{self.name:<{_NAME_WIDTH}}  {self.found}".rstrip()

    def as_dict(self) -> dict[str, str]:
        """A JSON-compatible dict."""
        return asdict(self)


def examine() -> Iterator[Check]:
    """All checks, each as soon as it is known, section by section."""
    yield Check("python", "ok", f"{platform.python_version()} at {sys.prefix}")
    yield from _torch()
    yield _codecs()
    yield _face_detector()
    yield from _models()
    yield from (_needed(need, "commands") for need in needs.COMMANDS)
    yield from (_needed(need, "scorers") for need in needs.SCORERS)
    yield from (_extra(name) for name in needs.EXTRAS)
    yield from (_weights(name, weights) for name, weights in WEIGHTS.items())


def fix(extras: Sequence[str]) -> list[str]:
    """Installs what is missing of some extras, or of all, and gives what that was.

    Raises ConfigError for an unknown extra, StageFailed where pip does not succeed.
    """
    wanted = needs.requirements_of(extras or needs.EXTRAS)
    if wanted:
        pip = [sys.executable, "-m", "pip", "install", *wanted]
        if subprocess.run(pip).returncode:
            raise StageFailed(f"pip could not install {' '.join(wanted)}; its own words are above")
    return wanted


def _needed(need: Need, section: str) -> Check:
    """Whether a command or a scorer can run, and what to type if not."""
    missing = need.missing()
    without = ""
    if missing and need.without:
        without = f"; {need.without}"
    return Check(
        need.what,
        "missing" if missing else "ok",
        "; ".join(missing) + without,
        section,
    )


def _extra(name: str) -> Check:
    """Whether the packages of an extra are there."""
    packages = needs.EXTRAS[name]
    there = [f"{one} {version(one)}" for one in packages if needs.has(one)]
    lacking = [one for one in packages if not needs.has(one)]
    if lacking:
        said = f"not here: {', '.join(lacking)}; flowportrait doctor --fix {name}"
        return Check(name, "missing", said, "extras")
    return Check(name, "ok", ", ".join(there), "extras")


def _weights(name: str, weights: Weights) -> Check:
    """Path, size and digest of a file that scorers or `prepare` use, or where to get it."""
    path = weights.found()
    if path is None:
        size = ""
        if weights.size_mb:
            size = f"{weights.size_mb:g} MB, "
        digest = f"sha256 {weights.sha256[:16]}"
        said = f"{weights.file}, {size}{weights.licence}, {digest}: {weights.url}"
        return Check(name, "missing", f"{said}; put it at {cache_dir() / weights.file}", "weights")
    digest = sha256_of(path)
    said = f"{path}, {path.stat().st_size / 1e6:.1f} MB, {weights.licence}, sha256 {digest[:16]}"
    if not digest.startswith(weights.sha256):
        said += f": another file, whose sha256 should be {weights.sha256[:16]}; {weights.url}"
        return Check(name, "missing", said, "weights")
    return Check(name, "ok", said, "weights")


def _torch() -> Iterator[Check]:
    """Torch's version, and the devices it can compute on."""
    import torch

    devices = _devices(torch)
    yield Check("torch", "ok", f"{torch.__version__}; devices: {', '.join(devices)}")
    yield Check(
        "threads", "ok", f"{torch.get_num_threads()} for torch, {os.cpu_count()} logical processors"
    )
    full = _matmul_gflops(torch.float32)
    half = _matmul_gflops(torch.bfloat16)
    faster = "bfloat16" if half > full else "float32"
    yield Check(
        "matmul",
        "ok",
        f"float32 {full:.1f}, bfloat16 {half:.1f} GFLOP/s: {faster} is the faster here",
    )
    flags = _cpu_flags()
    if flags is not None:
        yield Check("cpu flags", "ok", ", ".join(flags) or f"none of {', '.join(_CPU_FLAGS)}")


def _devices(torch) -> list[str]:
    """Devices that torch can compute on, in words."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda ({torch.cuda.get_device_name(index)})"
            for index in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


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
    """Whether videos can be written."""
    import av

    absent = [name for name in ("libx264", "aac") if name not in av.codecs_available]
    if absent:
        remedy = "pip install --force-reinstall av"
        return Check(
            "video", "broken", f"PyAV {av.__version__} lacks {', '.join(absent)}; {remedy}"
        )
    return Check("video", "ok", f"PyAV {av.__version__} with H.264 (libx264) and AAC")


def _face_detector() -> Check:
    """The one that comes with the package; others need weights, and `prepare` says which."""
    try:
        registry.FACE_DETECTORS.load(_DETECTOR)()
    except FlowPortraitError as error:
        return Check("face detector", "broken", str(error))
    return Check("face detector", "ok", _DETECTOR)


def _models() -> Iterator[Check]:
    """Whether the shipped models are whole."""
    from flowportrait.modeldir import check_files, load_spec

    if not registry.model_names():
        said = f"none in {registry.MODELS_DIR}; install flowportrait again"
        yield Check("models", "broken", said)
    for name in registry.model_names():
        directory = registry.MODELS_DIR / name
        try:
            check_files(directory, load_spec(directory))
        except CheckpointError as error:
            yield Check(f"model {name}", "broken", f"{error}; install flowportrait again")
            continue
        size_mb = sum(file.stat().st_size for file in directory.glob("*.safetensors")) / 1e6
        yield Check(f"model {name}", "ok", f"{size_mb:.1f} MB, sha256 as shipped")
