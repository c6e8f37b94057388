"""Who else writes to this storage, as a value: `Solo` has it to itself, a `Member` shares it with other instances.

Owns the name of this life of the process, the answer to "is that instance alive", and the licence to begin something
in storage. Everything else in the relay asks a `Membership` and does not know which one it has.

An instance takes a new name at each start. Records and locks say who their owner is by that name.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import anyio

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.relay.lease import Lease, LeaseSettings, is_gone, is_leased
from proxy.relay.mailbox import Mailbox, MailboxSettings, send_abort
from proxy.streams.client import Storage
from proxy.streams.retry import RetryPolicy

__all__ = ["Member", "Membership", "Solo"]


class Membership(Protocol):
    """This process among those on the same storage."""

    name: str

    def open(self, abort: Callable[[str], None]) -> None:
        """Start what runs in the background; `abort` is called with the streams that others want ended."""

    async def check_storage(self) -> None:
        """Raise Refusal when storage is known not to answer. An earlier answer could not be replayed either."""

    async def check(self) -> None:
        """Raise Refusal when no stream may be begun now. Called before the upstream is asked, and paid."""

    async def owner(self) -> str:
        """The name under which something may be begun in storage. Raises Refusal without a lease."""

    def licensed(self) -> AbstractAsyncContextManager[None]:
        """A block that is cancelled before others can take this instance for dead. Raises Refusal then."""

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


class Solo:
    """The only process on its storage, an embedded store: every other name is that of a former process."""

    def __init__(self, has_room: Callable[[], bool]) -> None:
        """`has_room`: whether the store would take another stream now."""
        self.name = secrets.token_hex(16)
        self._has_room = has_room

    def open(self, abort: Callable[[str], None]) -> None:
        """Nothing runs in the background."""

    async def check_storage(self) -> None:
        """Do nothing: the store is in this process."""

    async def check(self) -> None:
        """Raise Refusal when the store is full."""
        if not self._has_room():
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

    def __init__(self, storage: Storage, lease: LeaseSettings, mail: MailboxSettings, retry: RetryPolicy) -> None:
        self.name = secrets.token_hex(16)
        self._storage = storage
        self._look = lease.look
        self._retry = retry
        self._mailbox = Mailbox(storage, self.name, mail)
        self._lease = Lease(storage, self.name, lease, self._mailbox.make)
        self._lease.on_lapse = self._cancel_licensed
        self._licensed: set[anyio.CancelScope] = set()
        self._tasks = Tasks("instance")

    def open(self, abort: Callable[[str], None]) -> None:
        """Begin to hold the lease and to read the mail. Call it inside the loop."""
        self._tasks.start("lease", self._lease.keep())
        self._tasks.start("mail", self._mailbox.follow(abort))

    async def check_storage(self) -> None:
        """Raise Refusal when storage failed at the last renewal, or there is no lease."""
        await self.check()

    async def check(self) -> None:
        """Raise Refusal when storage failed at the last renewal, or there is no lease."""
        if not await self._lease.ensure() or self._lease.is_troubled:
            raise Refusal(Code.STORAGE_UNAVAILABLE, "storage does not answer; nothing was sent upstream")

    async def owner(self) -> str:
        """Its name, if it holds the lease: a stream or a claim of an owner without a lease would be an orphan at once.

        Raises Refusal otherwise.
        """
        if not await self._lease.ensure():
            raise Refusal(Code.STORAGE_UNAVAILABLE, "storage does not answer")
        return self.name

    @asynccontextmanager
    async def licensed(self) -> AsyncIterator[None]:
        """A block that is cancelled one look after the lease has run out, one look before anybody can act on it."""
        await self.owner()
        scope = anyio.CancelScope()
        with scope:
            self._licensed.add(scope)
            try:
                yield
            finally:
                self._licensed.discard(scope)
        if scope.cancelled_caught:
            raise Refusal(Code.STORAGE_UNAVAILABLE, "storage has not answered for so long that the call was stopped")

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
        """Whether its lease is missing at three looks in a row. Raises StorageError."""
        return owner != self.name and await is_gone(self._storage, owner, self._look)

    async def tell(self, owner: str, stream_id: str) -> bool:
        """Write into its mailbox. Raises StorageError."""
        return await send_abort(self._storage, owner, stream_id, self._retry)

    async def aclose(self) -> None:
        """Let go of lease and mailbox: others find that this instance is gone. Call it when no transfer is left."""
        await self._tasks.aclose()
        await self._lease.aclose()
        await self._mailbox.aclose()
