"""The answer store: every raw answer that was paid for, one JSON line each, found by what was asked
of whom.

The file is only ever appended to, one line at a time, so a killed run leaves at most a torn last
line, which is skipped. Two stores are merged with `cat`. Reading of replies is kept apart: a better
parser costs nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from flowportrait.errors import DataError
from flowportrait.files import append_line
from flowportrait.records import Record
from flowportrait.scoring import digest_of
from flowportrait.scoring.judges.backends import Answer, Backend, Question

_KEY_START = len('{"key":"')
_KEY_LENGTH = 64


class StoredAnswer(Record):
    """An answer with its question. The key comes first in the line, so that it is found without
    parsing.
    """

    key: str = Field(
        description=(
            "digest of the question and of everything about the judge that changes the answer"
        )
    )
    schema_version: Literal[1] = 1
    question: str = Field(description="digest of the question alone")
    topic: str = ""
    videos: list[str] = Field(default=[], description="sha256 of the video files shown")
    judge: dict = Field(default={}, description="the settings of the backend that answered")
    answer: Answer


def answer_key(question: Question, backend: Backend) -> str:
    """The key of the stored answer to `question` by `backend`."""
    return digest_of(question.digest, backend.identity())


class AnswerStore:
    """Answers by key; only their places in the file are held in memory. The file need not exist
    yet.
    """

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        if path.exists():
            self._scan()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Answer | None:
        """The answer stored under `key`."""
        place = self._places.get(key)
        if place is None:
            return None
        return self._read(*place).answer

    def put(self, question: Question, backend: Backend, answer: Answer) -> str:
        """Stores an answer and gives its key; it is on its way to the disk when this returns."""
        stored = StoredAnswer(
            key=answer_key(question, backend),
            question=question.digest,
            topic=question.topic,
            videos=[video.sha256 for video in question.videos],
            judge=backend.identity(),
            answer=answer,
        )
        line = stored.model_dump_json().encode() + b"\n"
        end = append_line(self.path, line)
        self._places[stored.key] = (end - len(line), len(line))
        return stored.key

    def all(self) -> Iterator[StoredAnswer]:
        """Every stored answer, in the order of the file."""
        for start, length in sorted(self._places.values()):
            yield self._read(start, length)

    def _scan(self) -> None:
        """Notes where in the file each answer is; what a killed process tore is passed over."""
        try:
            with self.path.open("rb") as file:
                start = 0
                for line in file:
                    key = line[_KEY_START : _KEY_START + _KEY_LENGTH].decode("ascii", "replace")
                    # The last answer counts; a line without its end was torn by a kill and its call
                    # is made again.
                    if line.startswith(b'{"key":"') and line.endswith(b"}\n"):
                        self._places[key] = (start, len(line))
                    start += len(line)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read as a file of answers: {error.strerror}"
            ) from error

    def _read(self, start: int, length: int) -> StoredAnswer:
        """The answer at this place. Raises DataError for one that is damaged."""
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(length)
        try:
            return StoredAnswer.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise DataError(
                f"{self.path}: invalid answer at byte {start}: {first['msg']}; remove that line"
            ) from error
