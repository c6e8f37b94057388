"""The HTTP server: connections in, one `Handler` behind. Owns framing, order, deadlines and refusals.

Knows no route and makes no error body: `refuse` turns a `Refusal` into a response.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum

import anyio

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.http.body import EMPTY, Body, BodyError, BytesBody, Cut
from proxy.http.message import Handler, Request, Response
from proxy.http.pipe import Budget, Pipe, PipeLimits
from proxy.net.connection import Connection
from proxy.net.listen import AcceptSettings, Listener, ServerTls
from proxy.wire.events import Buffer, HeadLimits, PeerError, Received, RequestHead
from proxy.wire.h1 import CONTINUE, LAST_CHUNK, ServerCodec, encode_chunk

__all__ = ["HttpServer", "ServerSettings"]

logger = logging.getLogger(__name__)

_NEVER = float("inf")
_BODILESS = (204, 304)
_IGNORES_BODY = (b"GET", b"HEAD", b"DELETE", b"OPTIONS")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Bounds of every client connection: sizes in bytes, times in seconds."""

    accept: AcceptSettings  # of the listening sockets
    head: HeadLimits  # bounds of a request head
    max_request_bytes: int  # of a request body; a larger one is refused
    max_waiting_bytes: int  # of one request body that wait for the handler before its client is paused
    max_waiting_bytes_total: int  # of all request bodies together, before all clients are paused
    max_connections: int  # open at once; beyond it no connection is accepted
    max_reader_bytes: int  # of a response that wait for a slow client before the handler is paused
    head_timeout_seconds: float  # until a head is complete; also until the first byte of a new connection
    idle_timeout_seconds: float  # between two requests; then the connection is closed
    body_timeout_seconds: float  # without a byte of a request body; then the request is refused
    reader_timeout_seconds: float  # without a byte of a response taken by the client; then the connection is cut
    half_close_grace_seconds: float  # for the response, after the client has closed its sending side
    close_grace_seconds: float  # without a byte, after a connection's last response, until it is closed
    close_grace_bytes: int  # ignored at most after a connection's last response; beyond it the connection is cut
    sweep_seconds: float  # between two checks of these times


class HttpServer:
    """Serves `handler` on listening sockets. Every connection and every request in progress belongs to it.

    `refuse` answers in the handler's place; it is given the request's Origin, None when there is none to trust.
    """

    def __init__(
        self, handler: Handler, refuse: Callable[[Refusal, bytes | None], Response], limits: ServerSettings
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.limits = limits
        self.bodies = PipeLimits(limits.max_waiting_bytes, Budget(limits.max_waiting_bytes_total))
        self.connections: set[_ServerConnection] = set()
        self.requests = Tasks("request")
        self.is_draining = False
        self._listeners: list[Listener] = []
        self._sweeper = Tasks("server")
        self._empty = asyncio.Event()
        self._date_line = b""
        self._dated_at = 0

    def serve(self, sockets: list[socket.socket], tls: ServerTls | None = None) -> None:
        """Accept connections on `sockets` from now on, over TLS or without."""
        listener = Listener(sockets, lambda: _ServerConnection(self), self._has_room, self.limits.accept, tls)
        self._listeners.append(listener)
        if not len(self._sweeper):
            self._sweeper.start("sweep", self._sweep())

    def _has_room(self) -> bool:
        return len(self.connections) + sum(map(len, self._listeners)) < self.limits.max_connections

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
            await asyncio.sleep(self.limits.sweep_seconds)
            now = loop.time()
            for connection in [each for each in self.connections if each.deadline <= now or each.is_reading_paused]:
                if connection.deadline <= now:
                    connection.overdue()
                else:
                    connection.look_for_end()

    def date_line(self) -> bytes:
        """The Date field of a response that is made now (RFC 9110 section 6.6.1)."""
        now = int(time.time())
        if now != self._dated_at:
            self._dated_at = now
            self._date_line = b"date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")
        return self._date_line

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
        """Cancel what is in progress, close every connection and return when all sockets are closed.

        Responses that were written but not yet taken get `close_grace_seconds`.
        """
        await self.stop_accepting()
        await self.requests.aclose()
        await self._sweeper.aclose()
        with anyio.move_on_after(self.limits.close_grace_seconds):
            await self._close_all(_ServerConnection.finish)
        await self._close_all(_ServerConnection.cut)

    async def _close_all(self, close: Callable[["_ServerConnection"], None]) -> None:
        while self.connections:
            self._empty.clear()
            for connection in list(self.connections):
                close(connection)
            await self._empty.wait()


