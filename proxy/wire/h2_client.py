"""The client's side of an HTTP/2 connection (RFC 9113). What both sides share is in `proxy.wire.h2`."""

from proxy.wire.events import PeerError
from proxy.wire.fields import request_fields, response_head
from proxy.wire.frames import ConnectionFault, ErrorCode, Frame
from proxy.wire.h2 import MAX_EXCHANGES, H2Codec
from proxy.wire.h2_events import ExchangeReset, ResponseReceived
from proxy.wire.h2_exchange import CodecSettings, H2Exchange
from proxy.wire.headers import Field, Headers

__all__ = ["H2ClientCodec"]

_INFORMATIONAL = 16
"""Informational heads of one response."""


class H2ClientCodec(H2Codec):
    """Requests out, responses in. A request is `send_head`, then `send_body` any number of times, then `end_body`.

    Each exchange is released by its owner, after its response or when it was reset. Informational responses and
    trailers are checked and passed over.
    """

    def __init__(self, settings: CodecSettings) -> None:
        super().__init__(settings, is_client=True)

    @property
    def room(self) -> int:
        """How many more exchanges may begin now: one in all until the peer's SETTINGS are here."""
        if self.failed is not None or self.peer_last is not None or self.last > 2 * MAX_EXCHANGES:
            return 0
        limit = min(self._shadow.peer_streams, self._settings.exchanges) if self._has_settings else 1
        return max(limit - self.exchanges, 0)

    @property
    def has_settings(self) -> bool:
        """Whether the peer's SETTINGS are here."""
        return self._has_settings

    @property
    def is_spent(self) -> bool:
        """Whether no exchange will ever begin any more: the connection is to be closed after the last one."""
        return self.failed is not None or self.peer_last is not None or self.last > 2 * MAX_EXCHANGES

    def send_head(self, method: bytes, scheme: bytes, target: bytes, headers: Headers, length: int | None) -> int:
        """Begin an exchange (section 8.1): the number of its stream. RuntimeError when there is no `room`.

        `length` is the body's bytes, 0: none follows and nothing needs ending; None: unknown. `headers` hold Host and
        no framing field.
        """
        if not self.room:
            raise RuntimeError("the connection has no room for another exchange")
        stream = self._shadow.next_stream()
        ended = length == 0
        exchange = self._new_exchange(stream)
        exchange.method = method
        self._shadow.send_block(stream, request_fields(method, scheme, target, headers, length), ended=ended)
        self._out.put(self._shadow.output())
        self.last = stream
        self._add(exchange)
        exchange.out.left = length
        exchange.out.is_ended = ended
        return stream

    def _begins_exchange(self, stream: int) -> bool:
        self._check_begun(stream)
        return False

    def _first_block(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        raise AssertionError("a server begins no exchange")

    def _next_block(self, exchange: H2Exchange, fields: list[Field], *, ended: bool) -> None:
        exchange.is_received = ended
        try:
            head = response_head(fields, self._settings.head, exchange.method, ended=ended)
        except PeerError as error:
            self._malformed(exchange, error)
            return
        if head.status < 200:
            exchange.informational += 1
            if exchange.informational > _INFORMATIONAL:
                self._stream_fault(exchange, ErrorCode.ENHANCE_YOUR_CALM)
            return
        exchange.has_head = True
        exchange.left = head.length
        self._events.append(ResponseReceived(exchange.stream, head, ended))
        if ended:
            self._received(exchange)

    def _malformed(self, exchange: H2Exchange, error: PeerError) -> None:
        self._stream_fault(exchange, ErrorCode.PROTOCOL_ERROR)

    def _receive_data(self, frame: Frame) -> None:
        exchange = self._exchanges.get(frame.stream)
        if exchange is not None and not exchange.has_head and not exchange.is_closed:
            raise ConnectionFault("a body comes before its head")
        super()._receive_data(frame)

    def _receive_goaway(self, frame: Frame) -> None:
        super()._receive_goaway(frame)
        assert self.peer_last is not None  # noqa: S101  # it was set just now
        for exchange in list(self._exchanges.values()):
            if exchange.stream > self.peer_last and not exchange.is_closed:
                self._closed(exchange)
                self._events.append(ExchangeReset(exchange.stream, ErrorCode.REFUSED_STREAM, is_unprocessed=True))

    def _last_accepted(self) -> int:
        return 0
