"""A scripted upstream: raw HTTP/1.1 under the test's full control, every request recorded as it came.

    route = upstream.serve(chunked(b"one", GATE, b"two"))
    …                       # the proxy calls route.url
    route.release()         # opens the gate
    route.wait_cut()        # or: the proxy has closed the connection before the script was over

A script is a sequence of bytes, sent as they are, seconds to wait, and steps; or a function from the request to one,
which may be a generator without end. `serve` takes several scripts for the first, second, … request; the last one
repeats.
"""

import asyncio
import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable

from tests.kit.loops import LoopThread
from tests.kit.scripts import (
    FIN,
    GATE,
    HANG,
    LAST_CHUNK,
    RESET,
    Part,
    Script,
    Seen,
    Step,
    chunk,
    chunked,
    echo,
    endless,
    fixed,
    head,
    sse,
    sse_event,
    until_close,
)
from tests.kit.stopping import Stopping

__all__ = [
    "FIN", "GATE", "HANG", "LAST_CHUNK", "RESET", "Part", "Route", "Script", "Seen", "Step", "Upstream", "chunk",
    "chunked", "echo", "endless", "fixed", "head", "sse", "sse_event", "until_close",
]  # fmt: skip


class Route:
    """One URL of the upstream, its scripts, what happened there. `wait_…` raise AssertionError after their time-out."""

    def __init__(self, url: str, scripts: tuple[Script, ...], post: Callable[..., object]) -> None:
        self.url = url
        self.requests: list[Seen] = []
        self.cuts = 0  # scripts that the peer's closing ended
        self.finished = 0  # scripts that ran to their end
        self.sent = 0  # bytes handed to the sockets
        self.connections: set[int] = set()  # those open that have carried a request to here
        self._scripts = scripts
        self._post = post
        self._changed = threading.Condition()
        self.gate = asyncio.Semaphore(0)  # of the upstream's loop

    @property
    def count(self) -> int:
        """How many requests have come."""
        return len(self.requests)

    def script(self, seen: Seen) -> Iterable[Part]:
        """The steps for this request, which was recorded last."""
        script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
        return script(seen) if callable(script) else script

    def release(self, count: int = 1) -> None:
        """Let scripts pass `count` gates, those that wait now or later ones."""
        for _ in range(count):
            self._post(self.gate.release)

    def changed(self) -> None:
        """Wake the waiting test (the upstream calls this)."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, what: str, holds: Callable[[], bool], timeout: float) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, timeout), f"{what}: not within {timeout} s ({self})"

    def wait_requests(self, count: int = 1, timeout: float = 10) -> list[Seen]:
        """Wait until `count` requests have come whole."""
        self._wait(f"{count} requests", lambda: self.count >= count, timeout)
        return list(self.requests)

    def wait_cut(self, count: int = 1, timeout: float = 10) -> None:
        """Wait until the peer has closed `count` connections before their scripts were over."""
        self._wait(f"{count} connections cut", lambda: self.cuts >= count, timeout)

    def wait_finished(self, count: int = 1, timeout: float = 10) -> None:
        """Wait until `count` scripts have run to their end."""
        self._wait(f"{count} scripts finished", lambda: self.finished >= count, timeout)

    def wait_closed(self, timeout: float = 10) -> None:
        """Wait until no connection is open that has carried a request to here."""
        self._wait("connections closed", lambda: not self.connections, timeout)

    def __repr__(self) -> str:
        return f"<Route {self.url} requests={self.count} cuts={self.cuts} finished={self.finished} sent={self.sent}>"


class Upstream(Stopping):
    """`with Upstream() as upstream:` listens on localhost, IPv4 and (where there is one) IPv6, same port."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "https" if tls is not None else "http"
        self._routes: dict[str, Route] = {}
        self._numbers = itertools.count(1)
        self._connections: set[_Connection] = set()
        self.accepted = 0
        self.strays: list[bytes] = []  # requests to no route, and bytes that came while a script ran
        self._loop = LoopThread("upstream")
        self._servers = self._loop.run(self._listen(tls))

    async def _listen(self, tls: ssl.SSLContext | None) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        first = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, ssl=tls)
        self.port: int = first.sockets[0].getsockname()[1]
        try:
            return [first, await loop.create_server(lambda: _Connection(self), "::1", self.port, ssl=tls)]
        except OSError:
            return [first]

    @property
    def url(self) -> str:
        """The base, without path."""
        return f"{self._scheme}://localhost:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def serve(self, *scripts: Script, path: str = "/stream") -> Route:
        """A new URL that answers with these scripts, one request after the other; `path` (and query) ends it."""
        name = f"/r{next(self._numbers)}"
        route = Route(self.url + name + path, scripts, self._loop.post)
        self._routes[name] = route
        return route

    def close_idle(self) -> None:
        """Close every connection on which no script runs."""

        async def close() -> None:
            for connection in list(self._connections):
                connection.close_if_idle()

        self._loop.run(close())

    def stop(self) -> None:
        """Cut every connection and end. Harmless when repeated."""

        async def close() -> None:
            for server in self._servers:
                server.close()
            for connection in list(self._connections):
                connection.reset()

        if self._servers:
            self._loop.run(close())
            self._servers = []
        self._loop.stop()

    # The rest is for the connections, in the loop's thread.

    def opened(self, connection: "_Connection") -> int:
        self._connections.add(connection)
        self.accepted += 1
        return self.accepted

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)

    def route(self, target: bytes) -> Route | None:
        name = "/" + target.decode("latin-1").lstrip("/").partition("/")[0]
        return self._routes.get(name)


