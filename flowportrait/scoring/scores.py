"""The file of scores: one JSON line each, shared by all runs that write into it, at the same time or one after another.

A score is appended as soon as it is known, so that a kill costs at most the line in work. When a run ends it puts its
lines in order and leaves those of other runs where they are. Everything that writes holds the file's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock

from flowportrait.errors import DataError
from flowportrait.records import Score, read_jsonl
from flowportrait.scoring.cache import append_line

Key = tuple[str, str, int]
"""Clip, scorer, repeat."""


def key_of(score: Score) -> Key:
    """What a score is found by."""
    return score.clip, score.scorer, score.repeat


class ScoreFile:
    """Scores at `path` by key; `fingerprints` of the scorers whose settings must be those that the file knows."""

    def __init__(self, path: Path, fingerprints: Mapping[str, str]):
        self.path, self.fingerprints = path, fingerprints
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f".{path.name}.lock"))
            with self._lock:
                self._close_torn_line()
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error
        self.found = self.read()
        """The scores that were there before this run."""

    def read(self) -> dict[Key, Score]:
        """The file as it is now, the last line of each key. Raises DataError: a scorer had other settings."""
        if not self.path.exists():
            return {}
        with self._lock:
            scores = list(read_jsonl(self.path, Score))
        for score in scores:
            if self.fingerprints.get(score.scorer, score.fingerprint) != score.fingerprint:
                raise DataError(
                    f"{self.path}: holds scores of {score.scorer} with other settings, model or prompts; "
                    "give another -o"
                )
        return {key_of(score): score for score in scores}

    def append(self, score: Score) -> None:
        """Adds one score."""
        with self._lock:
            append_line(self.path, score.model_dump_json().encode() + b"\n")

    def put_in_order(self, known: Mapping[Key, Score], wanted: Iterable[Key]) -> None:
        """Each of the `known` scores once, the `wanted` last and in their order, behind those that other runs have
        written since; what was found and is no longer known goes."""
        wanted = list(wanted)
        asked_for = set(wanted)
        with self._lock:
            now = self.read()
            others = {key: s for key, s in now.items() if key not in known and s != self.found.get(key)}
            ordered = [s for key, s in {**others, **known}.items() if key not in asked_for]
            ordered += [known[key] for key in wanted if key in known]
            self._replace("".join(score.model_dump_json() + "\n" for score in ordered).encode())

    def _close_torn_line(self) -> None:
        text = self.path.read_bytes() if self.path.exists() else b""
        if text and not text.endswith(b"\n"):
            self._replace(text[: text.rfind(b"\n") + 1])

    def _replace(self, content: bytes) -> None:
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            partial.write_bytes(content)
            os.replace(partial, self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from error
