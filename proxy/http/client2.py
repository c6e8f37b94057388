"""HTTP/2 on a client's connection: many exchanges at once, and what ends one of them or all.

An exchange ends alone: when its response is whole, when the origin resets it, when its head is late, or when its caller
wants no more. If it has not ended by itself, RST_STREAM says so, and the connection goes on.

The connection takes no more exchanges after GOAWAY, after a refused exchange, and after as many as the codec allows.
Those that the origin acts on run to their end. The last one closes the connection. A lost socket and a connection error
end all of them.

The socket is always read. One body cannot hold up another, because each exchange has a window of its own: what a paused
body has received is not returned. The connection's window is as large as can be.

A connection that carries exchanges and hears nothing for a while asks for a sign of life by PING. Without an answer
it is closed: an origin's machine may be gone without a word. After a late head such silence is enough for it to take no
more exchanges.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.http.body import BodyError, Cut
from proxy.http.client import NEVER, ClientConnection, ClientLimits, ConnectionOwner, Exchange
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.net.connection import READ_BYTES
from proxy.wire.events import Buffer
from proxy.wire.frames import ErrorCode
from proxy.wire.h2_client import H2ClientCodec
from proxy.wire.h2_events import DataReceived, Event, ExchangeReset, ResponseReceived, SendingDone
from proxy.wire.h2_exchange import CodecSettings

__all__ = ["Http2Client", "Http2Settings"]

_PING = b"are you?"

_JOINED_BYTES = 65_536
"""Up to this size frames are joined: that costs less than a vector of many."""


@dataclass(frozen=True, slots=True)
class Http2Settings:
    """What bounds HTTP/2 connections to upstreams."""

    upstream_exchanges: int  # most exchanges of one connection at once
    ping_seconds: float  # silence after which a connection that carries exchanges is asked for a sign of life
    pong_seconds: float  # longest wait for that sign


class _Call(Exchange):
    """One exchange of a connection, and the source of its response's pipe."""

    __slots__ = ("_connection", "_is_over", "body", "pieces", "stream")

    def __init__(self, connection: "Http2Client", request: Request, stream: int) -> None:
        super().__init__(connection.loop, request)
        self._connection = connection
        self._is_over = False
        self.stream = stream
        self.body = request.body
        self.pieces: Iterator[Buffer] | None = None  # what has not been sent of the request's body, None: all was

    def pause(self) -> None:
        """See Source: return no credit."""
        self._connection.codec.pause(self.stream)

    def resume(self) -> None:
        """See Source: return credit."""
        self._connection.codec.resume(self.stream)
        self._connection.write_soon()

    def body_cut(self) -> None:
        """See Source: the taker wants no more of the response."""
        self.pipe = None
        self._connection.forget(self)

    def over(self) -> None:
        """Nothing more is sent of the request: let go of its body. Harmless when repeated."""
        self.pieces = None
        if not self._is_over:
            self._is_over = True
            self.body.close()


