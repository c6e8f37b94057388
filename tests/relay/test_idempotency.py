"""Claims on an Idempotency-Key: one of many callers calls, whatever is lost, and nobody blocks a key for long."""

import asyncio
import uuid
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.http.message import Handler, Request, Response
from proxy.relay.idempotency import Claim, Claims, ClaimSettings, Replay, fingerprint, stream_id_of
from proxy.relay.record import Record
from proxy.store import open_store
from proxy.streams.answers import StorageError
from tests.kit.handlers import Failing, Recording, answer, lost
from tests.kit.memory_storage import MemoryStorage
from tests.kit.store_settings import store_settings
from tests.kit.virtual_time import in_virtual_time, run_in_virtual_time
from tests.relay.kit import ID, RETRY, Relay
from tests.relay.members import DEAD, Expiring, Member

CLAIM = f"{ID}.claim"
PRINT = "a fingerprint"
RECORD = Record(b"text/plain", 200, fingerprint=PRINT)
SETTLING = ClaimSettings(
    claim_seconds=100.0,
    claim_settle_seconds=2.0,
    claim_call_seconds=0.0,
    claim_poll_seconds=0.02,
    claim_longest_poll_seconds=0.4,
    max_claim_bytes=4096,
    lease_look_seconds=2.0,
    retry=RETRY,
)


def claims_over(handler: Handler, *, patience: float = 100.0, is_alone: bool = True) -> tuple[Relay, Claims]:
    relay = Relay.over(handler)
    relay.instance.is_alone = is_alone
    return relay, Claims(relay.storage, relay.records, relay.instance, replace(SETTLING, claim_seconds=patience))


def claims_of(member: Member) -> Claims:
    return Claims(member.storage, member.relay.records, member.instance, SETTLING)


async def make(relay: Relay) -> None:
    """The stream and its record, as a transfer makes them."""
    await relay.storage.create(ID, b"application/octet-stream", (b"stream-ttl", b"100"))
    await relay.records.create(ID, RECORD)


@given(st.binary(min_size=1, max_size=255))
def test_a_key_s_stream_id_is_a_canonical_uuid_and_always_the_same(key: bytes) -> None:
    stream_id = stream_id_of(key)
    assert str(uuid.UUID(stream_id)) == stream_id == stream_id_of(key)
    assert stream_id != stream_id_of(key + b"x")


@given(st.tuples(*[st.binary(max_size=4)] * 3), st.tuples(*[st.binary(max_size=4)] * 3))
def test_two_requests_are_the_same_only_when_method_url_and_body_are(
    one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) is (one == other)


@in_virtual_time
async def test_the_first_gets_the_claim_and_a_later_one_the_stream() -> None:
    memory = MemoryStorage()
    relay, claims = claims_over(memory)
    claim = await claims.resolve(ID, PRINT)
    assert isinstance(claim, Claim)
    await make(relay)
    claims.release(claim)
    await claims.aclose()
    assert memory.named(CLAIM) is None
    assert await claims.resolve(ID, PRINT) == Replay(RECORD)
    with pytest.raises(Refusal) as caught:
        await claims.resolve(ID, "another")
    assert caught.value.code is Code.IDEMPOTENCY_CONFLICT


@pytest.mark.parametrize("proxies", [1, 2])
@pytest.mark.parametrize("succeeds", [True, False])
@in_virtual_time
async def test_of_many_at_once_one_calls_and_when_it_fails_the_next(proxies: int, succeeds: bool) -> None:
    memory = MemoryStorage()
    houses = [claims_over(memory, is_alone=False) for _ in range(proxies)]
    calls = 0
    running = 0

    async def caller(number: int) -> str:
        nonlocal calls, running
        relay, claims = houses[number % proxies]
        decision = await claims.resolve(ID, PRINT)
        if isinstance(decision, Replay):
            return "replayed"
        calls += 1
        running += 1
        assert running == 1, "two calls at once"
        await asyncio.sleep(3)
        running -= 1
        if succeeds:
            await make(relay)
        claims.release(decision)
        return "called"

    results = await asyncio.gather(*map(caller, range(6)))
    for _, claims in houses:
        await claims.aclose()
    assert calls == results.count("called") == (1 if succeeds else 6)
    assert memory.named(CLAIM) is None


