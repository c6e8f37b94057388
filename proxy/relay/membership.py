"""Who else writes to this storage, as a value: `Solo` has it to itself, a `Member` shares it with other instances.

Owns the name of this instance, the answer to "is that instance alive", and the permission to begin something in
storage. All other modules of the relay ask a `Membership`, and do not know which of the two it is.

An instance takes a new name at each start. Records and locks name their owner by it.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.relay.lease import Lease, LeaseSettings, is_gone, is_leased
from proxy.relay.mailbox import Mailbox, MailboxSettings, send_abort
from proxy.relay.space import Space
from proxy.streams.answers import StorageError
from proxy.streams.client import Storage
from proxy.streams.retry import RetryPolicy

__all__ = ["Member", "MemberSettings", "Membership", "Solo"]


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """Settings of an instance that shares its storage with others."""

    lease: LeaseSettings  # its lease, which says that it is alive
    mailbox: MailboxSettings  # its mailbox, in which others write to it
    retry: RetryPolicy  # retries of messages to others


class Membership(Protocol):
    """This process among those on the same storage."""

    name: str

    def open(self, abort: Callable[[str], None], doubt: Callable[[], None]) -> None:
        """Start the background tasks.

        `abort` is called with each stream that another instance wants to end. `doubt` is called when others may have
        taken this instance for dead: then streams that are written here may have been ended elsewhere.
        """

    async def check(self) -> None:
        """Raise Refusal when nothing may be begun now. Call it before an upstream is asked."""

    async def owner(self) -> str:
        """The name under which something may be begun in storage. Raises StorageError without a lease."""

    def licensed(self) -> AbstractAsyncContextManager[None]:
        """A block that is cancelled, and then raises StorageError, before others can count this instance as dead.

        Raises Refusal when it cannot be entered.
        """

    def is_other(self, owner: str) -> bool:
        """Whether the owner is another instance, which may be alive."""

    async def is_alive(self, owner: str) -> bool:
        """Whether an instance is alive, from one look at its lease. Raises StorageError."""

    async def is_gone(self, owner: str) -> bool:
        """Whether an instance is dead for certain. Takes seconds when it is. Raises StorageError."""

    async def tell(self, owner: str, stream_id: str) -> bool:
        """Ask another instance to abort a transfer; False when it cannot be reached. Raises StorageError."""

    async def aclose(self) -> None:
        """Stop the background tasks, and let others see that this instance is gone."""


class Capacity(Protocol):
    """A store that knows whether it is full."""

    def has_room(self) -> bool:
        """Whether a stream could be created now."""


class Solo:
    """The only process on its storage, an embedded store. Every other name belongs to an earlier process."""

    def __init__(self, store: Capacity) -> None:
        self.name = secrets.token_hex(16)
        self._store = store

    def open(self, abort: Callable[[str], None], doubt: Callable[[], None]) -> None:
        """Nothing runs in the background."""

    async def check(self) -> None:
        """Raise Refusal when the store is full, or its disk does not answer."""
        if not self._store.has_room():
            raise Refusal(Code.STORAGE_UNAVAILABLE, "the store is full, or its disk does not answer")

    async def owner(self) -> str:
        """Its name."""
        return self.name

    @asynccontextmanager
    async def licensed(self) -> AsyncIterator[None]:
        """A block that is never cancelled, because there is no other instance."""
        yield

    def is_other(self, owner: str) -> bool:
        """Never."""
        return False

    async def is_alive(self, owner: str) -> bool:
        """Whether it is this process."""
        return owner == self.name

    async def is_gone(self, owner: str) -> bool:
        """Whether it is an earlier process."""
        return owner != self.name

    async def tell(self, owner: str, stream_id: str) -> bool:
        """False: there is no other instance."""
        return False

    async def aclose(self) -> None:
        """Nothing to stop."""


class Member:
    """One of several instances on a storage. While it is open it holds a lease and reads its mailbox."""

    def __init__(self, storage: Storage, settings: MemberSettings) -> None:
        self.name = secrets.token_hex(16)
        self._storage = storage
        self._settings = settings
        self._space = Space(storage, settings.lease.lease_look_seconds, settings.lease.lease_seconds)
        self._mailbox = Mailbox(storage, self.name, settings.mailbox)
        self._lease = Lease(storage, self.name, settings.lease, self._mailbox.make)
        self._lease.on_lapse = self._cancel_licensed
        self._licensed: set[anyio.CancelScope] = set()
        self._tasks = Tasks("instance")

    def open(self, abort: Callable[[str], None], doubt: Callable[[], None]) -> None:
        """Begin to hold the lease and to read the mailbox. Call it inside the loop."""
        self._lease.on_loss = doubt
        self._tasks.start("lease", self._lease.keep())
        self._tasks.start("mail", self._mailbox.follow(abort))

    async def check(self) -> None:
        """Raise Refusal when storage failed at the last renewals or is full, or there is no lease.

        So no upstream is asked, and paid, for an answer that could not be stored.
        """
        if not await self._lease.ensure() or self._lease.is_troubled:
            raise _unavailable()
        await self._space.check()

    async def owner(self) -> str:
        """The name of this instance. Raises StorageError without a lease.

        A stream or a claim whose owner has no lease would be an orphan at once.
        """
        if not await self._lease.ensure():
            raise StorageError("there is no lease")
        return self.name

    @asynccontextmanager
    async def licensed(self) -> AsyncIterator[None]:
        """A block that is cancelled one look after the lease has run out: one look before others can act on that."""
        if not await self._lease.ensure():
            raise _unavailable()
        scope = anyio.CancelScope()
        with scope:
            self._licensed.add(scope)
            try:
                yield
            finally:
                self._licensed.discard(scope)
        if scope.cancelled_caught:
            raise StorageError("the lease has run out")

    def _cancel_licensed(self) -> None:
        for scope in self._licensed:
            scope.cancel()

    def is_other(self, owner: str) -> bool:
        """Whether `owner` is not this instance."""
        return owner != self.name

    async def is_alive(self, owner: str) -> bool:
        """Whether `owner` is this instance, or has a lease. Raises StorageError."""
        return owner == self.name or await is_leased(self._storage, owner)

    async def is_gone(self, owner: str) -> bool:
        """Whether the lease of `owner` is missing at several looks in a row. Raises StorageError."""
        return owner != self.name and await is_gone(self._storage, owner, self._settings.lease)

    async def tell(self, owner: str, stream_id: str) -> bool:
        """Write into the mailbox of `owner`. Raises StorageError."""
        return await send_abort(self._storage, owner, stream_id, self._settings.retry)

    async def aclose(self) -> None:
        """Delete lease and mailbox, so that others see that this instance is gone. Call it when no transfer is left."""
        await self._tasks.aclose()
        await self._lease.aclose()
        await self._mailbox.aclose()


def _unavailable() -> Refusal:
    return Refusal(Code.STORAGE_UNAVAILABLE, "storage does not answer; nothing was sent upstream")
