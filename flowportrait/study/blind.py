"""Copies of clips that say nothing of where they come from: no metadata, no encoder's signature, no
telling name."""

import os
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from flowportrait.arrays import Array
from flowportrait.container import LIBRARY_ERRORS, one_line, opened, rational, track, url_of
from flowportrait.errors import MediaError
from flowportrait.files import sha256_of
from flowportrait.media import Clip, read_audio, read_frames, write_video
from flowportrait.timeline import Timeline, timeline

PLAYABLE = {"video": ("h264", "vp9"), "audio": ("aac", "mp3", "opus")}
"""Codecs that browsers play from an mp4 file."""
_PLAYABLE_PIXELS = ("yuv420p", "yuvj420p")

# x264 and others write their name and all their settings into the pictures themselves (SEI
# unregistered user data).
_SIGNATURES = {"h264": "filter_units=remove_types=6"}
_LOST_S = 0.2
_LEAST_FPS = 1
_MOST_FPS = 240


class Blind(NamedTuple):
    """A blind copy and what raters could tell the versions apart by. `anew` says why it had to be
    coded anew; empty where picture and sound are the source's own.
    """

    duration_s: float
    sha256: str
    source_sha256: str
    width: int
    height: int
    fps: float
    anew: str


def blind_copy(source: Path, target: Path) -> Blind:
    """Copies picture and sound of `source` into the mp4 `target`, and nothing else.

    The packets are copied where browsers play them; where they do not, picture and sound are coded
    anew as H.264 (crf 16) and AAC. The copy begins with its first picture; how picture and sound
    lie in time, turns and pixel shapes are kept. Raises MediaError for what cannot be decoded, has
    no sound, or ends before its head says.
    """
    times = timeline(source)
    if not times.has_sound:
        raise MediaError(f"{source}: has no sound; lip-sync cannot be rated without it")
    if lost := times.lost(_LOST_S):
        raise MediaError(
            f"{source}: cut off, {lost[0]:.1f} of {lost[1]:.1f} s are present; give the whole file"
        )
    return _copy_blind(source, target, times)


def _copy_blind(source: Path, target: Path, times) -> Blind:
    """Copies a video so that nothing tells where it comes from, coded anew where that is needed."""
    anew = _unplayable(source) or _copied(source, target, times)
    if anew:
        _code_anew(source, target, times)
    # The time of writing would tell which version was copied first.
    os.utime(target, (0, 0))
    height, width = next(read_frames(target)).shape[:2]
    return Blind(
        Clip(target).facts.duration_s,
        sha256_of(target),
        sha256_of(source),
        width,
        height,
        times.fps,
        anew,
    )


def _unplayable(source: Path) -> str:
    """Why browsers would not play the file's packets from an mp4; empty where they would."""
    with opened(source, "a video") as reader:
        for kind, playable in PLAYABLE.items():
            context = track(reader, kind, source).codec_context
            # The canonical name: a decoder may have another one, such as libdav1d.
            name = context.codec.canonical_name
            if name not in playable:
                return f"{kind} is {name}"
            if kind == "video" and context.pix_fmt not in _PLAYABLE_PIXELS:
                return f"{kind} is {name} in {context.pix_fmt}"
    return ""


def _copied(source: Path, target: Path, times: Timeline) -> str:
    """Copies the packets, or says why they cannot be copied. Raises MediaError."""
    try:
        if not _copy_packets(source, target, times.origin):
            return "it says not when its pictures are decoded"
    except LIBRARY_ERRORS as error:
        raise MediaError(f"{source}: cannot be copied ({one_line(error)}); give another") from error
    # A copy that does not play would only be found by the raters.
    same = next(read_frames(source)).shape == next(read_frames(target)).shape
    return "" if same else "its turn or pixel shape is lost in a copy"


def _code_anew(source: Path, target: Path, times: Timeline) -> None:
    """Writes picture and sound as they are decoded. Raises MediaError."""
    if not _LEAST_FPS <= times.fps <= _MOST_FPS:
        raise MediaError(
            f"{source}: {times.fps:g} frames per second; give {_LEAST_FPS} to {_MOST_FPS} to have"
            " it re-encoded"
        )
    sound = read_audio(source, mono=False, min_s=0.0)
    frames = map(_even, read_frames(source, None if times.is_even else times.fps))
    coded = target.with_name(f"anew-{target.name}")
    try:
        write_video(coded, frames, times.fps, sound.samples, sound.sample_rate, {}, in_step=False)
        _copy_packets(coded, target, Fraction(0))
    except LIBRARY_ERRORS as error:
        raise MediaError(f"{source}: cannot be re-encoded ({one_line(error)})") from error
    finally:
        coded.unlink(missing_ok=True)


def _even(frame: Array) -> Array:
    """A frame with even sides: the last row and column twice where they must be."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _copy_packets(source: Path, target: Path, origin: Fraction) -> bool:
    """Writes all packets, time beginning at `origin`; False where the file does not say when
    pictures are decoded. Raises MediaError, or what the libraries raise.
    """
    # bitexact keeps the muxer from signing the file with its own name and version.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        opened(source, "a video") as reader,
        av.open(url_of(target), "w", format="mp4", options=options) as writer,
    ):
        copies = {}
        filters = {}
        shifts = {}
        for stream in (track(reader, "video", source), track(reader, "audio", source)):
            copy = writer.add_stream_from_template(stream)
            copy.metadata.clear()
            copies[stream.index] = copy
            shifts[stream.index] = round(origin / rational(stream.time_base))
            if name := _SIGNATURES.get(stream.codec_context.codec.canonical_name):
                filters[stream.index] = BitStreamFilterContext(name, stream)
        for packet in reader.demux([reader.streams[index] for index in copies]):
            if packet.size == 0:
                continue
            index = packet.stream_index
            if packet.dts is None:
                # Matroska does not say when the first of reordered pictures are decoded; leaving
                # them out breaks all.
                return False
            packet.dts -= shifts[index]
            packet.pts = packet.dts if packet.pts is None else packet.pts - shifts[index]
            kept = filters[index].filter(packet) if index in filters else [packet]
            for out in kept:
                out.stream = copies[index]
                writer.mux(out)
    return True
