"""Which HTTP version a client's connection speaks: what TLS has agreed on (ALPN), else its first bytes.

A client of HTTP/2 begins with a preface that is no request of HTTP/1.1 (RFC 9113 section 3.4), so both are served on
the same port. The connection that looks is replaced by the one that speaks; it answers nothing itself.
"""

from proxy.http.server import HttpServer, ServerConnection
from proxy.http.server1 import Http1Connection
from proxy.http.server2 import Http2Connection
from proxy.wire.frames import PREFACE

__all__ = ["NewConnection"]


class NewConnection(ServerConnection):
    """A client connection whose version is not known yet."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self._begun = b""
        self._successor: ServerConnection | None = None

    def opened(self) -> None:
        """A client connected: it must say something soon."""
        super().opened()
        agreed = self.agreed_protocol
        if agreed is not None:
            self._become(Http2Connection(self._server) if agreed == "h2" else Http1Connection(self._server))
            return
        self.set_idle()
        self.expire_in(self._server.limits.head_timeout_seconds)

    def data_received(self, data: bytes) -> None:
        """The first bytes: they nearly always decide at once."""
        if not self._begun:
            self.expire_in(self._server.limits.head_timeout_seconds)
        begun = self._begun + data
        if begun.startswith(PREFACE):
            self._become(Http2Connection(self._server)).data_received(begun)
        elif PREFACE.startswith(begun):
            self._begun = begun
        else:
            self._become(Http1Connection(self._server)).data_received(begun)

    def _become(self, connection: ServerConnection) -> ServerConnection:
        self._server.connections.discard(self)
        self.set_busy()
        self._successor = connection
        self.hand_over(connection)
        return connection

    def abandoned(self) -> None:
        """See Connection."""
        if self._successor is None:
            super().abandoned()
        else:
            self._successor.abandoned()

    def _give_up_waiting(self) -> ServerConnection:
        """Nothing more will come: what has come is a bad request of HTTP/1.1."""
        connection = self._become(Http1Connection(self._server))
        connection.data_received(self._begun)
        return connection

    def eof_received(self) -> bool | None:
        """The client has closed before it was known what it speaks."""
        return self._give_up_waiting().eof_received() if self._begun else False

    def overdue(self) -> None:
        """See ServerConnection."""
        if self._begun:
            self._give_up_waiting().overdue()
        else:
            self.spare()

    def look_for_end(self) -> None:
        """See ServerConnection. Reading is never paused."""

    def close_if_idle(self) -> None:
        """See ServerConnection."""
        if not self._begun:
            self.spare()

    def spare(self) -> None:
        """See ServerConnection."""
        self.set_busy()
        self.leave()

    def finish(self) -> None:
        """See ServerConnection."""
        self.cut()
