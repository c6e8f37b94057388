"""HTTP/1.1 on a client's connection: one exchange at a time, and whether the connection can serve another.

A request is sent while its response is already read: an origin may refuse an upload after its head. So a connection
can serve another exchange only when the response has ended *and* the request was sent to its end.

An origin that refuses early and closes resets the connection, because it has not read the rest of the request. The
first write after the reset fails, and the loop then closes the socket together with the response that waits in it. So
before each piece of a request this connection checks the socket, and reads what can be read. And when the socket is
lost, it reads what is still unread.
"""

import asyncio
from collections.abc import Iterator
from itertools import chain

from proxy.http.body import READING_TURNS, Body, BodyError, Cut
from proxy.http.client import NEVER, ClientConnection, ClientLimits, ConnectionOwner, Exchange
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.wire.events import Buffer, PeerError, ResponseHead
from proxy.wire.h1 import LAST_CHUNK, ClientCodec, encode_chunk

__all__ = ["Http1Client"]


class Http1Client(ClientConnection):
    """A connection to an origin that speaks HTTP/1.1."""

    __slots__ = ("_codec", "_exchange", "_is_spent", "_limits", "_outgoing", "_pieces", "_sending")

    def __init__(self, owner: ConnectionOwner, limits: ClientLimits) -> None:
        super().__init__(owner, capacity=1, is_settled=True)
        self._limits = limits
        self._codec = ClientCodec(limits.head)
        self._is_spent = False  # not to be used again, even if the exchange ends cleanly
        self._exchange: Exchange | None = None
        self._sending: Body | None = None  # what of the request has not been written yet
        self._outgoing: Body | None = None  # the request's body, while pieces of it are in memory here
        self._pieces: Iterator[Buffer] = iter(())

    def is_fit(self, *, look: bool) -> bool:
        """See ClientConnection. An unread FIN and stray bytes make a connection useless."""
        return self._codec.reusable and not self.is_closing and (not look or self.is_quiet())

    async def exchange(self, request: Request) -> Response:
        """See ClientConnection. An exchange that fails or is cancelled closes the connection.

        A request body that has arrived whole is sent while the response is read. It is closed when all of it is
        written.
        """
        if self.is_closing:
            raise ExchangeError(Fault.RESET, sent=False)
        exchange = self._exchange = Exchange(self._loop, request)
        self.deadline = exchange.deadline
        body = request.body
        try:
            head = self._codec.send_head(request.method, request.target, request.headers, body.length)
            parts = body.take_nowait()
            if body.ended and body.length is not None:
                self._send_parts(head, parts, body)
            else:
                self.write([head])
                await self._send(body, parts, exchange)
            return await exchange.response()
        except BaseException:
            if not exchange.abandoned():
                self._exchange = None
                self.deadline = NEVER
                self.cut()
            raise

    # The request

    def _send_parts(self, head: bytes, parts: tuple[Buffer, ...], body: Body) -> None:
        """Write a small body at once, a large one piece by piece as the origin reads it."""
        if (body.length or 0) <= self._limits.piece:
            self.write([head, *parts])
            body.close()
            return
        self._outgoing = body
        self._pieces = chain((head,), _pieces(parts, self._limits.piece))
        self._send_pieces()

    def _send_pieces(self, turns: int = READING_TURNS) -> None:
        """Write pieces until the buffer is full. `turns` of the loop may pass first, to read what has arrived."""
        while self._outgoing is not None and not self.is_write_paused and not self.is_closing:
            if turns and self.has_unread():
                self._loop.call_soon(self._send_pieces, turns - 1)
                return
            turns = READING_TURNS
            if (piece := next(self._pieces, None)) is not None:
                self.write([piece])
            else:
                self._let_go()

    def _let_go(self) -> None:
        """No bytes of the request's body are held here any more."""
        self._pieces = iter(())
        if self._outgoing is not None:
            body, self._outgoing = self._outgoing, None
            body.close()

    def resume_writing(self) -> None:
        """The origin has read: write more of the request."""
        super().resume_writing()
        self._send_pieces()

    async def _send(self, body: Body, parts: tuple[Buffer, ...], exchange: Exchange) -> None:
        """Send a body that is still arriving, until it ends or the response has come and the rest is not needed."""
        self._sending = body
        is_chunked = body.length is None
        try:
            while parts or (parts := await body.take()):
                turns = READING_TURNS
                while turns and self.has_unread():
                    await asyncio.sleep(0)
                    turns -= 1
                self.write(encode_chunk(parts) if is_chunked else parts)
                await self.drained()
                parts = ()
        except (BodyError, ConnectionError):
            if exchange.is_awaited:
                raise
            return  # the response has come, or has failed
        if is_chunked:
            self.write([LAST_CHUNK])
        self._sending = None

    # The response: what the socket reports

    def data_received(self, data: bytes) -> None:
        """Bytes of a response, or bytes that no request asked for."""
        exchange = self._exchange
        if exchange is None or (exchange.pipe is None and not exchange.is_awaited):
            self.cut()
            return
        try:
            head, parts, ended = self._codec.receive(data)
        except PeerError as error:
            self._broken(Fault.PROTOCOL, Cut.FRAMING, error.fault)
            return
        if head is not None:
            self._answered(exchange, head, parts, is_whole=ended)
        elif parts and exchange.pipe is not None:
            exchange.pipe.feed(parts)
        if ended:
            self._ended()
        elif self._codec.failed is not None:  # the bytes before the fault are valid
            self._broken(Fault.PROTOCOL, Cut.FRAMING)

    def _answered(self, exchange: Exchange, head: ResponseHead, parts: list[Buffer], *, is_whole: bool) -> None:
        self._is_spent = 300 <= head.status < 400 and not self._limits.keeps_redirected
        self._stop_sending()
        exchange.answered(self, self._limits.body, head, parts, is_whole=is_whole)

    def _stop_sending(self) -> None:
        """The response has come, or has failed: the rest of the request's body will not be sent."""
        self.deadline = NEVER
        if self._sending is not None:
            self._sending.close()
            self.resume_writing()

    def _ended(self) -> None:
        """The response has arrived whole."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end()
        is_sent = self._sending is None and self._outgoing is None and not self.has_unsent
        if is_sent and not self._is_spent and self.is_fit(look=False):
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
        if self._exchange is not None and (rest := self.unread()):
            self.data_received(rest)
        self._broken(Fault.RESET, Cut.RESET)
        self._let_go()
        self._owner.gone(self)

    def _broken(self, fault: Fault, cut: Cut, detail: str = "") -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._stop_sending()
            exchange.fail(fault, cut, detail)
        if not self.is_lost:
            self.cut()

    def body_cut(self) -> None:
        """The taker wants no more of the response. Only closing the connection stops it."""
        self._exchange = None
        self.cut()

    def overdue(self) -> bool:
        """See ClientConnection."""
        self._broken(Fault.TIMEOUT, Cut.IDLE)
        return True


def _pieces(parts: tuple[Buffer, ...], size: int) -> Iterator[Buffer]:
    """`parts` in slices of at most `size` bytes."""
    for part in parts:
        for start in range(0, len(part), size):
            yield memoryview(part)[start : start + size]
