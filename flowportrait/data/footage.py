"""A source video as preparation reads it: upright frames by time at any clock, and sound that lies on disk.

Time begins with the first frame of the picture, whatever the file calls that moment. What can be decoded is used; where
decoding ends too early, `damage` says why. Nothing is held in memory but the frame on show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from flowportrait.errors import DataError

PCM_HZ = 16_000
MAX_HOLD_S = 5.0
"""A frame that would stand longer than this is a jump of the file's clock, not a picture."""
_MAX_DRIFT_S = 0.1  # between the sound's clock and its samples, before silence is laid in or samples are left out


class Unusable(DataError):
    """Why a source, or the rest of it, cannot be used; `reason` is one of `records.REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class SoundTrack:
    """Sound on disk, in step with the picture: int16 [s, channels] at its own rate and [s] at 16 kHz mono.

    Before `from_s` the file has picture only; there stands silence.
    """

    samples: np.ndarray
    rate: int
    pcm: np.ndarray
    from_s: float
    damage: str = ""

    @property
    def end_s(self) -> float:
        """Where it ends."""
        return len(self.samples) / self.rate


@dataclass
class Footage:
    """One source. `size_px` is (width, height) as it is to be seen: turned upright, with square pixels."""

    path: Path
    size_px: tuple[int, int]
    declared_s: float
    has_sound: bool
    damage: str = field(default="")

    def frames(self, fps: float) -> Iterator[np.ndarray]:
        """uint8 [h, w, 3], the frame on show at every tick of the clock `fps` (nearest frame), up to the end or the
        first damage. The same array comes again while a frame stays on show."""
        tick, shown, end_s = 0, None, 0.0
        for start_s, step_s, frame in self._decoded():
            while shown is not None and (tick + 0.5) / fps <= start_s:
                yield shown
                tick += 1
            shown, end_s = frame, start_s + step_s
        while shown is not None and (tick + 0.5) / fps <= end_s:
            yield shown
            tick += 1

    def _decoded(self) -> Iterator[tuple[float, float, np.ndarray]]:
        """Start and length in seconds and pixels of every frame; time begins with the first."""
        origin_s, last_s = None, 0.0
        colours = VideoReformatter()  # made anew for every frame it takes five times as long
        with av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            # How long a last frame stands, until two frames have told.
            step_s = min(float(1 / (stream.average_rate or 25)), 0.5)
            frames = iter(container.decode(stream))
            while True:
                try:
                    frame = next(frames)
                except StopIteration:
                    return
                except av.FFmpegError as error:
                    self.damage = f"the picture cannot be decoded beyond {last_s:.2f} s ({one_line(error)})"
                    return
                time_s = frame.time if frame.time is not None else (origin_s or 0.0) + last_s + step_s
                origin_s = time_s if origin_s is None else origin_s
                start_s = max(time_s - origin_s, last_s)
                if start_s - last_s > MAX_HOLD_S:
                    self.damage = f"the clock jumps from {last_s:.2f} to {start_s:.2f} s"
                    return
                step_s = start_s - last_s or step_s
                yield start_s, step_s, self._upright(frame, colours)
                last_s = start_s

    def _upright(self, frame: av.VideoFrame, colours: VideoReformatter) -> np.ndarray:
        pixels = colours.reformat(frame, format="rgb24", threads=1).to_ndarray()
        turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
        if turned.shape[1::-1] == self.size_px:
            return np.ascontiguousarray(turned)
        return np.asarray(Image.fromarray(turned).resize(self.size_px, Image.Resampling.BILINEAR))

    def origin_s(self) -> float:
        """The file's own time of the first frame."""
        with av.open(str(self.path)) as container:
            frame = next(container.decode(container.streams.video[0]))
            return frame.time or 0.0

    def sound(self, folder: Path) -> SoundTrack:
        """The sound, decoded into files of `folder`. Raises Unusable when there is none."""
        own, pcm = folder / "sound.s16", folder / "sound-16k.s16"
        with av.open(str(self.path)) as container, own.open("wb") as file:
            track = _SoundWriter(container, file, self.origin_s())
            track.run()
        if track.written < 0.1 * track.rate:
            raise Unusable("no_sound", f"{self.path}: no sound can be decoded ({track.damage or 'the track is empty'})")
        samples = np.memmap(own, np.int16, "r").reshape(-1, track.channels)
        with pcm.open("wb") as file:
            for block in _at_16k(samples, track.rate):
                file.write(block.tobytes())
        return SoundTrack(samples, track.rate, np.memmap(pcm, np.int16, "r"), track.from_s, track.damage)


