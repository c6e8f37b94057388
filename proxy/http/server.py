"""The HTTP server: listening sockets, the set of connections and exchanges, limits, deadlines, draining.

Knows no HTTP version: the function that is passed to `serve` makes the connections of one. Knows no route and makes no
error body: `refuse` turns a `Refusal` into a response.
"""

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate

import anyio

from proxy.base.errors import Refusal
from proxy.base.tasks import Tasks
from proxy.base.turns import Turns
from proxy.http.answer import Service
from proxy.http.message import Handler, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.net.connection import Connection
from proxy.net.listen import AcceptSettings, Listener, ServerTls
from proxy.wire.events import HeadLimits

__all__ = ["NEVER", "HttpServer", "ServerConnection", "ServerSettings"]

NEVER = float("inf")
"""A deadline that does not pass."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Bounds of a server and of each of its connections: sizes in bytes, times in seconds."""

    accept: AcceptSettings  # bounds of the listening sockets
    head: HeadLimits  # bounds of a request head
    max_request_bytes: int  # largest request body; a larger one is refused
    max_waiting_bytes: int  # waiting bytes of one request body at which its client is paused
    max_waiting_bytes_total: int  # waiting bytes of all request bodies at which all clients are paused
    pipelined_at_once: int  # most requests, pipelined behind others of their connections, that begin together
    pipelined_pause_seconds: float  # pause before the next of them begin
    max_connections: int  # most open connections; beyond it the longest idle one is closed, or the new client waits
    exchanges_per_connection: int  # most exchanges in progress on one HTTP/2 connection
    max_exchanges: int  # most in progress at once; beyond it those of HTTP/2 are refused, to be sent again
    max_reader_bytes: int  # bytes of a response waiting for a slow client at which the handler is paused
    head_timeout_seconds: float  # longest time for a head, and for the first byte of a new connection
    idle_timeout_seconds: float  # longest pause between two requests; then the connection is closed
    body_timeout_seconds: float  # longest pause within a request body; then the request is refused
    reader_timeout_seconds: float  # for so long a client may read nothing of a response; then the connection is cut
    half_close_grace_seconds: float  # time for the response after the client has closed its sending side
    close_grace_seconds: float  # longest silence after a connection's last response, before it is closed
    close_grace_bytes: int  # most bytes that are ignored after a connection's last response; then it is cut
    sweep_seconds: float  # pause between two checks of these times
    swept_at_once: int  # most connections that are checked without a pause
    swept_pause_seconds: float  # pause before the next ones are checked


class ServerConnection(Connection, ABC):
    """A client's connection as its server sees it, in any HTTP version.

    `deadline` is in the loop's time. Only the connection knows what is overdue then.
    """

    __slots__ = ("_server", "deadline")

    def __init__(self, server: "HttpServer") -> None:
        super().__init__()
        self._server = server
        self.deadline = NEVER

    def opened(self) -> None:
        """A client connected."""
        self._server.connections.add(self)

    def lost(self) -> None:
        """The socket is closed."""
        self.deadline = NEVER
        self._server.forget(self)

    def set_idle(self) -> None:
        """No exchange is in progress. The server may close this connection for a new client, the longest idle first."""
        self._server.became_idle(self)

    def set_busy(self) -> None:
        """An exchange begins, or the connection is being closed."""
        self._server.idle.pop(self, None)

    def expire_in(self, seconds: float) -> None:
        """Set the deadline, `seconds` from now."""
        self.deadline = self._loop.time() + seconds

    @abstractmethod
    def overdue(self) -> None:
        """The deadline has passed. Called by the sweep."""

    @abstractmethod
    def look_for_end(self) -> None:
        """Check whether the client has left, which the loop does not report while reading is paused. For the sweep."""

    @abstractmethod
    def close_if_idle(self) -> None:
        """Close unless a request is in progress or arriving. Called once when draining begins."""

    @abstractmethod
    def spare(self) -> None:
        """Close, because another client needs the place. Called only while the connection is idle."""

    @abstractmethod
    def finish(self) -> None:
        """Close as soon as everything written has been sent. Called when no exchange is in progress any more."""


