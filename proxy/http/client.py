"""One client connection: a request goes out, a response comes back, one exchange at a time.

Owns framing and the deadline of the response's head; which connection is used when is the pool's.
"""

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import Protocol

from proxy.http.body import EMPTY, Body, BodyError, BytesBody, Cut
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pipe import Pipe, PipeLimits
from proxy.net.connection import Connection
from proxy.wire.events import Buffer, HeadLimits, PeerError, ResponseHead
from proxy.wire.h1 import LAST_CHUNK, ClientCodec, encode_chunk

__all__ = ["ClientConnection", "ConnectionOwner"]

_NEVER = float("inf")


class ConnectionOwner(Protocol):
    """Who lends connections out: told when one is free again, and when one is gone."""

    def released(self, connection: "ClientConnection") -> None:
        """The exchange ended cleanly and the connection can serve another."""

    def gone(self, connection: "ClientConnection") -> None:
        """The connection is closed."""


class ClientConnection(Connection):
    """A connection to an origin. `deadline` is when the response's head is overdue, in the loop's time."""

    def __init__(
        self, owner: ConnectionOwner, head: HeadLimits, body: PipeLimits, *, piece: int, keeps_redirected: bool
    ) -> None:
        super().__init__()
        self._piece = piece
        self._keeps_redirected = keeps_redirected
        self._is_spent = False  # not to be used again, however cleanly the exchange ends
        self._owner = owner
        self._codec = ClientCodec(head)
        self._limits = body
        self._answer: asyncio.Future[Response] | None = None
        self._max_bytes: int | None = None  # of the response's body
        self._pipe: Pipe | None = None
        self._sending: Body | None = None  # what of the request has not been written yet
        self._outgoing: Body | None = None  # the request's body while pieces of it are here
        self._pieces: Iterator[Buffer] = iter(())
        self.deadline = _NEVER
        self.idle_since = 0.0

    async def exchange(self, request: Request) -> Response:
        """Send `request` and return the response once its head is here, even if the request was not sent to its end.

        Raises ExchangeError, and BodyError when the request's own body was cut; then, and when cancelled, the
        connection is closed. A body that is here to its end goes on being sent while the response is read; it is
        closed when nothing of it is waiting here any more.
        """
        if not self.is_free:
            raise ExchangeError(Fault.RESET, sent=False)
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._answer = answer
        self._max_bytes = request.max_response_bytes
        if request.timeout is not None:
            self.deadline = self._loop.time() + request.timeout
        body = request.body
        try:
            head = self._codec.send_head(request.method, request.target, request.headers, body.length)
            parts = body.take_nowait()
            if body.ended and body.length is not None:
                self._send_parts(head, parts, body)
            else:
                self.write([head])
                await self._send(body, parts, answer)
            return await answer
        except BaseException:
            if self._answer is answer:
                self._answer = None
                self.deadline = _NEVER
                self.cut()
            elif answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().body.close()  # cancelled just when the response came
            raise

    def _send_parts(self, head: bytes, parts: tuple[Buffer, ...], body: Body) -> None:
        """A little goes out at once, much of it piece by piece as the origin takes it."""
        if (body.length or 0) <= self._piece:
            self.write([head, *parts])
            body.close()
            return
        self._outgoing = body
        self._pieces = chain((head,), _pieces(parts, self._piece))
        self._send_pieces()

    def _send_pieces(self) -> None:
        while self._outgoing is not None and not self.is_write_paused:
            if (piece := next(self._pieces, None)) is not None:
                self.write([piece])
            else:
                self._let_go()

    def _let_go(self) -> None:
        """Nothing of the request's body is held here any more."""
        self._pieces = iter(())
        if self._outgoing is not None:
            body, self._outgoing = self._outgoing, None
            body.close()

    def resume_writing(self) -> None:
        """The origin takes more of the request."""
        super().resume_writing()
        self._send_pieces()

    async def _send(self, body: Body, parts: tuple[Buffer, ...], answer: "asyncio.Future[Response]") -> None:
        self._sending = body
        is_chunked = body.length is None
        try:
            while parts or (parts := await body.take()):
                self.write(encode_chunk(parts) if is_chunked else parts)
                await self.drained()
                parts = ()
        except (BodyError, ConnectionError):
            if not answer.done():
                raise
            return  # what became of the answer is known already
        if is_chunked:
            self.write([LAST_CHUNK])
        self._sending = None

    # What the socket tells

    def data_received(self, data: bytes) -> None:
        """Bytes of a response, or what nobody asked for."""
        if self._pipe is None and not self._is_awaited:
            self.cut()
            return
        try:
            head, parts, ended = self._codec.receive(data)
        except PeerError:
            self._broken(Fault.PROTOCOL, Cut.FRAMING)
            return
        if head is not None:
            self._answered(head, parts, whole=ended)
        elif parts and self._pipe is not None:
            self._pipe.feed(parts)
        if ended:
            self._ended()
        elif self._codec.failed is not None:  # what came before the fault is good
            self._broken(Fault.PROTOCOL, Cut.FRAMING)

    def _ended(self) -> None:
        """The response is here to its end."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            pipe.end()
        self._release()

    def _answered(self, head: ResponseHead, parts: list[Buffer], *, whole: bool) -> None:
        self._is_spent = 300 <= head.status < 400 and not self._keeps_redirected
        body: Body
        if whole and (not parts or self._max_bytes is None or sum(map(len, parts)) <= self._max_bytes):
            body = BytesBody(parts) if parts else EMPTY
        else:
            body = self._pipe = Pipe(self, self._limits, head.length, self._max_bytes)
            if parts:
                self._pipe.feed(parts)
        self._settled().set_result(Response(head.status, head.headers, body))

    @property
    def _is_awaited(self) -> bool:
        """Whether somebody waits for a response's head; who was cancelled does not, even before it knows."""
        return self._answer is not None and not self._answer.done()

    def _settled(self) -> "asyncio.Future[Response]":
        """The waiting exchange's future; from now on the connection may serve another exchange."""
        answer, self._answer = self._answer, None
        self.deadline = _NEVER
        assert answer is not None  # noqa: S101  # the caller has looked
        if self._sending is not None:
            self._sending.close()  # the rest of the request will not be sent
            self.resume_writing()
        return answer

    def _release(self) -> None:
        is_sent = self._sending is None and self._outgoing is None and not self.has_unsent
        if is_sent and not self._is_spent and self.is_free:
            if self.is_reading_paused:
                self.resume()
            self._owner.released(self)
        else:
            self.cut()

    def eof_received(self) -> bool:
        """The peer sends no more: the end of a close-delimited body, or a loss."""
        try:
            if not self.is_end_said():
                self._broken(Fault.RESET, Cut.RESET)
            elif self._codec.receive_eof():
                self._ended()
        except PeerError:
            self._broken(Fault.RESET, Cut.RESET)
        return False

    def lost(self) -> None:
        """The socket is gone."""
        self._broken(Fault.RESET, Cut.RESET)
        self._let_go()
        self._owner.gone(self)

    def _broken(self, fault: Fault, cut: Cut) -> None:
        if self._is_awaited:
            self._settled().set_exception(ExchangeError(fault, sent=True))
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            pipe.fail(cut)
        if not self.is_lost:
            self.cut()

    # What the pipe and the pool say

    def body_cut(self) -> None:
        """Nobody wants the rest of the response."""
        self._pipe = None
        self.cut()

    def overdue(self) -> None:
        """The response's head did not come in time."""
        self.deadline = _NEVER
        self._broken(Fault.TIMEOUT, Cut.IDLE)

    @property
    def is_free(self) -> bool:
        """Whether an exchange may begin, as far as is known without asking the socket."""
        return self._codec.reusable and not self.is_closing


def _pieces(parts: tuple[Buffer, ...], size: int) -> Iterator[Buffer]:
    """`parts` in slices of at most `size` bytes."""
    for part in parts:
        for start in range(0, len(part), size):
            yield memoryview(part)[start : start + size]
