"""What every page of ours has in common: headers that keep browsers strict, who may ask, and the server."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from flowportrait.errors import ConfigError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self' blob:; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guard(app: FastAPI, hosts: Iterable[str] = (), **said: str) -> None:
    """Adds the headers; with `hosts`, refuses requests that name another host (DNS rebinding), and always those that
    change something on behalf of another site, or name no host that could be. A refusal is {"message"} and what is
    `said` with it, status 403."""
    known = frozenset(hosts)

    @app.middleware("http")
    async def guarded(request: Request, call_next: Any) -> Response:
        refused = _refused(request, known)
        if refused:
            response: Response = JSONResponse({**said, "message": refused}, 403)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        for name in ("etag", "last-modified"):
            if name in response.headers:
                del response.headers[name]
        return response


def _refused(request: Request, known: frozenset[str]) -> str:
    """Why a request is not answered, or nothing."""
    origin = request.headers.get("origin")
    try:
        asked = urlsplit(f"//{request.headers.get('host', '')}")
        foreign = origin is not None and urlsplit(origin).netloc != asked.netloc
    except ValueError:
        return "the address or the page that asks has a name that cannot be"
    if known and asked.hostname not in known:
        return "this address is served under another name"
    if foreign and request.method not in ("GET", "HEAD"):
        return "asked by a page of another site"
    return ""


async def body_of(request: Request, most_bytes: int) -> bytes | None:
    """The body of a request, or None as soon as it is over `most_bytes`."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            return None
    return body


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve at; port 0 takes a free one. Raises ConfigError when it cannot be had."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise ConfigError(f"{where}: cannot listen there ({error.strerror}); take another") from error


def server_of(app: FastAPI) -> Any:
    """The server that `run` runs."""
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serves until interrupted."""
    with suppress(KeyboardInterrupt):
        server_of(app).run([listening])
