"""The six judge systems of the paper (§2.2): three that score one clip, three that compare two.

A system says what it asks; `asking.Judge` sees to it that every question ends in a reply or in a
reason.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from flowportrait.clips import SamplePair
from flowportrait.errors import MediaError
from flowportrait.media import read_audio
from flowportrait.records import Score, Verdict
from flowportrait.scoring import ASPECTS, Need, Sample, digest_of, score_row
from flowportrait.scoring.judges.asking import Finding, Judge, JudgeConfig, all_of, in_parallel
from flowportrait.scoring.judges.backends import Question, Video
from flowportrait.scoring.judges.canary import check_senses
from flowportrait.scoring.judges.prompts import JudgePrompt, load_prompt
from flowportrait.scoring.judges.reply import SCALE, Demand

_REASONING_CHARACTERS = 4000
_WINNER: Demand = {"winner": ("A", "B")}

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Ask:
    """One question of a system: which prompt, and which part of the score each key of the reply
    gives.
    """

    prompt: str
    parts: tuple[tuple[str, str], ...]

    @property
    def demand(self) -> Demand:
        """A whole number from 1 to 5 under every key."""
        return {key: SCALE for key, _ in self.parts}


class _System:
    """The common part of all six: the judge, the prompts by name, and the stream of results."""

    name: ClassVar[str]
    prompt_names: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[Need]] = frozenset({"frames", "sound"})
    Config = JudgeConfig

    def __init__(self, config: JudgeConfig, judge: Judge | None = None):
        """`judge` is shared by all systems of a run; alone, a system keeps its answers in
        `answers.jsonl`.
        """
        self.config = config
        self.judge = judge or Judge(config, Path("answers.jsonl"))
        self.prompts = {name: load_prompt(name, config.prompts) for name in self.prompt_names}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the judge's settings and of the prompts."""
        return digest_of(
            self.judge.fingerprint, {name: prompt.digest for name, prompt in self.prompts.items()}
        )

    @property
    def repeats(self) -> int:
        """Number of calls per clip or pair."""
        return self.config.repeats

    async def _stream(
        self, items: Iterable[T], work: Callable[[T, int], Awaitable[R]]
    ) -> AsyncIterator[R]:
        """`work` of every item and repeat, as it is done."""
        jobs = ((item, repeat) for item in items for repeat in range(self.repeats))
        async with self.judge:
            await check_senses(self.judge)
            async for result in in_parallel(
                jobs, lambda job: work(*job), self.config.limits.in_flight
            ):
                yield result


class ScoreSystem(_System):
    """Scores one clip at a time; the score is the mean of the parts."""

    unit = "points"
    low, high = 1.0, 5.0
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    asks: ClassVar[tuple[Ask, ...]]

    def score(self, samples: Iterable[Sample]) -> Iterator[Score]:
        """One score per clip and repeat, as each is known. Raises JudgeError when the run must
        stop.
        """
        return _as_iterator(self.stream(samples))

    def stream(self, samples: Iterable[Sample]) -> AsyncIterator[Score]:
        """The results, within a running event loop."""
        return self._stream(samples, self.score_one)

    def questions(self, sample: Sample, repeat: int = 0) -> list[Question]:
        """Questions about a clip."""
        video = Video(sample.clip.path)
        return [
            Question((video, self.prompts[ask.prompt].text), topic=ask.prompt, repeat=repeat)
            for ask in self.asks
        ]

    async def score_one(self, sample: Sample, repeat: int) -> Score:
        """The score of one clip; all questions at the same time."""
        sample.sha256  # noqa: B018  (before it is shown: a file that is replaced meanwhile is scored again)
        problem, doubts = await asyncio.to_thread(looked_at, sample)
        if problem:
            return score_row(self, sample, reason=problem, repeat=repeat)
        questions = self.questions(sample, repeat)
        findings = await all_of(
            self.judge.ask(question, ask.demand)
            for question, ask in zip(questions, self.asks, strict=True)
        )
        parts = {}
        expected = {}
        reasons = []
        for ask, finding in zip(self.asks, findings, strict=True):
            for key, part in ask.parts:
                parts[part] = float(finding.values.get(key, math.nan))
                if key in finding.expected:
                    expected[part] = finding.expected[key]
            if finding.reason:
                reasons.append(f"{ask.prompt}: {finding.reason}")
        made_of = expected if self.config.use_expected else parts
        value = math.nan if reasons else sum(made_of.values()) / len(made_of)
        return score_row(
            self,
            sample,
            value,
            "; ".join(reasons),
            parts=parts,
            expected=expected,
            repeat=repeat,
            warnings=doubts,
            **_source(findings),
        )


