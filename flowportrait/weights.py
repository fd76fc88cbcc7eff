"""Files of weights, tensor by tensor: headers tell what is in them, and nothing is read before it
is used.

A checkpoint of 29 GB is checked, converted and loaded with the memory of one tensor beside what is
kept. Bytes are copied as they are, so that a file which comes back is the file that went in.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from flowportrait.errors import CheckpointError

Shape = tuple[int, ...]

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
"""Names of safetensors' number formats."""

_RANKS = (
    "BOOL",
    "U8",
    "I8",
    "I16",
    "F16",
    "BF16",
    "I32",
    "F32",
    "F64",
    "I64",
)  # as safetensors orders them
BLOCK_BYTES = 1 << 22  # copied at a time
MAX_HEADER_BYTES = 100_000_000  # what the safetensors library allows


class Weight(Protocol):
    """A tensor in a file or in memory."""

    dtype: str
    shape: Shape

    @property
    def size_bytes(self) -> int:
        """Size of its data in bytes."""

    def blocks(self) -> Iterator[memoryview]:
        """Its bytes, a few megabytes at a time."""

    def tensor(self) -> Tensor:
        """Its data as a tensor in CPU memory."""


@dataclass(frozen=True)
class Stored:
    """A tensor within a safetensors file, from byte `start` on."""

    path: Path
    dtype: str
    shape: Shape
    start: int
    size_bytes: int

    def blocks(self) -> Iterator[memoryview]:
        """Its bytes, a few megabytes at a time."""
        buffer = memoryview(bytearray(min(BLOCK_BYTES, max(1, self.size_bytes))))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            left = self.size_bytes
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise CheckpointError(f"{self.path}: ends too early; download it again")
                yield buffer[:count]
                left -= count

    def tensor(self) -> Tensor:
        """Its data as a tensor in CPU memory."""
        raw = torch.empty(self.size_bytes, dtype=torch.uint8)
        target, at = memoryview(raw.numpy()), 0
        for block in self.blocks():
            target[at : at + len(block)] = block
            at += len(block)
        return raw.view(DTYPES[self.dtype]).reshape(self.shape)


@dataclass(frozen=True)
class Held:
    """A tensor that torch has already, such as one of a mapped .pth file."""

    value: Tensor

    @property
    def dtype(self) -> str:
        """Its number format by safetensors' name."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.value.dtype)

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return tuple(self.value.shape)

    @property
    def size_bytes(self) -> int:
        """Size of its data in bytes."""
        return self.value.numel() * self.value.element_size()

    def blocks(self) -> Iterator[memoryview]:
        """Its bytes, a few megabytes at a time."""
        raw = self.value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        for start in range(0, len(raw), BLOCK_BYTES):
            yield memoryview(raw[start : start + BLOCK_BYTES])

    def tensor(self) -> Tensor:
        """Its data as a tensor in CPU memory."""
        return self.value.detach().cpu()


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its own words, and where its tensors are."""

    text: str
    weights: dict[str, Stored]


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises CheckpointError for a file that is absent, cut off
    or no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; download it again from its source")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size):
            raise CheckpointError(
                f"{path}: not a readable safetensors file (its header has no length); download it"
                " again"
            )
        raw = file.read(length)
    try:
        text = raw.decode()
        entries = {
            name: entry for name, entry in json.loads(text).items() if name != "__metadata__"
        }
        weights = {name: _stored(path, 8 + length, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error!r}); download it again"
        ) from error
    end = max((weight.start + weight.size_bytes for weight in weights.values()), default=8 + length)
    if path.stat().st_size != end:
        raise CheckpointError(
            f"{path}: has {path.stat().st_size} bytes, but its header says {end}; download it again"
        )
    return Header(text, weights)


def _stored(path: Path, origin: int, entry: Mapping) -> Stored:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    dtype = entry["dtype"]
    if stop - start != torch.Size(shape).numel() * DTYPES[dtype].itemsize:
        raise ValueError(f"{dtype} {list(shape)} in {stop - start} bytes")
    return Stored(path, dtype, shape, origin + start, stop - start)


def find_weights(source: Path) -> dict[str, Weight]:
    """All tensors of a file (.safetensors, .pth, .pt, .bin) or of a directory of such files, by
    name.

    Raises CheckpointError where there is none, where one is damaged, or where two files hold the
    same name.
    """
    if source.is_file():
        files = [source]
    else:
        files = sorted(source.glob("*.safetensors")) or sorted(source.glob("*.bin"))
    if not files:
        raise CheckpointError(
            f"{source}: contains no weights; give a .safetensors, .pth or .bin file, or a folder"
            " of them"
        )
    if source.is_dir():
        require_all_shards(files)
    found: dict[str, Weight] = {}
    for file in files:
        own = read_header(file).weights if file.suffix == ".safetensors" else _pickled(file)
        twice = sorted(own.keys() & found.keys())
        if twice:
            raise CheckpointError(
                f"{file}: holds '{twice[0]}', which another file of {source} has, too; remove one"
            )
        found |= own
    return found


