"""Requests and replies of the simulated judge in the words of both vendors."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flowportrait.files import JsonObject
from flowportrait.scoring.judges.backends import text_tokens

_CAMEL = re.compile("_([a-z])")


@dataclass
class SimRequest:
    """A request in either protocol: the media it shows and its question."""

    model: str
    text: str
    videos: list[tuple[bytes, float]] = field(default_factory=list)  # bytes, frames a second
    sounds: list[bytes] = field(default_factory=list)
    sound_in_video: bool = True
    frame_tokens: int = 258
    logprobs: bool = False


@dataclass
class SimReply:
    """An answer in either protocol."""

    model: str
    text: str
    finish: Literal["stop", "length", "blocked"]
    tokens: dict[str, int]
    score_at: int | None


class SimFailure(Exception):
    """An HTTP error to be sent."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None):
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


_LLAMA_FPS = 4.0


def read_openai(body: Mapping[str, Any], dialect: str) -> SimRequest:
    """A request in the words of OpenAI's protocol."""
    ask = SimRequest(
        body.get("model", ""),
        "",
        sound_in_video=False,
        frame_tokens=130,
        logprobs=bool(body.get("logprobs")),
    )
    processor = body.get("mm_processor_kwargs") or {}
    ask.sound_in_video = bool(processor.get("use_audio_in_video")) and dialect == "vllm"
    fps = (body.get("media_io_kwargs") or {}).get("video", {}).get("fps", 2.0)
    if dialect == "llama.cpp":
        fps = _LLAMA_FPS
    texts = []
    for part in (part for message in body["messages"] for part in message["content"]):
        if part["type"] == "text":
            texts.append(part["text"])
        elif part["type"] == "video_url" and dialect == "vllm":
            ask.videos.append((_from_data_url(part["video_url"]["url"]), fps))
        elif part["type"] == "input_audio":
            ask.sounds.append(base64.b64decode(part["input_audio"]["data"]))
        elif part["type"] == "audio_url" and dialect == "vllm":
            ask.sounds.append(_from_data_url(part["audio_url"]["url"]))
        elif part["type"] == "input_video" and dialect == "llama.cpp":
            ask.videos.append((base64.b64decode(part["input_video"]["data"]), fps))
        else:
            raise SimFailure(400, f"unsupported content[].type: {part['type']}")
    ask.text = "\n\n".join(texts)
    return ask


