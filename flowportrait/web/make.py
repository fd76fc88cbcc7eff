"""The page that makes videos: a portrait and a recording in, a talking video out, on this machine.

    GET    /                       the page
    GET    /api/settings           models, limits, samples
    PUT    /api/files/portrait     a picture; {"id"}
    PUT    /api/files/audio        a recording; {"id"}
    POST   /api/jobs               {"portrait", "audio", "consent": true, "model", "evaluations",
                                   "guidance", "seed", "crop", "size", "frame", "head", "lips",
                                   "eyes"}; {"id"}
    GET    /api/jobs/ID            {"state", "done", "total", "frames", "num_frames", "left_s",
                                   "ahead", "reason", ...}
    GET    /api/jobs/ID/stream     the video while it is made: an mp4 in fragments that ends with
                                   the job
    GET    /api/jobs/ID/video      the mp4, also in parts; ?download=1 to keep it
    DELETE /api/jobs/ID            stops and deletes it
    DELETE /api/files              deletes all uploads

What goes wrong is {"field", "message"}. Uploads and videos belong to the browser that sent them (a
cookie that scripts cannot read), lie where only this user can read, and go after a time, on
request, and when the server ends.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from flowportrait import registry
from flowportrait.errors import DataError
from flowportrait.web.guard import (
    HEADERS,
    LOOPBACK,
    address_of,
    body_of,
    ends_of,
    guard,
    is_local,
    listen,
    names_of,
    run,
)
from flowportrait.web.jobs import Busy, Desk, Full, Job, Limits
from flowportrait.web.uploads import SAMPLE_FILES, SAMPLES, Kind, Refused, Uploads
from flowportrait.web.watching import Watching

STATIC = Path(__file__).parent / "static"
_COOKIE = "flowportrait"
_TIDY_S = 30.0
_MAX_WISH_BYTES = 1 << 16
SIZES_PX = (128, 1024)
"""As `composite` has them, which the server does not load: it would bring torch."""


def _size(size: Any) -> Any:
    low, high = SIZES_PX
    if size != "auto" and (type(size) is not int or not low <= size <= high):
        words = "give auto or a whole number of pixels from {low} to {high}"
        raise PydanticCustomError("size", words, {"low": low, "high": high})
    return size


Size = Annotated[int | Literal["auto"], BeforeValidator(_size)]
Strength = Annotated[float, Field(ge=0, le=2)]


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
    size: Size = "auto"
    frame: Literal["whole", "face"] | None = None
    head: Strength = 1.0
    lips: Strength = 1.0
    eyes: Strength = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """Those of `generate`."""
        return self.model_dump(exclude={"portrait", "audio", "consent", "model"})


def make_app(desk: Desk, hosts: frozenset[str] = LOOPBACK) -> FastAPI:
    """The application; `hosts` are the names it may be asked under, all if empty. It closes the
    desk when it ends.
    """

    uploads = Uploads(desk)

    @asynccontextmanager
    async def while_served(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_keep_tidy(desk, uploads))
        yield
        tidying.cancel()
        desk.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=while_served)
    app.mount("/static", StaticFiles(directory=STATIC))
    guard(app, hosts, field="")
    _explain(app)
    _serve_files(app, uploads)
    _serve_jobs(app, desk, uploads)

    @app.get("/")
    def page(request: Request) -> Response:
        response = HTMLResponse((STATIC / "make.html").read_text(encoding="utf-8"))
        if _COOKIE not in request.cookies:
            response.set_cookie(
                _COOKIE, secrets.token_urlsafe(24), httponly=True, samesite="strict"
            )
        return response

    @app.get("/api/settings")
    def settings() -> dict[str, Any]:
        return {
            "models": registry.model_names(),
            "samples": SAMPLE_FILES,
            "limits": desk.limits.model_dump(),
        }

    return app


async def _keep_tidy(desk: Desk, uploads: Uploads) -> None:
    """Forgets what is past its time, whether or not anybody asks for anything."""
    while True:
        await asyncio.sleep(min(max(desk.limits.keep_s / 4, 0.05), _TIDY_S))
        await run_in_threadpool(desk.forget)
        await run_in_threadpool(uploads.forget)


def _serve_files(app: FastAPI, uploads: Uploads) -> None:
    @app.get("/api/samples/{name}")
    def sample(name: str) -> Response:
        if not any(name in names for names in SAMPLE_FILES.values()):
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
    watching = Watching(desk)

    @app.post("/api/jobs")
    async def submit(request: Request) -> dict[str, str]:
        body = await body_of(request, _MAX_WISH_BYTES)
        if body is None:
            raise Refused("", f"over {_MAX_WISH_BYTES} bytes; a wish is a few lines of JSON", 413)
        return await run_in_threadpool(queue, Wish.model_validate_json(body), _visitor(request))

    def queue(wish: Wish, visitor: str) -> dict[str, str]:
        if not wish.consent:
            raise Refused(
                "consent",
                "consent: say that you may use this person's face and voice, or make no video",
            )
        if wish.model not in registry.model_names():
            raise Refused(
                "model",
                f"model: no {wish.model!r} here; there are {', '.join(registry.model_names())}",
            )
        files = {kind: uploads.find(visitor, kind, getattr(wish, kind)) for kind in get_args(Kind)}
        asked = {"model": wish.model, "options": wish.options}
        asked["names"] = {kind: name for kind, (_, name) in files.items()}
        try:
            return {
                "id": (
                    desk.submit(
                        visitor, asked, {kind: path for kind, (path, _) in files.items()}
                    ).id
                )
            }
        except FileNotFoundError as error:
            kind = Path(error.filename).name
            raise Refused(kind, f"{kind}: deleted just now; choose one again") from error
        except OSError as error:
            raise Refused(
                "", f"no video can be made now ({error.strerror}); try again later", 507
            ) from error

    @app.get("/api/jobs/{job_id}")
    def state(job_id: str, request: Request) -> dict[str, Any]:
        return _told(desk, desk.find(_visitor(request), job_id))

    @app.get("/api/jobs/{job_id}/stream")
    async def stream(job_id: str, request: Request) -> Response:
        return watching.answer(desk.find(_visitor(request), job_id), ends_of(app))

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
    for kind, name in job.request["names"].items():
        if job.request[kind] in reason:
            reason, field = reason.replace(job.request[kind], name), kind
    return {
        "id": job.id,
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "frames": job.frames,
        "num_frames": job.num_frames,
        "left_s": job.left_s,
        "ahead": desk.ahead(job),
        "reason": reason,
        "field": field,
        **job.facts,
    }


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

    @app.exception_handler(Full)
    async def full(_: Request, error: Full) -> Response:
        return told(507, "", str(error))

    @app.exception_handler(DataError)
    async def unknown(_: Request, error: DataError) -> Response:
        return told(404, "", str(error))

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(_: Request, error: RequestValidationError | ValidationError) -> Response:
        first = error.errors()[0]
        if not first["loc"]:
            return told(422, "", f"the request is no JSON object ({first['msg']})")
        name = str(first["loc"][-1])
        return told(422, name, f"{name}: {first['msg']} (got {str(first.get('input'))[:60]!r})")

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        response = told(
            error.status_code, "", f"{request.method} {request.url.path[:200]}: {error.detail}"
        )
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        # The guard stands inside of what calls this; the error goes on to the log.
        response = told(500, "", f"the server failed ({type(error).__name__}); try again")
        response.headers.update(HEADERS)
        return response


def serve(
    host: str,
    port: int,
    device: str = "auto",
    allowed: Iterable[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serves the page until interrupted, also under the `allowed` names. Raises ConfigError for a
    port in use.
    """
    hosts, listening = names_of(host, allowed), listen(host, port)
    say(f"{address_of(host, listening)}/  (Ctrl+C ends, and deletes all uploads)")
    if not is_local(host):
        say(
            "warning: whoever reaches this address can make videos here; put a login and TLS"
            " before it"
        )
    run(make_app(Desk(Limits(), device), hosts), listening)
