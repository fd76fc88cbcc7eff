"""Videos in the making: a queue, and one process that makes them, so that whatever happens to it
costs one job.

The process keeps its model from job to job. Cancelling kills it, which stops at once whatever it
computes; the next job starts another.
"""

import multiprocessing
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from flowportrait import media
from flowportrait.config import Frozen
from flowportrait.errors import DataError, FlowPortraitError
from flowportrait.files import JsonObject

State = Literal["queued", "running", "done", "failed", "cancelled"]
_LOOK_S = 0.1


class ServerLimits(Frozen):
    """Limits of one server."""

    max_upload_bytes: int = 32 << 20
    max_sound_s: float = 60.0
    max_picture_px: int = 1 << 26
    """Checked against the header of the picture file, before decoding."""
    max_waiting: int = 8
    """Jobs in the queue, over all visitors."""
    max_files: int = 12
    """Uploads stored at a time for one visitor."""
    max_all_files: int = 120
    """Uploads over all visitors, including those in progress."""
    max_all_bytes: int = 4 << 30
    """Disk space of the uploads and videos of all visitors."""
    max_upload_s: float = 600.0
    """Maximum duration of one upload."""
    max_watching: int = 32
    """Videos streamed while they are made, over all visitors."""
    keep_s: float = 3600.0
    """How long uploads and videos are kept after their last use."""


class Busy(DataError):
    """The queue is full."""


class Full(DataError):
    """Uploads and videos have reached the limit of disk space."""


@dataclass
class Job:
    """One video. Only `Desk` changes it."""

    owner: str
    request: JsonObject
    folder: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "queued"
    done: int = 0
    total: int = 0
    frames: int = 0
    num_frames: int = 0
    reason: str = ""
    facts: JsonObject = field(default_factory=dict)
    begun_s: float = 0.0
    """When the first evaluation was made: the model was loaded by then."""
    begun_at: int = 0
    """How many were made then."""
    touched_s: float = field(default_factory=time.monotonic)

    @property
    def video(self) -> Path:
        """Path of the mp4 of a finished job."""
        return self.folder / "video.mp4"

    @property
    def growing(self) -> Path:
        """Path of the fragmented mp4 while the video is made."""
        return self.folder / "growing.mp4"

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.state not in ("queued", "running")

    @property
    def left_s(self) -> float | None:
        """Seconds until it is done, from what it took since the model was loaded; None before that
        can be told.
        """
        if self.state != "running" or not self.begun_s:
            return None
        since_s = time.monotonic() - self.begun_s
        if self.frames:
            return since_s * (self.num_frames - self.frames) / self.frames
        made = self.done - self.begun_at
        if made:
            return since_s * (self.total - self.done) / made
        return None


