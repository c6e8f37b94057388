"""This process, as the other instances on the same storage see it: a lease that says it lives, a mailbox for aborts.

Owns the form of both in storage: `_proxy/instances/{name}` expires soon unless it is read, which only its owner does;
`_proxy/instances/{name}.mail` is a JSON stream of messages that its owner follows.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import anyio

from proxy.base.tasks import Tasks
from proxy.streams.answers import StorageError
from proxy.streams.client import JSON, Storage, ttl

__all__ = ["Instance", "InstanceSettings", "abort_message", "lease_name", "mailbox_name"]

logger = logging.getLogger(__name__)


def lease_name(instance: str) -> str:
    """The stream that exists as long as the instance is alive."""
    return f"_proxy/instances/{instance}"


def mailbox_name(instance: str) -> str:
    """The stream of messages to the instance."""
    return f"_proxy/instances/{instance}.mail"


def abort_message(stream_id: str, transfer: str) -> bytes:
    """The message that ends a transfer; `transfer` is the one of the stream's record."""
    return json.dumps({"abort": stream_id, "transfer": transfer}).encode()


def _aborts(mail: bytes) -> Iterator[tuple[str, str]]:
    """Stream and `transfer` of each message; what is not one of ours is passed over."""
    with suppress(ValueError, TypeError, RecursionError):
        for message in json.loads(mail or b"[]"):
            with suppress(TypeError, KeyError):
                yield str(message["abort"]), str(message["transfer"])


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """Times of an instance's lease and mailbox in seconds, sizes in bytes."""

    lease_seconds: int  # without a sign of life; then other instances take this one for dead
    lease_renew_seconds: float  # between two renewals of the lease, and before a retry of what failed
    lease_attempt_seconds: float  # that one renewal may take, lost requests included
    lease_look_seconds: float  # between two looks for a lease that is missing
    lease_misses: int  # looks without a lease in a row, after which its instance counts as dead
    max_lease_bytes: int  # of the stream that stands for a lease
    mailbox_ttl_seconds: int  # lifetime of a mailbox that is not read
    storage_silence_seconds: float  # that storage may take over one long-poll of the mailbox
    max_mail_bytes: int  # of mail that is read at once


class Instance:
    """One life of a process: it takes a new name at each start. Until `open` storage is taken to be its alone."""

    def __init__(self, storage: Storage, settings: InstanceSettings) -> None:
        self.name = secrets.token_hex(16)
        self._storage = storage
        self._settings = settings
        self._tasks = Tasks("instance")
        self.is_alone = True
        self._held_until = 0.0
        self._renewing = asyncio.Lock()
        self._tries = 0  # to renew the lease, those that have ended
        self._has_mailbox = asyncio.Event()
        self._is_troubled = False  # storage could not be told: reported once

    def open(self, abort: Callable[[str, str], None]) -> None:
        """Begin to hold the lease and to read the mail. Call it inside the loop.

        `abort` is called with stream id and record's `transfer` of what others want ended.
        """
        self.is_alone = False
        self._tasks.start("lease", self._keep())
        self._tasks.start("mail", self._follow(abort))

    async def owner(self) -> str:
        """The name that records give as their stream's owner; empty while others could not see that it is alive."""
        if not self.is_alone and not self._is_held():
            tries = self._tries
            async with self._renewing:
                if not self._is_held() and self._tries == tries:  # a try that failed tells all who waited for it
                    await self._renew()
        return self.name if self.is_alone or self._is_held() else ""

    def is_other(self, owner: str) -> bool:
        """Whether the owner is another instance, which may be alive."""
        return not self.is_alone and owner not in {"", self.name}

    async def is_alive(self, name: str) -> bool:
        """Whether an instance has given a sign of life lately. Raises StorageError."""
        if self.is_alone or name == self.name:
            return name == self.name  # another one was a former process: nobody else writes to this storage
        return await self._storage.head(lease_name(name)) is not None

    async def is_gone(self, name: str) -> bool:
        """Whether an instance is dead: its lease is missing for longer than one that was cut off needs to renew it.

        Takes that long when it is. Raises StorageError.
        """
        for look in range(self._settings.lease_misses):
            if look and not self.is_alone:
                await asyncio.sleep(self._settings.lease_look_seconds)
            if await self.is_alive(name):
                return False
        return True

    def _is_held(self) -> bool:
        return asyncio.get_running_loop().time() < self._held_until

    async def _keep(self) -> None:
        while True:
            async with self._renewing:
                await self._renew()
            await asyncio.sleep(self._settings.lease_renew_seconds)

    async def _renew(self) -> None:
        """Give a sign of life; a lease that is not there, or no longer, is made anew, after the mailbox."""
        began = asyncio.get_running_loop().time()
        lease = lease_name(self.name)
        try:
            with anyio.fail_after(self._settings.lease_attempt_seconds):
                if await self._storage.read_whole(lease, self._settings.max_lease_bytes) is None:
                    await self._make_mailbox()
                    await self._storage.create(lease, JSON, ttl(self._settings.lease_seconds))
        except (StorageError, TimeoutError) as error:
            if not self._is_troubled:
                logger.warning("other instances cannot be told that this one is alive: %s", str(error) or "time-out")
            self._is_troubled = True
            return
        finally:
            self._tries += 1
        self._is_troubled = False
        self._held_until = began + self._settings.lease_seconds

    async def _make_mailbox(self) -> None:
        await self._storage.create(mailbox_name(self.name), JSON, ttl(self._settings.mailbox_ttl_seconds))
        self._has_mailbox.set()

    async def _follow(self, abort: Callable[[str, str], None]) -> None:
        """Read the mail as it comes, for ever."""
        await self._has_mailbox.wait()
        offset: bytes | None = None
        while True:
            try:
                following = await self._read_mail(offset, abort)
            except StorageError:
                following = offset
            if following == offset:  # nothing came, however soon storage said so
                await asyncio.sleep(self._settings.lease_renew_seconds)
            offset = following

    async def _read_mail(self, offset: bytes | None, abort: Callable[[str, str], None]) -> bytes | None:
        """Act on what follows `offset` (None: the start), waiting for it; the next offset. Raises StorageError."""
        settings = self._settings
        found = await self._storage.poll(
            mailbox_name(self.name), offset, timeout=settings.storage_silence_seconds, max_bytes=settings.max_mail_bytes
        )
        if found is None:
            await self._make_mailbox()
            return None
        content, following = found
        for stream_id, transfer in _aborts(content):
            abort(stream_id, transfer)
        return following

    async def aclose(self) -> None:
        """Let go: whoever looks finds that this instance is gone. Call it when no transfer is left."""
        await self._tasks.aclose()
        if not self.is_alone:
            with anyio.move_on_after(self._settings.lease_renew_seconds), suppress(StorageError):  # they expire
                await self._storage.delete(lease_name(self.name))
                await self._storage.delete(mailbox_name(self.name))
