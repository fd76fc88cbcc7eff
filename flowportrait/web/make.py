"""The page that makes videos: a portrait and a recording in, a talking video out, on this machine.

    GET    /                       the page
    GET    /api/settings           models, limits, samples
    PUT    /api/files/portrait     a picture; {"id"}                    PUT /api/files/audio    a recording
    POST   /api/jobs               {"portrait", "audio", "consent": true, "model", "evaluations", "guidance", "seed",
                                    "crop"}; {"id"}
    GET    /api/jobs/ID            {"state", "done", "total", "left_s", "ahead", "reason", ...}
    GET    /api/jobs/ID/video      the mp4, also in parts; ?download=1 to keep it
    DELETE /api/jobs/ID            stops and deletes it               DELETE /api/files      deletes all uploads

What goes wrong is {"field", "message"}. Uploads and videos belong to the browser that sent them (a cookie that scripts
cannot read), lie where only this user can read, and go after a time, on request, and when the server ends.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from flowportrait import media, registry
from flowportrait.errors import DataError, FlowPortraitError
from flowportrait.web.guard import LOOPBACK, guard, listen, run
from flowportrait.web.jobs import Busy, Desk, Job, Limits

STATIC = Path(__file__).parent / "static"
SAMPLES = Path(__file__).parents[1] / "samples"
_COOKIE = "flowportrait"
_SAMPLE_FILES = {
    "portrait": ("portrait.png", "portrait_long_hair.jpg", "portrait_short_hair.jpg"),
    "audio": ("speech.wav",),
}
Kind = Literal["portrait", "audio"]


class Wish(BaseModel):
    """What a video is to be made of. Files are ids of uploads, or names of samples."""

    model_config = ConfigDict(extra="forbid")

    portrait: str
    audio: str
    consent: bool = False
    model: str = "tiny"
    evaluations: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    crop: Literal["auto", "none"] = "auto"


class Refused(FlowPortraitError):
    """What cannot be done, and the field of the page that it concerns."""

    def __init__(self, field: str, message: str, status: int = 422):
        super().__init__(message)
        self.field, self.status = field, status


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
        self._desk, self._files = desk, dict[str, _File]()
        self._checking = asyncio.Lock()

    async def take(self, owner: str, kind: Kind, name: str, request: Request) -> str:
        """Writes a body to disk while it is within the limits, and looks whether it is what it should be; its id."""
        self._forget(owner)
        path = self._desk.folder() / kind
        try:
            await self._write(path, kind, name, request)
            # One after another: however many visitors send the worst of files, one is in memory.
            async with self._checking:
                await run_in_threadpool(self._check, kind, path, name)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        file_id = secrets.token_urlsafe(12)
        self._files[file_id] = _File(owner, kind, path, name)
        return file_id

    def find(self, owner: str, kind: Kind, file_id: str) -> tuple[Path, str]:
        """Path and given name of an upload of this visitor, or of a sample."""
        if file_id in _SAMPLE_FILES[kind]:
            return SAMPLES / file_id, file_id
        file = self._files.get(file_id)
        if file is None or file.owner != owner or file.kind != kind:
            raise Refused(kind, f"{kind}: none chosen, or deleted after its time; choose one again")
        file.touched_s = time.monotonic()
        return file.path, file.name

    def remove(self, owner: str) -> None:
        """Deletes all of a visitor's."""
        for file_id, file in list(self._files.items()):
            if file.owner == owner:
                self._drop(file_id)

    async def _write(self, path: Path, kind: Kind, name: str, request: Request) -> None:
        most = self._desk.limits.max_upload_bytes
        too_large = Refused(kind, f"{name}: over {most / (1 << 20):.0f} MB; give a smaller file", 413)
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > most:
            raise too_large
        try:
            with path.open("wb") as file:
                async for part in request.stream():
                    if file.tell() + len(part) > most:
                        raise too_large
                    file.write(part)
        except OSError as error:
            raise Refused(kind, f"{name}: cannot be kept here ({error.strerror}); try again later", 507) from error

    def _check(self, kind: Kind, path: Path, name: str) -> None:
        """Refuses at once what `generate` would refuse, in its words, and what is longer or larger than the limits."""
        limits = self._desk.limits
        try:
            if kind == "portrait":
                media.read_portrait(path, max_px=limits.max_picture_px)
            else:
                media.read_audio(path, mono=False, max_s=limits.max_sound_s)
        except FlowPortraitError as error:
            raise Refused(kind, str(error).replace(str(path), name)) from error

    def _forget(self, owner: str) -> None:
        limits, now_s = self._desk.limits, time.monotonic()
        old = [key for key, file in self._files.items() if now_s - file.touched_s > limits.keep_s]
        mine = [key for key, file in self._files.items() if file.owner == owner and key not in old]
        for file_id in [*old, *mine[: max(0, len(mine) + 1 - limits.max_files)]]:
            self._drop(file_id)

    def _drop(self, file_id: str) -> None:
        shutil.rmtree(self._files.pop(file_id).path.parent, ignore_errors=True)


