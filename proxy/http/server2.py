"""HTTP/2 on a server's connection: many answers at once, credit in both directions, the end in two GOAWAYs.

A connection is in one `_Phase`:

    OPEN --drain, or a spared place--> LEAVING --the last exchange is over--> CLOSED
     |                                    |
     +--- a connection error -------------+--> GRACE --> CLOSED

Each exchange is a request, its `Answer` in a task, and a deadline of its own. What ends one exchange ends no other:

- A client that gives no credit for a response stalls that exchange alone. After the stall time it is reset.
- A request's body is bounded by its window. A handler that does not take pauses its pipe, and a paused pipe's window is
  not returned; the connection's window always is, so that one body never holds up another.
- A request that breaks the rules is answered and then reset; the connection goes on.

A connection error ends them all: the client gets GOAWAY, and what it still sends is ignored for a while, so that
it reads that and not a reset. What must end the connection as a whole is otherwise only a socket that takes nothing.

All exchanges share one write for each turn of the loop: frames gather in the codec, and the first of them schedules the
write. One that gathers more than the socket should hold is written at once, because a body that never waits would let
no other turn begin.
"""

from enum import Enum

from proxy.http.answer import refusal_of
from proxy.http.exchange2 import Http2Exchange
from proxy.http.server import NEVER, HttpServer, ServerConnection
from proxy.net.connection import READ_BYTES
from proxy.wire.events import RequestHead
from proxy.wire.h2_events import (
    DataReceived,
    Event,
    ExchangeReset,
    GoneAway,
    RequestReceived,
    RequestRefused,
    SendingDone,
)
from proxy.wire.h2_exchange import CodecSettings
from proxy.wire.h2_server import H2ServerCodec

__all__ = ["Http2Connection"]

_JOINED_BYTES = 65_536
"""Up to this size frames are joined: that costs less than a vector of many, and over TLS each buffer is a record."""


class _Phase(Enum):
    """What a connection is doing. The meaning of its own deadline follows from it."""

    OPEN = "exchanges may begin; without one: head or idle deadline"
    LEAVING = "GOAWAY is sent, what has begun goes on; without an exchange: close grace"
    GRACE = "nothing more is answered, what still comes is ignored: close grace"
    CLOSED = "closing; while bytes are left to send: write deadline"


