"""How fast the world renders, all in: python -m bench.world [--sizes 128 256] [--people 0 1 2]
[--rig anny]

CPU time of this process and the programs it starts, so that others on the machine count less than
they do by the clock. "Frames/s over 2 cores" is that of a set with six takes of each person: two
cores' time over the time for a frame with its share of making the person ready.
"""

import argparse
import os
import tempfile
from pathlib import Path

from flowportrait.world import sets
from flowportrait.world.sets import Settings, Take, render_take

_TAKES = 6


def cpu_s() -> float:
    """Of this process and of those it started and saw end."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def measure(settings: Settings, people: list[int], folder: Path) -> tuple[float, float, float]:
    """Seconds to make a person ready, and for a frame: speech, motion, picture, video, ground
    truth; frames a clip.
    """
    render_take(folder, Take(settings, people[0], 0, "warm"))  # compiles
    ready_s = frames_s = 0.0
    frames = 0
    for seed in people:
        sets._head.cache_clear()
        start_s = cpu_s()
        sets._head(settings.rig, seed)
        ready_s += cpu_s() - start_s
        start_s = cpu_s()
        record = render_take(folder, Take(settings, seed, 1, "bench"))
        frames_s += cpu_s() - start_s
        frames += record["n"]
    return ready_s / len(people), frames_s / frames, frames / len(people)


def main() -> None:
    """Prints one line a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--people", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rig", default="anny")
    parser.add_argument("--longest", type=float, default=4.2)
    asked = parser.parse_args()
    for size_px in asked.sizes:
        settings = Settings(size_px=size_px, rig=asked.rig, longest_s=asked.longest)
        with tempfile.TemporaryDirectory() as folder:
            ready_s, frame_s, frames = measure(settings, asked.people, Path(folder))
        per_second = 2 / (frame_s + ready_s / (_TAKES * frames))
        made = f"a person {ready_s:.2f} s, a frame {1000 * frame_s:.1f} ms"
        print(f"{size_px} px: {made}; {per_second:.0f} frames/s over 2 cores", flush=True)


if __name__ == "__main__":
    main()