class SasSa(ScoreSystem):
    """SAS-SA: one judge gives one overall score."""

    name = "sas-sa"
    prompt_names = ("overall",)
    asks = (Ask("overall", (("score", "overall"),)),)


class MasSa(ScoreSystem):
    """MAS-SA: one judge scores every aspect in one reply; mean of the scores."""

    name = "mas-sa"
    prompt_names = ("aspects",)
    asks = (Ask("aspects", tuple((aspect, aspect) for aspect in ASPECTS)),)


class MasMa(ScoreSystem):
    """MAS-MA, the paper's default: a separate judge per aspect (Tables 9-11); mean of the integer
    scores.
    """

    name = "mas-ma"
    prompt_names = ASPECTS
    asks = tuple(Ask(aspect, (("score", aspect),)) for aspect in ASPECTS)


class LipSync(ScoreSystem):
    """The lip-sync aspect of MAS-MA alone (Table 9)."""

    name = "lip_sync"
    prompt_names = ("lip_sync",)
    asks = (Ask("lip_sync", (("score", "lip_sync"),)),)


class Expressiveness(ScoreSystem):
    """The expressiveness aspect of MAS-MA alone (Table 10)."""

    name = "expressiveness"
    prompt_names = ("expressiveness",)
    asks = (Ask("expressiveness", (("score", "expressiveness"),)),)


class MotionAspect(ScoreSystem):
    """The motion aspect of MAS-MA alone (Table 11)."""

    name = "motion"
    prompt_names = ("motion",)
    asks = (Ask("motion", (("score", "motion"),)),)


class CompareSystem(_System):
    """Compares two clips. Which is shown first is drawn from the seed and the clips' ids, or both
    orders are asked.
    """

    def compare(self, pairs: Iterable[SamplePair]) -> Iterator[Verdict]:
        """One verdict per pair and repeat, as each is known. Raises JudgeError when the run must
        stop.
        """
        return _as_iterator(self.stream(pairs))

    def stream(self, pairs: Iterable[SamplePair]) -> AsyncIterator[Verdict]:
        """The results, within a running event loop."""
        return self._stream(pairs, self.compare_one)

    def orders(self, a: Sample, b: Sample) -> tuple[str, ...]:
        """Orders in which the two are shown: ("ab",), ("ba",), or both."""
        if self.config.both_orders:
            return ("ab", "ba")
        drawn = int(digest_of(self.config.seed, a.id, b.id), 16) % 2
        return ("ba",) if drawn else ("ab",)

    def questions(self, first: Sample, second: Sample, repeat: int = 0) -> list[Question]:
        """Questions about two clips in this order, the aggregator's question apart."""
        return [self._question(name, first, second, repeat) for name in self.prompt_names[:1]]

    async def compare_one(self, pair: SamplePair, repeat: int) -> Verdict:
        """The verdict on one pair."""
        a, b = pair
        a.sha256, b.sha256  # noqa: B018  (before they are shown)
        looks = await asyncio.to_thread(lambda: [looked_at(sample) for sample in pair])
        problem = next(
            (f"{one.id}: {why}" for one, (why, _) in zip(pair, looks, strict=True) if why), ""
        )
        shown = () if problem else self.orders(a, b)
        asked = [self.verdict((a, b) if order == "ab" else (b, a), repeat) for order in shown]
        findings = []
        winners = {}
        aspects = {}
        reasons = [problem] if problem else []
        for order, (found, by_aspect) in zip(shown, await all_of(asked), strict=True):
            findings += found
            aspects = aspects or {
                aspect: _by_name(finding, order) for aspect, finding in by_aspect.items()
            }
            unsaid = [f"shown {order}: {finding.reason}" for finding in found if finding.reason]
            reasons += unsaid
            if not unsaid:
                winners[order] = _by_name(found[-1], order)
        winner = None
        if not reasons:
            winner = "tie"
            if len(set(winners.values())) == 1:
                winner = winners[shown[0]]
        return Verdict(
            a=a.id,
            b=b.id,
            system=self.name,
            winner=winner,
            reason="; ".join(reasons),
            parts={aspect: name for aspect, name in aspects.items() if name},
            orders=winners,
            seed=self.config.seed,
            repeat=repeat,
            fingerprint=self.fingerprint,
            sha256=[a.sha256, b.sha256],
            warnings=[line for _, lines in looks for line in lines],
            **_source(findings),
        )

    async def verdict(
        self, shown: SamplePair, repeat: int
    ) -> tuple[list[Finding], dict[str, Finding]]:
        """The findings on two clips in the order shown, the deciding one last; and those by
        aspect.
        """
        (question,) = self.questions(*shown, repeat)
        return [await self.judge.ask(question, _WINNER)], {}

    def _question(self, name: str, first: Sample, second: Sample, repeat: int) -> Question:
        videos = ("Video A:", Video(first.clip.path), "Video B:", Video(second.clip.path))
        return Question((*videos, self.prompts[name].text), topic=name, repeat=repeat)