@in_virtual_time
async def test_another_request_under_a_claimed_key_is_refused_at_once() -> None:
    _, claims = claims_over(MemoryStorage())
    claim = await claims.resolve(ID, PRINT)
    with pytest.raises(Refusal) as caught:
        await claims.resolve(ID, "another")
    assert caught.value.code is Code.IDEMPOTENCY_CONFLICT
    assert asyncio.get_running_loop().time() == 0
    assert isinstance(claim, Claim)
    claims.release(claim)
    await claims.aclose()


@pytest.mark.parametrize("times", [1, 2])
@in_virtual_time
async def test_a_claim_whose_answer_was_lost_is_known_as_ours(times: int) -> None:
    failing = Failing(MemoryStorage(), when=lambda request: request.method == b"PUT")
    failing.then(lost(), times=times, after=True)
    _, claims = claims_over(failing)
    claim = await claims.resolve(ID, PRINT)
    assert isinstance(claim, Claim)
    claims.release(claim)
    await claims.aclose()


def test_a_caller_who_leaves_at_any_moment_frees_the_key() -> None:
    async def main(steps: int) -> bool:
        memory = MemoryStorage()

        async def handler(request: Request) -> Response:
            await asyncio.sleep(0)
            response = await memory(request)
            await asyncio.sleep(0)
            return response

        _, claims = claims_over(handler)
        leaving = asyncio.ensure_future(claims.resolve(ID, PRINT))
        for _ in range(steps):
            await asyncio.sleep(0)
        if leaving.done():
            return False
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await claims.aclose()
        assert memory.streams == {}
        return True

    steps = 0
    while run_in_virtual_time(main(steps)):
        steps += 1
    assert steps > 6


@pytest.mark.parametrize("method", [b"HEAD", b"PUT", b"GET"])
@in_virtual_time
async def test_storage_that_fails_while_claiming_leaves_the_key_free(method: bytes) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda request: request.method == method)
    failing.then(answer(500), times=1, after=True)
    relay, claims = claims_over(failing)
    if method == b"GET":
        await relay.storage.create(CLAIM, b"application/json", (b"stream-ttl", b"9"), b'{"a":1}')
    with pytest.raises(StorageError):
        await claims.resolve(ID, PRINT)
    await claims.aclose()
    assert memory.named(CLAIM) is None or method == b"GET"


@in_virtual_time
async def test_a_failure_of_the_second_look_gives_the_claim_back() -> None:
    memory = MemoryStorage()
    heads = 0

    async def handler(request: Request) -> Response:
        nonlocal heads
        if request.method == b"HEAD":
            heads += 1
            if heads == 2:
                return await answer(500)(request)
        return await memory(request)

    _, claims = claims_over(handler)
    with pytest.raises(StorageError):
        await claims.resolve(ID, PRINT)
    await claims.aclose()
    assert memory.named(CLAIM) is None


@in_virtual_time
async def test_a_claim_that_never_ends_is_not_waited_for_for_ever() -> None:
    memory = MemoryStorage()  # in which nothing expires
    _, dead = claims_over(memory, is_alone=False)
    await dead.resolve(ID, PRINT)
    recording = Recording(memory)
    _, claims = claims_over(recording, patience=20.0, is_alone=False)
    with pytest.raises(StorageError):
        await claims.resolve(ID, PRINT)
    assert asyncio.get_running_loop().time() < 61
    assert len(recording.seen) < 500


@in_virtual_time
async def test_a_claim_is_given_back_as_soon_as_storage_lets_it_be() -> None:
    memory = MemoryStorage()  # in which nothing expires
    failing = Failing(memory, when=lambda request: request.method == b"DELETE")
    failing.then(answer(503), times=3)
    _, claims = claims_over(failing)
    claim = await claims.resolve(ID, PRINT)
    assert isinstance(claim, Claim)
    claims.release(claim)
    await asyncio.sleep(4 * SETTLING.lease_look_seconds)
    assert memory.named(CLAIM) is None
    failing.always = answer(503)
    claim = await claims.resolve(ID, PRINT)
    assert isinstance(claim, Claim)
    claims.release(claim)
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await claims.aclose()  # which waits for no storage
    assert asyncio.get_running_loop().time() - began < 1


@in_virtual_time
async def test_a_claim_that_may_be_another_s_by_now_is_left_alone() -> None:
    memory = MemoryStorage()
    _, claims = claims_over(memory, patience=20.0)
    claim = await claims.resolve(ID, PRINT)
    assert isinstance(claim, Claim)
    await asyncio.sleep(21)
    claims.release(claim)
    await claims.aclose()
    assert memory.named(CLAIM) is not None


