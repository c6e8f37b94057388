"""`Idempotency-Key`: one of many callers calls, whatever is lost, and nobody blocks a key for long."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.http.message import Fault, Handler, Request, Response
from proxy.relay.keys import Claim, Keys, KeySettings, Replay, fingerprint, lock_name
from proxy.relay.lock import FREE, Held, Lock, Settled
from proxy.relay.membership import Solo
from proxy.relay.transfer import Desk
from proxy.relay.transfers import Transfers
from proxy.streams.answers import StorageError
from proxy.streams.ledger import Ledger, LedgerSettings
from tests.kit.bodies import Tap
from tests.kit.handlers import Failing, Failure, answer, lost
from tests.kit.memory_storage import MemoryStorage
from tests.kit.turns import DEAD, Choices, Turns, explore, sample
from tests.kit.virtual_time import in_virtual_time, run_in_virtual_time
from tests.relay.kit import LEASE, LIMITS, RECORD, RETRY, SETTINGS, Relay, Roomy
from tests.relay.members import DEAD as NOTICED
from tests.relay.members import Expiring, Instance

NAME = lock_name("hidden")
PRINT = "a fingerprint"
SETTLING = KeySettings(
    key_patience_seconds=100.0,
    key_poll_seconds=0.02,
    key_longest_poll_seconds=0.4,
    lease_look_seconds=2.0,
    locks=LedgerSettings(172_800, 1 << 20, RETRY),
)


def keys_over(relay: Relay, **changes: object) -> Keys:
    settings = replace(SETTLING, **changes)  # type: ignore[arg-type]  # each by its field's name
    return Keys(relay.storage, relay.records, relay.members, relay.transfers, settings)


async def state_of(handler: Handler) -> object:
    """The key's lock as it stands in storage."""
    relay = Relay.over(handler)
    lock = Lock(Ledger(relay.storage, NAME, SETTLING.locks))
    await lock.open()
    return lock.state


def streams_in(memory: MemoryStorage) -> set[str]:
    """The data streams that exist."""
    names = {path.rpartition("/")[2] for path in memory.streams if "_proxy" not in path}
    return {name for name in names if "." not in name}


Taps = dict[str, Tap]


async def call(relay: Relay, keys: Keys, taps: Taps, *, seconds: float = 0.0, request: str = PRINT) -> str:
    """As the create operation does: the stream's id, whether made or found. The upstream takes `seconds`."""
    async with relay.members.licensed():
        found = await keys.resolve([NAME], request)
        if isinstance(found, Replay):
            return found.stream_id
        try:
            await asyncio.sleep(seconds)
            tap = taps[found.stream_id] = Tap()
            relay.transfers.reserve()
            try:
                record = replace(RECORD, owner=await relay.members.owner(), key=NAME)
                await relay.transfers.start(found.stream_id, tap.body, record)
            finally:
                relay.transfers.release()
        except BaseException:
            found.give_back()
            raise
        await found.keep()
        return found.stream_id


@asynccontextmanager
async def one(handler: Handler, **changes: object) -> AsyncIterator[tuple[Relay, Keys, Taps]]:
    """A process with a storage of its own."""
    relay = Relay.over(handler)
    keys = keys_over(relay, **changes)
    taps: Taps = {}
    try:
        yield relay, keys, taps
    finally:
        await keys.aclose()
        await relay.aclose()


