"""A source video as preparation reads it: upright frames by time at any clock, and sound that lies
on disk.

Time begins with the first frame of the picture, whatever the file calls that moment. What can be
decoded is used; where decoding ends too early, `damage` says why. Nothing is held in memory but the
frame on show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from flowportrait.arrays import Array
from flowportrait.container import opened, picture_tracks, readable_file, told
from flowportrait.errors import DataError, MediaError
from flowportrait.reader import Picture, on_clock, read_pictures, read_sound, sound_start_s
from flowportrait.sound import SPEECH_HZ
from flowportrait.timeline import timeline

FrameStream = Iterator[Array]

MAX_HOLD_S = 5.0
"""A frame that would stand longer than this is a jump of the file's clock, not a picture."""


class Unusable(DataError):
    """Why a source, or the rest of it, cannot be used; `reason` is one of `records.REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class SoundTrack:
    """Sound on disk, in step with the picture: int16 [s, channels] at its own rate and [s] at 16
    kHz mono.

    Before `from_s` the file has picture only; there stands silence.
    """

    samples: Array
    rate: int
    pcm: Array
    from_s: float
    damage: str = ""

    @property
    def end_s(self) -> float:
        """Time of its end."""
        return len(self.samples) / self.rate


@dataclass
class Footage:
    """One source. `size_px` is (width, height) as it is to be seen: turned upright, with square
    pixels.
    """

    path: Path
    size_px: tuple[int, int]
    declared_s: float
    has_sound: bool
    damage: str = field(default="")

    def frames(self, fps: float) -> FrameStream:
        """uint8 [h, w, 3], the frame on show at every tick of the clock `fps` (nearest frame), up
        to the end or the first damage. The same array comes again while a frame stays on show.
        """
        return on_clock(self._pictures(), fps)

    def _pictures(self) -> Iterator[Picture]:
        try:
            yield from read_pictures(self.path, MAX_HOLD_S)
        except MediaError as error:
            self.damage = str(error).removeprefix(f"{self.path}: ")

    def sound(self, folder: Path) -> SoundTrack:
        """The sound, decoded into files of `folder`. Raises Unusable when there is none."""
        own = folder / "sound.s16"
        pcm = folder / "sound-16k.s16"
        with own.open("wb") as file:
            track = _SoundWriter(self.path, file)
            track.run()
        if track.written < 0.1 * track.rate:
            raise Unusable(
                "no_sound",
                f"{self.path}: no sound can be decoded ({track.damage or 'the track is empty'})",
            )
        samples = np.memmap(own, np.int16, "r").reshape(-1, track.channels)
        with pcm.open("wb") as file:
            for block in _at_16k(samples, track.rate):
                file.write(block.tobytes())
        return SoundTrack(
            samples, track.rate, np.memmap(pcm, np.int16, "r"), track.from_s, track.damage
        )


class _SoundWriter:
    """Writes a sound track as it is decoded, each sample where its time says."""

    def __init__(self, path: Path, file):
        self.path = path
        self.file = file
        self.rate = 1
        self.channels = 1
        self.written = 0
        self.from_s = 0.0
        self.damage = ""

    def run(self) -> None:
        """Decodes all there is."""
        resampler = None
        try:
            self.from_s = sound_start_s(self.path)
            for frame in read_sound(self.path, MAX_HOLD_S):
                if resampler is None:
                    self.rate = frame.sample_rate
                    self.channels = min(2, frame.layout.nb_channels)
                    layout = "mono" if self.channels == 1 else "stereo"
                    resampler = av.AudioResampler("s16", layout, self.rate)
                with told(f"{self.path}: damaged sound", "give another"):
                    parts = [
                        out.to_ndarray().reshape(-1, self.channels)
                        for out in resampler.resample(frame)
                    ]
                for samples in parts:
                    self._write(samples)
        except MediaError as error:
            self.damage = str(error).removeprefix(f"{self.path}: ")

    def _write(self, samples: Array) -> None:
        self.file.write(samples.tobytes())
        self.written += len(samples)


def _at_16k(samples: Array, rate: int) -> FrameStream:
    """int16 [s, channels] at `rate` as mono blocks at 16 kHz, without delay."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    resampler = av.AudioResampler("s16", "mono", SPEECH_HZ)
    sent = 0
    wanted = round(len(samples) * SPEECH_HZ / rate)
    for start in range(0, len(samples), rate):
        block = np.ascontiguousarray(samples[start : start + rate]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
        frame.sample_rate = rate
        for out in resampler.resample(frame):
            sent += out.samples
            yield out.to_ndarray()[0]
    for out in resampler.resample(None):
        yield out.to_ndarray()[0][: max(0, wanted - sent)]
        sent += out.samples
    yield np.zeros(max(0, wanted - sent), np.int16)


def probe(path: Path) -> Footage:
    """Facts in the head of a file. Raises Unusable: unreadable, without picture or without
    sound.
    """
    try:
        readable_file(path, "a video")
        with opened(path, "a video") as container:
            if not picture_tracks(container):
                raise Unusable("no_picture", f"{path}: has no picture track")
        times = timeline(path)
        first = next(read_pictures(path))
    except MediaError as error:
        raise Unusable("unreadable", str(error)) from error
    said = [length_s for length_s in (times.file_says_s, times.picture_says_s) if length_s]
    declared_s = min(said, default=times.picture_end_s or times.duration_s)
    return Footage(path, first.pixels.shape[1::-1], float(declared_s), times.has_sound)
