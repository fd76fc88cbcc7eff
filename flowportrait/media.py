"""Pictures, sound and video in and out: Pillow for stills, PyAV (FFmpeg's libraries) for all else.

Frames and portraits are uint8 RGB, [f, h, w, 3] and [h, w, 3]; sound is float32 in [-1, 1], [s] when mono and
[s, channels] otherwise. Nothing here knows torch. What cannot be read or written is a MediaError of one line.
"""

import math
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageOps

from flowportrait.colours import as_rgb
from flowportrait.errors import MediaError
from flowportrait.fragments import LIVE_X264, Fragments

FPS = 24
"""Frames per second of everything flowportrait makes (§3.1)."""

MIN_SPEECH_S = 0.5
MAX_PORTRAIT_SIDE_PX = 4096
MAX_SOUND_HZ = 192_000
"""Where a length is the limit, the rate has one too: a second of sound may not be any number of samples."""
_LATE_S = 0.5  # recorders that are told to stop at a length stop a little later
PICTURE_KINDS = "a JPEG, PNG, WebP, GIF, TIFF or BMP picture"
_PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")  # others run programs: EPS, Ghostscript
SOUND_KINDS = "a sound (wav, mp3, flac, ogg, m4a) or a video with a sound track"

# What Pillow's decoders raise on damaged files; each format has its own habit.
_PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)
# Sound at other rates is written at 48 kHz. AAC pads the end to a whole block of 1024 samples, which many
# players play: at 32 kHz and above that stays below one frame of video, at 8 kHz it would be three.
_AAC_RATES_HZ = (32000, 44100, 48000)

# Opening a file decodes a picture of its tracks to know them: a cover of 400 KB can be a gigabyte.
_NO_PICTURES = [{"max_pixels": "1"}] * 64


class Sound(NamedTuple):
    """Samples float32 in [-1, 1], [s] or [s, channels], with their rate."""

    samples: np.ndarray
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / self.sample_rate


