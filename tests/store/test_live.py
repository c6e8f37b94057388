"""Live reads: server-sent events and long polls, woken by commits and by nothing else."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from proxy.http.body import BodyError, Cut
from proxy.store.model import Spec, Stream, View
from proxy.store.protocol.live import SharedSteps, Step
from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.store.kit import Clock, opened

ON_EVERY_ENGINE = True

TEXT = {"content_type": "text/plain"}
JSON = {"content_type": "application/json"}


async def test_events_follow_the_stream_to_its_end(client: Client) -> None:
    await client.put("/s", b"one", **TEXT)
    events = await client.events("/s?offset=-1&live=sse")
    assert await events.data() == "one"
    assert (await events.control())["upToDate"] is True
    waiting = asyncio.create_task(events.data())
    await client.post("/s", b"two", **TEXT)
    assert await waiting == "two"
    first = await events.control()
    waiting = asyncio.create_task(events.data())
    await client.post("/s", b"three", stream_closed="true", **TEXT)
    assert await waiting == "three"
    last = await events.control()
    assert str(last["streamNextOffset"]) > str(first["streamNextOffset"])
    assert "streamCursor" in first
    assert "streamCursor" not in last
    assert last["streamClosed"] is True
    assert await events.next() == ("", "")


async def test_a_close_without_data_reaches_a_waiting_reader(client: Client) -> None:
    await client.put("/s", b"one", **TEXT)
    events = await client.events("/s?offset=now&live=sse")
    assert (await events.control())["upToDate"] is True
    waiting = asyncio.create_task(events.control())
    await client.post("/s", stream_closed="true")
    assert (await waiting)["streamClosed"] is True
    assert await events.next() == ("", "")


async def test_readers_at_one_place_get_the_same_buffers(client: Client) -> None:
    await client.put("/s", b"one")
    bodies = [(await client.send("GET", "/s?offset=-1&live=sse")).body for _ in range(3)]
    first, second, behind = bodies
    assert [b"data:b25l" in b"".join(await body.take()) for body in (first, second)] == [True, True]
    waiting = [asyncio.ensure_future(body.take()) for body in (first, second)]
    await client.post("/s", b"two")
    mine, others = [await each for each in waiting]
    assert b"data:dHdv" in mine[0]
    assert len(mine) == len(others) == 2
    assert all(each is other for each, other in zip(mine, others, strict=True))
    assert b"data:b25ldHdv" in (await behind.take())[0]  # it stood elsewhere
    for body in bodies:
        body.close()


async def test_a_later_stream_on_the_same_path_has_its_own_events(client: Client) -> None:
    for content in ("one", "two"):
        await client.put("/s", content.encode(), **TEXT)
        events = await client.events("/s?offset=-1&live=sse")
        assert await events.data() == content
        events.response.body.close()
        await client.delete("/s")


async def test_shared_events_are_bounded_by_their_bytes() -> None:
    views = [View(Stream.of(number, "/s", Spec(), 0), 10, False, None) for number in range(3)]
    steps = SharedSteps(25)
    for view in views:
        steps.keep(Step(view, 0, "1", [b"x" * 10], 10, 10, is_end=True, is_last=False))
    assert [steps.find(view, 0, "1") is not None for view in views] == [False, True, True]
    steps.keep(Step(views[1], 0, "1", [b"x" * 15], 15, 10, is_end=True, is_last=False))
    assert [steps.find(view, 0, "1") is not None for view in views] == [False, True, True]
    steps.keep(Step(views[2], 0, "1", [b"x" * 26], 26, 10, is_end=True, is_last=False))
    assert [steps.find(view, 0, "1") is not None for view in views] == [False, False, False]
    assert steps.find(views[2], 0, "1") is None


async def test_every_event_names_the_place_to_go_on_from(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(event_bytes=10, piece_bytes=7)) as (_, client):
        body = "naïve — ünïcödé ✓ 🚀 text of some length\n".encode() * 4
        await client.put("/s", body[:50], **TEXT)
        for start in range(50, len(body), 9):
            await client.post("/s", body[start : start + 9], **TEXT)
        await client.post("/s", stream_closed="true")
        offset, read = "-1", ""
        for _ in range(100):
            events = await client.events(f"/s?offset={offset}&live=sse")
            kind, payload = await events.next()
            if kind == "data":
                read += payload
                control = await events.control()
                offset = str(control["streamNextOffset"])
                if "streamClosed" in control:
                    break
            events.close()
        assert read == body.decode()


async def test_a_character_that_is_not_whole_waits_for_its_rest(client: Client) -> None:
    rocket = "🚀".encode()
    await client.put("/s", b"a" + rocket[:2], **TEXT)
    events = await client.events("/s?offset=-1&live=sse")
    assert await events.data() == "a"
    assert (await events.control())["upToDate"] is True
    waiting = asyncio.create_task(events.data())
    await client.post("/s", rocket[2:3], **TEXT)
    await client.post("/s", rocket[3:], **TEXT)
    assert await waiting == "🚀"


async def test_a_stream_that_ends_inside_a_character_still_ends(client: Client) -> None:
    await client.put("/s", "🚀".encode()[:3], stream_closed="true", **TEXT)
    events = await client.events("/s?offset=-1&live=sse")
    assert await events.data() == "\ufffd"
    assert (await events.control())["streamClosed"] is True


async def test_binary_travels_as_base64_and_json_as_arrays(client: Client) -> None:
    await client.put("/b", bytes(range(256)), stream_closed="true")
    events = await client.events("/b?offset=-1&live=sse")
    assert events.response.headers.get(b"stream-sse-data-encoding") == b"base64"
    assert base64.b64decode(await events.data()) == bytes(range(256))
    await client.put("/j", b'[1,{"a":[2]}]', **JSON)
    await client.post("/j", b"3", stream_closed="true", **JSON)
    events = await client.events("/j?offset=-1&live=sse")
    assert await events.data() == '[1,{"a":[2]},3]'


async def test_silence_is_filled_with_comments_and_the_response_ends_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(keep_alive_seconds=0.01, sse_seconds=0.05)) as (_, client):
        await client.put("/s")
        events = await client.events("/s?offset=-1&live=sse")
        await events.control()
        assert await events.next() == (":", "")
        while await events.next() != ("", ""):
            pass


async def test_a_reader_who_goes_leaves_nothing_behind(client: Client, tmp_path: Path) -> None:
    await client.put("/s", **TEXT)
    events = await client.events("/s?offset=-1&live=sse")
    await events.control()
    taker = asyncio.create_task(events.next())
    await asyncio.sleep(0)
    taker.cancel()
    await asyncio.gather(taker, return_exceptions=True)
    await client.post("/s", b"missed by nobody", **TEXT)
    assert await events.data() == "missed by nobody"


async def test_an_abort_ends_a_take_that_waits(client: Client) -> None:
    await client.put("/s")
    events = await client.events("/s?offset=-1&live=sse")
    await events.control()
    taker = asyncio.create_task(events.next())
    await asyncio.sleep(0)
    events.response.body.abort(Cut.SHUTDOWN)
    async with asyncio.timeout(5):  # far less than until the next comment
        with pytest.raises(BodyError) as caught:
            await taker
    assert caught.value.cut is Cut.SHUTDOWN


@pytest.mark.parametrize("method", ["DELETE", "expiry"])
async def test_events_end_when_the_stream_goes(client: Client, clock: Clock, method: str) -> None:
    await client.put("/s", stream_ttl="10")
    events = await client.events("/s?offset=-1&live=sse")
    await events.control()
    waiting = asyncio.create_task(events.next())
    await asyncio.sleep(0)
    if method == "DELETE":
        await client.delete("/s")
    else:
        clock.time += 11
        assert (await client.head("/s")).status == 404
    assert await waiting == ("", "")


async def test_parked_readers_get_their_end_when_the_store_closes(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/s")
        events = await client.events("/s?offset=-1&live=sse")
        await events.control()
        waiting = asyncio.create_task(events.next())
        polling = asyncio.create_task(client.get("/s?offset=now&live=long-poll"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    async with asyncio.timeout(5):  # far less than either waits by itself
        assert await waiting == ("", "")
        assert (await polling).status == 204


async def test_a_long_poll_waits_for_data(client: Client) -> None:
    await client.put("/s", b"old")
    polling = asyncio.create_task(client.get("/s?offset=now&live=long-poll"))
    await asyncio.sleep(0)
    await client.post("/s", b"new")
    answer = await polling
    assert (answer.status, answer.body, answer["stream-up-to-date"]) == (200, b"new", "true")
    assert answer["stream-cursor"] is not None


async def test_a_long_poll_is_not_ended_by_what_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    async with opened(tmp_path, store_settings(long_poll_seconds=5.0), clock) as (_, client):
        created = await client.put("/s", stream_ttl="100")
        polling = asyncio.create_task(client.get(f"/s?offset={created.offset}&live=long-poll"))
        await asyncio.sleep(0)
        for _ in range(3):
            clock.time += 60  # each read moves the expiry that is kept on disk
            assert (await client.get("/s")).status == 200
        await client.put("/t")  # is stored after those
        await asyncio.sleep(0)
        assert not polling.done()
        await client.post("/s", b"data")
        assert (await polling).body == b"data"


async def test_a_long_poll_that_nothing_answers_ends_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(long_poll_seconds=0.01)) as (_, client):
        await client.put("/s", b"x")
        answer = await client.get("/s?offset=now&live=long-poll")
        assert (answer.status, answer["stream-up-to-date"], answer["stream-closed"]) == (204, "true", None)
        assert answer["stream-cursor"] is not None


async def test_a_long_poll_learns_of_the_end(client: Client) -> None:
    await client.put("/s", b"x")
    polling = asyncio.create_task(client.get("/s?offset=now&live=long-poll"))
    await asyncio.sleep(0)
    await client.post("/s", stream_closed="true")
    assert ((await polling).status, (await polling)["stream-closed"]) == (204, "true")
    assert (await client.get("/s?offset=now&live=long-poll")).status == 204


async def test_a_long_poll_on_a_stream_that_goes_finds_none(client: Client) -> None:
    await client.put("/s")
    polling = asyncio.create_task(client.get("/s?offset=now&live=long-poll"))
    await asyncio.sleep(0)
    await client.delete("/s")
    assert (await polling).status == 404


async def test_one_append_wakes_two_thousand_idle_readers(client: Client) -> None:
    await client.put("/s", **TEXT)
    readers = [await client.events("/s?offset=-1&live=sse") for _ in range(2000)]
    await asyncio.gather(*(reader.control() for reader in readers))
    waiting = [asyncio.create_task(reader.data()) for reader in readers]
    await asyncio.sleep(0)
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    await client.post("/s", b"now", **TEXT)
    assert await asyncio.gather(*waiting) == ["now"] * 2000


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", "naïve ✓ 🚀 line\n".encode() * 8000),
        ("application/octet-stream", bytes(range(256)) * 800),
        ("application/json", b"[" + b'{"a": "some value"}, ' * 8000 + b"0]"),
    ],
)
async def test_a_long_catch_up_comes_in_events_of_a_bounded_size_each_with_its_offset(
    client: Client, content_type: str, body: bytes
) -> None:
    await client.put("/s", body, content_type=content_type, stream_closed="true")
    whole = b""
    offset = "-1"
    for _ in range(100):  # a connection that is cut after each control event
        response = await client.send("GET", f"/s?offset={offset}&live=sse")
        received = b""
        while received.count(b"\n\n") < 2:
            received += b"".join(await response.body.take())
        response.body.close()
        data, control = received.split(b"\n\n")[:2]
        assert len(data) <= 22_000  # 16 KiB, and the name of a field on each line
        text = "\n".join(line.partition("data:")[2] for line in data.decode().split("\n")[1:])
        whole += base64.b64decode(text) if content_type.endswith("stream") else text.encode()
        news = json.loads(control.partition(b"data:")[2])
        offset = news["streamNextOffset"]
        if news.get("streamClosed"):
            break
    if content_type == "application/json":
        whole = whole.replace(b"][", b",")
        assert json.loads(whole) == json.loads(body)
    else:
        assert whole == body
