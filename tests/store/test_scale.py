"""Many streams, long streams: what is in memory stays bounded."""

import gc
import os
from pathlib import Path

import apsw

from proxy.store.sqlite.state import Entry
from tests.kit.store_settings import store_settings
from tests.store.kit import embedded, opened

MANY = 100_000


def in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, Entry) for each in gc.get_objects())


async def test_a_start_loads_no_stream_however_many_there_are(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/first", b"x")
    connection = apsw.Connection(str(tmp_path / "streams.db"))
    with connection:
        connection.executemany(
            "INSERT INTO streams (id, path, content_type, created, start) VALUES (?, ?, 'text/plain', 0, 0)",
            ((number, f"/s/{number:06}") for number in range(2, MANY + 2)),
        )
    connection.close()
    before = in_memory()
    async with embedded(tmp_path, store_settings(streams=100)) as (store, client):
        assert in_memory() == before
        assert (await client.get("/first")).body == b"x"
        for number in range(2, 1000):
            assert (await client.head(f"/s/{number:06}")).status == 200
        assert in_memory() <= before + 100
        page = await store.open_streams("/s/099990", 1000)
        assert page == [f"/s/{number:06}" for number in range(99_991, MANY + 2)]
        assert (await client.put("/new")).status == 201


async def test_a_stream_that_left_memory_goes_on_where_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(streams=2, tails_bytes=1000)) as (_, client):
        for seq in range(5):
            for number in range(10):
                path = f"/{number}"
                if seq == 0:
                    await client.put(path, stream_ttl="1000")
                assert (await client.produce(path, b"%d" % seq, seq)).status == 200
                assert (await client.produce(path, b"%d" % seq, seq)).status == 204
        for number in range(10):
            assert (await client.get(f"/{number}")).body == b"01234"


async def test_nothing_is_kept_in_memory_of_streams_that_were_deleted(tmp_path: Path) -> None:
    before = in_memory()
    async with opened(tmp_path) as (_, client):
        for number in range(20):
            await client.put(f"/{number}", b"x", stream_ttl="100")
            await client.delete(f"/{number}")
        assert in_memory() <= before + 1  # the writer may still hold the last one


async def test_a_reader_keeps_its_stream_in_memory(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(streams=1)) as (_, client):
        await client.put("/s", content_type="text/plain")
        events = await client.events("/s?offset=-1&live=sse")
        await events.control()
        for number in range(5):
            await client.put(f"/{number}")
        await client.post("/s", b"still here", content_type="text/plain")
        assert await events.data() == "still here"


async def test_a_long_stream_is_read_in_small_steps(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(step_bytes=64 << 10, piece_bytes=16 << 10)) as (_, client):
        await client.put("/s")
        block = bytes(range(256)) * 4096
        for _ in range(8):
            await client.post("/s", block)
        response = await client.send("GET", "/s")
        assert response.body.length == 8 * len(block)
        largest = total = 0
        while parts := await response.body.take():
            size = sum(map(len, parts))
            largest, total = max(largest, size), total + size
        assert total == 8 * len(block)
        assert largest <= 80 << 10


async def test_a_read_that_stopped_half_way_does_not_let_the_log_grow(tmp_path: Path) -> None:
    settings = store_settings(step_bytes=100, piece_bytes=100, tail_bytes=0, checkpoint_bytes=1 << 16)
    async with opened(tmp_path, settings) as (_, client):
        await client.put("/s", b"x" * 10_000)
        await client.put("/t")
        response = await client.send("GET", "/s")
        await response.body.take()
        for _ in range(200):
            await client.post("/t", b"x" * 10_000)
        assert os.stat(tmp_path / "streams.db-wal").st_size < 1 << 20
        while await response.body.take():
            pass
