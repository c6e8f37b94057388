"""How a stream ends. No reader ever gets two different outcomes, in whatever order owner and finders act."""

import asyncio
from dataclasses import replace

import pytest

from proxy.http.body import BytesBody
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.relay.record import Record
from proxy.relay.takeover import FINDER, OWNER
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import OCTETS
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from tests.kit.handlers import Failing, Recording, answer
from tests.kit.memory_storage import MemoryStorage
from tests.kit.turns import DEAD, Choices, Turns, explore
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, RECORD, RETRY, Relay, ending


async def made(relay: Relay, *, data: bytes = b"some") -> Producer:
    """An open stream with its record and its owner's producer."""
    await relay.storage.create(ID, OCTETS, 999)
    await relay.records.create(ID, RECORD, RETRY)
    producer = Producer(relay.storage, ID, OCTETS, RETRY)
    await producer.append((data,))
    return producer


async def outcome_seen(memory: MemoryStorage) -> Outcome | None:
    """The outcome that a reader gets from an instance that knows nothing; None while the stream is open."""
    relay = Relay.over(memory)
    metadata = await relay.storage.head(ID)
    assert metadata is not None
    record = await relay.endings.record(ID, is_closed=metadata.is_closed)
    assert record is not None
    return record.outcome if metadata.is_closed else None


@pytest.mark.parametrize("closed_first", [False, True])
@in_virtual_time
async def test_a_stream_closed_by_its_owner_s_last_append_is_complete(closed_first: bool) -> None:
    memory = MemoryStorage(closed_first=closed_first)
    relay = Relay.over(memory)
    owner = await made(relay)
    await owner.append((b"whole",), close=True)
    assert await outcome_seen(memory) is Outcome.COMPLETE
    assert not await Relay.over(memory).endings.take_over(ID)
    assert await outcome_seen(memory) is Outcome.COMPLETE


@pytest.mark.parametrize("closed_first", [False, True])
@in_virtual_time
async def test_an_orphan_is_interrupted_and_its_owner_can_store_nothing_more(closed_first: bool) -> None:
    memory = MemoryStorage(closed_first=closed_first)
    owner = await made(Relay.over(memory))
    finders = [Relay.over(memory) for _ in range(5)]
    await asyncio.gather(*(finder.endings.take_over(ID) for finder in finders))
    assert ending(memory) == (b"some", True, "interrupted")
    assert (await owner.append((b"late",))).name in ("FENCED", "CLOSED")
    assert ending(memory) == (b"some", True, "interrupted")
    assert await outcome_seen(memory) is Outcome.INTERRUPTED
    record = memory.named(f"{ID}.record")
    assert record is not None
    assert record.data.count(b"interrupted") == 1


@in_virtual_time
async def test_an_owner_that_died_between_its_outcome_and_its_close_keeps_the_outcome() -> None:
    memory = MemoryStorage()
    there = Relay.over(memory)
    await made(Relay.over(memory))
    assert await there.records.get(ID) == RECORD  # what it remembers from here on is out of date
    await Relay.over(memory).records.append(ID, Outcome.TIMEOUT, epoch=OWNER, is_found=False)
    assert await there.endings.take_over(ID)
    assert ending(memory) == (b"some", True, "timeout")
    record = await there.endings.record(ID, is_closed=True)
    assert record is not None
    assert record.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("closed_first", [False, True])
@in_virtual_time
async def test_a_finder_that_died_between_the_two_is_succeeded_by_another(closed_first: bool) -> None:
    memory = MemoryStorage(closed_first=closed_first)
    relay = Relay.over(memory)
    await made(relay)
    await relay.records.append(ID, Outcome.INTERRUPTED, epoch=FINDER, is_found=True)
    assert await outcome_seen(memory) is None
    assert await Relay.over(memory).endings.take_over(ID)
    assert await outcome_seen(memory) is Outcome.INTERRUPTED