class _Gone(Exception):
    """The peer has closed."""


class _Connection(asyncio.Protocol):
    """Reads one request, plays its script, and so on. What arrives while a script runs is a stray."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = False
        self._route: Route | None = None  # whose script runs now
        self._visited: set[Route] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.opened(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._route is not None:
            self._upstream.strays.append(data)
        self._buffer += data
        self._news.set()

    def eof_received(self) -> bool:
        self._peer_gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer_gone()
        self._upstream.closed(self)
        for route in self._visited:
            route.connections.discard(self._number)
            route.changed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _peer_gone(self) -> None:
        if not self._gone:
            self._gone = True
            self._news.set()
            if self._route is not None:
                self._task.cancel()

    def close_if_idle(self) -> None:
        if self._route is None:
            self._transport.close()

    def reset(self) -> None:
        self._gone = True
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _serve(self) -> None:
        try:
            while True:
                await self._answer(await self._read_request())
        except (_Gone, asyncio.CancelledError):
            self._transport.close()
        except ValueError as error:
            self._upstream.strays.append(f"malformed request: {error}: {bytes(self._buffer)!r}".encode())
            self._transport.close()

    async def _answer(self, seen: Seen) -> None:
        route = self._upstream.route(seen.target)
        if route is None:
            self._upstream.strays.append(b"no route: " + seen.target)
            self._transport.write(b"".join(fixed(b"no such route", status=404)))
            return
        route.requests.append(seen)
        route.connections.add(self._number)
        self._visited.add(route)
        route.changed()
        self._route = route
        try:
            for step in route.script(seen):
                await self._play(route, step)
            route.finished += 1
        except asyncio.CancelledError:
            route.cuts += 1
            raise
        finally:
            self._route = None
            route.changed()

    async def _play(self, route: Route, step: Part) -> None:
        if isinstance(step, bytes):
            self._transport.write(step)
            route.sent += len(step)
            await self._writable.wait()
            await asyncio.sleep(0)  # let the loop notice, within an endless script, that the peer has closed
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif step is Step.GATE:
            await route.gate.acquire()
        elif step is Step.HANG:
            await asyncio.get_running_loop().create_future()
        elif step is Step.RESET:
            route.finished += 1
            self._route = None
            self.reset()
            raise _Gone
        else:
            route.finished += 1
            self._route = None
            if not self._transport.can_write_eof():  # TLS cannot be half-closed
                self._transport.close()
                raise _Gone
            self._transport.write_eof()
            await self._more_until_gone()

    async def _more_until_gone(self) -> None:
        while True:
            await self._more()

    async def _more(self) -> None:
        if self._gone:
            raise _Gone
        self._news.clear()
        await self._news.wait()

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _read_request(self) -> Seen:
        method, target, version = (await self._line()).split(b" ")
        headers: list[tuple[bytes, bytes]] = []
        while line := await self._line():
            name, colon, value = line.partition(b":")
            if not colon:
                raise ValueError("a header line without a colon")
            headers.append((name, value.strip(b" \t")))
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1 or any(coding != b"chunked" for coding in codings):
            raise ValueError("ambiguous framing")
        body = await self._chunks() if codings else await self._exactly(int(lengths[0]) if lengths else 0)
        return Seen(method, target, version, headers, body, self._number)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._line(), 16):
            body += await self._exactly(size)
            await self._line()
        while await self._line():
            pass
        return body
