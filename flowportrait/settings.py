"""Every setting of a configuration with its value, default, unit and source, as TOML that loads.

What is said of a setting stands where it is declared: in its description, in the string behind it,
or in the comment beside it. It is read from there, so that no second list can fall behind.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flowportrait.files import JsonObject

ModelClass = type[BaseModel]

_SOURCE = re.compile(
    r"§ ?[\d.]*\d|Eqs?\. ?\d+(?:-\d+)?|Tables? \d|App(?:endix|\.) [A-C]|\bUnstated\b"
)
_UNITS = {
    "_s": "seconds",
    "_minutes": "minutes",
    "_hz": "hertz",
    "_fps": "frames a second",
    "_px": "pixels",
    "_bytes": "bytes",
    "_mb": "megabytes",
    "_gib": "GiB",
    "_every": "updates",
    "_updates": "updates",
    "_frames": "frames",
    "_tokens": "tokens",
    "_usd": "US dollars",
}
"""By how the name of a setting ends."""
_COMMENT_COLUMN = 36
_WIDTH = 100


@dataclass(frozen=True)
class Setting:
    """One value of a configuration. `key` has dots; one that is `required` has no default."""

    key: str
    value: Any
    default: Any
    required: bool
    unit: str
    source: str
    says: str

    @property
    def changed(self) -> bool:
        """Whether it differs from its default."""
        return self.required or self.value != self.default

    def note(self) -> str:
        """Default, unit, source and meaning in one line."""
        default = (
            "no default"
            if self.required
            else f"default {toml(self.default)}"
            if self.changed
            else ""
        )
        source = "" if self.source in self.says else self.source
        return "; ".join(part for part in (default, self.unit, source, self.says) if part)

    def as_dict(self) -> JsonObject:
        """A JSON-compatible dict."""
        return asdict(self)


def settings_of(kind: ModelClass, config: BaseModel | None = None) -> list[Setting]:
    """All settings of `kind`, nested ones too, as `config` has them, or with their defaults."""
    return list(_walk(kind, config, ""))


def as_toml(settings: list[Setting]) -> str:
    """The settings as a recipe that loads with the values shown; settings without value are
    comments.
    """
    tables: dict[str, list[str]] = {}
    for setting in settings:
        table, _, name = setting.key.rpartition(".")
        tables.setdefault(table, []).append(_line(name, setting))
    parts = ["\n".join(tables.pop("", []))]
    parts += [f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def toml(value: Any) -> str:
    """A value in TOML; "none" for None, which TOML cannot express."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, BaseModel):
        return toml(value.model_dump())
    if isinstance(value, Mapping):
        kept = ((key, one) for key, one in value.items() if one is not None)
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(one)}" for key, one in kept) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(str(value))


def _line(name: str, setting: Setting) -> str:
    """The setting with its note beside it, or above it where there is no room."""
    line = f"{name} = {toml(setting.value)}" if setting.value is not None else f"# {name} = ..."
    note = setting.note()
    beside = f"{line:<{_COMMENT_COLUMN - 1}} # {note}"
    if not note or len(beside) <= _WIDTH:
        return beside if note else line
    above = textwrap.wrap(note, _WIDTH - 2, break_on_hyphens=False)
    return "\n".join([*(f"# {part}" for part in above), line])


def _walk(kind: ModelClass, config: BaseModel | None, prefix: str) -> Iterator[Setting]:
    """Every setting of a class and of those within it, with what is said of it."""
    said = what_is_said(kind)
    # What a class says of the paper need not be true of every field, unless the paper is silent.
    silent = ""
    if _source(inspect.getdoc(kind) or "") == "Unstated":
        silent = "Unstated"
    nested: list[tuple[str, ModelClass, BaseModel | None]] = []
    for name, field in kind.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        value = default
        if config is not None:
            value = getattr(config, name)
        inner = value if isinstance(value, BaseModel) else None
        held = type(inner) if inner else _model_of(field.annotation) if required else None
        if held is not None and not isinstance(value, list | tuple):
            nested.append((f"{prefix}{name}.", held, inner))
            continue
        says = field.description or said.get(name, "")
        yield Setting(
            key=f"{prefix}{name}", value=_plain(value), default=_plain(default), required=required,
            unit=_unit(name, says), source=_source(says) or silent, says=" ".join(says.split()),
        )  # fmt: skip
    for inner_prefix, held, inner in nested:
        yield from _walk(held, inner, inner_prefix)


def _model_of(annotation: Any) -> ModelClass | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _plain(value: Any) -> Any:
    """Of plain types alone, as JSON and TOML have them."""
    if value is PydanticUndefined:
        return None
    if isinstance(value, BaseModel):
        return {name: _plain(one) for name, one in value.model_dump().items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, PurePath):
        return str(value)
    return value


def _unit(name: str, says: str) -> str:
    """The unit that a setting's name tells, unless the words begin with it."""
    if name.startswith("num_"):
        unit = name.removeprefix("num_").replace("_", " ")
    else:
        unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    # What is said first, such as "frames at 24 fps", is more exact.
    if says.startswith((unit, "frames")):
        return ""
    return unit


def _source(text: str) -> str:
    """Where in the paper it stands, or that it stands nowhere."""
    found = _SOURCE.search(text)
    return found[0] if found else ""


@cache
def what_is_said(kind: ModelClass) -> dict[str, str]:
    """Documentation of the fields of a class and of its bases: the string, or the comment."""
    said: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            said |= _said_in(one)
    return said


def _said_in(kind: type) -> dict[str, str]:
    """The comments beside a class's fields, by field."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except OSError:  # a class made without a file
        return {}
    comments = _comments(source)
    (declared,) = ast.parse(source).body
    found: dict[str, str] = {}
    for statement, behind in zip(declared.body, [*declared.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            lines = range(statement.lineno, statement.end_lineno + 1)
            beside = " ".join(comments[line] for line in lines if line in comments)
            found[statement.target.id] = _string(behind) or beside
    return found


def _string(statement: ast.stmt | None) -> str:
    """The value of a statement that is a string alone; empty for any other."""
    constant = None
    if isinstance(statement, ast.Expr):
        constant = statement.value
    if isinstance(constant, ast.Constant):
        return str(constant.value)
    return ""


def _comments(source: str) -> dict[int, str]:
    """The comments of a text by their lines, those for tools left out."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    told = (
        (one.start[0], one.string.lstrip("# ")) for one in tokens if one.type == tokenize.COMMENT
    )
    return {line: text for line, text in told if not text.startswith(("type:", "noqa", "fmt:"))}
