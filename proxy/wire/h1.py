"""HTTP/1.1 on one connection, both sides (RFC 9112): bytes to events and heads to bytes. No I/O, no clock.

Owns the order of things: head, body, end, next head. What heads mean is in `proxy.wire.head`, bodies are in
`proxy.wire.body`. Times, draining and what to answer are the connection's.

A codec whose `receive` finds a fault after something good returns that, and its `failed` says what came after it;
every later `receive`, `receive_eof` or `next_request` raises it. A fault with nothing good before it is raised at
once. Either way nothing that a peer sends makes a codec raise anything but PeerError.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus
from typing import Generic

from proxy.wire.body import BodyDecoder, ChunkedDecoder, LengthDecoder, UntilCloseDecoder
from proxy.wire.events import (
    Buffer,
    HeadLimits,
    HeadT,
    PeerError,
    Received,
    RequestHead,
    ResponseHead,
)
from proxy.wire.head import HeadReader, origin_of, request_head, response_framing, response_lines
from proxy.wire.headers import Headers
from proxy.wire.plain import is_plain_informational, plain_request_head, plain_response_head

__all__ = ["CONTINUE", "LAST_CHUNK", "ClientCodec", "ServerCodec", "encode_chunk"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_WITHOUT_LENGTH = (b"GET", b"HEAD", b"DELETE", b"OPTIONS")


class _State(Enum):
    HEAD = "a head is awaited or has begun"
    BODY = "a body is being received"
    WAIT = "the message has ended, the next one is not asked for yet"
    CLOSED = "nothing more is read"


def encode_chunk(parts: Iterable[Buffer]) -> list[Buffer]:
    """One chunk (RFC 9112 section 7.1) that holds `parts`, which are passed on as they are. Nothing for no bytes."""
    payload = list(parts)
    size = sum(map(len, payload))
    return [b"%x\r\n" % size, *payload, b"\r\n"] if size else []


class _Codec(ABC, Generic[HeadT]):
    """What both sides share: where in a message they are, and its body's framing."""

    def __init__(self, limits: HeadLimits, *, is_server: bool) -> None:
        self.failed: PeerError | None = None
        self._limits = limits
        self._reader = HeadReader(limits, is_request=is_server)
        self._decoder: BodyDecoder = LengthDecoder(0)
        self._state = _State.HEAD if is_server else _State.WAIT

    def receive(self, data: bytes) -> Received[HeadT]:
        """What `data` brings of the message that is due. Bytes after its end: see the class.

        Raises PeerError, or sets `failed` when something came before the fault.
        """
        if self.failed is not None:
            raise self.failed
        if self._state is _State.BODY:
            return self._receive_body(None, data, 0)
        if self._state is _State.HEAD:
            return self._receive_head_or_fail(data, 0)
        if self._state is _State.WAIT:
            self._receive_after_end(data, 0)
        return None, [], False

    def _receive_head_or_fail(self, data: bytes, start: int) -> Received[HeadT]:
        try:
            return self._receive_head(data, start)
        except PeerError as error:
            self.failed = error
            raise

    @abstractmethod
    def _receive_head(self, data: bytes, start: int) -> Received[HeadT]:
        """What is in `data[start:]` while a head is awaited or has begun. Raises PeerError."""

    def _receive_body(self, head: HeadT | None, data: bytes, start: int) -> Received[HeadT]:
        """What of the body is in `data[start:]`, after `head`."""
        decoder = self._decoder
        parts = decoder.receive(data, start)
        if decoder.done:
            self._end(data, decoder.end)
            return head, parts, True
        if decoder.failed is not None:
            self.failed = decoder.failed
            if head is None and not parts:
                raise self.failed
        return head, parts, False

    def _end(self, data: bytes, end: int) -> None:
        """The message has ended, at `data[end]`."""
        self._state = _State.WAIT
        if end < len(data):
            self._receive_after_end(data, end)

    @abstractmethod
    def _receive_after_end(self, data: bytes, start: int) -> None:
        """`data[start:]`, which is not empty, follows a message's end."""


