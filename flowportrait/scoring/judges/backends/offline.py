"""The door for judges without a language model: scorers of one aspect each, from signals computed
on this machine.

What comes through it answers as `offline:<name>`, in every record, and never under a model's name.
"""

import asyncio
import json
import math
from typing import ClassVar, Protocol, Self

from pydantic import Field

from flowportrait.config import Frozen
from flowportrait.errors import FlowPortraitError, JudgeRefused
from flowportrait.files import JsonObject
from flowportrait.media import Clip
from flowportrait.registry import OFFLINE_JUDGES
from flowportrait.scoring import ASPECTS
from flowportrait.scoring.judges.backends import Answer, Estimate, Question


class OfflineJudge(Protocol):
    """Scores one aspect of a clip from 1 to 5; registered in `registry.OFFLINE_JUDGES`."""

    version: ClassVar[str]

    def rate(self, aspect: str, clip: Clip) -> float:
        """A score in [1, 5], or nan where the clip cannot be rated."""


class Offline:
    """An offline judge, whose replies have the form of a model's."""

    class Config(Frozen):
        """Choice of the offline judge."""

        name: str = Field(default="", description="name of an offline judge")

    version = 1
    keeps_answers = counts_tokens = False

    def __init__(self, config: Config):
        self._judge: OfflineJudge = OFFLINE_JUDGES.load(config.name)()
        self.model = f"offline:{config.name}"
        self.fps = None

    def identity(self) -> JsonObject:
        """The judge with its version."""
        return {
            "type": "offline",
            "version": self.version,
            "model": self.model,
            "judge": self._judge.version,
        }

    def estimate(self, question: Question) -> Estimate:
        """Nothing is paid for."""
        return Estimate(0, 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def ask(self, question: Question) -> Answer:
        """The rounded score of the question's aspect. Raises JudgeRefused for any question of
        another kind.
        """
        if question.topic not in ASPECTS or len(question.videos) != 1:
            raise JudgeRefused(
                f"{self.model} rates one clip in one of {', '.join(ASPECTS)}; use the scorer mas-ma"
            )
        try:
            score = await asyncio.to_thread(
                self._judge.rate, question.topic, Clip(question.videos[0].path)
            )
        except FlowPortraitError as error:
            raise JudgeRefused(str(error)) from error
        if math.isnan(score):
            raise JudgeRefused(f"{self.model} finds nothing to rate in {question.topic}")
        return Answer(text=json.dumps({"score": min(5, max(1, round(score)))}), model=self.model)
