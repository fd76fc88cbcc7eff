"""Requests of programs and the page: uploads, jobs and videos of one visitor; errors as {"field",
"message"}. `make` puts it behind a page, and `/docs` shows it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from flowportrait import registry
from flowportrait.errors import DataError
from flowportrait.files import JsonObject
from flowportrait.web.guard import HEADERS, bearer_of, body_of, ends_of
from flowportrait.web.jobs import Busy, Desk, Full, Job
from flowportrait.web.uploads import SAMPLE_FILES, Kind, Refused, Uploads
from flowportrait.web.watching import Watching

COOKIE = "flowportrait"
_MAX_WISH_BYTES = 1 << 16
SIZES_PX = (128, 1024)
"""As `composite` has them, which the server does not load: it would bring torch."""


def _size(size: Any) -> Any:
    """The size. Raises an error that says which sizes there are."""
    low, high = SIZES_PX
    if size != "auto" and (type(size) is not int or not low <= size <= high):
        words = "give auto or a whole number of pixels from {low} to {high}"
        raise PydanticCustomError("size", words, {"low": low, "high": high})
    return size


Size = Annotated[int | Literal["auto"], BeforeValidator(_size)]
Strength = Annotated[float, Field(ge=0, le=2)]


class Wish(BaseModel):
    """The request for a video: its sources, with the options of `flowportrait generate`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    portrait: str
    """Id of an upload, or name of a sample."""
    audio: str
    """Id of an upload, or name of a sample."""
    consent: bool = False
    """Must be true: you have the right to use this person's face and voice."""
    model: str = "tiny"
    evaluations: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How often the network is evaluated; null for the model's own number."""
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    crop: Literal["auto", "none"] = "auto"
    size: Size = "auto"
    """Side of the face's square in pixels, 128 to 1024, or auto."""
    frame: Literal["whole", "face"] | None = None
    head: Strength = 1.0
    lips: Strength = 1.0
    eyes: Strength = 1.0

    @property
    def options(self) -> JsonObject:
        """Those of `generate`."""
        return self.model_dump(exclude={"portrait", "audio", "consent", "model"})


