"""Recorded answers instead of a judge: a study or a reward run is computed again at no cost."""

from pathlib import Path
from typing import Self

from pydantic import Field

from flowportrait.config import Frozen
from flowportrait.errors import ConfigError, JudgeRefused
from flowportrait.files import JsonObject
from flowportrait.scoring.judges.answers import AnswerStore
from flowportrait.scoring.judges.backends import Answer, Estimate, Question


class Replay:
    """Stored answers, looked up by the question and not by the backend that gave them."""

    class Config(Frozen):
        """`model` selects the answers of one model if the store holds those of several."""

        answers: Path = Field(default=Path("answers.jsonl"), description="file of stored answers")
        model: str = Field(
            default="", description="model whose answers to replay; empty if there is only one"
        )

    version = 1
    keeps_answers = counts_tokens = False

    def __init__(self, config: Config):
        if not config.answers.is_file():
            raise ConfigError(
                f"judge.backend.answers: no file '{config.answers}'; give the answers file of an"
                " earlier run"
            )
        self._read_answers(config)

    def _read_answers(self, config: Config) -> None:
        """Keeps the recorded answers of the one model that is asked for."""
        recorded = [
            stored for stored in AnswerStore(config.answers).all() if stored.topic != "canary"
        ]
        models = sorted({stored.judge.get("model", "") for stored in recorded})
        if config.model not in models and (config.model or len(models) > 1):
            raise ConfigError(
                f"judge.backend.model: got '{config.model}'; {config.answers} holds"
                f" {', '.join(models)}"
            )
        self.config = config
        self.model = config.model or (models[0] if models else "")
        self.fps = None
        self._answers = {
            stored.question: stored
            for stored in reversed(recorded)
            if stored.judge.get("model") == self.model
        }

    def identity(self) -> JsonObject:
        """The model that once answered."""
        return {"type": "replay", "version": self.version, "model": self.model}

    def estimate(self, question: Question) -> Estimate:
        """Nothing is used."""
        return Estimate(0, 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def ask(self, question: Question) -> Answer:
        """The recorded answer. Raises JudgeRefused where there is none."""
        stored = self._answers.get(question.digest)
        if stored is None:
            raise JudgeRefused(
                f"no recorded answer of {self.model or 'any model'} to this question"
            )
        return stored.answer
