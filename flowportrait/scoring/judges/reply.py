"""The meaning of a judge's reply, or the reason why it has none. Pure text in, values out; nothing
is guessed.

The order: thinking is cut away, then every outermost {...} is read as JSON or as a Python literal
(models write single quotes, as the example in the paper's prompts does), and only where there is
none, `"score": 4` in the text. A reply is unusable when a value is outside the offered ones, when
two values differ, when one object holds a key twice (also nested), or when words follow the answer:
they may take it back.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SCALE = (1, 2, 3, 4, 5)
"""The scores that can be given (Tables 6-11)."""

Demand = Mapping[str, Sequence[int] | Sequence[str]]
"""What a reply must hold: allowed values by key, {"score": SCALE} or {"winner": ("A", "B")}."""

_LONGEST_OBJECT = 4000
_MOST_UNREADABLE = 300
"""Braces that begin nothing readable, after which no more is looked for: what follows then counts
as words.
"""
# What literals of untrusted text raise: unhashable keys, too deep a nesting, numbers of thousands
# of digits.
_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
# What may stand behind an answer: white space, marks, code fences, closing tags and special tokens,
# but no words.
_WORDLESS = re.compile(r"(?:<[^<>\n]{0,40}>|[^\w<]|<(?![^<>\n]{0,40}>)|_)*")


class _Object(list[tuple[Any, Any]]):
    """The keys and values of one object as they stand in the text, equal keys included."""


class _Found(NamedTuple):
    """An outermost object of a reply and its place."""

    object: _Object
    start: int
    end: int


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
    found = [
        one
        for one in _objects(text, start)
        if any(list(_values(one.object, key)) for key in demand)
    ]
    if not found:
        return _from_prose(text, start, demand)
    return _agreed(found, demand, text)


def _agreed(found, demand: Demand, text: str) -> Reply:
    """The values of one or several objects in a reply, which must agree."""
    readings = [_checked(one.object, demand) for one in found]
    for reading in readings:
        if isinstance(reading, str):
            return Reply(reason=reading)
    if any(reading != readings[0] for reading in readings):
        return Reply(reason=f"two different answers: {readings[0]} and {readings[-1]}")
    begin = found[-1].start
    end = found[-1].end
    if words := _words_after(text, end):
        return Reply(reason=words)
    return Reply(readings[0], {key: _place(text, begin, end, key) for key in demand})


def _words_after(text: str, end: int) -> str:
    """Why the words behind an answer make it unusable; empty when there are none."""
    rest = text[_WORDLESS.match(text, end).end() :].strip()
    if rest:
        return f"words follow the answer: {_excerpt(rest)}"
    return ""


def _end_of_thinking(text: str) -> int | None:
    """Where the answer proper begins; None when it never does."""
    close = text.rfind(_THINK_CLOSE)
    if close >= 0:
        return close + len(_THINK_CLOSE)
    opened = text.find(_THINK_OPEN)
    if opened < 0:
        return 0
    # Some models forget the closing tag. An object that ends the whole text is their answer; any
    # other is a thought.
    last = list(_objects(text, opened))
    if last and not _words_after(text, last[-1].end):
        return last[-1].start
    return None


def _objects(text: str, start: int) -> Iterator[_Found]:
    """Every outermost {...} that can be read, in order."""
    at = text.find("{", start)
    unreadable = 0
    while at >= 0 and unreadable < _MOST_UNREADABLE:
        found = _json_at(text, at) or _literal_at(text, at)
        if found:
            yield found
        unreadable += not found
        at = text.find("{", found.end if found else at + 1)


def _json_at(text: str, at: int) -> _Found | None:
    """The JSON object that begins here."""
    try:
        value, length = _JSON.raw_decode(text[at : at + _LONGEST_OBJECT])
    except _UNREADABLE:
        return None
    if isinstance(value, _Object):
        return _Found(value, at, at + length)
    return None


_JSON = json.JSONDecoder(object_pairs_hook=_Object)


def _literal_at(text: str, at: int) -> _Found | None:
    """The dictionary in Python's notation that begins here: up to the brace that closes it, quotes
    seen.
    """
    depth = 0
    quote = ""
    skip = False
    for place, letter in enumerate(text[at : at + _LONGEST_OBJECT], at):
        if skip or (quote and letter != quote):
            skip = not skip and letter == "\\"
            continue
        if letter in "\"'":
            quote = "" if quote else letter
        depth += {"{": 1, "}": -1}.get(letter, 0) if not quote else 0
        if not depth:
            return _literal_between(text, at, place + 1)
    return None


def _literal_between(text: str, start: int, end: int) -> _Found | None:
    """The dictionary in Python's notation that this part of the text is; None where it is none."""
    try:
        value = _literal(ast.parse(text[start:end], mode="eval").body)
    except _UNREADABLE:
        return None
    if isinstance(value, _Object):
        return _Found(value, start, end)
    return None


