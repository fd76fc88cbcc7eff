"""Servers that speak OpenAI's chat protocol: vLLM, SGLang and most vendors of open omni models.

Several of them drop the sound that lies in a video, without a word. The sound is therefore sent as
a second part, a WAV file, unless the server is known to take it from the video.
"""

import asyncio
import base64
import io
import os
import time
import wave
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from flowportrait import media
from flowportrait.config import Frozen
from flowportrait.errors import ConfigError, JudgeError, require
from flowportrait.files import JsonObject
from flowportrait.scoring.judges.backends import (
    Answer,
    Digit,
    Estimate,
    Finish,
    Question,
    Usage,
    Video,
    digits_of,
    probability,
    text_tokens,
    unavailable,
)
from flowportrait.scoring.judges.backends.wire import (
    Count,
    IfReadable,
    Text,
    Wire,
    failure,
    json_object,
    parsed,
    raise_reported,
    redirected,
)
from flowportrait.sound import SPEECH_HZ

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "content_filter": "blocked",
}
_KEPT_PAYLOADS = 16
_HINT = "check the key, the address and the model's name"


class _TextPart(Wire):
    type: Text
    text: Text = ""
    thinking: Annotated[Text | None, IfReadable] = None


class _Message(Wire):
    content: Text | list[_TextPart] | None = None
    refusal: Annotated[Text | None, IfReadable] = None
    reasoning_content: Annotated[Text | None, IfReadable] = None
    reasoning: Annotated[Text | None, IfReadable] = None

    @property
    def text(self) -> str:
        """The text of the reply; some servers send it in parts, thinking among them."""
        if isinstance(self.content, list):
            return "".join(
                part.text for part in self.content if part.type in ("text", "output_text")
            )
        return self.content or ""

    @property
    def thoughts(self) -> str:
        """Reasoning that is sent apart from the text."""
        parts = self.content if isinstance(self.content, list) else []
        return (
            self.reasoning_content
            or self.reasoning
            or "".join(part.thinking or "" for part in parts)
        )


class _TokenLogprob(Wire):
    token: Text
    logprob: float


class _ChosenToken(_TokenLogprob):
    top_logprobs: list[_TokenLogprob] = []


class _ChoiceLogprobs(Wire):
    content: list[_ChosenToken] | None = None


class _Choice(Wire):
    message: _Message
    finish_reason: Text | None = None
    logprobs: Annotated[_ChoiceLogprobs | None, IfReadable] = None


class _PromptDetails(Wire):
    audio_tokens: Count
    video_tokens: Count


class _CompletionUsage(Wire):
    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: Annotated[_PromptDetails | None, IfReadable] = None


class _Completion(Wire):
    choices: list[_Choice]
    model: Text | None = None
    usage: Annotated[_CompletionUsage | None, IfReadable] = None


