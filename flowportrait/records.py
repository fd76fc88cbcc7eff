"""The typed records that lie on disk: one JSON object a line, its schema version inside."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowportrait.errors import DataError


class Record(BaseModel):
    """A frozen row. `schema_version` stands in every row, and a row of another version does not load."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestRow(Record):
    """One clip of a dataset: where it lies, how long it is, who speaks, what for."""

    schema_version: Literal[1] = 1
    id: str = Field(description="unique within the manifest")
    video: str = Field(description="path relative to the manifest; the sound lies in the same file")
    num_frames: int = Field(ge=1)
    fps: float = Field(gt=0)
    size_px: int = Field(ge=1, description="side of the square frames")
    sample_rate_hz: int = Field(ge=1)
    split: Literal["train", "held_out"] = "train"
    identity: str = Field(default="", description="who is seen; no identity is in both splits")
    voice: str = Field(default="", description="who is heard; no voice is in both splits")
    text: str = Field(default="", description="what is said, where known")
    source: str = Field(default="", description="the collection the clip comes from")
    licence: str = Field(default="", description="SPDX name or the licence's own words")

    @property
    def duration_s(self) -> float:
        """Seconds of picture."""
        return self.num_frames / self.fps


class RunInfo(Record):
    """What one `generate` did, with all that is needed to do it again. Printed by `--json`."""

    schema_version: Literal[1] = 1
    flowportrait: str = Field(description="version of the package")
    output: str
    portrait: str
    audio: str
    model: str
    device: str
    seed: int
    evaluations: int = Field(ge=1, description="calls of the network for each window")
    guidance: float
    crop: Literal["auto", "none"]
    num_frames: int = Field(ge=1)
    fps: float
    size_px: int
    video_s: float
    computing_s: float = Field(description="wall time of the whole process, imports and writing included")
    real_time_factor: float = Field(description="seconds of computing for one second of video")
    warnings: list[str] = []


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Writes one record a line, replacing the file."""
    Path(path).write_text("".join(record.model_dump_json() + "\n" for record in records), encoding="utf-8")


R = TypeVar("R", bound=Record)


def read_jsonl(path: str | Path, kind: type[R]) -> Iterator[R]:
    """The records of a file, one a line, blank lines skipped. Raises DataError naming the wrong line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON lines of {kind.__name__}: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{path}:{number}: no valid {kind.__name__}: {where}: {first['msg']}") from error
