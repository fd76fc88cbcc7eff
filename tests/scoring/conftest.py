"""The simulated judge behind a real port, and small clips to show it."""

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from flowportrait import media
from flowportrait.scoring.judges.sim import Faults, JudgeSim


class RunningSim:
    """A `JudgeSim` in a thread of its own, as a server in another process would be."""

    def __init__(self, faults: Faults):
        ready: Future[JudgeSim] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(faults, ready),)
        )
        self._thread.start()
        self.sim = ready.result(timeout=30)

    async def _serve(self, faults, ready):
        self._end = asyncio.Event()
        async with JudgeSim(faults) as sim:
            ready.set_result(sim)
            await self._end.wait()

    @property
    def url(self) -> str:
        return self.sim.url

    def stop(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def judge(self, protocol: str, **settings) -> dict:
        """A `[judge]` table that points here and never waits long."""
        backend = {"type": "gemini", "base_url": self.url} if protocol == "gemini" else None
        backend = backend or {"type": "openai", "model": "sim", "base_url": f"{self.url}/v1"}
        backend |= settings.pop("backend", {})
        retries = {"first_s": 0.02, "breaker_s": 0.1} | settings.pop("retries", {})
        return {"backend": backend, "retries": retries, "check": "none", **settings}


@pytest.fixture
def start_sim(monkeypatch):
    """A function that starts simulated judges; they end with the test."""
    monkeypatch.setenv("GEMINI_API_KEY", "of the simulated judge")
    running = []

    def start(**faults) -> RunningSim:
        running.append(RunningSim(Faults.model_validate(faults)))
        return running[-1]

    yield start
    for sim in running:
        sim.stop()


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """Half a second of moving grey with a tone."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    tone = 0.2 * np.sin(np.arange(8000) * 0.2).astype(np.float32)
    media.write_video(
        path, [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(12)], 24, tone, 16000, {}
    )
    return path


@pytest.fixture
def clips(clip, tmp_path):
    """A function that makes folders of clips that differ in their bytes and play alike."""

    def make(count: int) -> Path:
        folder = tmp_path / "clips"
        folder.mkdir()
        for index in range(count):
            # A `free` box at the end of an mp4 is skipped by players.
            box = (12).to_bytes(4, "big") + b"free" + index.to_bytes(4, "big")
            (folder / f"{index:04}.mp4").write_bytes(clip.read_bytes() + box)
        return folder

    return make