class Facts(NamedTuple):
    """What a video file says of itself."""

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
        """What the head of the file says, without decoding."""
        path = _readable_file(self.path, "a video")
        with _opened(path, "a video") as container:
            stream = _stream(container, "video", path)
            # A damaged file may open and yet not know its own clock.
            if not stream.average_rate or not container.duration:
                raise MediaError(f"{path}: says neither how long nor how fast it is; give another video")
            duration_s = container.duration / av.time_base
            num_frames = stream.frames or round(duration_s * stream.average_rate)
            return Facts(float(stream.average_rate), num_frames, duration_s, bool(container.streams.audio))

    @property
    def fps(self) -> float:
        """Frames per second, as the file says."""
        return self.facts.fps

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames, uint8 [f, h, w, 3]."""
        return np.stack(list(read_frames(self.path)))

    @cached_property
    def sound(self) -> Sound:
        """The whole sound track, mixed to mono at its own rate."""
        return read_audio(self.path, min_s=0.0)


def frames_in(duration_s: float) -> int:
    """How many frames of video a sound of `duration_s` gets: the nearest number at 24 fps, at least one."""
    return max(1, round(duration_s * FPS))


# ---------------------------------------------------------------------------------------------- pictures


def read_portrait(path: str | Path, max_px: int | None = None) -> np.ndarray:
    """The picture upright, uint8 [h, w, 3], longest side at most 4096 px.

    EXIF orientation and colour profile are applied, transparency lies on neutral grey, an animation gives its
    first frame. Raises MediaError for what is missing, empty, damaged, no picture, or says that it has over `max_px`
    pixels, which is looked at before any is decoded.
    """
    path = _readable_file(path, PICTURE_KINDS)
    try:
        with warnings.catch_warnings():
            # Pillow warns at 90 and refuses at 180 megapixels; only the refusal concerns the user.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_PICTURE_FORMATS) as image:
                if max_px and image.width * image.height > max_px:
                    raise MediaError(f"{path}: over {max_px / 1e6:.0f} megapixels; make it smaller")
                # A JPEG can be decoded at 1/2, 1/4 or 1/8 size, which bounds time and memory.
                image.draft(None, (MAX_PORTRAIT_SIDE_PX, MAX_PORTRAIT_SIDE_PX))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
    except Image.UnidentifiedImageError as error:
        raise MediaError(f"{path}: not a picture this can read; give {PICTURE_KINDS}") from error
    except Image.DecompressionBombError as error:
        megapixels = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise MediaError(f"{path}: over {megapixels} megapixels; make it smaller") from error
    except _PICTURE_ERRORS as error:
        raise MediaError(f"{path}: a damaged picture ({_one_line(error)}); give another") from error
    image.thumbnail((MAX_PORTRAIT_SIDE_PX, MAX_PORTRAIT_SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(as_rgb(image))


# ------------------------------------------------------------------------------------------------- sound


def read_audio(
    path: str | Path, sample_rate: int | None = None, mono: bool = True, min_s: float = MIN_SPEECH_S,
    max_s: float = math.inf,
) -> Sound:  # fmt: skip
    """The sound of a file or of a video's sound track; at its own rate unless `sample_rate` (Hz) is given.

    Encoder padding that the file declares is cut, so sample 0 is the first one recorded. Without `mono` the
    channels stay [s, channels], more than two mixed down to stereo. Raises MediaError for what is missing,
    damaged, without sound, shorter than `min_s` or clearly longer than `max_s` seconds, or holding values that are not
    numbers. With `max_s`, no more than that and half a second is decoded, whatever the file says of itself.
    """
    path = _readable_file(path, SOUND_KINDS)
    _refuse_cut_wav(path)
    with _opened(path, SOUND_KINDS) as container:
        stream = _stream(container, "audio", path)
        rate = stream.codec_context.sample_rate
        if math.isfinite(max_s):
            _refuse_long(container, stream, path, max_s)
        samples = _decode_sound(container, stream, path, mono, max_s)
    duration_s = len(samples) / rate
    if len(samples) == 0 or duration_s < min_s:
        raise MediaError(f"{path}: {duration_s:.2f} s of sound; give at least {min_s} s")
    if not np.isfinite(samples).all():
        raise MediaError(f"{path}: holds samples that are not numbers (NaN or infinite); export the sound again")
    if sample_rate is not None and sample_rate != rate:
        samples, rate = resample(samples, rate, sample_rate), sample_rate
    return Sound(samples, rate)


def read_pcm(path: str | Path, sample_rate: int) -> np.ndarray:
    """The sound of a file, mono, in whole levels as `ffmpeg -ac 1 -ar RATE -c:a pcm_s16le` writes it: int16 [s].

    Silence stays exactly silent, which floats rounded later do not. Raises MediaError as `read_audio` does.
    """
    path = _readable_file(path, SOUND_KINDS)
    _refuse_cut_wav(path)
    with _opened(path, SOUND_KINDS) as container:
        stream = _stream(container, "audio", path)
        parts = _resampled(container, stream, av.AudioResampler("s16", "mono", sample_rate), path)
    return np.concatenate(parts, axis=1)[0] if parts else np.zeros(0, np.int16)


def resample(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """`audio` [s] or [s, channels] at another rate, round(s * to_hz / from_hz) samples, without delay."""
    if from_hz == to_hz:
        return audio
    length = round(len(audio) * to_hz / from_hz)
    planes = np.ascontiguousarray(audio.reshape(len(audio), -1).T, dtype=np.float32)
    layout = "mono" if len(planes) == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=to_hz)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    frame.sample_rate = from_hz
    parts = [out.to_ndarray() for out in (*resampler.resample(frame), *resampler.resample(None))]
    joined = np.concatenate([*parts, np.zeros((len(planes), length), np.float32)], axis=1)[:, :length]
    return joined[0] if audio.ndim == 1 else joined.T


def _decode_sound(
    container: av.container.InputContainer, stream: av.AudioStream, path: Path, mono: bool, max_s: float
) -> np.ndarray:
    """float32 [s] or [s, channels] at the stream's own rate."""
    layout = "mono" if mono or stream.codec_context.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=stream.codec_context.sample_rate)
    decoded = _resampled(container, stream, resampler, path, max_s)
    planes = np.concatenate(decoded, axis=1) if decoded else np.zeros((1, 0), np.float32)
    return planes[0] if mono else planes.T