@given(st.tuples(*[st.binary(max_size=4)] * 3), st.tuples(*[st.binary(max_size=4)] * 3))
def test_two_requests_are_the_same_only_when_method_url_and_body_are(
    one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    prints = [run_in_virtual_time(fingerprint(*request)) for request in (one, other)]
    assert (prints[0] == prints[1]) is (one == other)


@in_virtual_time
async def test_a_large_body_is_hashed_in_steps_between_which_others_run() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.ensure_future(others())
    found = await fingerprint(b"POST", b"https://x/", bytes(32 << 20))
    running.cancel()
    await asyncio.wait([running])
    assert turns >= 30
    assert found == await fingerprint(b"POST", b"https://x/", memoryview(bytearray(32 << 20)))


@in_virtual_time
async def test_the_first_gets_the_claim_and_a_later_one_the_stream() -> None:
    memory = MemoryStorage()
    async with one(memory) as (relay, keys, taps):
        made = await call(relay, keys, taps)
        assert await call(relay, keys, taps) == made
        assert list(taps) == [made]
        with pytest.raises(Refusal) as caught:
            await call(relay, keys, taps, request="another")
        assert caught.value.code is Code.IDEMPOTENCY_CONFLICT


@in_virtual_time
async def test_a_key_whose_stream_was_deleted_names_another_one_next() -> None:
    memory = MemoryStorage()
    async with one(memory) as (relay, keys, taps):
        ids = []
        for _ in range(3):
            ids.append(await call(relay, keys, taps))
            await relay.transfers.end(ids[-1], discard=True, wait=10.0)
            await relay.storage.delete(ids[-1])
            await relay.records.delete(ids[-1])
        assert len(set(ids)) == 3


@pytest.mark.parametrize("houses", [1, 2])
@pytest.mark.parametrize("succeeds", [True, False])
@in_virtual_time
async def test_of_many_at_once_one_calls_and_when_it_fails_the_next(houses: int, succeeds: bool) -> None:
    storage = Expiring()
    calls = running = 0

    async def caller(instance: Instance, keys: Keys) -> str:
        nonlocal calls, running
        async with instance.members.licensed():
            found = await keys.resolve([NAME], PRINT)
            if isinstance(found, Replay):
                return "replayed"
            calls += 1
            running += 1
            assert running == 1, "two calls at once"
            await asyncio.sleep(3)
            running -= 1
            if not succeeds:
                found.give_back()
                return "failed"
            await instance.relay.start(Tap(), found.stream_id)
            await found.keep()
            return "called"

    async with Instance(storage) as here, Instance(storage) as there:
        instances = [here, there][:houses]
        keys = [keys_over(instance.relay) for instance in instances]
        await asyncio.sleep(1)
        results = await asyncio.gather(*(caller(instances[n % houses], keys[n % houses]) for n in range(6)))
        for each in keys:
            await each.aclose()
    assert calls == results.count("called" if succeeds else "failed") == (1 if succeeds else 6)
    assert await state_of(storage) == FREE or succeeds


@in_virtual_time
async def test_another_request_under_a_claimed_key_is_refused_at_once() -> None:
    async with one(MemoryStorage()) as (relay, keys, taps):
        first = asyncio.ensure_future(call(relay, keys, taps, seconds=10))
        await asyncio.sleep(1)
        with pytest.raises(Refusal) as caught:
            await keys.resolve([NAME], "another")
        assert caught.value.code is Code.IDEMPOTENCY_CONFLICT
        assert asyncio.get_running_loop().time() == 1
        await first


@in_virtual_time
async def test_a_call_that_does_not_end_is_not_waited_for_for_ever() -> None:
    async with one(MemoryStorage(), key_patience_seconds=20.0) as (_, keys, _):
        claim = await keys.resolve([NAME], PRINT)
        assert isinstance(claim, Claim)
        with pytest.raises(Refusal) as caught:
            await keys.resolve([NAME], PRINT)
        assert caught.value.code is Code.OVERLOADED
        assert 20 <= asyncio.get_running_loop().time() < 22
        claim.give_back()


@in_virtual_time
async def test_a_key_that_an_older_secret_named_is_found() -> None:
    old = lock_name("older")
    async with one(MemoryStorage()) as (relay, keys, _):
        claim = await keys.resolve([old], PRINT)
        assert isinstance(claim, Claim)
        waiting = asyncio.ensure_future(keys.resolve([NAME, old], PRINT))
        await asyncio.sleep(1)
        assert not waiting.done()
        await relay.start(Tap(), claim.stream_id)
        await claim.keep()
        found = await waiting
        assert isinstance(found, Replay)
        assert found.stream_id == claim.stream_id
        with pytest.raises(Refusal):
            await keys.resolve([NAME, old], "another")
        assert isinstance(await keys.resolve([lock_name("x"), lock_name("y")], PRINT), Claim)


# Who leaves, and what storage does not let be


def test_a_caller_who_leaves_at_any_moment_frees_the_key_or_leaves_the_stream_under_it() -> None:
    async def main(steps: int) -> bool:
        memory = MemoryStorage()

        async def handler(request: Request) -> Response:
            await asyncio.sleep(0)
            response = await memory(request)
            await asyncio.sleep(0)
            return response

        async with one(handler) as (relay, keys, taps):
            leaving = asyncio.ensure_future(call(relay, keys, taps))
            for _ in range(steps):
                await asyncio.sleep(0)
            if leaving.done():
                return False
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            await asyncio.sleep(10)
            state = await state_of(memory)
            assert isinstance(state, Settled) or state == FREE
            assert streams_in(memory) == ({state.token} if isinstance(state, Settled) else set())
            after = await call(relay, keys, taps)
            assert streams_in(memory) == {after}
        return True

    steps = 0
    while run_in_virtual_time(main(steps)):
        steps += 1
    assert steps > 10


@pytest.mark.parametrize("fault", [answer(503), lost(), lost(Fault.TIMEOUT)])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(7))
@in_virtual_time
async def test_storage_that_fails_for_a_while_at_any_step_leaves_the_key_free_or_the_stream_under_it(
    number: int, after: bool, fault: Failure
) -> None:
    memory = MemoryStorage()
    asked = 0

    def from_here_on(_: Request) -> bool:
        nonlocal asked
        asked += 1
        return asked > number

    failing = Failing(memory, when=from_here_on)
    failing.then(fault, after=after)
    failing.always = fault
    async with one(failing) as (relay, keys, taps):
        try:
            made = await call(relay, keys, taps)
        except StorageError:
            made = ""
        failing.always = None
        await asyncio.sleep(200)
        state = await state_of(memory)
        assert isinstance(state, Settled) or state == FREE
        assert not made or state == Settled(made, PRINT)
        assert streams_in(memory) == ({state.token} if isinstance(state, Settled) else set())
        assert streams_in(memory) == {stream_id for stream_id, tap in taps.items() if not tap.is_cut}


