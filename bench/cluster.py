"""How long `prepare` and `score` take with one and two workers, of this machine and of a Ray
cluster started for it.

    python -m bench.cluster [--command score] [--rounds 2] [--sources 40] [-o bench_cluster.json]

The sources are the clips of the shipped rendered world, over and over under other names, so that
each costs as much. Every way does all of them from the start of its processes to the last file;
ways follow one another in each round, and the least of the rounds counts. All must end with the
same bytes, so every process computes with one thread. On a machine that does other work two workers
gain less than they could: `load` is the number of processes that wanted a core at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from flowportrait.clips import find_samples
from flowportrait.cluster import Division
from flowportrait.config import load_recipe
from flowportrait.prepare.dataset import prepare
from flowportrait.prepare.settings import PrepareConfig
from flowportrait.scoring.run import ScoringConfig, build_scorers, score_to_file

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


def prepare_all(films: Path, out: Path, division: Division) -> bytes:
    """The bytes of all clips of a prepared dataset, in the order of their names."""
    config = load_recipe(None, PrepareConfig, SETTINGS)
    prepare([films], out, config, division.workers, engine=division.engine)
    return b"".join(path.read_bytes() for path in sorted((out / "clips").iterdir()))


def score_all(films: Path, out: Path, division: Division) -> bytes:
    """The file of scores of the standard metrics, each clip being its own truth."""
    samples, config = find_samples([films], films), ScoringConfig()
    scorers = build_scorers(["standard"], config, out / "answers.jsonl")
    score_to_file(samples, scorers, out / "scores.jsonl", False, lambda done, total: None, division)
    return (out / "scores.jsonl").read_bytes()


COMMANDS = {"prepare": prepare_all, "score": score_all}


def main() -> None:
    """Measures, prints a table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", choices=COMMANDS, default="prepare")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sources", type=int, default=40)
    parser.add_argument("-o", "--out", type=Path, default=Path("bench_cluster.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    best: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        films, first = sources(Path(folder) / "films", arguments.sources), None
        for number in range(arguments.rounds):
            for engine, workers in WAYS:
                name, started_s = f"{engine} {workers}", time.perf_counter()
                out = Path(folder) / f"{number} {name}"
                made = COMMANDS[arguments.command](films, out, Division(engine, workers))
                wall_s = time.perf_counter() - started_s
                first = first or made
                assert made == first, f"{name}: other bytes"
                best[name] = min(wall_s, best.get(name, wall_s))
                print(f"{name}: {wall_s:.1f} s", flush=True)
    found = {
        "command": arguments.command,
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
