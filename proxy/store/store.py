"""A store: an engine, and the protocol in front of it. Chooses the engine; starts and ends both."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from proxy.http.message import Handler
from proxy.store.port import Engine
from proxy.store.protocol.service import StreamService
from proxy.store.settings import EngineSettings, StoreSettings

__all__ = ["EmbeddedStore", "Store", "open_shared_store", "open_store", "verify_store"]


class Store:
    """An open store; `handler` is a durable-streams server. Lives in the event loop that opened it.

    `promise` is a sentence about what its acknowledgement is worth, for an operator; empty for an embedded
    engine, which has everything on disk.
    """

    def __init__(self, engine: Engine, settings: StoreSettings, *, is_public: bool, promise: str = "") -> None:
        self._engine = engine
        self._service = StreamService(engine, settings, is_public=is_public)
        self.handler: Handler = self._service
        self.promise = promise

    def has_room(self) -> bool:
        """Whether a stream could be created now."""
        return self._engine.has_room()

    async def aclose(self) -> None:
        """Store what was accepted, end live reads, close the engine. Requests that come later are refused."""
        await self._engine.aclose()
        await self._service.aclose()


class EmbeddedEngine(Engine, Protocol):
    """An engine whose streams belong to this process alone. So it can list the streams that were left open."""

    async def open_streams(self, after: str, count: int) -> list[str]:
        """Paths of at most `count` streams that are not closed, in order, those after `after` ("" for the first).

        Called at start-up, to end the streams that the previous process left open. Raises Unreadable.
        """


class EmbeddedStore(Store):
    """A store whose streams belong to this process alone: nobody else writes them."""

    def __init__(self, engine: EmbeddedEngine, settings: StoreSettings, *, is_public: bool) -> None:
        super().__init__(engine, settings, is_public=is_public)
        self._embedded = engine

    async def open_streams(self, after: str, count: int) -> list[str]:
        """Paths of at most `count` streams that are not closed, in order, those after `after` ("" for the first)."""
        return await self._embedded.open_streams(after, count)


def open_store(
    directory: Path,
    settings: StoreSettings,
    *,
    wall: Callable[[], float] = time.time,
    ticks: Callable[[], float] = time.monotonic,
    is_public: bool = True,
) -> EmbeddedStore:
    """The store in `directory`, which is made when absent. Blocks for some milliseconds; call it in the event loop.

    `wall` gives Unix time, `ticks` a time that only runs, both in seconds. `is_public` lets shared caches keep
    responses that cannot change any more. Raises StoreUnusable. The engine's module is imported here, so that a process
    needs only the libraries of the engine it uses.
    """
    from proxy.store.sqlite.engine import open_engine  # noqa: PLC0415  # see above

    return EmbeddedStore(open_engine(directory, settings, wall, ticks), settings, is_public=is_public)


def verify_store(directory: Path, say: Callable[[str], None]) -> int:
    """Check everything that is stored in `directory`, and say what is wrong; the number of faults.

    Raises StoreUnusable when there is no database that can be checked.
    """
    from proxy.store.sqlite.engine import DATABASE  # noqa: PLC0415  # as above
    from proxy.store.sqlite.verify import verify  # noqa: PLC0415  # as above

    return verify(directory / DATABASE, say)


def open_shared_store(
    engine: EngineSettings, settings: StoreSettings, tls: ssl.SSLContext | None, *, is_public: bool = True
) -> Store:
    """The store at the URL of `engine`, which other processes may have open, too.

    `tls` serves a URL that asks for it. Blocks until the server was asked whether it can be used; call it in the event
    loop. Raises StoreUnusable.
    """
    from proxy.store.valkey.opening import open_engine  # noqa: PLC0415  # as above

    opened, promise = open_engine(engine, settings, tls)
    return Store(opened, settings, is_public=is_public, promise=promise)
