"""A mailbox of each instance, into which the others write what they want to be ended.

Owns its form in storage: `_proxy/instances/{name}.mail` is a JSON stream that its owner follows by long-poll. It is
apart from the lease, because writing to it would renew the lease. A message is written by a producer of its own, named
after the stream that it means, so that repeating it stores it once.
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
    """Times of a mailbox in seconds, sizes in bytes."""

    mailbox_ttl_seconds: int  # lifetime of a mailbox, from its last read or write
    mailbox_listen_seconds: float  # that one long-poll may take; the next one has a connection that is not deaf
    lease_renew_seconds: float  # before it is asked again when nothing had come, however soon storage said so
    max_mail_bytes: int  # of mail that is read at once


def mailbox_name(instance: str) -> str:
    """The stream of messages to the instance."""
    return f"_proxy/instances/{instance}.mail"


async def send_abort(storage: Storage, instance: str, stream_id: str, retry: RetryPolicy) -> bool:
    """Tell an instance to abort its transfer into a stream; False when it has no mailbox. Raises StorageError."""
    producer = Producer(storage, mailbox_name(instance), JSON, retry, alias=f"abort.{stream_id}")
    message = json.dumps({"abort": stream_id}).encode()
    return await producer.append((message,)) is AppendResult.ACCEPTED


def _aborted_streams(mail: bytes) -> Iterator[str]:
    """The stream of each message; what is not one of ours is passed over."""
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
        """Make the mailbox unless it is there. Raises StorageError."""
        await self._storage.create(self._name, JSON, self._settings.mailbox_ttl_seconds)
        self._exists.set()

    async def follow(self, abort: Callable[[str], None]) -> None:
        """Call `abort` with the stream of every message as it comes, for ever; begins once the mailbox is made."""
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
        """Act on what follows `offset` (None: the start), waiting for it; the next offset. Raises StorageError."""
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
        """Remove it; storage that does not answer is not waited for: the mailbox expires."""
        with anyio.move_on_after(self._settings.lease_renew_seconds), suppress(StorageError):
            await self._storage.delete(self._name)
