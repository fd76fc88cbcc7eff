"""`flowportrait reproduce`: a chain of commands from data to a report, each run once.

A recipe lists commands as a user would type them. Every one runs in a process of its own with its
output in a log; one that has ended well is not run again unless it, what it reads from outside, or
one before it has changed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flowportrait import __version__
from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import StageFailed
from flowportrait.files import sha256_of
from flowportrait.records import Record, read_jsonl, write_jsonl
from flowportrait.registry import RECIPES_DIR, name_hint

Say = Callable[[str], None]

DEFAULT = "reproduce-tiny"
_DONE = "stages.jsonl"
_FIRST_WORD_S = 5.0


class Stage(Frozen):
    """One command; `{out}` in its words is the folder of the run, `{recipes}` the one of the
    shipped recipes, and any name of `given` what is given.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="also the name of its log")
    run: tuple[str, ...] = Field(min_length=1, description="the command line after `flowportrait`")
    beside: bool = Field(
        False,
        description=(
            "may run in parallel with the previous stage (--jobs), as it does not depend on it"
        ),
    )
    needs: str | None = Field(
        None, description="name in `given`; the stage is skipped if its value is empty"
    )


class Chain(Frozen):
    """A recipe of `reproduce`."""

    out: Path = Field(description="output folder, unless the command line gives another")
    result: str = Field(description="file below `out` that shows the result")
    given: dict[str, str | int | float] = Field(
        {}, description="inputs of the stages, such as data; set one with --set given.NAME=..."
    )
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> Chain:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages {names}: duplicate name; give each stage its own name")
        for stage in self.stages:
            needed = stage.needs
            if needed is not None and needed not in self.given:
                hint = name_hint(needed, self.given)
                raise ValueError(f"stage {stage.name}: needs '{needed}'; {hint}")
        return self

    def batches(self) -> list[list[Stage]]:
        """The selected stages, grouped by what may run in parallel."""
        batches: list[list[Stage]] = []
        for stage in self.stages:
            if stage.needs is not None and not self.given[stage.needs]:
                continue
            if stage.beside and batches:
                batches[-1].append(stage)
            else:
                batches.append([stage])
        return batches

    def words_of(self, stage: Stage, out: Path) -> list[str]:
        """The command line of a stage."""
        known = {**self.given, "recipes": RECIPES_DIR, "out": out}
        words = list(stage.run)
        for name, value in known.items():
            words = [word.replace(f"{{{name}}}", str(value)) for word in words]
        return words


class StageRun(Record):
    """A completed stage."""

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


def reproduce(
    recipe: Path,
    out: Path | None,
    say: Say,
    overrides: list[str] | None = None,
    jobs: int = 1,
) -> list[StageRun]:
    """Runs the chain of `recipe` and gives its stages, up to `jobs` of those at a time that may run
    beside one another; the same call goes on where it stopped.

    Raises ConfigError for the recipe, StageFailed for a command that did not end well.
    """
    chain = load_recipe(recipe, Chain, overrides or [])
    out = out or chain.out
    (out / "logs").mkdir(parents=True, exist_ok=True)
    return _run_chain(out, chain, say, jobs)


def _run_chain(out: Path | None, chain, say: Say, jobs: int) -> list[StageRun]:
    journal = _Journal(out)
    batches = chain.batches()
    number = 0
    before = ""
    total = sum(map(len, batches))
    for batch in batches:
        works = []
        for stage in batch:
            number += 1
            words = chain.words_of(stage, out)
            digest = _digest(words, out, before)
            works.append(_StageWork(stage.name, words, digest, f"[{number}/{total}] {stage.name}"))
        _make(works, journal, say, jobs)
        before = works[-1].digest if len(works) == 1 else _joined(work.digest for work in works)
    done = journal.settled()
    say(f"{sum(run.wall_s for run in done):.0f} s in {len(done)} stages: {out / chain.result}")
    return done


@dataclass(frozen=True)
class _StageWork:
    """A stage as it is to be run; `head` stands before what is said of it."""

    name: str
    words: list[str]
    digest: str
    head: str