def _resampled(container, stream, resampler: av.AudioResampler, path: Path, max_s: float = math.inf):
    """Planes [channels, s] as they are decoded, refused once there are more than `max_s` seconds of them."""
    left_s, parts = max_s + _LATE_S, []
    try:
        for frame in container.decode(stream):
            left_s -= frame.samples / frame.sample_rate
            if left_s < 0:
                raise MediaError(f"{path}: over {max_s:.0f} s of sound; give at most {max_s:.0f} s here")
            parts += [out.to_ndarray() for out in resampler.resample(frame)]
        return parts + [out.to_ndarray() for out in resampler.resample(None)] if parts else []
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: damaged sound ({_one_line(error)}); give {SOUND_KINDS}") from error


def _refuse_long(container: av.container.InputContainer, stream: av.AudioStream, path: Path, max_s: float) -> None:
    """Raises MediaError when the head of a file says that its sound is longer than `max_s`, without decoding it."""
    rate, length_s = stream.codec_context.sample_rate, 0.0
    # Of a bare mp3 or aac without a head, the length is a guess from the first bit rate: it is decoded and seen.
    if stream.duration and container.format.name not in ("mp3", "aac"):
        length_s = float(stream.duration * stream.time_base)
    if length_s > max_s + _LATE_S:
        raise MediaError(f"{path}: {length_s:.0f} s of sound; give at most {max_s:.0f} s here")
    if rate > MAX_SOUND_HZ:
        raise MediaError(f"{path}: sound of {rate} Hz; give at most {MAX_SOUND_HZ} Hz here")


def _refuse_cut_wav(path: Path) -> None:
    """Raises MediaError for a wav file shorter than its head says; decoders would play it as if whole. A few bytes less
    are some writers' wrong arithmetic, not lost sound."""
    with path.open("rb") as file:
        head = file.read(8)
    declared = 8 + int.from_bytes(head[4:], "little")
    # Programs that write into a pipe cannot know the length and put the largest number there is.
    if head[:4] == b"RIFF" and path.stat().st_size + 256 < declared < 0x7FFFFF00:
        raise MediaError(f"{path}: cut off, {path.stat().st_size} of {declared} bytes; give the whole file")


# ------------------------------------------------------------------------------------------------- video


def read_frames(path: str | Path, fps: float | None = None) -> Iterator[np.ndarray]:
    """The frames of a video one by one, uint8 [h, w, 3]; with `fps`, resampled to that clock (nearest frame).

    Raises MediaError for what is missing, damaged or has no picture.
    """
    path = _readable_file(path, "a video")
    with _opened(path, "a video") as container:
        stream = _stream(container, "video", path)
        stream.thread_type = "AUTO"
        tick, shown, empty = 0, None, True
        try:
            for frame in container.decode(stream):
                empty = False
                if fps is None:
                    yield _rgb(frame)
                    continue
                # A frame stays on show until the next one starts; half a tick makes the choice the nearest.
                while shown is not None and (tick + 0.5) / fps <= frame.time:
                    yield shown
                    tick += 1
                shown = _rgb(frame)
                last_end = frame.time + float(1 / stream.average_rate)
        except av.FFmpegError as error:
            raise MediaError(f"{path}: damaged video ({_one_line(error)}); give another") from error
        # A file that was cut off behind its head opens, and then holds nothing.
        if empty:
            raise MediaError(f"{path}: damaged video (not one frame can be decoded); give another")
        while shown is not None and fps is not None and (tick + 0.5) / fps <= last_end:
            yield shown
            tick += 1


