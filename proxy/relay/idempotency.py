"""`Idempotency-Key`: one upstream call however often, and wherever, the same request is made.

The stream's id follows from the key, so all instances agree on it. While the first call is under way it holds a claim
in storage, whose create-if-absent decides between two at once; afterwards the stream and its record are the answer.
The claim of an instance that died is cleared by whoever wants the key next; a claim whose owner is not known expires.
"""

import asyncio
import hashlib
import json
import logging
import secrets
import uuid
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.relay.instance import Instance
from proxy.relay.record import Record, Records
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import JSON, Storage, expires_at
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy
from proxy.wire.events import Buffer

__all__ = ["Claim", "ClaimSettings", "Claims", "Replay", "fingerprint", "stream_id_of"]

logger = logging.getLogger(__name__)


def stream_id_of(key: bytes) -> str:
    """The stream id that belongs to an idempotency key: a UUID made of its digest."""
    digest = hashlib.sha256(b"durable-streams-proxy idempotency key\0" + key).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def fingerprint(method: bytes, target: bytes, body: Buffer) -> str:
    """What makes two requests the same: method, URL and body."""
    digest = hashlib.sha256()
    for part in (method, target, body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Replay:
    """The key was used before: its stream exists."""

    record: Record


@dataclass(frozen=True, slots=True)
class Claim:
    """The key is ours: make the call, then `release`. After `until`, in the loop's time, it may be another's."""

    stream_id: str
    until: float
    token: str


@dataclass(frozen=True, slots=True)
class _Held:
    """What a claim in storage says; `clearing` are those who wanted to clear it, as (owner, token)."""

    token: str
    fingerprint: str
    owner: str
    clearing: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ClaimSettings:
    """Times of the claim on an idempotency key, in seconds."""

    claim_seconds: float  # lifetime of a claim; others wait for it that long
    claim_settle_seconds: float  # that a replay waits for the end of the create that made its stream
    claim_call_seconds: float  # that a create may take, from its upstream request until its stream exists
    claim_poll_seconds: float  # first pause between two looks whether a claim has ended
    claim_longest_poll_seconds: float  # longest pause between two such looks
    max_claim_bytes: int  # of a claim in storage
    lease_look_seconds: float  # between two looks whether the holder of a claim is alive
    retry: RetryPolicy  # of appends to a claim


class Claims:
    """Decides who makes the call for a key."""

    def __init__(self, storage: Storage, records: Records, instance: Instance, settings: ClaimSettings) -> None:
        self._storage = storage
        self._records = records
        self._instance = instance
        self._settings = settings
        self._tasks = Tasks("claim")
        self._clearings = Tasks("clearing")
        self._clearing: dict[str, asyncio.Task[None]] = {}  # by the token of the claim that is cleared

    async def resolve(self, stream_id: str, request: str) -> Replay | Claim:
        """The stream of an earlier call, or the right to make it. `request` is the fingerprint.

        Raises Refusal when the key belongs to another request, StorageError.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + 2 * self._settings.claim_seconds
        token = secrets.token_hex(16)
        while True:
            if await self._replay(stream_id, request) is not None:
                await self._settled(stream_id)
                if (replay := await self._replay(stream_id, request)) is not None:
                    return replay
            claim = Claim(stream_id, clock() + self._settings.claim_seconds, token)
            if await self._claim_or_withdraw(stream_id, request, token):
                try:
                    replay = await self._replay(stream_id, request)  # the one before us may have finished in between
                except BaseException:
                    self.release(claim)
                    raise
                if replay is None:
                    return claim
                self.release(claim)
                return replay
            await self._wait(stream_id)
            if clock() > give_up:
                raise StorageError("another call with the same idempotency key does not end")

    async def _replay(self, stream_id: str, request: str) -> Replay | None:
        metadata = await self._storage.head(stream_id)
        if metadata is None:
            return None
        record = await self._records.get(stream_id)
        if record is None:
            return None
        _same(record.fingerprint, request)
        return Replay(record)

    async def _claim_or_withdraw(self, stream_id: str, request: str, token: str) -> bool:
        """As `_claim`; when that ends in doubt, a claim of ours that did reach storage is taken back."""
        try:
            return await self._claim(stream_id, request, token)
        except (asyncio.CancelledError, StorageError):
            self._tasks.start(stream_id, self._withdraw(stream_id, request, token))
            raise

    async def _withdraw(self, stream_id: str, request: str, token: str) -> None:
        with suppress(StorageError, Refusal):
            if await self._claim(stream_id, request, token):
                await self._storage.delete(_claim_name(stream_id))

    async def _claim(self, stream_id: str, request: str, token: str) -> bool:
        """Whether the claim is ours: it did not exist, or it is the one that we made before an answer was lost."""
        expires = datetime.now(UTC) + timedelta(seconds=self._settings.claim_seconds)
        lifetime = expires_at(expires.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        name = _claim_name(stream_id)
        content = json.dumps({"fingerprint": request, "token": token, "owner": await self._instance.owner()}).encode()
        if await self._storage.create(name, JSON, lifetime, content) is AppendResult.ACCEPTED:
            return True
        held = await self._held(stream_id)
        if held is None:
            return False
        if held.token == token:
            return True
        if await self._cleared(stream_id, held):
            return False
        _same(held.fingerprint, request)
        return False

    async def _held(self, stream_id: str) -> _Held | None:
        found = await self._storage.read_whole(_claim_name(stream_id), self._settings.max_claim_bytes)
        if found is None:
            return None
        try:
            claim, *later = json.loads(found)
            clearing = tuple((one["owner"], one["token"]) for one in later if one["of"] == claim["token"])
            return _Held(claim["token"], claim["fingerprint"], claim["owner"], clearing)
        except (ValueError, LookupError, TypeError, RecursionError):
            raise StorageError("a claim is not one of ours", is_final=True) from None

    async def _cleared(self, stream_id: str, held: _Held) -> bool:
        """Whether the claim's owner is dead; then it is being removed, and away if that took no longer than a look.

        Who dies over it is succeeded like the owner.
        """
        owner = held.clearing[-1][0] if held.clearing else held.owner
        if not owner or not await self._instance.is_gone(owner):
            return False
        clearing = self._clearing.get(held.token)
        if clearing is None:
            clearing = self._clearing[held.token] = self._clearings.start(stream_id, self._clear(stream_id, held))
            clearing.add_done_callback(lambda _: self._clearing.pop(held.token, None))
        await asyncio.wait([clearing], timeout=self._settings.lease_look_seconds)  # it goes on when the caller leaves
        return True

    async def _clear(self, stream_id: str, held: _Held) -> None:
        """Remove a dead one's claim, however often storage fails: others wait for us as long as we live.

        Of several who would, the first to say so in the claim does it, by the epochs of one producer: never can anybody
        remove a claim that came after.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._settings.claim_seconds  # it has expired by then
        name, token = _claim_name(stream_id), secrets.token_hex(16)
        content = json.dumps({"of": held.token, "owner": await self._instance.owner(), "token": token}).encode()
        retry = self._settings.retry
        producer = Producer(self._storage, name, JSON, retry, epoch=len(held.clearing) + 1, life=held.token)
        is_said = False
        while clock() < give_up:
            try:
                if not is_said:
                    await producer.append((content,))
                    is_said = True
                now = await self._held(stream_id)
                if now is not None and now.clearing and now.clearing[-1][1] == token:
                    await self._storage.delete(name)
                return
            except StorageError as error:
                if error.is_final:
                    return
            await asyncio.sleep(self._settings.lease_look_seconds)

    async def _wait(self, stream_id: str) -> None:
        """Return when the claim has ended, by success, failure or age, and now and then to look at its holder."""
        give_up = asyncio.get_running_loop().time() + self._settings.lease_look_seconds
        delay = self._settings.claim_poll_seconds
        while asyncio.get_running_loop().time() < give_up:
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._settings.claim_longest_poll_seconds)
            metadata = await self._storage.head(_claim_name(stream_id))
            if metadata is None or await self._storage.head(stream_id) is not None:
                return

    async def _settled(self, stream_id: str) -> None:
        """Return when nobody claims the key: who does may still remove the stream. One who died is not waited for."""
        give_up = asyncio.get_running_loop().time() + self._settings.claim_settle_seconds
        while asyncio.get_running_loop().time() < give_up:
            if await self._storage.head(_claim_name(stream_id)) is None:
                return
            await asyncio.sleep(self._settings.claim_poll_seconds)

    async def prepare(self, claim: Claim) -> None:
        """Remove what an ended stream of the same key left behind, so that the new one starts empty.

        Raises StorageError, also when the claim is no longer ours, or a call begun now could outlast it: somebody else
        might then call too.
        """
        if not await self._is_ours(claim):
            raise StorageError("another call under this idempotency key has begun")
        await self._storage.delete(claim.stream_id)
        await self._records.delete(claim.stream_id)
        if asyncio.get_running_loop().time() + self._settings.claim_call_seconds > claim.until:
            raise StorageError("storage was too slow for a call under this idempotency key")

    async def _is_ours(self, claim: Claim) -> bool:
        if self._instance.is_alone:
            return True
        held = await self._held(claim.stream_id)
        return held is not None and held.token == claim.token and not held.clearing

    def release(self, claim: Claim, after: Awaitable[None] | None = None) -> None:
        """The call is over, once `after` is: its stream is the answer now, or there is none and the key is free."""
        self._tasks.start(claim.stream_id, self._release(claim, after))

    async def _release(self, claim: Claim, after: Awaitable[None] | None) -> None:
        if after is not None:
            await after
        if not await self._released(claim):
            self._clearings.start(claim.stream_id, self._insist(claim))

    async def _insist(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_look_seconds)
            if await self._released(claim):
                return

    async def _released(self, claim: Claim) -> bool:
        """Remove the claim if it is still ours; False when storage does not let it be."""
        if asyncio.get_running_loop().time() >= claim.until:
            return True  # it has expired
        try:
            if await self._is_ours(claim):
                await self._storage.delete(_claim_name(claim.stream_id))
        except StorageError as error:
            return error.is_final
        return True

    async def aclose(self) -> None:
        """Wait until every claim is given back, or storage has refused to; what is left expires, or others clear it."""
        await self._tasks.wait()
        await self._clearings.aclose()


def _claim_name(stream_id: str) -> str:
    return f"{stream_id}.claim"


def _same(known: str, request: str) -> None:
    if known != request:
        raise Refusal(Code.IDEMPOTENCY_CONFLICT, "the Idempotency-Key was used for another request")
