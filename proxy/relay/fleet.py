"""All instances on one storage: a transfer is ended wherever it runs, and what a dead instance left open is closed."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

import anyio

from proxy.base.tasks import Tasks
from proxy.http.message import Cut
from proxy.relay.instance import Instance, abort_message, lease_name, mailbox_name
from proxy.relay.orphans import end_orphan
from proxy.relay.record import Record, Records
from proxy.relay.transfers import Transfers
from proxy.streams.client import Reply, Storage, StorageError
from proxy.streams.producer import Producer, RetryPolicy

__all__ = ["Fleet", "FleetSettings"]

logger = logging.getLogger(__name__)

_MISSES = 2  # looks that find no lease before its instance counts as dead: one that was cut off takes it up again


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Seconds: `look`, between two looks at the leases of others; `watched`, that a stream is watched after a read.

    `streams`: watched at once, the others are those read longest ago; `at_once`: ended together, `retry`: of each;
    `first_pause`, in seconds: before another instance is expected to have closed a stream.
    """

    look: float
    watched: float
    streams: int
    at_once: int
    retry: RetryPolicy
    first_pause: float


@dataclass(slots=True)
class _Watched:
    owner: str
    until: float
    is_reported: bool = False


class Fleet:
    """What an instance does about the streams of the others."""

    def __init__(
        self, instance: Instance, storage: Storage, records: Records, transfers: Transfers, settings: FleetSettings
    ) -> None:
        self._instance = instance
        self._storage = storage
        self._records = records
        self._transfers = transfers
        self._settings = settings
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        self._tasks = Tasks("fleet")

    def open(self) -> None:
        """Start looking after the streams of others. Call it inside the loop."""
        self._tasks.start("look", self._look())

    async def aclose(self) -> None:
        """Stop."""
        await self._tasks.aclose()

    async def end(self, stream_id: str, cut: Cut, *, wait: float) -> bool:
        """End the transfer into this stream, wherever it runs; False when it has not ended within `wait` seconds.

        With `Cut.GONE` one that runs elsewhere and does not end is fenced: nothing more is stored. Raises StorageError.
        """
        if self._instance.is_alone or self._transfers.get(stream_id) is not None:
            return await self._transfers.end(stream_id, cut, wait=wait)
        try:
            record = await self._records.get(stream_id)
        except StorageError as error:
            if cut is Cut.GONE and error.is_final:
                return True  # nobody can tell whose it is: who writes it finds it gone
            raise
        if record is None or not self._is_anothers(record):
            return True
        if await self._end_elsewhere(stream_id, record, wait):
            return True
        if cut is Cut.GONE:
            await end_orphan(self._storage, self._records, self._settings.retry, stream_id)
            return True
        self.watch(stream_id, record)
        return False

    def _is_anothers(self, record: Record) -> bool:
        return not self._instance.is_alone and record.owner not in {"", self._instance.name}

    async def _end_elsewhere(self, stream_id: str, record: Record, wait: float) -> bool:
        if await self._is_closed(stream_id):
            return True
        name, life = mailbox_name(record.owner), f"{stream_id}.{record.transfer}"  # however often told, it is told once
        mailbox = Producer(self._storage, name, b"application/json", self._settings.retry, life=life)
        reply = await mailbox.append((abort_message(stream_id, record.transfer),), budget=wait)
        pause = self._settings.first_pause
        with anyio.move_on_after(wait if reply is Reply.ACCEPTED else 0):
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._settings.look)
                if await self._is_closed(stream_id):
                    return True
                if not await self._is_alive(record.owner):
                    return False
        return False

    async def _is_closed(self, stream_id: str) -> bool:
        metadata = await self._storage.head(stream_id)
        return metadata is None or b"stream-closed" in metadata.headers

    async def _is_alive(self, owner: str) -> bool:
        return await self._storage.head(lease_name(owner)) is not None

    # Orphans

    def watch(self, stream_id: str, record: Record) -> None:
        """An open stream has been read here: if its owner dies while it is, this instance closes it."""
        if not self._is_anothers(record):
            return
        until = asyncio.get_running_loop().time() + self._settings.watched
        self._watched[stream_id] = _Watched(record.owner, until)
        self._watched.move_to_end(stream_id)
        if len(self._watched) > self._settings.streams:
            self._watched.popitem(last=False)

    async def _look(self) -> None:
        missed: dict[str, int] = {}  # owner -> looks in a row that did not find its lease
        while True:
            await asyncio.sleep(self._settings.look)
            now = asyncio.get_running_loop().time()
            while self._watched and next(iter(self._watched.values())).until <= now:
                self._watched.popitem(last=False)
            owners = {watched.owner for watched in self._watched.values()}
            missed = {owner: await self._misses(owner, missed.get(owner, 0)) for owner in owners}
            for owner, misses in missed.items():
                if misses >= _MISSES:
                    await self._end_all(owner)

    async def _misses(self, owner: str, before: int) -> int:
        try:
            return 0 if await self._is_alive(owner) else before + 1
        except StorageError:
            return 0  # who cannot be asked about says nothing

    async def _end_all(self, owner: str) -> None:
        """End what is watched of a dead instance; what storage refuses is tried at the next look."""
        streams = [stream_id for stream_id, watched in self._watched.items() if watched.owner == owner]
        limit = anyio.CapacityLimiter(self._settings.at_once)
        async with anyio.create_task_group() as group:
            for stream_id in streams:
                group.start_soon(self._end_one, stream_id, owner, limit)

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
