"""A rank of a run: `python sft_process.py WHERE RECIPE [key=value ...]`. It dies by SIGKILL WHERE it is told to.

"update": in the middle of update 2, when the first of its rows has been sent backward. "checkpoint": when the shards of
the checkpoint after update 3 are written and its head is not. "nowhere": it runs to its end.
"""

import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from encoded_toy import poison  # noqa: E402
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


if __name__ == "__main__":
    use_fake_parts(setattr)
    poison(setattr)
    if sys.argv[1] == "update":
        sft.parts_of = die_in_update
    if sys.argv[1] == "checkpoint":
        write = FileSystemWriter.write_data
        FileSystemWriter.write_data = lambda *args: (write(*args).wait(), die())
    sft.train(sys.argv[2], sys.argv[3:], resume="auto")
