"""Configuration: frozen pydantic models, sparse TOML recipes, overrides of single leaves, the
resolved JSON.

A recipe holds only what differs from the class defaults. What was resolved is written beside the
run as JSON (which keeps nulls) and loads again through the same door.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from flowportrait.errors import ConfigError
from flowportrait.files import JsonObject
from flowportrait.registry import find_recipe, name_hint

ModelClass = type[BaseModel]


class Frozen(BaseModel):
    """The base of every configuration: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=Frozen)


def load_recipe(path: str | Path | None, kind: type[C], overrides: Iterable[str] = ()) -> C:
    """The `kind` described by a TOML recipe or a resolved JSON file, with `overrides` ("a.b=c")
    laid over it.

    Without a path the overrides are laid over the defaults.

    Raises ConfigError: no such file, no valid TOML, an unknown key (the nearest is named), a wrong
    value.
    """
    values = read_values(path) if path is not None else {}
    for override in overrides:
        _override(values, override)
    return validate(kind, values, where=str(path) if path is not None else "--set")


def validate(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """`kind` made from plain values. Raises ConfigError, one line that starts with `where`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(kind, error)}") from error


def save_resolved(config: Frozen, path: str | Path) -> None:
    """Writes every value of `config`, defaults included, as JSON that `load_recipe` reads again."""
    Path(path).write_text(
        json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8"
    )


def read_values(path: str | Path) -> JsonObject:
    """Values of a TOML recipe or a JSON file, unchecked; a shipped recipe may be given by its name.
    Raises ConfigError where it cannot be read.
    """
    path = Path(path)
    path = path if path.exists() else find_recipe(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        return tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: not valid {kind}: {error}") from error


def _override(values: JsonObject, override: str) -> None:
    """Sets one leaf in place: "rollout.window=3". A value that is no TOML is a string, null is no
    value.
    """
    key, equals, text = override.partition("=")
    *parents, leaf = key.strip().split(".")
    if not equals or not leaf or not all(parents):
        raise ConfigError(
            f"--set: got '{override}'; write key=value, with dots for nesting, such as run.seed=1"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = None if text.strip() == "null" else text.strip()
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"--set: got '{override}'; '{parent}' is a value and has no key '{leaf}'"
            )
    table[leaf] = value


def _explain(kind: ModelClass, error: ValidationError) -> str:
    """One line for the first thing wrong, with the nearest allowed key where a key is unknown."""
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    where = ".".join(map(str, location)) or "the whole"
    if first["type"] == "extra_forbidden":
        holder = _model_at(kind, location[:-1])
        hint = "remove it"
        if holder:
            hint = name_hint(str(location[-1]), holder.model_fields)
        return f"unknown key '{where}'; {hint}"
    got = "" if first["type"] == "missing" else f" (got {first['input']!r})"
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}{got}"


def _model_at(kind: ModelClass, location: tuple[int | str, ...]) -> ModelClass | None:
    """The configuration class at a place in `kind`; indices are stepped over, a union's tag
    picks.
    """
    current: ModelClass | None = kind
    members: list[ModelClass] = []
    for step in location:
        if isinstance(step, int):
            continue
        tagged = [member for member in members if step in _tags(member)]
        if tagged:
            current = tagged[0]
            members = []
            continue
        if current is None or step not in current.model_fields:
            return None
        members = models_in(current.model_fields[step].annotation)
        current = members[0] if len(members) == 1 else None
    return current


def models_in(annotation: Any) -> list[ModelClass]:
    """All configuration classes within an annotation such as `list[A | B] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def _tags(model: ModelClass) -> tuple[Any, ...]:
    """The values of a union member's `type` field."""
    if "type" in model.model_fields:
        return get_args(model.model_fields["type"].annotation)
    return ()
