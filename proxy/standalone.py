"""The embedded store as a server of its own: `python -m proxy store`. Owns its sockets and who may talk to it."""

import ipaddress
from contextlib import ExitStack

import apsw

from proxy.base.errors import Refusal
from proxy.config import Config, ConfigError, data_path
from proxy.http.body import BytesBody
from proxy.http.message import Response
from proxy.http.server import HttpServer
from proxy.net.listen import bind, close_listening
from proxy.store import (
    DirectoryInUse,
    ForeignDatabase,
    Store,
    UnsafeSqlite,
    lock_data_directory,
    with_tokens,
)
from proxy.wire.headers import Headers

__all__ = ["StoreServer"]

_TEXT = Headers([(b"content-type", b"text/plain"), (b"access-control-allow-origin", b"*")])


class StoreServer:
    """A running store. Without tokens it listens on loopback or a Unix socket only."""

    def __init__(self, config: Config) -> None:
        """Lock the directory, open the database, bind. Raises ConfigError."""
        read, write = config.store_tokens.store_read_token.encode(), config.store_tokens.store_write_token.encode()
        self.notice = ""
        if not write:
            if not config.listen.uds and not _is_loopback(config.listen.host):
                raise ConfigError(
                    f"--host {config.listen.host}: without PROXY_STORE_WRITE_TOKEN the store listens on loopback"
                    " or a Unix socket (--uds) only"
                )
            if read:
                raise ConfigError("PROXY_STORE_READ_TOKEN needs PROXY_STORE_WRITE_TOKEN beside it")
            self.notice = "No tokens are set: everybody on this machine may read and write"
        directory = data_path(config.place)
        with ExitStack() as held:
            try:
                held.enter_context(lock_data_directory(directory))
                sockets = bind(config.listen)
                for listening in sockets:
                    held.callback(close_listening, listening)
                self._store = Store(directory, config.store, is_public=not write)
            except (DirectoryInUse, ForeignDatabase, UnsafeSqlite, apsw.Error) as error:
                raise ConfigError(f"--data-dir: {error}") from None
            except OSError as error:
                place = f"--data-dir: {error.filename}: " if error.filename else ""
                raise ConfigError(f"{place}{error.strerror or error}") from None
            self._held = held.pop_all()
        handler = self._store.handler
        if write:
            handler = with_tokens(handler, read=[read, write] if read else [write], write=[write])
        self._http = HttpServer(handler, _refuse, config.server)
        self._http.serve(sockets)
        host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host
        self.url = f"unix:{config.listen.uds}" if config.listen.uds else f"http://{host}:{sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Store what was accepted, end live reads and close; no task and no socket is left."""
        await self._http.stop_accepting()
        await self._store.aclose()
        await self._http.aclose()
        self._held.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse(refusal: Refusal, _origin: bytes | None) -> Response:
    return Response(refusal.code.status, _TEXT, BytesBody((refusal.message.encode() + b"\n",)))