class HttpServer:
    """Serves `handler` on listening sockets. Every connection and every exchange in progress belongs to it."""

    def __init__(
        self, handler: Handler, refuse: Callable[[Refusal, bytes | None], Response], limits: ServerSettings
    ) -> None:
        """`refuse` makes the response of a refused request; see `Service`."""
        self.service = Service(handler, refuse)
        self.limits = limits
        self.bodies = PipeLimits(limits.max_waiting_bytes, Budget(limits.max_waiting_bytes_total))
        self.connections: set[ServerConnection] = set()
        self.idle: OrderedDict[ServerConnection, None] = OrderedDict()  # without an exchange; the longest idle first
        self.exchanges = Tasks("exchange")
        self.pipelined = Turns(limits.pipelined_at_once, limits.pipelined_pause_seconds)
        self.is_draining = False
        self._listeners: list[Listener] = []
        self._is_crowded = False  # a client waits, and no connection could be closed for it
        self._sweeper = Tasks("server")
        self._empty = asyncio.Event()
        self._date = b""
        self._dated_at = 0

    def serve(
        self,
        sockets: list[socket.socket],
        speak: Callable[["HttpServer"], ServerConnection],
        tls: ServerTls | None = None,
    ) -> None:
        """Accept connections on `sockets` from now on, with or without TLS. `speak` makes each connection."""
        self._listeners.append(Listener(sockets, lambda: speak(self), self, self.limits.accept, tls))
        if not len(self._sweeper):
            self._sweeper.start("sweep", self._sweep())

    def has_room(self) -> bool:
        """See Room."""
        return len(self.connections) + sum(map(len, self._listeners)) < self.limits.max_connections

    def make_room(self) -> None:
        """See Room. Close the connection that has been idle for longest, or else the oldest TLS handshake.

        A connection whose response is not read yet, or whose next request waits in the socket, is not idle: closing it
        would destroy that. When nothing can be closed, the listeners try again as soon as a
        connection becomes idle.
        """
        for connection in self.idle:
            if connection.is_quiet() and connection.is_flushed:
                connection.spare()
                return
        self._is_crowded = not any(listener.drop_oldest_handshake() for listener in self._listeners)

    def became_idle(self, connection: ServerConnection) -> None:
        """`connection` no longer has an exchange in progress."""
        self.idle[connection] = None
        self.idle.move_to_end(connection)
        if self._is_crowded:
            self._is_crowded = False
            self._wake_listeners()

    def _wake_listeners(self) -> None:
        for listener in self._listeners:
            listener.made_room()

    def forget(self, connection: ServerConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self.idle.pop(connection, None)
        self._wake_listeners()
        if not self.connections:
            self._empty.set()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self.limits.sweep_seconds
        while True:
            due = loop.time() + pause
            await asyncio.sleep(pause)
            now = loop.time()
            is_late = now - due > pause / 4
            checked = [each for each in self.connections if each.deadline <= now or each.is_reading_paused]
            for first in range(0, len(checked), self.limits.swept_at_once):
                if first:  # thousands that are due together must not hold up everybody else
                    await asyncio.sleep(self.limits.swept_pause_seconds)
                self.judge(checked[first : first + self.limits.swept_at_once], now, is_late=is_late)

    def judge(self, connections: Iterable[ServerConnection], now: float, *, is_late: bool) -> None:
        """Call `overdue` of each connection whose deadline has passed at the loop's time `now`.

        `is_late`: the call is late, because the process was stopped or its loop was blocked. Then a connection with
        unread bytes in its socket is judged at the next call, because its client was not silent.
        """
        for connection in connections:
            if connection.deadline > now:
                if connection.is_reading_paused:
                    connection.look_for_end()
            elif not (is_late and connection.has_unread()):
                connection.overdue()

    def date(self) -> bytes:
        """The value of the Date field of a response made now (RFC 9110 section 6.6.1)."""
        now = int(time.time())
        if now != self._dated_at:
            self._dated_at = now
            self._date = formatdate(now, usegmt=True).encode("ascii")
        return self._date

    def drain(self) -> None:
        """Close idle connections. From now on every response closes its connection."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    async def stop_accepting(self) -> None:
        """Close the listening sockets."""
        for listener in self._listeners:
            await listener.aclose()

    async def wait_exchanges(self) -> None:
        """Return when no exchange is in progress."""
        await self.exchanges.wait()

    async def aclose(self) -> None:
        """Cancel exchanges in progress, close every connection, and return when all sockets are closed.

        A response that was written, but not yet read by its client, gets `close_grace_seconds`.
        """
        await self.stop_accepting()
        await self.exchanges.aclose()
        await self._sweeper.aclose()
        with anyio.move_on_after(self.limits.close_grace_seconds):
            await self._close_all(lambda connection: connection.finish())
        await self._close_all(lambda connection: connection.cut())

    async def _close_all(self, close: Callable[[ServerConnection], None]) -> None:
        while self.connections:
            self._empty.clear()
            for connection in list(self.connections):
                close(connection)
            await self._empty.wait()