_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def require_all_shards(files: Sequence[Path]) -> None:
    """Raises CheckpointError where files are called `NAME-00002-of-00005.SUFFIX` and others of the
    same five are not among them, or where an index beside them (`*.index.json`) names a file that
    is not there.
    """
    names = {file.name for file in files}
    for file in files:
        if (found := _SHARD.fullmatch(file.name)) is None:
            continue
        stem, _, count, suffix = found.groups()
        for number in range(1, int(count) + 1):
            _require_shard(
                file.with_name(f"{stem}-{number:05d}-of-{count}{suffix}"),
                names,
                f"{int(count)} files",
            )
    for index in sorted(
        {path for file in files for path in file.parent.glob(f"*{file.suffix}.index.json")}
    ):
        try:
            wanted = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{index}: not a readable index of weights ({error!r}); download it again"
            ) from error
        for name in wanted:
            _require_shard(
                index.with_name(str(name)),
                names,
                f"the {len(wanted)} files that {index.name} names",
            )


def _require_shard(path: Path, names: set[str], of: str) -> None:
    if path.name not in names:
        raise CheckpointError(f"{path}: missing; the weights are {of}: download all of them")


def _pickled(path: Path) -> dict[str, Held]:
    """Tensors of a file of `torch.save`, mapped rather than read; code in such a file is never
    run.
    """
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", mmap=is_zipfile(path), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable file of tensors ({str(error).splitlines()[0]}); download it"
            " again"
        ) from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise CheckpointError(f"{path}: not a plain table of tensors; give the published weights")
    return {name: Held(value) for name, value in content.items()}


def write_weights(path: Path, weights: Mapping[str, Weight], header: str | None = None) -> str:
    """Writes a safetensors file of these tensors in this order, a few megabytes at a time, and
    gives its sha256.

    `header` is a file's own header to be written again word for word, where it says the same of the
    tensors.
    """
    text = header if header is not None and _says(header, weights) else _header_text(weights)
    order = weights
    if text is header:
        order = sorted(weights, key=lambda name: json.loads(text)[name]["data_offsets"])
    needed = sum(weight.size_bytes for weight in weights.values())
    require_room(path, needed)
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with part.open("wb") as file:
            for block in _all_blocks(text, (weights[name] for name in order)):
                file.write(block)
                digest.update(block)
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); it needs {needed / 1e9:.1f} GB; free"
            " some space"
        ) from error
    return digest.hexdigest()


def require_room(path: Path, needed: int) -> None:
    """Raises CheckpointError where the disk of `path`, which need not exist, has less than `needed`
    bytes free.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise CheckpointError(
            f"{path}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some space"
        )


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None
) -> str:
    """Writes tensors as safetensors' own `save_file` does, byte for byte, and gives the file's
    sha256; but readable for whom the user's umask says, whole or not at all, and with a full disk
    named. `about`: the file's metadata.
    """
    held = {name: Held(value) for name, value in tensors.items()}
    order = sorted(held, key=lambda name: (-_RANKS.index(held[name].dtype), name))
    entries = {"__metadata__": dict(about)} if about else {}
    at = 0
    for name in order:
        offsets = [at, at := at + held[name].size_bytes]
        entries[name] = {
            "dtype": held[name].dtype,
            "shape": list(held[name].shape),
            "data_offsets": offsets,
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False)
    return write_weights(path, held, text + " " * (-len(text.encode()) % 8))


def _all_blocks(text: str, weights: Iterable[Weight]) -> Iterator[bytes | memoryview]:
    raw = text.encode()
    yield len(raw).to_bytes(8, "little")
    yield raw
    for weight in weights:
        yield from weight.blocks()


def _header_text(weights: Mapping[str, Weight]) -> str:
    entries, at = {}, 0
    for name, weight in weights.items():
        offsets = [at, at := at + weight.size_bytes]
        entries[name] = {
            "dtype": weight.dtype,
            "shape": list(weight.shape),
            "data_offsets": offsets,
        }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":"))
    return text + " " * (-len(text.encode()) % 8)


def _says(header: str, weights: Mapping[str, Weight]) -> bool:
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    return entries.keys() == weights.keys() and all(
        (entry["dtype"], tuple(entry["shape"])) == (weights[name].dtype, weights[name].shape)
        for name, entry in entries.items()
    )


def difference(got: Mapping[str, Shape], expected: Mapping[str, Shape]) -> str:
    """The first difference between two sets of named shapes, in words; "" without any."""
    for name, shape in expected.items():
        if name not in got:
            return f"lacks '{name}'"
        if tuple(got[name]) != tuple(shape):
            return f"'{name}' is {list(got[name])} where {list(shape)} is needed"
    extra = sorted(got.keys() - expected.keys())
    return f"holds '{extra[0]}', which the model has not" if extra else ""


def shapes(weights: Mapping[str, Weight | Tensor]) -> dict[str, Shape]:
    """The shape of each tensor."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def load_into(
    module: nn.Module,
    weights: Mapping[str, Weight],
    device: torch.device,
    half: frozenset[str] = frozenset(),
) -> None:
    """Fills a module, which may be on the meta device, one tensor after another; the names must be
    the same.

    Numbers become float32, except those of names in `half`, which stay bf16 where they are stored
    so.
    """
    state = {}
    for name, weight in weights.items():
        value = weight.tensor()
        wide = value.is_floating_point() and not (name in half and value.dtype == torch.bfloat16)
        state[name] = value.to(device, torch.float32 if wide else value.dtype)
    module.load_state_dict(state, assign=True)
