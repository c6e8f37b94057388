"""HTTP/1.1 on a server's connection: requests in order, pipelining, keep-alive, the polite end of a connection.

A connection is always in one `_Phase`, and one deadline belongs to each:

    HEAD --head--> REQUEST --response's head--> RESPONSE --all sent, connection kept--> HEAD
     |                                             |
     +--idle for too long--> CLOSED                +--all sent, it was the last--> GRACE --> CLOSED

One request is in progress at a time. What the client sends behind it waits: one read of it here, counted in the budget
of request bodies, and the rest in the socket, because reading is paused (`pause`). While reading is paused the loop
does not report that the client has left, so the sweep checks it (`look_for_end`). When the response has been sent, the
next request waits for its turn: of all that are pipelined few begin together, so thousands hold up no other client.

A request that breaks the protocol is refused: if no response has begun, the refusal is the answer, and nothing more is
read. The last response of a connection is followed by the close grace (RFC 9112 section 9.6). A socket that is closed
while its client is still sending is reset, and the reset destroys the response before the client has read it. So the
connection is half-closed, and what still arrives is ignored for a while.
"""

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum

from proxy.base.errors import Code, Refusal
from proxy.http.answer import Answer, InvitedBody, refusal_of
from proxy.http.body import EMPTY, Body, BytesBody, Cut
from proxy.http.message import Request, Response
from proxy.http.pipe import Pipe
from proxy.http.server import NEVER, HttpServer, ServerConnection
from proxy.wire.events import Buffer, PeerError, Received, RequestHead
from proxy.wire.h1 import CONTINUE, LAST_CHUNK, ServerCodec, encode_chunk

__all__ = ["Http1Connection"]


class _Phase(Enum):
    """What a connection is doing. The meaning of its deadline follows from it."""

    HEAD = "a request's head is awaited or arriving: head or idle deadline"
    REQUEST = "the handler runs; while the body still arrives: body deadline"
    RESPONSE = "a response is being sent; while the client takes nothing: write deadline"
    GRACE = "the last response was sent, what still comes is ignored: close grace"
    CLOSED = "closing; while bytes are left to send: write deadline"


