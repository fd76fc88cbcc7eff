"""Speech filters of Appendix B: overlapping speakers and languages other than English.

The models that tell them are parts of their own, named in `registry.OVERLAP_FINDERS` and
`registry.LANGUAGE_FINDERS` or added by another package's entry point. By default overlap
is asked where the weights for it are there, and language is not; the run record says what was not
checked: a dataset that was not checked must not look as if it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from flowportrait.arrays import Pcm
from flowportrait.config import Frozen
from flowportrait.files import JsonObject
from flowportrait.pretrained import WEIGHTS
from flowportrait.registry import LANGUAGE_FINDERS, OVERLAP_FINDERS, PartTable

NONE, AUTO = "none", "auto"
_SILENT_LEVEL = 32  # of 32768; below it lies the noise of an encoder that was given nothing

Spans = list[tuple[float, float]]
"""Start and end in seconds, in order, without overlaps."""


class Speakers(NamedTuple):
    """Times of speech and of overlapping speech."""

    speech: Spans
    overlap: Spans


class Spoken(NamedTuple):
    """The language of speech: an ISO 639-1 code ("en"), how sure that is in [0, 1], and the words
    where known.
    """

    language: str
    certainty: float
    text: str = ""


@runtime_checkable
class OverlapFinder(Protocol):
    """Tells speakers apart. Made with the settings as keywords."""

    def find(self, pcm: Pcm) -> Speakers:
        """Of mono sound at 16 kHz."""


@runtime_checkable
class LanguageFinder(Protocol):
    """Tells the language. Made with the settings as keywords."""

    def identify(self, pcm: Pcm) -> Spoken:
        """Of mono sound at 16 kHz."""


class SpeechConfig(Frozen):
    """Filters of speech. The paper's models are in-house and unnamed."""

    overlap: str = Field(
        AUTO,
        description=(
            "detector of overlapping speech; none: no check; auto: pyannote if its weights are"
            " available, else none"
        ),
    )
    overlap_settings: JsonObject = {}
    max_overlap: float = Field(
        0.10, ge=0, le=1, description="maximum share of overlapping speech (App. B)"
    )
    overlap_share_of: Literal["speech", "clip"] = Field(
        "speech",
        description=("whether max_overlap is a share of the speech or of the clip. Unstated"),
    )
    language: str = Field(NONE, description="language detector; none: no check")
    language_settings: JsonObject = {}
    keep_language: str = Field("en", description="language to keep (App. B)")

    def settled(self) -> SpeechConfig:
        """The settings with `auto` resolved on this machine."""
        if self.overlap != AUTO:
            return self
        there = "weights" in self.overlap_settings or WEIGHTS["speaker-turns"].found()
        return self.model_copy(update={"overlap": "pyannote" if there else NONE})


@dataclass
class SpeechFilters:
    """The filters of a run, each loaded when first needed."""

    config: SpeechConfig
    unchecked: list[str] = field(init=False)
    """What is not checked, in words."""

    def __post_init__(self):
        self.config = self.config.settled()
        asked = {"overlapping speech": self.config.overlap, "language": self.config.language}
        self.unchecked = [what for what, name in asked.items() if name == NONE]

    @cached_property
    def overlap_finder(self) -> OverlapFinder | None:
        """The part that tells speakers apart."""
        return _built(OVERLAP_FINDERS, self.config.overlap, self.config.overlap_settings)

    @cached_property
    def language_finder(self) -> LanguageFinder | None:
        """The part that tells the language."""
        return _built(LANGUAGE_FINDERS, self.config.language, self.config.language_settings)

    def overlapping_share(self, speakers: Speakers, start_s: float, end_s: float) -> float:
        """Share of a clip's speech, or of the clip, with overlapping speech; 0 without speech."""
        whole = end_s - start_s
        if self.config.overlap_share_of == "speech":
            whole = within(speakers.speech, start_s, end_s)
        if whole > 0:
            return within(speakers.overlap, start_s, end_s) / whole
        return 0.0


def _built(table: PartTable, name: str, settings: JsonObject) -> Any:
    if name == NONE:
        return None
    return table.load(name)(**settings)


def within(spans: Spans, start_s: float, end_s: float) -> float:
    """Seconds of `spans` between two moments."""
    return sum(max(0.0, min(b, end_s) - max(a, start_s)) for a, b in spans)


def is_silent(pcm: Pcm, block: int = 1 << 20) -> bool:
    """Whether a sound track holds nothing but an encoder's noise."""
    return all(
        np.abs(pcm[i : i + block].astype(np.int32)).max() < _SILENT_LEVEL
        for i in range(0, len(pcm), block)
    )
