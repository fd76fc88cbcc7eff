"""How a simulated judge goes wrong: which calls are hit, and what is then sent instead of a good
answer.

Every kind was seen of a real server, proxy or model; `JudgeSim` draws them, tests mix them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from pydantic import Field

from flowportrait.config import Frozen
from flowportrait.files import JsonObject

CallFault = Literal[
    "rate-limit", "overloaded", "server-error", "hang", "cut", "bad-request", "file-failed"
]
"""There is no answer."""
TextFault = Literal[
    "truncated", "thought-away", "single-quotes", "fenced", "wrong-range", "fraction", "two-scores",
    "nested-score", "double-key", "quoted", "prose", "refusal", "blocked",
]  # fmt: skip
"""The model says something else."""
ModelFault = Literal["replaced", "deaf", "blind"]
BodyFault = Literal[
    "half-json", "web-page", "login", "empty-body", "array", "null", "string", "nested-deeply",
    "quota-in-200", "error-in-200", "no-choice", "no-message", "content-dict", "content-parts",
    "half-character", "bad-usage", "bad-logprobs",
]  # fmt: skip
"""The status says that all is well, and the body is no answer, or one of an unusual shape."""
FaultKind = Literal[CallFault, TextFault, ModelFault, BodyFault]
BODY_FAULTS: tuple[BodyFault, ...] = get_args(BodyFault)

Sent = tuple[int, Any, dict[str, str]]
"""Status, body (bytes, or what is sent as JSON) and further headers."""


class Fault(Frozen):
    """One kind of fault, in all calls or in calls `first` to `last`, counted from 0."""

    kind: FaultKind
    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of these calls, among those that no earlier fault has taken",
    )
    first: int | None = Field(default=None, ge=0)
    last: int | None = Field(default=None, ge=0)
    retry_after_s: float = Field(
        default=1.0, ge=0, description="wait that a rate-limit reply asks for"
    )

    def hits(self, call: int, luck: float) -> bool:
        """Whether this call is hit; `luck` is uniform in [0, 1)."""
        begun = self.first is None or call >= self.first
        ended = self.last is not None and call > self.last
        return begun and not ended and luck < self.share


class Faults(Frozen):
    """Behaviour of the simulated judge."""

    seed: int = 0
    latency_s: float = Field(default=0.0, ge=0, description="delay before every reply")
    hang_s: float = Field(default=3600.0, ge=0, description="duration of a hanging call")
    processing_s: float = Field(
        default=0.0, ge=0, description="how long an uploaded file stays in the state PROCESSING"
    )
    model: str = Field(
        default="", description="model name in the replies; empty: the requested one"
    )
    modalities: bool = Field(
        default=True, description="report token counts by modality, as Gemini does"
    )
    dialect: Literal["vllm", "llama.cpp"] = Field(
        default="vllm",
        description=(
            "server to imitate within OpenAI's protocol: accepted content parts and token counts"
        ),
    )
    fault: list[Fault] = []


def spoilt(values: dict[str, int | str], kind: FaultKind | None) -> tuple[str, int | None]:
    """The reply's text, and where its first value stands when it is a good one."""
    thinking = (
        '<think>\nThe lips close on the stops, {mostly}. A first thought: {"score": 9}.\n</think>\n'
    )
    key = next(iter(values))
    if kind == "wrong-range":
        values = values | {key: 0}
    if kind == "fraction":
        values = values | {key: 3.5}  # type: ignore[dict-item]
    good = json.dumps(values)
    texts = {
        "single-quotes": thinking + str(values),
        "fenced": f"{thinking}```json\n{good}\n```",
        "truncated": thinking[:40],
        "thought-away": "",
        "two-scores": f"{thinking}{json.dumps({key: 2})}\n{json.dumps({key: 4})}",
        "nested-score": thinking + json.dumps({key: 2, "rubric": {key: 5}}),
        "double-key": f'{thinking}{{"{key}": 2, "{key}": 4}}',
        "quoted": f"I was told to end in {json.dumps({key: 5})}, but I cannot rate this.",
        "prose": "The video is rather good, I would say between 3 and 4.",
        "refusal": "I'm sorry, but I can't rate people in videos.",
        "blocked": "",
        "half-character": f"\ud83d {thinking}{good}",
    }
    text = texts.get(kind or "", thinking + good)
    return text, None if kind in texts else len(thinking) + good.index(":") + 2


def odd_body(
    kind: BodyFault, content: Mapping[str, Any], protocol: Literal["openai", "gemini"]
) -> Sent:
    """A body that is sent instead of the good `content` of this protocol."""
    body = copy.deepcopy(dict(content))
    if kind == "login":
        return (
            302,
            b"",
            {"Location": "https://login.example.org/sign-in", "Content-Type": "text/html"},
        )
    if kind == "web-page":
        return (
            200,
            b"<!doctype html><html><title>Sign in</title></html>",
            {"Content-Type": "text/html"},
        )
    return _spoiled_body(kind, content, protocol, body)


def _spoiled_body(
    kind: BodyFault, content: Mapping[str, Any], protocol: Literal["openai", "gemini"], body
) -> Sent:
    """A reply with this fault in it: status, body and headers."""
    if kind == "nested-deeply":
        return 200, b'{"choices": ' + 100_000 * b"[", {}
    if kind in _WHOLE:
        return 200, _WHOLE[kind](json.dumps(content)), {}
    if kind == "bad-usage":
        usage = "usage" if protocol == "openai" else "usageMetadata"
        return 200, body | {usage: {"prompt_tokens": "many", "promptTokenCount": -1}}, {}
    if protocol == "openai":
        _spoil_openai(kind, body)
    else:
        _spoil_gemini(kind, body)
    return 200, body, {}


_QUOTA = {"error": {"message": "quota exhausted", "code": 429}}
_WHOLE: Mapping[str, Callable[[str], bytes]] = {
    "half-json": lambda good: good[: len(good) // 2].encode(),
    "empty-body": lambda good: b"",
    "array": lambda good: f"[{good}]".encode(),
    "null": lambda good: b"null",
    "string": lambda good: json.dumps(good).encode(),
    "quota-in-200": lambda good: json.dumps(_QUOTA).encode(),
    "error-in-200": lambda good: b'{"error": "upstream went away"}',
}


def _spoil_openai(kind: BodyFault, body: JsonObject) -> None:
    """Puts a fault into a reply of OpenAI's protocol, in place."""
    choice = body["choices"][0]
    message = choice["message"]
    if kind == "no-choice":
        body.update(choices=[], usage=None)
    elif kind == "no-message":
        del choice["message"]
    elif kind == "content-dict":
        message["content"] = {"text": message["content"]}
    elif kind == "content-parts":
        message["content"] = [
            {"type": "text", "text": part} for part in message["content"].partition("</think>")
        ]
    elif kind == "bad-logprobs":
        choice["logprobs"] = {"content": [{"token": 4, "logprob": "high", "top_logprobs": None}]}


def _spoil_gemini(kind: BodyFault, body: JsonObject) -> None:
    """Puts a fault into a reply of Gemini's protocol, in place."""
    candidate = body["candidates"][0]
    if kind == "no-choice":
        body.clear()
    elif kind == "no-message":
        body["candidates"] = [None]
    elif kind == "content-dict":
        candidate["content"] = candidate["content"]["parts"]
    elif kind == "content-parts":
        said = candidate["content"]["parts"][0]["text"]
        candidate["content"]["parts"] = [{"text": part} for part in said.partition("</think>")]
    elif kind == "bad-logprobs":
        candidate["logprobsResult"] = {"chosenCandidates": [{"token": 4, "logProbability": "high"}]}