@pytest.mark.parametrize("closed_first", [False, True])
@pytest.mark.parametrize("is_whole", [True, False])
@in_virtual_time
async def test_an_owner_that_goes_on_after_a_finder_has_recorded_keeps_what_is_true(
    closed_first: bool, is_whole: bool
) -> None:
    memory = MemoryStorage(closed_first=closed_first)
    relay = Relay.over(memory)
    owner = await made(relay)
    await Relay.over(memory).records.append(ID, Outcome.INTERRUPTED, epoch=FINDER, is_found=True)
    if is_whole:
        await owner.append((b" whole",), close=True)
    else:
        await relay.endings.end_own(ID, replace(RECORD, outcome=Outcome.TIMEOUT), owner, budget=1.0)
    await Relay.over(memory).endings.take_over(ID)
    assert await outcome_seen(memory) is (Outcome.COMPLETE if is_whole else Outcome.INTERRUPTED)


# Every order of requests, and every death


@pytest.mark.parametrize("closed_first", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.TIMEOUT])
@pytest.mark.parametrize("deaths", [0, 1])
@in_virtual_time
async def test_every_reader_gets_one_outcome_in_every_order_and_after_every_death(
    closed_first: bool, outcome: Outcome, deaths: int
) -> None:
    seen: set[Outcome] = set()

    async def scenario(choices: Choices) -> None:
        memory = MemoryStorage(closed_first=closed_first)
        turns = Turns(memory, choices, deaths=deaths)
        owner = await made(Relay.over(memory))
        here, finder, reader = (Relay.over(turns.of(name)) for name in ("owner", "finder", "reader"))
        producer = Producer(here.storage, ID, OCTETS, RETRY)
        producer._seq = owner._seq

        async def end() -> None:
            if outcome is not Outcome.COMPLETE:
                await here.endings.end_own(ID, replace(RECORD, outcome=outcome), producer, budget=1.0)
                return
            result = await producer.append((b" whole",), close=True)
            if result is AppendResult.CLOSED:
                await here.endings.record_foreign_close(ID, budget=1.0)

        async def read() -> Outcome | None:
            metadata = await reader.storage.head(ID)
            assert metadata is not None
            record = await reader.endings.record(ID, is_closed=metadata.is_closed)
            assert record is not None
            return record.outcome if metadata.is_closed else None

        parties = {"owner": end(), "finder": finder.endings.take_over(ID), "reader": read()}
        heard = (await turns.play(parties))["reader"]
        while not (await Relay.over(memory).endings.is_over(ID)):
            await Relay.over(memory).endings.take_over(ID)
        final = await outcome_seen(memory)
        assert final is not None
        assert heard in (None, DEAD, final), turns.order
        data = ending(memory)[0]
        assert (data == b"some whole") is (final is Outcome.COMPLETE), turns.order
        seen.add(final)

    assert await explore(scenario, at_most=20_000) > 10
    assert seen == {outcome, Outcome.INTERRUPTED}


@pytest.mark.parametrize("closed_first", [False, True])
@pytest.mark.parametrize("arrives", [0, 2, 3, 9])
@in_virtual_time
async def test_a_last_append_that_comes_late_never_changes_what_a_reader_has_heard(
    closed_first: bool, arrives: int
) -> None:
    memory = MemoryStorage(closed_first=closed_first)
    owner = await made(Relay.over(memory))
    late: list[Request] = []
    heard: set[Outcome | None] = set()
    requests = 0

    async def storage(request: Request) -> Response:
        nonlocal requests
        if request.headers.get(b"stream-closed") and not requests:
            late.append(replace(request, body=BytesBody([b" whole"])))
            raise ExchangeError(Fault.TIMEOUT, sent=True)
        response = await memory(request)
        requests += 1
        if requests == arrives:
            await memory(late[0])
        heard.add(await outcome_seen(memory))
        return response

    relay = Relay.over(storage)
    producer = Producer(relay.storage, ID, OCTETS, replace(RETRY, budget=0.0))
    producer._seq = owner._seq
    with pytest.raises(StorageError):
        await producer.append((b" whole",), close=True)
    if not arrives:
        await memory(late[0])
        heard.add(await outcome_seen(memory))
    requests = 1
    await relay.endings.end_own(ID, replace(RECORD, outcome=Outcome.STORAGE_ERROR), producer, budget=1.0)
    await memory(replace(late[0], body=BytesBody([b" whole"])))
    heard.add(await outcome_seen(memory))
    record = await relay.endings.record(ID, is_closed=True)
    assert record is not None
    assert heard - {None} == {record.outcome}
    assert record.outcome is (Outcome.COMPLETE if ending(memory)[0] == b"some whole" else Outcome.STORAGE_ERROR)