class _ContinueBody(Pipe):
    """A request body whose first taker sends `100 Continue` (RFC 9110 section 10.1.1)."""

    __slots__ = ("_connection",)

    def __init__(self, connection: "_ServerConnection", limits: PipeLimits, length: int | None) -> None:
        super().__init__(connection, limits, length)
        self._connection: _ServerConnection | None = connection

    async def take(self) -> tuple[Buffer, ...]:
        """Ask for the body, once, then take it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invite_body(self)
        return await super().take()


class _Phase(Enum):
    """What a connection is doing. The meaning of its deadline follows from it."""

    HEAD = "a request's head is awaited or arriving: head or idle deadline"
    REQUEST = "the handler runs; while the body still arrives: body deadline"
    RESPONSE = "a response is being sent; while the client takes nothing: write deadline"
    LINGER = "the last response was sent, what still comes is ignored: linger deadline"
    CLOSED = "closing; while bytes are left to send: write deadline"


class _ServerConnection(Connection):
    """One client connection. At most one request is in progress; the codec keeps what is pipelined behind it."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__()
        self._server = server
        self._limits = server.limits
        self._codec = ServerCodec(server.limits.head, server.limits.max_request_bytes)
        self._phase = _Phase.HEAD
        self._task: asyncio.Task[None] | None = None
        self._body: Body = EMPTY  # the request's, as the handler has it
        self._pipe: Pipe | None = None  # the same while it arrives
        self._refusal: Refusal | None = None  # why nothing more is read; the answer, unless one is on its way
        self._has_eof = False
        self._has_left = False  # seen behind bytes that were not read
        self._ignorable = server.limits.close_grace_bytes
        self._linger_end = _NEVER
        self._unsent = 0  # bytes that the client had not taken when its deadline was set
        self.deadline = _NEVER

    # What the socket tells

    def opened(self) -> None:
        """A client connected: it must say something soon."""
        self.set_high_water(self._limits.max_reader_bytes)
        self._server.connections.add(self)
        self._expire_in(self._limits.head_timeout_seconds)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request's head or body, or of the next request."""
        if self._phase is _Phase.LINGER:
            self._ignore(len(data))
        if self._refusal is not None or self._phase in (_Phase.LINGER, _Phase.CLOSED):
            return
        if self._phase is _Phase.HEAD and self._codec.idle:
            self._expire_in(self._limits.head_timeout_seconds)  # counts from the head's first byte
        self._advance(self._codec.receive, data)

    def eof_received(self) -> bool:
        """The client sends no more. A quick answer still reaches it; a long one has lost its reader."""
        self._has_eof = True
        if self._phase in (_Phase.LINGER, _Phase.CLOSED):
            return False
        if self._refusal is None:
            try:
                self._codec.receive_eof()
            except PeerError as error:
                self._refused(Refusal(error.code, error.message))
        if self._phase is _Phase.HEAD:
            return False
        self._loop.call_later(self._limits.half_close_grace_seconds, self.cut)
        return True

    def look_for_end(self) -> None:
        """Reading is paused. If that is for what is pipelined, the client may have left without our being told."""
        if self._codec.buffered > self._limits.head.head_bytes and not self._has_left and self.has_peer_left():
            self._has_left = True
            self._loop.call_later(self._limits.half_close_grace_seconds, self.cut)

    def lost(self) -> None:
        """The socket is closed: whatever was in progress has no caller any more."""
        self._phase = _Phase.CLOSED
        self.deadline = _NEVER
        if self._task is not None:
            self._task.cancel()
        self._body.close()  # a task that was cancelled before it began does not do it
        self._server.forget(self)

    # Requests

    def _advance(self, step: Callable[..., Received[RequestHead]], *data: bytes) -> None:
        """Act on what the codec found; what came before a fault is still good."""
        try:
            head, parts, ended = step(*data)
        except PeerError as error:
            self._refused(Refusal(error.code, error.message))
            return
        if head is not None:
            self._begin(head, parts, whole=ended)
        elif self._pipe is not None:
            pipe = self._pipe
            if parts:
                pipe.feed(parts)
            if ended:
                self._pipe = None
                pipe.end()
            if parts or ended:
                self._expect_body()
        if (failed := self._codec.failed) is not None:
            self._refused(Refusal(failed.code, failed.message))
        if self._codec.buffered > self._limits.head.head_bytes:
            self.pause()

    def _begin(self, head: RequestHead, parts: list[Buffer], *, whole: bool) -> None:
        self._phase = _Phase.REQUEST
        self.deadline = _NEVER
        if whole:
            self._body = BytesBody(parts) if parts else EMPTY
        else:
            kind = _ContinueBody if head.expect_continue else Pipe
            self._body = self._pipe = kind(self, self._server.bodies, head.length)
            if parts:
                self._pipe.feed(parts)
            if parts or not head.expect_continue:
                self._expect_body()
        request = Request(head.method, head.target, head.headers, self._body)
        self._task = self._server.requests.start("answer", self._answer(head, request))

    def _expect_body(self) -> None:
        """More of the body, if there is more, must come soon; once a response is on its way it does not matter."""
        if self._phase is _Phase.REQUEST:
            self._expire_in(self._limits.body_timeout_seconds if self._pipe is not None else _NEVER)

    def invite_body(self, body: Pipe) -> None:
        """The handler wants a body whose sender waits for `100 Continue`."""
        if body is self._pipe and self._phase is _Phase.REQUEST and self._refusal is None:
            self.write([CONTINUE])
            self._expect_body()

    def body_cut(self) -> None:
        """The handler wants no more of the request's body: what still comes of it is dropped."""

    async def _answer(self, head: RequestHead, request: Request) -> None:
        try:
            response = await self._respond(request)
            if head.method in _IGNORES_BODY:
                self._body.close()  # a long read must not hold on to what it will not look at
            is_whole = await self._send(head, response)
        finally:
            self._task = None
            self._body.close()
        self._answered(is_whole=is_whole)

    async def _respond(self, request: Request) -> Response:
        try:
            response = await self._server.handler(request)
        except Refusal as error:
            refusal = error
        except Exception as error:  # one bad request must not take the server down
            if self._refusal is None:
                logger.error("%r failed", request, exc_info=error)
            refusal = Refusal(Code.INTERNAL_ERROR, "the proxy failed to handle the request")
        else:
            if self._refusal is None:
                return response
            response.body.close()
            refusal = self._refusal
        return self._server.refuse(self._refusal or refusal, request.headers.get(b"origin"))

    def _refused(self, refusal: Refusal) -> None:
        """The client broke the protocol. Answer, unless a response is already on its way, and read no more."""
        if self._refusal is not None:
            return
        self._refusal = refusal
        if self._phase is _Phase.HEAD:
            self._phase = _Phase.RESPONSE
            self._task = self._server.requests.start("refuse", self._answer_refusal(refusal))
        elif self._phase is _Phase.REQUEST:
            self.deadline = _NEVER
        if self._pipe is not None:
            self._pipe.fail(Cut.FRAMING)  # whoever reads the body raises, and the refusal is answered

    async def _answer_refusal(self, refusal: Refusal) -> None:
        try:
            is_whole = await self._send(None, self._server.refuse(refusal, self._codec.origin))
        finally:
            self._task = None
        self._answered(is_whole=is_whole)

    def _answered(self, *, is_whole: bool) -> None:
        """The response has been written: on to the next request, or to the end."""
        if not is_whole or self._refusal is not None or not self._codec.keep_alive:
            self._linger()
        elif not self.is_closing:
            self._next()

    def _next(self) -> None:
        """Go on with what was pipelined, or wait for more."""
        self._phase = _Phase.HEAD
        self._body = EMPTY
        self.resume()
        self._expire_in(self._limits.idle_timeout_seconds)
        self._advance(self._codec.next_request)
        if self._phase is not _Phase.HEAD:
            return
        if not self._codec.idle:
            self._expire_in(self._limits.head_timeout_seconds)
        elif self._has_eof or self._server.is_draining:
            self._close()

    # Responses

    async def _send(self, head: RequestHead | None, response: Response) -> bool:
        """Write `response`. False: the client did not get all of it, and its connection shows that."""
        self._phase = _Phase.RESPONSE
        self.deadline = _NEVER
        is_last = head is None or self._pipe is not None or self._refusal is not None or self._server.is_draining
        body = response.body
        encoded, chunked = self._codec.send_head(
            response.status,
            response.headers,
            body.length,
            date_line=self._server.date_line(),
            request=head,
            keep_alive=head is not None and head.keep_alive and not is_last,
        )
        try:
            if (head is not None and head.method == b"HEAD") or response.status in _BODILESS:
                self.write([encoded])
            elif isinstance(body, BytesBody):
                self.write([encoded, *body.take_nowait()])
            else:
                await self._send_body(encoded, body, chunked=chunked)
            if self.is_closing or self.is_write_paused:
                await self._drain()
        except BaseException as error:
            if body.length is None and not chunked:
                self.reset()  # ended in order it would look whole: RFC 9112 section 8
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, ConnectionError | BodyError):
                logger.error("a response's body failed", exc_info=error)
            return False
        finally:
            body.close()
        return True

    async def _send_body(self, head: bytes, body: Body, *, chunked: bool) -> None:
        if body.length is None:
            self.write([head])
        else:
            self.write([head, *(await body.take())])
            if body.ended:
                return
        await self._drain()
        while parts := await body.take():
            self.write(encode_chunk(parts) if chunked else parts)
            await self._drain()
        if chunked:
            self.write([LAST_CHUNK])

    async def _drain(self) -> None:
        """Wait while more than the high-water mark is unsent. Raises ConnectionError when the client is gone."""
        if self.is_closing:
            raise ConnectionResetError("the client is gone")
        if self.is_write_paused:
            self._watch_sending()
            await self.drained()
            self.deadline = _NEVER

    # The end

    def _linger(self) -> None:
        """Half-close and ignore what still comes, so that the client reads the answer and not a reset."""
        if self.is_closing:
            return
        if self._has_eof or not self.half_close():
            self._close()
            return
        self._phase = _Phase.LINGER
        self._pipe = None
        self.resume()
        now = self._loop.time()
        self._linger_end = now + self._limits.body_timeout_seconds
        self.deadline = now + self._limits.close_grace_seconds
        if self.has_unsent:
            self._watch_sending()

    def _ignore(self, count: int) -> None:
        """The client still sends: it may go on for a while, for it will look at the answer when it is done."""
        self._ignorable -= count
        if self._ignorable < 0:
            self.cut()
        elif not self.has_unsent:
            self._expire_in(self._limits.close_grace_seconds)
            self.deadline = min(self.deadline, self._linger_end)

    def _close(self) -> None:
        """Close once everything is sent, and while the client takes it."""
        self._phase = _Phase.CLOSED
        self.close()
        self._watch_sending()

    def close_if_idle(self) -> None:
        """Close unless a request is in progress or arriving."""
        if self._phase is _Phase.HEAD and self._codec.idle:
            self._close()

    def finish(self) -> None:
        """Close at once, but for what is left to send."""
        if self.has_unsent:
            self._close()
        else:
            self.cut()

    # Time

    def _expire_in(self, seconds: float) -> None:
        self.deadline = self._loop.time() + seconds

    def _watch_sending(self) -> None:
        self._unsent = self.unsent
        self._expire_in(self._limits.reader_timeout_seconds)

    def overdue(self) -> None:
        """The deadline of the connection's phase has passed."""
        self.deadline = _NEVER
        if self._phase is _Phase.HEAD and self._codec.idle:
            self._close()
        elif self._phase is _Phase.REQUEST and self.is_reading_paused:
            self._expect_body()  # we did not let it in
        elif self._phase in (_Phase.HEAD, _Phase.REQUEST):
            self._refused(Refusal(Code.REQUEST_TIMEOUT, "the request did not arrive in time"))
        elif self.has_unsent and self.unsent < self._unsent:
            self._watch_sending()  # the reader is slow but takes something
        else:
            self.cut()