class Http2Connection(ServerConnection):
    """One client connection that speaks HTTP/2."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.server = server
        limits = self.limits = server.limits
        window = min(limits.max_waiting_bytes, READ_BYTES)  # what waits in a pipe grows by no more, as over HTTP/1.1
        self.codec = H2ServerCodec(
            CodecSettings(limits.head, window, limits.exchanges_per_connection), limits.max_request_bytes
        )
        self._phase = _Phase.OPEN
        self._exchanges: dict[int, Http2Exchange] = {}
        self._is_write_due = False
        self._idle_deadline = NEVER  # of the phase, while there is no exchange
        self._head_deadline = NEVER  # of a head that has begun
        self._write_deadline = NEVER  # of a socket that takes nothing
        self._taken = 0  # how far the client had come in taking what was sent when that was set
        self._ignorable = limits.close_grace_bytes

    # What the socket reports

    def opened(self) -> None:
        """A client connected: it must say something soon."""
        super().opened()
        self.set_high_water(self.limits.max_reader_bytes)
        self._rest(self.limits.head_timeout_seconds)
        if self.server.is_draining:
            self.close_if_idle()
        self.write_soon()

    def data_received(self, data: bytes) -> None:
        """Frames, or pieces of them."""
        if self._phase in (_Phase.GRACE, _Phase.CLOSED):
            self._ignore(len(data))
            return
        for event in self.codec.receive(data):
            self._on(event)
        if self.codec.failed is not None:
            self._fail()
            return
        if not self.codec.is_within_head:
            self._head_deadline = NEVER
        elif self._head_deadline == NEVER:
            self._head_deadline = self.due_in(self.limits.head_timeout_seconds)
        if not self._exchanges and self._phase is _Phase.OPEN:
            self._rest(self.limits.idle_timeout_seconds)
        self._close_if_over()
        self.write_soon()

    def _on(self, event: Event) -> None:
        match event:
            case RequestReceived(stream, head, ended):
                self._begin(stream, head, ended=ended)
            case DataReceived(stream, parts, ended):
                self._exchanges[stream].receive(parts, ended=ended)
            case RequestRefused(stream, error, origin):
                exchange = self._exchanges.get(stream)
                if exchange is None:
                    exchange = self._add(stream)
                    exchange.answer(None)
                exchange.refuse(refusal_of(error), origin)
            case ExchangeReset(stream):
                self._exchanges[stream].lose()
            case SendingDone(stream):
                self._exchanges[stream].go_on()
            case GoneAway():
                self._phase = _Phase.LEAVING

    def _begin(self, stream: int, head: RequestHead, *, ended: bool) -> None:
        if len(self.server.exchanges) >= self.limits.max_exchanges:
            self.codec.refuse(stream)
            return
        self._add(stream).ask(head, ended=ended)

    def _add(self, stream: int) -> Http2Exchange:
        self.set_busy()
        self._idle_deadline = NEVER
        exchange = self._exchanges[stream] = Http2Exchange(self, stream)
        return exchange

    def forget(self, stream: int) -> None:
        """An exchange is over."""
        self.codec.release(stream)
        del self._exchanges[stream]
        if not self._exchanges and self._phase in (_Phase.OPEN, _Phase.LEAVING):
            is_open = self._phase is _Phase.OPEN
            self._rest(self.limits.idle_timeout_seconds if is_open else self.limits.close_grace_seconds)
            self._close_if_over()
        self.write_soon()

    def _rest(self, seconds: float) -> None:
        """No exchange is in progress from now on."""
        self._idle_deadline = self.due_in(seconds)
        if self._phase is _Phase.OPEN:
            self.set_idle()

    def eof_received(self) -> bool:
        """The client sends no more. A quick answer still reaches it; a long one has lost its reader."""
        if not self._exchanges or self._phase in (_Phase.GRACE, _Phase.CLOSED):
            return False
        self._loop.call_later(self.limits.half_close_grace_seconds, self.cut)
        return not self.is_tls  # over TLS the loop ends the connection now, whatever is returned

    def look_for_end(self) -> None:
        """See ServerConnection. Reading is never paused."""

    def lost(self) -> None:
        """The socket is closed: whatever was in progress has no caller any more."""
        self._phase = _Phase.CLOSED
        self._lose_all()
        super().lost()

    def _lose_all(self) -> None:
        for exchange in list(self._exchanges.values()):
            exchange.lose()

    # Writing

    def write_soon(self) -> None:
        """What the codec holds leaves in this turn of the loop."""
        size = self.codec.output_bytes
        if size >= self.limits.max_reader_bytes:
            self._write()
        elif size and not self._is_write_due:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_write_due = False
        size = self.codec.output_bytes
        output = self.codec.take_output()
        if output:
            self.write([b"".join(output)] if size <= _JOINED_BYTES else output)

    def pause_writing(self) -> None:
        """The socket takes less than is written: from now on it must take something."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """The socket has taken what was written."""
        self._write_deadline = NEVER
        super().resume_writing()

    def _watch_sending(self) -> None:
        self._taken = self.taken
        self._write_deadline = self.due_in(self.limits.reader_timeout_seconds)

    # The end

    def close_if_idle(self) -> None:
        """See ServerConnection: begin to drain. The client learns it before anything that it has sent is lost."""
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.LEAVING
            self.codec.drain()
            if not self._exchanges:
                self._rest(self.limits.close_grace_seconds)
            self.write_soon()

    def _close_if_over(self) -> None:
        if self._phase in (_Phase.OPEN, _Phase.LEAVING) and self.codec.is_drained:
            self._close()

    def spare(self) -> None:
        """See ServerConnection."""
        self.codec.go_away()
        self._close()
        self.leave()

    def finish(self) -> None:
        """See ServerConnection."""
        self._write()
        if self.has_unsent or self.is_tls:
            self._close()
        else:
            self.cut()

    def _close(self) -> None:
        """Close once everything is sent, and while the client takes it."""
        self._phase = _Phase.CLOSED
        self.set_busy()
        self._write()
        self._idle_deadline = self._head_deadline = NEVER
        self.close()
        self._watch_sending()
        if self.is_tls:
            self._idle_deadline = self.due_in(self.limits.close_grace_seconds)

    def _fail(self) -> None:
        """A connection error: say so, and let the client read it. Over TLS, which has no half-close, it ends later."""
        self._phase = _Phase.GRACE
        self.set_busy()
        self._lose_all()
        self._write()
        self._head_deadline = NEVER
        if self.half_close() or self.is_tls:
            self._idle_deadline = self.due_in(self.limits.close_grace_seconds)
        else:
            self._close()

    def _ignore(self, count: int) -> None:
        self._ignorable -= count
        if self._ignorable < 0:
            self.cut()

    # Time

    def due_in(self, seconds: float) -> float:
        """The loop's time so many seconds from now; the sweep comes then."""
        due = self._loop.time() + seconds
        self.deadline = min(self.deadline, due)
        return due

    def overdue(self) -> None:
        """See ServerConnection. The deadline is the earliest of several, or was when it was set."""
        now = self._loop.time()
        self.deadline = NEVER
        for exchange in list(self._exchanges.values()):
            if exchange.deadline <= now:
                exchange.overdue()
        if self._write_deadline <= now:
            if self.has_unsent and self.taken > self._taken:
                self._watch_sending()  # the client is slow but takes something
            else:
                self.cut()
        if self._head_deadline <= now:
            self.cut()
        elif self._idle_deadline <= now:
            self._end_of_rest()
        if not self.is_lost:
            ends = (exchange.deadline for exchange in self._exchanges.values())
            self.deadline = min(self._idle_deadline, self._head_deadline, self._write_deadline, *ends)

    def _end_of_rest(self) -> None:
        """A connection has had no exchange for long enough, or has been closing for a while."""
        if self._phase is _Phase.CLOSED:  # over TLS: taken when nothing is unacknowledged, see Http1Connection
            if self.unsent:
                self._idle_deadline = self.due_in(self.limits.close_grace_seconds)
            else:
                self.cut()
        elif self._phase is _Phase.GRACE and not self.is_tls:
            self.cut()
        else:
            if self._phase is _Phase.OPEN:
                self.codec.go_away()
            self._close()
