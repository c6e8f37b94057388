"""Bugs that are planted into the code: each breaks an invariant, and the simulation notices within a few seeds.

Those that show only in rare orders are planted into the model instead: `tests/model`.
"""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.relay import lease, mailbox, membership, takeover
from proxy.relay.fleet import Fleet
from proxy.relay.lock import Lock
from proxy.relay.mailbox import Mailbox
from proxy.relay.membership import Member
from proxy.relay.record import Record
from proxy.relay.takeover import FINDER, OWNER, Endings
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from tests.simulation.oracle import Broken
from tests.simulation.run import simulate

MOST_SEEDS = 100

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, tuple[Plant, int]] = {}


def bug(name: str, first: int = 0) -> Callable[[Plant], Plant]:
    """A bug under its name; `first`: the seed to begin with, so that the search is short."""

    def register(plant: Plant) -> Plant:
        BUGS[name] = plant, first
        return plant

    return register


@bug("an orphan is not fenced: its finder writes under the owner's epoch")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(takeover, "FINDER", OWNER)


@bug("an orphan is recorded as interrupted, and not closed")
def _(patch: pytest.MonkeyPatch) -> None:
    async def take_over(self: Endings, stream_id: str, *, budget: float | None = None) -> bool:
        await self.records.append(stream_id, Outcome.INTERRUPTED, epoch=FINDER, is_found=True, budget=budget)
        return True

    patch.setattr(Endings, "take_over", take_over)


@bug("an outcome is not recorded: a cut stream is only closed")
def _(patch: pytest.MonkeyPatch) -> None:
    async def end_own(self: Endings, stream_id: str, record: Record, producer: Producer, *, budget: float) -> None:
        await producer.close(budget=budget)

    patch.setattr(Endings, "end_own", end_own)


@bug("the close comes before the record")
def _(patch: pytest.MonkeyPatch) -> None:
    end_own = Endings.end_own

    async def closed_first(self: Endings, stream_id: str, record: Record, producer: Producer, *, budget: float) -> None:
        await producer.close(budget=budget)
        await asyncio.sleep(0.2)
        await end_own(self, stream_id, record, producer, budget=budget)

    patch.setattr(Endings, "end_own", closed_first)


@bug("a failed append is dropped")
def _(patch: pytest.MonkeyPatch) -> None:
    append = Producer.append

    async def dropping(self: Producer, *arguments: Any, **options: Any) -> AppendResult:
        try:
            return await append(self, *arguments, **{**options, "budget": 0.0})
        except StorageError:
            return AppendResult.ACCEPTED

    patch.setattr(Producer, "append", dropping)


@bug("an append that is sent again has a new sequence number")
def _(patch: pytest.MonkeyPatch) -> None:
    append = Producer.append

    async def renumbering(self: Producer, *arguments: Any, **options: Any) -> AppendResult:
        try:
            return await append(self, *arguments, **{**options, "budget": 0.0})
        except StorageError:
            self._seq += 1
        result = await append(self, *arguments, **options)
        if result is AppendResult.GAP:  # it was not stored
            self._seq, self.has_gap = self._seq - 1, False
            result = await append(self, *arguments, **options)
        return result

    patch.setattr(Producer, "append", renumbering)


@bug("a claim is cleared too early: before its call has ended")
def _(patch: pytest.MonkeyPatch) -> None:
    claim = Lock.claim

    async def cleared(self: Lock, token: str, owner: str, note: str) -> bool:
        is_ours = await claim(self, token, owner, note)
        if is_ours:
            await self.release(token)
        return is_ours

    patch.setattr(Lock, "claim", cleared)


@bug("a holder is taken for dead at the first look without a lease, and goes on with its call", first=21)
def _(patch: pytest.MonkeyPatch) -> None:
    async def is_gone(storage: Any, instance: str, settings: lease.LeaseSettings) -> bool:
        return not await lease.is_leased(storage, instance)

    patch.setattr(membership, "is_gone", is_gone)
    patch.setattr(Member, "_cancel_licensed", lambda self: None)


@bug("the lease is not looked at before a create", first=14)
def _(patch: pytest.MonkeyPatch) -> None:
    async def check(self: Member) -> None:
        return

    async def owner(self: Member) -> str:
        return self.name

    @asynccontextmanager
    async def licensed(self: Member) -> Any:
        yield

    for name, method in (("check", check), ("owner", owner), ("licensed", licensed)):
        patch.setattr(Member, name, method)


@bug("the mailbox is read twice: the offset does not move on", first=49)
def _(patch: pytest.MonkeyPatch) -> None:
    read = Mailbox._read

    async def again(self: Mailbox, offset: bytes | None, abort: Callable[[str], None]) -> bytes | None:
        await read(self, None, abort)
        return b"0" if offset is None else None

    patch.setattr(Mailbox, "_read", again)


@bug("mail is not acted on")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mailbox, "_aborted_streams", lambda mail: iter(()))


@bug("an abort is answered 204 for an open stream whose owner is dead")
def _(patch: pytest.MonkeyPatch) -> None:
    async def abort(self: Fleet, stream_id: str, *, wait: float) -> bool:
        if self._transfers.get(stream_id) is not None:
            await self._transfers.end(stream_id, discard=False, wait=wait)
        return True

    patch.setattr(Fleet, "abort", abort)


@bug("a delete does not wait for the transfer", first=11)
def _(patch: pytest.MonkeyPatch) -> None:
    async def discard(self: Fleet, stream_id: str, *, wait: float) -> bool:
        return True

    patch.setattr(Fleet, "discard", discard)


def notices(seed: int) -> bool:
    """Whether a run finds an invariant broken."""
    try:
        simulate(seed)
    except Broken:
        return True
    except BaseExceptionGroup as group:
        if group.subgroup(Broken) is None:
            raise
        return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, first = BUGS[name]
    plant(monkeypatch)
    assert any(map(notices, range(first, first + MOST_SEEDS)))