class DirectComp(CompareSystem):
    """Direct-Comp: one judge, one forced choice."""

    name = "direct-comp"
    prompt_names = ("compare",)


class IclComp(CompareSystem):
    """ICL-Comp: as Direct-Comp, with three examples in the prompt, one per aspect."""

    name = "icl-comp"
    prompt_names = ("compare-examples",)


class MaComp(CompareSystem):
    """MA-Comp: three judges compare one aspect each, and a fourth combines their findings."""

    name = "ma-comp"
    prompt_names = (*(f"compare-{aspect}" for aspect in ASPECTS), "compare-verdict")

    def questions(self, first: Sample, second: Sample, repeat: int = 0) -> list[Question]:
        """The three about the aspects."""
        return [self._question(f"compare-{aspect}", first, second, repeat) for aspect in ASPECTS]

    async def verdict(
        self, shown: SamplePair, repeat: int
    ) -> tuple[list[Finding], dict[str, Finding]]:
        """The three aspects' findings and the aggregator's, which is only asked when all three have
        decided.
        """
        findings = await all_of(
            self.judge.ask(question, _WINNER) for question in self.questions(*shown, repeat)
        )
        by_aspect = dict(zip(ASPECTS, findings, strict=True))
        if any(finding.reason for finding in findings):
            return findings, by_aspect
        question = Question(
            (_panel(self.prompts["compare-verdict"], by_aspect),), "compare-verdict", repeat
        )
        return [*findings, await self.judge.ask(question, _WINNER)], by_aspect


def _panel(prompt: JudgePrompt, by_aspect: dict[str, Finding]) -> str:
    """The aggregator's question: its prompt with what the three found below."""
    findings = (
        f"### {aspect}\n{finding.reasoning[-_REASONING_CHARACTERS:]}\nThis expert prefers"
        f" {finding.values['winner']}."
        for aspect, finding in by_aspect.items()
    )
    return "\n\n".join((prompt.text, *findings))


def _by_name(finding: Finding, order: str) -> Literal["a", "b"] | None:
    """Which clip won, whatever the order shown: A is the first of `order`."""
    if finding.reason:
        return None
    return order["AB".index(str(finding.values["winner"]))]  # type: ignore[return-value]


def unusable(sample: Sample) -> str:
    """Why a clip cannot be judged; empty when it can."""
    try:
        facts = sample.clip.facts
    except MediaError as error:
        return str(error)
    return "" if facts.has_sound else "no sound track; a talking video is judged with its sound"


def looked_at(sample: Sample) -> tuple[str, list[str]]:
    """Why a clip cannot be judged, its sound decoded; and what can hardly have been meant by it."""
    if problem := unusable(sample):
        return problem, []
    problem, doubts = _heard(sample.clip.path, sample.sha256)
    return problem, list(doubts)


@lru_cache(maxsize=4096)
def _heard(path: Path, sha256: str) -> tuple[str, tuple[str, ...]]:
    """The same of the sound alone, decoded once for each state of the file."""
    try:
        return "", read_audio(path, min_s=0.0).warnings
    except MediaError as error:
        return " ".join(str(error).split()), ()


def _source(findings: list[Finding]) -> dict[str, object]:
    """Where a record's content comes from."""
    models = sorted({finding.model for finding in findings if finding.model})
    return {
        "model": ", ".join(models),
        "answers": [key for finding in findings for key in finding.answers],
        "tokens": sum(finding.tokens for finding in findings),
    }


def _as_iterator(results: AsyncIterator[R]) -> Iterator[R]:
    """An asynchronous stream for plain code; work goes on while the next result is waited for."""
    with asyncio.Runner() as runner:
        queue: asyncio.Queue[list[R]] = asyncio.Queue()
        pump = runner.get_loop().create_task(_pumped(results, queue))
        while result := runner.run(queue.get()):
            yield from result
        runner.run(asyncio.wait_for(pump, timeout=None))


async def _pumped(results: AsyncIterator[R], queue: asyncio.Queue[list[R]]) -> None:
    """Every result in a list of its own, and an empty list at the end, whatever the end is."""
    try:
        async for result in results:
            queue.put_nowait([result])
    finally:
        queue.put_nowait([])
