"""A run of reinforcement learning as one picture: curves of its looks, and held-out clips at its
start and end.

    python -m bench.rl_curves RUN... -o curves.png

Every RUN is a directory of `flowportrait train rl`. Curves are the `look` lines of its log: figures
of the held-out clips, always the same ones from the same noise. The strips are the first run's
sample videos before the first update and after the last.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from bench.label_faces import read_frames
from bench.sheets import strip

HIDDEN = {"time", "event", "update", "gains"}
COLUMNS, PICTURES = 4, 12


def looks(run: Path) -> list[dict]:
    """The log's `look` lines, in order."""
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == "look"]


def draw(runs: list[Path], out: Path) -> None:
    """Writes the picture."""
    by_run = {run.name: looks(run) for run in runs}
    names = [name for name in next(iter(by_run.values()))[0] if name not in HIDDEN]
    rows = -(-len(names) // COLUMNS)
    strips = _strips(runs[0])
    figure = plt.figure(figsize=(14, 2.6 * rows + 1.3 * len(strips)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.6 * rows, max(1.3 * len(strips), 0.1)])
    axes = above.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        for run, lines in by_run.items():
            axis.plot(
                [line["update"] for line in lines],
                [line.get(name, np.nan) for line in lines],
                "o-",
                label=run,
            )
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
    for axis in axes[len(names) :]:
        axis.axis("off")
    if len(runs) > 1:
        axes[0].legend(fontsize=8)
    for axis, (label, frames) in zip(
        below.subplots(len(strips), 1, squeeze=False).flatten(), strips, strict=True
    ):
        axis.imshow(np.concatenate(strip(frames, PICTURES), axis=1))
        axis.set_title(label, fontsize=8, loc="left", pad=1)
        axis.axis("off")
    figure.savefig(out, dpi=80)


def _strips(run: Path) -> list[tuple[str, np.ndarray]]:
    """The sample videos of the first and the last look, one below the other."""
    first, *_, last = sorted((run / "samples").iterdir())
    return [
        (f"clip {video.stem}, after update {int(look.name)}", read_frames(look / video.name))
        for video in sorted(first.glob("*.mp4"))
        for look in (first, last)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    draw(arguments.runs, arguments.out)


if __name__ == "__main__":
    main()
