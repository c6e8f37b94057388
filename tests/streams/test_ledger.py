"""The ledger: every message was written with all earlier ones known, whatever is lost, late or dead."""

import asyncio

import pytest

from proxy.http.body import BytesBody
from proxy.http.message import Handler, Request, Response
from proxy.streams.answers import StorageError
from proxy.streams.client import JSON, Endpoint, Storage
from proxy.streams.ledger import Ledger, LedgerSettings, Message
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Headers
from tests.kit.handlers import Failing, answer, lost
from tests.kit.memory_storage import MemoryStorage
from tests.kit.turns import Choices, Turns, explore
from tests.kit.virtual_time import in_virtual_time
from tests.store.kit import opened

RETRY = RetryPolicy(budget=10.0, first_delay=0.05, longest_delay=5.0)
SETTINGS = LedgerSettings(ledger_ttl_seconds=1000, max_ledger_bytes=10_000, retry=RETRY)


def ledger_at(handler: Handler, settings: LedgerSettings = SETTINGS) -> Ledger:
    return Ledger(
        Storage(Endpoint(handler, b"/v1/streams/", Headers(), 10.0, 2, "http://storage/v1/streams/")), "l", settings
    )


def words(messages: list[Message]) -> list[object]:
    return [message["word"] for message in messages]


async def test_messages_follow_each_other_in_the_real_store_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with opened(tmp_path_factory.mktemp("store")) as (store, _):
        one, other = ledger_at(store.handler), ledger_at(store.handler)
        assert await one.open() == await other.open() == []
        first = await one.extend([], {"word": "a"})
        assert first is not None
        assert await other.extend([], {"word": "b"}) is None  # it knew less than was there
        known = await other.read()
        assert known == [first]
        second = await other.extend(known, {"word": "b"})
        assert second is not None
        assert await one.extend([first], {"word": "c"}) is None
        assert words(await one.open()) == ["a", "b"]


@in_virtual_time
async def test_of_writers_that_know_the_same_one_succeeds_in_every_order() -> None:
    async def scenario(choices: Choices) -> None:
        memory = MemoryStorage()
        turns = Turns(memory, choices)

        async def write(name: str) -> bool:
            ledger = ledger_at(turns.of(name))
            return await ledger.extend(await ledger.open(), {"word": name}) is not None

        written = await turns.play({name: write(name) for name in "abc"})
        stored = words(await ledger_at(memory).read())
        assert stored == sorted(stored, key=stored.index)
        assert {name for name, was in written.items() if was} == set(stored)

    assert await explore(scenario, at_most=20_000) > 100


@pytest.mark.parametrize("fault", [lost(), answer(503), answer(500)])
@pytest.mark.parametrize("after", [False, True])
@in_virtual_time
async def test_a_writer_whose_answer_was_lost_finds_out_whether_it_was_stored(fault: Handler, after: bool) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda request: request.method == b"POST")
    ledger = ledger_at(failing)
    known = await ledger.open()
    failing.then(fault, times=3, after=after)
    assert await ledger.extend(known, {"word": "a"}) == {"n": 0, "word": "a"}
    assert words(await ledger.read()) == ["a"]


@in_virtual_time
async def test_a_writer_that_was_overtaken_while_its_answer_was_lost_learns_that() -> None:
    memory = MemoryStorage()

    async def overtaken(request: Request) -> Response:
        if request.method == b"POST":
            await ledger_at(memory).extend([], {"word": "b"})
        return await memory(request)

    ledger = ledger_at(Failing(overtaken, when=lambda request: request.method == b"POST").then(lost(), after=True))
    assert await ledger.extend(await ledger.open(), {"word": "a"}) is None
    assert words(await ledger.read()) == ["b"]


@in_virtual_time
async def test_a_message_that_arrives_long_after_others_is_not_stored() -> None:
    memory = MemoryStorage()

    async def late(request: Request) -> Response:
        if request.method == b"POST":
            await asyncio.sleep(100)
        return await memory(request)

    slow, ledger = ledger_at(late), ledger_at(memory)
    sending = asyncio.ensure_future(slow.extend(await slow.open(), {"word": "late"}))
    await asyncio.sleep(1)
    known: list[Message] = []
    for word in ("a", "b"):
        stored = await ledger.extend(known, {"word": word})
        assert stored is not None
        known.append(stored)
    assert await sending is None
    assert words(await ledger.read()) == ["a", "b"]


@in_virtual_time
async def test_a_storage_that_forgot_its_writer_takes_the_next_message() -> None:
    memory = MemoryStorage()
    ledger = ledger_at(memory)
    first = await ledger.extend(await ledger.open(), {"word": "a"})
    assert first is not None
    stream = memory.named("l")
    assert stream is not None
    stream.producers.clear()
    assert await ledger.extend([first], {"word": "b"}) is not None
    assert words(await ledger.read()) == ["a", "b"]


@in_virtual_time
async def test_a_ledger_that_is_gone_is_an_error_and_can_be_opened_again() -> None:
    memory = MemoryStorage()
    ledger = ledger_at(memory)
    assert await ledger.read() == []
    with pytest.raises(StorageError):
        await ledger.extend([], {"word": "a"})
    await ledger.open()
    assert await ledger.extend([], {"word": "a"})


@pytest.mark.parametrize("content", [b"7", b"[7]", b'[{"n":"0"}]', b'[{"n":true}]', b'{"n":0}', b"[[]]", b"[null]"])
async def test_what_no_proxy_has_written_is_an_error(content: bytes) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, Headers(), BytesBody([content]))

    with pytest.raises(StorageError):
        await ledger_at(handler).read()


@in_virtual_time
async def test_a_ledger_is_bounded() -> None:
    memory = MemoryStorage()
    storage = Storage(Endpoint(memory, b"/v1/streams/", Headers(), 10.0, 2, "http://storage/v1/streams/"))
    await storage.create("l", JSON, 1000, b'{"n":0,"word":"' + b"x" * 10_000 + b'"}')
    with pytest.raises(StorageError):
        await ledger_at(memory).read()
