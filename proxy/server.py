"""The Python API: `create_proxy_server` starts a proxy inside the running event loop.

Owns start and stop: sockets, the HTTP server over the app's router, and the order in which they end.
"""

import asyncio
import os
from collections.abc import Iterable
from ipaddress import ip_address
from types import TracebackType
from typing import Self, cast

import anyio

from proxy.app import App
from proxy.base.tasks import Tasks
from proxy.config import SETTINGS, Config, ConfigError, Value, service_secrets
from proxy.http.server import HttpServer
from proxy.net.listen import bind, close_listening

__all__ = ["ProxyServer", "create_proxy_server"]


class ProxyServer:
    """A running proxy. `async with` stops it at the end of the block."""

    def __init__(self, config: Config) -> None:
        """Bind, wire and start. Raises ConfigError when a setting cannot be used here."""
        secrets, self.secret_source = service_secrets(config.access, config.place)
        try:
            sockets = bind(config.listen)
        except OSError as error:
            raise ConfigError(str(error.strerror)) from None
        try:
            self._app = App(config, secrets)
        except BaseException:
            for listening in sockets:
                close_listening(listening)
            raise
        listen = config.listen
        for listening in () if listen.uds else sockets:
            address, port, *_ = listening.getsockname()
            self._app.address_rules.add_listener(ip_address(address), port)
        self._http = HttpServer(self._app.router, self._app.router.refuse, config.server)
        self.port = 0 if listen.uds else sockets[0].getsockname()[1]
        self.url = f"unix:{listen.uds}" if listen.uds else f"http://{_bracketed(listen.host)}:{self.port}"
        self._app.open()
        self._http.serve(sockets)
        self._reader_grace_seconds = config.stop.reader_grace_seconds
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
    """Start a proxy with the settings of docs/configuration.md: `allowlist=["https://api.openai.com/**"]`, ….

    A setting of several values takes any iterable, or a string for a single value; a path may be a `Path`. Raises
    ConfigError, TypeError for an unknown name.
    """
    kinds = {setting.name: setting.kind for setting in SETTINGS}
    values = {name: _value(kinds.get(name), given) for name, given in settings.items()}
    return ProxyServer(Config.of(**values))


def _value(kind: type | None, given: object) -> Value:
    """What was given as the type of its setting, as far as that is only another spelling; `Config` checks the rest."""
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if kind is tuple and isinstance(given, str):
        return (given,)
    if kind is tuple and isinstance(given, Iterable):
        return tuple(map(str, given))
    return cast(Value, given)
