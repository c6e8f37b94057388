"""A full disk and a database that fails: nothing is acknowledged that is not kept, and reads go on."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from proxy.store import Store
from proxy.store.writer import Batch
from proxy.store.writing import Write
from tests.store.kit import Client, opened, small, until


def grow_to(store: Store, pages: int) -> None:
    """Let SQLite fail with "disk full" past so many pages (0: no bound)."""
    connection = store._engine._writer._database._connection
    connection.execute(f"PRAGMA max_page_count = {pages or 1 << 30}")


def pages_of(store: Store) -> int:
    found = store._engine._writer._database._connection.pragma("page_count")
    assert isinstance(found, int)
    return found


async def test_a_full_disk_refuses_appends_and_goes_on_reading(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s", b"kept")
        grow_to(store, pages_of(store))
        for _ in range(3):
            assert (await client.post("/s", b"x" * 100_000)).status == 507
            assert (await client.get("/s")).body == b"kept"
        grow_to(store, 0)
        assert (await client.post("/s", b" more")).status == 204
        assert (await client.get("/s")).body == b"kept more"


async def test_a_producer_goes_on_with_the_same_number_after_the_disk_was_full(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s")
        assert (await client.produce("/s", b"a", 0)).status == 200
        grow_to(store, pages_of(store))
        big = b"x" * 100_000
        assert (await client.produce("/s", big, 1)).status == 507
        grow_to(store, 0)
        assert (await client.produce("/s", big, 1)).status == 200
        assert (await client.produce("/s", big, 1)).status == 204
        assert (await client.get("/s")).body == b"a" + big


async def test_what_was_queued_behind_a_failed_append_fails_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s")
        await client.put("/t")
        grow_to(store, pages_of(store))
        appends = [client.produce("/s", b"%d" % seq * 100_000, seq) for seq in range(5)]
        answers = await asyncio.gather(*appends, client.post("/s", stream_closed="true"))
        assert {answer.status for answer in answers} == {507}
        assert (await client.put("/s")).status == 200  # it is still open
        grow_to(store, 0)
        assert (await client.get("/s")).body == b""
        assert (await client.produce("/s", b"0", 0)).status == 200
        assert (await client.post("/t", b"other")).status == 204
        assert (await client.get("/s")).body == b"0"


async def test_creates_and_deletes_that_failed_can_be_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s", b"data")
        grow_to(store, pages_of(store))
        assert (await client.put("/t", b"x" * 100_000)).status == 507
        assert (await client.head("/t")).status == 404
        grow_to(store, 0)
        assert (await client.put("/t", b"x" * 100_000)).status == 201
        assert (await client.delete("/s")).status == 204


class Broken:
    """Makes a store's commits fail while `fails` is set."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = True
        self.gate = threading.Event()
        self.gate.set()
        database = store._engine._writer._database
        whole = database.store

        def commit(writes: list[Write]) -> None:
            self.gate.wait(10)
            if self.fails:
                raise apsw.IOError("the disk is broken")
            whole(writes)

        monkeypatch.setattr(database, "store", commit)


async def test_a_broken_disk_is_told_and_everything_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s", b"x", stream_ttl="60")
        disk = Broken(store, monkeypatch)
        answers = await asyncio.gather(
            client.post("/s", b"y"), client.put("/t"), client.delete("/s"), client.post("/s", stream_closed="true")
        )
        assert {answer.status for answer in answers} == {503}
        assert all(answer["retry-after"] for answer in answers)
        assert (await client.get("/s")).body == b"x"
        disk.fails = False
        assert (await client.post("/s", b"y")).status == 204
        assert (await client.put("/t")).status == 201
        assert (await client.get("/s")).body == b"xy"
        assert (await client.delete("/s")).status == 204


