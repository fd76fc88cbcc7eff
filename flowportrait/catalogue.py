"""Everything that can be named, with a description: models, recipes and their kinds, the parts of
the tables.

All of it is read from where it stands (cards, comments, docstrings), and nothing heavy is imported.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flowportrait.config import models_in, read_values
from flowportrait.errors import ConfigError
from flowportrait.registry import (
    LISTED,
    MODELS_DIR,
    RECIPES_DIR,
    PartTable,
    model_names,
    names_of,
)

RECIPE_KINDS = PartTable(
    "kind of recipe",
    {
        "chain": "flowportrait.reproduce:Chain",
        "codec": "flowportrait.train.tiny.codec:CodecRecipe",
        "ear": "flowportrait.train.tiny.ear:EarRecipe",
        "faults": "flowportrait.scoring.judges.faults:Faults",
        "mouth": "flowportrait.train.tiny.mouth:MouthRecipe",
        "prepare": "flowportrait.prepare.settings:PrepareConfig",
        "rl": "flowportrait.train.rl:RlRecipe",
        "scoring": "flowportrait.scoring.run:ScoringConfig",
        "scratch": "flowportrait.train.tiny.scratch:ScratchRecipe",
        "sft": "flowportrait.train.sft:SftRecipe",
        "sync": "flowportrait.train.tiny.sync:SyncRecipe",
    },
)
"""Kinds of files of settings, by the command that reads them; `chain` is for `reproduce`, `faults`
for `judge-sim`."""


def kind_of(recipe: Path | str) -> str:
    """The kind that declares most of a recipe's keys, and of several the one that requires most.
    Raises ConfigError if no kind declares any of them.
    """
    values = read_values(recipe)
    found = {name: _fit(values, RECIPE_KINDS.load(name)) for name in RECIPE_KINDS.names()}
    best = max(found, key=lambda name: found[name])
    if found[best][0] <= 0:
        raise ConfigError(
            f"{recipe}: unrecognized kind of recipe; give --kind {'|'.join(RECIPE_KINDS.names())}"
        )
    return best


def _fit(values: Mapping[str, Any], kind: type[BaseModel]) -> tuple[int, int]:
    """How many of the keys are known, less those that are not; then how many are needed, less those
    that are needed and not there.
    """
    needed = {name for name, field in kind.model_fields.items() if field.is_required()}
    lacking = needed - values.keys()
    return sum(_known(values, kind)), len(needed) - 2 * len(lacking)


def _known(values: Mapping[str, Any], kind: type[BaseModel]) -> Iterator[int]:
    """1 for every key that the kind knows, -1 for every other, tables within it too."""
    for key, value in values.items():
        field = kind.model_fields.get(key)
        yield 1 if field else -1
        inside = models_in(field.annotation) if field else []
        if isinstance(value, Mapping) and len(inside) == 1:
            yield from _known(value, inside[0])


def about(what: str) -> Mapping[str, str]:
    """Names that `flowportrait list` can list, with their descriptions."""
    if what == "models":
        return {name: about_model(MODELS_DIR / name) for name in model_names()}
    if what == "recipes":
        return {name: about_recipe(RECIPES_DIR / name) for name in names_of(what)}
    targets = {name: target for table in LISTED[what] for name, target in table.targets().items()}
    return {name: about_part(targets[name]) for name in sorted(targets)}


def about_recipe(path: Path) -> str:
    """Description of a recipe: the first sentence of the comment at its top."""
    lines = path.read_text(encoding="utf-8").splitlines()
    # A command to be typed is set in by more.
    top = takewhile(lambda line: line.startswith("# ") and not line.startswith("#  "), lines)
    return _first_sentence(" ".join(line.removeprefix("# ").strip() for line in top))


def about_model(directory: Path) -> str:
    """Description of a model by its card: the first sentence below the title; empty
    without a card.
    """
    card = directory / "CARD.md"
    text = ""
    if card.is_file():
        text = card.read_text(encoding="utf-8")
    paragraphs = (part for part in text.split("\n\n") if part.strip() and not part.startswith("#"))
    return _first_sentence(" ".join(next(paragraphs, "").split()))


def about_part(target: str) -> str:
    """Description of a part: the first sentence of its docstring, which is read and not imported;
    empty for one of another package.
    """
    module, _, name = target.partition(":")
    file = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        return ""
    declared = ast.parse(file.read_text(encoding="utf-8")).body
    text = next(
        (ast.get_docstring(one) for one in declared if getattr(one, "name", "") == name), ""
    )
    return _first_sentence(" ".join((text or "").split()))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!Eq)(?<!Eqs)(?<!App)\.(?=\s+[A-Z(`]|$)", text, maxsplit=1)[0]
