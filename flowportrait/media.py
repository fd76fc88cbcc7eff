"""Reading and writing of sound and video, for the rest of the package: what commands and rooms
call.

Frames and portraits are uint8 RGB, [f, h, w, 3] and [h, w, 3]; sound is float32 in [-1, 1], [s]
when mono and [s, channels] otherwise. Nothing here knows torch. What cannot be read or written is a
MediaError of one line.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from flowportrait import sound as sounds
from flowportrait.arrays import Array
from flowportrait.container import opened, readable_file, told, track
from flowportrait.errors import DataError, MediaError
from flowportrait.mp4 import check_output as check_output
from flowportrait.mp4 import remux as remux
from flowportrait.mp4 import synthetic_mark as synthetic_mark
from flowportrait.mp4 import write_video as write_video
from flowportrait.mp4 import written_rate_hz as written_rate_hz
from flowportrait.pictures import MAX_PORTRAIT_SIDE_PX as MAX_PORTRAIT_SIDE_PX
from flowportrait.pictures import PICTURE_KINDS as PICTURE_KINDS
from flowportrait.pictures import exposure_warnings as exposure_warnings
from flowportrait.pictures import read_portrait as read_portrait
from flowportrait.reader import READER_VERSION as READER_VERSION
from flowportrait.reader import is_plain as is_plain
from flowportrait.reader import on_clock, read_pictures, read_sound
from flowportrait.sound import Sound as Sound
from flowportrait.sound import heard as heard
from flowportrait.sound import resample as resample
from flowportrait.sound import to_mono as to_mono
from flowportrait.timeline import nearest_frames as nearest_frames
from flowportrait.timeline import timeline

FPS = 24
"""Frames per second of everything flowportrait makes (§3.1)."""

MIN_SPEECH_S = 0.5
MAX_SOUND_HZ = 192_000
"""Where a length is the limit, the rate has one too: a second of sound may not be any number of
samples."""
_LATE_S = 0.5  # recorders that are told to stop at a length stop a little later
SOUND_KINDS = "a sound (wav, mp3, flac, ogg, m4a) or a video with a sound track"


class Facts(NamedTuple):
    """Facts of a video file, from its header or else from its packets."""

    fps: float
    num_frames: int
    duration_s: float
    has_sound: bool


@dataclass(frozen=True)
class Clip:
    """A piece of video with its sound, decoded from its file when first looked at."""

    path: Path

    @cached_property
    def facts(self) -> "Facts":
        """Rate, length and whether there is sound, without decoding. Raises MediaError."""
        times = timeline(self.path)
        return Facts(times.fps, times.num_frames, times.duration_s, times.has_sound)

    @property
    def fps(self) -> float:
        """Frames per second, as the file says."""
        return self.facts.fps

    @property
    def is_even(self) -> bool:
        """Whether frames come at a constant rate; others must be taken by time, not one after
        another."""
        return timeline(self.path).is_even

    @cached_property
    def frames(self) -> Array:
        """All frames, uint8 [f, h, w, 3]."""
        return np.stack(list(read_frames(self.path)))

    def frames_at(self, fps: float) -> Array:
        """Frames on show at each tick of the clock `fps`, uint8 [ticks, h, w, 3], by time; at least
        the first frame.
        """
        if self.is_even and abs(fps - self.fps) < 1e-3:
            return self.frames
        return np.stack(list(read_frames(self.path, fps)) or [next(read_frames(self.path))])

    @cached_property
    def sound(self) -> Sound:
        """The whole sound track in step with the frames, mixed to mono at its own rate."""
        return read_audio(self.path, min_s=0.0)


def frames_in(duration_s: float) -> int:
    """How many frames of video a sound of `duration_s` gets: the nearest number at 24 fps, at least
    one."""
    return max(1, round(duration_s * FPS))


def read_frames(path: str | Path, fps: float | None = None) -> Iterator[Array]:
    """The frames of a video one by one, uint8 [h, w, 3], upright, with square pixels, in a screen's
    colours; with `fps`, resampled to that clock (nearest frame), which begins with the first frame.

    Raises MediaError for what is missing, damaged or has no picture.
    """
    pictures = read_pictures(readable_file(path, "a video"))
    if fps is None:
        yield from (picture.pixels for picture in pictures)
    else:
        yield from on_clock(pictures, fps)


# -------------------------------------------------------------------------------------------------
# sound


def read_audio(
    path: str | Path,
    sample_rate: int | None = None,
    mono: bool = True,
    min_s: float = MIN_SPEECH_S,
    max_s: float = math.inf,
) -> Sound:
    """The sound of a file or of a video's sound track; at its own rate unless `sample_rate` (Hz) is
    given.

    A video's sound begins with its picture: where it comes later by the file's clock there is
    silence first, and gaps are silent too. Encoder padding that the file declares is cut. Without
    `mono` the channels stay [s, channels], more than two mixed down to stereo; mixed channels that
    cancel out give way to the louder one, and `warnings` say so. Raises MediaError for what is
    missing, damaged, without sound, shorter than `min_s` or clearly longer than `max_s` seconds, or
    holding values that are not numbers. With `max_s`, no more than that and half a second is
    decoded, whatever the file says of itself.
    """
    path = readable_file(path, SOUND_KINDS)
    _refuse_cut_wav(path)
    rate, channels = _head_of(path, max_s)
    layout = "mono" if mono or channels == 1 else "stereo"
    planes, warnings = _decoded(path, ("fltp", layout, rate), channels, max_s)
    samples = planes[0] if mono else planes.T
    duration_s = len(samples) / rate
    if len(samples) == 0 or duration_s < min_s:
        raise MediaError(f"{path}: {duration_s:.2f} s of sound; give at least {min_s} s")
    if not np.isfinite(samples).all():
        raise MediaError(
            f"{path}: holds samples that are not numbers (NaN or infinite); export the sound again"
        )
    warnings += _doubts(path, samples, rate, max_s)
    if sample_rate is not None and sample_rate != rate:
        samples = resample(samples, rate, sample_rate)
        rate = sample_rate
    return Sound(samples, rate, tuple(warnings))


def read_pcm(path: str | Path, sample_rate: int) -> Array:
    """The sound of a file, mono, in whole levels as `ffmpeg -ac 1 -ar RATE -c:a pcm_s16le` writes
    it: int16 [s].

    Silence stays exactly silent, which floats rounded later do not. Raises MediaError as
    `read_audio` does.
    """
    path = readable_file(path, SOUND_KINDS)
    _refuse_cut_wav(path)
    _, channels = _head_of(path, math.inf)
    return _decoded(
        path,
        ("s16", "mono", sample_rate),
        channels,
        math.inf,
    )[0][0]


def _head_of(path: Path, max_s: float) -> tuple[int, int]:
    """Rate in Hz and number of channels. Raises MediaError: no sound, or more of it than `max_s` by
    the file's head."""
    with opened(path, SOUND_KINDS, pictures=False) as container:
        stream = track(container, "audio", path)
        rate = stream.codec_context.sample_rate
        length_s = 0.0
        if math.isinf(max_s):
            return rate, stream.codec_context.channels
        # Of a bare mp3 or aac without a head, the length is a guess from the first bit rate: it is
        # decoded and seen.
        if stream.duration and container.format.name not in ("mp3", "aac"):
            length_s = float(stream.duration * stream.time_base)
        if length_s > max_s + _LATE_S:
            raise MediaError(f"{path}: {length_s:.0f} s of sound; the maximum is {max_s:.0f} s")
        if rate > MAX_SOUND_HZ:
            raise MediaError(f"{path}: sound of {rate} Hz; the maximum is {MAX_SOUND_HZ} Hz")
        return rate, stream.codec_context.channels