class Made(BaseModel):
    """One video, as far as it is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    portrait: str
    """Name of the picture as it was sent."""
    audio: str
    """Name of the recording as it was sent."""
    done: int
    """Evaluations of the network that are made, of `total`; 0 while the model is loaded."""
    total: int
    frames: int
    """Frames that are made, of `num_frames`."""
    num_frames: int
    left_s: float | None
    """Seconds until it is done, loading left out; null before that can be told."""
    ahead: int
    """Videos that are made before it."""
    reason: str
    """Why it failed, and in `field` what is to blame: portrait, audio or nothing."""
    field: str
    video_s: float | None = None
    evaluations: int | None = None
    warnings: list[str] = []


class Identified(BaseModel):
    """Something that was accepted, by its id."""

    id: str


class Deleted(BaseModel):
    """That it is gone."""

    deleted: bool = True


class Upload(BaseModel):
    """A file that was sent."""

    id: str
    kind: Kind
    name: str


class Error(BaseModel):
    """The error in one line, and the field that it concerns."""

    field: str
    message: str


_BYTES = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}
_SENT = {"requestBody": {"required": True, "description": "The file itself.", **_BYTES}}
_WISH = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Wish.model_json_schema()}},
    }
}
_VIDEO = {200: {"content": {"video/mp4": {}}, "description": "The video."}}


def serve_files(app: FastAPI, uploads: Uploads) -> None:
    """Adds the routes of samples and uploads."""

    @app.get("/api/samples/{name}", response_class=FileResponse)
    def sample(name: str) -> Response:
        """A sample portrait or recording."""
        if not any(name in names for names in SAMPLE_FILES.values()):
            raise Refused("", f"{name}: no such sample", 404)
        return FileResponse(registry.SAMPLES_DIR / name)

    @app.get("/api/files")
    def files(request: Request) -> list[Upload]:
        """Your uploads, oldest first."""
        found = uploads.of(visitor_of(request))
        return [Upload(id=key, kind=file.kind, name=file.name) for key, file in found]

    @app.get("/api/files/{file_id}", response_class=Response)
    def shown(file_id: str, request: Request) -> Response:
        """An upload as a page can show it: a picture as JPEG, a recording as WAV."""
        content, kind = uploads.preview(visitor_of(request), file_id)
        return Response(content, media_type=kind)

    @app.put("/api/files/{kind}", openapi_extra=_SENT)
    async def upload(kind: Kind, request: Request, name: str = "") -> Identified:
        """Send a picture or a recording; its id is named by a job."""
        called = Path(name).name[:100] or kind
        return Identified(id=await uploads.take(visitor_of(request), kind, called, request))

    @app.delete("/api/files")
    def forget(request: Request) -> Deleted:
        """Delete all your uploads."""
        uploads.remove(visitor_of(request))
        return Deleted()


def serve_jobs(app: FastAPI, desk: Desk, uploads: Uploads) -> None:
    """Adds the routes of jobs and their videos."""
    watching = Watching(desk)

    def own(job_id: str, request: Request) -> Job:
        return desk.find(visitor_of(request), job_id)

    @app.post("/api/jobs", openapi_extra=_WISH)
    async def submit(request: Request) -> Identified:
        """Queue a video."""
        body = await body_of(request, _MAX_WISH_BYTES)
        if body is None:
            raise Refused(
                "", f"over {_MAX_WISH_BYTES} bytes; a request is a few lines of JSON", 413
            )
        wish = Wish.model_validate_json(body)
        visitor = visitor_of(request)
        return await run_in_threadpool(_queue, desk, uploads, wish, visitor)

    @app.get("/api/jobs")
    def jobs(request: Request) -> list[Made]:
        """Your videos, oldest first."""
        return [_made(desk, job) for job in desk.of(visitor_of(request))]

    @app.get("/api/jobs/{job_id}")
    def state(job_id: str, request: Request) -> Made:
        """How far a video is."""
        return _made(desk, own(job_id, request))

    @app.get("/api/jobs/{job_id}/stream", response_class=Response, responses=_VIDEO)
    async def stream(job_id: str, request: Request) -> Response:
        """The video while it is made: an mp4 in fragments that ends with the job."""
        return watching.answer(own(job_id, request), ends_of(app))

    @app.get("/api/jobs/{job_id}/video", response_class=FileResponse, responses=_VIDEO)
    def video(job_id: str, request: Request) -> Response:
        """The finished mp4, also in parts; `?download=1` to keep it."""
        job = own(job_id, request)
        if job.state != "done":
            raise Refused("", "the video is not finished yet", 404)
        kept = {"filename": "talking.mp4"} if "download" in request.query_params else {}
        return FileResponse(job.video, media_type="video/mp4", **kept)

    @app.delete("/api/jobs/{job_id}")
    def remove(job_id: str, request: Request) -> Deleted:
        """Stop a video, and delete all of it."""
        desk.remove(own(job_id, request))
        return Deleted()

    @app.delete("/api/jobs")
    def remove_all(request: Request) -> Deleted:
        """Stop and delete all your videos."""
        for job in desk.of(visitor_of(request)):
            desk.remove(job)
        return Deleted()


def visitor_of(request: Request) -> str:
    """The visitor of a request: a browser by its cookie, a program's by its bearer token."""
    visitor = request.cookies.get(COOKIE) or bearer_of(request)
    if not visitor:
        raise Refused("", "no cookie; load the page again, and let it keep one", 403)
    return visitor


def _queue(desk: Desk, uploads: Uploads, wish: Wish, visitor: str) -> Identified:
    """Queues a wish. Raises Refused for one that cannot be fulfilled."""
    if not wish.consent:
        words = "consent: say that you may use this person's face and voice, or make no video"
        raise Refused("consent", words)
    if wish.model not in registry.model_names():
        known = ", ".join(registry.model_names())
        raise Refused("model", f"model: no {wish.model!r} here; there are {known}")
    files = {kind: uploads.find(visitor, kind, getattr(wish, kind)) for kind in get_args(Kind)}
    asked = {"model": wish.model, "options": wish.options}
    asked["names"] = {kind: name for kind, (_, name) in files.items()}
    paths = {kind: path for kind, (path, _) in files.items()}
    try:
        return Identified(id=desk.submit(visitor, asked, paths).id)
    except FileNotFoundError as error:
        kind = Path(error.filename).name
        raise Refused(kind, f"{kind}: deleted just now; choose one again") from error
    except OSError as error:
        words = f"no video can be made now ({error.strerror}); try again later"
        raise Refused("", words, 507) from error


def _made(desk: Desk, job: Job) -> Made:
    reason = job.reason
    field = ""
    for kind, name in job.request["names"].items():
        if job.request[kind] in reason:
            reason = reason.replace(job.request[kind], name)
            field = kind
    # Of a recording they begin with its file's name, which here is not the one it was sent under.
    written = f"{Path(job.request['audio']).name}: "
    sent = f"{job.request['names']['audio']}: "
    warnings = job.facts.get("warnings", [])
    renamed = [sent + w.removeprefix(written) if w.startswith(written) else w for w in warnings]
    return Made(
        **{name: getattr(job, name) for name in _AS_THEY_ARE},
        **job.request["names"],
        **job.facts | {"warnings": renamed},
        ahead=desk.ahead(job),
        reason=reason,
        field=field,
    )


_AS_THEY_ARE = ("id", "state", "done", "total", "frames", "num_frames", "left_s")


def explain(app: FastAPI) -> None:
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