@in_virtual_time
async def test_a_stream_whose_key_storage_is_slow_to_settle_is_kept_for_the_caller_who_asks_again() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"POST" and b"_proxy/keys" in r.target)
    async with one(failing) as (relay, keys, taps):
        first = asyncio.ensure_future(call(relay, keys, taps, seconds=1))
        await asyncio.sleep(0.5)
        failing.always = answer(503)
        with pytest.raises(StorageError):
            await first
        failing.always = None
        again = await call(relay, keys, taps)
        assert list(taps) == [again]
        assert not taps[again].is_cut


# Other instances, and what a death leaves


@in_virtual_time
async def test_on_a_storage_of_its_own_the_claim_of_a_former_process_blocks_nobody() -> None:
    memory = MemoryStorage()
    former = keys_over(Relay.over(memory))
    assert isinstance(await former.resolve([NAME], "another"), Claim)
    async with one(memory) as (relay, keys, taps):
        ids = await asyncio.gather(*(call(relay, keys, taps, seconds=1) for _ in range(20)))
        assert len(set(ids)) == len(taps) == 1
        assert asyncio.get_running_loop().time() < 3


@pytest.mark.parametrize("seconds", [0.0, 3.0])
@in_virtual_time
async def test_the_claim_of_a_dead_instance_is_taken_by_one_of_those_who_wait(seconds: float) -> None:
    storage = Expiring()
    async with Instance(storage) as here, Instance(storage) as there:
        async with Instance(storage, dies=True) as dying:
            await asyncio.sleep(1)
            claim = await keys_over(dying.relay).resolve([NAME], PRINT)
            assert isinstance(claim, Claim)
            await dying.relay.start(Tap(), claim.stream_id)
        died = asyncio.get_running_loop().time()
        taps: Taps = {}
        keys = [keys_over(instance.relay) for instance in (here, there)]
        ids = await asyncio.gather(
            *(call([here, there][n % 2].relay, keys[n % 2], taps, seconds=seconds) for n in range(10))
        )
        assert len(set(ids)) == len(taps) == 1
        assert asyncio.get_running_loop().time() - died < NOTICED + seconds + 1
        await asyncio.sleep(1)
        assert streams_in(storage) == set(ids)
        for each in keys:
            await each.aclose()


@in_virtual_time
async def test_a_holder_that_was_cut_off_stops_its_call_before_another_makes_it_and_hurts_nobody_later() -> None:
    storage = Expiring()
    through = asyncio.Event()
    through.set()

    async def handler(request: Request) -> Response:
        await through.wait()  # it hangs, and arrives late
        return await storage(request)

    async with Instance(handler) as here, Instance(storage) as there:
        await asyncio.sleep(1)
        taps: Taps = {}
        keys = [keys_over(instance.relay) for instance in (here, there)]
        first = asyncio.ensure_future(call(here.relay, keys[0], taps, seconds=60))
        await asyncio.sleep(1)
        through.clear()
        second = asyncio.ensure_future(call(there.relay, keys[1], taps, seconds=2))
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        assert first.done()
        assert not taps  # the second has not even begun
        with pytest.raises(StorageError, match="lease"):
            await first
        made = await second
        through.set()
        await asyncio.sleep(100)
        assert await state_of(storage) == Settled(made, PRINT)
        assert streams_in(storage) == {made}
        assert not taps[made].is_cut
        assert await call(here.relay, keys[0], taps) == made
        for each in keys:
            await each.aclose()


