"""Replies of Gemini's API: their shape, and the answer, the ending and the costs they hold."""

from collections.abc import Awaitable, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from flowportrait.scoring.judges.backends import (
    Answer,
    Digit,
    Finish,
    Usage,
    digits_of,
    probability,
    unavailable,
)
from flowportrait.scoring.judges.backends.wire import (
    Count,
    IfReadable,
    Text,
    Wire,
    parsed,
    raise_reported,
)

TOKENS_PER_FRAME = {"low": 66, "medium": 258, "high": 258}


TOKENS_PER_AUDIO_S = 32


_LENGTH = ("MAX_TOKENS", "CONTINUATION")


_OTHER = (
    "OTHER",
    "FINISH_REASON_UNSPECIFIED",
    "MALFORMED_RESPONSE",
    "MALFORMED_FUNCTION_CALL",
    "LANGUAGE",
)


class _Camel(Wire):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class _Part(_Camel):
    text: Text | None = None
    thought: bool | None = None


class _Content(_Camel):
    parts: list[_Part] | None = None


class _Odds(_Camel):
    token: Text | None = None
    log_probability: float | None = None


class _TopCandidates(_Camel):
    candidates: list[_Odds] | None = None


class _LogprobsResult(_Camel):
    chosen_candidates: list[_Odds] | None = None
    top_candidates: list[_TopCandidates] | None = None


class _Candidate(_Camel):
    content: _Content | None = None
    finish_reason: Text | None = None
    logprobs_result: Annotated[_LogprobsResult | None, IfReadable] = None


class _Feedback(_Camel):
    block_reason: Text | None = None


class _Modality(_Camel):
    modality: Text
    token_count: Count


class _UsageMetadata(_Camel):
    prompt_token_count: Count
    candidates_token_count: Count
    thoughts_token_count: Count
    prompt_tokens_details: Annotated[list[_Modality] | None, IfReadable] = None


class _Response(_Camel):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    model_version: Text | None = None
    usage_metadata: Annotated[_UsageMetadata | None, IfReadable] = None


async def file_of(call: Awaitable[Any]) -> Any:
    """The Files API's description of a file. Raises JudgeUnavailable when that is no description of
    one.
    """
    try:
        return await call
    except ODD_BODY as error:
        raise unavailable(
            f"not an answer of the Files API: {type(error).__name__}: {error}"
        ) from error


def answer_of(body: Mapping[str, Any], latency_s: float) -> Answer:
    """The answer in a body of status 200. Raises JudgeError when it holds none."""
    raise_reported(body, retry_after_s(body), HINT)
    response = parsed(_Response, body, "the Gemini API")
    usage = _usage(response.usage_metadata)
    feedback = response.prompt_feedback
    if (
        not response.candidates
        and not (feedback and feedback.block_reason)
        and usage.prompt is None
    ):
        raise unavailable(
            f"an answer without a candidate and without token counts: {str(body)[:100]}"
        )
    finish, detail, parts, digits = _ending(response)
    return Answer(
        text="".join(part.text for part in parts if part.text and not part.thought),
        thoughts="".join(part.text for part in parts if part.text and part.thought),
        finish=finish,
        finish_detail=detail,
        digits=digits,
        latency_s=latency_s,
        model=(response.model_version or "").removeprefix("models/"),
        usage=usage,
    )


def _ending(response: _Response) -> tuple[Finish, str, list[_Part], list[Digit]]:
    """How the reply ended, the server's word for it, its parts and the token probabilities."""
    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason:
        return "blocked", feedback.block_reason, [], []
    if not response.candidates:
        return "other", "no candidate", [], []
    candidate = response.candidates[0]
    parts = []
    if candidate.content:
        parts = candidate.content.parts or []
    word = candidate.finish_reason or "FINISH_REASON_UNSPECIFIED"
    if word == "STOP":
        return "stop", word, parts, _digits(candidate.logprobs_result)
    finish: Finish = "length" if word in _LENGTH else "other" if word in _OTHER else "blocked"
    return finish, word, parts, []


def retry_after_s(details: Any) -> float | None:
    """The server's RetryInfo in the details of an error, in seconds: {"retryDelay": "23s"}."""
    error = {}
    if isinstance(details, Mapping):
        error = details.get("error", details)
    listed = []
    if isinstance(error, Mapping):
        listed = error.get("details")
    for detail in listed if isinstance(listed, list) else []:
        delay = ""
        if isinstance(detail, Mapping):
            delay = str(detail.get("retryDelay", ""))
        delay = delay.removesuffix("s")
        if delay.replace(".", "", 1).isdecimal():
            return float(delay)
    return None


def _usage(usage: _UsageMetadata | None) -> Usage:
    """Tokens by kind; 0 of what the service does not say."""
    if usage is None:
        return Usage()
    by_kind = {
        detail.modality: detail.token_count or 0 for detail in usage.prompt_tokens_details or []
    }
    return Usage(
        prompt=usage.prompt_token_count,
        output=usage.candidates_token_count or 0,
        thoughts=usage.thoughts_token_count or 0,
        video=by_kind.get("VIDEO", 0) if by_kind else None,
        audio=by_kind.get("AUDIO", 0) if by_kind else None,
    )


def _digits(logprobs: _LogprobsResult | None) -> list[Digit]:
    """The digits that were said, with the probabilities of what else could have been."""
    if logprobs is None or not logprobs.chosen_candidates:
        return []
    tops = logprobs.top_candidates or []
    alternatives = [
        {other.token or "": probability(other.log_probability) for other in top.candidates or []}
        for top in tops
    ]
    return digits_of(
        [(c.token or "", a) for c, a in zip(logprobs.chosen_candidates, alternatives, strict=False)]
    )


HINT = "check the key and the model's name"


ODD_BODY = (ValidationError, ValueError, KeyError, TypeError, AttributeError)
"""What the SDK raises when the Files API sends a body of another shape than it expects."""
