"""`flowportrait reproduce`: a chain of commands from nothing to a report, each run once.

A recipe lists commands as a user would type them. Every one runs in a process of its own with its
output in a log; one that has ended well is not run again unless it, what it reads from outside, or
one before it has changed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flowportrait import __version__
from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import StageFailed
from flowportrait.files import sha256_of
from flowportrait.records import Record, read_jsonl, write_jsonl
from flowportrait.registry import RECIPES_DIR

DEFAULT = "reproduce-tiny"
_DONE = "stages.jsonl"
_FIRST_WORD_S = 5.0


class Stage(Frozen):
    """One command; `{out}` in its words is the folder of the run, `{recipes}` the one of the
    shipped recipes.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="also the name of its log")
    run: tuple[str, ...] = Field(min_length=1, description="the words behind `flowportrait`")


class Chain(Frozen):
    """A recipe of `reproduce`."""

    out: Path = Field(description="where everything goes, unless the command line says otherwise")
    result: str = Field(description="what to look at in the end, below `out`")
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Chain:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages {names}: two have one name; their logs would be one")
        return self


class StageRun(Record):
    """A stage that has ended well."""

    schema_version: Literal[1] = 1
    name: str
    digest: str = Field(
        description=(
            "of its words, of the files from outside that they name, and of all stages before"
        )
    )
    command: list[str]
    wall_s: float
    flowportrait: str


def reproduce(recipe: Path, out: Path | None, say: Callable[[str], None]) -> list[StageRun]:
    """Runs the chain of `recipe` and gives its stages; the same call goes on where it stopped.

    Raises ConfigError for the recipe, StageFailed for a command that did not end well.
    """
    chain = load_recipe(recipe, Chain)
    out = out or chain.out
    (out / "logs").mkdir(parents=True, exist_ok=True)
    known = (
        {done.name: done for done in read_jsonl(out / _DONE, StageRun)}
        if (out / _DONE).exists()
        else {}
    )
    runs: list[StageRun] = []
    for number, stage in enumerate(chain.stages, 1):
        words = [
            word.replace("{out}", str(out)).replace("{recipes}", str(RECIPES_DIR))
            for word in stage.run
        ]
        digest = _digest(words, out, runs[-1].digest if runs else "")
        head = f"[{number}/{len(chain.stages)}] {stage.name}"
        if (done := known.get(stage.name)) and done.digest == digest:
            say(f"{head}: done before, in {done.wall_s:.0f} s")
        else:
            say(f"{head}: flowportrait {' '.join(words)}")
            log = out / "logs" / f"{stage.name}.log"
            wall_s = _run(stage.name, words, log, lambda told, head=head: say(f"{head}: {told}"))
            done = StageRun(
                name=stage.name,
                digest=digest,
                command=words,
                wall_s=wall_s,
                flowportrait=__version__,
            )
            say(f"{head}: {wall_s:.0f} s")
        runs.append(done)
        write_jsonl(out / _DONE, runs)
    say(f"{sum(run.wall_s for run in runs):.0f} s in {len(runs)} stages: {out / chain.result}")
    return runs


def _digest(words: list[str], out: Path, before: str) -> str:
    outside = [
        Path(word) for word in words if not Path(word).is_relative_to(out) and Path(word).is_file()
    ]
    contents = [sha256_of(path) for path in outside]
    return hashlib.sha256(json.dumps([words, contents, before, __version__]).encode()).hexdigest()


def _wait(running: subprocess.Popen[bytes], say: Callable[[], None]) -> None:
    """Until it has ended; `say` is called at growing distances, up to once in 30 s."""
    pause_s = _FIRST_WORD_S
    while True:
        try:
            running.wait(pause_s)
            return
        except subprocess.TimeoutExpired:
            say()
            pause_s = min(30.0, 2 * pause_s)


def _last_word(log: Path, begun: int) -> str:
    """What the command has said last, behind a semicolon; empty when it has said nothing yet."""
    with log.open("rb") as file:
        file.seek(max(begun, log.stat().st_size - 2000))
        lines = [
            line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()
        ]
    return f"; {lines[-1].strip()[:120]}" if lines else ""


def _run(name: str, words: list[str], log: Path, say: Callable[[str], None]) -> float:
    started_s = time.perf_counter()
    with log.open("a", encoding="utf-8") as file:
        print(f"$ flowportrait {' '.join(words)}", file=file, flush=True)
        begun = file.tell()
        command = [sys.executable, "-m", "flowportrait", *words]
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as running:
            try:
                _wait(
                    running,
                    lambda: say(
                        f"{time.perf_counter() - started_s:.0f} s so far{_last_word(log, begun)}"
                    ),
                )
            finally:
                # An interrupted command does not go on unseen.
                if running.poll() is None:
                    running.kill()
    lines = (
        log.read_text(encoding="utf-8", errors="replace").split("\n$ flowportrait")[-1].splitlines()
    )
    last = next((line for line in reversed(lines) if line.strip()), "no word")
    if not running.returncode and '"event": "stopped"' in last:
        raise StageFailed(
            f"{name}: was stopped before its end by SIGTERM, with a checkpoint; run again to go on"
        )
    if running.returncode:
        raise StageFailed(
            f"{name}: {last.removeprefix('error: ')}; all it said is in {log}; run again to go on"
            " from there"
        )
    return time.perf_counter() - started_s
