"""A server is a function from `Request` to `Response`. Owns both, and the faults of an exchange."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from proxy.http.body import EMPTY, Body
from proxy.wire.headers import Headers

__all__ = ["ExchangeError", "Fault", "Handler", "Request", "Response"]


@dataclass(slots=True)
class Request:
    """A request: `target` is in origin form, as on the wire.

    `timeout`: the longest wait for the response's head, in seconds; None: no limit. `max_response_bytes`: the largest
    body of a response; one more byte cuts the body with `Cut.LIMIT` and closes the connection; None: no limit. Both are
    for a client connection. Other handlers ignore them.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: Body = EMPTY
    timeout: float | None = None
    max_response_bytes: int | None = None

    def __repr__(self) -> str:
        """Method and path, without the query, which may hold a signature."""
        return f"<Request {self.method.decode()} {self.target.partition(b'?')[0].decode('latin-1')}>"


@dataclass(slots=True)
class Response:
    """A response. Its receiver must close the body; until the body's end or its close, the connection is in use."""

    status: int
    headers: Headers
    body: Body = EMPTY

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


Handler = Callable[[Request], Awaitable[Response]]


class Fault(Enum):
    """What went wrong between sending a request and receiving the response's head."""

    BUSY = "no connection became free in time"
    DNS = "the host name could not be resolved"
    FORBIDDEN = "the host resolves to an address that is not allowed"
    CONNECT = "the connection could not be opened"
    EGRESS = "the egress proxy could not be reached or refused"
    DESCRIPTORS = "no file descriptor was free"
    TLS = "the TLS handshake failed"
    RESET = "the connection was lost before the response"
    TIMEOUT = "the response did not come in time"
    PROTOCOL = "the response was not valid HTTP"
    REFUSED = "the request was refused before it was acted on"
    LEAVING = "the connection took no more requests"
    VERSION = "the request must be made over HTTP/1.1"


class ExchangeError(Exception):
    """There is no response: `fault` says why, `sent` whether a byte of the request may have reached the peer.

    `detail` says exactly what was wrong. It contains none of the peer's bytes, no address and no credential.
    """

    def __init__(self, fault: Fault, *, sent: bool, detail: str = "") -> None:
        super().__init__(f"{fault.value}: {detail}" if detail else fault.value)
        self.fault = fault
        self.sent = sent
        self.detail = detail

    @property
    def is_loss(self) -> bool:
        """Whether the connection was lost during the exchange. That happens to idle connections: a new one may work."""
        return self.fault is Fault.RESET

    @property
    def is_unprocessed(self) -> bool:
        """Whether the peer certainly did not act on the request: it may be sent again, once, on another connection."""
        return self.fault in (Fault.REFUSED, Fault.LEAVING, Fault.VERSION)
