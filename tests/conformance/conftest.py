"""The proxy under test: an external one by URL, or ours and the npm storage server, started once for the session.

Its caller speaks HTTP/1.1 and HTTP/2, each over plain TCP and TLS. Most of the matrix runs when `-m slow` asks for it;
some files run over HTTP/2 always.
"""

import os
import secrets
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conformance.caller import Caller
from tests.kit.certificates import Authority
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess
from tests.kit.upstream import Upstream

_OVER_HTTP2 = ("test_abort.py", "test_read.py")


class Access(NamedTuple):
    """How the proxy is reached."""

    url: str
    secret: str
    tls: ssl.SSLContext | None


@pytest.fixture(scope="session", params=["plain", pytest.param("TLS", marks=pytest.mark.slow)])
def access(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """The proxy that is tested; over TLS, too, with `-m slow`."""
    if url := os.environ.get("PROXY_CONFORMANCE_URL"):
        yield Access(url, os.environ["PROXY_CONFORMANCE_SECRET"], None)
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
        authority = Authority(tmp_path_factory.mktemp("authority")) if request.param == "TLS" else None
        if authority is not None:
            args += authority.pair("proxy").flags
        with pytest.MonkeyPatch.context() as patch, ProxyProcess(args, env={"PROXY_SECRET": secret}) as proxy:
            if authority is not None:
                patch.setenv("SSL_CERT_FILE", str(authority.ca_file))  # for the Python client
            yield Access(proxy.url, secret, None if authority is None else authority.client)
            assert "Traceback" not in proxy.output, proxy.output


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that calls a proxy once for each HTTP version."""
    definition = metafunc.definition
    if "caller" in metafunc.fixturenames and definition.get_closest_marker("http1_only") is None:
        slow = [] if definition.path.name in _OVER_HTTP2 else [pytest.mark.slow]
        metafunc.parametrize("caller", ["HTTP/1.1", pytest.param("HTTP/2", marks=slow)], indirect=True, scope="session")


@pytest.fixture(scope="session")
def caller(request: pytest.FixtureRequest, access: Access) -> Iterator[Caller]:
    """Who calls the proxy, with its service secret."""
    http2 = getattr(request, "param", "") == "HTTP/2"
    caller = Caller(access.url, access.secret, tls=access.tls, http2=http2)
    yield caller
    caller.http.close()


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """The scripted upstream; every test serves URLs of its own."""
    with Upstream() as upstream:
        yield upstream
