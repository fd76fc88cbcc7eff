"""Gemini through google-genai: the paper's judge. Sound lies within the video; frames are sampled
at `fps`.
"""

import asyncio
import os
import re
import time
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from flowportrait.config import Frozen
from flowportrait.errors import JudgeError, JudgeRefused, require
from flowportrait.files import JsonObject
from flowportrait.scoring.judges.backends import (
    Answer,
    Estimate,
    Question,
    Video,
    text_tokens,
    unavailable,
)
from flowportrait.scoring.judges.backends.gemini_replies import (
    HINT,
    TOKENS_PER_AUDIO_S,
    TOKENS_PER_FRAME,
    answer_of,
    file_of,
    retry_after_s,
)
from flowportrait.scoring.judges.backends.wire import (
    failure,
    json_object,
    redirected,
)

_CATEGORIES = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
_GENERATION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_UPLOAD_VALID_S = 47 * 3600
"""Google keeps uploaded files for 48 hours."""


class Gemini:
    """A Gemini model behind the Gemini API, or behind any server that speaks it."""

    costs_money = True

    class Config(Frozen):
        """Settings that the paper does not state are Unstated there: frame rate, resolution,
        temperature, thinking.
        """

        model: str = Field(
            default="gemini-2.5-pro",
            description="the paper's judge; replies by another model are refused",
        )
        api_key_env: str = Field(
            default="GEMINI_API_KEY", description="environment variable with the key"
        )
        base_url: str | None = Field(
            default=None, description="address of another server; None: Google's"
        )
        fps: float = Field(
            default=24.0,
            gt=0,
            le=24,
            description="frame rate; Google's default of 1 is too low to judge lip-sync",
        )
        resolution: Literal["low", "medium", "high"] = Field(
            default="medium", description="media resolution, which sets the tokens per frame"
        )
        temperature: float | None = Field(
            default=0.0,
            description="None: the model's own, the default from Gemini 3.6 on",
        )
        top_p: float | None = Field(
            default=None, gt=0, le=1, description="deprecated from Gemini 3.6 on"
        )
        top_k: int | None = Field(default=None, ge=1, description="deprecated from Gemini 3.6 on")
        seed: int | None = None
        max_output_tokens: int = Field(
            default=16384,
            ge=1,
            description="includes thinking; too small a limit gives empty replies",
        )
        thinking_budget: int | None = Field(
            default=4096,
            description=(
                "tokens; -1: the model decides; None: not sent, the default from Gemini 3 on"
            ),
        )
        thinking_level: Literal["MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"] | None = Field(
            default=None,
            description="for Gemini 3 and later, instead of a budget; None: the model's own",
        )
        safety: Literal["off", "default"] = Field(
            default="off", description="harm filters; off because they may block faces"
        )
        logprobs: bool = Field(
            default=False, description="request token probabilities; not every model returns them"
        )
        upload: Literal["auto", "inline", "files"] = Field(
            default="auto",
            description="send videos within the request (inline) or through the Files API",
        )
        inline_below_bytes: int = Field(
            default=4_000_000, description="auto: smaller videos are sent inline"
        )
        poll_s: float = Field(
            default=2.0, gt=0, description="polling interval while an upload is processed"
        )
        expected_output_tokens: int = Field(
            default=2500, ge=1, description="for cost estimates: reasoning and reply"
        )

        @model_validator(mode="before")
        @classmethod
        def _as_the_model_wants_it(cls, values: Any) -> Any:
            """Defaults of newer models: no sampling settings from 3.6 on, a level instead of a
            budget from 3 on.
            """
            if not isinstance(values, dict):
                return values
            model = values.get("model")
            known = None
            if isinstance(model, str):
                known = _GENERATION.search(model)
            generation = (int(known[1]), int(known[2] or 0)) if known else (0, 0)
            if generation >= (3, 0) or values.get("thinking_level"):
                unset = {"thinking_budget"}
            else:
                unset = set()
            unset |= {"temperature"} if generation >= (3, 6) else set()
            return dict.fromkeys(unset) | values

        @model_validator(mode="after")
        def _level_or_budget(self) -> Self:
            """Refuses two settings of which the interface takes one."""
            if self.thinking_level is not None and self.thinking_budget is not None:
                raise ValueError(
                    "thinking_level and thinking_budget: they exclude each other; unset one"
                )
            return self

    version = 1
    keeps_answers = counts_tokens = True

    def __init__(self, config: Config):
        self.config = config
        self.model = config.model
        self.fps = config.fps
        self._uploads: dict[str, tuple[float, asyncio.Task[Any]]] = {}

    def identity(self) -> JsonObject:
        """Model, sampling and how the video is looked at."""
        keys = {
            "model",
            "fps",
            "resolution",
            "temperature",
            "seed",
            "max_output_tokens",
            "thinking_budget",
            "safety",
        }
        # Settings that came later count only where they are set: answers stored before are found
        # again.
        return self._named_settings(keys)

    def _named_settings(self, keys: set[str]) -> JsonObject:
        """Settings that are part of the judge's identity."""
        later = {
            name
            for name in ("thinking_level", "top_p", "top_k")
            if getattr(self.config, name) is not None
        }
        settings = self.config.model_dump(include=keys | {"logprobs"} | later)
        return {"type": "gemini", "version": self.version, **settings}

    def estimate(self, question: Question) -> Estimate:
        """Estimates tokens by Google's published counts for frames and sound."""
        prompt = text_tokens(question.text)
        for video in question.videos:
            frames = min(
                video.facts.num_frames, video.facts.duration_s * (question.fps or self.fps)
            )
            prompt += round(frames * TOKENS_PER_FRAME[self.config.resolution])
            prompt += (
                round(video.facts.duration_s * TOKENS_PER_AUDIO_S) if video.facts.has_sound else 0
            )
        return Estimate(prompt, self.config.expected_output_tokens)

    async def __aenter__(self) -> Self:
        genai, self._http = (
            require("google.genai", extra="judges"),
            require("httpx2", extra="judges"),
        )
        self._types = genai.types
        self._errors = require("google.genai.errors", extra="judges")
        key = os.environ.get(self.config.api_key_env)
        if not key:
            raise JudgeError(
                f"judge.backend: no key; set the environment variable {self.config.api_key_env}, or"
                " choose another backend with --set judge.backend.type=..."
            )
        # Our own client, because the SDK's retries connections by itself, unseen and up to ten
        # seconds late.
        self._connection = self._http.AsyncClient(
            timeout=None, limits=self._http.Limits(max_connections=None)
        )
        options = self._types.HttpOptions(
            base_url=self.config.base_url, httpx_async_client=self._connection
        )
        self._client = genai.Client(api_key=key, http_options=options).aio
        self._uploads.clear()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for _, upload in self._uploads.values():
            upload.cancel()
        await self._client.aclose()
        await self._connection.aclose()

    async def ask(self, question: Question) -> Answer:
        """One generateContent."""
        started_s = time.monotonic()
        try:
            contents = [await self._part(part, question) for part in question.parts]
            response = await self._client.models.generate_content(
                model=self.model, contents=contents, config=self._settings(question)
            )
        except self._errors.APIError as error:
            raise self._named(error) from error
        except self._http.HTTPError as error:
            raise unavailable(f"{type(error).__name__}: {error}") from error
        raw = response.sdk_http_response
        headers = {name.lower(): value for name, value in (raw.headers or {}).items()}
        body = json_object(raw.body or "", headers.get("content-type", ""))
        return answer_of(body, time.monotonic() - started_s)

    def _settings(self, question: Question) -> Any:
        """The settings of a call as the client's own types."""
        config = self.config
        types = self._types
        safety = [
            types.SafetySetting(category=f"HARM_CATEGORY_{category}", threshold="OFF")
            for category in _CATEGORIES
        ]
        thinking = None
        if config.thinking_budget is not None or config.thinking_level is not None:
            level = None
            if config.thinking_level:
                level = types.ThinkingLevel(config.thinking_level)
            thinking = types.ThinkingConfig(
                thinking_budget=config.thinking_budget, thinking_level=level, include_thoughts=True
            )
        return types.GenerateContentConfig(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            seed=None if config.seed is None else config.seed + question.repeat,
            max_output_tokens=config.max_output_tokens,
            media_resolution=f"MEDIA_RESOLUTION_{config.resolution.upper()}",
            thinking_config=thinking,
            safety_settings=safety if config.safety == "off" else None,
            response_logprobs=True if config.logprobs else None,
            logprobs=5 if config.logprobs else None,
            # The raw body: the SDK turns bodies of another shape into exceptions of many kinds.
            should_return_http_response=True,
        )

    async def _part(self, part: str | Video, question: Question) -> Any:
        """A text or a video as a part of the message; large files are uploaded first."""
        types = self._types
        if isinstance(part, str):
            return types.Part(text=part)
        metadata = types.VideoMetadata(fps=question.fps or self.fps)
        size = part.path.stat().st_size
        if self.config.upload == "inline" or (
            self.config.upload == "auto" and size < self.config.inline_below_bytes
        ):
            data = await asyncio.to_thread(part.path.read_bytes)
            return types.Part(
                inline_data=types.Blob(data=data, mime_type=part.mime_type), video_metadata=metadata
            )
        uri = await self._uploaded(part)
        return types.Part(
            file_data=types.FileData(file_uri=uri, mime_type=part.mime_type),
            video_metadata=metadata,
        )

    async def _uploaded(self, video: Video) -> str:
        """The address of the video at the Files API, sent there once and only once."""
        valid_until_s, upload = self._uploads.get(video.sha256, (0.0, None))
        failed = (
            upload is not None
            and upload.done()
            and (upload.cancelled() or upload.exception() is not None)
        )
        if upload is None or failed or time.monotonic() > valid_until_s:
            upload = asyncio.create_task(self._upload(video))
            self._uploads[video.sha256] = (time.monotonic() + _UPLOAD_VALID_S, upload)
        # Shielded: a call that runs out of time must not cancel an upload that others wait for.
        return await asyncio.shield(upload)

    async def _upload(self, video: Video) -> str:
        """The address of an uploaded file, once the service has taken it in."""
        file = await file_of(
            self._client.files.upload(file=video.path, config={"mime_type": video.mime_type})
        )
        while file.state is not None and file.state.name == "PROCESSING":
            await asyncio.sleep(self.config.poll_s)
            file = await file_of(self._client.files.get(name=file.name))
        if file.state is not None and file.state.name == "FAILED":
            raise JudgeRefused(f"the Files API could not process {video.path.name}")
        if not file.uri:
            raise unavailable("the Files API gave no address")
        return file.uri

    def _named(self, error: Any) -> JudgeError:
        """The SDK's error by what can be done about it."""
        word = f"{error.code} {error.status or ''} {error.message or ''}"
        if 300 <= error.code < 400:
            headers = getattr(error.response, "headers", None) or {}
            return redirected(error.code, headers.get("location", "nowhere"))
        if error.code == 403 and "access the File" in word:
            # The Files API forgets what is older than two days, or another project's.
            self._uploads.clear()
            return unavailable(word)
        # A wrong key is status 400 here, with API_KEY_INVALID in its details.
        status = 401 if "API_KEY" in str(error.details) else error.code
        return failure(status, word, retry_after_s(error.details), HINT)