async def test_the_claim_of_one_who_died_expires_and_the_next_gets_it(tmp_path: Path) -> None:
    async with aclosing(open_store(tmp_path, store_settings())) as store:
        _, dead = claims_over(store.handler, patience=0.3, is_alone=False)
        assert isinstance(await dead.resolve(ID, PRINT), Claim)
        _, claims = claims_over(store.handler, patience=0.3, is_alone=False)
        claim = await claims.resolve(ID, PRINT)
        assert isinstance(claim, Claim)
        claims.release(claim)
        await claims.aclose()


@in_virtual_time
async def test_on_a_storage_of_its_own_the_claim_of_a_former_process_blocks_nobody() -> None:
    memory = MemoryStorage()  # in which nothing expires
    _, dead = claims_over(memory)
    await dead.resolve(ID, "another")
    relay, claims = claims_over(memory)
    calls = 0

    async def caller() -> None:
        nonlocal calls
        decision = await claims.resolve(ID, PRINT)
        if isinstance(decision, Claim):
            calls += 1
            await asyncio.sleep(1)
            await make(relay)
            claims.release(decision)

    await asyncio.gather(*(caller() for _ in range(20)))
    await claims.aclose()
    assert calls == 1
    assert asyncio.get_running_loop().time() < 3


@in_virtual_time
async def test_the_claim_of_a_dead_instance_is_cleared_by_one_of_those_who_wait() -> None:
    storage = Expiring()
    calls = 0
    async with Member(storage) as here, Member(storage) as there:
        async with Member(storage, dies=True) as dying:
            assert isinstance(await claims_of(dying).resolve(ID, PRINT), Claim)
        houses = [claims_of(here), claims_of(there)]

        async def caller(number: int) -> None:
            nonlocal calls
            claims = houses[number % 2]
            decision = await claims.resolve(ID, PRINT)
            if isinstance(decision, Claim):
                calls += 1
                await claims.prepare(decision)
                await asyncio.sleep(3)
                await make(here.relay)
                claims.release(decision)

        await asyncio.gather(*map(caller, range(10)))
        assert calls == 1
        assert asyncio.get_running_loop().time() < 2 * DEAD
        for claims in houses:
            await claims.aclose()
        assert storage.named(CLAIM) is None


@in_virtual_time
async def test_who_dies_while_it_clears_a_claim_is_succeeded() -> None:
    storage = Expiring()
    async with Member(storage) as there:
        for _ in range(3):
            failing = Failing(storage, when=lambda request: request.method == b"DELETE")
            failing.always = answer(503)
            async with Member(failing, dies=True) as dying:
                claims = claims_of(dying)
                waiting = asyncio.ensure_future(claims.resolve(ID, PRINT))
                await asyncio.sleep(2 * DEAD)
                waiting.cancel()
                await asyncio.wait([waiting])
                await claims._clearings.aclose()
        claim = await claims_of(there).resolve(ID, PRINT)
        assert isinstance(claim, Claim)


@pytest.mark.parametrize("happens_first", [True, False])
@pytest.mark.parametrize("number", range(8))
@in_virtual_time
async def test_who_leaves_while_it_clears_a_claim_blocks_nobody(number: int, happens_first: bool) -> None:
    storage = Expiring()
    async with Member(storage, dies=True) as dying:
        await claims_of(dying).resolve(ID, PRINT)
    await asyncio.sleep(DEAD)
    asked = 0

    async def handler(request: Request) -> Response:
        nonlocal asked
        if request.target.endswith(b".claim"):
            asked += 1
            if asked == number:
                response = await storage(request) if happens_first else None
                leaving.cancel()
                await asyncio.sleep(0)
                return response or await storage(request)
        return await storage(request)

    async with Member(handler) as here, Member(storage) as there:
        claims = claims_of(here)
        leaving = asyncio.ensure_future(claims.resolve(ID, PRINT))
        await asyncio.wait([leaving])
        if not leaving.cancelled():
            claim = leaving.result()
            assert isinstance(claim, Claim)
            claims.release(claim)
        began = asyncio.get_running_loop().time()
        assert isinstance(await claims_of(there).resolve(ID, PRINT), Claim)
        assert asyncio.get_running_loop().time() < began + DEAD
        await claims.aclose()


