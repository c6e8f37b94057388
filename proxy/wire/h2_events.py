"""What an HTTP/2 codec reports of what it received. Each event names its exchange by its stream's number."""

from dataclasses import dataclass

from proxy.wire.events import Buffer, PeerError, RequestHead, ResponseHead

__all__ = [
    "DataReceived",
    "Event",
    "ExchangeReset",
    "GoneAway",
    "PingAnswered",
    "RequestReceived",
    "RequestRefused",
    "ResponseReceived",
    "SendingDone",
]


@dataclass(slots=True)
class RequestReceived:
    """A request's head. `ended`: no body follows."""

    stream: int
    head: RequestHead
    ended: bool


@dataclass(slots=True)
class ResponseReceived:
    """A final response's head. `ended`: no body follows."""

    stream: int
    head: ResponseHead
    ended: bool


@dataclass(slots=True)
class RequestRefused:
    """A server's: a request may not go on as `error` says, which can be answered if no response has begun.

    Without a RequestReceived before it its head was refused; `origin` is then its Origin, if that can be trusted. What
    still comes of its body is dropped.
    """

    stream: int
    error: PeerError
    origin: bytes | None


@dataclass(slots=True)
class DataReceived:
    """Bytes of a body, none of the parts empty. `ended`: it is whole; it was as long as its content-length."""

    stream: int
    parts: list[Buffer]
    ended: bool


@dataclass(slots=True)
class ExchangeReset:
    """An exchange was reset: by the peer, or by us because the peer broke the protocol; nothing more comes of it.

    `code` is RST_STREAM's (RFC 9113 section 7). `is_unprocessed`: the peer certainly did not act on the request.
    """

    stream: int
    code: int
    is_ours: bool = False
    is_unprocessed: bool = False


@dataclass(slots=True)
class SendingDone:
    """What waited for the peer's credit was sent, all of it."""

    stream: int


@dataclass(slots=True)
class GoneAway:
    """The peer begins no exchange and takes no new one; those up to stream `last` run to their end (section 6.8)."""

    last: int
    code: int


@dataclass(slots=True)
class PingAnswered:
    """The peer has answered a PING (section 6.7)."""

    payload: bytes


Event = (
    RequestReceived
    | ResponseReceived
    | RequestRefused
    | DataReceived
    | ExchangeReset
    | SendingDone
    | GoneAway
    | PingAnswered
)