def _literal(node: ast.expr) -> Any:
    """A literal's value with dictionaries as `_Object`. Raises ValueError for what is no
    literal.
    """
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError("** is no literal")
        keys = (ast.literal_eval(key) for key in node.keys if key is not None)
        return _Object(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)


def _values(value: Any, key: str) -> Iterator[Any]:
    """Everything that stands under `key`, at any depth."""
    for item in value if isinstance(value, list) else ():
        if isinstance(value, _Object):
            name, item = item
            if name == key:
                yield item
        yield from _values(item, key)


def _plain(value: Any) -> Any:
    """The same with dictionaries for people to read."""
    if isinstance(value, _Object):
        return {str(key): _plain(item) for key, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _checked(found: _Object, demand: Demand) -> dict[str, int | str] | str:
    """The demanded values of one object, or what is wrong with it."""
    values = {}
    for key, allowed in demand.items():
        given = list(_values(found, key))
        if not given:
            return f"no '{key}' beside {_listed(name for name, _ in found)}"
        if len(given) > 1:
            return f"'{key}' stands {len(given)} times in one object: {_listed(map(_plain, given))}"
        value = _normal(given[0], allowed)
        if value not in allowed:
            return f"'{key}' is {_plain(given[0])!r}; allowed: {_listed(allowed)}"
        values[key] = value
    return values


def _normal(value: Any, allowed: Sequence[int] | Sequence[str]) -> Any:
    """4 for 4, "4" and 4.0 where integers are allowed, "A" for "a" where letters are; all else as
    it came.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(allowed[0], str):
        if isinstance(value, str):
            return value.strip().upper()
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if number.is_integer():
        return int(number)
    return None


def _from_prose(text: str, start: int, demand: Demand) -> Reply:
    """`"score": 4` without braces; the value must stand alone, so that `score: 4 or 5` gives
    nothing.
    """
    values, spans = {}, {}
    for key, allowed in demand.items():
        hits = list(_key_and_value(key).finditer(text, start))
        if not hits:
            return Reply(reason=f"no '{key}' in {_excerpt(text[start:])}")
        readings = {_normal(hit.group("value"), allowed) for hit in hits}
        if len(readings) > 1:
            return Reply(
                reason=f"several values of '{key}': {_listed(hit.group('value') for hit in hits)}"
            )
        (values[key],) = readings
        if values[key] not in allowed:
            return Reply(reason=f"'{key}' is {hits[0].group('value')}; allowed: {_listed(allowed)}")
        spans[key] = hits[-1].span("value")
    words = _words_after(text, max(end for _, end in spans.values()))
    if words:
        return Reply(reason=words)
    return Reply(values, spans)


def _key_and_value(key: str) -> re.Pattern[str]:
    """The pattern of a key with its value, in quotes or without, up to where a value can end."""
    return re.compile(
        rf"(?<![\w-])[\"'*]*{re.escape(key)}[\"'*]*\s*[:=]\s*[\"'*]*(?P<value>\d+(?:\.\d+)?|[A-Za-z])"
        r"(?=[\"'*]*\s*(?:[,;}\]`]|\.?\s*$|\.?\s*\n))"
    )


def _place(
    text: str,
    begin: int,
    end: int,
    key: str,
) -> tuple[int, int]:
    """Where the value of `key` stands within an object that was read; its end where that is not
    plain to see.
    """
    match = re.compile(rf"[\"']{re.escape(key)}[\"']\s*:\s*[\"']?(\w+)").search(text, begin, end)
    if match:
        return match.span(1)
    return (end, end)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= 60 else words[:57] + "...")
