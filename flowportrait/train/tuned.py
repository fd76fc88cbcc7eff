"""A trained model as a model directory: new weights of the generator beside the parts of the model
it began from.

Parts that do not learn are copied file by file, so that datasets encoded with them go on fitting.
The card is the model's own; that of the model it began from stays beside it, because its licences
and notices go on applying.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from flowportrait.errors import CheckpointError
from flowportrait.files import link_or_copy
from flowportrait.modeldir import CONFIG, ModelSpec, save_spec
from flowportrait.weights import require_room, save_tensors

CARD = "CARD.md"


@dataclass(frozen=True)
class Story:
    """Facts of a training for its card: `how` in words, the updates made of those planned, what it
    was trained on by name, and figures that the run itself measured.
    """

    how: str
    update: int
    num_updates: int
    data: tuple[str, ...]
    figures: Mapping[str, float | None] = field(default_factory=dict)


def write_tuned(
    directory: Path,
    start: Path,
    began_from: ModelSpec,
    changes: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    story: Story,
) -> ModelSpec:
    """Writes a model directory with the generator's `weights` and every other part of the one at
    `start`; it replaces the last one when it is whole. `changes` are the values of config.json that
    are not those of `began_from`.

    Raises CheckpointError where it cannot be written, such as on a full disk.
    """
    part = directory.with_name(f"{directory.name}.part")
    kept = [
        path
        for path in sorted(start.rglob("*"))
        if path.is_file() and _is_kept(path.relative_to(start))
    ]
    needed = sum(path.stat().st_size for path in kept)
    needed += sum(value.numel() * value.element_size() for value in weights.values())
    directory.parent.mkdir(parents=True, exist_ok=True)
    require_room(directory, needed)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for path in kept:
            place = part / _place_of(path.relative_to(start), began_from.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        digest = save_tensors(part / "model.safetensors", weights)
        others = {
            name: own for name, own in began_from.sha256.items() if not name.startswith("model")
        }
        digests = {**others, "model.safetensors": digest}
        spec = began_from.model_copy(update={**changes, "sha256": digests})
        save_spec(spec, part)
        write_card(part, spec, story, began_from.name)
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(
            f"{directory}: cannot be written ({error.strerror}); it needs {needed / 1e9:.1f} GB;"
            " free some space, and resume with --resume auto"
        ) from error
    return spec


def keep_as(directory: Path, name: str) -> None:
    """The model directory under another name beside it, too, its weights on disk once: as they are
    replaced and never changed in place, hard links keep them. Where the disk has no links they are
    copied.
    """
    place = directory.with_name(name)
    part = directory.with_name(f"{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(directory, part, copy_function=_linked)
    shutil.rmtree(place, ignore_errors=True)
    part.rename(place)


def write_card(directory: Path, spec: ModelSpec, story: Story, began_from: str | None) -> None:
    """CARD.md of a model that a run has made; without `began_from` it began from nothing."""
    sentences = [f"A model of {spec.size_px} px and {spec.fps:g} fps, written by a training run"]
    sentences.append(
        "its card is written by the run as well; what nobody measured does not stand here."
    )
    lines = [f"# {spec.name}", "", "; ".join(sentences), "", "## Made by", ""]
    lines += [f"{story.how}, {story.update} of {story.num_updates} updates.", "", "Trained on:", ""]
    lines += [f"- {name}" for name in story.data]
    lines += ["", "## Made from", "", f"{began_from or 'Nothing: the weights started fresh'}.", ""]
    before = sorted(path.name for path in directory.glob("CARD.*.md"))
    if before:
        lines += [
            f"What it began from has a card of its own, whose licences and notices go on applying: "
            f"{', '.join(before)}. Its figures are not those of this model.",
            "",
        ]
    lines += ["## Measured", ""]
    known = [
        f"| {name} | {value:.4g} |" for name, value in story.figures.items() if value is not None
    ]
    if known:
        lines += [
            f"By the run, at update {story.update}:",
            "",
            "| figure | value |",
            "|---|---|",
            *known,
        ]
    else:
        lines.append("Nothing.")
    lines += [
        "",
        "## Licence",
        "",
        "Not stated by the run: it follows from what the model began from and from the "
        "data it was trained on. Whoever passes the model on states it here.",
    ]
    (directory / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def data_names(values: Iterable[Any]) -> tuple[str, ...]:
    """Names of datasets: a folder's or list's own name, without where it lies."""
    return tuple(Path(value).name for value in values if value is not None)


def _is_kept(path: Path) -> bool:
    replaced = (
        path.name.startswith("model") and path.suffix == ".safetensors" and len(path.parts) == 1
    )
    return not replaced and str(path) != CONFIG


def _place_of(path: Path, name: str) -> Path:
    """Where a file goes: the card of the model that was begun from bears its name."""
    if str(path) == CARD:
        return Path(f"CARD.{name}.md")
    return path


def _linked(source: str, place: str) -> None:
    # Small files are for people, who may change them.
    if not source.endswith(".safetensors"):
        shutil.copyfile(source, place)
        return
    link_or_copy(Path(source), Path(place))
