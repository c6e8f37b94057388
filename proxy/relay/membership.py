"""Who else writes to this storage, as a value: `Solo` has it to itself, a `Member` shares it with other instances.

Owns the name of this life of the process, the answer to "is that instance alive", and the licence to begin something
in storage. Everything else in the relay asks a `Membership` and does not know which one it has.

An instance takes a new name at each start. Records and locks say who their owner is by that name.
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
from proxy.streams.answers import StorageError
from proxy.streams.client import Storage
from proxy.streams.retry import RetryPolicy

__all__ = ["Member", "MemberSettings", "Membership", "Solo"]


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """How a member of several instances lives with the others."""

    lease: LeaseSettings  # that says that it lives
    mailbox: MailboxSettings  # in which others write to it
    retry: RetryPolicy  # of messages to others


class Membership(Protocol):
    """This process among those on the same storage."""

    name: str

    def open(self, abort: Callable[[str], None]) -> None:
        """Start what runs in the background; `abort` is called with the streams that others want ended."""

    async def check(self) -> None:
        """Raise Refusal when nothing may be begun now: nothing has been asked of an upstream so far."""

    async def owner(self) -> str:
        """The name under which something may be begun in storage. Raises StorageError without a lease."""

    def licensed(self) -> AbstractAsyncContextManager[None]:
        """A block that is cancelled before others can take this instance for dead, and ends with StorageError then.

        Raises Refusal when it cannot be entered.
        """

    def is_other(self, owner: str) -> bool:
        """Whether the owner is another instance, which may be alive."""

    async def is_alive(self, owner: str) -> bool:
        """Whether an instance is alive as far as one look tells. Raises StorageError."""

    async def is_gone(self, owner: str) -> bool:
        """Whether an instance is dead, beyond doubt; takes seconds when it is. Raises StorageError."""

    async def tell(self, owner: str, stream_id: str) -> bool:
        """Ask another instance to abort a transfer; False when it cannot be reached. Raises StorageError."""

    async def aclose(self) -> None:
        """Stop, and let others know."""


class Room(Protocol):
    """A store that knows whether it is full."""

    def has_room(self) -> bool:
        """Whether it would take another stream now."""


class Solo:
    """The only process on its storage, an embedded store: every other name is that of a former process."""

    def __init__(self, store: Room) -> None:
        self.name = secrets.token_hex(16)
        self._store = store

    def open(self, abort: Callable[[str], None]) -> None:
        """Nothing runs in the background."""

    async def check(self) -> None:
        """Raise Refusal when the store is full."""
        if not self._store.has_room():
            raise Refusal(Code.STORAGE_UNAVAILABLE, "the store is full")

    async def owner(self) -> str:
        """Its name."""
        return self.name

    @asynccontextmanager
    async def licensed(self) -> AsyncIterator[None]:
        """Nobody else is there to think anything."""
        yield

    def is_other(self, owner: str) -> bool:
        """Never."""
        return False

    async def is_alive(self, owner: str) -> bool:
        """Whether it is this process."""
        return owner == self.name

    async def is_gone(self, owner: str) -> bool:
        """Whether it is a former process."""
        return owner != self.name

    async def tell(self, owner: str, stream_id: str) -> bool:
        """Nobody is there."""
        return False

    async def aclose(self) -> None:
        """Nothing to stop."""


class Member:
    """One of several instances on a storage: it holds a lease and reads its mail for as long as it is open."""

    def __init__(self, storage: Storage, settings: MemberSettings) -> None:
        self.name = secrets.token_hex(16)
        self._storage = storage
        self._settings = settings
        self._mailbox = Mailbox(storage, self.name, settings.mailbox)
        self._lease = Lease(storage, self.name, settings.lease, self._mailbox.make)
        self._lease.on_lapse = self._cancel_licensed
        self._licensed: set[anyio.CancelScope] = set()
        self._tasks = Tasks("instance")

    def open(self, abort: Callable[[str], None]) -> None:
        """Begin to hold the lease and to read the mail. Call it inside the loop."""
        self._tasks.start("lease", self._lease.keep())
        self._tasks.start("mail", self._mailbox.follow(abort))

    async def check(self) -> None:
        """Raise Refusal when storage failed at the last renewals, or there is no lease.

        So an upstream is not asked, and paid, for an answer that could not be kept.
        """
        if not await self._lease.ensure() or self._lease.is_troubled:
            raise _unavailable()

    async def owner(self) -> str:
        """Its name, if it holds the lease: a stream or a claim of an owner without a lease would be an orphan at once.

        Raises StorageError otherwise.
        """
        if not await self._lease.ensure():
            raise StorageError("there is no lease")
        return self.name

    @asynccontextmanager
    async def licensed(self) -> AsyncIterator[None]:
        """A block that is cancelled one look after the lease has run out, one look before anybody can act on it."""
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
        """Whether it is not this one."""
        return owner != self.name

    async def is_alive(self, owner: str) -> bool:
        """Whether it is this one, or has a lease. Raises StorageError."""
        return owner == self.name or await is_leased(self._storage, owner)

    async def is_gone(self, owner: str) -> bool:
        """Whether its lease is missing at several looks in a row. Raises StorageError."""
        return owner != self.name and await is_gone(self._storage, owner, self._settings.lease)

    async def tell(self, owner: str, stream_id: str) -> bool:
        """Write into its mailbox. Raises StorageError."""
        return await send_abort(self._storage, owner, stream_id, self._settings.retry)

    async def aclose(self) -> None:
        """Let go of lease and mailbox: others find that this instance is gone. Call it when no transfer is left."""
        await self._tasks.aclose()
        await self._lease.aclose()
        await self._mailbox.aclose()


def _unavailable() -> Refusal:
    return Refusal(Code.STORAGE_UNAVAILABLE, "storage does not answer; nothing was sent upstream")