def _decoded(
    path: Path, kind: tuple[str, str, int], channels: int, max_s: float
) -> tuple[Array, list[str]]:
    """Planes [channels, s] of the kind (format, layout, rate), and what was done about channels
    that cancel out."""
    form, layout, rate = kind
    mixes = layout == "mono" and channels > 1
    levels = _Levels() if mixes else None
    planes = _resampled(path, kind, max_s, levels)
    if layout == "stereo":
        louder = sounds.to_mono(planes.T)[1]
        return planes, [] if louder is None else [sounds.said_of_channel(path.name, louder, 2)]
    louder = levels.louder() if levels else None
    if louder is None:
        return planes, []
    both = _resampled(path, (form, "stereo", rate), max_s, None)
    # Packed formats have both channels in one plane.
    one = both[louder] if len(both) == 2 else both[0, louder::2]
    return one[None], [sounds.said_of_channel(path.name, louder, 2)]


class _Levels:
    """How loud two channels are, and their mixture, over a whole recording."""

    def __init__(self):
        self.resampler = None
        self.squares = np.zeros(3)

    def hear(self, frame: av.AudioFrame) -> None:
        """Adds a frame of any layout."""
        if self.resampler is None:
            self.resampler = av.AudioResampler("fltp", "stereo", frame.sample_rate)
        for out in self.resampler.resample(frame):
            both = out.to_ndarray()
            for place, samples in enumerate((*both, both.mean(axis=0))):
                self.squares[place] += np.square(samples, dtype=np.float64).sum()

    def louder(self) -> int | None:
        """Which channel must be heard alone; None where the mixture is heard."""
        *levels, mixed = np.sqrt(self.squares)
        total = max(levels)
        if total > 0:
            return sounds.better_channel(mixed / total, [level / total for level in levels])
        return None


def _resampled(
    path: Path, kind: tuple[str, str, int], max_s: float, levels: _Levels | None
) -> Array:
    """Planes [channels, s] as they are decoded, refused once there are more than `max_s` seconds of
    them."""
    left_s = max_s + _LATE_S
    parts = []
    with told(f"{path}: damaged sound", f"give {SOUND_KINDS}"):
        resampler = av.AudioResampler(*kind)
    for frame in read_sound(path):
        left_s -= frame.samples / frame.sample_rate
        if left_s < 0:
            raise MediaError(f"{path}: over {max_s:.0f} s of sound; the maximum is {max_s:.0f} s")
        with told(f"{path}: damaged sound", f"give {SOUND_KINDS}"):
            if levels:
                levels.hear(frame)
            parts += [out.to_ndarray() for out in resampler.resample(frame)]
    return _flushed(parts, kind, path, resampler)


