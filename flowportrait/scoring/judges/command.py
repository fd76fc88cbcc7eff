"""Work of `judges presets`, `judges prompts` and `judges agree`; the command line stands in
`flowportrait.cli`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from flowportrait.errors import DataError
from flowportrait.files import named
from flowportrait.pages import markdown_rows
from flowportrait.records import Score, read_jsonl
from flowportrait.scoring.judges import moving
from flowportrait.scoring.judges.presets import load_preset, preset_names
from flowportrait.scoring.judges.prompts import PROMPTS_DIR, load_prompt, prompt_names


def presets(name: str | None, as_json: bool) -> None:
    """`flowportrait judges presets`: all of them, or what one of them holds."""
    found = {one: load_preset(one) for one in ([name] if name else preset_names())}
    for one, preset in found.items():
        model = preset.backend.get("model", "any model")
        print(f"{one}: {model}. {preset.about}.")
        if name:
            print(f"source: {preset.source}\nchecked: {preset.checked}")
            print(
                "\n".join(f"{key} = {json.dumps(value)}" for key, value in preset.backend.items())
            )
            print("\n".join(f"{key} is not sent" for key in preset.unset))
    if as_json:
        print(json.dumps({one: preset.model_dump(mode="json") for one, preset in found.items()}))


def prompts(copy: Path | None, as_json: bool) -> None:
    """`flowportrait judges prompts`: lists them, or copies them into a folder to be changed
    there.
    """
    names = prompt_names()
    _show_or_copy(copy, names)
    if as_json:
        print(
            json.dumps(
                {
                    "prompts": names,
                    "output": str(copy) if copy else None,
                }
            )
        )


def _show_or_copy(copy: Path | None, names: list[str]) -> None:
    """Prints which prompts are in use, or copies them to be changed."""
    if copy is None:
        for name in names:
            prompt = load_prompt(name)
            print(f"{name}: version {prompt.version}, {prompt.source}")
    else:
        _copy(names, copy)
        print(
            f"{len(names)} prompts: {copy}; change them there and use them with --set"
            f" judge.prompts={copy}"
        )


def _copy(names: Sequence[str], folder: Path) -> None:
    """Raises DataError when a file would be replaced or cannot be written."""
    there = [name for name in names if (folder / f"{name}.md").exists()]
    if there:
        raise DataError(f"{folder / there[0]}.md: already exists; give an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(PROMPTS_DIR / f"{name}.md", folder / f"{name}.md")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from error


def agree(old: Path, new: Path, out: Path | None, as_json: bool) -> None:
    """`flowportrait judges agree`: two judges on the clips that both scored."""
    files = [named(path) for path in (old, new)]
    scores = [list(read_jsonl(path, Score)) for _, path in files]
    found = moving.match(*scores)
    labels = [
        name or _models(rows) or str(path) for (name, path), rows in zip(files, scores, strict=True)
    ]
    print(f"old: {labels[0]}; new: {labels[1]}\n")
    print("\n".join(markdown_rows(moving.HEAD, moving.rows(found))))
    lost = found[0]
    if lost.only_old or lost.only_new:
        print(
            f"\nleft out: {lost.only_old} clips that only the old one scored, {lost.only_new} that"
            " only the new one"
        )
    record = {
        "old": labels[0],
        "new": labels[1],
        "matches": [one.model_dump(mode="json") for one in found],
    }
    if out is not None:
        try:
            out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{out}: cannot be written: {error.strerror}") from error
    if as_json:
        print(json.dumps(record))


def _models(scores: Sequence[Score]) -> str:
    """The models that answered, in their own words."""
    return ", ".join(sorted({score.model for score in scores if score.model}))
