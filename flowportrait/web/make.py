"""The page that makes videos: a portrait and a recording in, a talking video out, on this machine.

`/` is the page, `/docs` shows what programs can ask for (`api`), `/openapi.json` says so to tools.
Uploads and videos belong to the browser that sent them (a cookie that scripts cannot read) or to
whoever has the token; they lie where only this user can read, and go after a time, on request, and
when the server ends.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from flowportrait import __version__, registry
from flowportrait.files import JsonObject
from flowportrait.web.api import COOKIE, Error, explain, serve_files, serve_jobs
from flowportrait.web.guard import (
    LOOPBACK,
    address_of,
    guard,
    is_local,
    listen,
    names_of,
    run,
)
from flowportrait.web.jobs import Desk, ServerLimits
from flowportrait.web.reference import reference_page
from flowportrait.web.uploads import SAMPLE_FILES, Uploads

STATIC = Path(__file__).parent / "static"
_TIDY_S = 30.0
_ABOUT = (
    "Send a picture and a recording, queue a video, ask for it until it is done, fetch it. Uploads"
    " and videos are yours alone: of the cookie that `/` gives, or of the bearer token."
)


def make_app(desk: Desk, hosts: frozenset[str] = LOOPBACK, token: str = "") -> FastAPI:
    """The application; `hosts` are the names it may be asked under, all if empty. With a `token`
    nothing is answered without it. It closes the desk when it ends.
    """

    uploads = Uploads(desk)

    @asynccontextmanager
    async def while_served(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_keep_tidy(desk, uploads))
        yield
        tidying.cancel()
        desk.close()

    app = FastAPI(
        title="flowportrait",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=while_served,
        responses={"default": {"model": Error, "description": "What went wrong."}},
    )
    app.mount("/static", StaticFiles(directory=STATIC))
    guard(app, hosts, token, field="")
    explain(app)
    _serve_pages(app, desk)
    serve_files(app, uploads)
    serve_jobs(app, desk, uploads)
    return app


def _serve_pages(app: FastAPI, desk: Desk) -> None:
    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        response = HTMLResponse((STATIC / "make.html").read_text(encoding="utf-8"))
        if COOKIE not in request.cookies:
            response.set_cookie(COOKIE, secrets.token_urlsafe(24), httponly=True, samesite="strict")
        return response

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(reference_page(app.openapi()))

    @app.get("/api/settings")
    def settings() -> JsonObject:
        """Models, samples and limits of this server."""
        return {
            "models": registry.model_names(),
            "samples": SAMPLE_FILES,
            "limits": desk.limits.model_dump(),
        }


async def _keep_tidy(desk: Desk, uploads: Uploads) -> None:
    """Forgets what is past its time, whether or not anybody asks for anything."""
    while True:
        await asyncio.sleep(min(max(desk.limits.keep_s / 4, 0.05), _TIDY_S))
        await run_in_threadpool(desk.forget)
        await run_in_threadpool(uploads.forget)


def serve(
    host: str,
    port: int,
    device: str = "auto",
    allowed: Iterable[str] = (),
    say: Callable[[str], None] = print,
    token: str = "",
) -> None:
    """Serves the page until interrupted, also under the `allowed` names, and with a `token` only to
    those who have it. Raises ConfigError for a port in use.
    """
    hosts = names_of(host, allowed)
    listening = listen(host, port)
    with_token = f"?token={token}" if token else ""
    where = f"{address_of(host, listening)}/{with_token}"
    say(f"{where}  (Ctrl+C ends, and deletes all uploads and videos)")
    if not is_local(host):
        without = (
            "" if token else "whoever reaches this address can make videos here: give a --token; "
        )
        say(f"warning: {without}http can be read on its way; put TLS before it")
    run(make_app(Desk(ServerLimits(), device), hosts, token), listening)
