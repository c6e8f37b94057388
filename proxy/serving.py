"""Where a server listens: its sockets and certificates, how addresses are spelled, and the HTTP server on them."""

from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

from proxy.base.errors import Refusal
from proxy.config import ConfigError
from proxy.http.choice import NewConnection
from proxy.http.message import Handler, Response
from proxy.http.server import HttpServer, ServerSettings
from proxy.net.bind import ListenSettings, bind, close_listening
from proxy.net.listen import ServerTls
from proxy.net.tls import ServerCertificates, TlsError, TlsSettings

__all__ = ["Binding"]

_PROTOCOLS = ("h2", "http/1.1")  # offered by ALPN (RFC 7301)

_TLS_IS_NEEDED = b"This port speaks TLS: its URL begins with https.\n"
_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
    % (len(_TLS_IS_NEEDED), _TLS_IS_NEEDED)
)


class Binding:
    """Bound sockets of one server. Close it, or serve on it: then the server closes the sockets."""

    def __init__(self, settings: ListenSettings, tls: TlsSettings) -> None:
        """Read the certificates, if there are any, and bind. Raises ConfigError with the reason."""
        self._tls = tls
        try:
            self._certificates = ServerCertificates(tls, _PROTOCOLS) if tls.tls_cert else None
        except TlsError as error:
            raise ConfigError(f"TLS: {error}") from None
        try:
            self._sockets = bind(settings)
        except OSError as error:
            raise ConfigError(str(error.strerror)) from None
        self.port: int = 0 if settings.uds else self._sockets[0].getsockname()[1]
        """The TCP port, 0 for a Unix socket."""
        scheme = "http" if self._certificates is None else "https"
        self.urls = (
            (f"unix:{settings.uds}",)
            if settings.uds
            else tuple(f"{scheme}://{_bracketed(host)}:{self.port}" for host in settings.host)
        )
        """Where clients of this machine reach the server, one URL for each host that was given."""

    @property
    def url(self) -> str:
        """The first of the URLs."""
        return self.urls[0]

    def addresses(self) -> list[tuple[IPv4Address | IPv6Address, int]]:
        """The bound IP addresses with their ports; none for a Unix socket."""
        names = [bound.getsockname() for bound in self._sockets] if self.port else []
        return [(ip_address(name[0]), name[1]) for name in names]

    @property
    def is_tls(self) -> bool:
        """Whether clients must speak TLS."""
        return self._certificates is not None

    def warnings(self) -> list[str]:
        """What is wrong, or soon will be, with certificates that are in use; one line each."""
        return self._certificates.warnings(datetime.now(UTC)) if self._certificates is not None else []

    def prepared(self) -> Callable[[], None]:
        """Read the certificates again; the function that puts them into use. Raises ConfigError; none is used then."""
        try:
            return self._certificates.prepared() if self._certificates is not None else lambda: None
        except TlsError as error:
            raise ConfigError(f"TLS: {error}") from None

    def serve(
        self, handler: Handler, refuse: Callable[[Refusal, bytes | None], Response], settings: ServerSettings
    ) -> HttpServer:
        """Accept connections from now on. Needs a running loop."""
        server = HttpServer(handler, refuse, settings)
        server.serve(self._sockets, NewConnection, self._server_tls())
        return server

    def _server_tls(self) -> ServerTls | None:
        if self._certificates is None:
            return None
        tls = self._tls
        return ServerTls(self._certificates.context, tls.tls_handshake_seconds, tls.tls_close_seconds, _REFUSAL)

    def close(self) -> None:
        """Close the sockets of a place that was never served."""
        for bound in self._sockets:
            close_listening(bound)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
