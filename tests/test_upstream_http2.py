"""HTTP/2 towards upstreams, by a real process: many transfers on few connections, an abort, a loss, a stalled one.

The upstream is our own HTTP server, over TLS. nginx is one in `tests/test_tls.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.http.body import PulledBody
from proxy.http.choice import NewConnection
from proxy.http.message import Request, Response
from proxy.http.server import HttpServer
from proxy.net.listen import ServerTls
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers
from tests.http.kit import listening, refuse, server_limits
from tests.kit.certificates import Certificates
from tests.kit.h2_peers import H2Peer
from tests.kit.proxy_process import ProxyProcess
from tests.kit.waiting import LONG, until

SECRET = "a-secret-of-more-than-thirty-two-bytes-in-all"
ALLOW = ["--allow", "https://localhost:*/**"]
AUTHORIZED = ("authorization", f"Bearer {SECRET}")


class _Gated(PulledBody):
    """`first`, then `last` when the gate opens."""

    def __init__(self, upstream: "_Upstream", name: bytes) -> None:
        super().__init__(None)
        self._upstream = upstream
        self._name = name
        self._parts: list[Buffer] = [b"last of " + name, b"first, "]

    async def _make(self) -> list[Buffer]:
        if len(self._parts) == 1:
            await self._upstream.gate.wait()
        return [self._parts.pop()] if self._parts else []

    def close(self) -> None:
        if self._parts:
            self._upstream.cut.append(self._name)
        super().close()


class _Upstream:
    """Answers each request with a body that ends when `gate` is set; `cut`: targets whose body was cut."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.cut: list[bytes] = []
        self.url = ""
        self.server: HttpServer

    async def handle(self, request: Request) -> Response:
        return Response(200, Headers([(b"content-type", b"text/plain")]), _Gated(self, request.target))


@asynccontextmanager
async def _serving(certificates: Certificates) -> AsyncIterator[_Upstream]:
    upstream = _Upstream()
    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    tls = ServerTls(lambda: certificates.server, LONG, LONG, b"no TLS")
    upstream.server = HttpServer(upstream.handle, refuse, server_limits(max_exchanges=2000, close_grace_seconds=0.1))
    bound = listening()
    upstream.server.serve([bound], NewConnection, tls)
    upstream.url = f"https://localhost:{bound.getsockname()[1]}"
    try:
        yield upstream
    finally:
        await upstream.server.aclose()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


@pytest.fixture
def flags(certificates: Certificates, tmp_path: Path) -> list[str]:
    (tmp_path / "data").mkdir(mode=0o700)
    return [*ALLOW, "--ca-file", str(certificates.ca_file), "--data-dir", str(tmp_path / "data")]


async def _peer(proxy: ProxyProcess) -> H2Peer:
    place = urlsplit(proxy.url)
    return H2Peer(*await asyncio.open_connection(place.hostname, place.port))


async def _create(peer: H2Peer, urls: list[str]) -> list[str]:
    """Create streams, all at once: their paths."""
    asked = [
        peer.ask("/v1/proxy", "POST", (AUTHORIZED, ("upstream-url", url), ("upstream-method", "POST"))) for url in urls
    ]
    made = [await peer.response(stream) for stream in asked]
    assert [each.status for each in made] == [201] * len(urls), [each.body for each in made if each.status != 201]
    return ["/v1/" + each.headers["location"].partition("/v1/")[2] for each in made]


async def _whole(peer: H2Peer, path: str) -> tuple[bytes, str]:
    """A stream from its beginning to its end, by long-polls, and its outcome."""
    body, offset = b"", "-1"
    while True:
        response = await peer.fetch(f"{path}&offset={offset}&live=long-poll")
        assert response.status in (200, 204), response
        body += response.body
        offset = response.headers["stream-next-offset"]
        if "stream-closed" in response.headers:
            return body, response.headers["upstream-outcome"]


async def test_an_abort_ends_one_transfer_of_those_that_share_a_connection(
    certificates: Certificates, flags: list[str]
) -> None:
    async with _serving(certificates) as upstream:
        proxy = await asyncio.to_thread(ProxyProcess, flags, env={"PROXY_SECRET": SECRET})
        try:
            peer = await _peer(proxy)
            paths = await _create(peer, [f"{upstream.url}/{number}" for number in range(20)])
            assert len(upstream.server.connections) == 1
            aborted = await peer.fetch(f"{paths[7]}&action=abort", "PATCH")
            assert aborted.status in (200, 204)
            await until(lambda: upstream.cut == [b"/7"])
            upstream.gate.set()
            for number, path in enumerate(paths):
                whole = (b"first, last of /%d" % number, "complete")
                assert await _whole(peer, path) == ((b"first, ", "aborted") if number == 7 else whole)
            assert len(upstream.server.connections) == 1
            peer.close()
        finally:
            assert await asyncio.to_thread(proxy.stop) == 0
        assert "Traceback" not in proxy.output


async def test_a_lost_connection_ends_its_transfers_as_upstream_error(
    certificates: Certificates, flags: list[str]
) -> None:
    async with _serving(certificates) as upstream:
        proxy = await asyncio.to_thread(ProxyProcess, flags, env={"PROXY_SECRET": SECRET})
        try:
            peer = await _peer(proxy)
            paths = await _create(peer, [f"{upstream.url}/{number}" for number in range(3)])
            for path in paths:
                assert (await peer.fetch(f"{path}&offset=-1&live=long-poll")).body == b"first, "
            for connection in list(upstream.server.connections):
                connection.cut()
            for path in paths:
                assert await _whole(peer, path) == (b"first, ", "upstream_error")
            peer.close()
        finally:
            assert await asyncio.to_thread(proxy.stop) == 0
        assert "Traceback" not in proxy.output


@pytest.mark.slow
async def test_a_thousand_transfers_need_ten_connections(certificates: Certificates, flags: list[str]) -> None:
    async with _serving(certificates) as upstream:
        proxy = await asyncio.to_thread(ProxyProcess, flags, env={"PROXY_SECRET": SECRET})
        try:
            peer = await _peer(proxy)
            paths: list[str] = []
            for first in range(0, 1000, 100):
                paths += await _create(peer, [f"{upstream.url}/{number}" for number in range(first, first + 100)])
            assert len(upstream.server.connections) <= 10
            upstream.gate.set()
            for number, path in enumerate(paths):
                assert await _whole(peer, path) == (b"first, last of /%d" % number, "complete")
            assert len(upstream.server.connections) <= 10
            peer.close()
        finally:
            assert await asyncio.to_thread(proxy.stop) == 0
        assert "Traceback" not in proxy.output