class ServerCodec(_Codec[RequestHead]):
    """The server's side of a connection: requests in order, each parsed when the one before has been answered.

    Bytes after a request's end wait for `next_request`, in the very buffer in which they came: what is pipelined is
    copied at most once, however many requests it holds.
    """

    def __init__(self, limits: HeadLimits, max_body: int) -> None:
        super().__init__(limits, is_server=True)
        self._max_body = max_body
        self._waiting = b""
        self._waiting_at = 0  # where in it the next request begins
        self._refused = b""
        self._is_old = False
        self._keep_alive = True
        self._eof = False

    @property
    def buffered(self) -> int:
        """Bytes of memory that hold what waits for `next_request`: at most twice as many as wait.

        Nothing here bounds them: the caller stops reading while there are any.
        """
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Between requests, and no byte of the next one has been received."""
        return self._state is _State.HEAD and not self._reader.received

    @property
    def keep_alive(self) -> bool:
        """Another request may follow the present one: neither its head nor the response's head said otherwise."""
        return self._keep_alive

    @property
    def origin(self) -> bytes | None:
        """The Origin in a head that was refused or is not whole, when one plain line says it."""
        return origin_of(self._refused or self._reader.received)

    def receive_eof(self) -> None:
        """The peer sends no more. Raises PeerError when that cuts a request short."""
        if self.failed is not None:
            raise self.failed
        self._eof = True
        if self._is_within_request():
            self.failed = _cut_short()
            raise self.failed

    def next_request(self) -> Received[RequestHead]:
        """The response to the present request has been sent: parse what waits. Raises as `receive`.

        Called before the request's End it raises RuntimeError: drain the body, or close the connection.
        """
        if self.failed is not None:
            raise self.failed
        if self._state in (_State.HEAD, _State.BODY):
            raise RuntimeError("the request has not ended")
        if not self._keep_alive:
            self.close()
            return None, [], False
        self._state = _State.HEAD
        if not self._waiting:
            return None, [], False
        waiting, self._waiting = self._waiting, b""
        received = self._receive_head_or_fail(waiting, self._waiting_at)
        if self._eof and self.failed is None and self._is_within_request():
            self.failed = _cut_short()
            if received[0] is None:
                raise self.failed
        return received

    def close(self) -> None:
        """Nothing more is read: drop what waits."""
        self._waiting = b""
        self._state = _State.CLOSED

    def send_head(
        self,
        status: int,
        headers: Headers,
        length: int | None,
        *,
        request: RequestHead | None,
        keep_alive: bool,
        date: bytes = b"",
    ) -> tuple[bytes, bool]:
        """A response's head, and whether its body is to be sent in chunks (`encode_chunk`, then `LAST_CHUNK`).

        `length` is the body's bytes, None when unknown. `request` is what is answered, None when it could not be
        read. `headers` hold no framing field, but for HEAD the content-length that GET would have. `date` is the
        value of the Date field for headers without one. To HTTP/1.0 a body of unknown length ends where the
        connection does: afterwards `keep_alive` of this codec is false.
        """
        is_head = request is not None and request.method == b"HEAD"
        chunked = False
        framing = b""
        if status >= 200 and status not in (204, 304):
            if is_head:
                if length and b"content-length" not in headers:
                    framing = b"content-length: %d\r\n" % length
            elif length is not None:
                framing = b"content-length: %d\r\n" % length
            elif self._is_old:
                keep_alive = False
            else:
                chunked = True
                framing = b"transfer-encoding: chunked\r\n"
        self._keep_alive = self._keep_alive and keep_alive
        if not self._keep_alive:
            framing += b"connection: close\r\n"
        elif self._is_old:
            framing += b"connection: keep-alive\r\n"
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        if date and b"date" not in headers:
            framing = b"date: %b\r\n%b" % (date, framing)
        return b"%b%b%b\r\n" % (line, headers.encode(), framing), chunked

    def _is_within_request(self) -> bool:
        return self._state is _State.BODY or (self._state is _State.HEAD and self._reader.received != b"")

    def _receive_head(self, data: bytes, start: int) -> Received[RequestHead]:
        begun = self._reader.received
        try:
            found = self._read_head(data, start)
        except PeerError:
            self._refused = begun + data[start : start + self._limits.head_bytes]
            raise
        if found is None:
            return None, [], False
        head, end = found
        self._keep_alive = head.keep_alive
        if head.length == 0 and end == len(data):
            self._state = _State.WAIT
            return head, [], True
        self._decoder = self._body_decoder(head.length)
        self._state = _State.BODY
        return self._receive_body(head, data, end)

    def _body_decoder(self, length: int | None) -> BodyDecoder:
        return ChunkedDecoder(self._limits, self._max_body) if length is None else LengthDecoder(length)

    def _read_head(self, data: bytes, start: int) -> tuple[RequestHead, int] | None:
        """The head that `data[start:]` completes and where in it that ends. Raises PeerError."""
        found = None if self._reader.received else plain_request_head(data, start, self._limits)
        if found is not None:
            self._is_old = False
        else:
            whole = self._reader.receive(data, start)
            if whole is None:
                return None
            raw, end = whole
            head, self._is_old = request_head(raw, self._limits)
            found = head, end
        if (found[0].length or 0) > self._max_body:
            raise PeerError("the body is too large", 413)
        return found

    def _receive_after_end(self, data: bytes, start: int) -> None:
        if not self._keep_alive:
            return
        if self._waiting:
            self._waiting, self._waiting_at = self._waiting[self._waiting_at :] + data[start:], 0
        elif 2 * (len(data) - start) < len(data):
            self._waiting, self._waiting_at = data[start:], 0
        else:
            self._waiting, self._waiting_at = data, start


