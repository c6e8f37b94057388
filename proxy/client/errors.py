"""The errors of this package: the proxy refused, the network failed, or a stream ended before it was whole.

An upstream's own error is none of these: it stays a response, with its status, headers and body.
No message holds a URL, because a stream's URL is a credential. Text from elsewhere is escaped, so that printing or
logging an error can neither move a terminal's cursor nor begin a second log line.
"""

from enum import Enum

from proxy.streams.names import Outcome

__all__ = [
    "INVALID_RESPONSE",
    "DurableError",
    "IncompleteStream",
    "NetworkError",
    "NetworkFault",
    "ProxyError",
    "printable",
]

INVALID_RESPONSE = "INVALID_RESPONSE"  # our own code for an answer that breaks the protocol


def printable(text: str) -> str:
    """`text` with every control, format and line-separating character as a backslash escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


class DurableError(Exception):
    """The base of all errors of this package."""


class ProxyError(DurableError):
    """The proxy refused, or an answer was not what its protocol allows.

    - `code`: the proxy's code (`UPSTREAM_NOT_ALLOWED`, …). `HTTP_` and the status when the answer carried no code, so
      something between the client and the proxy sent it. `INVALID_RESPONSE` when an answer broke the protocol.
    - `message`: for people, escaped by `printable`.
    - `status`: of the HTTP answer. `retry_after`: seconds, None when the answer named none.
    """

    def __init__(self, code: str, message: str, *, status: int, retry_after: float | None = None) -> None:
        self.code = code
        self.message = printable(message)
        super().__init__(f"{code}: {self.message}")
        self.status = status
        self.retry_after = retry_after

    @property
    def from_proxy(self) -> bool:
        """Whether the proxy itself said this, in its own error object; else something between sent the answer."""
        return not self.code.startswith("HTTP_") and self.code != INVALID_RESPONSE

    @property
    def may_repeat(self) -> bool:
        """Whether repeating the request can never lead to a second upstream call.

        True when the proxy says that it sent nothing upstream. True also when something between answered: a create is
        repeated under its key, and everything else changes nothing.
        """
        return not self.from_proxy or self.status in (408, 425, 429, 503)

    @property
    def gone(self) -> bool:
        """Whether the proxy said that the stream no longer exists."""
        return self.code == "STREAM_NOT_FOUND"

    @property
    def unauthorized(self) -> bool:
        """Whether the proxy said that the caller's credentials do not open the stream."""
        return self.from_proxy and self.status in (401, 403)


class NetworkFault(Enum):
    """What failed between the client and the proxy; the values are the names of httpx's exceptions."""

    CONNECT = "ConnectError"
    CONNECT_TIMEOUT = "ConnectTimeout"
    POOL_TIMEOUT = "PoolTimeout"
    WRITE = "WriteError"
    WRITE_TIMEOUT = "WriteTimeout"
    READ = "ReadError"
    READ_TIMEOUT = "ReadTimeout"
    PROTOCOL = "RemoteProtocolError"
    REQUEST = "LocalProtocolError"  # the request itself can never be sent


class NetworkError(DurableError):
    """The connection to the proxy failed, and no retry was left. `fault` says how it failed last."""

    def __init__(self, fault: NetworkFault, detail: str) -> None:
        super().__init__(printable(detail))
        self.fault = fault


class IncompleteStream(DurableError):
    """The stream ended before the answer was whole. `outcome` says why; `bytes_read` bytes were delivered before."""

    def __init__(self, outcome: Outcome, bytes_read: int) -> None:
        super().__init__(f"the stream ended early ({outcome.value}) after {bytes_read} bytes")
        self.outcome = outcome
        self.bytes_read = bytes_read
