"""One exchange on a server's HTTP/2 connection: its request's body, the way back of its answer, and its deadline.

Owns what happens to one exchange alone. The connection that carries it (`Carrier`) owns the socket and the codec.
"""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from proxy.base.errors import Code, Refusal
from proxy.http.answer import Answer, InvitedBody
from proxy.http.body import EMPTY, Body, Cut
from proxy.http.message import Request, Response
from proxy.http.pipe import Pipe
from proxy.http.server import NEVER, HttpServer, ServerSettings
from proxy.wire.events import Buffer, RequestHead
from proxy.wire.frames import ErrorCode
from proxy.wire.h2_server import H2ServerCodec
from proxy.wire.headers import Headers

__all__ = ["Carrier", "Http2Exchange"]


class Carrier(Protocol):
    """The connection, as its exchanges see it."""

    server: HttpServer
    limits: ServerSettings
    codec: H2ServerCodec
    is_closing: bool
    is_write_paused: bool

    def write_soon(self) -> None:
        """What the codec holds leaves in this turn of the loop."""

    async def drained(self) -> None:
        """Return when the socket takes more. Raises ConnectionResetError when it is gone."""

    def due_in(self, seconds: float) -> float:
        """The loop's time so many seconds from now; `overdue` is looked at then."""

    def forget(self, stream: int) -> None:
        """An exchange is over."""