def _flushed(parts: list[Array], kind: tuple[str, str, int], path: Path, resampler) -> Array:
    """All samples, with those that the resampler still holds."""
    if not parts:
        return np.zeros(
            (1 if kind[1] == "mono" else 2, 0), np.int16 if kind[0] == "s16" else np.float32
        )
    with told(f"{path}: damaged sound", f"give {SOUND_KINDS}"):
        parts += [out.to_ndarray() for out in resampler.resample(None)]
    # A resampler that has nothing to do at first lets everything through.
    if len({(len(part), part.dtype) for part in parts}) > 1:
        raise MediaError(
            f"{path}: damaged sound (the number of channels changes); give {SOUND_KINDS}"
        )
    return np.concatenate(parts, axis=1)


def _doubts(path: Path, samples: Array, rate: int, max_s: float) -> list[str]:
    """One line for each thing about a recording that can hardly have been meant."""
    if sounds.is_silent(samples):
        return [_silence(path, max_s)]
    if quiet := sounds.quiet_speech(samples, rate):
        start_s, end_s, below_db = quiet
        return [
            f"{path.name}: what is said from {start_s:.1f} to {end_s:.1f} s is {below_db:.0f} dB "
            "quieter than the rest; "
            "the mouth may hardly move there; raise its level"
        ]
    return []


def _silence(path: Path, max_s: float) -> str:
    """A warning for a track in which nothing is heard: that another one speaks, if one does."""
    with opened(path, SOUND_KINDS, pictures=False) as container:
        taken = track(container, "audio", path).index
        count = len(container.streams.audio)
        others = [
            number for number, stream in enumerate(container.streams.audio) if stream.index != taken
        ]
    for number in others:
        if _speaks(path, number, max_s):
            return (
                f"{path.name}: the default one of its {count} sound tracks is silent, and "
                f"number {number + 1} is not; "
                "make that one the default"
            )
    return f"{path.name}: its sound is silence (nothing reaches -60 dB of full scale)"


def _speaks(path: Path, number: int, max_s: float) -> bool:
    """Whether anything is heard on a track, one that cannot be decoded aside."""
    left_s = min(max_s, 600.0)
    try:
        for frame in read_sound(path, choose=number):
            with told(f"{path}: damaged sound", f"give {SOUND_KINDS}"):
                converter = av.AudioResampler("fltp", "stereo", frame.sample_rate)
                heard = any(sounds.is_heard(out.to_ndarray()) for out in converter.resample(frame))
            left_s -= frame.samples / frame.sample_rate
            if heard or left_s < 0:
                return heard
    except MediaError:
        return False
    return False


def _refuse_cut_wav(path: Path) -> None:
    """Raises MediaError for a wav file shorter than its head says; decoders would play it as if
    whole. A few bytes less are some writers' wrong arithmetic, not lost sound."""
    with path.open("rb") as file:
        head = file.read(8)
    declared = 8 + int.from_bytes(head[4:], "little")
    # Programs that write into a pipe cannot know the length and put the largest number there is.
    if head[:4] == b"RIFF" and path.stat().st_size + 256 < declared < 0x7FFFFF00:
        raise MediaError(
            f"{path}: cut off, {path.stat().st_size} of {declared} bytes; give the whole file"
        )


def picture_of(portrait: str | Path | Array) -> Array:
    """A portrait as programs give it, a file or uint8 [h, w, 3], as the latter. Raises MediaError,
    and DataError for another array.
    """
    if not isinstance(portrait, np.ndarray):
        return read_portrait(portrait)
    if portrait.dtype != np.uint8 or portrait.ndim != 3 or portrait.shape[2] != 3:
        raise DataError(
            f"portrait: got {portrait.dtype} {list(portrait.shape)}; give uint8 [h, w, 3] or a file"
        )
    return portrait


def sound_of(audio: str | Path | tuple[Array, int]) -> Sound:
    """Speech as programs give it, a file or (floats [s] or [s, channels], rate in Hz). Raises
    MediaError, and DataError for arrays that are no sound, or too short.
    """
    if isinstance(audio, str | Path):
        return read_audio(audio, mono=False)
    samples, rate = audio
    samples = np.asarray(samples)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or not np.isfinite(samples).all():
        raise DataError(
            f"audio: got {samples.dtype} {list(samples.shape)}; give finite floats in [-1, 1], "
            "[s] or [s, channels], or a file"
        )
    sound = Sound(samples.astype(np.float32), rate, getattr(audio, "warnings", ()))
    if sound.duration_s < MIN_SPEECH_S:
        raise DataError(f"audio: {sound.duration_s:.2f} s of sound; give at least {MIN_SPEECH_S} s")
    return sound