class OpenAICompatible:
    """A model behind /v1/chat/completions that takes video and sound."""

    class Config(Frozen):
        """`model` and `base_url` have no default: there is no such server at OpenAI."""

        model: str = Field(default="", description="model name on the server")
        base_url: str = Field(default="", description="address of the server, including /v1")
        api_key_env: str = Field(
            default="OPENAI_API_KEY", description="environment variable with the key, or unset"
        )
        sound: Literal["wav", "in-video"] = Field(
            default="wav",
            description=(
                "wav: a separate content part; in-video: mm_processor_kwargs.use_audio_in_video"
            ),
        )
        audio_part: Literal["input_audio", "audio_url"] = Field(
            default="input_audio", description="type of the sound's content part"
        )
        video_part: Literal["video_url", "input_video"] = Field(
            default="video_url",
            description="type of the video's content part; llama.cpp's server takes input_video",
        )
        processor_fps: bool = Field(
            default=True,
            description="also send fps to the model's processor; Qwen's needs it for timestamps",
        )
        fps: float | None = Field(
            default=24.0,
            gt=0,
            description="sent in vLLM's media_io_kwargs and mm_processor_kwargs; None: not sent",
        )
        extra_body: JsonObject = Field(
            default={}, description="further fields of the request; they override the others"
        )
        temperature: float | None = Field(
            default=0.0, description="Unstated in the paper; None: the server's default"
        )
        seed: int | None = None
        max_output_tokens: int = Field(default=8192, ge=1)
        logprobs: bool = Field(
            default=False, description="request token probabilities, for expected scores"
        )
        tokens_per_frame: int = Field(
            default=130, ge=1, description="for cost estimates; depends on model and frame size"
        )
        tokens_per_audio_s: int = Field(default=25, ge=0, description="for cost estimates")
        expected_output_tokens: int = Field(
            default=1000, ge=1, description="for cost estimates: reasoning and reply"
        )

    version = 1
    keeps_answers = counts_tokens = True

    def __init__(self, config: Config):
        for key in ("model", "base_url"):
            if not getattr(config, key):
                raise ConfigError(
                    f"judge.backend.{key}: missing; give the server's, such as --set"
                    f" judge.backend.{key}=..."
                )
        self.config = config
        self.model, self.fps = config.model, config.fps

    def identity(self) -> JsonObject:
        """Model, sampling and how video and sound are sent; not the address, which may change."""
        keys = {
            "model",
            "sound",
            "fps",
            "extra_body",
            "temperature",
            "seed",
            "max_output_tokens",
            "logprobs",
        }
        # Settings that came later count only where they differ: answers stored before are found
        # again.
        later = {"video_part": "video_url", "processor_fps": True}
        keys |= {name for name, usual in later.items() if getattr(self.config, name) != usual}
        return {"type": "openai", "version": self.version, **self.config.model_dump(include=keys)}

    def estimate(self, question: Question) -> Estimate:
        """Estimates tokens by the settings; frames as sampled by vLLM."""
        prompt = text_tokens(question.text)
        fps = question.fps or self.fps
        for video in question.videos:
            frames = min(video.facts.num_frames, video.facts.duration_s * fps if fps else 32)
            sound_s = video.facts.duration_s if video.facts.has_sound else 0.0
            prompt += round(
                frames * self.config.tokens_per_frame + sound_s * self.config.tokens_per_audio_s
            )
        return Estimate(prompt, self.config.expected_output_tokens)

    async def __aenter__(self) -> Self:
        self._sdk = require("openai", extra="judges")
        self._client = self._sdk.AsyncOpenAI(
            api_key=os.environ.get(self.config.api_key_env, "none"),
            base_url=self.config.base_url,
            max_retries=0,
            timeout=None,
            http_client=self._sdk.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def ask(self, question: Question) -> Answer:
        """One chat completion."""
        started_s = time.monotonic()
        content = [part for piece in question.parts for part in await self._parts(piece)]
        try:
            # The raw response: the SDK builds its objects without checking what they are made of.
            raw = await self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": content}],
                **self._settings(question),
            )
        except self._sdk.APIStatusError as error:
            raise _named(error) from error
        except self._sdk.APIError as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise unavailable(f"{type(error).__name__}: {error}{cause}") from error
        headers = raw.http_response.headers
        body = json_object(raw.http_response.text, headers.get("content-type", ""))
        return _answer(body, retry_after_s(headers), time.monotonic() - started_s)

    def _settings(self, question: Question) -> JsonObject:
        config = self.config
        fps = question.fps or self.fps
        body: JsonObject = {}
        if fps:
            body["media_io_kwargs"] = {"video": {"fps": fps, "num_frames": -1}}
        if fps and config.processor_fps:
            body["mm_processor_kwargs"] = {"fps": fps}
        if config.sound == "in-video":
            body.setdefault("mm_processor_kwargs", {})["use_audio_in_video"] = True
        settings = {"max_tokens": config.max_output_tokens, "extra_body": body | config.extra_body}
        if config.temperature is not None:
            settings["temperature"] = config.temperature
        if config.seed is not None:
            settings["seed"] = config.seed + question.repeat
        if config.logprobs:
            settings |= {"logprobs": True, "top_logprobs": 10}
        return settings

    async def _parts(self, piece: str | Video) -> list[JsonObject]:
        if isinstance(piece, str):
            return [{"type": "text", "text": piece}]
        with_wav = self.config.sound == "wav" and piece.facts.has_sound
        video, sound = await asyncio.to_thread(_payload, piece.path, piece.sha256, with_wav)
        parts: list[JsonObject] = [
            {"type": "video_url", "video_url": {"url": f"data:{piece.mime_type};base64,{video}"}}
        ]
        if self.config.video_part == "input_video":
            parts = [
                {
                    "type": "input_video",
                    "input_video": {"data": video, "format": piece.mime_type.split("/")[1]},
                }
            ]
        if with_wav and self.config.audio_part == "input_audio":
            parts.append({"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}})
        elif with_wav:
            parts.append(
                {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{sound}"}}
            )
        return parts


@lru_cache(maxsize=_KEPT_PAYLOADS)
def _payload(path: Path, sha256: str, with_wav: bool) -> tuple[str, str]:
    """The video and its sound in base64; kept for a while, because three aspects ask about the same
    file.
    """
    sound = _wav(path) if with_wav else b""
    return base64.b64encode(path.read_bytes()).decode(), base64.b64encode(sound).decode()


def _wav(path: Path) -> bytes:
    """The sound of a video as 16-bit mono WAV at 16 kHz."""
    sound = media.read_audio(path, sample_rate=SPEECH_HZ, min_s=0.0)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SPEECH_HZ)
        file.writeframes((np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _named(error: Any) -> JudgeError:
    """The SDK's error by what can be done about it."""
    headers = error.response.headers
    if 300 <= error.status_code < 400:
        return redirected(error.status_code, headers.get("location", "nowhere"))
    word = error.message.removeprefix(f"Error code: {error.status_code} - ")
    return failure(error.status_code, f"{error.status_code} {word}", retry_after_s(headers), _HINT)


def retry_after_s(headers: Any) -> float | None:
    """Seconds by the headers retry-after-ms and retry-after (seconds or a date)."""
    milliseconds = headers.get("retry-after-ms", "")
    after = headers.get("retry-after", "")
    if milliseconds.replace(".", "", 1).isdecimal():
        return float(milliseconds) / 1000
    if after.replace(".", "", 1).isdecimal():
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _answer(body: JsonObject, retry_s: float | None, latency_s: float) -> Answer:
    """The answer in a body of status 200. Raises JudgeError when it holds none."""
    raise_reported(body, retry_s, _HINT)
    for choice in body["choices"] if isinstance(body.get("choices"), list) else []:
        if isinstance(choice, dict):
            raise_reported(choice, retry_s, _HINT)
    completion = parsed(_Completion, body, "a chat server")
    usage, about = (
        _usage(completion.usage),
        {
            "model": completion.model or "",
            "latency_s": latency_s,
        },
    )
    if not completion.choices:
        if usage.prompt is None:
            raise unavailable("an answer without a choice and without token counts")
        return Answer(finish="other", finish_detail="no choice", usage=usage, **about)
    choice = completion.choices[0]
    if choice.message.refusal:
        return Answer(
            text=choice.message.refusal,
            finish="blocked",
            finish_detail="refusal",
            usage=usage,
            **about,
        )
    word = choice.finish_reason or ""
    return Answer(
        text=choice.message.text,
        thoughts=choice.message.thoughts,
        finish=_FINISHES.get(word, "other"),
        finish_detail=word,
        usage=usage,
        digits=_digits(choice.logprobs),
        **about,
    )


def _usage(usage: _CompletionUsage | None) -> Usage:
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details or _PromptDetails()
    return Usage(
        prompt=usage.prompt_tokens,
        output=usage.completion_tokens,
        audio=details.audio_tokens,
        video=details.video_tokens,
    )


def _digits(logprobs: _ChoiceLogprobs | None) -> list[Digit]:
    tokens = logprobs.content if logprobs and logprobs.content else []
    return digits_of(
        [(t.token, {top.token: probability(top.logprob) for top in t.top_logprobs}) for t in tokens]
    )
