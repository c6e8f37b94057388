"""A scripted proxy for each test, and a client of it: every test that asks for `connect` runs with both drivers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.client import Retry
from tests.client.drivers import AsyncDriver, Driver, SyncDriver
from tests.client.scripted_proxy import ScriptedProxy

Connect = Callable[..., Driver]

QUICK = Retry(reads=6, creates=3, first_delay=0.001, max_delay=0.01)


@pytest.fixture
def proxy() -> Iterator[ScriptedProxy]:
    """A proxy that does what the test says."""
    with ScriptedProxy() as proxy:
        yield proxy


@pytest.fixture(params=[SyncDriver, AsyncDriver])
def connect(request: pytest.FixtureRequest, proxy: ScriptedProxy) -> Iterator[Connect]:
    """Makes durable fetches to the scripted proxy, closed after the test."""
    made: list[Driver] = []

    def connect(**options: Any) -> Driver:
        defaults = {"proxy_authorization": proxy.secret, "retry": QUICK}
        made.append(request.param(options.pop("proxy_url", proxy.url), **(defaults | options)))
        return made[-1]

    yield connect
    for driver in made:
        driver.close()


@pytest.fixture
def fetch(connect: Connect) -> Driver:
    """A durable fetch with default options, but quick to try again."""
    return connect()
