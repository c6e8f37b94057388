"""HTTP/2 on one connection, what both sides share (RFC 9113): bytes to events, and frames to send. No I/O, no clock.

Owns the order of frames, exchanges and their ends, credit, stream errors, floods and GOAWAY. Field sections, SETTINGS
and PING are h2's (`proxy.wire.shadow`), what fields mean is in `proxy.wire.fields`. Times, tasks and what to answer are
the connection's. The two sides are in `proxy.wire.h2_server` and `proxy.wire.h2_client`.

Nothing that a peer sends makes a codec raise. A connection error (section 5.4.1) puts GOAWAY into the output and sets
`failed`; what came before it is good and is returned, and nothing is read after it. A stream error (section 5.4.2)
ends one exchange, which an event says.

After each call that may send something its caller takes the `output` and writes it; calls of one turn share a write.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from proxy.wire.credit import Credit
from proxy.wire.events import Buffer, PeerError
from proxy.wire.field_block import FieldBlock
from proxy.wire.fields import check_trailers
from proxy.wire.frames import (
    ACK,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    ConnectionFault,
    ErrorCode,
    Frame,
    FrameReader,
    FrameType,
    goaway_frame,
    ping_frame,
    unpadded,
    window_frame,
)
from proxy.wire.h2_events import DataReceived, Event, ExchangeReset, GoneAway, PingAnswered, SendingDone
from proxy.wire.h2_exchange import CodecSettings, H2Exchange
from proxy.wire.headers import Field
from proxy.wire.outbox import Outbox
from proxy.wire.shadow import Shadow
from proxy.wire.toil import Toil

__all__ = ["MAX_EXCHANGES", "H2Codec"]

MAX_EXCHANGES = 10_000
"""Exchanges of one connection; then it is drained. The states of h2 grow with them."""

_SETTINGS_ENTRIES = 32
_CONNECTION_WINDOW = MAX_WINDOW
_FIRST_WINDOW = 65_535  # what a connection's window is before it is widened (section 6.9.2)
_RESETS_REMEMBERED = 256
_DATA = int(FrameType.DATA)


class H2Codec(ABC):
    """One side of a connection. See the module for how faults are reported.

    An exchange is known from its first HEADERS to `release`, so that work that is still going on for an exchange that
    has ended counts against the bounds.
    """

    def __init__(self, settings: CodecSettings, *, is_client: bool) -> None:
        self.failed: ConnectionFault | None = None
        """Why nothing more is read: the connection is to be closed once its output is sent."""
        self.peer_last: int | None = None
        """Once the peer has sent GOAWAY: the highest stream that it acts on."""
        self.last = 0
        """The highest stream that the client of this connection has begun."""
        self._settings = settings
        self._shadow = Shadow(settings, is_client=is_client)
        self._exchanges: dict[int, H2Exchange] = {}
        self._open = 0  # of them, those that are not closed
        self._credit = Credit(_CONNECTION_WINDOW)
        self._toil = Toil()
        self._out = Outbox(self._toil)
        self._reader = FrameReader()
        self._events: list[Event] = []
        self._has_settings = False
        self._block = FieldBlock(settings.head.head_bytes)
        self._resets: dict[int, None] = {}  # streams that we reset: what still comes of them was on its way
        self._out.put(self._shadow.greeting)
        self._out.put(window_frame(0, _CONNECTION_WINDOW - _FIRST_WINDOW))

    # What a connection asks

    @property
    def output_bytes(self) -> int:
        """Bytes that `take_output` would return."""
        return self._out.size

    @property
    def is_within_head(self) -> bool:
        """Whether a field block, or a frame that is not DATA, has begun and its end is awaited."""
        return self._block.is_open or self._reader.is_within

    @property
    def exchanges(self) -> int:
        """Exchanges that are not released."""
        return len(self._exchanges)

    def unsent(self, stream: int) -> int:
        """Bytes of an exchange's body that wait for the peer's credit."""
        exchange = self._exchanges.get(stream)
        return 0 if exchange is None else exchange.out.queued

    def take_output(self) -> list[Buffer]:
        """The frames to send now."""
        return self._out.take()

    # What a connection does

    def send_body(self, stream: int, parts: Iterable[Buffer]) -> None:
        """Send bytes of a body (section 6.1): what the peer's credit does not admit waits, see `unsent`.

        With a declared length the last byte ends the message. Dropped when the exchange is over. Raises RuntimeError
        for more than was declared.
        """
        exchange = self._exchanges.get(stream)
        if exchange is not None and self._out.send(exchange.out, parts):
            self._end_sent(exchange)

    def end_body(self, stream: int) -> None:
        """The body is whole, once what was given is sent."""
        exchange = self._exchanges.get(stream)
        if exchange is not None and self._out.end(exchange.out):
            self._end_sent(exchange)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End an exchange at once (section 6.4), if it is not over. No event follows."""
        exchange = self._exchanges.get(stream)
        if exchange is not None and not exchange.is_closed:
            self._reset(exchange, code)

    def release(self, stream: int) -> None:
        """The exchange is done with: its place is free. What has not ended of it is reset (section 8.1)."""
        exchange = self._exchanges.get(stream)
        if exchange is not None:
            if not exchange.is_closed:
                self._reset(exchange, exchange.code if exchange.out.is_ended else ErrorCode.CANCEL)
            del self._exchanges[stream]

    def pause(self, stream: int) -> None:
        """Return no credit for the exchange's body: its sender goes on until its window is used up."""
        exchange = self._exchanges.get(stream)
        if exchange is not None:
            exchange.credit.hold()

    def resume(self, stream: int) -> None:
        """Return credit again."""
        exchange = self._exchanges.get(stream)
        if exchange is not None and not exchange.is_dropping and not exchange.is_received:
            exchange.credit.release()
            if due := exchange.credit.due():
                self._return_credit(stream, due)

    def drop_body(self, stream: int) -> None:
        """What still comes of the exchange's body is not wanted: no event, and no more credit for it."""
        exchange = self._exchanges.get(stream)
        if exchange is not None:
            exchange.is_dropping = True
            exchange.credit.hold()

    def ping(self, payload: bytes) -> None:
        """Send PING with 8 bytes; `PingAnswered` answers it (section 6.7)."""
        self._out.put(ping_frame(payload))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY: of the peer's streams those that have begun run to their end (section 6.8)."""
        self._out.put(goaway_frame(self._last_accepted(), code))

    # What the peer sends

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes bring, in order. Sets `failed` at a connection error."""
        if self.failed is None:
            try:
                data = self._past_preface(data)
                if data:
                    self._receive_frames(data)
            except ConnectionFault as fault:
                self.failed = fault
                self._out.put(goaway_frame(self._last_accepted(), fault.code))
        events, self._events = self._events, []
        return events

    def _past_preface(self, data: bytes) -> bytes:
        """What follows the bytes that come before the first frame. Raises ConnectionFault."""
        return data

    def _receive_frames(self, data: bytes) -> None:
        toil, block = self._toil, self._block
        for frame in self._reader.receive(data):
            if frame[0] == _DATA and self._has_settings and not block.is_open:
                self._receive_data(frame)
            else:
                self._receive_other(frame)
            if toil.left < 0:
                raise ConnectionFault("too many frames that move nothing", ErrorCode.ENHANCE_YOUR_CALM)

    def _receive_other(self, frame: Frame) -> None:
        kind = frame.kind
        block = self._block
        if block.is_open and (kind != FrameType.CONTINUATION or frame.stream != block.stream):
            raise ConnectionFault("a head is interrupted by another frame")
        if not self._has_settings:
            if kind != FrameType.SETTINGS or frame.flags & ACK:
                raise ConnectionFault("the first frame is not SETTINGS")
            self._has_settings = True
        match kind:
            case FrameType.HEADERS | FrameType.CONTINUATION:
                if (fields := block.receive(frame)) is not None:
                    self._end_block(block.stream, fields, ended=block.ended)
            case FrameType.RST_STREAM:
                self._receive_reset(frame)
            case FrameType.WINDOW_UPDATE:
                self._receive_window(frame)
            case FrameType.SETTINGS:
                self._receive_settings(frame)
            case FrameType.PING:
                self._receive_ping(frame)
            case FrameType.GOAWAY:
                self._receive_goaway(frame)
            case FrameType.PUSH_PROMISE:
                raise ConnectionFault("a push that was not allowed")
            case FrameType.PRIORITY if not frame.stream:
                raise ConnectionFault("a frame of no stream")
            case _:  # priorities are not kept (section 5.3.2), unknown frames are ignored (section 5.5)
                self._toil.count()

    def _check_begun(self, stream: int) -> None:
        """Raise for a frame of no stream, or of one that no HEADERS have begun (section 5.1)."""
        if not stream or not stream & 1 or stream > self.last:
            raise ConnectionFault("a frame of a stream that has not begun")

    # DATA

    def _receive_data(self, frame: Frame) -> None:
        """Section 6.1. Sizes are judged when a frame begins, so that no split changes the verdict."""
        _, flags, stream, payload, size, is_whole = frame
        exchange = self._exchanges.get(stream)
        if size and (due := self._credit.receive(size)):
            self._return_credit(0, due)
        if exchange is None or exchange.is_received or exchange.is_closed:
            self._receive_stray(frame, exchange)
            return
        count = size
        if flags & PADDED:
            payload = unpadded(frame)
            count = len(payload)
            self._toil.count()
        if size and (due := exchange.credit.receive(size)):
            if due < 0:
                self._stream_fault(exchange, ErrorCode.FLOW_CONTROL_ERROR)
                return
            self._return_credit(stream, due)
        ended = flags & END_STREAM > 0
        if count:
            self._toil.moved()
        elif not payload:
            self._toil.count()
        if (count or not payload) and not exchange.is_dropping:  # not a later piece of a frame
            if (fault := exchange.count_body(count, ended=ended)) is not None:
                self._malformed(exchange, fault)
            if exchange.is_closed:
                return
        ended = ended and is_whole
        if ended:
            self._shadow.receive_end(stream)
            self._received(exchange)
        if not exchange.is_dropping and (payload or ended):
            self._add_data(stream, payload, ended=ended)

    def _return_credit(self, stream: int, due: int) -> None:
        if due < 0:
            raise ConnectionFault("more data than there was credit for", ErrorCode.FLOW_CONTROL_ERROR)
        self._out.put(window_frame(stream, due))

    def _add_data(self, stream: int, payload: Buffer, *, ended: bool) -> None:
        """An event, or part of the last one, which has not left the codec."""
        events = self._events
        last = events[-1] if events else None
        if isinstance(last, DataReceived) and last.stream == stream:
            if payload:
                last.parts.append(payload)
            last.ended = ended
        else:
            events.append(DataReceived(stream, [payload] if payload else [], ended))

    def _receive_stray(self, frame: Frame, exchange: H2Exchange | None) -> None:
        """DATA of a stream that has ended (section 5.1)."""
        stream = frame.stream
        self._check_begun(stream)
        if not frame.size and len(frame.payload):
            return  # a later piece of a frame
        self._toil.count()
        if exchange is not None and not exchange.is_closed:
            self._stream_fault(exchange, ErrorCode.STREAM_CLOSED)
        elif exchange is None and stream not in self._resets:
            self._out.put(self._shadow.reset(stream, ErrorCode.STREAM_CLOSED))
            self._remember_reset(stream)

    # Field blocks

    def _end_block(self, stream: int, block: bytes, *, ended: bool) -> None:
        """A block is whole. It is decoded in any case: the state of the compression depends on each (section 4.3)."""
        exchange = self._exchanges.get(stream)
        if exchange is None and self._begins_exchange(stream):
            self._first_block(stream, self._shadow.receive_block(stream, block, ended=ended), ended=ended)
        elif exchange is None or exchange.is_closed or exchange.is_received:
            self._toil.count_costly()
            self._shadow.receive_block(stream, block, ended=ended)  # h2 resets it, or raises
            self._out.put(self._shadow.output())
            if exchange is not None and not exchange.is_closed:
                self._closed(exchange)
                self._events.append(ExchangeReset(stream, ErrorCode.STREAM_CLOSED, is_ours=True))
        elif exchange.has_head:
            self._receive_trailers(exchange, self._shadow.receive_block(stream, block, ended=True), ended=ended)
        else:
            self._next_block(exchange, self._shadow.receive_block(stream, block, ended=ended), ended=ended)

    def _receive_trailers(self, exchange: H2Exchange, fields: list[Field], *, ended: bool) -> None:
        """Section 8.1. h2 was told that they end the stream, which they must."""
        error = None if ended else PeerError("trailers that end nothing")
        try:
            check_trailers(fields, self._settings.head)
        except PeerError as fault:
            error = fault
        if error is None and exchange.left:
            error = PeerError("the body is not as long as its content-length")
        self._received(exchange)
        if exchange.is_dropping:
            return
        if error is not None:
            self._malformed(exchange, error)
        else:
            self._add_data(exchange.stream, b"", ended=True)

    @abstractmethod
    def _begins_exchange(self, stream: int) -> bool:
        """Whether HEADERS of an unknown `stream` begin an exchange. Raises ConnectionFault when they cannot be."""

    @abstractmethod
    def _first_block(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        """A peer has begun an exchange."""

    @abstractmethod
    def _next_block(self, exchange: H2Exchange, fields: list[Field], *, ended: bool) -> None:
        """A head of an exchange that we have begun."""

    @abstractmethod
    def _malformed(self, exchange: H2Exchange, error: PeerError) -> None:
        """A message is not what it should be (section 8.1.1): drop what still comes of it, and say so."""

    @abstractmethod
    def _last_accepted(self) -> int:
        """The peer's highest stream that was or may be acted on: what GOAWAY says."""

    # Control frames

    def _receive_reset(self, frame: Frame) -> None:
        """RST_STREAM (section 6.4)."""
        stream = frame.stream
        self._check_begun(stream)
        self._toil.count_costly()
        exchange = self._exchanges.get(stream)
        if exchange is None or exchange.is_closed:
            return
        self._shadow.receive_control(FrameType.RST_STREAM, 0, stream, bytes(frame.payload))
        self._closed(exchange)
        code = int.from_bytes(frame.payload, "big")
        self._events.append(ExchangeReset(stream, code, is_unprocessed=code == ErrorCode.REFUSED_STREAM))

    def _receive_window(self, frame: Frame) -> None:
        """WINDOW_UPDATE (section 6.9)."""
        stream = frame.stream
        increment = int.from_bytes(frame.payload, "big") & MAX_WINDOW
        self._toil.count()
        if not stream:
            if not increment:
                raise ConnectionFault("a window is widened by nothing")
            if not self._out.widen_connection(increment):
                raise ConnectionFault("a window is too wide", ErrorCode.FLOW_CONTROL_ERROR)
            for flow in self._out.go_round():
                self._sent(self._exchanges[flow.stream])
            return
        self._check_begun(stream)
        exchange = self._exchanges.get(stream)
        if exchange is None or exchange.is_closed:
            return
        if not increment:
            self._stream_fault(exchange, ErrorCode.PROTOCOL_ERROR)
        elif not self._out.widen(exchange.out, increment):
            self._stream_fault(exchange, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._go_on(exchange)

    def _receive_settings(self, frame: Frame) -> None:
        """SETTINGS (section 6.5). h2 judges the values and acknowledges them."""
        if frame.stream:
            raise ConnectionFault("a connection's frame names a stream")
        if frame.size > 6 * _SETTINGS_ENTRIES:
            raise ConnectionFault("too many settings", ErrorCode.ENHANCE_YOUR_CALM)
        self._toil.count_costly()
        before = self._shadow.peer_window
        self._shadow.receive_control(FrameType.SETTINGS, frame.flags, 0, bytes(frame.payload))
        self._out.put(self._shadow.output())
        self._out.allow(self._shadow.peer_frame_bytes)
        widened = self._shadow.peer_window - before
        if not widened:
            return
        for exchange in list(self._exchanges.values()):
            if not self._out.widen(exchange.out, widened):
                raise ConnectionFault("a window is too wide", ErrorCode.FLOW_CONTROL_ERROR)
            self._go_on(exchange)

    def _receive_ping(self, frame: Frame) -> None:
        """PING (section 6.7). h2 answers it."""
        if frame.stream:
            raise ConnectionFault("a connection's frame names a stream")
        self._toil.count_costly()
        if frame.flags & ACK:
            self._receive_pong(bytes(frame.payload))
        else:
            self._shadow.receive_control(FrameType.PING, 0, 0, bytes(frame.payload))
            self._out.put(self._shadow.output())

    def _receive_pong(self, payload: bytes) -> None:
        self._events.append(PingAnswered(payload))

    def _receive_goaway(self, frame: Frame) -> None:
        """GOAWAY (section 6.8)."""
        if frame.stream:
            raise ConnectionFault("a connection's frame names a stream")
        self._toil.count()
        last = int.from_bytes(frame.payload[:4], "big") & MAX_WINDOW
        code = int.from_bytes(frame.payload[4:8], "big")
        self.peer_last = last if self.peer_last is None else min(last, self.peer_last)
        self._events.append(GoneAway(self.peer_last, code))

    # Ends

    def _go_on(self, exchange: H2Exchange) -> None:
        had = exchange.out.queued
        self._out.go_on(exchange.out)
        if had and not exchange.out.queued:
            self._sent(exchange)

    def _sent(self, exchange: H2Exchange) -> None:
        """What waited for credit is in the output."""
        self._events.append(SendingDone(exchange.stream))
        if exchange.out.is_ended:
            self._end_sent(exchange)

    def _end_sent(self, exchange: H2Exchange) -> None:
        """DATA with END_STREAM is in the output."""
        self._shadow.end_sent(exchange.stream)
        self._ended(exchange)

    def _received(self, exchange: H2Exchange) -> None:
        exchange.is_received = True
        self._ended(exchange)

    def _ended(self, exchange: H2Exchange) -> None:
        """One side has ended: the exchange is over if the other has, too."""
        if exchange.is_received and exchange.out.is_ended and not exchange.is_closed:
            self._toil.answered()
            self._closed(exchange)

    def _stream_fault(self, exchange: H2Exchange, code: ErrorCode) -> None:
        """The peer broke the rules of one stream (section 5.4.2)."""
        self._toil.count_costly()
        self._reset(exchange, code)
        self._events.append(ExchangeReset(exchange.stream, code, is_ours=True))

    def _reset(self, exchange: H2Exchange, code: ErrorCode) -> None:
        self._out.put(self._shadow.reset(exchange.stream, code))
        self._remember_reset(exchange.stream)
        self._closed(exchange)

    def _closed(self, exchange: H2Exchange) -> None:
        if not exchange.is_closed:
            exchange.is_closed = True
            self._open -= 1
            self._out.forget(exchange.out)

    def _remember_reset(self, stream: int) -> None:
        self._resets[stream] = None
        if len(self._resets) > _RESETS_REMEMBERED:
            del self._resets[next(iter(self._resets))]

    def _add(self, exchange: H2Exchange) -> None:
        self._exchanges[exchange.stream] = exchange
        self._open += 1

    def _new_exchange(self, stream: int) -> H2Exchange:
        return H2Exchange(stream, self._settings.window_bytes, self._shadow.peer_window)
