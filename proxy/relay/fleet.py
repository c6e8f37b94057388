"""Ending a transfer wherever it runs: here, or by a message to the instance that owns it (protocol: Abort, Delete)."""

import asyncio
from dataclasses import dataclass

import anyio

from proxy.relay.membership import Membership
from proxy.relay.orphans import Watcher
from proxy.relay.record import Record, Records
from proxy.relay.takeover import Endings
from proxy.relay.transfers import Transfers
from proxy.streams.answers import StorageError

__all__ = ["Fleet", "FleetSettings"]


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How the end of a transfer on another instance is awaited."""

    first_pause_seconds: float  # seconds before the first check of the stream; each later pause is twice as long
    longest_pause_seconds: float  # longest pause between two checks, in seconds


class Fleet:
    """Ends transfers on any instance of the same storage."""

    def __init__(
        self, members: Membership, records: Records, transfers: Transfers, endings: Endings, orphans: Watcher,
        settings: FleetSettings,
    ) -> None:  # fmt: skip
        self._members = members
        self._records = records
        self._transfers = transfers
        self._endings = endings
        self._orphans = orphans
        self._settings = settings

    async def abort(self, stream_id: str, *, wait: float) -> bool:
        """Abort the transfer into this stream, wherever it runs.

        True when it has stopped: its upstream is cut, or it can store nothing more. False when the message to its owner
        is stored, but the transfer did not stop within `wait` seconds. Raises StorageError when no message could be
        stored.
        """
        if self._transfers.get(stream_id) is not None:
            await self._transfers.end(stream_id, discard=False, wait=wait)
            return True
        if await self._endings.is_over(stream_id):
            return True
        record = await self._records.get(stream_id)
        if record is None or not self._members.is_other(record.owner):
            # The stream is open. Only a transfer that is just ending on this instance could still write to it.
            await self._endings.take_over(stream_id)
            return True
        return await self._abort_elsewhere(stream_id, record, wait)

    async def _abort_elsewhere(self, stream_id: str, record: Record, wait: float) -> bool:
        self._orphans.watch(stream_id, record)  # so it ends even when its owner dies before it reads the message
        is_sent = False
        with anyio.move_on_after(wait):
            is_sent = await self._members.tell(record.owner, stream_id)
            if is_sent and await self._saw_end(stream_id, record):
                return True
        if not is_sent and await self._members.is_alive(record.owner):
            raise StorageError("the instance that owns the stream could not be told to stop")
        return False

    async def discard(self, stream_id: str, *, wait: float) -> bool:
        """End the transfer into a stream that is about to be deleted; False when its last append is still under way.

        A transfer on another instance that does not end within `wait` seconds is fenced: it can store nothing more.
        Raises StorageError.
        """
        if self._transfers.get(stream_id) is not None:
            return await self._transfers.end(stream_id, discard=True, wait=wait)
        try:
            record = await self._records.get(stream_id)
        except StorageError as error:
            if not error.is_final:
                raise
            record = None  # its owner is unknown
        if record is not None and self._members.is_other(record.owner):
            with anyio.move_on_after(wait):
                if await self._endings.is_over(stream_id):
                    return True
                await self._members.tell(record.owner, stream_id)
                if await self._saw_end(stream_id, record):
                    return True
        await self._endings.take_over(stream_id)
        return True

    async def _saw_end(self, stream_id: str, record: Record) -> bool:
        """Wait until the stream is closed; False when its owner no longer has a lease."""
        pause = self._settings.first_pause_seconds
        while await self._members.is_alive(record.owner):
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._settings.longest_pause_seconds)
            if await self._endings.is_over(stream_id):
                return True
        return False
