"""The embedded store as a server of its own: `python -m proxy store`. Owns its start, its stop and who may use it."""

import ipaddress
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

from proxy.backing import open_backend
from proxy.base.errors import Refusal
from proxy.config import Config, ConfigError
from proxy.http.body import BytesBody
from proxy.http.message import Response
from proxy.serving import Binding
from proxy.store import with_tokens, without_foreign_pages
from proxy.wire.headers import Headers

__all__ = ["StoreServer"]

_TEXT = Headers([(b"content-type", b"text/plain"), (b"x-content-type-options", b"nosniff")])
_READABLE_TEXT = _TEXT.plus((b"access-control-allow-origin", b"*"))


class StoreServer:
    """A running store. Without tokens it listens on loopback or a Unix socket only, and refuses foreign web pages."""

    def __init__(self, config: Config) -> None:
        """Lock the directory, open the database, bind. Raises ConfigError."""
        tokens = config.store_tokens
        read, write = tokens.store_read_token.encode(), tokens.store_write_token.encode()
        _check_exposure(config)
        with ExitStack() as held:
            try:
                binding = self._binding = Binding(config.listen, config.tls)
                held.callback(binding.close)
                self._store = open_backend(config, is_public=not write)
            except OSError as error:
                file = f"{error.filename}: " if error.filename else ""
                raise ConfigError(f"--data-dir: {file}{error.strerror or error}") from None
            self._held = held.pop_all()
        notices = [
            self._store.promise,
            "" if write else "No tokens are set: everybody on this machine may read and write",
        ]
        self.notices = [notice for notice in notices if notice]
        handler = self._store.handler
        if write:
            handler = with_tokens(handler, read=[read, write] if read else [write], write=[write])
        else:
            handler = without_foreign_pages(handler, names=_own_names(config), any_host=bool(config.listen.uds))
        self._http = binding.serve(handler, _refusing(_READABLE_TEXT if write else _TEXT), config.server)
        self.url, self.urls = binding.url, binding.urls
        self.notices += binding.warnings()

    @property
    def has_certificates(self) -> bool:
        """Whether `reload` reads anything."""
        return self._binding.is_tls

    def reload(self) -> list[str]:
        """Read the files of certificates and keys again, as a proxy does. Raises ConfigError."""
        self._binding.prepared()()
        return self._binding.warnings()

    async def stop(self) -> None:
        """Store what was accepted, end live reads and close; no task and no socket is left."""
        await self._http.stop_accepting()
        await self._store.aclose()
        await self._http.aclose()
        self._held.close()


def _check_exposure(config: Config) -> None:
    """Raise ConfigError when somebody on another machine could use a store that asks for no token."""
    if config.store_tokens.store_write_token:
        return
    if not config.listen.uds:
        for host in config.listen.host:
            if not _is_loopback(host):
                raise ConfigError(
                    f"--host {host}: without PROXY_STORE_WRITE_TOKEN the store listens on loopback"
                    " or a Unix socket (--uds) only"
                )
    if config.store_tokens.store_read_token:
        raise ConfigError("PROXY_STORE_READ_TOKEN needs PROXY_STORE_WRITE_TOKEN beside it")


def _own_names(config: Config) -> frozenset[str]:
    """Hosts by which clients may call this store, beside those of loopback."""
    public = urlsplit(config.create.public_url).hostname
    hosts = [*config.listen.host, public] if public else config.listen.host
    return frozenset(f"[{host}]" if ":" in host else host.lower() for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refusing(headers: Headers) -> Callable[[Refusal, bytes | None], Response]:
    def refuse(refusal: Refusal, _origin: bytes | None) -> Response:
        return Response(refusal.code.status, headers, BytesBody((refusal.message.encode() + b"\n",)))

    return refuse