def write_video(
    path: str | Path, frames: Iterable[np.ndarray], fps: float, audio: np.ndarray, sample_rate: int,
    metadata: Mapping[str, str], preset: str = "medium", growing: Path | None = None,
) -> int:  # fmt: skip
    """Writes an mp4 (H.264 crf 16, AAC) of uint8 [h, w, 3] frames as they come; gives how many there were.

    The sound keeps its place to the sample: the encoder's priming is declared in the file, and players skip
    it. The file appears under its name only when it is whole. `metadata` goes into the mp4's own keys (title,
    comment, description, ...); `preset` is x264's, how hard it works. The same packets go into `growing`, which can
    be watched meanwhile (`fragments`); `preset` is then the fragments'. Raises MediaError when it cannot be written,
    or when picture and sound differ by over one frame.
    """
    path = check_output(path)
    planes, sample_rate = _encodable(audio, sample_rate)
    duration_s = planes.shape[1] / sample_rate
    with _whole_or_absent(path) as partial:
        try:
            rate, x264 = Fraction(fps).limit_denominator(1001), LIVE_X264 if growing else {"preset": preset}
            num_frames = _encode(partial, frames, rate, planes, sample_rate, metadata, x264, growing)
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"{path}: cannot be written ({_one_line(error)})") from error
        if abs(num_frames / fps - duration_s) > 1 / fps:
            raise MediaError(
                f"{path}: {num_frames} frames for {duration_s:.2f} s of sound; give {round(duration_s * fps)}"
            )
    return num_frames


def remux(source: Path, target: Path, sound: bool = True, num_frames: int | None = None) -> None:
    """Copies a video without coding it anew, without its sound track or with its first frames only."""
    with _opened(source, "a video") as reader, av.open(str(target), "w") as writer:
        streams = [reader.streams.video[0], *(reader.streams.audio if sound else ())]
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in streams}
        frames_left = math.inf if num_frames is None else num_frames
        for packet in reader.demux(streams):
            if packet.dts is None or (packet.stream.type == "video" and frames_left <= 0):
                continue
            frames_left -= packet.stream.type == "video"
            packet.stream = copies[packet.stream.index]
            writer.mux(packet)


def synthetic_mark(model: str, seed: int, version: str) -> dict[str, str]:
    """The mp4 metadata that tells people and programs that a video is generated, and by what."""
    made_by = f"flowportrait {version}, model {model}, seed {seed}"
    return {
        "title": "AI-generated talking portrait",
        "comment": f"Synthetic media: this video was generated by {made_by}.",
        "description": f"synthetic=true; generator=flowportrait/{version}; model={model}; seed={seed}",
        "artist": made_by,
    }