class _Journal:
    """The stages that have ended well, on disk as soon as they have, and the commands under way."""

    def __init__(self, out: Path):
        self.out = out
        self._file = out / _DONE
        self._lock = threading.Lock()
        known = []
        if self._file.exists():
            known = read_jsonl(self._file, StageRun)
        self._known = {run.name: run for run in known}
        self._ended: dict[str, StageRun] = {}
        self.running: set[subprocess.Popen[bytes]] = set()

    def stop(self) -> None:
        """Ends the commands that are under way: an interrupted chain does not go on unseen."""
        for command in list(self.running):
            command.kill()

    def known(self, work: _StageWork) -> StageRun | None:
        """The run of an earlier call, if it was of the same."""
        found = self._known.get(work.name)
        if found and found.digest == work.digest:
            return found
        return None

    def add(self, run: StageRun) -> None:
        """One more that has ended well."""
        with self._lock:
            self._ended[run.name] = run
            write_jsonl(self._file, {**self._known, **self._ended}.values())

    def settled(self) -> list[StageRun]:
        """The stages of this call alone, also on disk."""
        write_jsonl(self._file, self._ended.values())
        return list(self._ended.values())


def _make(works: list[_StageWork], journal: _Journal, say: Say, jobs: int) -> None:
    """All of these stages, up to `jobs` of them at a time. Raises the first failure when the others
    that were begun have ended.
    """
    if jobs == 1 or len(works) == 1:
        for work in works:
            _made(work, journal, say)
        return
    with ThreadPoolExecutor(jobs) as threads:
        runs = [threads.submit(_made, work, journal, say) for work in works]
        try:
            for run in runs:
                run.result()
        except BaseException as error:
            for run in runs:
                run.cancel()
            if not isinstance(error, StageFailed):
                journal.stop()
            raise


def _made(work: _StageWork, journal: _Journal, say: Say) -> None:
    """The stage, run unless it was run before."""
    done = journal.known(work)
    if done:
        say(f"{work.head}: done before, in {done.wall_s:.0f} s")
    else:
        say(f"{work.head}: flowportrait {' '.join(work.words)}")
        log = journal.out / "logs" / f"{work.name}.log"
        tell = lambda told: say(f"{work.head}: {told}")  # noqa: E731
        wall_s = _run(work.name, work.words, log, tell, journal.running)
        done = StageRun(
            name=work.name,
            digest=work.digest,
            command=work.words,
            wall_s=wall_s,
            flowportrait=__version__,
        )
        say(f"{work.head}: {wall_s:.0f} s")
    journal.add(done)


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


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
    """The last line of the command, behind a semicolon; empty when it has said nothing yet."""
    with log.open("rb") as file:
        file.seek(max(begun, log.stat().st_size - 2000))
        lines = [
            line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()
        ]
    if lines:
        return f"; {lines[-1].strip()[:120]}"
    return ""


def _run(
    name: str,
    words: list[str],
    log: Path,
    say: Say,
    running: set[subprocess.Popen[bytes]],
) -> float:
    started_s = time.perf_counter()
    so_far = lambda: f"{time.perf_counter() - started_s:.0f} s so far"  # noqa: E731
    with log.open("a", encoding="utf-8") as file:
        print(f"$ flowportrait {' '.join(words)}", file=file, flush=True)
        begun = file.tell()
        command = [sys.executable, "-m", "flowportrait", *words]
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
            running.add(process)
            try:
                _wait(process, lambda: say(so_far() + _last_word(log, begun)))
            finally:
                running.discard(process)
                # An interrupted command does not go on unseen.
                if process.poll() is None:
                    process.kill()
    lines = (
        log.read_text(encoding="utf-8", errors="replace").split("\n$ flowportrait")[-1].splitlines()
    )
    last = next((line for line in reversed(lines) if line.strip()), "no word")
    if not process.returncode and '"event": "stopped"' in last:
        raise StageFailed(
            f"{name}: was stopped before its end by SIGTERM, with a checkpoint; run again to go on"
        )
    if process.returncode:
        raise StageFailed(
            f"{name}: {last.removeprefix('error: ')}; all it said is in {log}; run again to go on"
            " from there"
        )
    return time.perf_counter() - started_s
