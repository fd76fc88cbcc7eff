"""Typed records on disk: one JSON object a line, its schema version inside."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flowportrait.errors import DataError
from flowportrait.files import JsonObject, replace

Aspect = Literal["lip_sync", "expressiveness", "motion"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
"""What the paper rates, in its order (§2.2)."""


class Record(BaseModel):
    """A frozen row. `schema_version` stands in every row, and a row of another version does not
    load.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


def _null_is_nan(value: object) -> object:
    if value is None:
        return math.nan
    return value


MaybeNumber = Annotated[float, BeforeValidator(_null_is_nan)]
"""A number, or nan where there is none; nan is null on disk, because JSON has no nan."""


Split = Literal["train", "held_out", "test"]
"""Purpose of a clip: to learn from, to look at while a run learns, or for neither until the end."""


class ManifestRow(Record):
    """One clip of a dataset: file, length, speaker and split."""

    schema_version: Literal[1] = 1
    id: str = Field(description="unique within the manifest")
    video: str = Field(description="path relative to the manifest; the sound lies in the same file")
    num_frames: int = Field(ge=1)
    fps: float = Field(gt=0)
    size_px: int = Field(ge=1, description="side of the square frames")
    sample_rate_hz: int = Field(ge=1)
    split: Split = "train"
    identity: str = Field(default="", description="who is seen; no identity is in two splits")
    voice: str = Field(default="", description="who is heard; no voice is in two splits")
    text: str = Field(default="", description="what is said, where known")
    source: str = Field(default="", description="the collection the clip comes from")
    licence: str = Field(default="", description="SPDX name or the licence's own words")

    @property
    def duration_s(self) -> float:
        """Seconds of picture."""
        return self.num_frames / self.fps


class EncodedClip(Record):
    """One clip of an encoded dataset: which shard holds its latents and features, and how long it
    is.
    """

    schema_version: Literal[1] = 1
    id: str = Field(description="that of the clip in the dataset it was encoded from")
    shard: str = Field(description="file name of the shard")
    split: Literal["train", "held_out"] = "train"
    latent_frames: int = Field(ge=1)
    num_portraits: int = Field(
        ge=1, description="pictures of the clip whose features are kept; the first is frame 0"
    )
    latents_each: bool = Field(
        description="whether the codec sees the portrait, so that each has latents of its own"
    )


class RunInfo(Record):
    """The record of one video, with everything needed to reproduce it. Printed by `--json`."""

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
    size_px: int = Field(description="side of the face's square in the video")
    size: int | Literal["auto"] = Field(default=128, description="the side that was asked for")
    frame: Literal["whole", "face"] = Field(
        default="face", description="the whole picture, or the square alone"
    )
    head: float = Field(
        default=1.0, description="strength of the head's movements, as of `lips` and `eyes`"
    )
    lips: float = 1.0
    eyes: float = 1.0
    step_cache: float = Field(
        default=0.0, ge=0, description="threshold of reusing evaluations; 0 is off"
    )
    evaluations_saved: int = Field(default=0, ge=0, description="by the step cache, in all windows")
    quantize: Literal["int8", "fp8"] | None = Field(
        default=None, description="to what the weights of the layers were brought"
    )
    sample_rate_hz: int = Field(default=0, ge=0, description="of the sound; 0 in older records")
    video_s: float
    computing_s: float = Field(
        description="wall time of the whole process, imports and writing included"
    )
    real_time_factor: float = Field(description="seconds of computing for one second of video")
    warnings: list[str] = []
    source_sha256: str = Field(
        default="", description="of the clip, where portrait and sound come from a dataset"
    )
    model_sha256: str = Field(
        default="", description="digest of the model's config.json, which holds its weights'"
    )


class Measured(Record):
    """The common part of `Score` and `Verdict`: where the result comes from, and why there is none
    where there is none.
    """

    schema_version: Literal[1] = 1
    reason: str = Field(default="", description="why there is no result; empty when there is one")
    repeat: int = Field(default=0, ge=0, description="which of several independent askings")
    fingerprint: str = Field(
        default="", description="digest of all that decides the result apart from the clips"
    )
    model: str = Field(default="", description="what answered or computed, in its own words")
    answers: list[str] = Field(
        default=[], description="keys of the raw answers in the answer store"
    )
    tokens: int = Field(default=0, ge=0, description="tokens of those answers, questions included")


