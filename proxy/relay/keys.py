"""`Idempotency-Key`: one upstream call however often, and wherever, the same request is made under the same key.

A key names a stream, it is not its id: ids are random, so that a signed URL belongs to one stream for ever. What a key
names is kept under a lock in storage (`relay.lock`), whose token is the id of the stream that the claim is made for and
whose note is the fingerprint of the request.

  claim the lock  ->  ask the upstream  ->  make stream and record  ->  settle the lock  ->  answer 201

- FREE, or SETTLED for a stream that is gone: the next caller claims it, under a fresh id, and makes the call.
- HELD: the call is under way. The next caller waits for it; with another request it is a conflict. Once the holder is
  dead, the next caller claims the lock in its place.
- SETTLED for a stream that exists: the next caller gets that stream, or a conflict.

Settling is the moment from which a stream can be found by its key, and from which it is never withdrawn. Before it
nobody but the holder knows the stream. So a replay is never answered for a stream that goes away again, and removing
a stream that was not settled hurts nobody.

Of a holder and its successor, one changes the lock first, and the other's change is refused. A holder that finds itself
succeeded removes its stream and answers 502. A successor removes the stream of the claim that it succeeded: that claim
can never be settled any more. Both name a random id, so that however late such a removal arrives, it removes nothing
else.

Two calls are never under way at once while the first holder lives, because a holder ends its call before anybody may
take it for dead (`licensed`). What a death leaves, and what the next caller finds a lease and three looks later:

- before the upstream was asked, or while it was: a claim.
- after the stream was made: a claim, and a stream that nobody knows, which the successor removes.
- after the lock was settled: a stream that the next caller gets. If it was cut, it ends as interrupted.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

import anyio

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.http.body import Cut
from proxy.relay.lock import Free, Held, Lock, Settled
from proxy.relay.membership import Membership
from proxy.relay.record import Record, Records
from proxy.relay.transfers import Transfers
from proxy.streams.answers import StorageError
from proxy.streams.client import Storage
from proxy.streams.ledger import Ledger, LedgerSettings
from proxy.wire.events import Buffer

__all__ = ["Claim", "KeySettings", "Keys", "Replay", "fingerprint", "lock_name"]

logger = logging.getLogger(__name__)

_STEP = 1 << 20  # bytes that are hashed before others get a turn: about a millisecond


def lock_name(hidden: str) -> str:
    """The name of the lock of a key whose hidden name is given."""
    return f"_proxy/keys/{hidden}"


async def fingerprint(method: bytes, target: bytes, body: Buffer) -> str:
    """What makes two requests the same: method, URL and body. Hashed in steps, so that others get their turn."""
    digest = hashlib.sha256()
    for part in (method, target, body):
        digest.update(b"%d:" % len(part))
        view = memoryview(part)
        for start in range(0, len(part), _STEP):
            if start:
                await asyncio.sleep(0)
            digest.update(view[start : start + _STEP])
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Replay:
    """The key was used before: its stream exists, and stays."""

    stream_id: str
    record: Record


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Times in seconds, and how locks are kept."""

    key_patience_seconds: float  # that a call under way is waited for; then the caller gets 503
    key_poll_seconds: float  # before the second look at a lock that is held; each later pause is twice as long
    key_longest_poll_seconds: float  # between two looks
    lease_look_seconds: float  # between two attempts at settling or giving back what storage did not let be
    locks: LedgerSettings  # of the locks


class Claim:
    """The right to make the call for a key. It ends with `keep` or with `give_back`; one of them must be called."""

    def __init__(self, stream_id: str, name: str, lock: Lock, keys: "Keys") -> None:
        self.stream_id = stream_id
        self.name = name
        self._lock = lock
        self._keys = keys

    async def keep(self) -> None:
        """The stream and its record exist: from now on the key names them.

        Raises StorageError when another has succeeded to the claim, or storage does not answer. Then, and when
        cancelled, it is found out in the background what became of it, and the stream is removed unless the key names
        it.
        """
        try:
            is_kept = await self._lock.settle(self.stream_id)
        except StorageError:  # the caller will ask again under its key: let it find the stream that it has paid for
            self._keys.finish(self.stream_id, self._lock, is_wanted=True)
            raise
        except BaseException:
            self._keys.finish(self.stream_id, self._lock, is_wanted=False)
            raise
        if not is_kept:
            self._keys.withdraw(self.stream_id)
            raise StorageError("another call under this Idempotency-Key has begun meanwhile")

    def give_back(self) -> None:
        """There is no stream: the key is free again, as soon as storage lets it be."""
        self._keys.give_back(self.stream_id, self._lock)


