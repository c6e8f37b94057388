"""A store: the database in a directory, the engine over it, the protocol before it. Owns their start and end."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.http.message import Handler
from proxy.store.protocol.service import Service
from proxy.store.settings import StoreSettings
from proxy.store.sqlite.engine import Engine

__all__ = ["Store", "open_store"]

_DATABASE = "streams.db"


class Store:
    """An open store; `handler` is a durable-streams server. Lives in the event loop that opened it."""

    def __init__(
        self,
        directory: Path,
        settings: StoreSettings,
        *,
        wall: Callable[[], float] = time.time,
        is_public: bool = True,
    ) -> None:
        """Open the database in `directory`, made when absent; blocks for some milliseconds.

        `wall` gives Unix time in seconds. `is_public` lets shared caches keep what cannot change any more. Raises
        UnsafeSqlite, ForeignDatabase, apsw.Error, OSError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._engine = Engine(directory / _DATABASE, settings, wall)
        self._service = Service(self._engine, settings, is_public=is_public)
        self.handler: Handler = self._service

    async def open_streams(self, after: str, count: int) -> list[str]:
        """Paths of at most `count` streams that are not closed, in order, those after `after` ("" for the first)."""
        return await self._engine.open_streams(after, count)

    def has_room(self) -> bool:
        """Whether a stream could be created now."""
        return self._engine.has_room()

    async def aclose(self) -> None:
        """Store what was accepted, end live reads, close the database. Requests that come later are refused."""
        await self._engine.aclose()
        await self._service.aclose()


@asynccontextmanager
async def open_store(
    directory: Path,
    settings: StoreSettings,
    *,
    wall: Callable[[], float] = time.time,
    is_public: bool = True,
) -> AsyncIterator[Store]:
    """A `Store` for the length of a block."""
    store = Store(directory, settings, wall=wall, is_public=is_public)
    try:
        yield store
    finally:
        await store.aclose()
