"""A fragmented mp4, which can be played while it is written."""

from collections.abc import Iterable
from pathlib import Path

import av
from av.container import Flags

FRAGMENT_S = 0.04
"""A fragment ends behind so much picture: a frame."""
LIVE_X264 = {
    "preset": "faster", "bf": "0", "rc-lookahead": "0", "sync-lookahead": "0", "mbtree": "0",
    "g": "24", "x264-params": "force-cfr=1",
}  # fmt: skip
"""No frame waits for a later one, and one a second can be started from. At crf 16 the picture is as
good as that of x264's defaults and the file about twice as large.
"""


class Fragments:
    """A second file of what is muxed, an mp4 that grows by fragments, without coding anew.

    `mux` writes packets into `whole` and into the file at `path`. Every fragment is on disk as soon
    as it is complete. The edit lists, which keep picture and sound in place to the sample, and the
    metadata of `whole` stand in the file's head, which is written with the first fragment.
    """

    def __init__(self, whole: av.container.OutputContainer, path: Path):
        flags = "frag_keyframe+empty_moov+delay_moov+default_base_moof+skip_trailer"
        options = {"movflags": flags, "frag_duration": str(round(FRAGMENT_S * 1e6))}
        self._whole = whole
        self._growing = av.open(str(path), "w", format="mp4", options=options)
        self._growing.flags |= Flags.flush_packets.value
        self._copies: dict[int, av.stream.Stream] = {}

    def mux(self, packets: Iterable[av.Packet]) -> None:
        """Writes packets, the first of which come when `whole` has all of its streams."""
        for packet in packets:
            if not self._copies:
                self._begin()
            own = packet.stream
            packet.stream = self._copies[own.index]
            self._growing.mux(packet)
            packet.stream = own
            self._whole.mux(packet)

    def close(self) -> None:
        """Writes what is left into the growing file."""
        self._growing.close()

    def _begin(self) -> None:
        self._whole.start_encoding()  # opens the encoders, whose heads the copies take over
        self._growing.metadata.update(self._whole.metadata)
        self._copies = {
            stream.index: self._growing.add_stream_from_template(stream)
            for stream in self._whole.streams
        }
