"""A run in a process of its own: `python rl_process.py RECIPE RESUME [key=value ...]`, fake parts
registered.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from toy_pipeline import use_fake_parts  # noqa: E402

from flowportrait.train import rl  # noqa: E402

if __name__ == "__main__":
    use_fake_parts(setattr)
    rl.train(sys.argv[1], sys.argv[3:], resume=sys.argv[2])
