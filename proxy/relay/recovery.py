"""At start-up: streams that the last process on this data directory left open are ended as interrupted.

Only an embedded store can say which streams are open, and its directory belongs to one process at a time, so nobody
else writes them. Runs beside the first requests and never delays them.
"""

import logging
import re
from collections.abc import Awaitable
from typing import Protocol

import anyio

from proxy.base.tasks import Tasks
from proxy.relay.record import Records
from proxy.relay.transfers import Transfers
from proxy.streams.client import Storage, StorageError
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer, RetryPolicy

__all__ = ["OpenStreams", "Recovery"]

logger = logging.getLogger(__name__)

_PAGE = 500
_AT_ONCE = 50  # storage commits what waits together
_STREAM_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # the store may hold streams that are not ours


class OpenStreams(Protocol):
    """A store that knows its open streams."""

    def open_streams(self, after: str, count: int) -> Awaitable[list[str]]:
        """Paths of at most `count` open streams, in order, those after `after`."""


class Recovery:
    """Finds and ends what was left open. Without a store that lists its streams there is nothing to do."""

    def __init__(
        self,
        store: OpenStreams | None,
        storage: Storage,
        records: Records,
        transfers: Transfers,
        retry: RetryPolicy,
    ) -> None:
        self._store = store
        self._storage = storage
        self._records = records
        self._transfers = transfers
        self._retry = retry
        self._tasks = Tasks("recovery")

    def start(self) -> None:
        """Begin, in the background."""
        if self._store is not None:
            self._tasks.start("run", self._run(self._store))

    async def _run(self, store: OpenStreams) -> None:
        ended = 0
        after = ""
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def end(stream_id: str) -> None:
            nonlocal ended
            async with limiter:
                ended += await self._end(stream_id)

        while paths := await store.open_streams(after, _PAGE):
            after = paths[-1]
            async with anyio.create_task_group() as group:
                for stream_id in (path.rpartition("/")[2] for path in paths):
                    if _STREAM_ID.fullmatch(stream_id):
                        group.start_soon(end, stream_id)
        if ended:
            logger.warning("streams that a former process left open, now closed as interrupted: %d", ended)

    async def _end(self, stream_id: str) -> bool:
        """Record `interrupted`, then close under a later epoch; False for a stream that is not an orphan."""
        if self._transfers.get(stream_id) is not None:
            return False
        try:
            metadata = await self._storage.head(stream_id)
            if metadata is None or b"stream-closed" in metadata.headers:
                return False  # one of ours, ended since the list was made
            record = await self._records.get(stream_id)
            budget = self._retry.budget
            if record is not None and record.outcome is None:  # the last process may have recorded why it ended
                await self._records.end(stream_id, record, Outcome.INTERRUPTED, budget=budget, fence=1)
            content_type = metadata.headers.get(b"content-type") or b"application/octet-stream"
            await Producer(self._storage, stream_id, content_type, self._retry, epoch=1).close()
        except StorageError as error:
            logger.error("stream %s could not be closed: %s", stream_id, error)
            return False
        return True

    async def aclose(self) -> None:
        """Stop; what is left is found at the next start."""
        await self._tasks.aclose()
