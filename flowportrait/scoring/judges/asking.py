"""Asking a judge so that every question ends in a usable reply or in the reason why there is none.

`Judge` owns what all judge systems share: the backend, the answer store, rates, retries, circuit
breaker, budget, the check that the judge hears and sees, and the one repetition that an unusable
reply gets.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field

from flowportrait.config import Frozen
from flowportrait.errors import FlowPortraitError, JudgeError, JudgeRefused, JudgeUnavailable
from flowportrait.files import JsonObject
from flowportrait.scoring import digest_of
from flowportrait.scoring.judges.answers import AnswerStore, answer_key
from flowportrait.scoring.judges.backends import Answer, Question, build_backend
from flowportrait.scoring.judges.pacing import (
    Breaker,
    Bucket,
    Budget,
    Limits,
    Prices,
    Purse,
    Retries,
)
from flowportrait.scoring.judges.presets import backend_of
from flowportrait.scoring.judges.prompts import load_prompt
from flowportrait.scoring.judges.reply import Demand, Reply, read_reply

_REPLACED_STOPS_AFTER = 3
_QUOTED_CHARACTERS = 1500

T = TypeVar("T")
R = TypeVar("R")


class JudgeConfig(Frozen):
    """A judge and how to ask it. The default backend is the paper's judge model (§2.2)."""

    preset: str | None = Field(
        default=None,
        description="name of a judge preset (see `judges presets`) or your own .toml file",
    )
    backend: JsonObject = Field(
        default={}, description="settings {type, ...} of a judge backend, which override the preset"
    )
    prompts: Path | None = Field(
        default=None, description="folder with files that replace the shipped prompts"
    )
    repeats: int = Field(
        default=1,
        ge=1,
        description="number of independent calls per clip. Unstated; one is cheapest",
    )
    use_expected: bool = Field(
        default=False,
        description=(
            "use the expected score under the token probabilities; the paper uses the integer"
        ),
    )
    seed: int = Field(
        default=0, description="random seed for which of two clips is shown first (Unstated)"
    )
    both_orders: bool = Field(
        default=False, description="compare in both orders; different verdicts count as a tie"
    )
    check: Literal["tokens", "none"] = Field(
        default="tokens",
        description=(
            "tokens: refuse a judge whose token counts show that it got no video or no sound"
        ),
    )
    accept_models: list[str] = Field(
        default=[], description="further model names accepted in replies"
    )
    renew_unusable: bool = Field(
        default=False, description="repeat calls whose stored answer is unusable"
    )
    limits: Limits = Limits()
    retries: Retries = Retries()
    budget: Budget = Budget()
    prices: Prices | None = None


@dataclass(frozen=True)
class Finding:
    """The outcome of one question: the demanded values, or a reason."""

    values: dict[str, int | str] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    reasoning: str = ""
    model: str = ""
    answers: tuple[str, ...] = ()
    tokens: int = 0