class Http1Connection(ServerConnection):
    """One client connection that speaks HTTP/1.1 or 1.0, and the `Outlet` of the one answer in progress on it.

    `_body` is the request's body that the handler has. `_pipe` is the same while the body arrives.
    """

    __slots__ = (
        "_answer", "_body", "_codec", "_grace_end", "_has_eof", "_has_left", "_head", "_held", "_ignorable",
        "_is_chunked", "_is_unframed", "_limits", "_patience_end", "_phase", "_pipe", "_refusal", "_response_head",
        "_taken", "_task",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self._limits = server.limits
        self._codec = ServerCodec(server.limits.head, server.limits.max_request_bytes)
        self._phase = _Phase.HEAD
        self._head: RequestHead | None = None  # head of the request in progress
        self._body: Body = EMPTY
        self._pipe: Pipe | None = None
        self._answer: Answer | None = None
        self._task: asyncio.Task[None] | None = None
        self._response_head = b""  # not sent yet
        self._is_chunked = False
        self._is_unframed = False  # the response's body ends with the connection
        self._refusal: Refusal | None = None  # why nothing more is read; also the answer, unless a response has begun
        self._has_eof = False
        self._has_left = False  # the client's end was seen behind unread bytes
        self._held = 0  # bytes in the codec, as the budget counts them
        self._ignorable = server.limits.close_grace_bytes
        self._grace_end = NEVER
        self._taken = 0  # how far the client had come in taking the response when its deadline was set
        self._patience_end = NEVER  # of a closing TLS connection whose client takes nothing

    # What the socket reports

    def opened(self) -> None:
        """A client connected. Its first bytes must come soon."""
        super().opened()
        self.set_idle()
        self.set_high_water(self._limits.max_reader_bytes)
        self.expire_in(self._limits.head_timeout_seconds)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request's head or body, or of the next request."""
        if self._phase is _Phase.GRACE:
            self._ignore(len(data))
        if self._refusal is not None or self._phase in (_Phase.GRACE, _Phase.CLOSED):
            return
        is_first = self._phase is _Phase.HEAD and self._codec.idle
        if is_first:
            self.expire_in(self._limits.head_timeout_seconds)  # counts from the head's first byte
        self._advance(self._codec.receive, data)
        if is_first and self._phase is _Phase.HEAD:
            self.set_idle()  # moves it to the end of the idle connections: its request has begun

    def eof_received(self) -> bool:
        """The client sends no more. It still gets a response that ends soon; a long one has lost its reader."""
        self._has_eof = True
        if self._phase in (_Phase.GRACE, _Phase.CLOSED):
            return False
        if self._refusal is None:
            try:
                self._codec.receive_eof()
            except PeerError as error:
                self._refuse(refusal_of(error))
        if self._phase is _Phase.HEAD:
            return False
        self._loop.call_later(self._limits.half_close_grace_seconds, self.cut)
        # Over TLS the loop ends the connection now, whatever is returned, once what was written is sent.
        return not self.is_tls

    def look_for_end(self) -> None:
        """See ServerConnection. Only a pause for pipelined bytes can hide that the client has left an exchange."""
        if self._codec.buffered and not self._has_left and self.has_peer_left():
            self._has_left = True
            self._loop.call_later(self._limits.half_close_grace_seconds, self.cut)

    def lost(self) -> None:
        """The socket is closed. An exchange in progress has lost its caller."""
        self._phase = _Phase.CLOSED
        self._drop_pipelined()
        if self._task is not None:
            self._task.cancel()
        self._body.close()  # a task that is cancelled before it begins does not do it
        super().lost()

    # Requests

    def _advance(self, step: Callable[..., Received[RequestHead]], *data: bytes) -> None:
        """Act on what the codec found. Bytes before a fault are valid."""
        try:
            head, parts, ended = step(*data)
        except PeerError as error:
            self._refuse(refusal_of(error))
            return
        if head is not None:
            self._begin(head, parts, is_whole=ended)
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
            self._refuse(refusal_of(failed))
        if (held := self._codec.buffered) or self._held:
            self._hold(held)

    def _hold(self, count: int) -> None:
        """Hold pipelined bytes: they count like those of a request body, and no more are read."""
        if count:
            self.pause()
        self._server.bodies.budget.hold(count - self._held)
        self._held = count

    def _drop_pipelined(self) -> None:
        """Drop pipelined bytes: no other request will be answered."""
        self._codec.close()
        self._hold(0)

    def _begin(self, head: RequestHead, parts: list[Buffer], *, is_whole: bool) -> None:
        self._phase = _Phase.REQUEST
        self.deadline = NEVER
        self.set_busy()
        self._head = head
        if is_whole:
            self._body = BytesBody(parts) if parts else EMPTY
        else:
            if head.expect_continue:
                self._pipe = InvitedBody(self, self._server.bodies, head.length, self._invite)
            else:
                self._pipe = Pipe(self, self._server.bodies, head.length)
            self._body = self._pipe
            if parts:
                self._pipe.feed(parts)
            if parts or not head.expect_continue:
                self._expect_body()
        self._start(Request(head.method, head.target, head.headers, self._body))

    def _start(self, request: Request | None) -> Answer:
        answer = self._answer = Answer(self._server.service, self, request)
        self._task = self._server.exchanges.start("answer", answer.run())
        return answer

    def _expect_body(self) -> None:
        """The rest of the request's body must come soon, unless a response has begun."""
        if self._phase is _Phase.REQUEST:
            self.expire_in(self._limits.body_timeout_seconds if self._pipe is not None else NEVER)

    def _invite(self) -> None:
        """The handler wants a body whose sender waits for `100 Continue`. Too late when a response has begun."""
        if self._pipe is not None and self._phase is _Phase.REQUEST and self._refusal is None:
            self.write([CONTINUE])
            self._expect_body()

    def body_cut(self) -> None:
        """The handler wants no more of the request's body. What still arrives is dropped."""

    def _refuse(self, refusal: Refusal) -> None:
        """The client broke the protocol. Answer, unless a response has begun, and read no more."""
        if self._refusal is not None:
            return
        self._refusal = refusal
        if self._phase is _Phase.HEAD:
            self._phase = _Phase.RESPONSE
            self.deadline = NEVER
            self.set_busy()
            self._head = None
            self._start(None).refuse(refusal, self._codec.origin)
        elif self._phase is _Phase.REQUEST and self._answer is not None:
            self.deadline = NEVER
            self._answer.refuse(refusal)
        if self._pipe is not None:
            self._pipe.fail(Cut.FRAMING)  # its reader raises, and the refusal is answered

    # The response: what an Outlet does

    @property
    def is_full(self) -> bool:
        """See Outlet."""
        return self.is_write_paused or self.is_closing

    def begin(self, response: Response) -> None:
        """See Outlet."""
        self._phase = _Phase.RESPONSE
        self.deadline = NEVER
        request = self._head
        length = response.body.length
        is_last = self._pipe is not None or self._refusal is not None or self._server.is_draining
        self._response_head, self._is_chunked = self._codec.send_head(
            response.status,
            response.headers,
            length,
            date=self._server.date(),
            request=request,
            keep_alive=request is not None and request.keep_alive and not is_last,
        )
        self._is_unframed = length is None and not self._is_chunked

    def send(self, parts: Iterable[Buffer]) -> None:
        """See Outlet."""
        if self._is_chunked:
            parts = encode_chunk(parts)
        if self._response_head:
            parts = (self._response_head, *parts)
            self._response_head = b""
        self.write(parts)

    def end(self) -> None:
        """See Outlet."""
        if self._is_chunked:
            self.write((self._response_head, LAST_CHUNK) if self._response_head else (LAST_CHUNK,))
        elif self._response_head:
            self.write((self._response_head,))
        self._response_head = b""

    async def drained(self) -> None:
        """See Outlet. While the client takes nothing, the write deadline runs."""
        if self.is_closing:
            raise ConnectionResetError("the client is gone")
        if self.is_write_paused:
            self._watch_sending()
            await super().drained()
            self.deadline = NEVER

    def done(self, *, is_whole: bool) -> None:
        """See Outlet. Go on with the next request, or end the connection."""
        self._task = self._answer = None
        if self._is_unframed and not is_whole:
            self.reset()  # an orderly end would make it look whole (RFC 9112 section 8)
        self._is_unframed = False
        if not is_whole or self._refusal is not None or not self._codec.keep_alive:
            self._begin_grace()
        elif self._codec.buffered:
            self._server.pipelined.wait(self._next)
        else:
            self._next()

    def _next(self) -> None:
        """Go on with pipelined bytes, or wait for more."""
        if self.is_closing:
            return
        self._phase = _Phase.HEAD
        self._body = EMPTY
        self.resume()
        self.expire_in(self._limits.idle_timeout_seconds)
        self._advance(self._codec.next_request)
        if self._phase is not _Phase.HEAD:
            return
        self.set_idle()
        if not self._codec.idle:
            self.expire_in(self._limits.head_timeout_seconds)
        elif self._has_eof or self._server.is_draining:
            self._close()

    # The end

    def _begin_grace(self) -> None:
        """Half-close, and ignore what still arrives, so that the client gets the answer and not a reset.

        Over TLS there is no half-close, and data that comes after our end is an error, upon which the loop resets the
        connection. So the end waits until the client is done sending; one that has sent its request has no reason to
        go on.
        """
        if self.is_closing:
            return
        is_sending = self._pipe is not None or self._refusal is not None or self._codec.buffered > 0
        self._drop_pipelined()
        if self._has_eof or not (self.half_close() or (self.is_tls and is_sending)):
            self._close()
            return
        self._phase = _Phase.GRACE
        self._pipe = None
        self.resume()
        self.expire_in(self._limits.close_grace_seconds)
        self._grace_end = self._loop.time() + self._limits.body_timeout_seconds
        if self.has_unsent:
            self._watch_sending()

    def _ignore(self, count: int) -> None:
        """The client still sends. It may go on for a while, because it may read the answer only when it is done."""
        self._ignorable -= count
        if self._ignorable < 0:
            self.cut()
        elif not self.has_unsent:
            self.expire_in(self._limits.close_grace_seconds)
            self.deadline = min(self.deadline, self._grace_end)

    def _close(self) -> None:
        """Close when everything is sent, or when the client reads nothing for too long."""
        self._phase = _Phase.CLOSED
        self.set_busy()
        self.close()
        self._watch_sending()
        if self.is_tls:
            self._patience_end = self.deadline
            self.expire_in(self._limits.close_grace_seconds)

    def close_if_idle(self) -> None:
        """See ServerConnection."""
        if self._phase is _Phase.HEAD and self._codec.idle:
            self._close()

    def spare(self) -> None:
        """See ServerConnection."""
        self._close()
        self.leave()

    def finish(self) -> None:
        """See ServerConnection."""
        if self.has_unsent or self.is_tls:
            self._close()
        else:
            self.cut()

    # Time

    def _watch_sending(self) -> None:
        self._taken = self.taken
        self.expire_in(self._limits.reader_timeout_seconds)

    def overdue(self) -> None:
        """See ServerConnection."""
        self.deadline = NEVER
        if self._phase is _Phase.HEAD and self._codec.idle:
            self._close()
        elif self._phase is _Phase.REQUEST and self.is_reading_paused:
            self._expect_body()  # reading was paused, so the client could not send
        elif self._phase in (_Phase.HEAD, _Phase.REQUEST):
            self._refuse(Refusal(Code.REQUEST_TIMEOUT, "the request did not arrive in time"))
        elif self._phase is _Phase.CLOSED and self.is_tls:
            self._look_at_closing()
        elif self.has_unsent and self.taken > self._taken:
            self._watch_sending()  # the client is slow, but it reads
        elif self._phase is _Phase.GRACE and self.is_tls:
            self._close()  # a half-closed connection has sent its end before its grace
        else:
            self.cut()

    def _look_at_closing(self) -> None:
        """Over TLS the loop closes the socket when the client has taken everything and answered the end of TLS.

        Everything is known to be taken when nothing is unacknowledged, so that is looked at often: a client that only
        owes the answer does not keep its place.
        """
        now, taken = self._loop.time(), self.taken
        if taken > self._taken:
            self._taken = taken
            self._patience_end = now + self._limits.reader_timeout_seconds
        if not self.unsent or now >= self._patience_end:
            self.cut()
        else:
            self.expire_in(self._limits.close_grace_seconds)
