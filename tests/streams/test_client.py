"""`proxy.streams.client`: what storage's answers mean, against the real store and the tests' own in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.http.body import EMPTY, BodyError, BytesBody, Cut, read_all
from proxy.http.message import Fault, Handler, Request, Response
from proxy.streams.answers import AppendResult, ReadRefused, ReadResult, StorageError
from proxy.streams.client import Endpoint, ReadQuery, Storage
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Field, Headers
from tests.kit.bodies import fed_pipe
from tests.kit.handlers import Failing, Recording, answer, lost
from tests.kit.memory_storage import MemoryStorage
from tests.kit.virtual_time import in_virtual_time
from tests.store.kit import opened

TTL = 1000
OCTETS = b"application/octet-stream"


def storage_at(handler: Handler, *fields: Field) -> Storage:
    return Storage(Endpoint(handler, b"/v1/streams/", Headers(fields), 10.0, 2, "http://storage/v1/streams/"))


@pytest.fixture(params=["the store", "in memory"])
async def handler(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Handler]:
    if request.param == "in memory":
        yield MemoryStorage()
    else:
        async with opened(tmp_path_factory.mktemp("store")) as (store, _):
            yield store.handler


Attempt = tuple[bytes, Headers, tuple[bytes, ...]]


def append_of(storage: Storage, name: str, data: bytes, seq: int, *, epoch: int = 0, close: bool = False) -> Attempt:
    headers = storage.headers(
        (b"content-type", OCTETS),
        (b"producer-id", b"p"),
        (b"producer-epoch", b"%d" % epoch),
        (b"producer-seq", b"%d" % seq),
    )
    if close:
        headers = headers.plus((b"stream-closed", b"true"))
    return storage.target(name), headers, (data,) if data else ()


@pytest.mark.parametrize("status", [404, 405])
async def test_a_create_at_a_path_without_streams_names_the_url_and_the_setting(status: int) -> None:
    storage = storage_at(Failing(MemoryStorage()).then(answer(status)))
    with pytest.raises(StorageError, match=r"PUT http://storage/v1/streams/s: .*--durable-streams-url") as caught:
        await storage.create("s", OCTETS, TTL)
    assert caught.value.is_final


async def test_a_create_tells_a_new_stream_from_one_that_was_there(handler: Handler) -> None:
    storage = storage_at(handler)
    assert await storage.create("s", OCTETS, TTL)
    assert not await storage.create("s", OCTETS, TTL)
    assert not await storage.create("s", b"application/json", TTL)


async def test_a_create_whose_answer_was_lost_is_asked_again_and_creates_once(handler: Handler) -> None:
    failing = Failing(handler).then(lost(), after=True)
    assert not await storage_at(failing).create("s", OCTETS, TTL, b"once")
    assert await storage_at(handler).read_whole("s", 100) == b"once"


@in_virtual_time
async def test_a_create_is_tried_again_for_as_long_as_its_caller_has_patience() -> None:
    failing = Failing(MemoryStorage()).then(answer(503), times=5)
    retry = RetryPolicy(budget=60.0, first_delay=0.05, longest_delay=5.0)
    assert await storage_at(failing).create("s", OCTETS, TTL, retry=retry)
    failing.then(answer(503))
    with pytest.raises(StorageError):
        await storage_at(failing).create("s", OCTETS, TTL)
    failing.always = answer(503)
    with pytest.raises(StorageError):
        await storage_at(failing).create("s", OCTETS, TTL, retry=retry)
    assert asyncio.get_running_loop().time() <= 120
    failing.always = answer(400)
    before = failing.met
    with pytest.raises(StorageError):
        await storage_at(failing).create("s", OCTETS, TTL, retry=retry)
    assert failing.met == before + 1


async def test_a_touch_is_a_read_and_finds_no_fault_with_a_stream_that_is_not_there(handler: Handler) -> None:
    recording = Recording(handler)
    storage = storage_at(recording)
    await storage.touch("s")
    await storage.create("s", OCTETS, TTL, b"some")
    await storage.touch("s")
    assert [(seen.method, seen.status) for seen in recording.seen] == [("GET", 404), ("PUT", 201), ("GET", 200)]
    with pytest.raises(StorageError):
        await storage_at(answer(503)).touch("s")


async def test_appends_are_numbered_and_each_answer_is_a_value(handler: Handler) -> None:
    storage = storage_at(handler)
    assert await storage.append(*append_of(storage, "s", b"a", 0)) is AppendResult.GONE
    await storage.create("s", OCTETS, TTL)
    assert await storage.append(*append_of(storage, "s", b"a", 0)) is AppendResult.ACCEPTED
    assert await storage.append(*append_of(storage, "s", b"a", 0)) is AppendResult.DUPLICATE
    assert await storage.append(*append_of(storage, "s", b"c", 2)) is AppendResult.GAP
    assert await storage.append(*append_of(storage, "s", b"b", 0, epoch=1)) is AppendResult.ACCEPTED
    assert await storage.append(*append_of(storage, "s", b"b", 1)) is AppendResult.FENCED
    assert await storage.append(*append_of(storage, "s", b"c", 1, epoch=1, close=True)) is AppendResult.ACCEPTED
    assert await storage.append(*append_of(storage, "s", b"c", 1, epoch=1, close=True)) is AppendResult.DUPLICATE
    assert await storage.append(*append_of(storage, "s", b"d", 2, epoch=1)) is AppendResult.CLOSED
    assert await storage.read_whole("s", 100) == b"abc"


async def test_an_empty_close_is_an_append(handler: Handler) -> None:
    storage = storage_at(handler)
    await storage.create("s", OCTETS, TTL)
    for _ in range(2):
        reply = await storage.append(*append_of(storage, "s", b"", 0, close=True))
        assert reply in (AppendResult.ACCEPTED, AppendResult.DUPLICATE)
    metadata = await storage.head("s")
    assert metadata is not None
    assert metadata.is_closed


async def test_what_is_not_there_is_none_or_false(handler: Handler) -> None:
    storage = storage_at(handler)
    assert await storage.head("s") is None
    assert await storage.read_whole("s", 100) is None
    assert await storage.delete("s") is False
    await storage.create("s", OCTETS, TTL)
    assert await storage.delete("s") is True
    assert await storage.head("s") is None


async def test_a_json_stream_is_read_as_an_array(handler: Handler) -> None:
    storage = storage_at(handler)
    await storage.create("s", b"application/json", TTL, b'{"a":1}')
    assert (await storage.read_whole("s", 100) or b"").replace(b" ", b"") == b'[{"a":1}]'


@pytest.mark.parametrize(
    ("status", "fields", "final", "after"),
    [
        (500, (), False, None),
        (503, ((b"retry-after", b"7"),), False, 7.0),
        (503, ((b"retry-after", b"Wed, 21 Oct 2015 07:28:00 GMT"),), False, None),
        (503, ((b"retry-after", b"999999"),), False, None),
        (503, ((b"retry-after", "²".encode("latin-1")),), False, None),
        (507, (), False, None),
        (429, ((b"retry-after", b"0"),), False, 0.0),
        (408, (), False, None),
        (425, (), False, None),
        (400, (), True, None),
        (401, (), True, None),
        (403, (), True, None),
        (409, (), True, None),
        (413, (), True, None),
        (301, (), True, None),
    ],
)
async def test_any_other_status_is_an_error_that_says_whether_to_try_again(
    status: int, fields: tuple[Field, ...], final: bool, after: float | None
) -> None:
    storage = storage_at(answer(status, *fields))
    with pytest.raises(StorageError) as caught:
        await storage.append(*append_of(storage, "s", b"a", 0))
    assert (caught.value.is_final, caught.value.retry_after) == (final, after)
    for work in (storage.head("s"), storage.delete("s"), storage.read_whole("s", 10)):
        with pytest.raises(StorageError):
            await work
    if status != 409:
        with pytest.raises(StorageError):
            await storage.create("s", OCTETS, TTL)


async def test_a_lost_connection_is_tried_again_for_all_but_appends() -> None:
    handler = Recording(MemoryStorage())
    failing = Failing(handler)
    storage = storage_at(failing)
    await storage.create("s", OCTETS, TTL)
    for work in (storage.head("s"), storage.read_whole("s", 9), storage.read("s", ReadQuery(), timeout=60.0)):
        failing.then(lost(), times=2)
        assert await work is not None
    failing.then(lost(), times=3)
    with pytest.raises(StorageError):
        await storage.head("s")
    failing.then(lost())
    with pytest.raises(StorageError) as caught:
        await storage.append(*append_of(storage, "s", b"a", 0))
    assert not caught.value.is_final
    assert "POST" not in {seen.method for seen in handler.seen}


async def test_no_connection_at_all_is_not_tried_again_at_once() -> None:
    failing = Failing(MemoryStorage())
    failing.always = lost(Fault.CONNECT, sent=False)
    with pytest.raises(StorageError):
        await storage_at(failing).head("s")
    assert failing.met == 1


async def test_every_request_carries_the_endpoint_s_fields_and_a_deadline_but_a_live_read_has_none() -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return Response(200, Headers())

    storage = storage_at(handler, (b"authorization", b"Bearer t"))
    await storage.head("s")
    await storage.read("s", ReadQuery(b"-1"), timeout=1.0)
    await storage.read("s", ReadQuery(live=b"sse"), timeout=60.0)
    await storage.read("s", ReadQuery(), timeout=1.0)
    assert [request.headers.get(b"authorization") for request in seen] == [b"Bearer t"] * 4
    assert [request.timeout for request in seen] == [10.0, 1.0, 60.0, 1.0]
    assert [request.target for request in seen[1:]] == [
        b"/v1/streams/s?offset=-1",
        b"/v1/streams/s?live=sse",
        b"/v1/streams/s",
    ]


async def test_a_small_stream_that_is_large_or_breaks_off_is_an_error() -> None:
    async def large(_: Request) -> Response:
        return Response(200, Headers(), BytesBody([b"x" * 101]))

    with pytest.raises(StorageError):
        await storage_at(large).read_whole("s", 100)

    cut = fed_pipe(b"x" * 5, cut=Cut.LIMIT)

    async def broken(_: Request) -> Response:
        return Response(200, Headers(), cut)

    with pytest.raises(StorageError):
        await storage_at(broken).read_whole("s", 100)
    with pytest.raises(BodyError):
        await read_all(cut, 100)


async def test_a_stream_in_pieces_is_read_to_its_end() -> None:
    pages = {b"-1": (b"one ", b"a"), b"a": (b"two ", b"b"), b"b": (b"three", b"c"), b"c": (b"", b"c")}

    async def handler(request: Request) -> Response:
        data, following = pages[request.target.partition(b"offset=")[2]]
        return Response(200, Headers([(b"stream-next-offset", following)]), BytesBody([data]))

    assert await storage_at(handler).read_whole("s", 100) == b"one two three"
    with pytest.raises(StorageError):
        await storage_at(handler).read_whole("s", 12)


async def test_a_body_that_nobody_wants_is_dropped() -> None:
    closed = 0

    class Endless:
        length = None
        ended = False

        async def take(self) -> tuple[bytes, ...]:
            return (b"x",)

        def take_nowait(self) -> tuple[bytes, ...]:
            return (b"x",)

        def abort(self, cut: Cut = Cut.ABORTED) -> None:
            raise AssertionError("nobody wants the rest")

        def close(self) -> None:
            nonlocal closed
            closed += 1

    async def handler(_: Request) -> Response:
        return Response(500, Headers(), Endless())

    storage = storage_at(handler)
    works = [
        storage.create("s", OCTETS, TTL),
        storage.head("s"),
        storage.delete("s"),
        storage.read_whole("s", 10),
        storage.append(*append_of(storage, "s", b"a", 0)),
    ]
    for work in works:
        with pytest.raises(StorageError):
            await work
    assert closed == len(works)
    assert EMPTY.ended


async def test_a_long_poll_returns_what_followed_and_where_to_go_on(handler: Handler) -> None:
    storage = storage_at(handler)
    assert await storage.poll("s", None, timeout=5.0, max_bytes=100) is None
    await storage.create("s", OCTETS, TTL, b"one")
    found = await storage.poll("s", None, timeout=5.0, max_bytes=100)
    assert found is not None
    content, offset = found
    assert content == b"one"
    await storage.append(*append_of(storage, "s", b"two", 0, close=True))
    assert await storage.read_whole("s", 100) == b"onetwo"
    if not isinstance(handler, MemoryStorage):  # which reads from the start, always
        found = await storage.poll("s", offset, timeout=5.0, max_bytes=100)
        assert found is not None
        assert found[0] == b"two"


async def test_a_long_poll_without_news_stays_where_it_is_and_one_that_is_refused_is_an_error() -> None:
    async def nothing(_: Request) -> Response:
        return Response(204, Headers())

    assert await storage_at(nothing).poll("s", b"7", timeout=5.0, max_bytes=100) == (b"", b"7")
    with pytest.raises(StorageError) as caught:
        await storage_at(answer(400)).poll("s", b"7", timeout=5.0, max_bytes=100)
    assert caught.value.is_final
    with pytest.raises(StorageError):
        await storage_at(answer(503)).poll("s", b"7", timeout=5.0, max_bytes=100)


@pytest.mark.parametrize(
    ("status", "refused"),
    [(404, ReadRefused.GONE), (410, ReadRefused.GONE), (400, ReadRefused.INVALID)],
)
async def test_a_read_without_an_answer_is_a_value(status: int, refused: ReadRefused) -> None:
    assert await storage_at(answer(status)).read("s", ReadQuery(), timeout=1.0) is refused


async def test_a_read_gives_its_readers_the_fields_of_the_stream_and_no_others() -> None:
    ours = [
        (b"stream-next-offset", b"7"),
        (b"etag", b'"e"'),
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"public"),
        (b"stream-closed", b"true"),
        (b"stream-new-in-some-later-version", b"1"),
    ]

    async def handler(_: Request) -> Response:
        return Response(200, Headers([*ours, (b"set-cookie", b"a=b"), (b"server", b"s")]))

    reading = await storage_at(handler).read("s", ReadQuery(), timeout=1.0)
    assert isinstance(reading, ReadResult)
    assert reading.metadata.fields == ours
    assert (reading.metadata.is_closed, reading.metadata.next_offset) == (True, b"7")
    assert reading.metadata.is_event_stream
    assert not reading.metadata.is_up_to_date
