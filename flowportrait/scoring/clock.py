"""Whether a video keeps time: frames that come unevenly must be taken by time, not one after another."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

_LEAST_LATE = 1.5  # of a frame's time; one frame dropped or shown twice in a clip does not reach it


def is_even(path: Path) -> bool:
    """Whether every frame comes when a constant rate would have it come, by the file's time stamps; nothing is decoded.

    A file without time stamps, or that cannot be read, is taken as even: whoever decodes it will say what is wrong.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
    except (av.FFmpegError, OSError, IndexError):
        return True
    if len(stamps) < 3:
        return True
    times = np.sort(np.array(stamps, np.float64))
    even = np.linspace(times[0], times[-1], len(times))
    return bool(np.abs(times - even).max() <= _LEAST_LATE * (even[1] - even[0]))
