"""When a judge may be asked: rates in requests and tokens, retries, a circuit breaker and a
budget.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

from pydantic import Field

from flowportrait.config import Frozen
from flowportrait.errors import ConfigError, JudgeError
from flowportrait.scoring.judges.backends import Estimate, Usage


class Limits(Frozen):
    """Rate limits of the calls. Vendors publish theirs per minute."""

    in_flight: int = Field(default=8, ge=1, description="maximum number of concurrent calls")
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(
        default=None, gt=0, description="tokens of prompts and replies together"
    )
    timeout_s: float = Field(
        default=300.0, gt=0, description="timeout of one call, including uploads"
    )


class Retries(Frozen):
    """Retries of failed calls, with exponential backoff unless the server sets the wait."""

    attempts: int = Field(default=6, ge=1, description="maximum number of attempts per call")
    first_s: float = Field(
        default=1.0, ge=0, description="maximum of the first wait, which doubles after each attempt"
    )
    longest_s: float = Field(default=60.0, ge=0, description="maximum wait between attempts")
    patience_s: float = Field(
        default=600.0, ge=0, description="stop the run if the server asks for a longer wait"
    )
    breaker_after: int = Field(
        default=20,
        ge=1,
        description="number of consecutive failures, over all calls, that open the circuit breaker",
    )
    breaker_s: float = Field(
        default=30.0, ge=0, description="how long the circuit breaker then stays open"
    )
    breaker_openings: int = Field(
        default=5, ge=1, description="number of consecutive openings that stop the run"
    )

    def wait_s(self, attempt: int, told_s: float | None) -> float:
        """Seconds before attempt `attempt` + 1: the server's word and a little, or a random part of
        the next step.
        """
        if told_s is not None:
            return told_s * (1 + 0.1 * random.random())
        return random.random() * min(self.longest_s, self.first_s * 2**attempt)


class Prices(Frozen):
    """The vendor's current prices."""

    input_usd_per_million: float = Field(ge=0)
    output_usd_per_million: float = Field(ge=0, description="thinking tokens are billed as output")

    def usd(self, prompt: int, output: int) -> float:
        """The price of so many tokens."""
        return (prompt * self.input_usd_per_million + output * self.output_usd_per_million) / 1e6


class Budget(Frozen):
    """Spending limit of a run, which stops before the first call that could exceed it."""

    max_tokens: int | None = Field(default=None, ge=0)
    max_usd: float | None = Field(default=None, ge=0)


class Bucket:
    """Lets through `per_minute` units a minute, first come first served, with a burst of up to
    `burst_s` seconds.
    """

    def __init__(
        self,
        per_minute: float | None,
        burst_s: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ):
        self._per_s = per_minute / 60 if per_minute else None
        self._burst_s = burst_s
        self._now = now
        self._free_at_s = now() - burst_s

    def reserve(self, units: float) -> float:
        """Books `units` and gives the seconds to wait before using them."""
        if self._per_s is None:
            return 0.0
        start_s = max(self._free_at_s, self._now() - self._burst_s)
        self._free_at_s = start_s + units / self._per_s
        return max(0.0, start_s - self._now())

    def settle(self, units: float) -> None:
        """Books what a call used beyond (or, negative, below) what was reserved for it."""
        if self._per_s is not None:
            self._free_at_s += units / self._per_s