class Judge:
    """A backend with everything around it. `async with judge:` opens it in the running event
    loop.
    """

    def __init__(self, config: JudgeConfig, answers: Path):
        self.config = config
        self.backend = build_backend(backend_of(config.preset, config.backend))
        self.store = AnswerStore(answers)
        self.purse = Purse(config.budget, config.prices)
        self.hears_by_count = False
        self.repair = load_prompt("repair", config.prompts)
        self.checked = False
        self._requests = Bucket(config.limits.requests_per_minute)
        self._tokens = Bucket(config.limits.tokens_per_minute)
        self._replaced_in_a_row = 0
        self._renewed: set[str] = set()

    async def __aenter__(self) -> Self:
        self._breaker = Breaker(self.config.retries)
        self._slots = asyncio.Semaphore(self.config.limits.in_flight)
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        await self.backend.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.backend.__aexit__(*exc)

    @property
    def fingerprint(self) -> str:
        """Digest of the settings that change a reply, prompts of systems apart."""
        return digest_of(self.backend.identity(), self.repair.digest, self.config.use_expected)

    async def ask(self, question: Question, demand: Demand) -> Finding:
        """The demanded values. An unusable reply is asked for once more; JudgeError only when the
        run must stop.
        """
        keys: list[str] = []
        tokens = 0
        finding = Finding()
        for again in (False, True):
            try:
                answer = await self.answer(question, demand)
            except (JudgeUnavailable, JudgeRefused) as error:
                return Finding(reason=str(error), answers=tuple(keys), tokens=tokens)
            keys += [key] if (key := answer_key(question, self.backend)) in self.store else []
            tokens += answer.usage.total
            finding = self._judged(answer, question, demand)
            if not finding.reason or again:
                break
            quoted = answer.text[-_QUOTED_CHARACTERS:] or "(nothing)"
            # The reply may hold braces of its own: no str.format here.
            note = self.repair.text.replace("{reason}", finding.reason).replace("{answer}", quoted)
            question = question.followed_by(note)
        return replace(finding, answers=tuple(keys), tokens=tokens)

    async def answer(self, question: Question, demand: Demand | None = None) -> Answer:
        """The stored answer, or a new one; a question that is being asked already is not asked
        twice.

        With `renew_unusable` a stored answer that does not hold what is demanded is replaced, once
        in a run.
        """
        key = answer_key(question, self.backend)
        stored = self.store.get(key)
        if stored is not None and not self._to_be_renewed(key, stored, question, demand):
            return stored
        if key not in self._under_way:
            task = asyncio.create_task(self._fetched(question))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await self._under_way[key]

    def _to_be_renewed(
        self, key: str, stored: Answer, question: Question, demand: Demand | None
    ) -> bool:
        """Whether a stored answer is useless and is to be asked for anew, once in a run."""
        if not self.config.renew_unusable or demand is None or key in self._renewed:
            return False
        self._renewed.add(key)
        return bool(self._judged(stored, question, demand).reason)

    async def _fetched(self, question: Question) -> Answer:
        """A new answer, stored before it is given, after as many attempts as it takes."""
        retries = self.config.retries
        for attempt in range(1, retries.attempts + 1):
            try:
                async with self._slots:
                    return await self._attempt(question)
            except JudgeUnavailable as error:
                failure = error
            except JudgeRefused:
                raise
            except JudgeError as error:
                self._breaker.stop(error)
                raise
            if attempt < retries.attempts:
                await self._breaker.rest(retries.wait_s(attempt, failure.retry_after_s))
        raise JudgeUnavailable(f"no answer after {retries.attempts} attempts: {failure}")

    async def _attempt(self, question: Question) -> Answer:
        """One call, when rates, circuit and budget allow it."""
        await self._breaker.passed()
        estimate = self.backend.estimate(question)
        answer = None
        self.purse.reserve(estimate)
        try:
            await self._breaker.rest(
                max(self._requests.reserve(1), self._tokens.reserve(estimate.total))
            )
            answer = await self._timed(question)
        except JudgeUnavailable as error:
            self._breaker.failed(error.retry_after_s)
            raise
        except JudgeRefused:
            # The server is up; it does not want this question.
            self._breaker.succeeded()
            raise
        finally:
            self.purse.settle(estimate, answer.usage if answer else None)
            if answer is not None and answer.usage.prompt is not None:
                self._tokens.settle(answer.usage.total - estimate.total)
        self._breaker.succeeded()
        # What another model said must not stand for this one's answer when the run is repeated.
        if self.backend.keeps_answers and self._is_by_the_model(answer):
            self.store.put(question, self.backend, answer)
        return answer

    async def _timed(self, question: Question) -> Answer:
        """The backend's answer. Raises JudgeUnavailable when it takes too long."""
        limit_s = self.config.limits.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self.backend.ask(question)
        except TimeoutError as error:
            raise JudgeUnavailable(f"no answer within {limit_s:g} s") from error

    def _judged(self, answer: Answer, question: Question, demand: Demand) -> Finding:
        """Values read from the answer, or the reason why there are none."""
        reason = self._distrust(answer, question)
        reply = Reply(reason=reason) if reason else read_reply(answer.text, demand)
        expected = {} if reply.reason else _expected(reply, answer, demand)
        numeric = [key for key, allowed in demand.items() if isinstance(allowed[0], int)]
        if self.config.use_expected and not reply.reason and len(expected) < len(numeric):
            reply = Reply(
                reason=(
                    "no token probabilities; unset judge.use_expected or use a server that gives"
                    " them"
                )
            )
        reasoning = "\n".join(part for part in (answer.thoughts, answer.text) if part)
        return Finding(reply.values, expected, reply.reason, reasoning, answer.model)

    def _is_by_the_model(self, answer: Answer) -> bool:
        return not answer.model or answer.model in (self.backend.model, *self.config.accept_models)

    def _distrust(self, answer: Answer, question: Question) -> str:
        """Why the answer is not to be read at all; empty when it is."""
        if not self._is_by_the_model(answer):
            self._replaced_in_a_row += 1
            told = f"'{answer.model}' answered instead of '{self.backend.model}'"
            if self._replaced_in_a_row >= _REPLACED_STOPS_AFTER:
                error = JudgeError(
                    f"judge: {told}, {_REPLACED_STOPS_AFTER} times in a row; to continue with that"
                    f" model, name it (--set judge.backend.model={answer.model}) and write to a"
                    " new file, since its scores are on another scale; if both names are the same"
                    " model, add it to judge.accept_models; 'judges agree' and docs/judges.md"
                    " help to move a"
                    " study"
                )
                self._breaker.stop(error)
                raise error
            return told
        self._replaced_in_a_row = 0
        return self._broken_off(answer, question)

    def _broken_off(self, answer: Answer, question: Question) -> str:
        """The reason to distrust an answer for how it ended or what was heard; "" for none."""
        if answer.finish != "stop":
            kinds = {
                "length": "cut off at the limit of output tokens",
                "blocked": "blocked",
                "other": "broken off",
            }
            return f"{kinds[answer.finish]} ({answer.finish_detail or 'no word why'})"
        if (
            self.hears_by_count
            and answer.usage.audio == 0
            and any(v.facts.has_sound for v in question.videos)
        ):
            return "the sound was not heard (0 audio tokens)"
        return ""


