"""What can go wrong, told apart: the proxy's answer, the network, a stream that ended before it was whole.

An upstream's own error is none of these: it stays a response, with its status, headers and body.
No message here holds a URL, because a stream's URL is a credential.
"""

from enum import Enum

from proxy.streams.names import Outcome

__all__ = ["DurableError", "Fault", "IncompleteStream", "NetworkError", "ProxyError"]


class DurableError(Exception):
    """Whatever this package raises by itself."""


class ProxyError(DurableError):
    """The proxy refused, or answered what its protocol does not allow.

    `code` is the proxy's (`UPSTREAM_NOT_ALLOWED`, …), `HTTP_418` when a response without one came from something in
    between, `INVALID_RESPONSE` when the protocol was broken. `retry_after` is in seconds.
    """

    def __init__(self, code: str, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after

    @property
    def gone(self) -> bool:
        """The stream is out of reach for good: not there, not ours, or not what the protocol says."""
        return self.status in (200, 401, 403, 404, 410)


class Fault(Enum):
    """What failed between us and the proxy; the values are the names that httpx gives to it."""

    CONNECT = "ConnectError"
    CONNECT_TIMEOUT = "ConnectTimeout"
    POOL_TIMEOUT = "PoolTimeout"
    WRITE = "WriteError"
    WRITE_TIMEOUT = "WriteTimeout"
    READ = "ReadError"
    READ_TIMEOUT = "ReadTimeout"
    PROTOCOL = "RemoteProtocolError"
    REQUEST = "LocalProtocolError"  # the request itself cannot be sent, ever


class NetworkError(DurableError):
    """The proxy could not be reached, or not for long enough; raised when the retries are used up."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


class IncompleteStream(DurableError):
    """The stream ended, but not because the answer was whole. `bytes_read` were delivered before this was raised."""

    def __init__(self, outcome: Outcome, bytes_read: int) -> None:
        super().__init__(f"the stream ended early ({outcome.value}) after {bytes_read} bytes")
        self.outcome = outcome
        self.bytes_read = bytes_read
