"""The shared engine when its server, or the way there, fails: what was acknowledged is there, once and in order.

A producer here does what the proxy's does: it repeats an append until it is answered, with the same sequence number.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from proxy.store import Store, open_shared_store
from tests.kit.calls import Answer, Client
from tests.kit.engines import Engine, redis_binary, valkey_binary
from tests.kit.relay import Cut, Relay, Way
from tests.kit.store_settings import engine_settings, store_settings
from tests.kit.waiting import until

TEXT = {"content_type": "text/plain"}
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
QUICK = engine_settings(answer_seconds=0.4, connect_seconds=0.5, patience_seconds=2.0, reconnect_seconds=0.01)


@pytest.fixture
def binary() -> str:
    found = valkey_binary() or redis_binary()
    if found is None:
        pytest.skip("there is neither a Valkey nor a Redis")
    return found


@pytest.fixture
def server(binary: str, tmp_path: Path) -> Iterator[Engine]:
    with Engine(binary, tmp_path / "engine", *DURABLE, has_port=True) as engine:
        yield engine


@asynccontextmanager
async def opened(url: str, **changes: float) -> AsyncIterator[tuple[Store, Client]]:
    store = open_shared_store(replace(QUICK, url=url, **changes), store_settings(), None)  # type: ignore[arg-type]  # numbers
    try:
        yield store, Client(store.handler)
    finally:
        await store.aclose()


async def insist(client: Client, path: str, body: bytes, seq: int) -> Answer:
    """Append until the answer is no 503."""
    return await insistently(lambda: client.produce(path, body, seq, content_type="text/plain"))


async def insistently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until the answer is no 503, as its Retry-After says, but sooner."""
    async with asyncio.timeout(30):
        while True:
            answer = await ask()
            if answer.status != 503:
                return answer
            await asyncio.sleep(0.01)


async def produce(client: Client, path: str, stop: asyncio.Event) -> int:
    """Append numbers one after the other; how many were acknowledged."""
    seq = 0
    while not stop.is_set():
        answer = await insist(client, path, b"<%d>" % seq, seq)
        assert answer.status in (200, 204), (answer.status, answer.body)
        seq += 1
    return seq


def numbered(count: int) -> bytes:
    return b"".join(b"<%d>" % seq for seq in range(count))


async def content(client: Client, path: str) -> bytes:
    return (await insistently(lambda: client.get(path))).body


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_nothing_is_lost_or_doubled_when_the_server_is_killed_or_stands_still(server: Engine, fault: str) -> None:
    async with opened(server.url) as (_, client):
        stop = asyncio.Event()
        for number in range(8):
            await client.put(f"/{number}", stream_ttl="1000", **TEXT)
        producing = [asyncio.create_task(produce(client, f"/{number}", stop)) for number in range(8)]
        for _ in range(2):
            await asyncio.sleep(0.15)
            if fault == "kill":
                server.kill()
                await asyncio.to_thread(server.start)
            else:
                os.kill(server.pid, signal.SIGSTOP)
                await asyncio.sleep(0.7)  # longer than an answer may take: the connection is given up
                os.kill(server.pid, signal.SIGCONT)
        await asyncio.sleep(0.15)
        stop.set()
        counts = await asyncio.gather(*producing)
        assert min(counts) > 3
        for number, count in enumerate(counts):
            assert await content(client, f"/{number}") == numbered(count)


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_cut_at_any_byte_of_a_commit_stores_it_once(server: Engine, way: Way, step: int) -> None:
    with Relay(server.url) as relay:
        async with opened(relay.url) as (_, client):
            await client.put("/s", **TEXT)
            before = relay.passed[way]
            await insist(client, "/s", b"<0>", 0)
            size = relay.passed[way] - before
            assert size > 3
            seq = 1
            for after in range(0, size + 1, step if way is Way.TO_SERVER else 1):
                await client.head("/s")  # the connection is there again
                relay.cut_open(Cut(way, after))
                assert (await insist(client, "/s", b"<%d>" % seq, seq)).status in (200, 204)
                seq += 1
            assert await content(client, "/s") == numbered(seq)


