"""Parts that every page has in common: headers that keep browsers strict, who may ask, and the
server.
"""

import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from flowportrait.errors import ConfigError

STATIC = Path(__file__).parent / "static"
_TOKEN = "flowportrait-token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_NAME = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self' blob:;"
        " connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guard(app: FastAPI, hosts: Iterable[str] = (), token: str = "", **said: str) -> None:
    """Adds the headers; with `hosts`, refuses requests that name another host (DNS rebinding), and
    always those that change something on behalf of another site, or name no host that could be.
    With a `token` only those are answered who have it. A refusal is {"message"} and what is `said`
    with it, status 403 or 401.
    """
    known = frozenset(hosts)
    app.state.token = token

    @app.middleware("http")
    async def guarded(request: Request, call_next: Any) -> Response:
        if refused := _refused(request, known):
            response: Response = JSONResponse({**said, "message": refused}, 403)
        elif _lets_in(request, token):
            response = _welcomed(token)
        elif not _has(request, token):
            response = _asked_for_token(request, said)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        for name in ("etag", "last-modified"):
            if name in response.headers:
                del response.headers[name]
        return response


def bearer_of(request: Request) -> str:
    """The visitor of a program that sent the server's token; empty without it."""
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    token = request.app.state.token
    if token and kind.lower() == "bearer" and _same(sent, token):
        return "bearer"
    return ""


def _lets_in(request: Request, token: str) -> bool:
    """Whether this opens the link that the server has printed."""
    sent = request.query_params.get("token", "")
    return bool(token) and request.url.path == "/" and _same(sent, token)


def _has(request: Request, token: str) -> bool:
    open_to_all = not token or request.url.path.startswith("/static/")
    return open_to_all or bool(bearer_of(request)) or _same(request.cookies.get(_TOKEN, ""), token)


def _same(sent: str, token: str) -> bool:
    return secrets.compare_digest(sent.encode(), token.encode())


def _welcomed(token: str) -> Response:
    """To the page, with the token in a cookie and no longer in the address."""
    response = RedirectResponse("/", 303)
    response.set_cookie(_TOKEN, token, httponly=True, samesite="strict")
    return response


def _asked_for_token(request: Request, said: Mapping[str, str]) -> Response:
    if request.method == "GET" and request.url.path == "/":
        return HTMLResponse((STATIC / "no-token.html").read_text(encoding="utf-8"), 401)
    words = "a token is needed: send it as Authorization: Bearer TOKEN"
    return JSONResponse({**said, "message": words}, 401, {"WWW-Authenticate": "Bearer"})


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


def names_of(host: str, allowed: Iterable[str] = ()) -> frozenset[str]:
    """The names under which a server that listens at `host` may be asked; empty for all of them,
    which is so where other machines reach it and nobody says what it is called. Raises ConfigError
    for what is no name alone.
    """
    names = [name.strip("[]").lower() for name in allowed]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--allow-host {name}: give a host name only, such as videos.example.org"
            )
    if names or is_local(host):
        return LOOPBACK | {host.strip("[]").lower(), *names}
    return frozenset()


def is_local(host: str) -> bool:
    """Whether this machine alone reaches a server that listens at `host`."""
    with suppress(ValueError):
        return ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve at, of IPv4 or IPv6 as `host` is; port 0 takes a free one. Raises
    ConfigError when it cannot be had.
    """
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may have both; browsers try both.
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        every = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=every)
    except (OSError, UnicodeError) as error:
        where = f"--host {host} --port {port}"
        why = getattr(error, "strerror", "no name of a machine")
        raise ConfigError(
            f"{where}: cannot listen on this address ({why}); choose another"
        ) from error


def address_of(host: str, listening: socket.socket) -> str:
    """The address for a browser on this machine, as http://127.0.0.1:7860."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"http://{_bracketed(name)}:{listening.getsockname()[1]}"


def _bracketed(name: str) -> str:
    if ":" in name:
        return f"[{name}]"
    return name


def server_of(app: FastAPI) -> Any:
    """The server that `run` runs."""
    import uvicorn

    app.state.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    return app.state.server


def ends_of(app: FastAPI) -> Callable[[], bool]:
    """Tells whether the server of `app` is to end, which long answers must heed: it waits for
    them.
    """
    return lambda: getattr(getattr(app.state, "server", None), "should_exit", False)


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serves until interrupted."""
    with suppress(KeyboardInterrupt):
        server_of(app).run([listening])
