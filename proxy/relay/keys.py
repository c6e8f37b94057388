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

_STEP = 1 << 20  # bytes hashed before the event loop runs other work: about a millisecond


def lock_name(hidden: str) -> str:
    """The name of a key's lock; `hidden` is the key's HMAC."""
    return f"_proxy/keys/{hidden}"


async def fingerprint(method: bytes, target: bytes, body: Buffer) -> str:
    """A hash of method, URL and body: two requests are the same when theirs are equal. Lets the event loop run in
    between.
    """
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
    """How the locks of keys are waited for and stored; times in seconds."""

    key_patience_seconds: float  # longest wait for another call under the same key; then the caller gets 503
    key_poll_seconds: float  # pause before the second look at a held lock; each later pause is twice as long
    key_longest_poll_seconds: float  # longest pause between two looks
    lease_look_seconds: float  # pause between two attempts to settle or give back a lock that storage has not changed
    locks: LedgerSettings  # how the locks are stored


class Claim:
    """The right to make the call for a key. It ends with `keep` or with `give_back`; one of them must be called."""

    def __init__(self, stream_id: str, name: str, lock: Lock, keys: "Keys") -> None:
        self.stream_id = stream_id
        self.name = name
        self._lock = lock
        self._keys = keys

    async def keep(self) -> None:
        """The stream and its record exist: from now on the key names them.

        Raises StorageError when another instance has taken over the claim, or storage does not answer. Then, and when
        cancelled, a background task finds out what became of the claim, and removes the stream unless the key names it.
        """
        try:
            is_kept = await self._lock.settle(self.stream_id)
        except StorageError:  # the caller will retry with its key, and should find the stream that it has paid for
            self._keys.finish(self.stream_id, self._lock, is_wanted=True)
            raise
        except BaseException:
            self._keys.finish(self.stream_id, self._lock, is_wanted=False)
            raise
        if not is_kept:
            self._keys.withdraw(self.stream_id)
            raise StorageError("another call under this Idempotency-Key has begun meanwhile")

    def give_back(self) -> None:
        """There is no stream: the key becomes free, as soon as storage accepts that."""
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

        `names` are the names of the key's lock: the first is the one to claim, the others are its names under older
        secrets. Use it, and make the call, inside a `licensed` block. Raises Refusal when the key belongs to another
        request, or when another call under it takes too long, and StorageError. When cancelled, the key is free.
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
                if isinstance(former, Held):  # it was not settled, and can no longer be
                    self.withdraw(former.token)
                return claim

    def _lock(self, name: str) -> Lock:
        return Lock(Ledger(self._storage, name, self._settings.locks))

    async def _found(self, lock: Lock, request: str, give_up: float) -> Replay | None:
        """Wait until the lock is settled or free: a replay, or None when the lock may be claimed.

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
        """End the claim of a stream that exists, in the background.

        It is settled if it `is_wanted`, otherwise given back. Afterwards the stream is removed unless the key names it.
        """
        self._tasks.start(stream_id, self._finish(stream_id, lock, is_wanted))

    async def _finish(self, stream_id: str, lock: Lock, is_wanted: bool) -> None:
        async def settle() -> bool:
            return await lock.settle(stream_id) or await undo()

        async def undo() -> bool:
            if isinstance(lock.state, Settled) and lock.state.token == stream_id:
                return True  # it had been settled before: its stream stays
            self._transfers.abort(stream_id, Cut.SHUTDOWN)  # first: once the key is free, another call may begin
            if not await lock.release(stream_id):
                return False
            self.withdraw(stream_id)
            return True

        try:
            async with self._members.licensed():
                await self._insist(stream_id, lock, settle if is_wanted else undo)
        except (Refusal, StorageError):  # without a lease, another instance may make the call now: ours must end
            self._transfers.abort(stream_id, Cut.SHUTDOWN)
            await self._insist(stream_id, lock, undo)

    def withdraw(self, stream_id: str) -> None:
        """Remove a stream that no key names and no caller knows, in the background."""
        self._transfers.withdraw(stream_id)

    def give_back(self, stream_id: str, lock: Lock) -> None:
        """Give back the claim of a stream that was not made, in the background."""
        self._tasks.start(stream_id, self._insist(stream_id, lock, lambda: lock.release(stream_id)))

    async def _insist(self, stream_id: str, lock: Lock, work: Callable[[], Awaitable[bool]]) -> None:
        """Read the lock and do `work`, again and again until it returns True, however long storage fails.

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
        """Try once to give back each open claim. Those left over look like claims of a dead instance."""
        with anyio.move_on_after(self._settings.lease_look_seconds):
            await self._tasks.wait()
        await self._tasks.aclose()


def _conflict() -> Refusal:
    return Refusal(Code.IDEMPOTENCY_CONFLICT, "the Idempotency-Key was used for another request")