async def test_a_reader_sees_each_byte_once_over_connections_that_are_cut(server: Engine) -> None:
    with Relay(server.url) as relay:
        async with opened(relay.url) as (_, reading), opened(server.url) as (_, writing):
            await writing.put("/s", **TEXT)
            events = await reading.events("/s?offset=-1&live=sse")
            received = ""
            for seq in range(40):
                if seq % 4 == 3:
                    await asyncio.to_thread(relay.cut_all)
                await insist(writing, "/s", b"<%d>" % seq, seq)
                while not received.endswith(f"<{seq}>"):
                    async with asyncio.timeout(10):
                        kind, payload = await events.next()
                    if kind == "data":
                        received += payload
            events.close()
            assert received.encode() == numbered(40)


async def test_a_full_server_refuses_bytes_and_still_takes_the_append_that_closes(binary: str, tmp_path: Path) -> None:
    with Engine(binary, tmp_path / "engine") as server:
        async with opened(server.url) as (store, client):
            await client.put("/s", b"kept", **TEXT)
            server.ask("CONFIG", "SET", "maxmemory", "1mb")
            assert (await client.post("/s", b"more", **TEXT)).status == 507
            assert not store.has_room()
            assert (await client.put("/t", **TEXT)).status == 507
            assert (await client.put("/s", b"kept", **TEXT)).status == 200
            assert (await client.post("/s", b"!", stream_closed="true", **TEXT)).status == 204
            assert (await client.get("/s")).body == b"kept!"
            server.ask("CONFIG", "SET", "maxmemory", "100mb")
            assert (await client.put("/t", **TEXT)).status == 201
            assert store.has_room()


async def test_a_server_that_becomes_a_replica_answers_nothing_any_more(server: Engine) -> None:
    async with opened(server.url, patience_seconds=0.3) as (_, client):
        await client.put("/s", b"kept", **TEXT)
        server.ask("REPLICAOF", "127.0.0.1", "1")
        for answer in (
            await client.post("/s", b"more", **TEXT), await client.get("/s"), await client.put("/t", **TEXT),
        ):  # fmt: skip
            assert (answer.status, answer["retry-after"]) == (503, "1")
        server.ask("REPLICAOF", "NO", "ONE")
        assert await content(client, "/s") == b"kept"
        assert (await insist(client, "/s", b"!", 0)).status == 200


async def test_a_server_that_is_still_loading_is_waited_for(binary: str, tmp_path: Path) -> None:
    with Engine(binary, tmp_path / "engine") as server:
        async with opened(server.url, patience_seconds=0.2) as (_, client):
            for number in range(30):
                await client.put(f"/{number}", b"x", **TEXT)
            server.ask("SAVE")
            server.kill()
            slowly = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
            await asyncio.to_thread(server.start, *slowly)
            answer = await client.post("/1", b"y", **TEXT)
            assert (answer.status, answer["retry-after"]) == (503, "1")
            assert (await insist(client, "/1", b"y", 0)).status == 200
            assert await content(client, "/1") == b"xy"


async def test_a_server_that_forgot_the_scripts_gets_them_again(server: Engine) -> None:
    async with opened(server.url) as (_, client):
        await client.put("/s", **TEXT)
        server.ask("SCRIPT", "FLUSH")
        assert (await client.produce("/s", b"x", 0, content_type="text/plain")).status == 200


