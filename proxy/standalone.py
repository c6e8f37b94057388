"""The embedded store as a server of its own: `python -m proxy store`. Owns its sockets and who may talk to it."""

import ipaddress
from contextlib import ExitStack
from pathlib import Path

import apsw

from proxy.app import server_limits
from proxy.base.errors import Refusal
from proxy.config import Config, ConfigError
from proxy.http.body import BytesBody
from proxy.http.message import Response
from proxy.http.server import HttpServer
from proxy.net.listen import bind_tcp, bind_unix, close_listening
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
        read, write = config.store_read_token.encode(), config.store_write_token.encode()
        self.notice = ""
        if not write:
            if not config.uds and not _is_loopback(config.host):
                raise ConfigError(
                    f"--host {config.host}: without PROXY_STORE_WRITE_TOKEN the store listens on loopback"
                    " or a Unix socket (--uds) only"
                )
            if read:
                raise ConfigError("PROXY_STORE_READ_TOKEN needs PROXY_STORE_WRITE_TOKEN beside it")
            self.notice = "No tokens are set: everybody on this machine may read and write"
        directory = config.data_path()
        with ExitStack() as held:
            try:
                held.enter_context(lock_data_directory(directory))
                sockets = [bind_unix(Path(config.uds))] if config.uds else bind_tcp(config.host, config.port)
                for listening in sockets:
                    held.callback(close_listening, listening)
                self._store = Store(directory, config.store_settings(), is_public=not write)
            except (DirectoryInUse, ForeignDatabase, UnsafeSqlite, apsw.Error) as error:
                raise ConfigError(f"--data-dir: {error}") from None
            except OSError as error:
                place = f"--data-dir: {error.filename}: " if error.filename else ""
                raise ConfigError(f"{place}{error.strerror or error}") from None
            self._held = held.pop_all()
        handler = self._store.handler
        if write:
            handler = with_tokens(handler, read=[read, write] if read else [write], write=[write])
        self._http = HttpServer(handler, _refuse, server_limits(config))
        self._http.serve(sockets)
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.url = f"unix:{config.uds}" if config.uds else f"http://{host}:{sockets[0].getsockname()[1]}"

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
