"""Streams whose owner died are ended as interrupted by whoever finds them: recorded first, then fenced and closed."""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import anyio

from proxy.base.tasks import Tasks
from proxy.relay.instance import Instance
from proxy.relay.record import Record, Records
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import OCTETS, Storage
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy

__all__ = ["OrphanSettings", "Orphans", "end_orphan"]

logger = logging.getLogger(__name__)

_FENCE = 1  # the producer epoch of whoever takes over; the owner's is 0


async def end_orphan(
    storage: Storage, records: Records, retry: RetryPolicy, stream_id: str, *, owner: str | None = None
) -> bool:
    """End the stream; False when it is not open, or not `owner`'s. Nothing of its owner is stored any more afterwards.

    Repeating it, here or elsewhere at the same time, does no harm. An owner that finds its record taken over, and has
    more to say than that the stream is whole, ends it in this way too. Raises StorageError.
    """
    records.forget(stream_id)
    metadata = await storage.head(stream_id)
    if metadata is None or metadata.is_closed:
        return False
    record = await records.get(stream_id)
    if owner is not None and (record is None or record.owner != owner):
        return False
    is_ours = False
    if record is not None and record.outcome is None:  # else its owner has recorded why it ended
        reply = await records.end(stream_id, record, Outcome.INTERRUPTED, budget=retry.budget, fence=_FENCE)
        is_ours = reply is AppendResult.ACCEPTED
    content_type = metadata.content_type or OCTETS
    life = record.transfer if record is not None else ""
    reply = await Producer(storage, stream_id, content_type, retry, epoch=_FENCE, life=life).close()
    if record is not None and is_ours and reply is AppendResult.CLOSED:  # its owner had finished in between
        await records.withdraw(stream_id, record, fence=_FENCE + 1)
    return reply is AppendResult.ACCEPTED


@dataclass(frozen=True, slots=True)
class OrphanSettings:
    """Bounds of the watch over open streams of other instances; times in seconds."""

    lease_look_seconds: float  # between two looks at the leases of their owners
    watch_seconds: float  # that a stream is watched after it was read
    max_watched: int  # streams watched at once; beyond it the one read longest ago is dropped
    recovery_at_once: int  # orphans that are closed at the same time
    retry: RetryPolicy  # of requests to storage


@dataclass(slots=True)
class _Watched:
    owner: str
    until: float
    is_reported: bool = False


class Orphans:
    """The open streams of other instances that are read here; those of a dead one are ended."""

    def __init__(self, instance: Instance, storage: Storage, records: Records, settings: OrphanSettings) -> None:
        self._instance = instance
        self._storage = storage
        self._records = records
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
        """Somebody is about to wait for more of the stream: watch it, if it turns out to be another instance's."""
        watched = self._watched.get(stream_id)
        half = asyncio.get_running_loop().time() + self._settings.watch_seconds / 2
        if not self._instance.is_alone and (watched is None or watched.until < half):
            self._tasks.start(f"find {stream_id}", self._find(stream_id))

    async def _find(self, stream_id: str) -> None:
        with suppress(StorageError):  # the read itself will find out
            record = await self._records.get(stream_id)
            if record is not None:
                self.watch(stream_id, record)

    def watch(self, stream_id: str, record: Record) -> None:
        """The stream is open: if it is another instance's, and that one dies while it is, it is closed from here."""
        if not self._instance.is_other(record.owner):
            return
        known = self._watched.get(stream_id)
        is_reported = known is not None and known.owner == record.owner and known.is_reported
        until = asyncio.get_running_loop().time() + self._settings.watch_seconds
        self._watched[stream_id] = _Watched(record.owner, until, is_reported)
        self._watched.move_to_end(stream_id)
        if len(self._watched) > self._settings.max_watched:
            self._watched.popitem(last=False)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_look_seconds)
            now = asyncio.get_running_loop().time()
            while self._watched and next(iter(self._watched.values())).until <= now:
                self._watched.popitem(last=False)
            for owner in {watched.owner for watched in self._watched.values()} - self._suspects:
                with suppress(StorageError):  # who cannot be asked about says nothing
                    if not await self._instance.is_alive(owner):
                        self._suspects.add(owner)
                        self._tasks.start(f"end those of {owner}", self._end_all(owner))

    async def _end_all(self, owner: str) -> None:
        """End what is watched of an instance if it is dead; what storage refuses is tried again after a look."""
        limit = anyio.CapacityLimiter(self._settings.recovery_at_once)
        try:
            if not await self._instance.is_gone(owner):
                return
            async with anyio.create_task_group() as group:
                for stream_id in [found for found, watched in self._watched.items() if watched.owner == owner]:
                    group.start_soon(self._end_one, stream_id, owner, limit)
        except StorageError:
            return  # it may be alive after all
        finally:
            self._suspects.discard(owner)

    async def _end_one(self, stream_id: str, owner: str, limit: anyio.CapacityLimiter) -> None:
        async with limit:
            try:
                if await end_orphan(self._storage, self._records, self._settings.retry, stream_id, owner=owner):
                    logger.warning("stream %s: its instance is gone, closed as interrupted", stream_id)
            except Exception as error:  # whatever it is, the other streams are ended
                watched = self._watched.get(stream_id)
                if watched is not None and not watched.is_reported:
                    watched.is_reported = True
                    surprise = None if isinstance(error, StorageError) else error
                    logger.error(
                        "stream %s could not be closed, its instance is gone: %s", stream_id, error, exc_info=surprise
                    )
                return
            self._watched.pop(stream_id, None)
