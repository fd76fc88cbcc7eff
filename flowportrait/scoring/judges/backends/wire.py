"""Replies of judge servers, read strictly: a reply of an unexpected shape is no answer, whatever
its status is.

Proxies, login pages and overloaded servers answer with status 200 and a body that is no answer at
all. Both protocols therefore read the raw body here: `json_object` gives an object or raises,
`raise_reported` finds an error that lies within it, `parsed` checks the fields that are read. All
of them raise errors of `flowportrait.errors` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator

from flowportrait.errors import JudgeError, JudgeRefused
from flowportrait.files import JsonObject
from flowportrait.scoring.judges.backends import unavailable

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_STOPS_THE_RUN = (401, 403, 404)
_BUSY_WORDS = (
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "rate_limit",
    "Throttling",
    "insufficient_quota",
)
_EXCERPT_CHARACTERS = 80

M = TypeVar("M", bound="Wire")


class Wire(BaseModel):
    """Part of a server's reply: unknown fields are left alone, known ones must be of their type."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


def _or_none(value: Any, check: Any) -> Any:
    """The value as `check` reads it; None for what it refuses."""
    try:
        return check(value)
    except ValidationError:
        return None


def _without_surrogates(value: Any) -> Any:
    # JSON can name half of a character, which no file can hold.
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value


IfReadable = WrapValidator(_or_none)
"""For what may be missing without harm, such as token counts: None where it is not of its type."""
Text = Annotated[str, BeforeValidator(_without_surrogates)]
Count = Annotated[int | None, Field(default=None, ge=0), IfReadable]
"""A number of tokens; None where the server gives none or nonsense."""


def json_object(body: str, content_type: str = "") -> JsonObject:
    """The JSON object in `body`. Raises JudgeUnavailable that says what is there instead."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        if not body.strip():
            raise unavailable("an empty reply with status 200") from error
        page = "<html" in body[:2000].lower() or "html" in content_type
        kind = "a web page, as of a proxy or a login," if page else "no JSON"
        raise unavailable(f"{kind} with status 200: {_excerpt(body)}") from error
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(
            type(value), type(value).__name__
        )
        raise unavailable(f"{kind} with status 200 where an answer is due: {_excerpt(body)}")
    return value


def raise_reported(body: Mapping[str, Any], retry_after_s: float | None, hint: str) -> None:
    """Raises the error that a body of status 200 reports, `{"error": {...}}` or `{"object":
    "error", ...}`.
    """
    found = body.get("error")
    if found is None and body.get("object") == "error":
        found = body
    if not found:
        return
    details = found if isinstance(found, Mapping) else {"message": str(found)}
    code = details.get("code")
    word = details.get("status") or details.get("type") or ""
    message = f"{code or ''} {word} {details.get('message') or ''}"
    status = _status(code)
    if status is None and any(name in f"{code} {word}" for name in _BUSY_WORDS):
        status = 429
    raise failure(status, f"an error with status 200: {message}", retry_after_s, hint)


def _status(code: Any) -> int | None:
    """An HTTP status by the number or the digits that a server gives as `code`."""
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        return int(code)
    if isinstance(code, int) and not isinstance(code, bool):
        return code
    return None


def failure(status: int | None, message: str, retry_after_s: float | None, hint: str) -> JudgeError:
    """An error by what can be done about it: ask again, stop the run with `hint`, or give this
    question up.

    What has no known status is asked again: a server that cannot name its error seldom means the
    question.
    """
    message = " ".join(message.split())
    if status in _STOPS_THE_RUN:
        return JudgeError(f"judge.backend: {message[:300]}; {hint}")
    if status is None or status in _BUSY or not 400 <= status < 500:
        return unavailable(message, retry_after_s)
    return JudgeRefused(message[:200])


def redirected(status: int, location: str) -> JudgeError:
    """The error for a redirect, which is never followed: the question and the key are for one
    server only.
    """
    return unavailable(
        f"{status} redirect to '{location}'; sign in there, or set judge.backend.base_url to the"
        " final address"
    )


def parsed(kind: type[M], body: Mapping[str, Any], where: str) -> M:
    """`body` as a reply of this kind. Raises JudgeUnavailable that names the field which is not as
    it should be.
    """
    try:
        return kind.model_validate(body)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise unavailable(f"not an answer of {where}: nested too deeply") from error
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the body"
        raise unavailable(
            f"not an answer of {where}: {field}: {first['msg']}; got {_excerpt(str(body))}"
        ) from error


def _excerpt(text: str) -> str:
    """The beginning of a text on one line, in quotes."""
    words = " ".join(text.split())
    return repr(
        words if len(words) <= _EXCERPT_CHARACTERS else words[: _EXCERPT_CHARACTERS - 3] + "..."
    )
