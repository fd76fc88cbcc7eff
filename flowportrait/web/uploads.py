"""Pictures and recordings that visitors send, judged as they come and kept for a while."""

import asyncio
import io
import secrets
import shutil
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastapi import Request
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from flowportrait import media
from flowportrait.errors import FlowPortraitError
from flowportrait.registry import SAMPLES_DIR
from flowportrait.web.jobs import Desk

_PREVIEW_PX = 512
SAMPLE_FILES = {
    "portrait": ("portrait.png", "portrait_long_hair.jpg", "portrait_short_hair.jpg"),
    "audio": ("speech.wav",),
}
Kind = Literal["portrait", "audio"]


class Refused(FlowPortraitError):
    """A refusal: its reason, and the field of the page that it concerns."""

    def __init__(self, field: str, message: str, status: int = 422):
        super().__init__(message)
        self.field = field
        self.status = status


@dataclass
class _File:
    owner: str
    kind: Kind
    path: Path
    name: str
    touched_s: float = field(default_factory=time.monotonic)


class Uploads:
    """Files of all visitors, each known to its own only."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self._files = dict[str, _File]()
        self._coming: dict[Path, int] = {}
        """Folders of uploads on their way, and how many bytes each may become."""
        self._checking = asyncio.Lock()

    async def take(self, owner: str, kind: Kind, name: str, request: Request) -> str:
        """Writes a body to disk while it is within the limits, and looks whether it is what it
        should be; its id.
        """
        self._make_room(owner)
        path = self._expected(kind, name, request)
        try:
            await self._write_in_time(path, kind, name, request)
            # One after another: however many visitors send the worst of files, one is in memory.
            async with self._checking:
                await run_in_threadpool(self._check, kind, path, name)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        finally:
            del self._coming[path.parent]
        file_id = secrets.token_urlsafe(12)
        self._files[file_id] = _File(owner, kind, path, name)
        return file_id

    def find(self, owner: str, kind: Kind, file_id: str) -> tuple[Path, str]:
        """Path and given name of an upload of this visitor, or of a sample."""
        if file_id in SAMPLE_FILES[kind]:
            return SAMPLES_DIR / file_id, file_id
        file = self._files.get(file_id)
        if file is None or file.owner != owner or file.kind != kind:
            raise Refused(kind, f"{kind}: none chosen, or the upload has expired; choose one again")
        file.touched_s = time.monotonic()
        return file.path, file.name

    def of(self, owner: str) -> list[tuple[str, _File]]:
        """All uploads of a visitor with their ids, oldest first."""
        return [(key, file) for key, file in list(self._files.items()) if file.owner == owner]

    def preview(self, owner: str, file_id: str) -> tuple[bytes, str]:
        """An upload of this visitor as browsers show it, and its kind: small JPEG, or WAV."""
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            raise Refused("", "no such upload; it may have expired", 404)
        file.touched_s = time.monotonic()
        shown = _as_jpeg if file.kind == "portrait" else _as_wav
        return shown(file.path), _SHOWN_AS[file.kind]

    def remove(self, owner: str) -> None:
        """Deletes all of a visitor's."""
        for file_id, file in list(self._files.items()):
            if file.owner == owner:
                self._drop(file_id)

    def forget(self) -> None:
        """Deletes what nobody has used in a long time."""
        now_s = time.monotonic()
        for file_id, file in list(self._files.items()):
            if now_s - file.touched_s > self._desk.limits.keep_s:
                self._drop(file_id)

    def _expected(self, kind: Kind, name: str, request: Request) -> Path:
        """Where an upload is to be written, once there is room for all that it may become."""
        limits = self._desk.limits
        said = request.headers.get("content-length", "")
        size_bytes = int(said) if said.isdigit() else limits.max_upload_bytes
        if size_bytes > limits.max_upload_bytes:
            raise self._too_large(kind, name)
        if len(self._files) + len(self._coming) >= limits.max_all_files:
            raise Refused(
                kind, f"{name}: too many uploads are stored; delete yours, or try again later", 503
            )
        used_bytes = self._desk.used_bytes(without=self._coming) + sum(self._coming.values())
        if used_bytes + size_bytes > limits.max_all_bytes:
            raise Refused(
                kind, f"{name}: storage for uploads is full; delete yours, or try again later", 507
            )
        folder = self._desk.folder()
        self._coming[folder] = size_bytes
        return folder / kind

    def _too_large(self, kind: Kind, name: str) -> Refused:
        most = self._desk.limits.max_upload_bytes
        return Refused(kind, f"{name}: over {most / (1 << 20):.0f} MB; give a smaller file", 413)

    async def _write_in_time(self, path: Path, kind: Kind, name: str, request: Request) -> None:
        """Writes an upload. Raises Refused when it takes too long."""
        most_s = self._desk.limits.max_upload_s
        try:
            async with asyncio.timeout(most_s):
                await self._write(path, kind, name, request)
        except TimeoutError as error:
            raise Refused(
                kind, f"{name}: not complete after {most_s:.0f} s; give a smaller file", 408
            ) from error
        except ClientDisconnect as error:
            raise Refused(
                kind, f"{name}: the browser stopped sending it; choose it again", 400
            ) from error

    async def _write(self, path: Path, kind: Kind, name: str, request: Request) -> None:
        """Writes an upload as it comes. Raises Refused when it is too large."""
        try:
            with path.open("wb") as file:
                async for part in request.stream():
                    if file.tell() + len(part) > self._desk.limits.max_upload_bytes:
                        raise self._too_large(kind, name)
                    file.write(part)
        except OSError as error:
            raise Refused(
                kind, f"{name}: cannot be stored ({error.strerror}); try again later", 507
            ) from error

    def _check(self, kind: Kind, path: Path, name: str) -> None:
        """Refuses at once what `generate` would refuse, in its words, and what is longer or larger
        than the limits.
        """
        limits = self._desk.limits
        try:
            if kind == "portrait":
                media.read_portrait(path, max_px=limits.max_picture_px)
            else:
                media.read_audio(path, mono=False, max_s=limits.max_sound_s)
        except FlowPortraitError as error:
            raise Refused(kind, str(error).replace(str(path), name)) from error

    def _make_room(self, owner: str) -> None:
        """Drops a visitor's oldest when one more would be too many."""
        mine = [key for key, file in list(self._files.items()) if file.owner == owner]
        for file_id in mine[: max(0, len(mine) + 1 - self._desk.limits.max_files)]:
            self._drop(file_id)

    def _drop(self, file_id: str) -> None:
        # Two threads may find the same one too old.
        if file := self._files.pop(file_id, None):
            shutil.rmtree(file.path.parent, ignore_errors=True)


_SHOWN_AS = {"portrait": "image/jpeg", "audio": "audio/wav"}


def _as_jpeg(path: Path) -> bytes:
    """A small picture of the portrait."""
    picture = Image.fromarray(media.read_portrait(path))
    picture.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=90)
    return content.getvalue()


def _as_wav(path: Path) -> bytes:
    """The recording as WAV, which every browser plays."""
    sound = media.read_audio(path)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, sound.sample_rate, 0, "NONE", ""))
        file.writeframes((sound.samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return content.getvalue()