@pytest.mark.parametrize("closed_first", [False, True])
@in_virtual_time
async def test_of_several_finders_any_may_die_and_the_stream_is_ended_once(closed_first: bool) -> None:
    async def scenario(choices: Choices) -> None:
        memory = MemoryStorage(closed_first=closed_first)
        turns = Turns(memory, choices, deaths=1)
        await made(Relay.over(memory))
        finders = {name: Relay.over(turns.of(name)).endings.take_over(ID) for name in "ab"}
        await turns.play(finders)
        assert ending(memory) == (b"some", True, "interrupted")
        assert await outcome_seen(memory) is Outcome.INTERRUPTED

    assert await explore(scenario, at_most=20_000) > 10


# What storage does not let be


@in_virtual_time
async def test_whatever_a_record_holds_its_stream_is_ended() -> None:
    for content in (b'{"a":1}', b'{"contentType":"' + b"x" * 100_000 + b'"}', b"[]"):
        memory = MemoryStorage()
        relay = Relay.over(memory)
        await relay.storage.create(ID, OCTETS, 999)
        await relay.storage.create(f"{ID}.record", b"application/json", 999, content)
        assert await relay.endings.take_over(ID)
        stream = memory.named(ID)
        assert stream is not None
        assert stream.is_closed


@in_virtual_time
async def test_a_stream_whose_record_is_lost_is_interrupted_and_one_that_is_gone_is_gone() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    owner = await made(relay)
    await owner.close()
    await Relay.over(memory).records.delete(ID)
    assert await outcome_seen(memory) is Outcome.INTERRUPTED
    await relay.storage.delete(ID)
    assert await Relay.over(memory).endings.record(ID, is_closed=True) is None
    assert await Relay.over(memory).endings.record(ID, is_closed=False) is None


@in_virtual_time
async def test_a_read_that_races_the_deletion_of_a_whole_stream_finds_no_stream() -> None:
    memory = MemoryStorage()

    async def deleted_meanwhile(request: Request) -> Response:
        if request.target.partition(b"?")[0].endswith(b".record"):
            memory.streams.clear()
        return await memory(request)

    owner = await made(Relay.over(memory))
    await owner.close()
    assert await Relay.over(deleted_meanwhile).endings.record(ID, is_closed=True) is None


@in_virtual_time
async def test_a_final_outcome_is_asked_for_once() -> None:
    memory = MemoryStorage()
    recording = Recording(memory)
    relay = Relay.over(recording)
    await made(Relay.over(memory))
    await Relay.over(memory).endings.take_over(ID)
    for _ in range(3):
        record = await relay.endings.record(ID, is_closed=True)
        assert isinstance(record, Record)
        assert record.outcome is Outcome.INTERRUPTED
    assert [seen.method for seen in recording.seen] == ["GET", "POST"]


@in_virtual_time
async def test_an_outcome_that_cannot_be_found_out_is_an_error_and_no_guess() -> None:
    memory = MemoryStorage()
    await made(Relay.over(memory))
    await Relay.over(memory).endings.take_over(ID)
    failing = Failing(memory, when=lambda request: request.method == b"POST")
    failing.always = answer(503)
    with pytest.raises(StorageError):
        await Relay.over(failing).endings.record(ID, is_closed=True)


@in_virtual_time
async def test_storage_that_has_lost_an_append_closes_its_stream_under_a_later_epoch() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    owner = await made(relay)
    stream = memory.named(ID)
    assert stream is not None
    stream.producers.clear()
    await relay.endings.end_own(ID, replace(RECORD, outcome=Outcome.STORAGE_ERROR), owner, budget=1.0)
    assert ending(memory) == (b"some", True, "storage_error")
    assert await outcome_seen(memory) is Outcome.STORAGE_ERROR
