"""One reader's hold on one stream: the port's `Reader` over an entry in memory and a shared storage."""

from typing import Protocol

from proxy.store.model import Piece, Verdict, View
from proxy.store.port import Unreadable
from proxy.store.recent import within
from proxy.store.shared.backend import Unavailable
from proxy.store.shared.bytes import SharedBytes
from proxy.store.shared.entry import SharedEntry
from proxy.store.waiting import Waiter

__all__ = ["SharedReader"]


class SharedReads(Protocol):
    """What a reader needs of the engine."""

    bytes: SharedBytes

    def touch(self, entry: SharedEntry) -> None:
        """A TTL starts again."""

    def join(self, entry: SharedEntry) -> None:
        """Follow the stream."""

    def leave(self, entry: SharedEntry) -> None:
        """Follow it no more."""


class SharedReader(Waiter):
    """A reader of the stream of `entry`. The stream is followed from the first wait on, until `close`."""

    __slots__ = ("_engine", "_entry", "_follows")

    def __init__(self, entry: SharedEntry, engine: SharedReads) -> None:
        super().__init__(entry)
        self._entry = entry
        self._engine = engine
        self._follows = False

    def view(self) -> View:
        """What is stored of the stream, as far as it is known here."""
        return self._entry.view or self._entry.look()

    def touch(self) -> None:
        """A TTL starts again."""
        if self._entry.stream.ttl is not None:
            self._engine.touch(self._entry)

    async def changed(self, seconds: float | None) -> None:
        """Return after the next change, or after `seconds`."""
        if not self._follows:
            self._follows = True
            self._engine.join(self._entry)
        await super().changed(seconds)

    async def read(self, position: int, end: int, size: int) -> list[Piece]:
        """Pieces from `position` up to `end`, from memory or from storage."""
        entry = self._entry
        if entry.absence is Verdict.MISSING:
            return []
        found = entry.recent.find(position, size)
        if not found:
            try:
                found = await self._engine.bytes.pieces(entry.segments(end), position, size)
            except Unavailable as error:
                raise Unreadable(str(error)) from error
        return within(found, position, end, is_json=entry.stream.is_json)

    async def boundary(self, position: int) -> int:
        """The first position from `position` on at which a piece ends."""
        try:
            return await self._engine.bytes.boundary(self._entry.segments(self._entry.tail), position)
        except Unavailable as error:
            raise Unreadable(str(error)) from error

    def close(self) -> None:
        """End the wait that is in progress, and follow the stream no more."""
        self.wake()
        if self._follows:
            self._follows = False
            self._engine.leave(self._entry)
