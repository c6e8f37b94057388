"""The proxy under test: an external one by URL, or ours and the npm storage server, started once for the session."""

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.conformance.caller import Caller
from tests.kit.certificates import Authority
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess
from tests.kit.upstream import Upstream


@pytest.fixture(scope="session", params=["plain", pytest.param("TLS", marks=pytest.mark.slow)])
def caller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """Who calls the proxy, with its service secret; over TLS, too, with `-m slow`."""
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
        authority = Authority(tmp_path_factory.mktemp("authority")) if request.param == "TLS" else None
        if authority is not None:
            args += authority.pair("proxy").flags
        with pytest.MonkeyPatch.context() as patch, ProxyProcess(args, env={"PROXY_SECRET": secret}) as proxy:
            if authority is not None:
                patch.setenv("SSL_CERT_FILE", str(authority.ca_file))  # for the Python client
            caller = Caller(proxy.url, secret, tls=None if authority is None else authority.client)
            yield caller
            caller.http.close()
            assert "Traceback" not in proxy.output, proxy.output


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """The scripted upstream; every test serves URLs of its own."""
    with Upstream() as upstream:
        yield upstream
