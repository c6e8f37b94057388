"""Streams of other instances that are read here: when their owner dies, this instance ends them.

No instance searches for dead ones. A read of an open stream of another instance, or of its metadata, makes this
instance watch the owner's lease for a while. When the lease is gone, every watched stream of that owner is taken over
(`relay.takeover`). A stream that nobody reads stays open until it is read, or expires.
"""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import anyio

from proxy.base.tasks import Tasks
from proxy.relay.membership import Membership
from proxy.relay.record import Record, Records
from proxy.relay.takeover import Endings
from proxy.streams.answers import StorageError

__all__ = ["OrphanSettings", "Orphans", "Unwatched", "Watcher"]

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """What reads and aborts call, to say that a stream is in use."""

    def awaited(self, stream_id: str) -> None:
        """A reader is about to wait for more of the stream. Its record was not read yet."""

    def watch(self, stream_id: str, record: Record) -> None:
        """The stream is open and in use."""


class Unwatched:
    """The watcher of a process that is alone on its storage: it owns every open stream."""

    def awaited(self, stream_id: str) -> None:
        """Nothing to do."""

    def watch(self, stream_id: str, record: Record) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class OrphanSettings:
    """Bounds of the watch over open streams of other instances; times in seconds."""

    lease_look_seconds: float  # pause between two looks at the leases of the owners
    watch_seconds: float  # how long a stream is watched after it was read
    max_watched: int  # most streams watched at once; beyond it the one read longest ago is dropped
    recovery_at_once: int  # most orphans that are closed at the same time


@dataclass(slots=True)
class _Watched:
    owner: str
    until: float
    is_reported: bool = False


class Orphans:
    """The open streams of other instances that are watched here."""

    def __init__(self, members: Membership, records: Records, endings: Endings, settings: OrphanSettings) -> None:
        self._members = members
        self._records = records
        self._endings = endings
        self._settings = settings
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        self._suspects: set[str] = set()  # owners whose lease is missing
        self._tasks = Tasks("orphans")

    def open(self) -> None:
        """Start to look at leases. Call it inside the loop."""
        self._tasks.start("look", self._look())

    async def aclose(self) -> None:
        """Stop."""
        await self._tasks.aclose()

    def awaited(self, stream_id: str) -> None:
        """Look up the record in the background, and watch the stream if it is another instance's."""
        watched = self._watched.get(stream_id)
        half = asyncio.get_running_loop().time() + self._settings.watch_seconds / 2
        if watched is None or watched.until < half:
            self._tasks.start(f"find {stream_id}", self._find(stream_id))

    async def _find(self, stream_id: str) -> None:
        with suppress(StorageError):  # the read itself reports the failure
            record = await self._records.get(stream_id)
            if record is not None:
                self.watch(stream_id, record)

    def watch(self, stream_id: str, record: Record) -> None:
        """Watch the stream if it is another instance's."""
        if not self._members.is_other(record.owner):
            return
        known = self._watched.get(stream_id)
        until = asyncio.get_running_loop().time() + self._settings.watch_seconds
        self._watched[stream_id] = _Watched(record.owner, until, known is not None and known.is_reported)
        self._watched.move_to_end(stream_id)
        if len(self._watched) > self._settings.max_watched:
            self._watched.popitem(last=False)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_look_seconds)
            now = asyncio.get_running_loop().time()
            while self._watched and next(iter(self._watched.values())).until <= now:
                self._watched.popitem(last=False)
            # In order, so that a simulated run follows from its seed alone.
            for owner in sorted({watched.owner for watched in self._watched.values()} - self._suspects):
                with suppress(StorageError):  # without an answer nothing is known about the lease
                    if not await self._members.is_alive(owner):
                        self._suspects.add(owner)
                        self._tasks.start(f"end those of {owner}", self._end_all(owner))

    async def _end_all(self, owner: str) -> None:
        """End the watched streams of an instance if it is dead. Failures are retried after the next look."""
        limit = anyio.CapacityLimiter(self._settings.recovery_at_once)
        try:
            if not await self._members.is_gone(owner):
                return
            async with anyio.create_task_group() as group:
                for stream_id in [found for found, watched in self._watched.items() if watched.owner == owner]:
                    group.start_soon(self._end_one, stream_id, limit)
        except StorageError:
            return  # it may be alive after all
        finally:
            self._suspects.discard(owner)

    async def _end_one(self, stream_id: str, limit: anyio.CapacityLimiter) -> None:
        async with limit:
            try:
                if await self._endings.take_over(stream_id):
                    logger.warning("stream %s: its owner is dead (closed as interrupted)", stream_id)
            except Exception as error:  # one failure must not stop the others from being ended
                watched = self._watched.get(stream_id)
                if watched is not None and not watched.is_reported:
                    watched.is_reported = True
                    surprise = None if isinstance(error, StorageError) else error
                    logger.error(
                        "stream %s: its owner is dead, but it could not be closed: %s (tried again while it is read)",
                        stream_id, error, exc_info=surprise,
                    )  # fmt: skip
                return
            self._watched.pop(stream_id, None)