def _expected(reply: Reply, answer: Answer, demand: Demand) -> dict[str, float]:
    """By key, the mean of the allowed scores under the probabilities of the token that gave the
    score.
    """
    odds_by_place = {(digit.digit, digit.tail): digit.odds for digit in answer.digits}
    expected = {}
    for key, allowed in demand.items():
        place = (str(reply.values[key]), answer.text[reply.spans[key][1] :].rstrip())
        weights = {score: odds_by_place.get(place, {}).get(str(score), 0.0) for score in allowed}
        if total := sum(weights.values()):
            expected[key] = sum(score * weight for score, weight in weights.items()) / total
    return expected


async def all_of(calls: Iterable[Awaitable[R]]) -> list[R]:
    """All results; when the run must stop, the calls that are under way end first and are kept."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def in_parallel(
    items: Iterable[T], work: Callable[[T], Awaitable[R]], workers: int
) -> AsyncIterator[R]:
    """`work` of every item as it is done, at most `workers` at a time. An error lets work under way
    end first.
    """
    pending = iter(items)
    results = asyncio.Queue[R | None]()
    failure = None

    async def worker() -> None:
        nonlocal failure
        try:
            for item in pending:
                results.put_nowait(await work(item))
        except FlowPortraitError as error:
            failure = failure or error
        finally:
            results.put_nowait(None)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
        running = workers
        while running:
            result = await results.get()
            if result is None:
                running -= 1
            else:
                yield result
    if failure is not None:
        raise failure