class Desk:
    """Takes jobs, has them done one after another, and forgets them in time.

    Everything lies in a folder that only this user can read; `close` removes it.
    """

    def __init__(self, limits: ServerLimits | None = None, device: str = "auto"):
        self.limits = limits or ServerLimits()
        self._device = device
        self._home = Path(tempfile.mkdtemp(prefix="flowportrait-"))
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._thread.start()

    def folder(self) -> Path:
        """A new private folder."""
        return Path(tempfile.mkdtemp(dir=self._home))

    def used_bytes(self, without: Container[Path] = ()) -> int:
        """Bytes on disk without some folders; hard links count once."""
        sizes = {}
        for folder, _, names in os.walk(self._home):
            for name in names if Path(folder) not in without else ():
                with suppress(FileNotFoundError):
                    facts = os.lstat(os.path.join(folder, name))
                    sizes[facts.st_ino] = facts.st_size
        return sum(sizes.values())

    def submit(
        self,
        owner: str,
        request: JsonObject,
        files: Mapping[str, Path],
    ) -> Job:
        """Queues a video. Uploads among `files` get a second name in the job's folder, so that
        deleting them costs no job that waits. Raises Busy when too many wait, Full without room,
        FileNotFoundError when a file has gone.
        """
        if self.used_bytes() >= self.limits.max_all_bytes:
            raise Full("the storage for videos is full; delete yours, or try again later")
        job = Job(owner, dict(request), self.folder())
        return self._enqueue(files, job)

    def _enqueue(self, files: Mapping[str, Path], job: Job) -> Job:
        """Takes the job's files over and puts it into the queue. Raises Busy."""
        try:
            for kind, path in files.items():
                job.request[kind] = str(self._shared(path, job.folder / kind))
            with self._changed:
                if len(self._waiting) >= self.limits.max_waiting:
                    raise Busy(
                        f"{len(self._waiting)} videos are waiting already; try again in a few"
                        " minutes"
                    )
                self._jobs[job.id] = job
                self._waiting.append(job)
                self._changed.notify_all()
        except BaseException:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise
        return job

    def find(self, owner: str, job_id: str) -> Job:
        """The visitor's own job. Raises DataError, also for the jobs of others."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise DataError("no such video; it may have expired")
        job.touched_s = time.monotonic()
        return job

    def of(self, owner: str) -> list[Job]:
        """All jobs of a visitor, oldest first; this counts as a use of them."""
        found = [job for job in list(self._jobs.values()) if job.owner == owner]
        for job in found:
            job.touched_s = time.monotonic()
        return found

    def ahead(self, job: Job) -> int:
        """Number of jobs before it in the queue."""
        with self._changed:
            running = sum(other.state == "running" for other in self._jobs.values())
            if job in self._waiting:
                return self._waiting.index(job) + running
            return 0

    def remove(self, job: Job) -> None:
        """Stops it if it runs, and deletes all of it."""
        with self._changed:
            running = job.state == "running"
            if job in self._waiting:
                self._waiting.remove(job)
            if not job.over:
                job.state = "cancelled"
            self._jobs.pop(job.id, None)
        if not running:  # else the thread does, once nothing writes there any more
            shutil.rmtree(job.folder, ignore_errors=True)

    def forget(self) -> None:
        """Deletes what nobody has asked for in a long time."""
        now_s = time.monotonic()
        for job in list(self._jobs.values()):
            if job.over and now_s - job.touched_s > self.limits.keep_s:
                self.remove(job)

    def close(self) -> None:
        """Stops everything and removes it."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                job.state = "cancelled" if job.state == "running" else job.state
            self._changed.notify_all()
        self._thread.join()
        shutil.rmtree(self._home, ignore_errors=True)

    # ------------------------------------------------------------------------------------------
    # inside

    def _shared(self, path: Path, own: Path) -> Path:
        """Where a job reads a file: under a name of its own, or where it is when it is none of the
        uploads.
        """
        if not path.is_relative_to(self._home):
            return path
        try:
            os.link(path, own)
        except FileNotFoundError:
            raise
        except OSError:  # another device, or a file system without links
            shutil.copyfile(path, own)
        return own

    def _serve(self) -> None:
        """The thread that alone starts, asks and stops the process."""
        while not self._closing:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, timeout=5.0)
                job = None
                if self._waiting and not self._closing:
                    job = self._waiting.popleft()
                if job:
                    job.state = "running"
            if job:
                self._do(job)
            self.forget()
        self._stop_process()

    def _do(self, job: Job) -> None:
        """Has the other process make one video and follows it."""
        try:
            pipe = self._ready_pipe()
            pipe.send(
                job.request
                | {
                    "video": str(job.video),
                    "growing": str(job.growing),
                    "device": self._device,
                }
            )
            while job.state == "running":
                if pipe.poll(_LOOK_S):
                    self._hear(job, *pipe.recv())
        except (EOFError, OSError):
            self._stop_process()
            with self._changed:
                if job.state == "running":
                    job.state, job.reason = (
                        "failed",
                        "the process that made it stopped; try again, or a shorter recording",
                    )
        if job.state == "cancelled":
            self._stop_process()
            shutil.rmtree(job.folder, ignore_errors=True)
        for path in job.folder.glob("*"):  # a face and a voice stay no longer than they are needed
            if path != job.video:
                path.unlink(missing_ok=True)

    def _hear(self, job: Job, word: str, *said: Any) -> None:
        """Takes up what the other process says of a job."""
        with self._changed:
            if word == "progress":
                job.done, job.total = said
                if not job.begun_s:
                    job.begun_s = time.monotonic()
                    job.begun_at = job.done
            elif word == "frames":
                job.frames, job.num_frames = said
            elif job.state == "running":
                job.state = "done" if word == "done" else "failed"
                job.facts, job.reason = (said[0], "") if word == "done" else ({}, said[0])

    def _ready_pipe(self) -> Connection:
        """The pipe to the process that makes videos, started where there is none."""
        if self._process is None or not self._process.is_alive() or self._pipe is None:
            self._stop_process()
            # A fresh interpreter: nothing of the server's threads is copied.
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=make_videos, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        return self._pipe

    def _stop_process(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None


def make_videos(pipe: Connection) -> None:
    """The process: makes one video after another until the pipe ends."""
    # Ctrl+C is for the server, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Threads that spin while they wait take the processor from the encoder; read when torch is
    # loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    loaded: JsonObject = {}
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("done", _make(job, loaded, pipe)))
        except FlowPortraitError as error:
            pipe.send(("failed", " ".join(str(error).split())))


def _make(job: JsonObject, loaded: JsonObject, pipe: Connection) -> JsonObject:
    """Makes one video, each window shown before the next is sampled; gives what is said of it."""
    from flowportrait import __version__
    from flowportrait.generate import load

    picture, sound = (
        media.read_portrait(job["portrait"]),
        media.read_audio(job["audio"], mono=False),
    )
    if job["model"] not in loaded:
        loaded.clear()
        loaded[job["model"]] = load(job["model"], device=job["device"])
    pipeline = loaded[job["model"]]
    shot = pipeline.shot(picture, sound, **job["options"])

    def frames() -> Iterator[Any]:
        shown = shot.frames(shot.latents(lambda done, total: pipe.send(("progress", done, total))))
        for number, frame in enumerate(shown, 1):
            yield frame
            pipe.send(("frames", number, shot.num_frames))

    fps = pipeline.spec.fps
    mark = media.synthetic_mark(pipeline.spec.name, shot.seed, __version__)
    growing = Path(job["growing"])
    media.write_video(job["video"], frames(), fps, *sound, mark, growing=growing)
    return {
        "video_s": shot.num_frames / fps,
        "warnings": list(shot.warnings),
        "evaluations": len(shot.schedule),
    }
