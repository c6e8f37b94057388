"""The Python API: `create_proxy_server` starts a proxy inside the running event loop.

Owns start and stop: in which order the sockets, the app and the HTTP server begin and end.
"""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import anyio

from proxy.app import App
from proxy.base.tasks import Tasks
from proxy.config import SETTINGS, Config, Value, service_secrets
from proxy.notices import start_notices
from proxy.serving import Binding

__all__ = ["ProxyServer", "StopReport", "create_proxy_server"]


@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of the transfers that ran when a stop began."""

    ended: int  # by themselves, within the drain time
    interrupted: int  # by the stop


class ProxyServer:
    """A running proxy. `async with` stops it at the end of the block."""

    def __init__(self, config: Config) -> None:
        """Bind, wire and start. Raises ConfigError when a setting cannot be used here."""
        self._config = config
        secrets, source = service_secrets(config.access, config.place)
        self.notices = start_notices(config, secrets, source)
        """What an operator should know, one line each."""
        binding = self._binding = Binding(config.listen, config.tls)
        self.notices += binding.warnings()
        try:
            self._app = App(config, secrets)
        except BaseException:
            binding.close()
            raise
        self.notices += self._app.notices
        for address, port in binding.addresses():
            self._app.address_rules.add_listener(address, port)
        self.port, self.url, self.urls = binding.port, binding.url, binding.urls
        self._app.open()
        self._http = binding.serve(self._app.router, self._app.router.refuse, config.server)
        self._reader_grace_seconds = config.stop.reader_grace_seconds
        self._tasks = Tasks("server")
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = StopReport(0, 0)

    def __repr__(self) -> str:
        return f"<ProxyServer {self.url}>"

    @property
    def transfers(self) -> int:
        """The number of transfers that run."""
        return len(self._app.transfers)

    @property
    def has_certificates(self) -> bool:
        """Whether `reload` reads anything."""
        place = self._config.place
        return self._binding.is_tls or bool(place.ca_file or place.upstream_cert)

    def reload(self) -> list[str]:
        """Read the files of certificates, keys and authorities again, for connections from now on; warnings about them.

        Running connections keep what they have. Raises ConfigError when one of the files cannot be used: then all old
        ones stay in use.
        """
        use = [self._binding.prepared(), self._app.prepared_tls()]
        for each in use:
            each()
        return self._binding.warnings()

    async def stop(self, *, drain_seconds: float = 0, hurry: asyncio.Event | None = None) -> StopReport:
        """Take no new streams, let running ones go on for `drain_seconds`, then end them as `interrupted`.

        `hurry`, when set, ends the draining. Returns when no task and no socket is left. A stop that has begun goes
        on to its end, also when the call is cancelled; another call waits for that same end.
        """
        if self._stopping is None:
            self._stopping = self._tasks.start("stop", self._stop(drain_seconds, hurry))
        await asyncio.shield(self._stopping)
        return self._stopped

    async def _stop(self, drain_seconds: float, hurry: asyncio.Event | None) -> None:
        running = self.transfers
        async with anyio.create_task_group() as group:

            async def drain() -> None:
                await self._app.transfers.drain(drain_seconds)
                group.cancel_scope.cancel()

            group.start_soon(drain)
            await (hurry or asyncio.Event()).wait()
            group.cancel_scope.cancel()
        self._stopped = StopReport(max(running - self.transfers, 0), self.transfers)
        await self._app.end_transfers()
        await self._http.stop_accepting()
        self._http.drain()
        with anyio.move_on_after(self._reader_grace_seconds):
            await self._http.wait_exchanges()
        await self._http.aclose()
        await self._app.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


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