def _from_data_url(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


def _camel(value: Any) -> Any:
    """The same with keys in camelCase; either spelling is taken, as at Google, because the SDK
    sends both.
    """
    if isinstance(value, dict):
        return {
            _CAMEL.sub(lambda hit: hit.group(1).upper(), key): _camel(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_camel(item) for item in value]
    return value


def read_gemini(body: Mapping[str, Any], model: str, files: Mapping[str, JsonObject]) -> SimRequest:
    """A request in the words of Gemini's protocol."""
    settings = body.get("generationConfig", {})
    thinking = settings.get("thinkingConfig", {})
    if "thinkingLevel" in thinking and "thinkingBudget" in thinking:
        raise SimFailure(400, "Thinking level and thinking budget cannot be set together.")
    low = settings.get("mediaResolution") == "MEDIA_RESOLUTION_LOW"
    ask = SimRequest(
        model, "", frame_tokens=66 if low else 258, logprobs=bool(settings.get("responseLogprobs"))
    )
    texts = []
    for part in (part for content in body["contents"] for part in content["parts"]):
        fps = part.get("videoMetadata", {}).get("fps", 1.0)
        if "text" in part:
            texts.append(part["text"])
        elif "inlineData" in part:
            # The SDK writes URL-safe base64.
            ask.videos.append((base64.urlsafe_b64decode(part["inlineData"]["data"]), fps))
        elif "fileData" in part:
            name = "files/" + part["fileData"]["fileUri"].rsplit("/", 1)[-1]
            if name not in files:
                raise SimFailure(
                    403,
                    f"You do not have permission to access the File {name} or it may not exist.",
                )
            ask.videos.append((files[name]["bytes"], fps))
    ask.text = "\n\n".join(texts)
    return ask


def say_openai(said: SimReply, ask: SimRequest, modalities: bool) -> JsonObject:
    """A reply in the words of OpenAI's protocol."""
    prompt = sum(said.tokens.values())
    output = text_tokens(said.text)
    usage: JsonObject = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    if modalities:
        usage["prompt_tokens_details"] = {"audio_tokens": said.tokens["AUDIO"], "cached_tokens": 0}
    choice: JsonObject = {
        "index": 0,
        "message": {"role": "assistant", "content": said.text},
        "finish_reason": {"blocked": "content_filter"}.get(said.finish, said.finish),
    }
    if ask.logprobs and said.score_at is not None:
        before, digit, after = (
            said.text[: said.score_at],
            said.text[said.score_at],
            said.text[said.score_at + 1 :],
        )
        choice["logprobs"] = {
            "content": [{**_token(text, digit), "bytes": None} for text in (before, digit, after)],
            "refusal": None,
        }
    return {
        "id": "chatcmpl-sim",
        "object": "chat.completion",
        "created": 0,
        "model": said.model,
        "choices": [choice],
        "usage": usage,
    }


def _token(text: str, digit: str) -> JsonObject:
    """A token with its alternatives: the score with 0.8, the next lower one (5 below 1) with
    0.2.
    """
    tops = [(text, -0.001)]
    if text == digit and digit.isdecimal():
        tops = [(digit, -0.22314), (str((int(digit) + 3) % 5 + 1), -1.60944)]
    return {
        "token": text,
        "logprob": tops[0][1],
        "top_logprobs": [
            {"token": token, "logprob": logprob, "bytes": None} for token, logprob in tops
        ],
    }


def say_gemini(said: SimReply, ask: SimRequest, modalities: bool) -> JsonObject:
    """A reply in the words of Gemini's protocol."""
    prompt = sum(said.tokens.values())
    output = text_tokens(said.text)
    usage: JsonObject = {"promptTokenCount": prompt, "totalTokenCount": prompt + output}
    if modalities:
        usage["promptTokensDetails"] = [
            {"modality": k, "tokenCount": n} for k, n in said.tokens.items() if n
        ]
    if said.finish == "blocked":
        feedback = {"blockReason": "PROHIBITED_CONTENT"}
        return {"promptFeedback": feedback, "usageMetadata": usage, "modelVersion": said.model}
    usage["candidatesTokenCount"] = output
    candidate: JsonObject = {
        "index": 0,
        "finishReason": "MAX_TOKENS" if said.finish == "length" else "STOP",
    }
    # A model whose thinking ate all tokens answers with a candidate that has no content.
    if said.text:
        candidate["content"] = {"role": "model", "parts": [{"text": said.text}]}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": said.model}


def failure_body(path: str, error: SimFailure) -> tuple[JsonObject, dict[str, str]]:
    """An error in the words of the protocol that was spoken, and its headers."""
    if "/chat/" in path:
        headers = {} if error.retry_after_s is None else {"Retry-After": f"{error.retry_after_s:g}"}
        return {"error": {"message": str(error), "type": "error", "code": error.status}}, headers
    status = {
        429: "RESOURCE_EXHAUSTED",
        503: "UNAVAILABLE",
        500: "INTERNAL",
        404: "NOT_FOUND",
        403: "PERMISSION_DENIED",
    }
    details = []
    if error.retry_after_s is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        details.append({"@type": kind, "retryDelay": f"{error.retry_after_s:g}s"})
    word = status.get(error.status, "INVALID_ARGUMENT")
    return {
        "error": {"code": error.status, "message": str(error), "status": word, "details": details}
    }, {}
