"""Films whose container says when things are shown and heard, in every format, around one source of
pictures and sound."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE = 64, 48, 48_000
BITS = 7
CODECS = {
    "mp4": ("libx264", "aac"), "mov": ("libx264", "aac"), "mkv": ("libx264", "flac"),
    "webm": ("libvpx", "libopus"), "ts": ("libx264", "aac"), "avi": ("mpeg4", "pcm_s16le"),
    "mpg": ("mpeg2video", "mp2"), "flv": ("libx264", "aac"),
}  # fmt: skip
_TICKS = 90_000


@dataclass(frozen=True)
class Film:
    """What a container says. Times in seconds; `trim` pictures at the start are hidden by an edit
    list."""

    suffix: str
    fps: int = 25
    num_frames: int = 30
    picture_start_s: float = 0.0
    sound_start_s: float = 0.0
    gap_s: tuple[float, float] | None = None
    wobble: float = 0.0  # of a frame's time, by which pictures come early or late
    quarter_turns: int = 0
    aspect: Fraction = Fraction(1)
    trim: int = 0

    @property
    def duration_s(self) -> float:
        """Of picture and sound alike."""
        return self.num_frames / self.fps

    @property
    def times_s(self) -> np.ndarray:
        """When the pictures start, the first at 0."""
        late = np.random.default_rng(self.num_frames).uniform(
            -self.wobble, self.wobble, self.num_frames
        )
        times = (np.arange(self.num_frames) + late) / self.fps
        return times - times[0]


def picture(index: int) -> np.ndarray:
    """uint8 [h, w, 3]: stripes that count in binary, over a bar that says where the top is."""
    image = np.full((HEIGHT, WIDTH, 3), 16, np.uint8)
    for bit in range(BITS):
        image[16:, bit * WIDTH // BITS : (bit + 1) * WIDTH // BITS] = (
            235 if index >> bit & 1 else 16
        )
    image[:16, : WIDTH // 2] = 235
    return image


def index_of(image: np.ndarray) -> int:
    """The number that an upright picture of any width shows."""
    height, width = image.shape[:2]
    row = image[height * 2 // 3, :, 1].astype(int)
    return sum((row[round((bit + 0.5) * width / BITS)] > 125) << bit for bit in range(BITS))


def voice(duration_s: float, seed: int = 0) -> np.ndarray:
    """Noise that every codec keeps: no two moments are alike, so any shift shows. float32 [s] at 48
    kHz."""
    rng = np.random.default_rng(seed)
    count = round(duration_s * RATE)
    spectrum = rng.standard_normal((count // 2 + 1, 2)) @ [1, 1j]
    spectrum[np.fft.rfftfreq(count, 1 / RATE) > 3400] = 0
    samples = np.fft.irfft(spectrum, count)
    return (0.1 * samples / samples.std()).astype(np.float32)


def write_film(path: Path, film: Film) -> np.ndarray:
    """Writes the film; gives the samples that were said, before any of them were left out."""
    said = voice(film.duration_s)
    picture_codec, sound_codec = CODECS[film.suffix]
    with av.open(
        f"file:{path}",
        "w",
        format={"mpg": "mpeg", "ts": "mpegts", "mkv": "matroska"}.get(film.suffix),
    ) as out:
        video = out.add_stream(picture_codec, rate=film.fps)
        video.width, video.height, video.pix_fmt = _stored_size(film)
        coarse = Fraction(1, film.fps) if film.suffix in ("avi", "mpg") else Fraction(1, _TICKS)
        video.codec_context.time_base = coarse
        if film.aspect != 1:
            video.codec_context.sample_aspect_ratio = film.aspect
        if picture_codec == "libx264":
            video.options = {
                "preset": "ultrafast",
                "bf": "2",
                "x264-params": "b-adapt=0:scenecut=0",
            }
        sound = out.add_stream(sound_codec, rate=RATE, layout="mono")
        if film.quarter_turns:
            video.set_display_rotation(90 * film.quarter_turns)
        packets = [*_pictures(film, video, coarse), *_sound(film, sound, said)]
        hidden_s = film.times_s[film.trim]
        for packet, start_s in sorted(
            packets, key=lambda pair: float(pair[0].dts * pair[0].time_base) + pair[1]
        ):
            shift = round((start_s - hidden_s) / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            out.mux(packet)
    return said


def _stored_size(film: Film) -> tuple[int, int, str]:
    return (*((HEIGHT, WIDTH) if film.quarter_turns % 2 else (WIDTH, HEIGHT)), "yuv420p")


def _pictures(
    film: Film, video: av.VideoStream, time_base: Fraction
) -> list[tuple[av.Packet, float]]:
    packets = []
    for index, time_s in enumerate(film.times_s):
        # np.rot90 turns against the clock, as the display matrix will.
        stored = np.ascontiguousarray(np.rot90(picture(index), -film.quarter_turns))
        frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
        frame.pts, frame.time_base = round(time_s / time_base), time_base
        packets += video.encode(frame)
    return [(packet, film.picture_start_s) for packet in [*packets, *video.encode(None)]]


def _sound(film: Film, stream: av.AudioStream, said: np.ndarray) -> list[tuple[av.Packet, float]]:
    converter = av.AudioResampler(
        stream.format.name, "mono", RATE, stream.codec_context.frame_size or None
    )
    whole = av.AudioFrame.from_ndarray(said[None], format="fltp", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
    if stream.codec_context.frame_size == 0:
        step = RATE // 50
        parts = [said[None, start : start + step] for start in range(0, len(said), step)]
    else:
        parts = [said[None]]
    packets, done = [], 0
    for part in parts:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, done, Fraction(1, RATE)
        done += part.shape[1]
        for converted in converter.resample(frame):
            packets += stream.encode(converted)
    for converted in converter.resample(None):
        packets += stream.encode(converted)
    packets += stream.encode(None)
    kept = [packet for packet in packets if not _in_gap(film, packet)]
    return [(packet, film.sound_start_s) for packet in kept]


def _in_gap(film: Film, packet: av.Packet) -> bool:
    return (
        film.gap_s is not None
        and film.gap_s[0] <= float(packet.pts * packet.time_base) < film.gap_s[1]
    )