@in_virtual_time
async def test_a_holder_that_is_cut_off_while_it_settles_cuts_its_upstream_before_another_calls() -> None:
    storage = Expiring()
    through = asyncio.Event()
    through.set()

    async def handler(request: Request) -> Response:
        if request.method == b"POST" and b"_proxy/keys" in request.target and storage.log.count("POST hidden"):
            through.clear()
        await through.wait()
        return await storage(request)

    async with Instance(handler) as here, Instance(storage) as there:
        await asyncio.sleep(1)
        taps: Taps = {}
        keys = [keys_over(instance.relay) for instance in (here, there)]
        first = asyncio.ensure_future(call(here.relay, keys[0], taps))
        await asyncio.sleep(1)
        assert not through.is_set()
        second = asyncio.ensure_future(call(there.relay, keys[1], taps))
        made = await second
        (old,) = set(taps) - {made}
        assert taps[old].is_cut
        through.set()
        with pytest.raises(StorageError, match="lease"):
            await first
        await asyncio.sleep(100)
        assert streams_in(storage) == {made}
        for each in keys:
            await each.aclose()


class Believed(Solo):
    """A member of a fleet in which every instance knows at once which one has died."""

    def __init__(self, name: str, dead: set[str]) -> None:
        super().__init__(Roomy())
        self.name = name
        self._dead = dead

    async def is_gone(self, owner: str) -> bool:
        """Whether it is dead."""
        return owner in self._dead


def scenario_of(callers: str, deaths: int) -> Callable[[Choices], Awaitable[None]]:
    """Several instances call under one key at once, and some of them die at any request."""

    async def scenario(choices: Choices) -> None:
        memory = MemoryStorage()
        turns = Turns(memory, choices, deaths=deaths)
        running: set[str] = set()
        tasks = []

        def house(name: str, handler: Handler) -> tuple[Relay, Keys]:
            relay = Relay.over(handler)
            members = Believed(name, turns.dead)
            desk = Desk(relay.storage, relay.records, relay.endings, SETTINGS, Tasks("transfer"))
            relay = replace(relay, members=members, transfers=Transfers(desk, LIMITS))
            keys = keys_over(relay)
            tasks.append((relay, keys))
            return relay, keys

        async def caller(name: str) -> str:
            relay, keys = house(name, turns.of(name))
            found = await keys.resolve([NAME], PRINT)
            if isinstance(found, Replay):
                return found.stream_id
            assert not running - turns.dead, f"two calls at once: {turns.order}"
            running.add(name)
            await relay.storage.create(found.stream_id, b"text/plain", 999)
            await relay.records.create(found.stream_id, RECORD, RETRY)
            running.discard(name)
            await found.keep()
            return found.stream_id

        results = await turns.play({name: caller(name) for name in callers})
        heard = {stream_id for stream_id in results.values() if stream_id != DEAD}
        assert len(heard) <= 1, turns.order
        _, last_keys = house("last", memory)
        found = await last_keys.resolve([NAME], PRINT)
        if heard:
            assert {found.stream_id} == heard, turns.order
            assert isinstance(found, Replay)
        assert isinstance(found, Replay | Claim)
        for relay, keys in tasks:
            if relay.members.name in turns.dead:
                await relay.transfers._desk.tasks.aclose()
            await keys._tasks.aclose()
            await relay.aclose()
        kept = {found.stream_id} if isinstance(found, Replay) else set()
        assert streams_in(memory) <= kept, (turns.order, results)

    return scenario


@in_virtual_time
async def test_two_at_once_make_one_call_in_every_order() -> None:
    assert await explore(scenario_of("ab", deaths=0), at_most=10_000) > 20


@pytest.mark.parametrize("block", range(4))
@in_virtual_time
async def test_three_at_once_of_whom_one_or_two_die_make_one_stream(block: int) -> None:
    for deaths in (1, 2):
        await sample(scenario_of("abc", deaths), range(block * 100, block * 100 + 100))


@in_virtual_time
async def test_a_key_is_free_a_lease_and_three_looks_after_the_death_of_its_holder() -> None:
    storage = Expiring()
    async with Instance(storage) as there:
        async with Instance(storage, dies=True) as dying:
            await asyncio.sleep(1)
            assert isinstance(await keys_over(dying.relay).resolve([NAME], PRINT), Claim)
            assert isinstance(await state_of(storage), Held)
        died = asyncio.get_running_loop().time()
        keys = keys_over(there.relay)
        claim = await keys.resolve([NAME], PRINT)
        assert isinstance(claim, Claim)
        assert asyncio.get_running_loop().time() - died < LEASE.lease_seconds + 3 * LEASE.lease_look_seconds
        claim.give_back()
        await keys.aclose()
