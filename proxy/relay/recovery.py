"""At start-up: ends, as interrupted, the streams that the previous process on this data directory left open.

Only an embedded store can list its open streams. Its directory belongs to one process at a time, so no other process
writes them. Runs in the background and does not delay requests. Failures are retried.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

import anyio

from proxy.base.tasks import Tasks
from proxy.relay.takeover import Endings
from proxy.relay.transfers import Transfers
from proxy.streams.answers import StorageError

__all__ = ["OpenStreams", "Recovery", "RecoverySettings"]

logger = logging.getLogger(__name__)

_STREAM_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # a store may hold other streams, too


class OpenStreams(Protocol):
    """A store that knows its open streams."""

    def open_streams(self, after: str, count: int) -> Awaitable[list[str]]:
        """Paths of at most `count` open streams, in order, those after `after`."""


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """Bounds of the recovery at a start; times in seconds."""

    recovery_at_once: int  # most streams that are closed at the same time
    retry_longest_seconds: float  # pause before the second round over streams that could not be closed; it doubles
    close_retry_seconds: float  # longest pause between two rounds


class Recovery:
    """Finds and ends the streams that were left open. Does nothing without a store that lists its streams."""

    def __init__(
        self, store: OpenStreams | None, endings: Endings, transfers: Transfers, settings: RecoverySettings
    ) -> None:
        self._store = store
        self._endings = endings
        self._transfers = transfers
        self._settings = settings
        self._refused: set[str] = set()  # streams that were reported, once each
        self._tasks = Tasks("recovery")

    def start(self) -> None:
        """Start the background task."""
        if self._store is not None:
            self._tasks.start("run", self._run(self._store))

    async def _run(self, store: OpenStreams) -> None:
        pause = self._settings.retry_longest_seconds
        while not await self._round(store):
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._settings.close_retry_seconds)

    async def _round(self, store: OpenStreams) -> bool:
        """End the streams that are open and not written here; False when one could not be found or ended."""
        ended = failed = 0

        async def end(stream_id: str) -> None:
            nonlocal ended, failed
            try:
                was_open = await self._end(stream_id)
                ended += was_open  # in one step: others count while this one waits
            except Exception as error:  # one failure must not stop the others from being ended
                failed += 1
                if stream_id not in self._refused:
                    self._refused.add(stream_id)
                    surprise = None if isinstance(error, StorageError) else error
                    logger.error(
                        "stream %s: a former process left it open, and it could not be closed: %s (tried again)",
                        stream_id, error, exc_info=surprise,
                    )  # fmt: skip

        after = ""
        try:
            while paths := await store.open_streams(after, self._settings.recovery_at_once):
                after = paths[-1]
                async with anyio.create_task_group() as group:
                    for stream_id in (path.rpartition("/")[2] for path in paths):
                        if _STREAM_ID.fullmatch(stream_id):
                            group.start_soon(end, stream_id)
        except Exception:  # any failure of the store
            logger.exception("streams left open by a former process could not be listed (tried again)")
            failed += 1
        if ended:
            logger.warning("%d streams left open by a former process were closed as interrupted", ended)
        return not failed

    async def _end(self, stream_id: str) -> bool:
        """End a stream, if it is open and not written here; whether it was. Raises StorageError."""
        if self._transfers.get(stream_id) is not None:
            return False
        return await self._endings.take_over(stream_id)

    async def aclose(self) -> None:
        """Stop. The next start finds what is left."""
        await self._tasks.aclose()
