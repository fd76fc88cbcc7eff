"""Settings of `prepare`, and the split of an identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from flowportrait import storage
from flowportrait.config import Frozen
from flowportrait.files import sha256_of
from flowportrait.prepare.journal import PreparedSource
from flowportrait.prepare.speaker import SpeakerConfig
from flowportrait.prepare.speech import SpeechConfig
from flowportrait.prepare.tracks import (
    CropConfig,
    FacesConfig,
    ScenesConfig,
)

VERSION = 2
"""Goes up when the same settings give other clips."""


class ClipsConfig(Frozen):
    """Length of clips. Unstated in the paper."""

    min_s: float = Field(2.0, gt=0, description="minimum length; shorter clips are dropped")
    max_s: float = Field(
        25.0,
        gt=0,
        description="maximum length; longer clips are split evenly; `encode` takes 25 s of a clip",
    )


class SplitConfig(Frozen):
    """Held-out identities. Unstated in the paper except for the rule of the test split."""

    held_out_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of held-out identities, chosen by a hash of their names",
    )
    seed: int = 0
    identity: str = Field(
        "file",
        description=(
            "identity in sources that do not state it: the file's name, the folder's name, or the"
            " first group of a regular expression that is searched for in the source's path"
        ),
    )
    rule: Literal["any", "paper"] = Field(
        "any",
        description=(
            "paper: held-out clips must last `test_min_s` and show a face of `test_min_face_px`"
            " (§2.3)"
        ),
    )
    test_min_s: float = Field(5.0, gt=0, description="minimum length of a test clip (§2.3)")
    test_min_face_px: float = Field(
        512.0, gt=0, description="minimum of the longer side of the face box in the source (§2.3)"
    )


class PrepareConfig(Frozen):
    """Settings of `flowportrait prepare`; the defaults are the paper's where it states them."""

    speech: SpeechConfig = SpeechConfig()
    faces: FacesConfig = FacesConfig()
    scenes: ScenesConfig = ScenesConfig()
    speaker: SpeakerConfig = SpeakerConfig()
    crop: CropConfig = CropConfig()
    clips: ClipsConfig = ClipsConfig()
    split: SplitConfig = SplitConfig()
    directions: tuple[str, ...] = Field(
        ("frontal", "side"),
        description="face directions to keep, for sources that state theirs (App. B)",
    )

    def settled(self) -> PrepareConfig:
        """The settings with choices that depend on this machine resolved."""
        return self.model_copy(update={"speech": self.speech.settled()})

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides a result apart from the source."""
        weights = self.speaker.find_weights()
        values = self.settled().model_dump(mode="json") | {"version": VERSION}
        values["speaker"] |= {"weights": sha256_of(weights) if weights else None}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SourceFile:
    """A video to prepare, and what is known of it. `key` is its name within the run."""

    key: str
    path: Path
    identity: str
    voice: str = ""
    text: str = ""
    licence: str = ""
    collection: str = ""
    direction: str = ""
    state: tuple[int, int] | None = None
    """Bytes and time of a file that is not on this machine, where they are known."""

    def record(self, fingerprint: str) -> PreparedSource:
        """The record of a source that was not looked into yet."""
        size_bytes, changed_ns = self.state or storage.state_of(self.path) or (0, 0)
        return PreparedSource(
            key=self.key,
            size_bytes=size_bytes,
            changed_ns=changed_ns,
            identity=self.identity,
            voice=self.voice or self.identity,
            text=self.text,
            licence=self.licence,
            collection=self.collection,
            direction=self.direction,
            fingerprint=fingerprint,
        )


def split_of(identity: str, config: SplitConfig) -> Literal["train", "held_out"]:
    """The split of an identity, independent of the other sources."""
    digest = hashlib.sha256(f"{config.seed}/{identity}".encode()).digest()
    if int.from_bytes(digest[:8]) < config.held_out_share * 2**64:
        return "held_out"
    return "train"