def check_output(path: str | Path) -> Path:
    """`path` when an mp4 can be written there; raises MediaError otherwise. Leaves nothing behind."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"{path}: cannot write '{path.suffix or 'no suffix'}'; give a name that ends in .mp4")
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise MediaError(f"{path}: the folder {path.parent} does not exist; make it first")
    probe = _partial_name(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MediaError(f"{path}: the folder {path.parent} cannot be written to ({error.strerror})") from error
    return path


def _encode(
    path: Path, frames: Iterable[np.ndarray], fps: Fraction, planes: np.ndarray, sample_rate: int,
    metadata: Mapping[str, str], x264: Mapping[str, str], growing: Path | None,
) -> int:  # fmt: skip
    """Encodes picture and sound side by side, so that neither waits in memory for the other."""
    with ExitStack() as open_files:
        container = open_files.enter_context(av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}))
        container.metadata.update(metadata)
        mux = container.mux
        if growing:
            mux = open_files.enter_context(closing(Fragments(container, growing))).mux
        video, write_sound = None, _sound_writer(container, planes, sample_rate, mux)
        num_frames = 0
        for image in frames:
            if video is None:
                video = _video_stream(container, fps, image.shape[0], image.shape[1], x264)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", src_colorspace=Colorspace.DEFAULT, dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )  # fmt: skip
            frame.pts, frame.time_base = num_frames, 1 / fps
            mux(video.encode(frame))
            num_frames += 1
            write_sound(until_sample=math.ceil(num_frames / fps * sample_rate))
        if video is not None:
            mux(video.encode(None))
        write_sound(until_sample=None)
    return num_frames


def _video_stream(
    container: av.container.OutputContainer, fps: Fraction, height: int, width: int, x264: Mapping[str, str]
):
    """An H.264 stream whose colours are said to be what they are: BT.709, limited range."""
    if height % 2 or width % 2:
        raise MediaError(f"frames of {width}x{height} px; H.264 in yuv420p needs even sides")
    stream = container.add_stream("libx264", rate=fps, options={"crf": "16"} | x264)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = 1 / fps
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709 in H.273's tables
    context.color_range = ColorRange.MPEG
    return stream


def _sound_writer(container, planes: np.ndarray, sample_rate: int, mux: Callable) -> Callable[..., None]:
    """A function that encodes `planes` [channels, s] up to a sample, or to its end and flushes (None)."""
    layout = "mono" if len(planes) == 1 else "stereo"
    bit_rate = 128_000 * len(planes)
    stream = container.add_stream("aac", rate=sample_rate, layout=layout, bit_rate=bit_rate)
    done = 0

    def write(until_sample: int | None) -> None:
        nonlocal done
        end = planes.shape[1] if until_sample is None else min(until_sample, planes.shape[1])
        if end > done:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes[:, done:end]), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, done, Fraction(1, sample_rate)
            mux(stream.encode(frame))
            done = end
        if until_sample is None:
            mux(stream.encode(None))

    return write


def written_rate_hz(sample_rate: int) -> int:
    """The rate at which `write_video` writes sound of this rate."""
    return sample_rate if sample_rate in _AAC_RATES_HZ else _AAC_RATES_HZ[-1]


def _encodable(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """Sound as planes [channels, s] at one of the rates that are written."""
    rate = written_rate_hz(sample_rate)
    audio = resample(audio, sample_rate, rate)
    return np.clip(audio.reshape(len(audio), -1).T, -1, 1).astype(np.float32), rate


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [h, w, 3]; a file that does not say its colour matrix is taken as BT.601, as players do."""
    return frame.to_ndarray(format="rgb24")


# ------------------------------------------------------------------------------------------------- files


def _readable_file(path: str | Path, kinds: str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; give the path of {kinds}")
    if not path.exists():
        raise MediaError(f"{path}: no such file; give the path of {kinds}")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty; give {kinds}")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path}: may not be read; change its permissions")
    return path


@contextmanager
def _opened(path: Path, kinds: str) -> Iterator[av.container.InputContainer]:
    try:
        container = av.open(str(path), stream_options=_NO_PICTURES if kinds == SOUND_KINDS else None)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: cannot be read ({_one_line(error)}); give {kinds}") from error
    with container:
        yield container


def _stream(container: av.container.InputContainer, kind: str, path: Path):
    """The first stream of a kind, "audio" or "video"."""
    streams = getattr(container.streams, kind)
    if not streams:
        raise MediaError(f"{path}: has no {'sound' if kind == 'audio' else 'picture'} track; give another file")
    return streams[0]


@contextmanager
def _whole_or_absent(path: Path) -> Iterator[Path]:
    """A name to write under, in the same folder; it becomes `path` on success and vanishes otherwise."""
    partial = _partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial_name(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")


def _one_line(error: Exception) -> str:
    """What a library said, without paths and line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
