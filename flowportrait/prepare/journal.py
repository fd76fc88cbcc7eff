"""The journal of `prepare`: what became of each source, and why a stretch of it was dropped."""

from typing import Literal, get_args

from pydantic import Field

from flowportrait.records import MaybeNumber, Record

Reason = Literal[
    "unreadable", "no_picture", "no_sound", "silent", "damaged", "crashed", "language", "direction",
    "no_face", "small_face", "not_speaking", "overlap", "short", "not_for_test", "turned",
]  # fmt: skip


REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why `prepare` drops a second of a source."""


class Dropped(Record):
    """A stretch of a source that `prepare` did not keep."""

    start_s: float
    end_s: float
    reason: Reason


class PreparedClip(Record):
    """A clip that `prepare` kept: where it comes from and how it was cut."""

    id: str
    video: str = Field(description="path relative to the dataset")
    start_frame: int = Field(ge=0, description="in the source, at 24 fps")
    num_frames: int = Field(ge=1)
    size_px: int = Field(ge=1)
    sample_rate_hz: int = Field(ge=1)
    face_px: float = Field(description="longer side of the face's box in the source, median")
    square: tuple[int, int, int] = Field(
        description="x, y and side of the first frame's square in the source"
    )
    travel: float = Field(description="how far the face moves, as a share of its own size")
    speaking: MaybeNumber = Field(
        description="mean confidence that this face speaks; nan when not asked"
    )
    sha256: str = Field(description="of the video file")


class PreparedSource(Record):
    """The result of `prepare` for one source. Every second of it is in a clip or has a reason."""

    schema_version: Literal[1] = 1
    key: str = Field(description="name of the source within the run")
    size_bytes: int
    changed_ns: int = Field(
        description="when the file was last changed; it is prepared again when this differs"
    )
    identity: str = Field(description="name of the person, which decides the split")
    voice: str
    text: str = ""
    licence: str = ""
    collection: str = ""
    direction: str = Field(default="", description="of the face, where the source says it")
    fingerprint: str = Field(description="digest of the settings and weights")
    duration_s: float = Field(default=0.0, ge=0, description="of its picture, as far as known")
    clips: list[PreparedClip] = []
    dropped: list[Dropped] = []
    notes: list[str] = Field(default=[], description="what is wrong with the file, in words")
    computing_s: dict[str, float] = Field(default={}, description="processor seconds by stage")

    def crashed(self) -> "PreparedSource":
        """The record of a source that killed the process which read it."""
        dropped = Dropped(start_s=0.0, end_s=0.0, reason="crashed")
        note = f"{self.key}: the process that read it died; the next run tries it again"
        return self.model_copy(update={"dropped": [dropped], "notes": [note]})


SOURCE_FIELDS = (
    "key", "size_bytes", "changed_ns", "identity", "voice", "text", "licence", "collection",
    "direction",
)  # fmt: skip
"""What a `PreparedSource` says of the source itself."""
