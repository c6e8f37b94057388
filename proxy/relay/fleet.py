"""Ending a transfer wherever it runs: here, or by a message to the instance that owns it (protocol: Abort, Delete)."""

import asyncio
from dataclasses import dataclass

import anyio

from proxy.relay.instance import Instance, abort_message, mailbox_name
from proxy.relay.orphans import Orphans, end_orphan
from proxy.relay.record import Record, Records
from proxy.relay.transfers import Transfers
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import JSON, Storage
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy

__all__ = ["Fleet", "FleetSettings"]


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How the end of a transfer on another instance is awaited; times in seconds."""

    first_pause_seconds: float  # before the first look whether the stream is closed; each later pause is twice as long
    longest_pause_seconds: float  # between two looks
    retry: RetryPolicy  # of messages to the owner


class Fleet:
    """All instances on one storage, as far as their transfers can be ended from here."""

    def __init__(
        self, instance: Instance, storage: Storage, records: Records, transfers: Transfers, orphans: Orphans,
        settings: FleetSettings,
    ) -> None:  # fmt: skip
        self._instance = instance
        self._storage = storage
        self._records = records
        self._transfers = transfers
        self._orphans = orphans
        self._settings = settings

    async def end(self, stream_id: str, *, discard: bool, wait: float) -> bool:
        """End the transfer into this stream, wherever it runs; False when it has not ended within `wait` seconds.

        With `discard` one that runs elsewhere and does not end is fenced: nothing more is stored. Raises StorageError,
        also when its owner could not be told within that time.
        """
        if self._instance.is_alone or self._transfers.get(stream_id) is not None:
            return await self._transfers.end(stream_id, discard=discard, wait=wait)
        try:
            record = await self._records.get(stream_id)
        except StorageError as error:
            if discard and error.is_final:
                return True  # nobody can tell whose it is: who writes it finds it gone
            raise
        if record is None or not self._instance.is_other(record.owner):
            return True
        if await self._end_elsewhere(stream_id, record, wait):
            return True
        if discard:
            await end_orphan(self._storage, self._records, self._settings.retry, stream_id)
            return True
        self._orphans.watch(stream_id, record)
        return False

    async def _end_elsewhere(self, stream_id: str, record: Record, wait: float) -> bool:
        is_told = False
        with anyio.move_on_after(wait):
            if await self._is_closed(stream_id):
                return True
            is_told = await self._tell(stream_id, record)
            pause = self._settings.first_pause_seconds
            while await self._instance.is_alive(record.owner):
                if not is_told:
                    raise StorageError("the instance that owns the stream has no mailbox")
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._settings.longest_pause_seconds)
                if await self._is_closed(stream_id):
                    return True
            return False
        if not is_told:
            raise StorageError("the instance that owns the stream could not be told in time")
        return False

    async def _tell(self, stream_id: str, record: Record) -> bool:
        """Put the message into the owner's mailbox, once however often it is told; False when there is none."""
        name, life = mailbox_name(record.owner), f"{stream_id}.{record.transfer}"
        mailbox = Producer(self._storage, name, JSON, self._settings.retry, life=life)
        return await mailbox.append((abort_message(stream_id, record.transfer),)) is AppendResult.ACCEPTED

    async def _is_closed(self, stream_id: str) -> bool:
        metadata = await self._storage.head(stream_id)
        return metadata is None or metadata.is_closed
