"""Where a server listens: its sockets, how their addresses are spelled, and the HTTP server on them."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from proxy.base.errors import Refusal
from proxy.config import ConfigError
from proxy.http.message import Handler, Response
from proxy.http.server import HttpServer, ServerSettings
from proxy.http.server1 import Http1Connection
from proxy.net.bind import ListenSettings, bind, close_listening

__all__ = ["Binding"]


class Binding:
    """Bound sockets of one server. Close it, or serve on it: then the server closes the sockets."""

    def __init__(self, settings: ListenSettings) -> None:
        """Bind. Raises ConfigError with the address and the reason."""
        try:
            self._sockets = bind(settings)
        except OSError as error:
            raise ConfigError(str(error.strerror)) from None
        self.port: int = 0 if settings.uds else self._sockets[0].getsockname()[1]
        """The TCP port, 0 for a Unix socket."""
        self.urls = (
            (f"unix:{settings.uds}",)
            if settings.uds
            else tuple(f"http://{_bracketed(host)}:{self.port}" for host in settings.host)
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

    def serve(
        self, handler: Handler, refuse: Callable[[Refusal, bytes | None], Response], settings: ServerSettings
    ) -> HttpServer:
        """Accept connections from now on. Needs a running loop."""
        server = HttpServer(handler, refuse, settings)
        server.serve(self._sockets, Http1Connection)
        return server

    def close(self) -> None:
        """Close the sockets of a place that was never served."""
        for bound in self._sockets:
            close_listening(bound)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