class Breaker:
    """Holds all calls back when the judge seems to be down, then lets one through to see whether it
    is back.

    Belongs to one event loop. Whoever waits here learns at once when the run must stop.
    """

    def __init__(self, retries: Retries):
        self._retries = retries
        self._failures = self._openings = 0
        self._open_until_s = self._held_until_s = 0.0
        self._trying = False
        self._stopped: JudgeError | None = None
        self._stop = asyncio.Event()

    async def passed(self) -> None:
        """Returns when a call may be made. Raises JudgeError when the judge stays away or the run
        must stop.
        """
        while (wait_s := self._held_until_s - time.monotonic()) > 0:
            # Not all at once when the time has come.
            await self.rest(wait_s * (1 + 0.1 * random.random()))
        while self._openings:
            if self._openings > self._retries.breaker_openings:
                self._give_up()
            wait_s = self._open_until_s - time.monotonic()
            if wait_s <= 0 and not self._trying and self._stopped is None:
                self._trying = True
                return
            await self.rest(max(wait_s, 0.02))
        await self.rest(0)

    def _give_up(self) -> None:
        """Ends the run, as pauses have not helped."""
        self.stop(
            JudgeError(
                f"judge: down; {self._retries.breaker_after} calls in a row failed, and"
                f" {self._openings - 1} more after pauses; run the same command later to resume"
            )
        )

    async def rest(self, seconds: float) -> None:
        """Waits. Raises JudgeError as soon as the run must stop."""
        if self._stopped is None and seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stop.wait()
        if self._stopped is not None:
            # A fresh one: every raise would lengthen the traceback of one that is shared.
            raise JudgeError(str(self._stopped))

    def stop(self, error: JudgeError) -> None:
        """No call passes any more; those under way end and are kept."""
        self._stopped = self._stopped or error
        self._stop.set()

    def succeeded(self) -> None:
        """A call was answered: the circuit is closed."""
        self._failures = self._openings = 0
        self._trying = False

    def failed(self, retry_after_s: float | None) -> None:
        """A call was not answered; when the server says when to come back, calls that have not
        started wait, too.
        """
        if retry_after_s is not None and retry_after_s > self._retries.patience_s:
            self.stop(
                JudgeError(
                    f"judge: the server asks to wait {retry_after_s:.0f} s; run the same"
                    " command after that, or raise judge.retries.patience_s"
                )
            )
        elif retry_after_s is not None:
            self._held_until_s = max(self._held_until_s, time.monotonic() + retry_after_s)
        was_trial = self._trying
        self._trying = False
        self._failures += 1
        if was_trial or (not self._openings and self._failures >= self._retries.breaker_after):
            self._openings += 1
            self._failures = 0
            self._open_until_s = time.monotonic() + self._retries.breaker_s


class Purse:
    """Counts what a run spends; what calls under way may still cost is set aside."""

    def __init__(self, budget: Budget, prices: Prices | None):
        if budget.max_usd is not None and prices is None:
            raise ConfigError(
                "judge.budget.max_usd: needs judge.prices; give the vendor's current prices"
            )
        self._budget = budget
        self._prices = prices
        self.calls = self.prompt_tokens = self.output_tokens = 0
        self._reserved_prompt = self._reserved_output = 0

    @property
    def tokens(self) -> int:
        """Spent so far, questions and answers."""
        return self.prompt_tokens + self.output_tokens

    @property
    def usd(self) -> float | None:
        """Spent so far, where prices are known."""
        if self._prices:
            return self._prices.usd(self.prompt_tokens, self.output_tokens)
        return None

    def reserve(self, estimate: Estimate) -> None:
        """Sets aside what a call may cost. Raises JudgeError when the budget does not hold it."""
        prompt = self.prompt_tokens + self._reserved_prompt + estimate.prompt
        output = self.output_tokens + self._reserved_output + estimate.output
        limit = self._budget.max_tokens
        if limit is not None and prompt + output > limit:
            raise JudgeError(self._message("max_tokens", f"{self.tokens:,} of {limit:,} tokens"))
        limit_usd = self._budget.max_usd
        if limit_usd is not None and self._prices.usd(prompt, output) > limit_usd:
            raise JudgeError(self._message("max_usd", f"{self.usd:.2f} of {limit_usd:.2f} USD"))
        self._reserved_prompt += estimate.prompt
        self._reserved_output += estimate.output

    def settle(self, estimate: Estimate, usage: Usage | None) -> None:
        """Replaces what was set aside by what was used; None when the call was not answered."""
        self._reserved_prompt -= estimate.prompt
        self._reserved_output -= estimate.output
        if usage is not None:
            self.calls += 1
            # A server that counts nothing is booked as estimated, so that the budget still stops
            # the run.
            self.prompt_tokens += estimate.prompt if usage.prompt is None else usage.prompt
            self.output_tokens += (
                estimate.output if usage.output is None else usage.output + usage.thoughts
            )

    def _message(self, key: str, spent: str) -> str:
        """The words that say that the budget is spent."""
        return (
            f"judge: budget spent ({spent}), and the next call may not fit; what is done is kept: "
            f"raise judge.budget.{key} and run the same command again"
        )
