"""Videos watched while they are made: the growing file of a job as an answer that ends with the
job.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import BinaryIO

from fastapi.responses import Response, StreamingResponse

from flowportrait.web.jobs import Busy, Desk, Job
from flowportrait.web.uploads import Refused

_LOOK_S = 0.02
_PART_BYTES = 1 << 18


class Watching:
    """Counts who watches, so that open answers stay within the limits."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self._count = 0

    def answer(self, job: Job, server_ends: Callable[[], bool]) -> Response:
        """The video of a job that waits or runs, as it grows. Raises Refused when the job is over,
        Busy when as many watch as may.
        """
        most = self._desk.limits.max_watching
        if job.over:
            raise Refused("", "this video is no longer being made; check its state", 404)
        if self._count >= most:
            raise Busy(f"{most} videos are already being streamed; wait until yours is finished")
        return StreamingResponse(self._parts(job, server_ends), media_type="video/mp4")

    async def _parts(self, job: Job, server_ends: Callable[[], bool]) -> AsyncIterator[bytes]:
        """A video's bytes while it still grows."""
        self._count += 1
        file: BinaryIO | None = None
        try:
            while job.state != "cancelled" and not server_ends():
                over = job.over  # before reading: what is added until then is still read
                with suppress(FileNotFoundError):
                    file = file or job.growing.open("rb")
                part = file.read(_PART_BYTES) if file else b""
                if part:
                    yield part
                elif over:
                    return
                else:
                    await asyncio.sleep(_LOOK_S)
        finally:
            self._count -= 1
            if file:
                file.close()