class Http2Client(ClientConnection):
    """A connection to an origin that speaks HTTP/2. It must be an https origin."""

    def __init__(self, owner: ConnectionOwner, limits: ClientLimits, settings: Http2Settings) -> None:
        super().__init__(owner, capacity=1, is_settled=False)
        self.loop = self._loop
        self._limits = limits
        self._settings = settings
        window = min(limits.body.high_water, READ_BYTES)  # what waits in a pipe grows by no more, as over HTTP/1.1
        self.codec = H2ClientCodec(CodecSettings(limits.head, window, settings.upstream_exchanges))
        self._calls: dict[int, _Call] = {}
        self._is_write_due = False
        self._is_retired = False  # a request was refused: no other one begins here
        self._heard = self._loop.time()  # when something was last received
        self._asked: float | None = None  # when a PING was sent that is not answered

    # Lending

    def is_fit(self, *, look: bool) -> bool:
        """See ClientConnection. Unread bytes belong to other exchanges; an unread FIN or RST makes it useless."""
        return not self.is_closing and not self._is_spent and not (look and self.has_peer_left())

    @property
    def _is_spent(self) -> bool:
        return self._is_retired or self.codec.is_spent

    def retire(self) -> None:
        """See ClientConnection."""
        self._is_retired = True
        super().retire()

    def _measure(self) -> None:
        """The capacity may have changed. Tell the owner when there may be more room than it knows of."""
        before, was_settled = self.capacity, self.is_settled
        self.capacity = 0 if self._is_spent or self.is_closing else self.codec.room + self.codec.exchanges
        self.is_settled = self.is_settled or self.codec.has_settings
        if self.capacity > before or self.is_settled != was_settled:
            self._owner.settled(self)

    # The request

    async def exchange(self, request: Request) -> Response:
        """See ClientConnection. `request.body` must have arrived whole; it is closed when all of it was handed over.

        Raises ExchangeError with a fault that `is_unprocessed` when the request may be sent on another connection.
        """
        if self.is_closing or self._is_retired or not self.codec.room:
            if not self.is_lost:
                self._owner.released(self)
            raise ExchangeError(Fault.LEAVING, sent=False)
        call = self._begin(request)
        try:
            return await call.response()
        except BaseException:
            if not call.abandoned():
                self.forget(call)
            raise

    def _begin(self, request: Request) -> _Call:
        body = request.body
        try:
            parts = body.take_nowait()
        except BodyError:
            self._owner.released(self)
            raise
        stream = self.codec.send_head(request.method, b"https", request.target, request.headers, body.length)
        call = self._calls[stream] = _Call(self, request, stream)
        now = self._loop.time()
        if len(self._calls) == 1:  # silence without an exchange means nothing
            self._heard, self._asked = now, None
        self.deadline = min(self.deadline, call.deadline, now + self._settings.ping_seconds)
        if (body.length or 0) <= self._limits.piece:
            self.codec.send_body(stream, parts)
            call.over()
        else:
            call.pieces = _pieces(parts, self._limits.piece)
            self._send_pieces(call)
        self.write_soon()
        return call

    def _send_pieces(self, call: _Call) -> None:
        """Send a large body piece by piece, as the origin and the socket take it."""
        while call.pieces is not None and not self.is_write_paused and not self.codec.unsent(call.stream):
            piece = next(call.pieces, None)
            if piece is None:
                call.over()
                return
            self.codec.send_body(call.stream, [piece])
            self._write()

    def resume_writing(self) -> None:
        """The socket has taken what was written."""
        super().resume_writing()
        for call in list(self._calls.values()):
            if call.pieces is not None:
                self._send_pieces(call)

    # The response: what the socket reports

    def opened(self) -> None:
        """The handshake is done: greet."""
        self.write_soon()

    def data_received(self, data: bytes) -> None:
        """Frames, or pieces of them."""
        self._heard = self._loop.time()
        if self._asked is not None:
            self._asked = None
            self.deadline = min(self.deadline, self._heard + self._settings.ping_seconds)
        for event in self.codec.receive(data):
            self._on(event, len(data))
        if self.codec.failed is not None:
            self._fail(self.codec.failed.fault)
            return
        self._measure()
        self._close_if_over()
        self.write_soon()

    def _on(self, event: Event, read: int) -> None:
        """One event of a read of so many bytes."""
        match event:
            case ResponseReceived(stream, head, ended):
                if (call := self._calls.get(stream)) is not None and call.is_awaited:
                    call.deadline = NEVER
                    call.answered(call, self._limits.body, head, [], is_whole=ended)
                    if ended:
                        self.forget(call)
            case DataReceived(stream, parts, ended):
                if (call := self._calls.get(stream)) is not None:
                    if parts and call.pipe is not None:
                        call.pipe.feed(_apart(parts, read))
                    if ended:
                        call.end()
                        self.forget(call)
            case ExchangeReset(stream):
                if (call := self._calls.get(stream)) is not None:
                    self._reset(call, event)
            case SendingDone(stream):
                if (call := self._calls.get(stream)) is not None:
                    self._send_pieces(call)

    def _reset(self, call: _Call, event: ExchangeReset) -> None:
        """An exchange was reset, by the origin or because the origin broke the protocol."""
        if event.is_ours:
            call.fail(Fault.PROTOCOL, Cut.FRAMING, "a stream broke the rules of HTTP/2")
        elif event.is_unprocessed and call.is_awaited:
            self._is_retired = True
            call.fail(Fault.REFUSED if self.codec.peer_last is None else Fault.LEAVING, Cut.RESET)
        elif event.code == ErrorCode.HTTP_1_1_REQUIRED and call.is_awaited:
            self._is_retired = True
            call.fail(Fault.VERSION, Cut.RESET)
        else:
            call.fail(Fault.RESET, Cut.RESET, "the stream was reset")
        self.forget(call)

    def forget(self, call: _Call) -> None:
        """An exchange is over; RST_STREAM says so if one of its sides had not ended. Harmless when repeated."""
        if self._calls.pop(call.stream, None) is None:
            return
        call.over()
        self.codec.reset(call.stream, ErrorCode.CANCEL)
        self.codec.release(call.stream)
        self._measure()
        self._owner.released(self)
        self.write_soon()
        if not self._calls and self._is_spent:
            self._loop.call_soon(self._close_if_over)  # what is received in this turn may still be about it

    def eof_received(self) -> bool:
        """The origin sends no more: the loop closes the connection, and `lost` ends what is in progress."""
        return False

    def lost(self) -> None:
        """The socket is gone, and every exchange with it."""
        self.capacity = 0
        self._end_all(Fault.RESET, "")
        self._owner.gone(self)

    def _fail(self, detail: str) -> None:
        """A connection error: say so, end every exchange, and close."""
        self.is_settled = True
        self.capacity = 0
        self._end_all(Fault.PROTOCOL, detail)
        self._write()
        self.leave()

    def _end_all(self, fault: Fault, detail: str) -> None:
        calls, self._calls = self._calls, {}
        cut = Cut.FRAMING if fault is Fault.PROTOCOL else Cut.RESET
        for call in calls.values():
            call.over()
            call.fail(fault, cut, detail)

    def _close_if_over(self) -> None:
        """Close a connection that takes no more, once its last exchange is over."""
        if self._is_spent and not self._calls and not self.is_closing:
            self._write()
            self.leave()

    # Writing

    def write_soon(self) -> None:
        """What the codec holds leaves in this turn of the loop: all exchanges share the write."""
        if self.codec.output_bytes and not self._is_write_due:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_write_due = False
        size = self.codec.output_bytes
        output = self.codec.take_output()
        if output and not self.is_lost:
            self.write([b"".join(output)] if size <= _JOINED_BYTES else output)

    # Time

    def overdue(self) -> bool:
        """See ClientConnection."""
        now = self._loop.time()
        late = [call for call in self._calls.values() if call.deadline <= now]
        if late and now >= self._heard + self._settings.pong_seconds:
            self._is_retired = True  # the origin may be gone: a new connection might work
        for call in late:
            call.fail(Fault.TIMEOUT, Cut.IDLE)
            self.forget(call)
        self.deadline = min((call.deadline for call in self._calls.values()), default=NEVER)
        if self._calls and not self.is_closing:
            self.deadline = min(self.deadline, self._look_for_life(now))
        self._close_if_over()
        return bool(late)

    def _look_for_life(self, now: float) -> float:
        """Ask a silent origin, and give up one that does not answer. When to look again, in the loop's time."""
        settings = self._settings
        if self._asked is not None:
            if now >= self._asked + settings.pong_seconds:
                self.cut()
            return self._asked + settings.pong_seconds
        if now < self._heard + settings.ping_seconds:
            return self._heard + settings.ping_seconds
        self._asked = now
        self.codec.ping(_PING)
        self._write()
        return now + settings.pong_seconds


def _apart(parts: list[Buffer], read: int) -> list[Buffer]:
    """`parts` of a read of so many bytes; copied when they are the smaller part of it.

    A slice keeps its whole read in memory, however long its taker waits. The bodies of other exchanges in the same read
    are gone by then, and nobody would count what is left of it.
    """
    return parts if 2 * sum(map(len, parts)) >= read else [bytes(part) for part in parts]


def _pieces(parts: tuple[Buffer, ...], size: int) -> Iterator[Buffer]:
    """`parts` in slices of at most `size` bytes."""
    for part in parts:
        for start in range(0, len(part), size):
            yield memoryview(part)[start : start + size]
