"""A multimodal model on this machine, through transformers: one that takes video and sound, such as
Qwen2.5-Omni.

Frames and sound are decoded here, so that what the model is given does not depend on which video
library transformers finds. Questions are answered one after another; the device is busy with one
anyway.
"""

import asyncio
import math
import time
from itertools import islice
from typing import Any, Self

import numpy as np
from pydantic import Field

from flowportrait import media
from flowportrait.config import Frozen
from flowportrait.errors import CheckpointError, ConfigError, require
from flowportrait.files import JsonObject
from flowportrait.scoring.judges.backends import (
    Answer,
    Digit,
    Estimate,
    Question,
    Usage,
    digits_of,
    text_tokens,
)
from flowportrait.sound import SPEECH_HZ

_TOP_TOKENS = 10


class LocalTransformers:
    """A model of the transformers library with a chat template for video and sound."""

    class Config(Frozen):
        """`model` has no default, so that no model is downloaded without being named."""

        model: str = Field(
            default="", description="folder of the model, or its name on the Hugging Face hub"
        )
        model_class: str = Field(
            default="AutoModelForMultimodalLM",
            description="class of transformers that loads the model",
        )
        device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
        dtype: str = Field(default="auto", description="dtype argument of from_pretrained")
        fps: float = Field(
            default=8.0, gt=0, description="frame rate shown to the model; Unstated in the paper"
        )
        temperature: float = Field(default=0.0, ge=0, description="0: greedy decoding")
        seed: int = 0
        max_output_tokens: int = Field(default=2048, ge=1)
        logprobs: bool = Field(
            default=False, description="return token probabilities, for expected scores"
        )
        processor_kwargs: JsonObject = Field(
            default={}, description="further arguments of the processor"
        )
        generate_kwargs: JsonObject = Field(
            default={},
            description=(
                "further arguments of generate, such as {return_audio = false} for Omni models"
            ),
        )
        tokens_per_frame: int = Field(default=130, ge=1, description="for cost estimates")
        tokens_per_audio_s: int = Field(default=25, ge=0, description="for cost estimates")

    version = 1
    keeps_answers = counts_tokens = True

    def __init__(self, config: Config):
        if not config.model:
            raise ConfigError(
                "judge.backend.model: missing; give a folder or a name, --set"
                " judge.backend.model=..."
            )
        self.config = config
        self.model = config.model
        self.fps = config.fps
        self._loaded: tuple[Any, Any] | None = None

    def identity(self) -> JsonObject:
        """Model, sampling and frame rate."""
        estimates = {"device", "tokens_per_frame", "tokens_per_audio_s"}
        return {
            "type": "transformers",
            "version": self.version,
            **self.config.model_dump(exclude=estimates),
        }

    def estimate(self, question: Question) -> Estimate:
        """Estimates tokens by the settings `tokens_per_frame` and `tokens_per_audio_s`."""
        tokens = text_tokens(question.text)
        for video in question.videos:
            duration_s = video.facts.duration_s
            tokens += round(duration_s * (question.fps or self.fps) * self.config.tokens_per_frame)
            tokens += (
                round(duration_s * self.config.tokens_per_audio_s) if video.facts.has_sound else 0
            )
        return Estimate(tokens, self.config.max_output_tokens // 2)

    async def __aenter__(self) -> Self:
        self._torch = require("torch", extra="judges-local")
        self._turn = asyncio.Lock()
        if self._loaded is None:
            self._loaded = await asyncio.to_thread(self._load)
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def ask(self, question: Question) -> Answer:
        """One generation."""
        async with self._turn:
            return await asyncio.to_thread(self._generate, question)

    def _load(self) -> tuple[Any, Any]:
        """(processor, model)."""
        transformers = require("transformers", extra="judges-local")
        if not hasattr(transformers, self.config.model_class):
            raise ConfigError(
                f"judge.backend.model_class: transformers has no '{self.config.model_class}'"
            )
        kind = getattr(transformers, self.config.model_class)
        try:
            processor = transformers.AutoProcessor.from_pretrained(self.model)
            model = kind.from_pretrained(self.model, dtype=self.config.dtype)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.model}: cannot be loaded by transformers: {error}"
            ) from error
        device = self.config.device
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        return processor, model.to(device).eval()

    def _generate(self, question: Question) -> Answer:
        """The model's reply, with the time it took and, where they are wanted, probabilities."""
        started_s = time.monotonic()
        processor, model = self._loaded
        torch = self._torch
        config = self.config
        inputs = self._inputs(question).to(model.device)
        torch.manual_seed(config.seed + question.repeat)
        if config.temperature:
            sampling = {"do_sample": True, "temperature": config.temperature}
        else:
            sampling = {"do_sample": False}
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                **sampling,
                max_new_tokens=config.max_output_tokens,
                return_dict_in_generate=True,
                output_scores=config.logprobs,
                **config.generate_kwargs,
            )
        num_prompt = inputs["input_ids"].shape[1]
        reply = output.sequences[0, num_prompt:]
        tokenizer = getattr(processor, "tokenizer", processor)
        return Answer(
            text=tokenizer.decode(reply, skip_special_tokens=True),
            finish="length" if len(reply) >= config.max_output_tokens else "stop",
            model=self.model,
            usage=Usage(prompt=num_prompt, output=len(reply)),
            digits=self._digits(reply, output.scores, tokenizer) if config.logprobs else [],
            latency_s=time.monotonic() - started_s,
        )

    def _inputs(self, question: Question) -> Any:
        """The processor's tensors for texts, frames and sound in the order in which they are
        asked.
        """
        processor = self._loaded[0]
        fps = question.fps or self.fps
        extractor = getattr(processor, "feature_extractor", None)
        rate_hz = getattr(extractor, "sampling_rate", SPEECH_HZ)
        content = []
        videos = []
        sounds = []
        for part in question.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            content.append({"type": "video", "video": str(part.path)})
            # A clip shorter than one tick of the clock still has its first frame.
            frames = list(media.read_frames(part.path, fps=fps)) or list(
                islice(media.read_frames(part.path), 1)
            )
            videos.append(np.stack(frames))
            if part.facts.has_sound:
                content.append({"type": "audio", "audio": str(part.path)})
                sounds.append(media.read_audio(part.path, sample_rate=rate_hz, min_s=0.0).samples)
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return processor(
            text=[text],
            videos=videos or None,
            audio=sounds or None,
            return_tensors="pt",
            videos_kwargs={"do_sample_frames": False, "fps": fps},
            **self.config.processor_kwargs,
        )

    def _digits(self, reply: Any, scores: Any, tokenizer: Any) -> list[Digit]:
        """The digits that were said, with the probabilities of what else could have been."""
        tokens = []
        for token, logits in zip(reply, scores, strict=False):
            tops = self._torch.log_softmax(logits[0].float(), dim=-1).topk(_TOP_TOKENS)
            pairs = zip(tops.indices.tolist(), tops.values.tolist(), strict=True)
            alternatives = {tokenizer.decode([index]): math.exp(value) for index, value in pairs}
            tokens.append((tokenizer.decode([token]), alternatives))
        return digits_of(tokens)
