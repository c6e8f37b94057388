"""The idempotent producer under every fault of storage, in virtual time: each append stored once, within its budget."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import ExchangeError, Fault, Handler, Request, Response
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import Endpoint, Storage
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Headers
from tests.kit.handlers import Failing, Failure, answer, lost
from tests.kit.memory_storage import Forgetting, MemoryStorage, Stored
from tests.kit.virtual_time import in_virtual_time

OCTETS = b"application/octet-stream"
RETRY = RetryPolicy(budget=60.0, first_delay=0.05, longest_delay=5.0)


def producer_at(handler: Handler, *, retry: RetryPolicy = RETRY) -> Producer:
    storage = Storage(Endpoint(handler, b"/v1/streams/", Headers(), 10.0, 2, "http://storage/v1/streams/"))
    return Producer(storage, "s", OCTETS, retry)


def stored() -> tuple[MemoryStorage, Stored]:
    memory = MemoryStorage()
    stream = memory.streams["/v1/streams/s"] = Stored(OCTETS)
    return memory, stream


def now() -> float:
    return asyncio.get_running_loop().time()


FAULTS = {
    "refused": (lost(Fault.CONNECT, sent=False), False),
    "reset before it took the append": (lost(), False),
    "reset after it took the append": (lost(), True),
    "no answer in time": (lost(Fault.TIMEOUT), False),
    "too late": (lost(Fault.TIMEOUT), True),
    "nonsense": (lost(Fault.PROTOCOL), True),
    "500": (answer(500), False),
    "500 after it took the append": (answer(500), True),
    "503": (answer(503), False),
    "429": (answer(429, (b"retry-after", b"2")), False),
    "507": (answer(507), False),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("close", [False, True])
@in_virtual_time
async def test_a_fault_that_passes_costs_no_byte_and_doubles_none(name: str, times: int, close: bool) -> None:
    memory, stream = stored()
    fault, after = FAULTS[name]
    failing = Failing(memory)
    producer = producer_at(failing)
    assert await producer.append((b"a",)) is AppendResult.ACCEPTED
    failing.then(fault, times=times, after=after)
    assert await producer.append((b"b", b"c"), close=close) is AppendResult.ACCEPTED
    assert producer.is_closed is close
    if not close:
        assert await producer.append((b"d",), close=True) is AppendResult.ACCEPTED
    assert (stream.data, stream.is_closed) == (b"abc" if close else b"abcd", True)
    assert failing.met == times


@in_virtual_time
async def test_the_very_same_buffers_are_sent_again_under_the_same_number() -> None:
    sent: list[tuple[bytes | None, list[object]]] = []

    async def handler(request: Request) -> Response:
        parts = await request.body.take()
        sent.append((request.headers.get(b"producer-seq"), [id(part) for part in parts]))
        if len(sent) in (1, 2):
            raise ExchangeError(Fault.RESET, sent=True)
        return Response(200, Headers())

    producer = producer_at(handler)
    buffers = (b"one", memoryview(b"two"))
    assert await producer.append(buffers) is AppendResult.ACCEPTED
    assert sent == [(b"0", [id(buffer) for buffer in buffers])] * 3
    await producer.append((b"x",))
    assert sent[-1][0] == b"1"


@pytest.mark.parametrize("after", [1, 7, 30])
@in_virtual_time
async def test_storage_says_when_to_come_again(after: int) -> None:
    memory, _ = stored()
    failing = Failing(memory).then(answer(429, (b"retry-after", b"%d" % after)))
    await producer_at(failing).append((b"a",))
    assert after <= now() < after + 0.1


@in_virtual_time
async def test_past_the_budget_it_is_an_error_and_the_number_is_kept() -> None:
    memory, stream = stored()
    failing = Failing(memory)
    failing.always = answer(503)
    producer = producer_at(failing)
    with pytest.raises(StorageError):
        await producer.append((b"a",))
    assert 50.0 <= now() <= 60.0  # the last pause could have ended after the budget
    assert 10 < failing.met < 100
    failing.always = None
    assert await producer.append((b"a",)) is AppendResult.ACCEPTED
    assert stream.data == b"a"


@in_virtual_time
async def test_an_error_that_no_patience_mends_is_final_at_once() -> None:
    memory, _ = stored()
    failing = Failing(memory)
    failing.always = answer(400)
    with pytest.raises(StorageError):
        await producer_at(failing).append((b"a",))
    assert (failing.met, now()) == (1, 0.0)


def _fence(memory: MemoryStorage, stream: Stored) -> None:
    stream.producers[b"s"] = (1, 0)


def _close(memory: MemoryStorage, stream: Stored) -> None:
    stream.is_closed = True


def _forget(memory: MemoryStorage, stream: Stored) -> None:
    stream.producers.clear()


def _delete(memory: MemoryStorage, stream: Stored) -> None:
    memory.streams.clear()


@pytest.mark.parametrize(
    ("happening", "result"),
    [
        (_fence, AppendResult.FENCED),
        (_close, AppendResult.CLOSED),
        (_forget, AppendResult.GAP),
        (_delete, AppendResult.GONE),
    ],
)
@in_virtual_time
async def test_what_stops_a_producer_for_good_is_a_value_at_once(
    happening: Callable[[MemoryStorage, Stored], None], result: AppendResult
) -> None:
    memory, stream = stored()
    producer = producer_at(memory)
    await producer.append((b"a",))
    happening(memory, stream)
    assert await producer.append((b"b",)) is result
    assert await producer.append((b"b",)) is result
    assert (stream.data, now(), producer.is_closed) == (b"a", 0.0, False)


@pytest.mark.parametrize("was_stored", [False, True])
@pytest.mark.parametrize("closing", [False, True])
@in_virtual_time
async def test_a_close_closes_whatever_became_of_the_append_before(was_stored: bool, closing: bool) -> None:
    memory, stream = stored()
    failing = Failing(memory)
    producer = producer_at(failing, retry=RetryPolicy(budget=0.0, first_delay=0.1, longest_delay=1.0))
    await producer.append((b"a",))
    failing.then(answer(500), after=was_stored)
    with pytest.raises(StorageError):
        await producer.append((b"b",), close=closing)
    assert await producer.close(budget=10.0) is AppendResult.ACCEPTED
    assert stream.is_closed
    assert stream.data == (b"ab" if was_stored else b"a")


@in_virtual_time
async def test_a_close_that_fails_can_be_tried_again() -> None:
    memory, stream = stored()
    failing = Failing(memory).then(answer(500), times=2, after=True)
    producer = producer_at(failing, retry=RetryPolicy(budget=0.0, first_delay=0.1, longest_delay=1.0))
    for _ in range(2):
        with pytest.raises(StorageError):
            await producer.close()
    assert await producer.close() is AppendResult.ACCEPTED
    assert await producer.close() is not AppendResult.GAP
    assert stream.is_closed


@in_virtual_time
async def test_a_cancelled_append_stops_asking() -> None:
    memory, _ = stored()
    failing = Failing(memory)
    failing.always = answer(503)
    task = asyncio.ensure_future(producer_at(failing).append((b"a",)))
    await asyncio.sleep(3)
    met = failing.met
    assert met > 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(30)
    assert failing.met == met


@given(st.integers(0, 40), st.none() | st.floats(0, 1000))
def test_a_pause_has_its_bounds(failures: int, after: float | None) -> None:
    pause = RETRY.delay(failures, after)
    assert pause >= (after or 0.0)
    assert pause <= max(after or 0.0, min(RETRY.longest_delay, RETRY.first_delay * 2.0**failures))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=8), st.lists(st.sampled_from(sorted(FAULTS)), max_size=4)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 1 << 32),
)
@in_virtual_time
async def test_any_faults_between_any_appends_leave_exactly_what_was_appended(
    script: list[tuple[bytes, list[str]]], seed: int
) -> None:
    random.seed(seed)
    memory, stream = stored()
    failing = Failing(memory)
    producer = producer_at(failing)
    whole = b""
    for number, (data, faults) in enumerate(script):
        for name in faults:
            fault: Failure
            fault, after = FAULTS[name]
            failing.then(fault, after=after)
        assert await producer.append((data,), close=number == len(script) - 1) is AppendResult.ACCEPTED
        whole += data
        assert stream.data == whole
    assert stream.is_closed


@pytest.mark.parametrize("keeps", [0, 1, 3])
@pytest.mark.parametrize("close", [False, True])
@in_virtual_time
async def test_an_end_that_does_not_move_as_it_must_is_a_loss(keeps: int, close: bool) -> None:
    memory = Forgetting()
    memory.streams["/v1/streams/s"] = Stored(OCTETS)
    producer = producer_at(memory)
    assert await producer.append((b"one", b"two")) is AppendResult.ACCEPTED
    memory.keeps = keeps
    assert await producer.append((b"333",), close=close) is AppendResult.GAP
    assert producer.has_gap


@in_virtual_time
async def test_a_close_finds_a_loss_too() -> None:
    memory = Forgetting()
    memory.streams["/v1/streams/s"] = Stored(OCTETS)
    producer = producer_at(memory)
    await producer.append((b"one",))
    memory.keeps = 2
    assert await producer.close() is AppendResult.GAP
