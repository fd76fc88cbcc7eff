"""A run in processes of its own: `python rl_process.py COUNT RECIPE RESUME [key=value ...]`, fake
parts registered; of several, the last line is their exit codes.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from ranks import fork_ranks  # noqa: E402
from toy_pipeline import use_fake_parts  # noqa: E402

from flowportrait.train import rl  # noqa: E402

if __name__ == "__main__":
    count, recipe, resume, *options = sys.argv[1:]
    use_fake_parts(setattr)
    if count == "1":
        rl.train(recipe, options, resume=resume)
    else:
        codes = fork_ranks(int(count), lambda: rl.train(recipe, options, resume=resume))
        print(json.dumps(codes))
