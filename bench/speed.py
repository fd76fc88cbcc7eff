"""What a user waits and what it takes: `flowportrait generate` as a whole process, imports
included.
"""

import os
import sys
import tempfile
import time
import wave
from itertools import product
from pathlib import Path

import numpy as np

from flowportrait.errors import FlowPortraitError
from flowportrait.media import read_audio

SAMPLES_DIR = Path(__file__).parent.parent / "flowportrait" / "samples"
COMMAND = [sys.executable, "-c", "from flowportrait.cli import main; main()", "generate"]


AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Of torch and oneDNN: compute as on a processor that knows nothing newer."""


def measure_speed(
    model: str,
    evaluations: list[int],
    sizes: list[str],
    seconds: float,
    portrait: Path,
    speech: Path,
    avx2: bool = False,
) -> dict:
    """A row per size and number of evaluations: seconds of the processor and by the clock,
    real-time factor and peak memory of the process. `avx2` forbids newer instructions.
    """
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "speech.wav"
        _write_speech(audio, speech, seconds)
        files = [str(portrait), str(audio), "-o", str(Path(folder) / "out.mp4"), "--model", model]
        rows = []
        for size, count in product(sizes, evaluations):
            options = ["--size", size, "--frame", "face", "--evaluations", str(count)]
            cost = _run([*COMMAND, *files, *options], Path(folder) / "log", AVX2 if avx2 else {})
            rows.append({"size": size, "evaluations": count, **cost})
            rows[-1]["real_time_factor"] = cost["wall_s"] / seconds
            print(rows[-1], flush=True)
    return {
        "speech_s": seconds,
        "cpu_count": os.cpu_count(),
        "avx2_only": avx2,
        "load_before": os.getloadavg()[0],
        "runs": rows,
    }


def _write_speech(path: Path, speech: Path, seconds: float) -> None:
    """`speech` over and over until `seconds` are full, 16-bit wav."""
    sound = read_audio(speech)
    samples = np.resize(sound.samples, round(seconds * sound.sample_rate))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.sample_rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def _run(command: list[str], log: Path, environment: dict[str, str]) -> dict[str, float]:
    """What one process took: seconds of the processor and by the clock, and its peak memory.
    Raises FlowPortraitError with its last line.
    """
    with log.open("wb") as output:
        started = time.perf_counter()
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ | environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), fd) for fd in (1, 2)],
        )
        # wait4 gives the peak of this very process; getrusage would give the largest of all
        # children so far.
        _, status, usage = os.wait4(pid, 0)
        wall_s = time.perf_counter() - started
    if status:
        lines = log.read_text().splitlines() or ["no output"]
        raise FlowPortraitError(
            f"generate: exit code {os.waitstatus_to_exitcode(status)}: {lines[-1]}"
        )
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"cpu_s": cpu_s, "wall_s": wall_s, "peak_memory_gb": peak_bytes / 1e9}
