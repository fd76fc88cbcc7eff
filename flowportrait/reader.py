"""Decoding on one clock: pictures upright and in the colours of a screen, sound in its place in
time.

Time is that of `container`: seconds from the first picture that is shown. Everything that reads a
video reads it here, whether it prepares, scores, encodes, judges or generates.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter
from PIL import Image

from flowportrait.arrays import Array
from flowportrait.colours import HDR_TRANSFERS, hdr_to_sdr
from flowportrait.container import MAX_PIXELS, each, opened, rational, told, track
from flowportrait.errors import MediaError
from flowportrait.timeline import is_due, origin_of, timeline

READER_VERSION = 2
"""Raised when files that are not plain (`is_plain`) give other pictures or another sound than
before; plain ones never do. 2: one clock for picture and sound, turns and shapes of pixels."""

MAX_HOLD_S = 60.0
"""A picture that would stand longer than this is a jump of the file's clock, not a picture; so is a
longer gap in the sound."""

_BACK_S = (
    1.0  # a clock that falls back further than this has started anew, as in files joined end to end
)
# a start within it is none: WebM is 7 ms off by its codec's delay, and it is no half frame at 60
# fps
_START_S = 0.008
# between the sound's clock and its samples before it is set right; the shortest packets have 0.02
_DRIFT_S = 0.018
_ASPECTS = (0.25, 4.0)  # of a pixel; beyond them a head is damaged


class Picture(NamedTuple):
    """A decoded picture: when it starts, how long it stands as far as is known, and its uint8
    pixels [h, w, 3]."""

    start_s: float
    step_s: float
    pixels: Array


def is_plain(path: Path) -> bool:
    """Whether nothing in a video needs more than decoding: picture and sound begin at zero, the
    picture is upright, with square pixels of standard range, and there is one track of sound at
    most. Raises MediaError."""
    times = timeline(path)
    with opened(path, "a video") as container:
        stream = track(container, "video", path)
        frame = next(each(container.decode(stream), f"{path}: damaged video", "give another"), None)
        alone = len(container.streams.audio) <= 1
        aspect = rational(stream.sample_aspect_ratio)
    # A sound that begins before its picture is an encoder's priming, which decoders skip.
    begins_late = max(abs(float(times.origin)), times.sound_start_s or 0.0) > _START_S
    as_stored = frame is not None and _turn(frame) == (False, 1, 1) and aspect in (0, 1)
    return alone and as_stored and not begins_late and frame.color_trc not in HDR_TRANSFERS


# -----------------------------------------------------------------------------------------------
# pictures


def read_pictures(path: Path, max_hold_s: float = MAX_HOLD_S) -> Iterator[Picture]:
    """All pictures of a video in the order in which they are shown, upright, with square pixels and
    as SDR.

    All have the size of the first. Raises MediaError where the file cannot be decoded further.
    """
    times = timeline(path)
    with opened(path, "a video") as container:
        stream = track(container, "video", path)
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        upright = _Upright(stream, path)
        clock = _PictureClock(times, rational(stream.average_rate), path, max_hold_s)
        for frame in each(container.decode(stream), f"{path}: damaged video", "give another"):
            start_s, step_s = clock.place(frame)
            yield Picture(start_s, step_s, upright(frame))
    if clock.count == 0:  # a file that was cut off behind its head opens, and then holds nothing
        raise MediaError(f"{path}: damaged video (no frame can be decoded); give another")


def on_clock(pictures: Iterator[Picture], fps: float) -> Iterator[Array]:
    """The picture that each tick of the clock `fps` shows, by the rule of `container.is_due`; the
    same array again while a picture stays on show."""
    tick = 0
    shown = None
    end_s = 0.0
    for start_s, step_s, pixels in pictures:
        while shown is not None and is_due(tick, fps, start_s):
            yield shown
            tick += 1
        shown = pixels
        end_s = start_s + step_s
    while shown is not None and is_due(tick, fps, end_s):
        yield shown
        tick += 1


class _PictureClock:
    """When each decoded picture starts."""

    def __init__(self, times: Any, rate: Fraction, path: Path, max_hold_s: float):
        self.times = times
        self.origin = times.origin
        self.path = path
        self.max_hold_s = max_hold_s
        # How long a picture stands, until two of them have told; of odd files the average rate is
        # no picture's length.
        self.usual_s = float(1 / rate) if rate else 1 / times.fps
        self.count = 0
        self.last_s = 0.0
        self.gap_s = min(self.usual_s, 0.5)

    def place(self, frame: av.VideoFrame) -> tuple[float, float]:
        """Start and length in seconds. Raises MediaError when the clock jumps."""
        start_s = self._start_s(frame)
        if start_s < self.last_s - _BACK_S:
            self.origin -= Fraction(self.last_s + self.gap_s - start_s).limit_denominator(10**6)
            start_s = self.last_s + self.gap_s
        start_s = max(start_s, self.last_s)
        if start_s - self.last_s > self.max_hold_s:
            raise MediaError(
                f"{self.path}: damaged video (timestamps jump from {self.last_s:.2f} "
                f"to {start_s:.2f} s); give another"
            )
        self.gap_s = start_s - self.last_s or self.gap_s
        self.last_s = start_s
        self.count = self.count + 1
        near = self.gap_s / 2 < self.usual_s < self.gap_s * 2
        return start_s, self.usual_s if near else self.gap_s

    def _start_s(self, frame: av.VideoFrame) -> float:
        """When a frame starts: by its number where the file's own times cannot be trusted, or a gap
        after the last.
        """
        if self.times.by_count and self.count < len(self.times.starts):
            return float(self.times.starts[self.count])
        if frame.pts is None:
            return self.last_s + (self.gap_s if self.count else 0.0)
        return float(frame.pts * rational(frame.time_base) - self.origin)


class _Upright:
    """Makes arrays of frames: turned as the file says, with square pixels, in a screen's colours,
    all of one size."""

    def __init__(self, stream: av.VideoStream, path: Path):
        aspect = float(rational(stream.sample_aspect_ratio))
        self.aspect = aspect if _ASPECTS[0] <= aspect <= _ASPECTS[1] else 1.0
        self.path = path
        self.size_px = None
        self.colours = VideoReformatter()  # made anew for every frame it takes five times as long

    def __call__(self, frame: av.VideoFrame) -> Array:
        with told(f"{self.path}: damaged video", "give another"):
            pixels = self._pixels(frame)
            across, row_step, column_step = _turn(frame)
        pixels = (pixels.swapaxes(0, 1) if across else pixels)[::row_step, ::column_step]
        if self.size_px is None:
            height, width = pixels.shape[:2]
            widened = max(1, round((height if across else width) * self.aspect))
            self.size_px = (width, widened) if across else (widened, height)
        if pixels.shape[1::-1] != self.size_px:
            return np.asarray(
                Image.fromarray(pixels).resize(self.size_px, Image.Resampling.BILINEAR)
            )
        return np.ascontiguousarray(pixels)

    def _pixels(self, frame: av.VideoFrame) -> Array:
        """uint8 [h, w, 3]; a file that does not say its colour matrix is taken as BT.601, as
        players do."""
        if frame.color_trc in HDR_TRANSFERS:
            wide = self.colours.reformat(frame, format="rgb48le", threads=1).to_ndarray()
            return hdr_to_sdr(wide, frame.color_trc)
        return self.colours.reformat(frame, format="rgb24", threads=1).to_ndarray()


def _turn(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """The turn that the display matrix gives a picture, to the nearest quarter turn: whether its
    sides change places, and the steps (1, or -1 for mirrored) by which its rows and its columns
    then go.
    """
    stored = frame.side_data.get(SideData.DISPLAYMATRIX)
    if stored is None:
        return False, 1, 1
    # The pixel at (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(stored), "<i4")[:5])
    across = abs(b) + abs(c) > abs(a) + abs(d)
    to_x, to_y = (c, b) if across else (a, d)
    return across, -1 if to_y < 0 else 1, -1 if to_x < 0 else 1


# --------------------------------------------------------------------------------------------------
# sound


def read_sound(
    path: Path, max_gap_s: float = MAX_HOLD_S, choose: int | None = None
) -> Iterator[av.AudioFrame]:
    """The sound of a file in frames as they are decoded, on the clock of its pictures: silence is
    laid in before a late start and into gaps, and what lies before the first picture or twice is
    left out. Sound alone begins with its first sample. `choose` takes a track by its number instead
    of the default one.

    Raises MediaError: no sound, or damaged sound. The first frame has the rate of the track.
    """
    origin = origin_of(path)
    with opened(path, "a sound", pictures=False) as container:
        stream = track(container, "audio", path, choose)
        placing = _SoundClock(stream.codec_context.sample_rate, origin, path, max_gap_s)
        for frame in each(container.decode(stream), f"{path}: damaged sound", "give another"):
            yield from placing.place(frame)


def sound_start_s(path: Path) -> float:
    """When the sound of a video begins, in seconds after its picture; 0 where it begins with it or
    before. Raises MediaError."""
    origin = origin_of(path)
    with opened(path, "a sound", pictures=False) as container:
        stream = track(container, "audio", path)
        first = next(each(container.decode(stream), f"{path}: damaged sound", "give another"), None)
    if origin is None or first is None or first.pts is None:
        return 0.0
    start_s = float(first.pts * rational(first.time_base) - origin)
    return start_s if start_s > _START_S else 0.0


class _SoundClock:
    """Puts frames of sound where their time says."""

    def __init__(self, rate: int, origin: Fraction | None, path: Path, max_gap_s: float):
        self.rate = rate
        self.origin = origin
        self.path = path
        self.max_gap_s = max_gap_s
        self.written = 0
        self.begun = False

    def place(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """The frame, with silence before it or cut where it must be. Raises MediaError when the
        clock jumps."""
        if not frame.samples:
            return
        late = self._late(frame)
        self.begun = self.begun or late > -frame.samples
        if late > 0:
            yield from self._silence(frame, late)
        elif late <= -frame.samples:
            return
        elif late < 0:
            with told(f"{self.path}: damaged sound", "give another"):
                frame = _tail(frame, -late)
        self.written += frame.samples
        yield frame

    def _late(self, frame: av.AudioFrame) -> int:
        """By how many samples a frame comes after those before it by its clock; 0 within what
        clocks leave open."""
        if frame.pts is None:
            return 0
        time_s = frame.pts * rational(frame.time_base)
        if self.origin is None:
            self.origin = time_s
        late = round((time_s - self.origin) * self.rate) - self.written
        if self.begun and late < -_BACK_S * self.rate:
            self.origin += Fraction(late, self.rate)
            return 0
        return self._missing(late)

    def _missing(self, late: int) -> int:
        """Samples that are missing, 0 within the tolerance. Raises MediaError for a jump."""
        if abs(late) <= (_DRIFT_S if self.begun else _START_S) * self.rate:
            return 0
        if late > self.max_gap_s * self.rate:
            at_s = self.written / self.rate
            raise MediaError(
                f"{self.path}: damaged sound (timestamps jump by {late / self.rate:.0f} s "
                f"at {at_s:.2f} s); give another"
            )
        return late

    def _silence(self, like: av.AudioFrame, count: int) -> Iterator[av.AudioFrame]:
        """Frames of silence as `like` is: its format, channels and rate; a second at a time."""
        while count > 0:
            samples = min(count, self.rate)
            with told(f"{self.path}: damaged sound", "give another"):
                frame = av.AudioFrame(
                    format=like.format.name, layout=like.layout.name, samples=samples
                )
            quiet = 0x80 if like.format.name.startswith("u8") else 0
            for plane in frame.planes:
                plane.update(bytes([quiet]) * plane.buffer_size)
            frame.sample_rate = like.sample_rate
            self.written += samples
            count -= samples
            yield frame


def _tail(frame: av.AudioFrame, skipped: int) -> av.AudioFrame:
    """A frame without its first samples."""
    samples = frame.to_ndarray()
    step = 1 if frame.format.is_planar else frame.layout.nb_channels
    kept = np.ascontiguousarray(samples[:, skipped * step :])
    cut = av.AudioFrame.from_ndarray(
        kept,
        format=frame.format.name,
        layout=frame.layout.name,
    )
    cut.sample_rate = frame.sample_rate
    return cut
