"""The mailbox of each instance, in which others write which transfers it must end.

Owns its form in storage: `_proxy/instances/{name}.mail` is a JSON stream that its owner follows by long-poll. It is
not the lease itself, because a write renews a stream, and only its owner may renew the lease. Each message has a
producer of its own, named after the stream that it is about, so that a repeated message is stored once.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import anyio

from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import JSON, Storage
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy

__all__ = ["Mailbox", "MailboxSettings", "mailbox_name", "send_abort"]


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """How a mailbox is stored and read."""

    mailbox_ttl_seconds: int  # lifetime of a mailbox in seconds, from its last read or write
    mailbox_listen_seconds: float  # time-out of one long-poll; the next one may use another, working connection
    lease_renew_seconds: float  # least time between two long-polls without mail, in case storage answers at once
    max_mail_bytes: int  # most bytes of mail that are read at once


def mailbox_name(instance: str) -> str:
    """The stream of messages to the instance."""
    return f"_proxy/instances/{instance}.mail"


async def send_abort(storage: Storage, instance: str, stream_id: str, retry: RetryPolicy) -> bool:
    """Tell an instance to abort its transfer into a stream; False when it has no mailbox. Raises StorageError."""
    producer = Producer(storage, mailbox_name(instance), JSON, retry, alias=f"abort.{stream_id}")
    message = json.dumps({"abort": stream_id}).encode()
    return await producer.append((message,)) is AppendResult.ACCEPTED


def _aborted_streams(mail: bytes) -> Iterator[str]:
    """The stream of each message. Messages of another form are skipped."""
    with suppress(ValueError, TypeError, RecursionError):
        for message in json.loads(mail or b"[]"):
            with suppress(TypeError, KeyError):
                yield str(message["abort"])


class Mailbox:
    """The mailbox of this instance."""

    def __init__(self, storage: Storage, name: str, settings: MailboxSettings) -> None:
        self._storage = storage
        self._name = mailbox_name(name)
        self._settings = settings
        self._exists = asyncio.Event()

    async def make(self) -> None:
        """Create the mailbox, unless it exists. Raises StorageError."""
        await self._storage.create(self._name, JSON, self._settings.mailbox_ttl_seconds)
        self._exists.set()

    async def follow(self, abort: Callable[[str], None]) -> None:
        """Call `abort` with the stream of every message, until cancelled. Waits until the mailbox was made."""
        await self._exists.wait()
        clock = asyncio.get_running_loop().time
        offset: bytes | None = None
        while True:
            not_before = clock() + self._settings.lease_renew_seconds
            following = offset
            # A long-poll without mail is given up rather than left to its time-out: nothing is wrong with storage.
            with suppress(StorageError), anyio.move_on_after(self._settings.mailbox_listen_seconds):
                following = await self._read(offset, abort)
            if following == offset:
                await asyncio.sleep(not_before - clock())
            offset = following

    async def _read(self, offset: bytes | None, abort: Callable[[str], None]) -> bytes | None:
        """Wait for mail after `offset` (None: the start) and act on it; the next offset. Raises StorageError."""
        settings = self._settings
        found = await self._storage.poll(
            self._name, offset, timeout=2 * settings.mailbox_listen_seconds, max_bytes=settings.max_mail_bytes
        )
        if found is None:
            await self.make()
            return None
        content, following = found
        for stream_id in _aborted_streams(content):
            abort(stream_id)
        return following

    async def aclose(self) -> None:
        """Delete the mailbox. When storage does not answer, it expires by itself."""
        with anyio.move_on_after(self._settings.lease_renew_seconds), suppress(StorageError):
            await self._storage.delete(self._name)
