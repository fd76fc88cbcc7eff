"""A rater's answer to one set, and the rules that it has to keep."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowportrait.errors import StudyRefused
from flowportrait.records import ASPECTS, Aspect, Ranking

UNWATCHED_S = 0.25
"""How much of a clip's length may be missing from what is reported: players do not report its very
ends.
"""

Span = tuple[
    Annotated[float, Field(ge=0, allow_inf_nan=False)],
    Annotated[float, Field(ge=0, allow_inf_nan=False)],
]


class RaterAnswer(BaseModel):
    """Scores, order and what was played, by the ids of the items that were shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, dict[Aspect, Annotated[int, Field(ge=1, le=5, strict=True)]]]
    """item -> aspect -> 1 to 5; every item and every aspect."""
    groups: tuple[tuple[str, ...], ...]
    """Items of equal quality together, best first; an item may be left out (App. A: ties and
    partial orders).
    """
    between: tuple[Literal[">", ">="], ...] = ()
    """Signs between the groups; empty means '>' everywhere."""
    played: dict[str, tuple[Span, ...]]
    """item -> [from, to] in seconds of the clip, each piece that was played (a browser's
    `video.played`).
    """
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)
    """How long the rater was at it, if the page measures it."""
    comment: str = Field("", max_length=2000)

    @classmethod
    def read(cls, body: Any) -> Self:
        """The answer in a JSON value. Raises StudyRefused (bad_rating, bad_ranking) with the first
        thing wrong.
        """
        try:
            if isinstance(body, str | bytes):
                return cls.model_validate_json(body)
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            code = "bad_rating"
            if first["loc"][:1] in (("groups",), ("between",)):
                code = "bad_ranking"
            where = ".".join(map(str, first["loc"])) or "answer"
            got = f" (got {str(first.get('input'))[:80]!r})"
            raise StudyRefused(
                code, f"{where}: {first['msg']}{got}; nothing was kept, send the whole set"
            ) from error


class Receipt(NamedTuple):
    """The fate of an answer."""

    id: int
    state: Literal["new", "replaced", "unchanged"]


def covered_s(spans: tuple[Span, ...], duration_s: float) -> float:
    """Seconds of a clip of `duration_s` that lie in at least one of the spans; playing a part twice
    counts once.
    """
    seen = end = 0.0
    for start, stop in sorted(spans):
        stop = min(stop, duration_s)
        if stop > max(start, end):
            seen += stop - max(start, end)
            end = stop
    return seen


def checked(
    answer: RaterAnswer, durations_s: dict[str, float], before: RaterAnswer | None
) -> RaterAnswer:
    """The answer with the playing of an earlier one added, if it keeps the rules. Raises
    StudyRefused.
    """
    for item in (*answer.scores, *answer.played):
        if item not in durations_s:
            raise StudyRefused(
                "unknown_item", f"item {item!r}: not in this set; it has {', '.join(durations_s)}"
            )
    for item in durations_s:
        missing = [aspect for aspect in ASPECTS if aspect not in answer.scores.get(item, {})]
        if missing:
            raise StudyRefused(
                "bad_rating", f"item {item}: no score for {', '.join(missing)}; give each 1 to 5"
            )
    _check_ranking(answer, durations_s)
    return _with_playing(durations_s, answer, before)


def _with_playing(
    durations_s: dict[str, float], answer: RaterAnswer, before: RaterAnswer | None
) -> RaterAnswer:
    """The answer with what was played, if all of it was watched. Raises StudyRefused."""
    played = {}
    for item, duration_s in durations_s.items():
        spans = {*answer.played.get(item, ()), *(before.played.get(item, ()) if before else ())}
        played[item] = _merged(spans)
        seen_s = covered_s(played[item], duration_s)
        if seen_s < duration_s - UNWATCHED_S:
            raise StudyRefused(
                "unwatched",
                f"item {item}: {seen_s:.1f} of {duration_s:.1f} s were played; watch it to its end",
            )
    return answer.model_copy(update={"played": played})


def _check_ranking(answer: RaterAnswer, durations_s: dict[str, float]) -> None:
    """Raises StudyRefused for a ranking of other items than were shown."""
    for group in answer.groups:
        for item in group:
            if item not in durations_s:
                raise StudyRefused("bad_ranking", f"ranking: item {item!r} is not in this set")
    try:
        Ranking(
            rater="r",
            sample="s",
            groups=[list(g) for g in answer.groups],
            between=list(answer.between),
        )
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise StudyRefused(
            "bad_ranking", f"ranking: {message}; name every item at most once"
        ) from error


def _merged(spans: set[Span]) -> tuple[Span, ...]:
    """The same seconds in as few spans as possible, so that sending an answer again gives the same
    one.
    """
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if stop <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)
