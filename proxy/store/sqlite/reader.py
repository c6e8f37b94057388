"""One reader's hold on one stream: the port's `Reader` over an entry in memory and the database."""

from typing import Protocol

from proxy.store.model import Piece, Verdict, View
from proxy.store.recent import within
from proxy.store.sqlite.reading import ReadThreads
from proxy.store.sqlite.state import Entry
from proxy.store.waiting import Waiter

__all__ = ["SqliteReader"]


class ReadEngine(Protocol):
    """What a reader needs of the engine."""

    threads: ReadThreads

    def now(self) -> int:
        """Unix time in milliseconds."""

    def keep(self, entry: Entry, expires: int) -> None:
        """Store `expires` (Unix milliseconds) as the time when the stream of `entry` expires."""


class SqliteReader(Waiter):
    """A reader of the stream of `entry`. It holds the entry, which therefore stays in memory: commits wake it."""

    __slots__ = ("_engine", "_entry")

    def __init__(self, entry: Entry, engine: ReadEngine) -> None:
        super().__init__(entry)
        self._entry = entry
        self._engine = engine

    def view(self) -> View:
        """The stream as it is on disk."""
        return self._entry.view or self._entry.look()

    def touch(self) -> None:
        """Restart the stream's TTL."""
        entry, engine = self._entry, self._engine
        if (expires := entry.touch(engine.now())) is not None:
            engine.keep(entry, expires)

    async def read(self, position: int, end: int, size: int) -> list[Piece]:
        """Pieces from `position` up to `end`, from memory or from the database."""
        entry = self._entry
        if entry.absence is Verdict.MISSING:
            return []
        found = entry.recent.find(position, size)
        if found is None:
            segments = entry.segments(end)
            found = await self._engine.threads.run(lambda connection: connection.pieces(segments, position, size))
        return within(found, position, end, is_json=entry.stream.is_json)

    async def boundary(self, position: int) -> int:
        """The first position from `position` on at which a piece ends."""
        segments = self._entry.segments(self._entry.tail)
        return await self._engine.threads.run(lambda connection: connection.boundary(segments, position))

    def close(self) -> None:
        """End the wait that is in progress. A reader holds nothing else that must be released."""
        self.wake()
