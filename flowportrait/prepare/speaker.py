"""Who speaks: Light-ASD over the faces of a source, and the stretches that are kept (App. B)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from flowportrait.arrays import Array
from flowportrait.config import Frozen
from flowportrait.encoders.active_speaker import (
    DURATIONS_S,
    FPS,
    LightAsd,
    face_of_crop,
    load_light_asd,
    speaking_logits,
    speaking_probability,
)
from flowportrait.encoders.cepstra import mfcc
from flowportrait.errors import CheckpointError
from flowportrait.faces.crop import crop_face, smoothed_path
from flowportrait.media import FPS as TICKS_HZ
from flowportrait.prepare.footage import Footage, SoundTrack
from flowportrait.prepare.tracks import Track
from flowportrait.pretrained import WEIGHTS
from flowportrait.sound import SPEECH_HZ

_LAST_WINDOW = 400  # samples that the last cepstrum of a piece looks beyond its end
_SMOOTHED_FRAMES = 2  # to either side, as the authors' demo does


class SpeakerConfig(Frozen):
    """Active-speaker detection."""

    network: Literal["ava", "talkset", "none"] = Field(
        "ava",
        description=(
            "weights of Light-ASD: ava or talkset, which also finds speech in silence; none: no"
            " check"
        ),
    )
    weights: Path | None = Field(None, description="weights file; by default it is downloaded once")
    confidence: Literal["softmax", "logit"] = Field(
        "softmax",
        description=(
            "scale of App. B's confidence. Unstated; the authors' demo uses the sign of the logit"
        ),
    )
    threshold: float | None = Field(
        None, description="null: 0.5 (App. B) for softmax, 0 (the authors' demo) for logit"
    )
    durations_s: tuple[int, ...] = Field(
        DURATIONS_S,
        min_length=1,
        description="segment lengths to average over, as in the authors' demo",
    )
    max_pause_s: float = Field(
        1.0,
        ge=0,
        description=(
            "maximum pause within a clip; a longer one splits it. Unstated; 0 removes every silent"
            " frame, as App. B says, which cuts a clip at every breath"
        ),
    )

    @property
    def least(self) -> float:
        """The confidence from which a frame counts as spoken."""
        if self.threshold is not None:
            return self.threshold
        return {"softmax": 0.5, "logit": 0.0}[self.confidence]

    def find_weights(self) -> Path | None:
        """The checked file. Raises CheckpointError when it is not there and cannot be fetched."""
        if self.network == "none":
            return None
        try:
            return WEIGHTS[f"light-asd-{self.network}"].find(self.weights)
        except CheckpointError as error:
            raise CheckpointError(
                "speaker network: weights not found; continue without it with --set"
                " speaker.network=none,"
                f" or name its file with --set speaker.weights=FILE; {error}"
            ) from error


class Stretch(NamedTuple):
    """Ticks of a track that may become clips, and the mean confidence; nan when nobody was
    asked.
    """

    track: Track
    start: int
    stop: int
    confidence: float


def confidences(
    footage: Footage,
    sound: SoundTrack,
    tracks: Sequence[Track],
    network: LightAsd,
    config: SpeakerConfig,
) -> list[Float[np.ndarray, " t"]]:
    """Confidence that each track's face is speaking, at every tick of 24 fps of the track.

    The network looks at 25 fps; the video passes by once, and of each face no more than a minute is
    held.
    """
    watchers = [_Watcher(track, sound, network, config) for track in tracks]
    return _watched(watchers, footage)


def _watched(watchers: list[_Watcher], footage: Footage) -> list[Float[np.ndarray, " t"]]:
    """Every watcher's confidences after one pass over the footage."""
    first = min((watcher.first for watcher in watchers), default=0)
    end = max((watcher.end for watcher in watchers), default=0)
    for index, frame in enumerate(footage.frames(FPS)):
        if index >= end:
            break
        if index >= first:
            for watcher in watchers:
                watcher.look(index, frame)
    return [watcher.finish() for watcher in watchers]