async def test_acknowledged_writes_that_are_lost_are_noticed_and_never_spliced(
    binary: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(binary, tmp_path / "engine", has_port=True) as server:
        async with opened(server.url) as (_, client):
            await client.put("/s", **TEXT)
            for seq in range(3):
                await insist(client, "/s", b"<%d>" % seq, seq)
            server.ask("SAVE")
            events = await client.events("/s?offset=-1&live=sse")
            assert await events.data() == "<0><1><2>"
            await events.control()
            waiting = asyncio.create_task(events.data())
            for seq in range(3, 6):
                await insist(client, "/s", b"<%d>" % seq, seq)
            assert (await waiting).startswith("<3>")
            server.kill()
            await asyncio.to_thread(server.start)
            gap = await insist(client, "/s", b"<6>", 6)
            assert (gap.status, gap["producer-expected-seq"]) == (409, "3")
            async with asyncio.timeout(10):
                while (await events.next())[0] not in ("",):
                    pass
            assert "storage lost what it had acknowledged" in caplog.text


async def test_with_replicas_an_append_is_acknowledged_only_when_they_have_it(binary: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        at_once = ("--repl-diskless-sync-delay", "0")
        primary = stack.enter_context(Engine(binary, tmp_path / "primary", *at_once, has_port=True))
        replica = stack.enter_context(
            Engine(binary, tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}", has_port=True)
        )

        async def is_synced() -> bool:
            return b"state=online" in primary.ask("INFO", "replication")

        await until(is_synced)
        async with opened(primary.url, replicas=1, patience_seconds=0.5) as (store, client):

            async def second() -> Answer:
                return await client.produce("/s", b"<1>", 1, content_type="text/plain")

            assert store.promise.endswith("Acknowledged means: in memory of 1 more")
            assert (await insistently(lambda: client.put("/s", **TEXT))).status in (200, 201)  # until it is in step
            assert (await insist(client, "/s", b"<0>", 0)).status == 200
            os.kill(replica.pid, signal.SIGSTOP)
            assert (await second()).status == 503
            assert (await client.get("/s")).status == 200  # reads wait for no replica
            assert (
                await client.produce("/s", b"<1>", 1, content_type="text/plain")
            ).status == 503  # a duplicate that is not safe yet
            os.kill(replica.pid, signal.SIGCONT)
            assert (await insist(client, "/s", b"<1>", 1)).status in (200, 204)
            assert (await client.get("/s")).body == b"<0><1>"
            primary.kill()
            replica.ask("REPLICAOF", "NO", "ONE")
        async with opened(replica.url) as (_, client):
            assert (await client.get("/s")).body == b"<0><1>"


async def test_a_cancelled_append_mixes_no_answers(server: Engine) -> None:
    async with opened(server.url) as (_, client):
        for number in range(20):
            await client.put(f"/{number}", b"%d" % number, **TEXT)
        for turns in range(12):
            reading = [asyncio.create_task(client.get(f"/{number}")) for number in range(20)]
            writing = asyncio.create_task(client.produce("/0", b"x", 0, content_type="text/plain"))
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in (*reading[::2], writing):
                task.cancel()
            await asyncio.gather(*reading, writing, return_exceptions=True)
            for number in range(1, 20, 2):
                assert reading[number].result().body == b"%d" % number
        assert (await insist(client, "/0", b"x", 0)).status in (200, 204)
        assert (await client.get("/0")).body == b"0x"


async def test_ten_appends_at_once_to_one_stream_from_two_instances_are_all_stored_once(server: Engine) -> None:
    async with opened(server.url) as (_, one), opened(server.url) as (_, other):
        await one.put("/s", **TEXT)

        async def produce_as(client: Client, name: str) -> None:
            for seq in range(20):
                given = {"producer_id": name, "producer_epoch": "0", "producer_seq": str(seq)}
                append = partial(client.post, "/s", f"{name}{seq};".encode(), **given, **TEXT)
                assert (await insistently(append)).status in (200, 204)

        await asyncio.gather(
            *(produce_as(one, name) for name in "abcde"), *(produce_as(other, name) for name in "fghij")
        )
        appends = (await one.get("/s")).body.decode().split(";")[:-1]
        assert len(appends) == len(set(appends)) == 200
        for name in "abcdefghij":
            assert [each for each in appends if each.startswith(name)] == [f"{name}{seq}" for seq in range(20)]
