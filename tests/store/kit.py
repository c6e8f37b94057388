"""A store in the test's own loop, spoken to as a Handler, with a clock that the test sets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.store import Store, StoreSettings, open_store
from proxy.store.sqlite.engine import SqliteEngine
from tests.kit.calls import Client
from tests.kit.store_settings import store_settings

__all__ = ["Clock", "engine_of", "opened"]


class Clock:
    """Unix time in seconds, moved by hand; `ahead` of what has really passed when somebody sets it."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.time + self.ahead

    def ticks(self) -> float:
        """A time that nobody can set."""
        return self.time


def engine_of(store: Store) -> SqliteEngine:
    """The engine below a store, for tests that break it."""
    engine = store._engine
    assert isinstance(engine, SqliteEngine)
    return engine


@asynccontextmanager
async def opened(
    directory: Path, settings: StoreSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[Store, Client]]:
    """A store and a client of it, until the block ends."""
    clock = clock or Clock()
    store = open_store(directory, settings or store_settings(), wall=clock, ticks=clock.ticks)
    try:
        yield store, Client(store.handler)
    finally:
        await store.aclose()
