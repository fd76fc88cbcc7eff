"""A part of a preparation on disk: how it is known later that parts are of one whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from flowportrait.cluster import Part
from flowportrait.config import Frozen, load_recipe, save_resolved
from flowportrait.errors import DataError

FILE = "part.json"


class PartFile(Frozen):
    """part.json of a dataset that holds a part: which one, and a digest of the names of all
    sources.
    """

    schema_version: Literal[1] = 1
    part: Part
    num_sources: int
    sources: str

    @classmethod
    def of_sources(cls, part: Part, keys: Sequence[str]) -> PartFile:
        """For a list of all parts' sources."""
        digest = hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()
        return cls(part=part, num_sources=len(keys), sources=digest)


def settle(out: Path, wanted: PartFile | None) -> None:
    """Marks a dataset as a part, or finds that it is the one that is wanted. Raises DataError where
    it is not.
    """
    path = out / FILE
    known = None
    if path.is_file():
        known = load_recipe(path, PartFile)
    if known == wanted:
        return
    journal = out / "journal.jsonl"
    if known is None and wanted is not None and not journal.read_bytes():
        save_resolved(wanted, path)
        return
    if known is not None and wanted is not None and known.part == wanted.part:
        raise DataError(
            f"{out}: is {known.part} of other sources ({known.num_sources}); give the same, or"
            " another -o"
        )
    holds = f"is {known.part}" if known else "is no part"
    raise DataError(f"{out}: {holds}, got {_asked(wanted)}; give another -o")


def _asked(wanted: PartFile | None) -> str:
    """The option on the command line that asks for this part."""
    if wanted is None:
        return "no --part"
    return f"--part {wanted.part.number}/{wanted.part.of}"
