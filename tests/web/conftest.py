"""A running server that makes videos, within the `LIMITS` of the module that asks for it."""

import pytest


@pytest.fixture
def desk(request):
    """Its queue, which leaves nothing behind."""
    from flowportrait.web.jobs import Desk

    made = Desk(request.module.LIMITS)
    yield made
    made.close()
    assert not made._home.exists()


@pytest.fixture
def port(desk):
    from page_server import served

    with served(desk) as port:
        yield port


@pytest.fixture
def visitor(port):
    from page_server import Visitor

    return Visitor(port)
