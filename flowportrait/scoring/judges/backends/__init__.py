"""Judge backends: one question in, one raw answer out. What the answer is worth is decided
elsewhere.

A backend never retries and never invents: it raises JudgeUnavailable when asking again may help,
JudgeRefused when this question will never be answered, JudgeError when no question will. A reply
that was blocked or cut off is an `Answer` whose `finish` says so.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import Field

from flowportrait.config import Frozen, validate
from flowportrait.errors import JudgeUnavailable
from flowportrait.files import JsonObject, file_digest
from flowportrait.media import Clip, Facts
from flowportrait.records import Record
from flowportrait.registry import JUDGE_BACKENDS
from flowportrait.scoring import digest_of

DEFAULT_BACKEND = "gemini"

_SPECIAL_TOKEN = re.compile(r"<\|[^|]*\|>|</s>")
_LONGEST_TAIL = 200
_MIME_TYPES = {
    ".webm": "video/webm", ".mov": "video/quicktime", ".mkv": "video/x-matroska",
    ".avi": "video/avi", ".mpg": "video/mpeg", ".mpeg": "video/mpeg", ".ts": "video/mp2t",
    ".mts": "video/mp2t", ".flv": "video/x-flv", ".wmv": "video/wmv", ".3gp": "video/3gpp",
}  # fmt: skip

Finish = Literal["stop", "length", "blocked", "other"]


@dataclass(frozen=True)
class Video:
    """A video file as part of a question."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """sha256 of the file, including sound."""
        return file_digest(self.path)

    @property
    def mime_type(self) -> str:
        """MIME type, by the file's suffix."""
        return _MIME_TYPES.get(self.path.suffix.lower(), "video/mp4")

    @cached_property
    def facts(self) -> Facts:
        """Length, rate and whether there is sound. Raises MediaError."""
        return Clip(self.path).facts


@dataclass(frozen=True)
class Question:
    """Texts and videos in the order in which they are shown. `repeat` tells independent askings
    apart.
    """

    parts: tuple[str | Video, ...]
    topic: str = ""
    repeat: int = 0
    fps: float | None = None  # None: as the backend is set

    @cached_property
    def digest(self) -> str:
        """Digest of the question: texts, video bytes, repeat."""
        parts = [part if isinstance(part, str) else {"video": part.sha256} for part in self.parts]
        return digest_of(parts, self.repeat, self.fps)

    @property
    def text(self) -> str:
        """All texts, one below the other."""
        return "\n\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def videos(self) -> list[Video]:
        """All videos."""
        return [part for part in self.parts if isinstance(part, Video)]

    def followed_by(self, text: str) -> "Question":
        """The question with `text` appended."""
        return replace(self, parts=(*self.parts, text))


class Usage(Record):
    """Tokens of one call as the server counts them; None where it does not say."""

    prompt: int | None = None
    video: int | None = None
    audio: int | None = None
    output: int | None = None
    thoughts: int = 0

    @property
    def total(self) -> int:
        """Total number of billed tokens."""
        return (self.prompt or 0) + (self.output or 0) + self.thoughts


class Digit(Record):
    """A token near the end of the reply that is a digit, with the probabilities of the digits that
    could stand there.

    It is found again by what follows it: servers count characters, thinking and special tokens each
    in their own way.
    """

    digit: str
    tail: str = Field(
        description="the reply after it, without white space at the end and special tokens"
    )
    odds: dict[str, float] = Field(description="probability by digit")


class Answer(Record):
    """One raw reply, kept as it came."""

    schema_version: Literal[1] = 1
    text: str = ""
    thoughts: str = Field(
        default="", description="reasoning that the server sends apart from the text"
    )
    finish: Finish = "stop"
    finish_detail: str = Field(
        default="", description="the server's own word for how the reply ended"
    )
    model: str = Field(default="", description="which model says it answered")
    usage: Usage = Usage()
    digits: list[Digit] = []
    latency_s: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Tokens of one call before it is made."""

    prompt: int
    output: int

    @property
    def total(self) -> int:
        """Total tokens of question and answer."""
        return self.prompt + self.output


class Backend(Protocol):
    """A source of answers. Opened with `async with`, once for each event loop that uses it."""

    Config: ClassVar[type[Frozen]]
    version: ClassVar[int]  # of the adapter: raised whenever the same settings send something else
    keeps_answers: ClassVar[bool]  # whether what it answers is worth storing
    counts_tokens: ClassVar[bool]  # whether it can be checked by its token counts
    model: str
    fps: float | None  # frames a second that the model is shown; None where the server decides

    def __init__(self, config: Any):
        """Of a `Config`; nothing is imported or connected yet."""

    def identity(self) -> JsonObject:
        """The settings that change an answer; part of the key under which it is stored."""

    def estimate(self, question: Question) -> Estimate:
        """About how many tokens `ask` will use."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def ask(self, question: Question) -> Answer:
        """The answer to `question`. Raises JudgeUnavailable, JudgeRefused, JudgeError."""


def build_backend(spec: Mapping[str, Any]) -> Backend:
    """The backend of a `{type, ...}` table. Raises ConfigError before anything is connected."""
    settings = {key: value for key, value in spec.items() if key != "type"}
    kind = JUDGE_BACKENDS.load(str(spec.get("type", DEFAULT_BACKEND)))
    return kind(validate(kind.Config, settings, where="judge.backend"))


def text_tokens(text: str) -> int:
    """About how many tokens a text has: one for four characters, as vendors advise."""
    return len(text) // 4 + 1


def unavailable(what: str, retry_after_s: float | None = None) -> JudgeUnavailable:
    """The error for a call without answer, its cause in one line of at most 200 characters."""
    return JudgeUnavailable(" ".join(what.split())[:200], retry_after_s)


def probability(log_probability: float | None) -> float:
    """0 where there is none; servers write -9999 or nothing for "not at all". Never above 1."""
    if log_probability is not None:
        return math.exp(min(log_probability, 0.0))
    return 0.0


def digits_of(tokens: list[tuple[str, dict[str, float]]]) -> list[Digit]:
    """Single-digit tokens near the end, from (token, probability by alternative)."""
    digits = []
    tail = ""
    for token, alternatives in reversed(tokens):
        if _is_digit(token):
            odds: dict[str, float] = {}
            for other, probability in alternatives.items():
                if _is_digit(other):
                    odds[other.strip()] = odds.get(other.strip(), 0.0) + probability
            digits.append(Digit(digit=token.strip(), tail=tail.rstrip(), odds=odds))
        tail = _SPECIAL_TOKEN.sub("", token) + tail
        if len(tail) > _LONGEST_TAIL:
            break
    return digits


def _is_digit(token: str) -> bool:
    return len(token.strip()) == 1 and token.strip() in "0123456789"