class Http2Exchange:
    """One request on its way in, the way back of its answer (`Outlet`), and the source of its body's pipe.

    `deadline` is for the request's body until the response begins, then for a response whose client gives no credit.
    """

    __slots__ = (
        "_answer", "_body", "_connection", "_has_begun", "_is_lost", "_is_paused", "_pipe", "_refusal", "_response",
        "_stream", "_task", "_unsent", "_waiter", "deadline",
    )  # fmt: skip

    def __init__(self, connection: Carrier, stream: int) -> None:
        self._connection = connection
        self._stream = stream
        self._body: Body = EMPTY  # the request's, as the handler has it
        self._pipe: Pipe | None = None  # the same while it arrives
        self._answer: Answer | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal: Refusal | None = None
        self._response: Response | None = None  # whose head is not sent yet
        self._has_begun = False  # a response
        self._is_lost = False
        self._is_paused = False
        self._unsent = 0  # bytes that waited for credit when the deadline was set
        self._waiter: asyncio.Future[None] | None = None
        self.deadline = NEVER

    # The request

    def ask(self, head: RequestHead, *, ended: bool) -> None:
        """A request's head came: begin to answer it."""
        bodies = self._connection.server.bodies
        if not ended:
            if head.expect_continue:
                self._pipe = InvitedBody(self, bodies, head.length, self._invite)
            else:
                self._pipe = Pipe(self, bodies, head.length)
                self._expect_body()
            self._body = self._pipe
        self.answer(Request(head.method, head.target, head.headers, self._body))

    def answer(self, request: Request | None) -> None:
        """Begin to answer a request, or one that could not be read."""
        server = self._connection.server
        self._answer = Answer(server.service, self, request)
        self._task = server.exchanges.start("answer", self._answer.run())

    def receive(self, parts: list[Buffer], *, ended: bool) -> None:
        """Bytes of the request's body came."""
        pipe = self._pipe
        if pipe is not None:
            if parts:
                pipe.feed(parts)
            if ended:
                self._pipe = None
                pipe.end()
            self._expect_body()

    def refuse(self, refusal: Refusal, origin: bytes | None = None) -> None:
        """The request may not go on. Answer that, unless a response is already on its way."""
        if self._refusal is None and self._answer is not None:
            self._refusal = refusal
            if not self._has_begun:
                self.deadline = NEVER
                self._answer.refuse(refusal, origin)
            if self._pipe is not None:
                self._pipe.fail(Cut.FRAMING)  # its reader raises, and the refusal is answered

    def _expect_body(self) -> None:
        """More of the body, if there is more, must come soon; once a response is on its way it does not matter."""
        if not self._has_begun:
            seconds = self._connection.limits.body_timeout_seconds
            self.deadline = self._connection.due_in(seconds) if self._pipe is not None else NEVER

    def _invite(self) -> None:
        """The handler wants a body whose sender waits for 100 (Continue)."""
        if self._pipe is not None and not self._has_begun and self._refusal is None:
            self._connection.codec.send_head(self._stream, 100, Headers(), None)
            self._connection.write_soon()
            self._expect_body()

    def pause(self) -> None:
        """See Source: return no credit."""
        self._is_paused = True
        self._connection.codec.pause(self._stream)

    def resume(self) -> None:
        """See Source: return credit."""
        self._is_paused = False
        self._connection.codec.resume(self._stream)
        self._connection.write_soon()

    def body_cut(self) -> None:
        """The handler wants no more of the request's body: what still comes of it is dropped."""
        self._connection.codec.drop_body(self._stream)

    def lose(self) -> None:
        """The exchange was reset, or the connection is lost: nobody reads the answer."""
        if self._is_lost:
            return
        self._is_lost = True
        self.deadline = NEVER
        self.go_on()
        if self._task is not None:
            self._task.cancel()
            self._task.add_done_callback(self._ended_unseen)
        self._body.close()

    def _ended_unseen(self, _: object) -> None:
        """A task that was cancelled before it began never calls `done`."""
        if self._task is not None:
            self.done(is_whole=False)

    # The response: what an Outlet does

    @property
    def is_full(self) -> bool:
        """See Outlet."""
        connection = self._connection
        return (
            self._is_lost
            or connection.is_closing
            or connection.is_write_paused
            or connection.codec.unsent(self._stream) > 0
        )

    def begin(self, response: Response) -> None:
        """See Outlet."""
        self._response = response
        self._has_begun = True
        self.deadline = NEVER

    def send(self, parts: Iterable[Buffer]) -> None:
        """See Outlet."""
        if self._response is not None:
            if self._response.body.length == 0:
                return  # the head says that nothing follows, together with `end`
            self._send_head(ended=False)
        self._connection.codec.send_body(self._stream, parts)
        self._connection.write_soon()

    def end(self) -> None:
        """See Outlet."""
        if self._response is not None:
            self._send_head(ended=True)
        else:
            self._connection.codec.end_body(self._stream)
        self._connection.write_soon()

    def _send_head(self, *, ended: bool) -> None:
        response, self._response = self._response, None
        if response is not None:
            length = response.body.length
            date = self._connection.server.date()
            self._connection.codec.send_head(
                self._stream, response.status, response.headers, length, ended=ended, date=date
            )

    async def drained(self) -> None:
        """See Outlet. While the client gives no credit, the exchange's deadline runs."""
        connection = self._connection
        while self.is_full:
            if self._is_lost or connection.is_closing:
                raise ConnectionResetError("the client is gone")
            if connection.is_write_paused:
                await connection.drained()
                continue
            self._watch_credit()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                self.deadline = NEVER

    def _watch_credit(self) -> None:
        self._unsent = self._connection.codec.unsent(self._stream)
        self.deadline = self._connection.due_in(self._connection.limits.reader_timeout_seconds)

    def go_on(self) -> None:
        """What waited for credit is on its way, or the exchange is lost."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def done(self, *, is_whole: bool) -> None:
        """See Outlet."""
        self._task = self._answer = None
        self.deadline = NEVER
        if not is_whole:
            self._connection.codec.reset(self._stream, ErrorCode.INTERNAL_ERROR)
        self._connection.forget(self._stream)

    def overdue(self) -> None:
        """The deadline has passed."""
        self.deadline = NEVER
        codec = self._connection.codec
        if not self._has_begun:
            if self._is_paused:
                self._expect_body()  # we did not let it in
            else:
                self.refuse(Refusal(Code.REQUEST_TIMEOUT, "the request did not arrive in time"))
        elif codec.unsent(self._stream) < self._unsent:
            self._watch_credit()  # the client is slow but takes something
        else:
            codec.reset(self._stream, ErrorCode.CANCEL)
            self._connection.write_soon()
            self.lose()
