"""A judge server that misbehaves as real ones do, for tests of judge runs without money:
`flowportrait judge-sim`.

It speaks the Gemini protocol (generateContent and the Files API) and OpenAI's chat protocol. Its
scores come from a digest of what was shown and asked, so that the same question gets the same
score, whoever asks and however often. What goes wrong, and how often, stands in a faults file
(TOML).
"""

import asyncio
import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from flowportrait.errors import MediaError
from flowportrait.files import JsonObject
from flowportrait.media import Clip, Facts
from flowportrait.scoring import ASPECTS
from flowportrait.scoring.judges.backends import text_tokens
from flowportrait.scoring.judges.faults import (
    BODY_FAULTS,
    Fault,
    FaultKind,
    Faults,
    Sent,
    odd_body,
    spoilt,
)
from flowportrait.scoring.judges.sim_apis import (
    SimFailure,
    SimReply,
    SimRequest,
    _camel,
    failure_body,
    read_gemini,
    read_openai,
    say_gemini,
    say_openai,
)

_HEAD_LIMIT_BYTES = 64 * 1024
_REASONS = {
    200: "OK",
    302: "Found",
    400: "Bad Request",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class JudgeSim:
    """The server. `async with JudgeSim(faults) as sim:` listens on `sim.port`; /stats tells what
    happened.
    """

    def __init__(self, faults: Faults | None = None, host: str = "127.0.0.1", port: int = 0):
        self.faults = faults or Faults()
        self.host = host
        self.port = port
        self.calls = self.in_flight = self.peak_in_flight = 0
        self.last_request: JsonObject = {}
        """The body of the newest question, for tests of what is sent."""
        self.served: Counter[str] = Counter()
        self.hit: Counter[str] = Counter()
        self._random = random.Random(self.faults.seed)
        self._files: dict[str, JsonObject] = {}
        self._facts: dict[str, Facts | None] = {}
        self._connections: set[asyncio.Task[Any] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, limit=_HEAD_LIMIT_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        # Clients that hang on must not keep the server from ending.
        connections = [task for task in self._connections if task is not None]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{self.host}:{self.port}"

    def stats(self) -> JsonObject:
        """Calls, faults by kind, and how many different questions were answered how often."""
        return {
            "calls": self.calls,
            "faults": dict(self.hit),
            "peak_in_flight": self.peak_in_flight,
            "answered": sum(self.served.values()),
            "questions": len(self.served),
        }

    # ---
    # HTTP

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection until the other side ends it."""
        self._connections.add(asyncio.current_task())
        try:
            while await self._exchange(reader, writer):
                pass
        except (
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
        ):
            pass
        finally:
            self._connections.discard(asyncio.current_task())
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its response; False when the connection is to be cut."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            status, content, extra = await self._answered(method, path.split("?")[0], headers, body)
        except SimFailure as error:
            status, (content, extra) = error.status, failure_body(path, error)
        except (KeyError, TypeError, ValueError) as error:
            status, (content, extra) = (
                400,
                failure_body(path, SimFailure(400, f"not a request of this protocol: {error!r}")),
            )
        finally:
            self.in_flight -= 1
        if status == 0:
            return False
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        extra = {"Content-Type": "application/json", **extra}
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}"]
        lines += [
            f"Content-Length: {len(payload)}",
            *(f"{name}: {value}" for name, value in extra.items()),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        await writer.drain()
        return True

    async def _answered(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Sent:
        """(status, content, further headers) of a request; status 0 cuts the connection."""
        if path == "/stats":
            return 200, self.stats(), {}
        if path == "/v1/chat/completions":
            self.last_request = json.loads(body)
            return await self._judged(
                read_openai(self.last_request, self.faults.dialect), say_openai
            )
        if path.startswith(("/v1/models/", "/v1beta/models/")) and path.endswith(
            ":generateContent"
        ):
            model = path.split("/")[-1].partition(":")[0]
            self.last_request = _camel(json.loads(body))
            ask = read_gemini(self.last_request, model, self._files)
            return await self._judged(ask, say_gemini)
        if path == "/v1/models":
            return (
                200,
                {"object": "list", "data": [{"id": self.faults.model or "sim", "object": "model"}]},
                {},
            )
        if "/files" in path:
            return self._file(method, path, headers, body)
        raise SimFailure(404, f"no such path: {path}")

    def _file(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Sent:
        """The Files API: a start that gives an address, the bytes sent there, and questions about
        the state.
        """
        name = "files/" + path.rsplit("/", 1)[-1]
        if headers.get("x-goog-upload-command") == "start":
            name = f"files/f{len(self._files)}"
            mime_type = headers.get("x-goog-upload-header-content-type", "video/mp4")
            self._files[name] = {"mime_type": mime_type, "bytes": b"", "ready_at": None}
            return (
                200,
                {},
                {
                    "X-Goog-Upload-URL": f"{self.url}/upload/{name}",
                    "X-Goog-Upload-Status": "active",
                },
            )
        return self._stored_file(name, method, body, headers)

    def _stored_file(
        self,
        name: str,
        method: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Sent:
        """An uploaded file's state, after a further piece of it where one came."""
        if name not in self._files:
            raise SimFailure(404, f"no file {name}")
        file = self._files[name]
        if method != "POST":
            return 200, self._file_row(name), {}
        file["bytes"] += body
        if "finalize" not in headers.get("x-goog-upload-command", ""):
            return 200, {}, {"X-Goog-Upload-Status": "active"}
        file["ready_at"] = asyncio.get_running_loop().time() + self.faults.processing_s
        file["failed"] = self._fault("file-failed") is not None
        return 200, {"file": self._file_row(name)}, {"X-Goog-Upload-Status": "final"}

    def _file_row(self, name: str) -> JsonObject:
        """A stored file as Gemini's interface describes it."""
        file = self._files[name]
        waiting = asyncio.get_running_loop().time() < file["ready_at"]
        return {
            "name": name,
            "uri": f"{self.url}/v1beta/{name}",
            "mimeType": file["mime_type"],
            "sizeBytes": str(len(file["bytes"])),
            "state": "PROCESSING" if waiting else "FAILED" if file["failed"] else "ACTIVE",
        }

    # ---
    # judging

    async def _judged(self, ask: SimRequest, say: Any) -> Sent:
        """The answer to a question, or what goes wrong with it."""
        fault = self._fault()
        kind = fault.kind if fault else None
        self.calls += 1
        await asyncio.sleep(self.faults.latency_s)
        if fault is not None and kind == "rate-limit":
            raise SimFailure(
                429, "Resource has been exhausted (e.g. check quota).", fault.retry_after_s
            )
        _fail_if_told(kind)
        if kind == "hang":
            await asyncio.sleep(self.faults.hang_s)
        if kind in ("hang", "cut"):
            return 0, {}, {}
        content = say(self._said(ask, kind), ask, self.faults.modalities)
        if kind in BODY_FAULTS:
            return odd_body(kind, content, "openai" if say is say_openai else "gemini")
        return 200, content, {}

    def _fault(self, only: FaultKind | None = None) -> Fault | None:
        """The fault that hits this call, if any. Failing files are drawn apart from failing
        calls.
        """
        for fault in self.faults.fault:
            if (fault.kind == "file-failed") != (only == "file-failed"):
                continue
            if fault.hits(self.calls, self._random.random()):
                self.hit[fault.kind] += 1
                return fault
        return None

    def _said(self, ask: SimRequest, kind: FaultKind | None) -> SimReply:
        """The reply's text with its tokens, spoilt as `kind` says."""
        seed = hashlib.sha256(ask.text.encode() + b"".join(data for data, _ in ask.videos)).digest()
        self.served[seed.hex()] += 1
        tokens = {"TEXT": text_tokens(ask.text), **self._seen(ask, kind)}
        reply, score_at = spoilt(_reply(ask.text, seed), kind)
        finish: Any = {"truncated": "length", "thought-away": "length", "blocked": "blocked"}.get(
            kind or "", "stop"
        )
        model = "sim-replacement" if kind == "replaced" else self.faults.model or ask.model
        return SimReply(model, reply, finish, tokens, score_at)

    def _seen(self, ask: SimRequest, kind: FaultKind | None) -> dict[str, int]:
        """Tokens of frames and sound, as far as this server looks and listens."""
        video = audio = 0
        for data, fps in ask.videos:
            facts = self._looked_at(data)
            if facts is None:
                raise SimFailure(400, "The video cannot be decoded.")
            if kind == "blind":
                frames = 1
            else:
                frames = max(1, min(facts.num_frames, round(facts.duration_s * fps)))
            video += frames * ask.frame_tokens
            audio += round(facts.duration_s * 32) if facts.has_sound and ask.sound_in_video else 0
        audio += sum((len(sound) - 44) // 32000 * 25 + 1 for sound in ask.sounds)
        return {"VIDEO": video, "AUDIO": 0 if kind == "deaf" else audio}

    def _looked_at(self, data: bytes) -> Facts | None:
        """The facts of a video's bytes, found once; None for what is no video."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self._facts:
            with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
                file.write(data)
                file.flush()
                try:
                    self._facts[key] = Clip(Path(file.name)).facts
                except MediaError:
                    self._facts[key] = None
        return self._facts[key]


def _fail_if_told(kind: str) -> None:
    """Raises the failure that a question asks for by name."""
    if kind in ("overloaded", "server-error"):
        raise SimFailure(
            503 if kind == "overloaded" else 500,
            "The model is overloaded. Please try again later.",
        )
    if kind == "bad-request":
        raise SimFailure(400, "Request contains an invalid argument.")


def _reply(text: str, seed: bytes) -> dict[str, int | str]:
    """The values of a good reply; which keys are wanted is read off the prompt."""
    wanted = text
    if "</think>" in text:
        wanted = text[text.rfind("</think>") :]
    if '"winner"' in wanted:
        return {"winner": "AB"[seed[0] % 2]}
    if all(f'"{aspect}"' in wanted for aspect in ASPECTS):
        return {aspect: 1 + seed[index] % 5 for index, aspect in enumerate(ASPECTS)}
    return {"score": 1 + seed[0] % 5}


# -------------------------------------------------------------------------------------------------
# protocols


async def serve(faults: Faults, host: str, port: int, announce: Any) -> None:
    """Serves until it is interrupted; `announce` gets the address once it listens."""
    async with JudgeSim(faults, host, port) as sim:
        announce(sim.url)
        await asyncio.Event().wait()
