"""What a judge's reply says, or why it says nothing usable. Pure text in, values out; nothing is guessed.

The order: thinking is cut away, then every innermost {...} is read as JSON or as a Python literal (models write
single quotes, as the example in the paper's prompts does), and only where there is none, `"score": 4` in the text.
A value outside the offered ones, or two values that differ, make the reply unusable.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCALE = (1, 2, 3, 4, 5)
"""The scores that can be given (Tables 6-11)."""

Demand = Mapping[str, Sequence[int] | Sequence[str]]
"""What a reply must hold: allowed values by key, {"score": SCALE} or {"winner": ("A", "B")}."""

_OBJECT = re.compile(r"\{[^{}]*\}")
_LONGEST_OBJECT = 4000
# What literals of untrusted text raise: unhashable keys, too deep a nesting, numbers of thousands of digits.
_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Reply:
    """The values by key with their place in the text, or the reason why the reply is unusable."""

    values: dict[str, int | str] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    reason: str = ""


def read_reply(text: str, demand: Demand) -> Reply:
    """The demanded values in `text`."""
    start = _end_of_thinking(text)
    if start is None:
        return Reply(reason="the thinking never ends")
    if not text[start:].strip():
        return Reply(reason="an empty reply")
    found = [(dict_, span) for dict_, span in _objects(text, start) if demand.keys() & dict_.keys()]
    if not found:
        return _from_prose(text, start, demand)
    readings = [_checked(dict_, demand) for dict_, _ in found]
    for reading in readings:
        if isinstance(reading, str):
            return Reply(reason=reading)
    if any(reading != readings[0] for reading in readings):
        return Reply(reason=f"two different answers: {readings[0]} and {readings[-1]}")
    begin, end = found[-1][1]
    return Reply(readings[0], {key: _place(text, begin, end, key) for key in demand})


def _end_of_thinking(text: str) -> int | None:
    """Where the answer proper begins; None when it never does."""
    close = text.rfind(_THINK_CLOSE)
    if close >= 0:
        return close + len(_THINK_CLOSE)
    opened = text.find(_THINK_OPEN)
    if opened < 0:
        return 0
    # Some models forget the closing tag. An object that ends the whole text is their answer; any other is a thought.
    last = list(_OBJECT.finditer(text, opened))
    return last[-1].start() if last and not text[last[-1].end() :].strip(" \n`") else None


def _objects(text: str, start: int) -> Iterator[tuple[dict[Any, Any], tuple[int, int]]]:
    """Every innermost {...} that is a dictionary, with its place."""
    for match in _OBJECT.finditer(text, start):
        literal = match.group()[:_LONGEST_OBJECT]
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(literal)
            except _UNREADABLE:
                continue
            if isinstance(value, dict):
                yield value, match.span()
            break


def _checked(found: Mapping[Any, Any], demand: Demand) -> dict[str, int | str] | str:
    """The demanded values of one dictionary, or what is wrong with it."""
    values = {}
    for key, allowed in demand.items():
        if key not in found:
            return f"no '{key}' beside {_listed(found)}"
        value = _normal(found[key], allowed)
        if value not in allowed:
            return f"'{key}' is {found[key]!r}; allowed: {_listed(allowed)}"
        values[key] = value
    return values


def _normal(value: Any, allowed: Sequence[int] | Sequence[str]) -> Any:
    """4 for 4, "4" and 4.0 where integers are allowed, "A" for "a" where letters are; all else as it came."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(allowed[0], str):
        return value.strip().upper() if isinstance(value, str) else None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def _from_prose(text: str, start: int, demand: Demand) -> Reply:
    """`"score": 4` without braces; the value must stand alone, so that `score: 4 or 5` gives nothing."""
    values, spans = {}, {}
    for key, allowed in demand.items():
        hits = list(_key_and_value(key).finditer(text, start))
        if not hits:
            return Reply(reason=f"no '{key}' in {_excerpt(text[start:])}")
        readings = {_normal(hit.group("value"), allowed) for hit in hits}
        if len(readings) > 1:
            return Reply(reason=f"several values of '{key}': {_listed(hit.group('value') for hit in hits)}")
        (values[key],) = readings
        if values[key] not in allowed:
            return Reply(reason=f"'{key}' is {hits[0].group('value')}; allowed: {_listed(allowed)}")
        spans[key] = hits[-1].span("value")
    return Reply(values, spans)


def _key_and_value(key: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<![\w-])[\"'*]*{re.escape(key)}[\"'*]*\s*[:=]\s*[\"'*]*(?P<value>\d+(?:\.\d+)?|[A-Za-z])"
        r"(?=[\"'*]*\s*(?:[,;}\]`]|\.?\s*$|\.?\s*\n))"
    )


def _place(text: str, begin: int, end: int, key: str) -> tuple[int, int]:
    """Where the value of `key` stands within an object that was read; its end where that is not plain to see."""
    match = re.compile(rf"[\"']{re.escape(key)}[\"']\s*:\s*[\"']?(\w+)").search(text, begin, end)
    return match.span(1) if match else (end, end)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= 60 else words[:57] + "...")