async def test_an_append_that_comes_in_the_very_turn_of_a_failure_fails_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s")
        disk = Broken(store, monkeypatch)
        reported = threading.Event()

        class Loop:
            def call_soon_threadsafe(self, function: Callable[[Batch], None], batch: Batch) -> None:
                asyncio_loop.call_soon_threadsafe(function, batch)
                reported.set()

        asyncio_loop = asyncio.get_running_loop()
        monkeypatch.setattr(store._engine._writer, "_loop", Loop())
        disk.gate.clear()
        first = asyncio.create_task(client.produce("/s", b"a", 0))
        for _ in range(3):
            await asyncio.sleep(0)  # the writer has it now
        second = asyncio.create_task(client.produce("/s", b"b", 1))  # comes before the report of the first
        disk.gate.set()
        reported.wait(10)  # the loop stands still meanwhile
        disk.fails = False
        assert (await first).status == (await second).status == 503
        assert (await client.get("/s")).body == b""
        assert (await client.produce("/s", b"b", 1))["producer-expected-seq"] == "0"


async def test_a_refusal_that_rests_on_a_write_that_failed_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s")
        disk = Broken(store, monkeypatch)
        first = asyncio.create_task(client.produce("/s", b"a", 0))
        again = asyncio.create_task(client.produce("/s", b"a", 0))  # a duplicate, if the first is stored
        await first
        disk.fails = False
        assert first.result().status == 503
        assert (await again).status in (200, 503)  # never 204
        assert (await client.produce("/s", b"a", 0)).status in (200, 204)
        assert (await client.get("/s")).body == b"a"


async def test_reads_wait_for_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, small(streams=1, tail_bytes=0)) as (store, client):
        await client.put("/s", b"here")
        await client.put("/t", b"there")
        disk = Broken(store, monkeypatch)
        disk.fails = False
        disk.gate.clear()
        late = asyncio.create_task(client.post("/s", b" later"))
        await asyncio.sleep(0)
        assert (await client.get("/t")).body == b"there"
        assert (await client.get("/s")).body == b"here"
        assert (await client.head("/unknown")).status == 404
        assert not late.done()
        disk.gate.set()
        assert (await late).status == 204


async def test_a_database_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise apsw.CorruptError("database disk image is malformed")

    async with opened(tmp_path, small(tail_bytes=0)) as (_, client):
        await client.put("/s", b"x")
        monkeypatch.setattr("proxy.store.reading.Reader.pieces", fail)
        monkeypatch.setattr("proxy.store.reading.Reader.load", fail)
        assert (await client.get("/s")).status == 503
        assert (await client.get("/unknown")).status == 503


async def test_a_bound_on_the_size_refuses_before_the_disk_is_full(tmp_path: Path) -> None:
    async with opened(tmp_path, small(max_bytes=1 << 20)) as (_, client):
        await client.put("/s")
        statuses = [(await client.post("/s", b"x" * 65_536)).status for _ in range(20)]
        assert statuses[0] == 204
        assert statuses[-1] == 507
        assert (await client.put("/t", b"x" * 65_536)).status == 507
        stored = len((await client.get("/s")).body)
        assert stored == 65_536 * statuses.count(204)
        assert (await client.post("/s", stream_closed="true")).status == 204
        assert (await client.delete("/s")).status == 204

        async def has_room() -> bool:
            return (await client.put("/u", b"x" * 65_536)).status == 201

        await until(has_room)


async def test_creates_are_refused_while_the_disk_is_nearly_full(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/s")
    async with opened(tmp_path, small(min_free_bytes=1 << 60)) as (_, client):
        assert (await client.put("/t")).status == 507
        assert (await client.post("/s", b"x")).status == 204
        assert (await client.get("/s")).body == b"x"


async def test_a_caller_who_goes_before_the_answer_changes_nothing_for_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/s")
        work = [asyncio.create_task(client.produce("/s", b"%d" % seq, seq)) for seq in range(10)]
        work += [asyncio.create_task(client.put("/t", b"x")), asyncio.create_task(client.delete("/u"))]
        await asyncio.sleep(0)
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for seq in range(10):
            assert (await client.produce("/s", b"%d" % seq, seq)).status in (200, 204)
        assert (await client.get("/s")).body == b"0123456789"
        assert (await client.put("/t", b"x")).status in (200, 201)


def test_nobody_waits_for_a_store_that_was_never_closed(tmp_path: Path) -> None:
    async def leave() -> None:
        store = Store(tmp_path, small())
        assert (await Client(store.handler).put("/s", b"x")).status == 201

    asyncio.run(leave())
