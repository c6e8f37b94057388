"""A store in the test's own loop, spoken to as a Handler, with a clock that the test sets."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.http.message import Handler, Request, Response
from proxy.store import EmbeddedStore, Store, StoreSettings, open_shared_store, open_store
from proxy.store.shared.engine import SharedEngine
from proxy.store.sqlite.engine import SqliteEngine
from tests.kit.calls import Client
from tests.kit.engines import Engine
from tests.kit.store_settings import engine_settings, store_settings

__all__ = ["Clock", "embedded", "engine_of", "open_any", "opened", "settled", "use"]

_used: list[Engine] = []  # the server that stores are opened on; none: the embedded engine


def use(server: Engine | None) -> None:
    """Open stores on `server` from now on; None: on the embedded engine."""
    _used[:] = [] if server is None else [server]


class Clock:
    """Unix time in seconds, moved by hand, and the server in use with it.

    `ahead` is what the embedded engine's clock is ahead of what has really passed, when somebody sets it.
    """

    START = 1_800_000_000.0

    def __init__(self) -> None:
        self._time = self.START
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._time + self.ahead

    def ticks(self) -> float:
        """A time that nobody can set."""
        return self._time

    @property
    def time(self) -> float:
        return self._time

    @time.setter
    def time(self, seconds: float) -> None:
        self._time = seconds
        for server in _used:
            server.set_time(seconds)


def engine_of(store: Store) -> SqliteEngine:
    """The engine below a store, for tests that break it."""
    engine = store._engine
    assert isinstance(engine, SqliteEngine)
    return engine


def open_any(directory: Path, settings: StoreSettings, clock: Clock) -> Store:
    """The store of `directory` on the engine in use: a server keeps it under a prefix of its own."""
    if not _used:
        return open_store(directory, settings, wall=clock, ticks=clock.ticks)
    prefix = hashlib.sha1(str(directory).encode()).hexdigest()
    return open_shared_store(engine_settings(url=_used[0].url, prefix=prefix), settings, None)


@asynccontextmanager
async def opened(
    directory: Path, settings: StoreSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[Store, Client]]:
    """A store and a client of it, until the block ends."""
    store = open_any(directory, settings or store_settings(), clock or Clock())
    try:
        yield store, Client(settled(store))
    finally:
        await store.aclose()


def settled(store: Store) -> Handler:
    """The store's handler, which answers when a lifetime that a read renews is stored: then the clock may move."""
    engine = store._engine
    if not isinstance(engine, SharedEngine):
        return store.handler

    async def handler(request: Request) -> Response:
        response = await store.handler(request)
        await engine._tasks.wait()
        return response

    return handler


@asynccontextmanager
async def embedded(
    directory: Path, settings: StoreSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[EmbeddedStore, Client]]:
    """The same on the embedded engine, whatever is in use."""
    clock = clock or Clock()
    store = open_store(directory, settings or store_settings(), wall=clock, ticks=clock.ticks)
    try:
        yield store, Client(store.handler)
    finally:
        await store.aclose()