@pytest.mark.parametrize("method", [b"DELETE", b"POST"])
@in_virtual_time
async def test_a_claim_is_cleared_when_storage_lets_it_be(method: bytes) -> None:
    storage = Expiring()
    async with Member(storage, dies=True) as dying:
        await claims_of(dying).resolve(ID, PRINT)
    failing = Failing(storage, when=lambda request: request.method == method and b".claim" in request.target)
    failing.always = answer(503)
    async with Member(failing) as here, Member(storage) as there:
        claims = claims_of(here)
        callers = [asyncio.ensure_future(claims.resolve(ID, PRINT)) for _ in range(3)]
        await asyncio.sleep(2 * DEAD)
        assert not any(caller.done() for caller in callers)
        assert failing.met < 30
        for caller in callers:
            caller.cancel()
        failing.always = None
        await asyncio.sleep(2 * SETTLING.lease_look_seconds + RETRY.longest_delay)
        assert storage.named(CLAIM) is None
        assert isinstance(await claims_of(there).resolve(ID, PRINT), Claim)
        await claims.aclose()


@pytest.mark.parametrize("method", [b"POST", b"DELETE"])
@in_virtual_time
async def test_of_two_who_clear_a_claim_the_later_one_leaves_what_came_after_alone(method: bytes) -> None:
    storage = Expiring()

    def late(seconds: dict[bytes, float]) -> Handler:
        async def handler(request: Request) -> Response:
            if request.target.endswith(b".claim"):
                await asyncio.sleep(seconds.get(request.method, 0))
            return await storage(request)

        return handler

    async with Member(late({b"DELETE": 1})) as here, Member(late({method: 3})) as there:
        async with Member(storage, dies=True) as dying:
            assert isinstance(await claims_of(dying).resolve(ID, PRINT), Claim)
        first = asyncio.ensure_future(claims_of(here).resolve(ID, PRINT))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(claims_of(there).resolve(ID, PRINT))
        assert isinstance(await first, Claim)
        await asyncio.sleep(2 * DEAD)
        assert storage.named(CLAIM) is not None
        assert not second.done()
        second.cancel()


@in_virtual_time
async def test_who_was_frozen_neither_calls_under_a_claim_that_is_another_s_nor_removes_it() -> None:
    storage = Expiring()
    async with Member(storage) as there:
        async with Member(storage, dies=True) as frozen:
            former = claims_of(frozen)
            claim = await former.resolve(ID, PRINT)
            assert isinstance(claim, Claim)
        second = await claims_of(there).resolve(ID, PRINT)
        assert isinstance(second, Claim)
        await make(there.relay)
        with pytest.raises(StorageError):
            await former.prepare(claim)
        former.release(claim)
        await former.aclose()
        assert storage.named(CLAIM) is not None
        assert storage.named(ID) is not None


@in_virtual_time
async def test_the_claim_of_a_living_instance_is_waited_for() -> None:
    storage = Expiring()
    async with Member(storage) as here, Member(storage) as there:
        claim = await claims_of(here).resolve(ID, PRINT)
        assert isinstance(claim, Claim)
        waiting = asyncio.ensure_future(claims_of(there).resolve(ID, PRINT))
        await asyncio.sleep(3 * DEAD)
        assert not waiting.done()
        await make(here.relay)
        claims_of(here).release(claim)
        assert isinstance(await waiting, Replay)


@in_virtual_time
async def test_what_an_expired_stream_left_is_removed_before_the_key_is_used_again() -> None:
    memory = MemoryStorage()
    relay, claims = claims_over(memory)
    await make(relay)
    await relay.storage.delete(ID)  # its record outlives it
    claim = await claims.resolve(ID, "another")
    assert isinstance(claim, Claim)
    await claims.prepare(claim)
    assert list(memory.streams) == [f"/v1/streams/{CLAIM}"]
    claims.release(claim)
    await claims.aclose()


@in_virtual_time
async def test_a_stream_that_its_maker_may_still_remove_is_no_answer_yet() -> None:
    memory = MemoryStorage()
    relay, claims = claims_over(memory)
    claim = await claims.resolve(ID, PRINT)
    assert isinstance(claim, Claim)
    await make(relay)
    second = asyncio.ensure_future(claims.resolve(ID, PRINT))
    await asyncio.sleep(0.5)
    assert not second.done()
    await relay.storage.delete(ID)  # the first caller has left
    claims.release(claim)
    claim = await second
    assert isinstance(claim, Claim)
    await make(relay)
    assert isinstance(await claims.resolve(ID, PRINT), Replay)  # its maker died: after a while the stream counts
    assert asyncio.get_running_loop().time() < 5
    claims.release(claim)
    await claims.aclose()
