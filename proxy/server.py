"""The Python API: `create_proxy_server` starts a proxy inside the running event loop.

Owns start and stop: sockets, the HTTP server over the app's router, and the order in which they end.
"""

import asyncio
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from proxy.app import App, server_limits
from proxy.base.tasks import Tasks
from proxy.config import SETTINGS, Config, ConfigError
from proxy.http.server import HttpServer
from proxy.net.listen import bind_tcp, bind_unix, close_listening

__all__ = ["ProxyServer", "create_proxy_server"]


class ProxyServer:
    """A running proxy. `async with` stops it at the end of the block."""

    def __init__(self, config: Config) -> None:
        """Bind, wire and start. Raises ConfigError when a setting cannot be used here."""
        secrets, self.secret_source = config.secrets()
        try:
            sockets = [bind_unix(Path(config.uds))] if config.uds else bind_tcp(config.host, config.port)
        except OSError as error:
            raise ConfigError(str(error.strerror)) from None
        try:
            self._app = App(config, secrets)
        except BaseException:
            for listening in sockets:
                close_listening(listening)
            raise
        for listening in () if config.uds else sockets:
            address, port, *_ = listening.getsockname()
            self._app.address_rules.add_listener(ip_address(address), port)
        self._http = HttpServer(self._app.router, self._app.router.refuse, server_limits(config))
        self.port = 0 if config.uds else sockets[0].getsockname()[1]
        self.url = f"unix:{config.uds}" if config.uds else f"http://{_bracketed(config.host)}:{self.port}"
        self._app.open()
        self._http.serve(sockets)
        self._reader_grace_seconds = config.reader_grace_seconds
        self._tasks = Tasks("server")
        self._stopping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ProxyServer {self.url}>"

    async def stop(self, *, drain_seconds: float = 0, hurry: asyncio.Event | None = None) -> None:
        """Take no new streams, let running ones go on for `drain_seconds`, then end them as `interrupted`.

        `hurry`, when set, ends the draining. Returns when no task and no socket is left. A stop that has begun goes
        on to its end, also when the call is cancelled; another call waits for that same end.
        """
        if self._stopping is None:
            self._stopping = self._tasks.start("stop", self._stop(drain_seconds, hurry))
        await asyncio.shield(self._stopping)

    async def _stop(self, drain_seconds: float, hurry: asyncio.Event | None) -> None:
        async with anyio.create_task_group() as group:

            async def drain() -> None:
                await self._app.transfers.drain(drain_seconds)
                group.cancel_scope.cancel()

            group.start_soon(drain)
            await (hurry or asyncio.Event()).wait()
            group.cancel_scope.cancel()
        await self._app.end_transfers()
        await self._http.stop_accepting()
        self._http.drain()
        with anyio.move_on_after(self._reader_grace_seconds):
            await self._http.wait_requests()
        await self._http.aclose()
        await self._app.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def create_proxy_server(**settings: object) -> ProxyServer:
    """Start a proxy. `settings` are the fields of `Config`: `port=4440, allowlist=["https://api.openai.com/**"], …`.

    Where several values are meant, any iterable is taken, and a plain string for a single one. Raises ConfigError,
    TypeError for an unknown name.
    """
    plural = {setting.name for setting in SETTINGS if setting.kind is tuple}
    values = {name: _several(value) if name in plural else value for name, value in settings.items()}
    return ProxyServer(Config(**values))  # type: ignore[arg-type]  # Config checks what it is given


def _several(value: object) -> tuple[object, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, Iterable) else (value,)
