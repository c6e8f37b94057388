"""A server or a pool in the test's loop, each of which must leave nothing behind.

Servers and their clients speak over what `carrier` says: the conftest of this folder sets it for each test.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from proxy.base.errors import Refusal
from proxy.http.body import BytesBody, read_all
from proxy.http.choice import NewConnection
from proxy.http.client1 import Http1Client
from proxy.http.message import Handler, Request, Response
from proxy.http.pool import Connect, Pool, PoolSettings
from proxy.http.server import HttpServer, ServerSettings
from proxy.net.dial import Dialler
from proxy.net.listen import AcceptSettings, ServerTls
from proxy.wire.events import HeadLimits
from proxy.wire.headers import Headers
from tests.kit.certificates import Certificates
from tests.kit.dialling import make_dialler
from tests.kit.h2_peers import H2Peer
from tests.kit.loop_peers import Answer, Peer
from tests.kit.waiting import LONG, SOON, until


class Carrier:
    """What the servers of a test speak over: plain TCP, or TLS with these certificates."""

    def __init__(self) -> None:
        self.certificates: Certificates | None = None

    def server(self) -> ServerTls | None:
        """As a server takes it. The time-outs are those of no test: the server's own deadlines count."""
        if self.certificates is None:
            return None
        context = self.certificates.server
        context.set_alpn_protocols(["h2", "http/1.1"])
        return ServerTls(lambda: context, LONG, LONG, b"no TLS")

    def client(self, alpn: str = "http/1.1") -> ssl.SSLContext | None:
        """As a client takes it that speaks this version only."""
        if self.certificates is not None:
            self.certificates.client.set_alpn_protocols([alpn])  # connections that are open keep theirs
        return None if self.certificates is None else self.certificates.client


carrier = Carrier()

HEAD = HeadLimits(head_bytes=4096, fields=50, target_bytes=1024)


def server_limits(**changed: object) -> ServerSettings:
    limits = ServerSettings(
        accept=AcceptSettings(accept_retry_seconds=0.01, accept_report_seconds=60.0),
        head=HEAD,
        max_request_bytes=1 << 20,
        max_waiting_bytes=64 << 10,
        max_waiting_bytes_total=16 << 20,
        pipelined_at_once=4,
        pipelined_pause_seconds=0.0,
        max_connections=100,
        exchanges_per_connection=100,
        max_exchanges=1000,
        max_reader_bytes=64 << 10,
        head_timeout_seconds=LONG,
        idle_timeout_seconds=LONG,
        body_timeout_seconds=LONG,
        reader_timeout_seconds=LONG,
        half_close_grace_seconds=LONG,
        close_grace_seconds=LONG,
        close_grace_bytes=64 << 20,
        sweep_seconds=0.01,
        swept_at_once=8,
        swept_pause_seconds=0.0,
    )
    return replace(limits, **changed)  # type: ignore[arg-type]  # fields of ServerSettings, by name


def refuse(refusal: Refusal, _origin: bytes | None) -> Response:
    return Response(refusal.code.status, Headers(), BytesBody([refusal.code.value.encode()]))


async def echo(request: Request) -> Response:
    """The request's target and body, whole."""
    return Response(200, Headers(), BytesBody([request.target, b" ", await read_all(request.body, 1 << 20)]))


def listening() -> socket.socket:
    """A socket on a free loopback port, for somebody to accept from."""
    bound = socket.create_server(("127.0.0.1", 0), backlog=64)
    bound.setblocking(False)
    return bound


class Served:
    """A running server and the peers of a test."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.port = port
        self._peers: list[Peer | H2Peer] = []

    async def connect(self, first: bytes = b"", tls: ssl.SSLContext | None = None) -> Peer:
        tls = tls or carrier.client()
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22, ssl=tls))
        self._peers.append(peer)
        if first:
            peer.send(first)
        return peer

    async def connect2(self, *, gives_credit: bool = True, tls: ssl.SSLContext | None = None) -> H2Peer:
        """A client of HTTP/2."""
        tls = tls or carrier.client("h2")
        peer = H2Peer(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls), gives_credit=gives_credit)
        self._peers.append(peer)
        return peer

    async def ask(self, request: bytes, to: bytes = b"GET") -> Answer:
        peer = await self.connect(request)
        answer = await peer.response(to)
        peer.close()
        return answer

    async def all_gone(self) -> None:
        await until(lambda: not self.server.connections)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


@asynccontextmanager
async def serving(
    handler: Handler,
    refuse: Callable[[Refusal, bytes | None], Response] = refuse,
    tls: ServerTls | None = None,
    **limits: object,
) -> AsyncIterator[Served]:
    """A server of `handler`; at the end it must stop at once and leave nothing."""
    if carrier.certificates is not None:  # the end of the connection, which many tests wait for, comes after the grace
        limits = {"close_grace_seconds": 0.1} | limits
    server = HttpServer(handler, refuse, server_limits(**limits))
    bound = listening()
    server.serve([bound], NewConnection, tls or carrier.server())
    served = Served(server, bound.getsockname()[1])
    try:
        yield served
    finally:
        served.close()
        async with asyncio.timeout(SOON):
            await server.aclose()
        assert not server.connections
        assert not len(server.exchanges)
        assert server.bodies.budget.used == 0


def pool_limits(**changed: object) -> PoolSettings:
    limits = PoolSettings(
        head=HEAD,
        pause_bytes=16 << 10,
        max_waiting_bytes_total=1 << 30,
        request_piece_bytes=16 << 10,
        connections=10,
        connections_per_origin=10,
        origins=100,
        pool_timeout_seconds=LONG,
        idle_seconds=LONG,
        sweep_seconds=0.01,
        is_careful=True,
    )
    return replace(limits, **changed)  # type: ignore[arg-type]  # fields of PoolSettings, by name


def dialler(**changed: object) -> Dialler:
    return make_dialler(**changed)  # type: ignore[arg-type]  # arguments of make_dialler, by name


@asynccontextmanager
async def pooling(dial: Dialler | None = None, connect: Connect = Http1Client, **limits: object) -> AsyncIterator[Pool]:
    """A pool; at the end it must close at once and leave nothing."""
    pool = Pool("test", dial or dialler(), pool_limits(**limits), connect)
    try:
        yield pool
    finally:
        async with asyncio.timeout(SOON):
            await pool.aclose()
        assert len(pool) == 0


def get(target: bytes = b"/", timeout: float | None = SOON) -> Request:
    return Request(b"GET", target, Headers([(b"host", b"origin")]), timeout=timeout)
