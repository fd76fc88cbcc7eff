"""Damaged files of every format: each costs one line, none a traceback, a crash or a hang."""

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from container_films import CODECS, RATE, Film, voice, write_film
from fuzz_files import PICTURES
from PIL import Image

NUM_INPUTS = int(os.environ.get("FUZZ_INPUTS", 2000))
NUM_PROCESSES = 2
LONGEST_S = 20.0
SOUNDS = {
    "wav": "pcm_s16le", "mp3": "libmp3lame", "flac": "flac", "ogg": "libopus", "m4a": "aac",
    "aac": "aac",
}  # fmt: skip


def write_whole_files(folder: Path) -> None:
    """A small file of every format that is read."""
    for suffix in CODECS:
        write_film(folder / f"film.{suffix}", Film(suffix, 25, num_frames=10))
    for suffix, alike in (("3gp", "mp4"), ("m4v", "mp4"), ("mpeg", "mpg"), ("mts", "ts")):
        (folder / f"film.{suffix}").write_bytes((folder / f"film.{alike}").read_bytes())
    for suffix, codec in SOUNDS.items():
        with av.open(
            str(folder / f"s.{suffix}"), "w", format={"aac": "adts", "m4a": "mp4"}.get(suffix)
        ) as out:
            stream = out.add_stream(codec, rate=RATE, layout="stereo")
            both = np.stack([voice(0.3), voice(0.3, seed=1)])
            frame = av.AudioFrame.from_ndarray(both, format="fltp", layout="stereo")
            frame.sample_rate = RATE
            size = stream.codec_context.frame_size or None
            for part in av.AudioResampler(stream.format.name, "stereo", RATE, size).resample(frame):
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for suffix in PICTURES:
        try:
            Image.fromarray(noise).save(folder / f"p{suffix}")
        except (KeyError, ValueError, OSError):  # a Pillow without AVIF
            (folder / f"p{suffix}").unlink(missing_ok=True)


def outcomes(whole: Path, seed: int, count: int) -> tuple[list[dict], str]:
    """What a process says of its inputs; and how it ended, if not well."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("fuzz_files.py")),
        str(whole),
        str(seed),
        str(count),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    said, last_s, waiting = b"", time.monotonic(), selectors.DefaultSelector()
    waiting.register(process.stdout, selectors.EVENT_READ)
    while True:
        if waiting.select(timeout=1.0):
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                break
            said, last_s = said + part, time.monotonic()
        elif time.monotonic() - last_s > LONGEST_S:
            process.kill()
            break
    code = process.wait()
    return [json.loads(line) for line in said.splitlines() if line.endswith(b"}")], (
        "" if code == 0 else f"code {code}"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_damaged_files_cost_one_line_each(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    write_whole_files(tmp_path)
    share = NUM_INPUTS // NUM_PROCESSES
    with ThreadPoolExecutor(NUM_PROCESSES) as pool:
        results = list(pool.map(lambda seed: outcomes(tmp_path, seed, share), range(NUM_PROCESSES)))
    for seed, (rows, ended) in enumerate(results):
        assert not ended, (ended, "seed", seed, rows[-1])
        assert sum("lines" in row for row in rows) == share, [
            row for row in rows if "traceback" in row
        ][0]["traceback"]
        for row in rows:
            assert all("\n" not in line and len(line) < 500 for line in row.get("lines", ()))
    lines = [line for rows, _ in results for row in rows for line in row.get("lines", ())]
    assert len(lines) > NUM_INPUTS / 4
