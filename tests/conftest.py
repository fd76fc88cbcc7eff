"""Shapes and types of annotated functions are checked while the tests run; production pays nothing
for it.
"""

import importlib.util
import os
from pathlib import Path

import pytest

# Before torch is loaded, and for the processes that tests start: threads that spin while they wait
# take ten times the processor's time on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One test at a time on each core is faster than one test on all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook  # noqa: E402

ROOMS = (
    "media",
    "flow",
    "sampling",
    "faces",
    "codecs",
    "encoders",
    "data",
    "prepare",
    "shot",
    "generate",
)

SECONDS = {
    "prepare": 95,
    "ray": 60,
    "tests/test_wheel.py": 50,
    "tests/train/test_rl.py": 45,
    "tests/model/test_shortcuts.py": 40,
    "tests/train/test_sft.py": 40,
    "tests/web/test_make_page.py": 40,
    "tests/test_cases.py": 35,
    "tests/train/test_training.py": 25,
}
"""The groups of tests that take longest, and about how long."""


def pytest_configure(config):
    """Tests are those of a CPU, on whatever machine; `tests/cuda` sees a GPU where it is asked for
    alone. What other tests hold to be true to the last bit is true of a CPU.
    """
    if not config.args or not all("cuda" in Path(path).parts for path in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


install_import_hook([f"flowportrait.{room}" for room in ROOMS], "typechecker.checked")


def pytest_collection_modifyitems(config, items):
    """For several processes (`pytest -n 2 --dist loadgroup`): tests of a file share fixtures and
    stay together, and so do those of the one cluster and those that name a group. What takes
    longest begins first, so that no process waits for another at the end.
    """
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            together = "ray" if "ray_cluster" in item.fixturenames else item.nodeid.split("::")[0]
            item.add_marker(pytest.mark.xdist_group(together))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -SECONDS.get(_group_of(item), 0))


def _group_of(item):
    marker = item.get_closest_marker("xdist_group")
    return marker.kwargs.get("name") or marker.args[0]


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of this machine with two workers at a time, started once for all tests."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra 'ray' is not installed: pip install 'flowportrait[ray]'")
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    root = str(Path(__file__).parents[1])
    # The processes of the cluster inherit what is set when it starts.
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield found
    found.shutdown()
    patch.undo()


@pytest.fixture
def on_cluster(ray_cluster, monkeypatch):
    """`--engine ray` finds the cluster; what is computed here uses one thread, as its workers do,
    so that numbers are the same to the bit.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    yield ray_cluster
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3_server():
    """The address of a local server that speaks S3."""
    if any(importlib.util.find_spec(name) is None for name in ("s3fs", "moto", "flask")):
        pytest.skip("s3fs, moto or flask is not installed: pip install 'flowportrait[dev,s3]'")
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, tmp_path):
    """An fsspec file system with the empty bucket `data`, which commands find by their environment;
    this is a new folder, without copies."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    if system.exists("data"):
        system.rm("data", recursive=True)
    system.mkdir("data")
    return system


@pytest.fixture
def gs_bucket(monkeypatch, tmp_path):
    """As `bucket`, of a local server that speaks Google's storage."""
    if any(importlib.util.find_spec(name) is None for name in ("gcsfs", "gcp_storage_emulator")):
        pytest.skip("gcsfs or gcp-storage-emulator is not installed: pip install them")
    # Read when gcsfs is imported: what it asks by gRPC the emulator does not answer.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    import gcsfs
    from gcp_storage_emulator.server import create_server

    server = create_server("localhost", 0, in_memory=True, default_bucket="data")
    server.start()
    port = server._api._httpd.server_address[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    monkeypatch.chdir(tmp_path)
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield gcsfs.GCSFileSystem(token="anon")
    server.stop()
