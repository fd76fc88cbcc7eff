"""The processes of a run, forked when all is imported, which takes longer than the run."""

import os
import traceback

import torch._dynamo  # noqa: F401  the first update of each rank would import it


def fork_ranks(count, run):
    """The exit codes of `count` ranks, each of which calls `run`."""
    os.environ["WORLD_SIZE"] = str(count)
    ranks = [_fork(rank, run) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def _fork(rank, run):
    """The process of a rank."""
    process = os.fork()
    if not process:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return process