class _Watcher:
    """Follows one face through the video."""

    def __init__(self, track: Track, sound: SoundTrack, network: LightAsd, config: SpeakerConfig):
        self.track = track
        self.sound = sound
        self.network = network
        self.config = config
        self.first = math.ceil(track.start * FPS / TICKS_HZ)
        self.end = max(self.first + 1, math.ceil(track.stop * FPS / TICKS_HZ))
        boxes = track.boxes_at(np.arange(self.first, self.end) * TICKS_HZ / FPS)
        self.path = smoothed_path(boxes)
        # Pieces of every length begin anew where a block does, so that blocks change nothing.
        self.block = math.lcm(*config.durations_s) * FPS
        self.faces: list[Array] = []
        self.logits: list[Array] = []
        self.begun = self.first

    def look(self, index: int, frame: Array) -> None:
        """Takes the face out of frame `index` at 25 fps, if it is this one's time."""
        if self.first <= index < self.end:
            self.faces.append(
                face_of_crop(crop_face(frame, *self.path[index - self.first])[None])[0]
            )
            if len(self.faces) == self.block:
                self._run()

    def _run(self) -> None:
        """Adds the logits of the frames that have come, with the sound around them."""
        count = len(self.faces)
        start = round(self.begun / FPS * SPEECH_HZ)
        stop = round((self.begun + count) / FPS * SPEECH_HZ)
        pcm = np.asarray(self.sound.pcm[start : stop + _LAST_WINDOW])
        pcm = np.pad(pcm, (0, stop + _LAST_WINDOW - start - len(pcm)))
        self.logits.append(
            speaking_logits(self.network, np.stack(self.faces), mfcc(pcm), self.config.durations_s)
        )
        self.faces = []
        self.begun = self.begun + count

    def finish(self) -> Float[np.ndarray, " t"]:
        """Confidence at every tick of the track."""
        if self.faces:
            self._run()
        ticks = np.arange(self.track.start, self.track.stop)
        if not self.logits:
            return np.full(len(ticks), -np.inf if self.config.confidence == "logit" else 0.0)
        logits = _smoothed(np.concatenate(self.logits))
        found = logits[:, 1] if self.config.confidence == "logit" else speaking_probability(logits)
        return found[
            np.clip(np.round(ticks * FPS / TICKS_HZ).astype(int) - self.first, 0, len(found) - 1)
        ]


def _smoothed(values: Float[np.ndarray, "f c"]) -> Float[np.ndarray, "f c"]:
    """Means over two frames to either side, fewer at the ends."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values.astype(float), 0)])
    at = np.arange(len(values))
    low = np.maximum(at - _SMOOTHED_FRAMES, 0)
    high = np.minimum(at + _SMOOTHED_FRAMES + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)[:, None]


def runs_of(flags: Bool[np.ndarray, " t"], max_gap: int = 0) -> list[tuple[int, int]]:
    """Start and stop of every run of true, gaps of up to `max_gap` between two runs closed."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    runs: list[tuple[int, int]] = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if runs and start - runs[-1][1] <= max_gap:
            start = runs.pop()[0]
        runs.append((start, stop))
    return runs


def speaking_stretches(
    tracks: Sequence[Track], found: Sequence[Float[np.ndarray, " _"]] | None, config: SpeakerConfig
) -> list[Stretch]:
    """The stretches in which a face speaks, one face at a time: the surest, or the largest where
    nobody was asked.
    """
    if found is None:
        runs = [Stretch(track, track.start, track.stop, math.nan) for track in tracks]
        runs.sort(key=lambda run: (-run.track.face_px, run.start))
    else:
        runs = []
        for track, values in zip(tracks, found, strict=True):
            for start, stop in runs_of(
                values >= config.least, round(config.max_pause_s * TICKS_HZ)
            ):
                mean = float(values[start:stop].mean())
                runs.append(Stretch(track, track.start + start, track.start + stop, mean))
        runs.sort(key=lambda run: (-run.confidence, run.start))
    return _without_overlap(runs)


def _without_overlap(runs: list) -> list:
    """Runs that take turns; the earlier in the list wins."""
    taken = np.zeros(max((run.stop for run in runs), default=0), bool)
    kept = []
    for run in runs:
        for start, stop in runs_of(~taken[run.start : run.stop]):
            kept.append(run._replace(start=run.start + start, stop=run.start + stop))
        taken[run.start : run.stop] = True
    return sorted(kept, key=lambda run: run.start)


def load(config: SpeakerConfig) -> LightAsd | None:
    """The network that is asked, or None."""
    path = config.find_weights()
    return load_light_asd(path) if path else None
