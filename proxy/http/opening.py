"""Which HTTP version a new connection to an origin speaks: what the TLS handshake has agreed on (ALPN).

The connection that is dialled is replaced by the one that speaks as soon as its socket is open.
"""

from collections.abc import Callable

from proxy.http.client import ClientConnection
from proxy.net.connection import Connection

__all__ = ["Opening"]


class Opening(Connection):
    """A connection during its handshake. `speaker` is the connection that has replaced it, None before."""

    def __init__(self, http1: Callable[[], ClientConnection], http2: Callable[[], ClientConnection]) -> None:
        """`http1` and `http2` make the connection that speaks this version."""
        super().__init__()
        self._http1 = http1
        self._http2 = http2
        self.speaker: ClientConnection | None = None

    def opened(self) -> None:
        """The handshake is done. Without an agreement it is HTTP/1.1 (RFC 9113 section 3.2)."""
        self.speaker = self._http2() if self.agreed_protocol == "h2" else self._http1()
        self.hand_over(self.speaker)
