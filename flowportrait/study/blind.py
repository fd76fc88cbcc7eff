"""Copies of clips that say nothing of where they come from: no metadata, no encoder's signature, no telling name."""

import os
from pathlib import Path
from typing import NamedTuple

import av
from av.bitstream import BitStreamFilterContext

from flowportrait.errors import MediaError
from flowportrait.files import sha256_of
from flowportrait.media import Clip, read_frames

PLAYABLE = {"video": ("h264", "vp9"), "audio": ("aac", "mp3", "opus")}
"""Codecs that browsers play from an mp4 file."""

# x264 and others write their name and all their settings into the pictures themselves (SEI unregistered user data).
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
    """Copies picture and sound of `source` into the mp4 `target` without coding them anew, and nothing else.

    Raises MediaError for what browsers do not play, has no sound, or ends before its head says.
    """
    clip = Clip(source)
    facts = clip.facts
    if not facts.has_sound:
        raise MediaError(f"{source}: has no sound; lip-sync cannot be rated without it")
    try:
        width, height = _copy_streams(source, target, facts.duration_s)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{source}: cannot be copied ({' '.join(str(error).split())}); give another") from error
    # A copy that does not play would only be found by the raters.
    next(read_frames(target))
    # The time of writing would tell which version was copied first.
    os.utime(target, (0, 0))
    return Blind(Clip(target).facts.duration_s, sha256_of(target), sha256_of(source), width, height, facts.fps)


def _copy_streams(source: Path, target: Path, duration_s: float) -> tuple[int, int]:
    with av.open(str(source)) as reader:
        streams = [reader.streams.video[0], reader.streams.audio[0]]
        for stream in streams:
            # The canonical name: a decoder may have another one, such as libdav1d.
            if (name := stream.codec_context.codec.canonical_name) not in PLAYABLE[stream.type]:
                raise MediaError(
                    f"{source}: {stream.type} is {name}, which browsers do not play from an mp4; "
                    f"code it as {', '.join(PLAYABLE[stream.type])}"
                )
        last_s = _write_packets(reader, streams, target)
        if last_s < duration_s - _LOST_S:
            raise MediaError(f"{source}: cut off, {last_s:.1f} of {duration_s:.1f} s are there; give the whole file")
        return streams[0].codec_context.width, streams[0].codec_context.height


def _write_packets(reader: av.container.InputContainer, streams: list, target: Path) -> float:
    """Writes all packets; gives the second at which the last one ends."""
    # bitexact keeps the muxer from signing the file with its own name and version.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(target), "w", format="mp4", options=options) as writer:
        copies, filters, last_s = {}, {}, 0.0
        for stream in streams:
            copy = writer.add_stream_from_template(stream)
            copy.metadata.clear()
            copies[stream.index] = copy
            if name := _SIGNATURES.get(stream.codec_context.codec.canonical_name):
                filters[stream.index] = BitStreamFilterContext(name, stream)
        for packet in reader.demux(streams):
            if packet.size == 0:
                continue
            if packet.dts is None:
                # Matroska does not say when the first of reordered pictures are decoded; leaving them out breaks all.
                raise MediaError(
                    f"{reader.name}: says not when to decode its pictures; pack it anew: "
                    f"ffmpeg -i {reader.name} -c copy FILE.mp4"
                )
            stream = packet.stream
            if stream.type == "video":
                shown = packet.dts if packet.pts is None else packet.pts
                last_s = max(last_s, float((shown + (packet.duration or 0)) * packet.time_base))
            kept = filters[stream.index].filter(packet) if stream.index in filters else [packet]
            for out in kept:
                out.stream = copies[stream.index]
                writer.mux(out)
    return last_s


