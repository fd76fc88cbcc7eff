"""The page that makes videos, over a real server, and a visitor who needs no browser."""

import http.client
import json
import socket
import threading
import time
from contextlib import closing, contextmanager

from flowportrait.web.guard import server_of
from flowportrait.web.make import make_app


class Visitor:
    """A browser without a screen: it keeps its cookie."""

    def __init__(self, port, **headers):
        self.port, self.headers = port, headers
        cookie = self.ask("GET", "/")[1]["set-cookie"]
        assert {"httponly", "samesite=strict"} <= {
            part.strip().lower() for part in cookie.split(";")
        }
        self.headers |= {"Cookie": cookie.split(";")[0]}

    def ask(self, method, path, body=None, **headers):
        """Status, headers, and the body: JSON where it is that."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            sent = json.dumps(body) if isinstance(body, dict) else body
            kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
            connection.request(method, path, sent, self.headers | kind | headers)
            answer = connection.getresponse()
            data = answer.read()
        return (
            answer.status,
            answer.headers,
            json.loads(data) if "json" in answer.headers["content-type"] else data,
        )

    def submit(self, **wish):
        """Status and answer to a wish; a short one of the samples, small, unless it says
        otherwise.
        """
        wish = {
            "portrait": "portrait.png",
            "audio": "speech.wav",
            "consent": True,
            "evaluations": 2,
            "size": 128,
        } | wish
        status, _, body = self.ask("POST", "/api/jobs", wish)
        return status, body

    def state(self, job, *wanted, within_s=90):
        """The state of a job once it is one of those wanted."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            told = self.ask("GET", f"/api/jobs/{job}")[2]
            if told.get("state") in wanted:
                return told
            time.sleep(0.05)
        raise AssertionError(told)


@contextmanager
def served(desk, token=""):
    """The port of a server that runs while this does."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(make_app(desk, token=token))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()
