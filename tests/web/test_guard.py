"""Where the pages listen, what they are called, and who may ask."""

import http.client
import socket
import threading
from contextlib import closing, contextmanager

import pytest

from flowportrait.errors import ConfigError

pytest.importorskip("uvicorn", reason="flowportrait[web] is not installed")
from fastapi import FastAPI  # noqa: E402

from flowportrait.web.guard import (
    LOOPBACK,
    address_of,
    guard,
    is_local,
    listen,
    names_of,
    server_of,
)  # noqa: E402


def has_ipv6():
    """Whether this machine has a loopback of IPv6; containers often have none."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@contextmanager
def served(host, allowed=()):
    """A small application that is guarded as the pages are, and its port."""
    app = FastAPI()
    guard(app, names_of(host, allowed))
    app.get("/")(lambda: "here")
    app.put("/")(lambda: "changed")
    listening = listen(host, 0)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(address, port, method="GET", **headers):
    """The status of an answer."""
    with closing(http.client.HTTPConnection(address, port, timeout=10)) as connection:
        connection.request(method, "/", headers=headers)
        return connection.getresponse().status


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_it_listens_on_ipv6(host):
    with served(host) as port:
        assert ask("::1", port, Host=f"[::1]:{port}") == 200
        assert ask("::1", port, "PUT", Host=f"[::1]:{port}", Origin=f"http://[::1]:{port}") == 200
        assert ask("::1", port, Host="evil.example") == (200 if host == "::" else 403)
        if host == "::":
            assert ask("127.0.0.1", port) == 200


@pytest.mark.parametrize(
    "host, name",
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "localhost"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("::", "[::1]"),
        ("192.0.2.7", "192.0.2.7"),
    ],
)
def test_the_address_can_be_opened(host, name):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert address_of(host, listening) == f"http://{name}:{listening.getsockname()[1]}"


def test_names_it_may_be_asked_under():
    assert names_of("127.0.0.1") == names_of("::1") == names_of("[::1]") == LOOPBACK
    assert names_of("127.0.0.2") == LOOPBACK | {"127.0.0.2"}
    assert names_of("0.0.0.0") == names_of("192.0.2.7") == frozenset()
    assert names_of("0.0.0.0", ["Videos.example.org"]) == LOOPBACK | {
        "0.0.0.0",
        "videos.example.org",
    }
    assert [
        is_local(host) for host in ("127.9.9.9", "localhost", "::1", "0.0.0.0", "::", "example.org")
    ] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "name", ["", "https://example.org", "example.org:443", "a/b", "a]b", "me@example.org"]
)
def test_what_is_no_name_alone(name):
    with pytest.raises(ConfigError, match="give a host name only"):
        names_of("127.0.0.1", [name])


def test_a_name_that_is_allowed_and_others():
    with served("127.0.0.1", ["videos.example.org"]) as port:
        assert ask("127.0.0.1", port, Host="videos.example.org") == 200
        assert (
            ask(
                "127.0.0.1",
                port,
                "PUT",
                Host="videos.example.org",
                Origin="https://videos.example.org",
            )
            == 200
        )
        assert (
            ask("127.0.0.1", port, "PUT", Host="videos.example.org", Origin="https://example.org")
            == 403
        )
        assert ask("127.0.0.1", port, Host="other.example.org") == 403


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "192.0.2.1"])
def test_where_it_cannot_listen(host):
    with pytest.raises(ConfigError, match="cannot listen on this address"):
        listen(host, 0)
