"""A connection that is opened again when it is lost. Owns the pauses between attempts, and what the log says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proxy.base.tasks import Tasks
from proxy.store.settings import EngineSettings
from proxy.store.shared.backend import Unavailable
from proxy.store.valkey.connection import EngineConnection, Lost
from proxy.store.valkey.dial import Refused
from proxy.store.valkey.resp import ServerError, encoded

__all__ = ["EngineLink"]

logger = logging.getLogger(__name__)

_PING = encoded(["PING"])


class EngineLink:
    """`open_` opens a connection. `connected` is called with each that is ready, before anything else uses it.

    `check` is called now and then while a connection is open, and aborts it when it should no longer be used.
    """

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        open_: Callable[[], Awaitable[EngineConnection]],
        connected: Callable[[EngineConnection], None] | None = None,
        check: Callable[[EngineConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._open = open_
        self._connected = connected
        self._check = check
        self._ready = asyncio.Event()
        self._reason = "it was not connected yet"
        self._is_troubled = False
        self._is_closed = False
        self.connection: EngineConnection | None = None  # while it is usable
        self._tasks = Tasks(f"engine {name}")
        self._tasks.start("link", self._keep())

    async def ready(self, until: float) -> EngineConnection:
        """The connection, awaited until the loop's time `until`. Raises Unavailable."""
        while self.connection is None or self.connection.is_lost:
            if self._is_closed:
                raise Unavailable("the store is closed")
            self._ready.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._ready.wait()
            except TimeoutError:
                raise Unavailable(self._reason) from None
        return self.connection

    async def _keep(self) -> None:
        """Connect, wait for the end, connect again."""
        pause = self._settings.reconnect_seconds
        while True:
            try:
                connection = await self._open()
            except Refused as error:
                self._report(str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._settings.reconnect_longest_seconds)
                continue
            if self._is_troubled:
                self._is_troubled = False
                logger.warning("the engine is back: %s", self._name)
            pause = self._settings.reconnect_seconds
            self.connection = connection
            if self._connected is not None:
                self._connected(connection)
            self._ready.set()
            reason = await self._until_lost(connection)
            self.connection = None
            self._report(reason)

    async def _until_lost(self, connection: EngineConnection) -> str:
        """Why the connection ended. One that is silent is asked whether it is there."""
        while True:
            done, _ = await asyncio.wait((connection.ended,), timeout=self._settings.ping_seconds)
            try:
                await connection.call(_PING)
                if self._check is not None:
                    await self._check(connection)
            except Lost as error:
                return str(error)
            except ServerError as error:
                if done:
                    return str(error)

    def _report(self, reason: str) -> None:
        self._reason = f"the engine cannot be used: {reason}"
        if not self._is_troubled:
            self._is_troubled = True
            logger.error("%s (streams are not available; it is tried again)", self._reason)

    async def aclose(self) -> None:
        """Wait for what was asked, close the connection and open none again."""
        self._is_closed = True
        connection = self.connection
        if connection is not None:
            await connection.answered()
        await self._tasks.aclose()
        self.connection = None
        if connection is not None:
            connection.abort("the store is closed")
        self._ready.set()
