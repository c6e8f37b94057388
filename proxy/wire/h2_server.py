"""The server's side of an HTTP/2 connection (RFC 9113). What both sides share is in `proxy.wire.h2`."""

from proxy.wire.events import PeerError
from proxy.wire.fields import origin_in, request_head, response_fields
from proxy.wire.frames import MAX_WINDOW, PREFACE, ConnectionFault, ErrorCode, goaway_frame, ping_frame
from proxy.wire.h2 import MAX_EXCHANGES, H2Codec
from proxy.wire.h2_events import RequestReceived, RequestRefused
from proxy.wire.h2_exchange import CodecSettings, H2Exchange
from proxy.wire.headers import Field, Headers

__all__ = ["H2ServerCodec"]

_DRAIN_PING = b"draining"
_ENDING = 2  # exchanges that are still being ended may be as many again as those that are open


class H2ServerCodec(H2Codec):
    """Requests in, responses out. A response is `send_head`, then `send_body` any number of times, then `end_body`.

    Each exchange is released by its owner, after its response or when it was reset.

    Draining takes two GOAWAYs (section 6.8): the first says that there will be an end, and a PING behind it finds out
    when the client knows; the second names the last stream that is acted on. So no request is lost on its way.
    """

    def __init__(self, settings: CodecSettings, max_body: int) -> None:
        super().__init__(settings, is_client=False)
        self._max_body = max_body
        self._preface = PREFACE
        self._final: int | None = None  # the last stream that is acted on, once the client knows
        self._is_draining = False

    @property
    def is_drained(self) -> bool:
        """Whether the connection may be closed: no exchange is left, and none will begin."""
        return not self._exchanges and (self._final is not None or self.peer_last is not None)

    def drain(self) -> None:
        """Accept no more exchanges than are on their way. Harmless when repeated."""
        if not self._is_draining and self.failed is None:
            self._is_draining = True
            self._out.put(goaway_frame(MAX_WINDOW, ErrorCode.NO_ERROR))
            self._out.put(ping_frame(_DRAIN_PING))

    def refuse(self, stream: int) -> None:
        """A request that has just begun is not acted on: its client may ask again elsewhere (section 8.7)."""
        self._toil.count_costly()
        self.reset(stream, ErrorCode.REFUSED_STREAM)
        self.release(stream)

    def send_head(
        self, stream: int, status: int, headers: Headers, length: int | None, *, ended: bool = False, date: bytes = b""
    ) -> None:
        """Send a response's head (section 8.1), informational ones too. `ended`: no body follows.

        `length` is the body's bytes, None when unknown; to HEAD it is what GET would have. `headers` hold no framing
        field. Dropped when the exchange is over.
        """
        exchange = self._exchanges.get(stream)
        if exchange is None or exchange.is_closed:
            return
        said = length if status >= 200 and status not in (204, 304) else None
        if exchange.method == b"HEAD":
            said = said or None
        fields = response_fields(status, headers, said, date)
        if status >= 200 and not ended:
            exchange.out.left = length
        self._shadow.send_block(stream, fields, ended=ended)
        self._out.put(self._shadow.output())
        if ended:
            exchange.out.is_ended = True
            self._ended(exchange)

    def _past_preface(self, data: bytes) -> bytes:
        """Section 3.4."""
        if not self._preface:
            return data
        begun = data[: len(self._preface)]
        if not self._preface.startswith(begun):
            raise ConnectionFault("not the preface of HTTP/2")
        self._preface = self._preface[len(begun) :]
        return data[len(begun) :]

    def _begins_exchange(self, stream: int) -> bool:
        if not stream & 1:
            raise ConnectionFault("a client's stream has an even number")
        return stream > self.last

    def _first_block(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        self.last = stream
        exchange = self._new_exchange(stream)
        is_full = self._open >= self._settings.exchanges or self.exchanges >= _ENDING * self._settings.exchanges
        if is_full or (self._final is not None and stream > self._final):
            self._toil.count_costly()
            self._out.put(self._shadow.reset(stream, ErrorCode.REFUSED_STREAM))
            self._remember_reset(stream)
            return
        self._add(exchange)
        exchange.has_head = True
        exchange.is_received = ended
        if stream > 2 * MAX_EXCHANGES:
            self.drain()
        try:
            head = request_head(fields, self._settings.head, ended=ended)
            if (head.length or 0) > self._max_body:
                raise PeerError("the body is too large", 413)
        except PeerError as error:
            self._refuse(exchange, error, origin_in(fields))
            return
        exchange.left = head.length
        exchange.room = self._max_body
        exchange.method = head.method
        self._events.append(RequestReceived(stream, head, ended))

    def _next_block(self, exchange: H2Exchange, fields: list[Field], *, ended: bool) -> None:
        raise AssertionError("a server's exchange begins with its head")

    def _malformed(self, exchange: H2Exchange, error: PeerError) -> None:
        self._refuse(exchange, error)

    def _refuse(self, exchange: H2Exchange, error: PeerError, origin: bytes | None = None) -> None:
        """A response may be sent before the stream is reset (section 8.1.1)."""
        self._toil.count_costly()
        exchange.is_dropping = True
        exchange.credit.hold()
        if error.status == 400:
            exchange.code = ErrorCode.PROTOCOL_ERROR
        self._events.append(RequestRefused(exchange.stream, error, origin))

    def _receive_pong(self, payload: bytes) -> None:
        if payload != _DRAIN_PING:
            super()._receive_pong(payload)
        elif self._is_draining and self._final is None:
            self._final = self.last
            self._out.put(goaway_frame(self._final, ErrorCode.NO_ERROR))

    def _last_accepted(self) -> int:
        return self.last if self._final is None else self._final
