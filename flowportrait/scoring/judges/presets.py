"""Judges by name: what a model needs to be asked rightly, as TOML files, since models change every
quarter.

A file holds `about`, `source` (where its settings were read and when), `checked` (what they were
tried against), the table `backend`, and in `unset` settings that must not be sent. The user's own
settings are laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import ConfigError
from flowportrait.files import JsonObject
from flowportrait.registry import name_hint

PRESETS_DIR = Path(__file__).parent / "presets"


class Preset(Frozen):
    """One judge."""

    about: str
    source: str
    checked: str
    unset: list[str] = Field(
        default=[], description="settings of the backend that are not sent to the server"
    )
    backend: JsonObject = Field(description="settings {type, ...} of a judge backend")


def preset_names() -> list[str]:
    """The names of all shipped presets, sorted."""
    return sorted(path.name.removesuffix(".toml") for path in PRESETS_DIR.glob("*.toml"))


def load_preset(name: str) -> Preset:
    """The shipped preset `name`, or the file of that path. Raises ConfigError that names the
    nearest one.
    """
    own = Path(name)
    if own.suffix == ".toml" and own.is_file():
        return load_recipe(own, Preset)
    if name not in preset_names():
        raise ConfigError(
            f"judge.preset: no '{name}', and no such .toml file; {name_hint(name, preset_names())}"
        )
    return load_recipe(PRESETS_DIR / f"{name}.toml", Preset)


def backend_of(preset: str | None, own: Mapping[str, Any]) -> JsonObject:
    """The settings of a backend: those of the preset, and over them the user's own. Raises
    ConfigError.
    """
    if preset is None:
        return dict(own)
    found = load_preset(preset)
    kind = found.backend.get("type")
    if own.get("type", kind) != kind:
        raise ConfigError(
            f"judge.backend.type: got '{own['type']}', but the preset '{preset}' has type"
            f" '{kind}'; leave out one of them"
        )
    return found.backend | dict.fromkeys(found.unset) | dict(own)