class Score(Measured):
    """One number that one scorer gives one clip, or the reason why it gives none."""

    clip: str = Field(description="id of the clip")
    scorer: str
    value: MaybeNumber = Field(default=math.nan, description="nan when unscored")
    unit: str = ""
    parts: dict[str, MaybeNumber] = Field(
        default={}, description="what `value` is made of, by aspect"
    )
    expected: dict[str, float] = Field(
        default={}, description="by aspect, from token probabilities if known"
    )
    sha256: str = Field(default="", description="of the video file")
    truth_sha256: str = Field(
        default="", description="of the ground-truth video, where the scorer needs one"
    )
    warnings: list[str] = Field(
        default=[], description="what can hardly have been meant about the clip"
    )
    settings: JsonObject = Field(
        default={}, description="how a metric was set: crops, windows, readings"
    )
    weights_sha256: str = Field(default="", description="of the file of pretrained weights")
    source: dict[str, float] = Field(
        default={},
        description=(
            "of the video: fps, num_frames, duration_s, and looked_at_fps, the metric's clock;"
            " reader, the version of what read it"
        ),
    )

    @model_validator(mode="after")
    def _a_number_or_a_reason(self) -> Self:
        if math.isnan(self.value) != bool(self.reason):
            raise ValueError("give either a value or a reason, not both or neither")
        return self


class SetScore(Record):
    """The distance of a set of clips to another, or the reason why there is none."""

    schema_version: Literal[1] = 1
    set_metric: str
    generator: str = Field(default="", description="whose clips; empty where all were of one")
    value: MaybeNumber = Field(default=math.nan, description="nan when there is none")
    reason: str = ""
    unit: str = ""
    parts: dict[str, MaybeNumber] = Field(
        default={}, description="numbers of vectors and dimensions"
    )
    warnings: list[str] = []
    num_clips: int = Field(ge=0)
    num_truth: int = Field(ge=0)
    left_out: list[str] = Field(
        default=[], description="clips without features, each with its reason"
    )
    fingerprint: str = ""
    settings: JsonObject = {}
    weights_sha256: str = ""


class Verdict(Measured):
    """The preference of one comparer between two clips, or the reason why there is none."""

    a: str = Field(description="id of one clip")
    b: str = Field(description="id of the other")
    system: str
    winner: Literal["a", "b", "tie"] | None = None
    parts: dict[str, Literal["a", "b"]] = Field(default={}, description="winner by aspect")
    orders: dict[Literal["ab", "ba"], Literal["a", "b"]] = Field(
        default={}, description="winner by the order in which the two were shown"
    )
    seed: int = Field(default=0, description="decides the order shown when only one is asked for")
    sha256: list[str] = Field(default=[], description="of the two video files")
    warnings: list[str] = Field(
        default=[], description="what can hardly have been meant about the two clips"
    )

    @model_validator(mode="after")
    def _a_winner_or_a_reason(self) -> Self:
        """Refuses a pair that has both a winner and a reason for having none, or neither."""
        if (self.winner is None) != bool(self.reason):
            raise ValueError("give either a winner or a reason, not both or neither")
        return self


class Rating(Record):
    """One rater's rating of one clip for one aspect (§2.3, App. A)."""

    schema_version: Literal[1] = 1
    rater: str = Field(min_length=1)
    sample: str = Field(
        min_length=1, description="what was spoken by whom; its versions form a set"
    )
    version: str = Field(
        min_length=1, description="which of the set: a generator's name, or the original's"
    )
    aspect: Aspect
    score: int = Field(
        ge=1, le=5, strict=True, description="1 worst, 5 best, by the rubrics of Tables 6-8"
    )
    repeat: int = Field(
        default=0, ge=0, description="above 0: shown again, to see whether the rater is consistent"
    )
    item: str = Field(default="", description="name under which the clip was shown")


Relation = Literal[">", ">=", "=", "<=", "<"]


