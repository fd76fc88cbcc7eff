"""Digests of a checkpoint's files: `digests.json` beside them, written last and checked before
anything is read.

Every rank digests the files that it wrote; in checking, files are dealt out to the ranks.
Checkpoints from before there were digests are checked as far as can be: that every file is there
and long enough.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any, Literal

from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from flowportrait.config import Frozen, load_recipe
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.files import replace
from flowportrait.train.parallel import Ranks

DIGESTS = "digests.json"
HEAD = ".metadata"
SEALED = "sealed"
"""Key of a stored state: it says that the checkpoint has digests, so that it is not whole without
them.
"""

UNREADABLE = (
    OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, LookupError, TypeError,
    ValueError, RuntimeError, MemoryError,
)  # fmt: skip
"""What reading a damaged pickle can raise."""


class FileDigest(Frozen):
    """Size and sha256 of one file."""

    size_bytes: int
    sha256: str


class Digests(Frozen):
    """digests.json: every file of a checkpoint but itself."""

    schema_version: Literal[1] = 1
    files: dict[str, FileDigest]


def seal(folder: Path, ranks: Ranks) -> None:
    """Writes digests.json for a checkpoint whose files all ranks have written. Raises OSError."""
    own = [path for path in folder.iterdir() if path.name.startswith(f"__{ranks.rank}_")]
    own += [folder / HEAD] if ranks.first else []
    made = {path.name: _digest(path) for path in own}
    everywhere = {name: digest for rank in ranks.gather(made) for name, digest in rank.items()}
    if ranks.first:
        text = Digests(files=dict(sorted(everywhere.items()))).model_dump(mode="json")
        replace(folder / DIGESTS, (json.dumps(text, indent=2) + "\n").encode())
    ranks.wait()


def problem_of(folder: Path, ranks: Ranks) -> str:
    """The problem of a checkpoint, in words that begin with the file's name; "" for a whole one.
    The ranks check a part of the files each and all give the same answer.
    """
    return next(filter(None, ranks.gather(_problem_of_share(folder, ranks.rank, ranks.world))), "")


def read_head(folder: Path) -> Metadata:
    """Tensors of a checkpoint and their places. Raises CheckpointError for one that cannot
    be read.
    """
    try:
        head = FileSystemReader(folder).read_metadata()
    except UNREADABLE as error:
        raise CheckpointError(f"{folder / HEAD}: cannot be read ({error!r})") from error
    if not isinstance(head, Metadata) or not isinstance(head.storage_data, dict):
        raise CheckpointError(f"{folder / HEAD}: cannot be read (it holds no table of tensors)")
    return head


def _problem_of_share(folder: Path, rank: int, world: int) -> str:
    """The fault of this rank's share of the files; empty without one."""
    try:
        if not (folder / DIGESTS).is_file():
            return _problem_without_digests(folder)
        named = load_recipe(folder / DIGESTS, Digests).files
        # The head first: it is a pickle, and is not opened before it is known to be what was
        # written.
        for name in (HEAD, *sorted(named.keys() - {HEAD})[rank::world]):
            if name not in named:
                return f"{DIGESTS} does not name {name}"
            if not (folder / name).is_file():
                return f"{name} is not there"
            if (got := _digest(folder / name)) != named[name]:
                sizes = f"{got.size_bytes} of {named[name].size_bytes} bytes"
                return f"{name} is not what was written ({sizes}, sha256 {got.sha256[:12]})"
        lacking = sorted(_files_of(read_head(folder)) - named.keys())
        if lacking:
            return f"{DIGESTS} does not name {lacking[0]}"
        return ""
    except ConfigError as error:
        return str(error).removeprefix(f"{folder}/")
    except CheckpointError as error:
        return str(error).removeprefix(f"{folder}/")
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"


def _problem_without_digests(folder: Path) -> str:
    """Of a checkpoint that may be from before there were digests."""
    head = read_head(folder)
    if SEALED in head.state_dict_metadata:
        return f"{DIGESTS} is not there"
    for stored in head.storage_data.values():
        path = folder / stored.relative_path
        if not path.is_file():
            return f"{path.name} is not there"
        if path.stat().st_size < stored.offset + stored.length:
            return f"{path.name} is cut off at {path.stat().st_size} bytes"
    return ""


def _files_of(head: Metadata) -> set[str]:
    """The files that a checkpoint's tensors lie in."""
    stored: dict[Any, Any] = head.storage_data
    return {place.relative_path for place in stored.values()}


def _digest(path: Path) -> FileDigest:
    """Read from the disk, or its cache, anew each time."""
    with path.open("rb") as file:
        return FileDigest(
            size_bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )
