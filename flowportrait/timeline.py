"""Times of a file's pictures, by its packets, and the rule that brings frames to another rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from flowportrait.arrays import Array
from flowportrait.container import (
    FIRST_PACKETS,
    LIBRARY_ERRORS,
    default_track,
    opened,
    picture_tracks,
    rational,
    readable_file,
    track,
)
from flowportrait.errors import MediaError

_LEAST_LATE = 1.5  # of a frame's time; one frame dropped or shown twice in a clip does not reach it


_RATE_TOLERANCE = 0.05  # between the rate that a head says and that of the packets


_SHIFTED_S = 0.002  # a start further from zero than the ms clocks of Matroska and FLV leave open


@dataclass(frozen=True)
class Timeline:
    """When a video's pictures and sound are shown and heard, by its packets; nothing is decoded.

    `starts`: the times of all pictures in seconds, sorted, the first 0; empty where the packets
    carry no times. `origin`: the file's own time of the first picture. `by_count`: the file says
    only in which order its pictures are decoded (AVI), so the n-th picture shown is at `starts[n]`.
    `picture_end_s`, `sound_start_s`, `sound_end_s`: by the first and last packets; None where there
    are none. `fps`, `duration_s`, `num_frames`: as the head says, or by the packets where it says
    nothing or something else.
    """

    starts: Array
    origin: Fraction
    by_count: bool
    picture_end_s: float | None
    sound_start_s: float | None
    sound_end_s: float | None
    fps: float
    duration_s: float
    num_frames: int
    has_sound: bool
    picture_says_s: float | None
    sound_says_s: float | None
    """How long the head says that a track is; None where it does not say."""
    file_says_s: float | None

    def lost(self, tolerance_s: float) -> tuple[float, float] | None:
        """How much of a track is there and how much of it the head says, in seconds, where more
        than `tolerance_s` is lost. Each track is held against its own length: one may well run
        longer than the other."""
        tracks = [(self.picture_end_s or 0.0, self.picture_says_s)]
        if self.has_sound:
            tracks.append(
                ((self.sound_end_s or 0.0) - (self.sound_start_s or 0.0), self.sound_says_s)
            )
        if all(says_s is None for _, says_s in tracks):
            there_s = max(self.picture_end_s or 0.0, self.sound_end_s or 0.0) + float(
                max(self.origin, 0)
            )
            tracks = [(there_s, self.file_says_s)]
        short = [
            (there_s, says_s)
            for there_s, says_s in tracks
            if says_s and there_s < says_s - tolerance_s
        ]
        return short[0] if short else None

    @property
    def is_even(self) -> bool:
        """Whether every picture comes when a constant rate would have it come; true of a file
        without times."""
        if len(self.starts) < 3:
            return True
        even = np.linspace(self.starts[0], self.starts[-1], len(self.starts))
        return bool(np.abs(self.starts - even).max() <= _LEAST_LATE * (even[1] - even[0]))


def timeline(path: str | Path) -> Timeline:
    """The timeline of a video; read once for each state of the file. Raises MediaError: no video,
    or no picture in it.

    A file that breaks off is read up to there.
    """
    path = readable_file(path, "a video")
    status = path.stat()
    return _timeline(path, status.st_size, status.st_mtime_ns)


def origin_of(path: Path) -> Fraction | None:
    """The file's own time of its first picture, which is where time begins; None for sound alone.
    Raises MediaError."""
    with opened(path, "a sound or a video", pictures=False) as container:
        streams = picture_tracks(container)
        if not streams:
            return None
        times = _Times(default_track(streams))
        _read_packets(container, times, None, at_most=FIRST_PACKETS)
        shown = times.sorted()
        if shown:
            return shown[0] * times.tick
        return None


@lru_cache(maxsize=256)
def _timeline(path: Path, size: int, changed_ns: int) -> Timeline:
    with opened(path, "a video", pictures=True) as container:
        video = track(container, "video", path)
        sounds = list(container.streams.audio)
        sound = track(container, "audio", path) if sounds else None
        pictures = _Times(video)
        heard = _Times(sound) if sound else None
        _read_packets(container, pictures, heard)
        return _laid_out(path, container, pictures, heard, bool(sounds))


class _Times:
    """The times of a track's packets, in ticks of its own clock."""

    def __init__(self, stream: Any):
        self.stream = stream
        self.tick = rational(stream.time_base)
        self.shown: list[int] = []
        self.decoded: list[int] = []
        self.start: int | None = None
        self.end: int | None = None
        self.begun = stream.type == "audio"
        self.hidden = 0

    def add(self, packet: av.Packet) -> None:
        """Counts a packet; one that an edit list hides, or that stands before the first key
        picture, is not shown."""
        if packet.is_discard:
            self.hidden += 1
            return
        if packet.is_keyframe and not self.begun:
            self.hidden += len(self.decoded)
            self.shown = []
            self.decoded = []
            self.begun = True
        if packet.dts is not None:
            self.decoded.append(packet.dts)
        if packet.pts is not None:
            self.shown.append(packet.pts)
        last = packet.dts if packet.pts is None else packet.pts
        if last is not None:
            self.start = last if self.start is None else min(self.start, last)
            end = last + max(0, packet.duration or 0)
            self.end = end if self.end is None else max(self.end, end)

    @property
    def by_count(self) -> bool:
        """Whether times of showing are missing, so that only the order is known."""
        return len(self.shown) < len(self.decoded) / 2

    def sorted(self) -> list[int]:
        """The times of showing in order."""
        return sorted(self.decoded if self.by_count else self.shown)

    def seconds(self, ticks: int | None, origin: Fraction) -> float | None:
        """Ticks of this track as seconds from `origin`."""
        if ticks is None:
            return None
        return float(ticks * self.tick - origin)


def _read_packets(
    container: Any, pictures: _Times, heard: _Times | None, at_most: float = math.inf
) -> None:
    by_index = {times.stream.index: times for times in (pictures, heard) if times}
    packets = iter(container.demux([times.stream for times in by_index.values()]))
    while len(pictures.decoded) < at_most:
        try:
            packet = next(packets, None)
        except LIBRARY_ERRORS:  # the file breaks off here; whoever decodes it will say so
            return
        if packet is None:
            return
        if packet.size:
            by_index[packet.stream_index].add(packet)


def _laid_out(
    path: Path, container: Any, pictures: _Times, heard: _Times | None, has_sound: bool
) -> Timeline:
    shown = pictures.sorted()
    origin = shown[0] * pictures.tick if shown else Fraction(0)
    starts = np.array([float(ticks * pictures.tick - origin) for ticks in shown], np.float64)
    picture_end_s = pictures.seconds(pictures.end, origin)
    sound_start_s, sound_end_s = (
        (heard.seconds(heard.start, origin), heard.seconds(heard.end, origin))
        if heard
        else (None, None)
    )
    says = None
    if container.duration and container.duration > 0:
        says = container.duration / av.time_base
    fps = _rate(pictures.stream, starts)
    duration_s = says
    if says is None or abs(origin) > _SHIFTED_S:
        known = [end for end in (picture_end_s, sound_end_s) if end]
        duration_s = max(known, default=says)
    # A damaged file may open and yet not know its own clock.
    if not fps or not duration_s:
        raise MediaError(f"{path}: has neither a duration nor a frame rate; give another video")
    stream = pictures.stream
    counted = len(shown) if pictures.hidden or not stream.frames else stream.frames
    return Timeline(
        starts,
        origin,
        pictures.by_count,
        picture_end_s,
        sound_start_s,
        sound_end_s,
        float(fps),
        duration_s,
        counted or round(duration_s * fps),
        has_sound,
        _declared_s(pictures),
        _declared_s(heard),
        says,
    )


def _declared_s(times: _Times | None) -> float | None:
    if times is None or not times.stream.duration or times.stream.duration < 0:
        return None
    return float(times.stream.duration * times.tick)


def _rate(stream: Any, starts: Array) -> Fraction:
    """Pictures per second: what the head says, unless the packets come at quite another rate; 0 if
    nobody knows."""
    said = rational(stream.average_rate)
    if len(starts) < 3 or starts[-1] <= starts[0]:
        return said
    counted = (len(starts) - 1) / (starts[-1] - starts[0])
    if said and abs(float(said) - counted) <= _RATE_TOLERANCE * counted:
        return said
    return Fraction(counted).limit_denominator(1001)


def is_due(tick: int, fps: float, start_s: float) -> bool:
    """The one rule by which pictures are brought to another rate: tick `n` of the clock `fps` shows
    what is on show at its middle, (n + 0.5) / fps, which is the nearest picture. True when tick `n`
    comes before the picture that starts at `start_s`, so that the one before it is shown."""
    return (tick + 0.5) / fps <= start_s


def nearest_frames(num_frames: int, from_fps: float, to_fps: float) -> Array:
    """Which of `num_frames` evenly spaced frames each tick of the clock `to_fps` shows, int
    [ticks], by the rule of `is_due`; at least one tick."""
    # 2 * (tick + 0.5) * from / to, in whole numbers, so that ties fall as they do for times.
    ratio = Fraction(from_fps).limit_denominator(1001) / Fraction(to_fps).limit_denominator(1001)
    count = max(1, math.floor(num_frames / ratio + Fraction(1, 2)))
    doubled = (2 * np.arange(count, dtype=np.int64) + 1) * ratio.numerator
    return np.clip(-(-doubled // (2 * ratio.denominator)) - 1, 0, num_frames - 1)
