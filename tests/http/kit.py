"""A server and raw peers in one loop: what is sent is exactly what the test wrote."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from proxy.base.errors import Refusal
from proxy.http.message import Cut, Handler, Headers, Parts, Request, Response, read_all
from proxy.http.pipe import Budget, Pipe, PipeLimits
from proxy.http.pool import Pool, PoolLimits
from proxy.http.server import HttpServer, ServerLimits
from proxy.net.dial import Address, Dialler, tls_context
from proxy.wire.events import HeadLimits

LONG = 60.0
"""Seconds: a deadline that is not the test's subject."""
SOON = 5.0
"""Seconds within which what must happen happens; the test fails after them."""
HEAD = HeadLimits(head_bytes=4096, fields=50, target_bytes=1024)


def server_limits(**changed: object) -> ServerLimits:
    limits = ServerLimits(
        head=HEAD,
        body_bytes=1 << 20,
        body=PipeLimits(high_water=64 << 10, budget=Budget(16 << 20)),
        connections=100,
        write_high_water=64 << 10,
        head_timeout=LONG,
        idle_timeout=LONG,
        body_timeout=LONG,
        write_timeout=LONG,
        half_close_grace=LONG,
        linger_timeout=LONG,
        linger_bytes=64 << 20,
        sweep=0.01,
    )
    return replace(limits, **changed)  # type: ignore[arg-type]  # fields of ServerLimits, by name


def refuse(refusal: Refusal, _origin: bytes | None) -> Response:
    return Response(refusal.code.status, Headers(), Parts([refusal.code.value.encode()]))


async def echo(request: Request) -> Response:
    """The request's target and body, whole."""
    return Response(200, Headers(), Parts([request.target, b" ", await read_all(request.body, 1 << 20)]))


class Silent:
    """The source of a pipe that a test feeds itself."""

    def __init__(self) -> None:
        self.is_paused = False
        self.is_cut = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def body_cut(self) -> None:
        self.is_cut = True


def fed_pipe(*parts: bytes, length: int | None = None, cut: Cut | None = None, is_open: bool = False) -> Pipe:
    """A body with these parts, then its end, or a cut, or nothing yet."""
    pipe = Pipe(Silent(), PipeLimits(1 << 20, Budget(1 << 30)), length)
    for part in parts:
        pipe.feed([part])
    if cut is not None:
        pipe.fail(cut)
    elif not is_open:
        pipe.end()
    return pipe


def listening() -> socket.socket:
    """A socket on a free loopback port, for somebody to accept from."""
    bound = socket.create_server(("127.0.0.1", 0), backlog=64)
    bound.setblocking(False)
    return bound


@dataclass
class Answer:
    """A response as a peer read it; names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """A raw connection. Every wait ends within `SOON`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> Answer:
        async with asyncio.timeout(SOON):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        fields = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(fields), f"a field is repeated: {lines}"
        return Answer(int(first.split(" ")[1]), headers, b"")

    async def response(self, to: bytes = b"GET") -> Answer:
        answer = await self.head()
        if to == b"HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        if "transfer-encoding" in answer.headers:
            while chunk := await self.chunk():
                answer.body += chunk
        elif "content-length" in answer.headers:
            answer.body = await self.exactly(int(answer.headers["content-length"]))
        else:
            answer.body = await self.rest()
        return answer

    async def chunk(self) -> bytes:
        async with asyncio.timeout(SOON):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.exactly(size + 2))[:-2]

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(SOON):
            return await self.reader.readexactly(count)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(SOON):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Everything to the FIN; ConnectionResetError when a reset came instead."""
        async with asyncio.timeout(SOON):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


class Served:
    """A running server and the peers of a test."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.port = port
        self._peers: list[Peer] = []

    async def connect(self, first: bytes = b"") -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22))
        self._peers.append(peer)
        if first:
            peer.send(first)
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
    handler: Handler, refuse: Callable[[Refusal, bytes | None], Response] = refuse, **limits: object
) -> AsyncIterator[Served]:
    """A server of `handler`; at the end it must stop at once and leave nothing."""
    server = HttpServer(handler, refuse, server_limits(**limits))
    bound = listening()
    server.serve([bound])
    served = Served(server, bound.getsockname()[1])
    try:
        yield served
    finally:
        served.close()
        async with asyncio.timeout(SOON):
            await server.aclose()
        assert not server.connections
        assert not len(server.requests)
        assert server.limits.body.budget.used == 0


async def until(holds: Callable[[], bool]) -> None:
    """Return when `holds`: for what nobody announces, such as the loss of a connection."""
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.002)


Script = Callable[[Peer], Awaitable[None]]


class Origin:
    """A server that plays `script` on every connection. `peers` are those so far, `open` how many are open now."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.peers: list[Peer] = []
        self.open = 0
        self.most = 0
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.open += 1
        self.most = max(self.most, self.open)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            self.open -= 1
            peer.close()

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        assert not self.failures, self.failures


@asynccontextmanager
async def origin(script: Script, **options: object) -> AsyncIterator[tuple[Origin, Address]]:
    """An origin on a free port (`options` are asyncio.start_server's) and the address to dial."""
    played = Origin(script)
    server = await asyncio.start_server(played.accepted, "127.0.0.1", 0, **options)  # type: ignore[arg-type]  # by name
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1], tls=options.get("ssl") is not None)
    try:
        yield played, address
    finally:
        server.close()
        await played.aclose()
        await asyncio.sleep(0)


async def request_of(peer: Peer) -> bytes:
    """The next request's head; its body, if it has one by length, is read too and thrown away."""
    head = await peer.reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length: "):
            await peer.reader.readexactly(int(line[16:]))
    return head


def answering(response: bytes) -> Script:
    """Answers every request of a connection with `response`."""

    async def script(peer: Peer) -> None:
        while True:
            await request_of(peer)
            peer.send(response)

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def pool_limits(**changed: object) -> PoolLimits:
    limits = PoolLimits(
        head=HEAD,
        body=PipeLimits(high_water=16 << 10, budget=Budget(1 << 30)),
        request_piece=16 << 10,
        total=10,
        per_origin=10,
        wait=LONG,
        idle=LONG,
        sweep=0.01,
        is_careful=True,
    )
    return replace(limits, **changed)  # type: ignore[arg-type]  # fields of PoolLimits, by name


def dialler(**changed: object) -> Dialler:
    options = {"timeout": SOON, "dns_cache": 0.0, "forbidden": lambda _: False} | changed
    tls = options.pop("tls", None) or tls_context()
    return Dialler(tls, **options)  # type: ignore[arg-type]  # arguments of Dialler, by name


@asynccontextmanager
async def pooling(dial: Dialler | None = None, **limits: object) -> AsyncIterator[Pool]:
    """A pool; at the end it must close at once and leave nothing."""
    pool = Pool("test", dial or dialler(), pool_limits(**limits))
    try:
        yield pool
    finally:
        async with asyncio.timeout(SOON):
            await pool.aclose()
        assert len(pool) == 0


def get(target: bytes = b"/", timeout: float | None = SOON) -> Request:
    return Request(b"GET", target, Headers([(b"host", b"origin")]), timeout=timeout)
