"""A named lock in storage: one holder at a time, in every order of requests, and however late one of them comes."""

import asyncio

import pytest

from proxy.http.message import Handler, Request, Response
from proxy.relay.lock import FREE, Free, Held, Lock, Settled, State
from proxy.streams.answers import StorageError
from proxy.streams.client import Endpoint, Storage
from proxy.streams.ledger import Ledger, LedgerSettings
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Headers
from tests.kit.handlers import Failing, answer, lost
from tests.kit.memory_storage import MemoryStorage
from tests.kit.turns import DEAD, Choices, Turns, explore
from tests.kit.virtual_time import in_virtual_time, run_in_virtual_time
from tests.relay.kit import RETRY

ONCE = RetryPolicy(budget=0.0, first_delay=0.05, longest_delay=5.0)


def lock_at(handler: Handler, retry: RetryPolicy = RETRY) -> Lock:
    storage = Storage(Endpoint(handler, b"/v1/streams/", Headers(), 10.0, 2, "http://storage/v1/streams/"))
    return Lock(Ledger(storage, "lock", LedgerSettings(1000, 10_000, retry)))


@in_virtual_time
async def test_a_lock_is_claimed_settled_and_seen_by_everyone() -> None:
    memory = MemoryStorage()
    here, there = lock_at(memory), lock_at(memory)
    await here.open()
    assert here.state == FREE
    assert await here.claim("t1", "a", "note")
    await there.open()
    assert here.state == there.state == Held("t1", "a", "note")
    assert await here.settle("t1")
    assert await here.settle("t1")
    await there.look()
    assert here.state == there.state == Settled("t1", "note")


@in_virtual_time
async def test_a_lock_that_was_given_back_is_free() -> None:
    memory = MemoryStorage()
    here, there = lock_at(memory), lock_at(memory)
    await here.open()
    assert await here.claim("t1", "a", "note")
    assert await here.release("t1")
    assert await here.release("t1")
    await there.open()
    assert here.state == there.state == FREE
    assert await there.claim("t2", "b", "note")


@pytest.mark.parametrize("ends", ["settle", "release"])
@in_virtual_time
async def test_a_holder_that_was_succeeded_changes_nothing(ends: str) -> None:
    memory = MemoryStorage()
    frozen, successor = lock_at(memory), lock_at(memory)
    await frozen.open()
    assert await frozen.claim("t1", "a", "note")
    await successor.open()
    assert await successor.claim("t2", "b", "note")
    if ends == "settle":
        assert not await frozen.settle("t1")
        assert not await frozen.settle("t1")
    else:
        assert not await frozen.release("t1")
        assert await frozen.release("t1")  # it has seen by now that it does not hold it
    await successor.look()
    assert successor.state == frozen.state == Held("t2", "b", "note")


@in_virtual_time
async def test_of_many_that_claim_one_holds_the_lock_in_every_order() -> None:
    async def scenario(choices: Choices) -> None:
        memory = MemoryStorage()
        turns = Turns(memory, choices)

        async def claim(name: str) -> bool:
            lock = lock_at(turns.of(name))
            await lock.open()
            return lock.state == FREE and await lock.claim(name, name, "")

        won = [name for name, has in (await turns.play({name: claim(name) for name in "abc"})).items() if has]
        final = lock_at(memory)
        await final.open()
        assert [Held(name, name, "") for name in won] == [final.state]

    assert await explore(scenario, at_most=20_000) > 100


@pytest.mark.parametrize("deaths", [0, 1])
@in_virtual_time
async def test_a_holder_and_its_successor_never_both_settle(deaths: int) -> None:
    async def scenario(choices: Choices) -> None:
        memory = MemoryStorage()
        turns = Turns(memory, choices, deaths=deaths)

        async def hold(name: str) -> bool:
            lock = lock_at(turns.of(name))
            await lock.open()
            if isinstance(lock.state, Settled) or not await lock.claim(name, name, ""):
                return False  # that the other is dead is what each believes
            return await lock.settle(name)

        results = await turns.play({name: hold(name) for name in "ab"})
        final = lock_at(memory)
        await final.open()
        settled = [name for name, has in results.items() if has is True]
        if settled:
            assert [Settled(name, "") for name in settled] == [final.state]
        elif DEAD not in results.values():
            raise AssertionError(turns.order)

    assert await explore(scenario, at_most=20_000) > 10


@pytest.mark.parametrize("after", [False, True])
@in_virtual_time
async def test_a_claim_in_doubt_is_given_back_whatever_became_of_it(after: bool) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda request: request.method == b"POST")
    lock = lock_at(failing, ONCE)
    await lock.open()
    failing.then(answer(503), after=after)
    with pytest.raises(StorageError):
        await lock.claim("t1", "a", "")
    await lock.look()
    assert await lock.release("t1")
    other = lock_at(memory)
    await other.open()
    assert other.state == FREE
    assert await other.claim("t2", "b", "")


def test_a_claim_that_is_cancelled_and_arrives_late_takes_no_effect_once_it_was_given_back() -> None:
    async def main(delay: float) -> None:
        memory = MemoryStorage()
        late: list[Request] = []

        async def handler(request: Request) -> Response:
            if request.method == b"POST" and not late:
                late.append(Request(request.method, request.target, request.headers, request.body))
                await asyncio.sleep(1000)
            return await memory(request)

        lock = lock_at(handler)
        await lock.open()
        claiming = asyncio.ensure_future(lock.claim("t1", "a", ""))
        await asyncio.sleep(1)
        claiming.cancel()
        await asyncio.wait([claiming])
        if delay == 0:
            await memory(late[0])
        await lock.look()
        assert await lock.release("t1")
        if delay == 1:
            await memory(late[0])
        other = lock_at(memory)
        await other.open()
        assert isinstance(other.state, Free)
        assert await other.claim("t2", "b", "")
        if delay == 2:
            await memory(late[0])
        await other.look()
        state: State = other.state
        assert state == Held("t2", "b", "")

    for delay in range(3):
        run_in_virtual_time(main(delay))


@pytest.mark.parametrize("after", [False, True])
@in_virtual_time
async def test_a_settlement_in_doubt_can_be_repeated(after: bool) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda request: request.method == b"POST")
    lock = lock_at(failing, ONCE)
    await lock.open()
    assert await lock.claim("t1", "a", "")
    failing.then(lost(), after=after)
    with pytest.raises(StorageError):
        await lock.settle("t1")
    assert await lock.settle("t1")
    assert lock.state == Settled("t1", "")


@in_virtual_time
async def test_a_lock_that_is_being_made_is_free() -> None:
    memory = MemoryStorage()
    await lock_at(memory).open()  # it is there, and empty
    lock = lock_at(memory)
    await lock.open()
    assert lock.state == FREE
    assert await lock.claim("t1", "a", "")
