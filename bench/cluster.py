"""How long `prepare` takes with one and two workers, of this machine and of a Ray cluster started
for it.

    python -m bench.cluster [--rounds 2] [--sources 40] [-o bench_cluster.json]

The sources are the clips of the shipped rendered world, over and over under other names, so that
each costs as much. Every way prepares all of them into a folder of its own, from starting the
processes to the report; ways follow one another in each round, and the least of the rounds counts.
All must end with the same clips. On a machine that does other work two workers gain less than they
could: `load` is the number of processes that wanted a core at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from flowportrait.config import load_recipe
from flowportrait.prepare.dataset import prepare
from flowportrait.prepare.source import PrepareConfig

CLIPS = Path(__file__).parent.parent / "flowportrait" / "samples" / "world"
SETTINGS = ("speaker.network=none", "faces.min_face_px=32", "crop.min_side_px=48", "clips.min_s=1")
WAYS = [(engine, workers) for engine in ("local", "ray") for workers in (1, 2)]


def sources(folder: Path, count: int) -> Path:
    """A folder with so many sources, as links."""
    clips = sorted(CLIPS.glob("*.mp4"))
    folder.mkdir()
    for number in range(count):
        os.symlink(clips[number % len(clips)], folder / f"{number:04d}.mp4")
    return folder


def measure(
    films: Path, out: Path, engine: str, workers: int
) -> tuple[float, float, dict[str, bytes]]:
    """Wall seconds, processor seconds of children that ended, and the clips' bytes by name."""
    config = load_recipe(None, PrepareConfig, SETTINGS)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    prepare([films], out, config, workers, engine=engine)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, spent_s, {path.name: path.read_bytes() for path in (out / "clips").iterdir()}


def main() -> None:
    """Measures, prints a table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sources", type=int, default=40)
    parser.add_argument("-o", "--out", type=Path, default=Path("bench_cluster.json"))
    arguments = parser.parse_args()
    best: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        films, first = sources(Path(folder) / "films", arguments.sources), None
        for number in range(arguments.rounds):
            for engine, workers in WAYS:
                name = f"{engine} {workers}"
                wall_s, spent_s, clips = measure(
                    films, Path(folder) / f"{number} {name}", engine, workers
                )
                first = first or clips
                assert clips == first, f"{name}: other clips"
                best[name] = min(wall_s, best.get(name, wall_s))
                print(
                    f"{name}: {wall_s:.1f} s, {spent_s:.1f} processor seconds of ended children",
                    flush=True,
                )
    found = {
        "sources": arguments.sources,
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
        "wall_s": best,
    }
    found["two_against_one"] = {
        engine: best[f"{engine} 1"] / best[f"{engine} 2"] for engine in ("local", "ray")
    }
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