class _SoundWriter:
    """Writes a sound track as it is decoded, each sample where its time says."""

    def __init__(self, container: av.container.InputContainer, file, origin_s: float):
        self.container, self.file, self.origin_s = container, file, origin_s
        self.stream = container.streams.audio[0]
        self.rate = self.stream.codec_context.sample_rate
        self.channels = min(2, self.stream.codec_context.channels)
        self.written, self.from_s, self.damage = 0, 0.0, ""

    def run(self) -> None:
        """Decodes all there is."""
        resampler = av.AudioResampler("s16", "mono" if self.channels == 1 else "stereo", self.rate)
        begun = False
        try:
            for frame in self.container.decode(self.stream):
                wanted = self.written if frame.time is None else round((frame.time - self.origin_s) * self.rate)
                if not begun or abs(wanted - self.written) > _MAX_DRIFT_S * self.rate:
                    if wanted - self.written > MAX_HOLD_S * self.rate:
                        self.damage = f"the sound's clock jumps at {self.written / self.rate:.2f} s"
                        return
                    if not begun:
                        self.from_s = max(0.0, wanted / self.rate)
                    self._silence(wanted - self.written)
                late = self.written - wanted if not begun or self.written - wanted > _MAX_DRIFT_S * self.rate else 0
                for out in resampler.resample(frame):
                    self._write(out.to_ndarray().reshape(-1, self.channels), max(0, late))
                begun = begun or self.written > 0
        except (av.FFmpegError, ValueError) as error:
            self.damage = f"the sound cannot be decoded beyond {self.written / self.rate:.2f} s ({one_line(error)})"

    def _silence(self, count: int) -> None:
        if count > 0:
            self._write(np.zeros((count, self.channels), np.int16), 0)

    def _write(self, samples: np.ndarray, skipped: int) -> None:
        kept = samples[min(skipped, len(samples)) :]
        self.file.write(kept.tobytes())
        self.written += len(kept)


def _at_16k(samples: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """int16 [s, channels] at `rate` as mono blocks at 16 kHz, without delay."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    resampler, sent = av.AudioResampler("s16", "mono", PCM_HZ), 0
    wanted = round(len(samples) * PCM_HZ / rate)
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
    """What the head of a file says. Raises Unusable: unreadable, without picture or without sound."""
    if not path.is_file():
        raise Unusable("unreadable", f"{path}: no such file")
    if path.stat().st_size == 0:
        raise Unusable("unreadable", f"{path}: the file is empty")
    try:
        with av.open(str(path)) as container:
            duration_s = (container.duration or 0) / av.time_base
            if not container.streams.video:
                raise Unusable("no_picture", f"{path}: has no picture track")
            stream = container.streams.video[0]
            first = next(iter(container.decode(stream)), None)
            if first is None:
                raise Unusable("unreadable", f"{path}: not one frame can be decoded")
            if stream.duration and stream.time_base:
                duration_s = min(duration_s or np.inf, float(stream.duration * stream.time_base))
            return Footage(path, _seen_size(stream, first), float(duration_s), bool(container.streams.audio))
    except (av.FFmpegError, OSError) as error:
        raise Unusable("unreadable", f"{path}: cannot be read ({one_line(error)})") from error


def _seen_size(stream: av.VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    width, height = max(1, round(frame.width * float(stream.sample_aspect_ratio or 1))), frame.height
    return (height, width) if round(frame.rotation / 90) % 2 else (width, height)


def one_line(error: Exception) -> str:
    """What a library said, without paths and line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
