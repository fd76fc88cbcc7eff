"""Whether the face of a clip is the one that is heard, by Light-ASD: the filter of Appendix B as a
metric.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from flowportrait.config import Frozen
from flowportrait.encoders.active_speaker import (
    CEPSTRA_PER_FRAME,
    DURATIONS_S,
    FPS,
    face_of_crop,
    load_light_asd,
    speaking_logits,
    speaking_probability,
)
from flowportrait.encoders.cepstra import mfcc
from flowportrait.files import sha256_of
from flowportrait.pretrained import WEIGHTS
from flowportrait.scoring.metrics.lse import face_crops
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.metrics.view import Unscorable, View


class ActiveSpeaker(Metric):
    """Probability by Light-ASD that the face is speaking, mean over frames.

    It detects speaking, not lip-sync: a shift of the sound by half a clip hardly lowers it. With
    the TalkSet weights a close face counts as speaking even in silence, with the AVA weights not.
    """

    name = "active-speaker"
    unit = "1"
    low = 0.0
    high = 1.0
    better = "higher"
    needs = frozenset({"frames", "sound", "weights"})
    looks_at_fps = FPS

    class Config(Frozen):
        """Choice of the official weights, and the segment lengths to average over."""

        network: Literal["ava", "talkset"] = "ava"
        durations_s: tuple[int, ...] = Field(
            DURATIONS_S,
            min_length=1,
            description="segment lengths to average over, as in the authors' demo",
        )
        detect_every: int = Field(
            4,
            ge=1,
            description="frames between face detections; boxes are interpolated, as for LSE",
        )
        weights: Path | None = None

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS[f"light-asd-{self.config.network}"].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    def read(self, view: View) -> Reading:
        """`speaking_share` counts frames of at least 0.5, those that Appendix B keeps; `logit` is
        the demo's score.
        """
        cepstra = mfcc(view.pcm)
        faces = np.stack(
            [*chain.from_iterable(map(face_of_crop, face_crops(view, self.config.detect_every)))]
        )
        if min(len(faces), len(cepstra) // CEPSTRA_PER_FRAME) < 1:
            raise Unscorable(f"has no whole frame of sound and picture at {FPS} fps")
        logits = speaking_logits(
            load_light_asd(self._file), faces, cepstra, self.config.durations_s
        )
        likely = speaking_probability(logits)
        beside = {
            "speaking_share": float((likely >= 0.5).mean()),
            "logit": float(logits[:, 1].mean()),
        }
        return Reading(float(likely.mean()), beside | {"frames": len(likely)})