class Keys:
    """Decides who makes the call for a key."""

    def __init__(
        self,
        storage: Storage,
        records: Records,
        members: Membership,
        transfers: Transfers,
        settings: KeySettings,
    ) -> None:
        self._storage = storage
        self._records = records
        self._members = members
        self._transfers = transfers
        self._settings = settings
        self._tasks = Tasks("key")

    async def resolve(self, names: Sequence[str], request: str) -> Replay | Claim:
        """The stream of an earlier call, or the right to make it; `request` is the fingerprint.

        `names` are the names of the key's lock: the first is the one to claim, the others are those that it may have
        had under older secrets. Run it, and the call, in a `licensed` block. Raises Refusal when the key belongs to
        another request, or another call under it takes too long, and StorageError. When cancelled, the key is free.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._settings.key_patience_seconds
        for name in names[1:]:
            lock = self._lock(name)
            await lock.look()
            found = await self._found(lock, request, give_up)
            if found is not None:
                return found
        lock, stream_id = self._lock(names[0]), str(uuid4())
        await lock.open()
        while True:
            found = await self._found(lock, request, give_up)
            if found is not None:
                return found
            former = lock.state
            owner = await self._members.owner()
            claim = Claim(stream_id, names[0], lock, self)
            try:
                is_ours = await lock.claim(stream_id, owner, request)
            except BaseException:
                claim.give_back()
                raise
            if is_ours:
                if isinstance(former, Held):  # it was never settled, and cannot be any more
                    self.withdraw(former.token)
                return claim

    def _lock(self, name: str) -> Lock:
        return Lock(Ledger(self._storage, name, self._settings.locks))

    async def _found(self, lock: Lock, request: str, give_up: float) -> Replay | None:
        """What the lock's state comes to in the end: a replay, or None when the lock may be claimed.

        Raises Refusal, StorageError.
        """
        pause = self._settings.key_poll_seconds
        while True:
            state = lock.state
            if isinstance(state, Free):
                return None
            if isinstance(state, Settled):
                return await self._replay(state, request)
            if await self._members.is_gone(state.owner):
                await lock.look()
                if lock.state == state:
                    return None
                continue
            if state.note != request:
                raise _conflict()
            if asyncio.get_running_loop().time() > give_up:
                raise Refusal(Code.OVERLOADED, "another call under this Idempotency-Key has not ended yet")
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._settings.key_longest_poll_seconds)
            await lock.look()

    async def _replay(self, state: Settled, request: str) -> Replay | None:
        """The stream of a settled lock, None when it is gone."""
        if await self._storage.head(state.token) is None:
            return None
        record = await self._records.get(state.token)
        if record is None:  # it is being deleted, or has lost its record
            return None
        if state.note != request:
            raise _conflict()
        return Replay(state.token, record)

    def finish(self, stream_id: str, lock: Lock, *, is_wanted: bool) -> None:
        """Bring the claim of a stream that was made to its end in the background.

        Settle it if it `is_wanted`, else give it back; in the end the stream stays if the key names it, else it goes.
        """
        self._tasks.start(stream_id, self._finish(stream_id, lock, is_wanted))

    async def _finish(self, stream_id: str, lock: Lock, is_wanted: bool) -> None:
        async def settle() -> bool:
            return await lock.settle(stream_id) or await undo()

        async def undo() -> bool:
            if isinstance(lock.state, Settled) and lock.state.token == stream_id:
                return True  # it was settled just before it would have been given back: its stream stays
            if not await lock.release(stream_id):
                return False
            self.withdraw(stream_id)
            return True

        try:
            async with self._members.licensed():
                await self._insist(stream_id, lock, settle if is_wanted else undo)
        except (Refusal, StorageError):  # no lease: another may make the call from now on, so ours has to be over
            self._transfers.abort(stream_id, Cut.SHUTDOWN)
            await self._insist(stream_id, lock, undo)

    def withdraw(self, stream_id: str) -> None:
        """Remove a stream that no key names, and that nobody has been told of, in the background."""
        self._transfers.withdraw(stream_id)

    def give_back(self, stream_id: str, lock: Lock) -> None:
        """Give back in the background the claim of a stream that was not made."""
        self._tasks.start(stream_id, self._insist(stream_id, lock, lambda: lock.release(stream_id)))

    async def _insist(self, stream_id: str, lock: Lock, work: Callable[[], Awaitable[bool]]) -> None:
        """Bring the lock up to date and do `work`, until it returns True, however long storage does not let it be.

        If this process dies meanwhile, the next caller finds a claim whose holder is dead.
        """
        is_reported = False
        while True:
            try:
                await lock.open()
                if await work():
                    return
            except StorageError as error:
                if not is_reported:
                    logger.warning("stream %s: the claim on its key stays: %s (tried again)", stream_id, error)
                    is_reported = True
            await asyncio.sleep(self._settings.lease_look_seconds)

    async def aclose(self) -> None:
        """Give back what storage takes back at once; the rest is found as the claims of a dead instance."""
        with anyio.move_on_after(self._settings.lease_look_seconds):
            await self._tasks.wait()
        await self._tasks.aclose()


def _conflict() -> Refusal:
    return Refusal(Code.IDEMPOTENCY_CONFLICT, "the Idempotency-Key was used for another request")