class ClientCodec(_Codec[ResponseHead]):
    """The client's side of a connection: one exchange at a time, begun by `send_head`.

    Informational responses are passed over: any number, as long as they and the final head together are no larger
    than a head may be. Bytes that belong to no exchange are dropped, and end the reuse.
    """

    def __init__(self, limits: HeadLimits) -> None:
        super().__init__(limits, is_server=False)
        self._method = b""
        self._heads = 0  # bytes of heads so far, informational ones included
        self._keep_alive = True
        self.reusable = True
        """An exchange may begin: none is under way, the last one ended cleanly, and no byte came after it.

        Whether the last request was sent to its end is for its sender to know.
        """

    def send_head(self, method: bytes, target: bytes, headers: Headers, length: int | None) -> bytes:
        """The head of a request, which begins an exchange. RuntimeError when the connection is not `reusable`.

        `length` is the body's bytes, None: it is sent in chunks. `headers` hold Host and no framing field.
        """
        if not self.reusable:
            raise RuntimeError("the connection is not free for another exchange")
        self.reusable = False
        self._state = _State.HEAD
        self._method = method
        self._heads = 0
        if length is None:
            framing = b"transfer-encoding: chunked\r\n"
        elif length == 0 and method in _WITHOUT_LENGTH:
            framing = b""
        else:
            framing = b"content-length: %d\r\n" % length
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, headers.encode(), framing)

    def receive_eof(self) -> bool:
        """The peer sends no more; whether that ends a body as it should. Raises PeerError when it cuts one short."""
        if self.failed is not None:
            raise self.failed
        self._keep_alive = self.reusable = False
        if self._state is _State.WAIT:
            return False
        if self._state is _State.HEAD:
            self.failed = PeerError("the connection ended before the response")
        else:
            self._decoder.receive_eof()
            self.failed = self._decoder.failed
        self._state = _State.CLOSED
        if self.failed is not None:
            raise self.failed
        return True

    def _receive_head(self, data: bytes, start: int) -> Received[ResponseHead]:
        if not self._reader.received and not self._heads and self._method != b"HEAD":
            found = plain_response_head(data, start, self._limits)
            if found is not None:
                head, position = found
                return self._begin_body(head, data, position, chunked=head.length is None)
        position = start
        while True:
            whole = self._reader.receive(data, position)
            if whole is None:
                return None, [], False
            raw, position = whole
            self._heads += len(raw)
            if self._heads > self._limits.head_bytes:
                raise PeerError("the head and the informational ones before it are too large")
            if is_plain_informational(raw, self._limits):
                continue
            response = response_lines(raw, self._limits)
            if response.status >= 200:
                break
        length, chunked, self._keep_alive = response_framing(response, self._method)
        head = ResponseHead(response.status, Headers.trusted(response.fields), length)
        return self._begin_body(head, data, position, chunked=chunked)

    def _begin_body(self, head: ResponseHead, data: bytes, start: int, *, chunked: bool) -> Received[ResponseHead]:
        if chunked:
            self._decoder = ChunkedDecoder(self._limits, is_lenient=True)
        elif head.length is None:
            self._decoder = UntilCloseDecoder()
        elif head.length == 0 and start == len(data):
            self._end(data, start)
            return head, [], True
        else:
            self._decoder = LengthDecoder(head.length)
        self._state = _State.BODY
        return self._receive_body(head, data, start)

    def _end(self, data: bytes, end: int) -> None:
        self._state = _State.WAIT
        self.reusable = self._keep_alive and end == len(data)

    def _receive_after_end(self, data: bytes, start: int) -> None:
        self.reusable = False


def _cut_short() -> PeerError:
    return PeerError("the connection ended within a request")