class Ranking(Record):
    """One rater's ranking of one sample: groups of equal versions, best first (App. A: "C > A >= B
    = D").

    Versions that stand in no group were not ranked. Between two groups stands ">", or ">=" where
    the rater does not say that the first is strictly better.
    """

    schema_version: Literal[1] = 1
    rater: str = Field(min_length=1)
    sample: str = Field(min_length=1)
    groups: list[list[str]]
    between: list[Literal[">", ">="]] = Field(
        default=[], description="one less than groups; empty: all '>'"
    )
    repeat: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _an_order(self) -> Self:
        """Refuses a ranking with empty groups or a version twice."""
        names = [name for group in self.groups for name in group]
        if not all(self.groups) or not all(names):
            raise ValueError("empty group or name; every group needs at least one name")
        if len(names) != len(set(names)):
            raise ValueError("a version appears twice in the ranking")
        if self.between and len(self.between) != len(self.groups) - 1:
            raise ValueError(
                f"{len(self.groups)} groups need {len(self.groups) - 1} signs between them"
            )
        return self

    @classmethod
    def parse(cls, text: str, rater: str, sample: str, repeat: int = 0) -> Self:
        """The ranking that `text` writes down, such as "C > A >= B = D". Raises DataError."""
        words = re.split(r"(>=|≥|>|=)", text)
        names, signs = (
            [word.strip() for word in words[::2]],
            [sign.replace("≥", ">=") for sign in words[1::2]],
        )
        if not all(names):
            raise DataError(f"ranking {text!r}: a name is missing; write it like C > A >= B = D")
        groups = [[names[0]]]
        between = []
        for sign, name in zip(signs, names[1:], strict=True):
            if sign == "=":
                groups[-1].append(name)
            else:
                groups.append([name])
                between.append(sign)
        try:
            return cls(rater=rater, sample=sample, groups=groups, between=between, repeat=repeat)
        except ValidationError as error:
            raise DataError(
                f"ranking {text!r}: {error.errors(include_url=False)[0]['msg']}"
            ) from error

    @property
    def text(self) -> str:
        """The ranking as App. A writes it."""
        parts = [" = ".join(group) for group in self.groups]
        signs = self.between or [">"] * (len(parts) - 1)
        return "".join(
            part + (f" {sign} " if sign else "")
            for part, sign in zip(parts, [*signs, ""], strict=True)
        )

    def relation(self, a: str, b: str) -> Relation | None:
        """The relation of `a` to `b`; None if one of them is not ranked."""
        place = {name: number for number, group in enumerate(self.groups) for name in group}
        if a not in place or b not in place:
            return None
        low, high = sorted((place[a], place[b]))
        if low == high:
            return "="
        strict = not self.between or ">" in self.between[low:high]
        if place[a] < place[b]:
            return ">" if strict else ">="
        return "<" if strict else "<="


class Pair(Record):
    """Two versions of a sample, and which of them all raters prefer, or why the pair is not used
    (§2.3).
    """

    schema_version: Literal[1] = 1
    sample: str
    a: str
    b: str
    winner: Literal["a", "b"] | None = None
    dropped: Literal["", "tie", "disagreement", "missing"] = Field(
        default="",
        description=(
            "tie: someone sees no strict order, and nobody contradicts; missing: too few raters"
        ),
    )
    votes: dict[str, int] = Field(default={}, description="raters by what they said: a, b, tie")

    @model_validator(mode="after")
    def _a_winner_or_a_reason(self) -> Self:
        if (self.winner is None) != bool(self.dropped):
            raise ValueError(
                "give either a winner or a reason for dropping the pair, not both or neither"
            )
        return self


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Writes one record a line, replacing the file when all are written."""
    replace(Path(path), "".join(record.model_dump_json() + "\n" for record in records).encode())


R = TypeVar("R", bound=Record)


def read_jsonl(path: str | Path, kind: type[R]) -> Iterator[R]:
    """The records of a file, one a line, blank lines skipped. Raises DataError naming the wrong
    line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON lines of {kind.__name__}: {error}"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(
                f"{path}:{number}: not a valid {kind.__name__}: {where}: {first['msg']}"
            ) from error
