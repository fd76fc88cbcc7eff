"""Copies of clips that say nothing of where they come from: no metadata, no encoder's signature, no
telling name."""

import os
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from flowportrait.container import (
    LIBRARY_ERRORS,
    Timeline,
    one_line,
    opened,
    rational,
    timeline,
    track,
    url_of,
)
from flowportrait.errors import MediaError
from flowportrait.files import sha256_of
from flowportrait.media import Clip, read_frames

PLAYABLE = {"video": ("h264", "vp9"), "audio": ("aac", "mp3", "opus")}
"""Codecs that browsers play from an mp4 file."""

# x264 and others write their name and all their settings into the pictures themselves (SEI
# unregistered user data).
_SIGNATURES = {"h264": "filter_units=remove_types=6"}
_LOST_S = 0.2


class Blind(NamedTuple):
    """A blind copy and what raters could tell the versions apart by."""

    duration_s: float
    sha256: str
    source_sha256: str
    width: int
    height: int
    fps: float


def blind_copy(source: Path, target: Path) -> Blind:
    """Copies picture and sound of `source` into the mp4 `target` without coding them anew, and
    nothing else.

    The copy begins with its first picture; how picture and sound lie in time, turns and pixel
    shapes are kept. Raises MediaError for what browsers do not play, has no sound, or ends before
    its head says.
    """
    times = timeline(source)
    if not times.has_sound:
        raise MediaError(f"{source}: has no sound; lip-sync cannot be rated without it")
    if lost := times.lost(_LOST_S):
        raise MediaError(
            f"{source}: cut off, {lost[0]:.1f} of {lost[1]:.1f} s are there; give the whole file"
        )
    _refuse_unplayable(source)
    try:
        _copy_packets(source, target, times)
    except LIBRARY_ERRORS as error:
        raise MediaError(f"{source}: cannot be copied ({one_line(error)}); give another") from error
    # A copy that does not play would only be found by the raters.
    seen, copied = next(read_frames(source)), next(read_frames(target))
    if not np.array_equal(seen.shape, copied.shape):
        raise MediaError(
            f"{source}: its turn or pixel shape is lost in a copy; code it anew, upright"
        )
    # The time of writing would tell which version was copied first.
    os.utime(target, (0, 0))
    height, width = copied.shape[:2]
    return Blind(
        Clip(target).facts.duration_s,
        sha256_of(target),
        sha256_of(source),
        width,
        height,
        times.fps,
    )


def _refuse_unplayable(source: Path) -> None:
    with opened(source, "a video") as reader:
        for kind, playable in PLAYABLE.items():
            # The canonical name: a decoder may have another one, such as libdav1d.
            if (
                name := track(reader, kind, source).codec_context.codec.canonical_name
            ) not in playable:
                raise MediaError(
                    f"{source}: {kind} is {name}, which browsers do not play from an mp4; "
                    "code it as "
                    f"{', '.join(playable)}"
                )


def _copy_packets(source: Path, target: Path, times: Timeline) -> None:
    """Writes all packets. Raises MediaError, or what the libraries raise."""
    # bitexact keeps the muxer from signing the file with its own name and version.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        opened(source, "a video") as reader,
        av.open(url_of(target), "w", format="mp4", options=options) as writer,
    ):
        copies, filters, shifts = {}, {}, {}
        for stream in (track(reader, "video", source), track(reader, "audio", source)):
            copy = writer.add_stream_from_template(stream)
            copy.metadata.clear()
            copies[stream.index] = copy
            shifts[stream.index] = round(times.origin / rational(stream.time_base))
            if name := _SIGNATURES.get(stream.codec_context.codec.canonical_name):
                filters[stream.index] = BitStreamFilterContext(name, stream)
        for packet in reader.demux([reader.streams[index] for index in copies]):
            if packet.size == 0:
                continue
            index = packet.stream_index
            if packet.dts is None:
                # Matroska does not say when the first of reordered pictures are decoded; leaving
                # them out breaks all.
                raise MediaError(
                    f"{source}: says not when to decode its pictures; pack it anew: "
                    f"ffmpeg -i {source} -c copy FILE.mp4"
                )
            packet.dts -= shifts[index]
            packet.pts = packet.dts if packet.pts is None else packet.pts - shifts[index]
            kept = filters[index].filter(packet) if index in filters else [packet]
            for out in kept:
                out.stream = copies[index]
                writer.mux(out)