def make_app(desk: Desk, hosts: frozenset[str] = LOOPBACK) -> FastAPI:
    """The application; `hosts` are the names it may be asked under, all if empty. It closes the desk when it ends."""

    @asynccontextmanager
    async def while_served(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=while_served)
    uploads = Uploads(desk)
    app.mount("/static", StaticFiles(directory=STATIC))
    guard(app, hosts)
    _explain(app)
    _serve_files(app, uploads)
    _serve_jobs(app, desk, uploads)

    @app.get("/")
    def page(request: Request) -> Response:
        response = HTMLResponse((STATIC / "make.html").read_text(encoding="utf-8"))
        if _COOKIE not in request.cookies:
            response.set_cookie(_COOKIE, secrets.token_urlsafe(24), httponly=True, samesite="strict")
        return response

    @app.get("/api/settings")
    def settings() -> dict[str, Any]:
        return {"models": registry.model_names(), "samples": _SAMPLE_FILES, "limits": desk.limits.model_dump()}

    return app


def _serve_files(app: FastAPI, uploads: Uploads) -> None:
    @app.get("/api/samples/{name}")
    def sample(name: str) -> Response:
        if not any(name in names for names in _SAMPLE_FILES.values()):
            raise Refused("", f"{name}: no such sample", 404)
        return FileResponse(SAMPLES / name)

    @app.put("/api/files/{kind}")
    async def upload(kind: Kind, request: Request) -> dict[str, str]:
        name = Path(request.query_params.get("name", kind)).name[:100] or kind
        return {"id": await uploads.take(_visitor(request), kind, name, request)}

    @app.delete("/api/files")
    def forget(request: Request) -> dict[str, bool]:
        uploads.remove(_visitor(request))
        return {"deleted": True}


def _serve_jobs(app: FastAPI, desk: Desk, uploads: Uploads) -> None:
    @app.post("/api/jobs")
    def submit(wish: Wish, request: Request) -> dict[str, str]:
        visitor = _visitor(request)
        if not wish.consent:
            raise Refused("consent", "consent: say that you may use this person's face and voice, or make no video")
        if wish.model not in registry.model_names():
            raise Refused("model", f"model: no {wish.model!r} here; there are {', '.join(registry.model_names())}")
        files = {kind: uploads.find(visitor, kind, getattr(wish, kind)) for kind in ("portrait", "audio")}
        asked = wish.model_dump(exclude={"portrait", "audio", "consent"})
        names = {str(path): name for path, name in files.values()}
        asked |= {kind: str(path) for kind, (path, _) in files.items()} | {"names": names}
        return {"id": desk.submit(visitor, asked).id}

    @app.get("/api/jobs/{job_id}")
    def state(job_id: str, request: Request) -> dict[str, Any]:
        return _told(desk, desk.find(_visitor(request), job_id))

    @app.get("/api/jobs/{job_id}/video")
    def video(job_id: str, request: Request) -> Response:
        job = desk.find(_visitor(request), job_id)
        if job.state != "done":
            raise Refused("", "the video is not made yet", 404)
        kept = {"filename": "talking.mp4"} if "download" in request.query_params else {}
        return FileResponse(job.video, media_type="video/mp4", **kept)

    @app.delete("/api/jobs/{job_id}")
    def remove(job_id: str, request: Request) -> dict[str, bool]:
        desk.remove(desk.find(_visitor(request), job_id))
        return {"deleted": True}


def _visitor(request: Request) -> str:
    visitor = request.cookies.get(_COOKIE)
    if not visitor:
        raise Refused("", "no cookie; load the page again, and let it keep one", 403)
    return visitor


def _told(desk: Desk, job: Job) -> dict[str, Any]:
    reason, field = job.reason, ""
    for path, name in job.request["names"].items():
        if path in reason:
            reason, field = reason.replace(path, name), "portrait" if path == job.request["portrait"] else "audio"
    return {
        "id": job.id, "state": job.state, "done": job.done, "total": job.total, "left_s": job.left_s,
        "ahead": desk.ahead(job), "reason": reason, "field": field, **job.facts,
    }  # fmt: skip


def _explain(app: FastAPI) -> None:
    """Every error as the field it concerns and one line."""

    def told(status: int, field: str, message: str) -> Response:
        return JSONResponse({"field": field, "message": " ".join(message.split())}, status)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return told(error.status, error.field, str(error))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return told(503, "", str(error))

    @app.exception_handler(DataError)
    async def unknown(_: Request, error: DataError) -> Response:
        return told(404, "", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return told(422, name, f"{name}: {first['msg']} (got {str(first.get('input'))[:60]!r})")


def serve(host: str, port: int, device: str = "auto", say: Callable[[str], None] = print) -> None:
    """Serves the page until interrupted. Raises ConfigError for a port in use."""
    listening = listen(host, port)
    desk = Desk(Limits(), device)
    name = "127.0.0.1" if host == "0.0.0.0" else host
    say(f"http://{name}:{listening.getsockname()[1]}/  (Ctrl+C ends, and deletes all uploads)")
    if host not in LOOPBACK:
        say("warning: whoever reaches this address can make videos here; put a login and TLS before it")
    run(make_app(desk, LOOPBACK if host in LOOPBACK else frozenset()), listening)
