"""The file of scores or of verdicts: one JSON line each, shared by all runs that write into it, at
the same time or one after another.

A line is appended as soon as it is known, so that a kill costs at most the one in work. When a run
ends it puts its lines in order and leaves those of other runs where they are. Everything that
writes holds the file's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from flowportrait.errors import DataError
from flowportrait.files import append_line, replace
from flowportrait.records import Score, Verdict, read_jsonl

Key = tuple[str, str, int]
"""What was looked at, by what, which repeat."""
_HEAD = b'{"schema_version":1,"reason":"'
"""What lines of both kinds begin with; all that tells a torn first line."""
R = TypeVar("R", Score, Verdict)


def key_of(record: Score | Verdict) -> Key:
    """The key of a score or verdict."""
    clips = record.clip if isinstance(record, Score) else both(record.a, record.b)
    return clips, _asked(record), record.repeat


def both(a: str, b: str) -> str:
    """The ids of two clips in one."""
    return f"{a}\n{b}"


def _asked(record: Score | Verdict) -> str:
    if isinstance(record, Score):
        return record.scorer
    return record.system


class RecordFile(Generic[R]):
    """Records at `path` by key; `fingerprints` of those asked, whose settings must be those that
    the file knows.
    """

    def __init__(
        self,
        path: Path,
        kind: type[R],
        fingerprints: Mapping[str, str],
    ):
        self.path = path
        self.kind = kind
        self.fingerprints = fingerprints
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f".{path.name}.lock"))
            with self._lock:
                self._close_torn_line()
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error
        self.found = self.read()
        """What was there before this run."""

    def read(self) -> dict[Key, R]:
        """The file as it is now, the last line of each key. Raises DataError: somebody asked had
        other settings.
        """
        if not self.path.exists():
            return {}
        with self._lock:
            records = list(read_jsonl(self.path, self.kind))
        for record in records:
            asked = _asked(record)
            if self.fingerprints.get(asked, record.fingerprint) != record.fingerprint:
                raise DataError(
                    f"{self.path}: holds {self.kind.__name__.lower()}s of {asked} with other"
                    " settings, model or prompts; give another -o"
                )
        return {key_of(record): record for record in records}

    def append(self, record: R) -> None:
        """Adds one."""
        with self._lock:
            append_line(self.path, record.model_dump_json().encode() + b"\n")

    def put_in_order(self, known: Mapping[Key, R], wanted: Iterable[Key]) -> None:
        """Each of the `known` records once, the `wanted` last and in their order, behind those that
        other runs have written since; what was found and is no longer known goes.
        """
        wanted = list(wanted)
        asked_for = set(wanted)
        with self._lock:
            now = self.read()
            others = {
                key: r for key, r in now.items() if key not in known and r != self.found.get(key)
            }
            ordered = [r for key, r in {**others, **known}.items() if key not in asked_for]
            ordered += [known[key] for key in wanted if key in known]
            self._replace("".join(record.model_dump_json() + "\n" for record in ordered).encode())

    def _close_torn_line(self) -> None:
        """Takes off what a kill has left of a line. Raises DataError, and touches nothing, if the
        file is another.
        """
        text = self.path.read_bytes() if self.path.exists() else b""
        if not text or text.endswith(b"\n"):
            return
        whole = text.rfind(b"\n") + 1
        torn = text[whole:]
        if self._is_record(torn):
            self._replace(text + b"\n")
            return
        first = text[: text.find(b"\n")]
        if whole:
            ours = self._is_record(first) and torn.startswith(b"{")
        else:
            ours = torn.startswith(_HEAD[: len(torn)])
        self._require_ours(ours)
        self._replace(text[:whole])

    def _require_ours(self, ours: bool) -> None:
        """Raises DataError for a file of something else, which is left as it is."""
        if not ours:
            kind = self.kind.__name__
            raise DataError(
                f"{self.path}: not a JSON Lines file of {kind}, and left unchanged; give another -o"
            )

    def _is_record(self, line: bytes) -> bool:
        """Whether a line is whole and of this kind."""
        try:
            self.kind.model_validate_json(line)
        except ValidationError:
            return False
        return True

    def _replace(self, content: bytes) -> None:
        """Writes the file anew. Raises DataError where that cannot be."""
        try:
            replace(self.path, content)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from error
