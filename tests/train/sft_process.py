"""The ranks of a run: `python sft_process.py COUNT WHERE RECIPE [key=value ...]`; the last line is
their exit codes.

They die by SIGKILL WHERE they are told to:

"update": in the middle of update 2, when the first of its rows has been sent backward.
"checkpoint": when the shards of the checkpoint after update 3 are written and its head is not.
"sigterm": they do not die; the last rank gets SIGTERM in update 2.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from encoded_toy import poison  # noqa: E402
from ranks import fork_ranks  # noqa: E402
from torch.distributed.checkpoint import FileSystemWriter  # noqa: E402
from toy_pipeline import use_fake_parts  # noqa: E402

from flowportrait.train import sft  # noqa: E402


def die(*_):
    """At once, as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_update(session, update, parts=sft.parts_of):
    """The rows of an update; after the first one of update 2 comes nothing."""
    for number, part in enumerate(parts(session, update)):
        if update == 2 and number == 1:
            die()
        yield part


def terminate_in_update(session, update, parts=sft.parts_of):
    """The rows of an update; in update 2 the last rank is asked to end."""
    if update == 2 and session.ranks.rank == session.ranks.world - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return parts(session, update)


def run(where, recipe, options):
    """One rank, to its end."""
    use_fake_parts(setattr)
    poison(setattr)
    if where == "update":
        sft.parts_of = die_in_update
    if where == "sigterm":
        sft.parts_of = terminate_in_update
    if where == "checkpoint":
        write = FileSystemWriter.write_data
        FileSystemWriter.write_data = lambda *args: (write(*args).wait(), die())
    sft.train(recipe, options, resume="auto")


if __name__ == "__main__":
    count, where, recipe, *options = sys.argv[1:]
    print(json.dumps(fork_ranks(int(count), lambda: run(where, recipe, options))))
