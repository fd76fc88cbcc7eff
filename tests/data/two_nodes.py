"""A cluster of two nodes on this machine, one of which is lost while a command runs: `python
two_nodes.py JOURNAL COMMAND...`. The command's exit code and last words are passed on.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    journal, command = Path(sys.argv[1]), sys.argv[2:]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    process = subprocess.Popen(
        command, env=os.environ | {"RAY_ADDRESS": cluster.address}, stderr=subprocess.PIPE
    )
    while process.poll() is None and not (
        journal.exists() and journal.read_bytes().count(b"\n") >= 1
    ):
        time.sleep(0.02)
    assert process.poll() is None, "the command was over before a node was lost"
    cluster.remove_node(second, allow_graceful=False)
    said = process.communicate()[1]
    sys.stderr.buffer.write(said)
    cluster.shutdown()
    sys.exit(process.returncode)
