"""The proxy under test: an external one by URL, or ours and the npm storage server, started once for the session."""

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.conformance.caller import Caller
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess
from tests.kit.upstream import Upstream


@pytest.fixture(scope="session")
def caller() -> Iterator[Caller]:
    """Who calls the proxy, with its service secret."""
    if url := os.environ.get("PROXY_CONFORMANCE_URL"):
        caller = Caller(url, os.environ["PROXY_CONFORMANCE_SECRET"])
        yield caller
        caller.http.close()
        return
    secret = secrets.token_urlsafe(24)
    with NpmStorage() as storage:
        args = [
            "--durable-streams-url",
            storage.url,
            "--allow",
            "http://localhost:*/**",
            "--error-body-timeout-seconds",
            "1",
        ]
        with ProxyProcess(args, env={"PROXY_SECRET": secret}) as proxy:
            caller = Caller(proxy.url, secret)
            yield caller
            caller.http.close()
            assert "Traceback" not in proxy.output, proxy.output


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """The scripted upstream; every test serves URLs of its own."""
    with Upstream() as upstream:
        yield upstream
