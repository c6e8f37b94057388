"""The HTTP server: connections in, one `Handler` behind. Owns framing, order, deadlines and refusals.

Knows no route and makes no error body: `refuse` turns a `Refusal` into a response.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.http.message import EMPTY, Body, BodyError, Buffer, Cut, Handler, Request, Response
from proxy.http.pipe import Pipe, PipeLimits
from proxy.net.connection import Connection
from proxy.net.listen import Listener
from proxy.wire.events import Data, End, Event, HeadLimits, PeerError, RequestHead
from proxy.wire.h1 import CONTINUE, LAST_CHUNK, ServerCodec, encode_chunk

__all__ = ["HttpServer", "ServerLimits"]

logger = logging.getLogger(__name__)

_NEVER = float("inf")
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of every connection: sizes in bytes, times in seconds."""

    head: HeadLimits
    body_bytes: int
    body: PipeLimits
    connections: int
    write_high_water: int
    head_timeout: float
    idle_timeout: float
    body_timeout: float
    write_timeout: float
    half_close_grace: float
    linger_timeout: float
    linger_bytes: int
    sweep: float


class HttpServer:
    """Serves `handler` on listening sockets. Every connection and every request in progress belongs to it."""

    def __init__(self, handler: Handler, refuse: Callable[[Refusal], Response], limits: ServerLimits) -> None:
        self.handler = handler
        self.refuse = refuse
        self.limits = limits
        self.connections: set[_ServerConnection] = set()
        self.requests = Tasks("request")
        self.is_draining = False
        self._listeners: list[Listener] = []
        self._sweeper = Tasks("server")
        self._empty = asyncio.Event()

    def serve(self, sockets: list[socket.socket]) -> None:
        """Accept connections on `sockets` from now on."""
        self._listeners.append(Listener(sockets, lambda: _ServerConnection(self), self._has_room))
        if not len(self._sweeper):
            self._sweeper.start("sweep", self._sweep())

    def _has_room(self) -> bool:
        return len(self.connections) < self.limits.connections

    def forget(self, connection: "_ServerConnection") -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        for listener in self._listeners:
            listener.made_room()
        if not self.connections:
            self._empty.set()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.limits.sweep)
            now = loop.time()
            for connection in [each for each in self.connections if each.deadline <= now]:
                connection.overdue(now)

    def drain(self) -> None:
        """From now on every response closes its connection, and idle ones are closed."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    async def stop_accepting(self) -> None:
        """Close the listening sockets."""
        for listener in self._listeners:
            await listener.aclose()

    async def wait_requests(self) -> None:
        """Return when no request is in progress."""
        await self.requests.wait()

    async def aclose(self) -> None:
        """Cancel what is in progress, close every connection and return when all sockets are closed."""
        await self.stop_accepting()
        await self.requests.aclose()
        await self._sweeper.aclose()
        while self.connections:
            self._empty.clear()
            for connection in list(self.connections):
                connection.cut()
            await self._empty.wait()


class _ContinueBody(Pipe):
    """A request body whose first taker sends `100 Continue` (RFC 9110 section 10.1.1)."""

    __slots__ = ("_connection",)

    def __init__(self, connection: "_ServerConnection", limits: PipeLimits, length: int | None) -> None:
        super().__init__(connection, limits, length)
        self._connection: _ServerConnection | None = connection

    async def take(self) -> tuple[Buffer, ...]:
        """Ask for the body, once, then take it."""
        if self._connection is not None:
            self._connection.invite_body()
            self._connection = None
        return await super().take()


class _ServerConnection(Connection):
    """One client connection. At most one request is in progress; the codec keeps what is pipelined behind it."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__()
        self._server = server
        self._limits = server.limits
        self._codec = ServerCodec(server.limits.head, server.limits.body_bytes)
        self._task: asyncio.Task[None] | None = None
        self._pipe: Pipe | None = None  # the request's body while it arrives
        self._refusal: Refusal | None = None  # why the request in progress cannot be answered otherwise
        self._waits_for_invitation = False
        self._lingering = 0  # bytes that may still be ignored; 0: not lingering
        self._written = 0
        self.deadline = _NEVER

    # What the socket tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected: it must say something soon."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=self._limits.write_high_water)
        self._server.connections.add(self)
        self._expire_in(self._limits.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request's head or body, or of the next request."""
        if self._lingering:
            self._lingering -= len(data)
            if self._lingering <= 0:
                self.cut()
            return
        if self._task is None and self._codec.idle:
            self._expire_in(self._limits.head_timeout)  # counts from the head's first byte
        self._advance(lambda: self._codec.receive(data))
        if self._codec.buffered > self._limits.head.head_bytes:
            self.pause()

    def eof_received(self) -> bool:
        """The client sends no more. A quick answer still reaches it; a long one has lost its reader."""
        if self._lingering:
            return False
        self._advance(self._codec.receive_eof)
        if self._task is None:
            return False
        asyncio.get_running_loop().call_later(self._limits.half_close_grace, self.cut)
        return True

    def lost(self) -> None:
        """The socket is closed: whatever was in progress has no caller any more."""
        self.deadline = _NEVER
        if self._task is not None:
            self._task.cancel()
        if self._pipe is not None:
            self._pipe.fail(Cut.RESET)
        self._server.forget(self)

    # Requests

    def _advance(self, step: Callable[[], list[Event]]) -> None:
        """Act on what the codec found; what came before a fault is still good."""
        try:
            self._handle(step())
            fault = self._codec.failed
        except PeerError as error:
            fault = error
        if fault is not None and self._refusal is None:
            self._refused(Refusal(fault.code, fault.message))

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Data):
                if self._pipe is not None:
                    self._pipe.feed(event.parts)
                    self._expire_in(self._limits.body_timeout)
            elif isinstance(event, End):
                if self._pipe is not None:
                    self._pipe.end()
                    self._pipe = None
                    self.deadline = _NEVER
            elif isinstance(event, RequestHead):
                self._begin(event)

    def _begin(self, head: RequestHead) -> None:
        body: Body = EMPTY
        self.deadline = _NEVER
        if head.length != 0:
            self._waits_for_invitation = head.expect_continue
            pipe = (
                _ContinueBody(self, self._limits.body, head.length)
                if head.expect_continue
                else Pipe(self, self._limits.body, head.length)
            )
            body = self._pipe = pipe
            if not head.expect_continue:
                self._expire_in(self._limits.body_timeout)
        request = Request(head.method, head.target, head.headers, body)
        self._task = self._server.requests.start("answer", self._answer(head, request))

    async def _answer(self, head: RequestHead, request: Request) -> None:
        try:
            response = await self._respond(request)
            keep_alive = await self._send(head, response, keep_alive=self._may_keep(head))
        except (ConnectionError, BodyError):
            keep_alive = False
        finally:
            self._task = None
            request.body.abort(Cut.GONE)
        if self.is_lost:
            return
        if self._refusal is not None or self._pipe is not None:
            self._linger()
        elif not keep_alive:
            self.close()
        else:
            self._next()

    async def _respond(self, request: Request) -> Response:
        try:
            response = await self._server.handler(request)
        except Exception as error:  # one bad request must not take the server down
            if self._refusal is not None:
                return self._server.refuse(self._refusal)
            if not isinstance(error, Refusal):
                logger.error("%r failed", request, exc_info=error)
                error = Refusal(Code.INTERNAL_ERROR, "the proxy failed to handle the request")
            return self._server.refuse(error)
        if self._refusal is not None:
            response.body.abort(Cut.GONE)
            return self._server.refuse(self._refusal)
        return response

    def _may_keep(self, head: RequestHead) -> bool:
        whole = self._pipe is None
        return head.keep_alive and whole and self._refusal is None and not self._server.is_draining

    def _next(self) -> None:
        """The response is sent: go on with what was pipelined, or wait for more."""
        self._expire_in(self._limits.idle_timeout)
        self._advance(self._codec.next_request)
        if self._task is None and not self._codec.idle:
            self._expire_in(self._limits.head_timeout)
        self.resume()

    def _refused(self, refusal: Refusal) -> None:
        """The client broke the protocol. Answer, unless a response is already on its way, and read no more."""
        self._refusal = refusal
        if self._pipe is not None:
            self._pipe.fail(Cut.FRAMING)  # whoever reads the body raises, and the refusal is answered
        elif self._task is None:
            response = self._server.refuse(refusal)
            head = RequestHead(b"GET", b"", response.headers, 0, keep_alive=False, expect_continue=False)
            self._task = self._server.requests.start("refuse", self._send_refusal(head, response))

    async def _send_refusal(self, head: RequestHead, response: Response) -> None:
        try:
            await self._send(head, response, keep_alive=False)
        except ConnectionError:
            return
        finally:
            self._task = None
        self._linger()

    def invite_body(self) -> None:
        """The handler wants the body of a request that waits for `100 Continue`."""
        if self._waits_for_invitation:
            self._waits_for_invitation = False
            self.write([CONTINUE])
            self._expire_in(self._limits.body_timeout)

    def body_cut(self) -> None:
        """The handler wants no more of the request's body."""

    # Responses

    async def _send(self, head: RequestHead, response: Response, *, keep_alive: bool) -> bool:
        """Write `response`; False when the connection cannot be used again. Raises ConnectionError, BodyError."""
        body = response.body
        try:
            encoded, chunked = self._codec.send_head(
                response.status, response.headers, body.length, request=head, keep_alive=keep_alive
            )
            if head.method == b"HEAD" or response.status in _BODILESS:
                self.write([encoded])
                return keep_alive
            parts = await body.take() if body.length is not None else ()
            self.write([encoded, *parts])
            if body.ended and not chunked:
                return keep_alive
            while True:
                await self._drain()
                parts = await body.take()
                if not parts:
                    break
                self.write(encode_chunk(parts) if chunked else parts)
            if chunked:
                self.write([LAST_CHUNK])
            await self._drain()
        except BodyError:
            if not chunked and body.length is None:
                self.cut()  # closing would look like the end: RFC 9112 section 8
            raise
        finally:
            body.abort(Cut.GONE)
        return keep_alive and (chunked or body.length is not None)

    async def _drain(self) -> None:
        if self.is_write_paused:
            self._written = self.transport.get_write_buffer_size()
            self._expire_in(self._limits.write_timeout)
            await self.drained()
            self.deadline = _NEVER
        elif self.is_lost:
            raise ConnectionResetError("the client is gone")

    # Time

    def _expire_in(self, seconds: float) -> None:
        self.deadline = asyncio.get_running_loop().time() + seconds

    def overdue(self, now: float) -> None:
        """The deadline of the connection's present state has passed."""
        self.deadline = _NEVER
        if self.is_stalled:
            waiting = self.transport.get_write_buffer_size()
            if waiting != self._written:  # the reader is slow but takes something
                self._written = waiting
                self.deadline = now + self._limits.write_timeout
            else:
                self.cut()
        elif self._lingering:
            self.cut()
        elif self._pipe is not None or not (self._codec.idle or self._task is not None):
            self._refused(Refusal(Code.REQUEST_TIMEOUT, "the request did not arrive in time"))
        elif self._task is None:
            self.close()

    def close_if_idle(self) -> None:
        """Close unless a request is in progress or arriving."""
        if self._task is None and self._codec.idle:
            self.close()

    def _linger(self) -> None:
        """Half-close and ignore what still comes, so that the client reads the answer and not a reset."""
        if self.is_lost:
            return
        self._lingering = self._limits.linger_bytes
        self._pipe = None
        self.resume()
        self._expire_in(self._limits.linger_timeout)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.close()
