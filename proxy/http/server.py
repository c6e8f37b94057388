"""The HTTP server: listening sockets, the set of connections and exchanges, limits, deadlines, draining.

Knows no HTTP version: a connection of one is made by the function that `serve` is given. Knows no route and makes no
error body: `refuse` turns a `Refusal` into a response.
"""

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

import anyio

from proxy.base.errors import Refusal
from proxy.base.tasks import Tasks
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

    accept: AcceptSettings  # of the listening sockets
    head: HeadLimits  # bounds of a request head
    max_request_bytes: int  # of a request body; a larger one is refused
    max_waiting_bytes: int  # of one request body that wait for the handler before its client is paused
    max_waiting_bytes_total: int  # of all request bodies together, before all clients are paused
    max_connections: int  # open at once; beyond it the longest idle one is closed for a new client, or the client waits
    max_reader_bytes: int  # of a response that wait for a slow client before the handler is paused
    head_timeout_seconds: float  # until a head is complete; also until the first byte of a new connection
    idle_timeout_seconds: float  # between two requests; then the connection is closed
    body_timeout_seconds: float  # without a byte of a request body; then the request is refused
    reader_timeout_seconds: float  # without a byte of a response taken by the client; then the connection is cut
    half_close_grace_seconds: float  # for the response, after the client has closed its sending side
    close_grace_seconds: float  # without a byte, after a connection's last response, until it is closed
    close_grace_bytes: int  # ignored at most after a connection's last response; beyond it the connection is cut
    sweep_seconds: float  # between two checks of these times


class ServerConnection(Connection, ABC):
    """A client's connection as its server sees it, whatever HTTP version it speaks.

    `deadline` is in the loop's time; what is overdue then is the connection's knowledge.
    """

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
        """No exchange is in progress from now on: the connection can be spared for a new one, the sooner the longer."""
        self._server.became_idle(self)

    def set_busy(self) -> None:
        """An exchange begins, or the connection is being closed."""
        self._server.idle.pop(self, None)

    def expire_in(self, seconds: float) -> None:
        """Set the deadline that many seconds from now."""
        self.deadline = self._loop.time() + seconds

    @abstractmethod
    def overdue(self) -> None:
        """The deadline has passed. Called by the sweep."""

    @abstractmethod
    def look_for_end(self) -> None:
        """Reading is paused, and the loop does not report that a client has left: look. Called by the sweep."""

    @abstractmethod
    def close_if_idle(self) -> None:
        """Close unless a request is in progress or arriving. Called once when draining begins."""

    @abstractmethod
    def spare(self) -> None:
        """Close: another client needs the place. Called only while the connection idles."""

    @abstractmethod
    def finish(self) -> None:
        """Close as soon as what was written has been sent. No exchange is in progress any more."""


class HttpServer:
    """Serves `handler` on listening sockets. Every connection and every exchange in progress belongs to it."""

    def __init__(
        self, handler: Handler, refuse: Callable[[Refusal, bytes | None], Response], limits: ServerSettings
    ) -> None:
        """`refuse` answers in the handler's place; see `Service`."""
        self.service = Service(handler, refuse)
        self.limits = limits
        self.bodies = PipeLimits(limits.max_waiting_bytes, Budget(limits.max_waiting_bytes_total))
        self.connections: set[ServerConnection] = set()
        self.idle: OrderedDict[ServerConnection, None] = OrderedDict()  # without an exchange, for longest first
        self.exchanges = Tasks("exchange")
        self.is_draining = False
        self._listeners: list[Listener] = []
        self._is_crowded = False  # a client waits, and nothing could be spared for it
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
        """Accept connections on `sockets` from now on, over TLS or without; `speak` makes each of them."""
        self._listeners.append(Listener(sockets, lambda: speak(self), self, self.limits.accept, tls))
        if not len(self._sweeper):
            self._sweeper.start("sweep", self._sweep())

    def has_room(self) -> bool:
        """See Room."""
        return len(self.connections) + sum(map(len, self._listeners)) < self.limits.max_connections

    def make_room(self) -> None:
        """See Room: close the connection that has been idle for longest, else give up the oldest TLS handshake.

        One whose response has not been taken, or whose next request lies in the socket, is not idle: closing it would
        destroy either. When there is nothing to spare, the next connection that becomes idle is looked at.
        """
        for connection in self.idle:
            if not connection.has_unsent and connection.is_quiet():
                connection.spare()
                return
        self._is_crowded = not any(listener.drop_oldest_handshake() for listener in self._listeners)

    def became_idle(self, connection: ServerConnection) -> None:
        """`connection` has no exchange in progress from now on."""
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
            self.judge(now, is_late=now - due > pause / 4)

    def judge(self, now: float, *, is_late: bool) -> None:
        """Tell the connections whose deadline has passed at the loop's time `now`.

        `is_late`: this comes later than it was due, because the process was stopped or its loop was held up. Then a
        client whose bytes lie in the socket was not silent, and is judged the next time.
        """
        for connection in [each for each in self.connections if each.deadline <= now or each.is_reading_paused]:
            if connection.deadline > now:
                connection.look_for_end()
            elif not (is_late and connection.has_unread()):
                connection.overdue()

    def date(self) -> bytes:
        """The value of the Date field of a response that is made now (RFC 9110 section 6.6.1)."""
        now = int(time.time())
        if now != self._dated_at:
            self._dated_at = now
            self._date = formatdate(now, usegmt=True).encode("ascii")
        return self._date

    def drain(self) -> None:
        """From now on every response closes its connection, and idle ones are closed."""
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
        """Cancel what is in progress, close every connection and return when all sockets are closed.

        Responses that were written but not yet taken get `close_grace_seconds`.
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
