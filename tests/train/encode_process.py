"""Encoding on a Ray cluster with fake parts: `python encode_process.py WORLD OUT MODEL`.

The first worker that begins a shard dies, once.
"""

import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*sys.path[:2], os.environ["PYTHONPATH"]]
)  # of the workers

from toy_pipeline import use_fake_parts  # noqa: E402

from flowportrait.train import encode  # noqa: E402


class Dying(encode.ShardMaker):
    """Registers the fake parts in whatever process it is; the first of all dies."""

    def __call__(self, number):
        use_fake_parts(setattr)
        try:
            (self.out.parent / "died").touch(exist_ok=False)
        except FileExistsError:
            return super().__call__(number)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import encode_process

    use_fake_parts(setattr)
    encode.ShardMaker = encode_process.Dying
    world, out, model = map(Path, sys.argv[1:])
    encode.encode(world, out, str(model), device="cpu", clips_per_shard=2, engine="ray", workers=2)
