"""Cost of a judge run, before the first call: calls, tokens and, where prices are known, money."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowportrait.clips import SamplePair
from flowportrait.media import Facts
from flowportrait.scoring import Sample
from flowportrait.scoring.judges.answers import answer_key
from flowportrait.scoring.judges.asking import JudgeConfig
from flowportrait.scoring.judges.backends import Question, Video, build_backend
from flowportrait.scoring.judges.presets import backend_of
from flowportrait.scoring.judges.prompts import load_prompt
from flowportrait.scoring.judges.systems import CompareSystem, MaComp, ScoreSystem, unusable

_FINDING_CHARACTERS = 2000
"""What an aspect's reasoning is taken to be when the aggregator's question is estimated."""


@dataclass(frozen=True)
class CallsToMake:
    """Calls that are still to be made; answers that are stored already cost nothing."""

    system: str
    calls: int = 0
    stored: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None

    def line(self) -> str:
        """For people."""
        money = ""
        if self.usd is not None:
            money = f", {self.usd:.2f} USD"
        stored = ""
        if self.stored:
            stored = f" ({self.stored:,} answers are stored already)"
        tokens = (
            f"about {_short(self.prompt_tokens)} tokens in and {_short(self.output_tokens)}"
            f" out{money}"
        )
        return f"{self.system}: {self.calls:,} calls{stored}, {tokens}"


@dataclass(frozen=True)
class _Imagined(Video):
    """A video that is still to be made."""

    known: Facts

    @property
    def facts(self) -> Facts:
        return self.known


def cost_of_clip(kind: type[ScoreSystem], config: JudgeConfig, facts: Facts) -> tuple[int, int]:
    """Calls and tokens that a system takes for one clip of such `facts`. Raises ConfigError."""
    backend = build_backend(backend_of(config.preset, config.backend))
    video = _Imagined(Path(), facts)
    tokens = 0
    for ask in kind.asks:
        estimate = backend.estimate(Question((video, load_prompt(ask.prompt, config.prompts).text)))
        tokens += estimate.prompt + estimate.output
    return len(kind.asks) * config.repeats, tokens * config.repeats


def plan_scores(system: ScoreSystem, samples: Iterable[Sample]) -> CallsToMake:
    """Cost of scoring the samples; clips that cannot be judged cost nothing."""
    usable = (sample for sample in samples if not unusable(sample))
    return _plan(
        system,
        (
            q
            for sample in usable
            for repeat in range(system.repeats)
            for q in system.questions(sample, repeat)
        ),
    )


def plan_verdicts(system: CompareSystem, pairs: Iterable[SamplePair]) -> CallsToMake:
    """Cost of comparing the pairs."""
    return _plan(system, _comparisons(system, pairs))


def _comparisons(system: CompareSystem, pairs: Iterable[SamplePair]) -> Iterable[Question]:
    """All questions that comparing these pairs asks."""
    for a, b in pairs:
        if unusable(a) or unusable(b):
            continue
        for repeat in range(system.repeats):
            for order in system.orders(a, b):
                yield from system.questions(*((a, b) if order == "ab" else (b, a)), repeat)
                if isinstance(system, MaComp):
                    text = system.prompts["compare-verdict"].text + 3 * _FINDING_CHARACTERS * " "
                    yield Question((text, f"{a.id} {b.id} {order}"), repeat=repeat)


def _plan(system: ScoreSystem | CompareSystem, questions: Iterable[Question]) -> CallsToMake:
    """Counts calls and tokens of the questions that have no stored answer."""
    backend = system.judge.backend
    store = system.judge.store
    calls = stored = prompt = output = 0
    for question in questions:
        if answer_key(question, backend) in store:
            stored += 1
            continue
        estimate = backend.estimate(question)
        calls = calls + 1
        prompt = prompt + estimate.prompt
        output = output + estimate.output
    prices = system.config.prices
    return CallsToMake(
        system.name, calls, stored, prompt, output, prices.usd(prompt, output) if prices else None
    )


def _short(count: int) -> str:
    """12, 3.4 k, 56 M."""
    for limit, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)
