"""A full disk and a database that fails: nothing is acknowledged that is not kept, and reads go on."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from proxy.http.body import BodyError, read_all
from proxy.store import Store, open_store
from proxy.store.sqlite.writer import Batch
from proxy.store.sqlite.writing import Value, Write
from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.kit.waiting import SOON, until
from tests.store.kit import Clock, engine_of, opened


def grow_to(store: Store, pages: int) -> None:
    """Let SQLite fail with "disk full" beyond a number of pages (0: no bound)."""
    connection = engine_of(store)._commits._writer._database._connection
    connection.execute(f"PRAGMA max_page_count = {pages or 1 << 30}")


def pages_of(store: Store) -> int:
    found = engine_of(store)._commits._writer._database._connection.pragma("page_count")
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
        database = engine_of(store)._commits._writer._database
        whole = database.store

        def commit(writes: list[Write]) -> None:
            self.gate.wait(10)
            if self.fails:
                raise apsw.IOError("the disk is broken")
            whole(writes)

        monkeypatch.setattr(database, "store", commit)


async def test_a_broken_disk_is_reported_and_everything_can_be_repeated(
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
        monkeypatch.setattr(engine_of(store)._commits._writer, "_loop", Loop())
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
    async with opened(tmp_path, store_settings(streams=1, tail_bytes=0)) as (store, client):
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


async def test_a_database_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise apsw.CorruptError("database disk image is malformed")

    async with opened(tmp_path, store_settings(tail_bytes=0)) as (_, client):
        await client.put("/s", b"x")
        monkeypatch.setattr("proxy.store.sqlite.reading.ReadConnection.pieces", fail)
        monkeypatch.setattr("proxy.store.sqlite.reading.ReadConnection.load", fail)
        assert (await client.get("/s")).status == 503
        assert (await client.get("/unknown")).status == 503


async def test_a_bound_on_the_size_refuses_before_the_disk_is_full(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(max_bytes=1 << 20)) as (_, client):
        await client.put("/s")
        statuses = [(await client.post("/s", b"x" * 65_536)).status for _ in range(20)]
        assert statuses[0] == 204
        assert statuses[-1] == 507
        assert (await client.put("/t", b"x" * 65_536)).status == 507
        stored = len((await client.get("/s")).body)
        assert stored == 65_536 * statuses.count(204)
        while (await client.post("/s", b"x")).status == 204:
            pass
        assert (await client.post("/s", b"x" * 4097, stream_closed="true")).status == 507
        assert (await client.post("/s", b"last words", stream_closed="true")).status == 204
        assert (await client.get("/s")).body.endswith(b"xlast words")
        assert (await client.delete("/s")).status == 204

        async def has_room() -> bool:
            return (await client.put("/u", b"x" * 65_536)).status == 201

        await until(has_room)


async def test_creates_are_refused_while_the_disk_is_nearly_full(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/s")
    free = shutil.disk_usage(tmp_path).free
    async with opened(tmp_path, store_settings(min_free_bytes=2 * free)) as (_, client):
        assert (await client.put("/t")).status == 507
        assert (await client.put("/s")).status == 200
        assert (await client.put("/s", content_type="text/plain")).status == 409
        assert (await client.post("/s", b"x")).status == 204
        assert (await client.get("/s")).body == b"x"


async def test_appends_leave_room_for_what_frees_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/s", b"x")
        await client.put("/t", b"x")
    free = shutil.disk_usage(tmp_path).free
    async with opened(tmp_path, store_settings(min_free_bytes=8 * free)) as (store, client):
        assert (await client.post("/s", b"y")).status == 507
        assert (await client.post("/s", stream_closed="true")).status == 204
        assert (await client.get("/s")).body == b"x"
        assert (await client.delete("/s")).status == 204
        monkeypatch.setattr(engine_of(store), "_settings", store_settings(min_free_bytes=1))

        async def has_room() -> bool:
            return (await client.post("/t", b"y")).status == 204

        await until(has_room)


async def test_appends_that_come_together_keep_to_the_bound_on_the_size_together(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(max_bytes=1 << 20)) as (store, client):
        paths = [f"/{number}" for number in range(40)]
        await asyncio.gather(*map(client.put, paths))
        answers = await asyncio.gather(*(client.post(path, b"x" * 65_536) for path in paths))
        assert {answer.status for answer in answers} == {204, 507}
        assert pages_of(store) * 4096 < 2 << 20


async def test_a_create_on_a_path_whose_stream_expired_and_cannot_be_removed_is_refused(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, clock=clock) as (store, client):
        await client.put("/s", b"x", stream_ttl="10")
        clock.time += 60
        disk = Broken(store, monkeypatch)
        async with asyncio.timeout(5):
            assert (await client.put("/s")).status == 503
        disk.fails = False
        assert (await client.put("/s")).status == 201


async def test_the_writer_outlives_a_failure_between_two_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s")
        database = engine_of(store)._commits._writer._database
        monkeypatch.setattr(database, "used_bytes", _broken)
        for _ in range(200):
            assert (await client.post("/s", b"x")).status == 204


def _broken() -> int:
    raise apsw.IOError("the disk is broken")


class _NoCommit:
    """A cursor whose next COMMITs fail."""

    def __init__(self, cursor: apsw.Cursor, failures: int) -> None:
        self._cursor = cursor
        self.failures = failures

    def __getattr__(self, name: str) -> object:
        return getattr(self._cursor, name)

    def execute(self, statement: str, values: tuple[Value, ...] = ()) -> apsw.Cursor:
        if statement == "COMMIT" and self.failures:
            self.failures -= 1
            raise apsw.FullError("full")
        return self._cursor.execute(statement, values)


async def test_a_sweep_that_was_not_committed_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/u")
        await client.put("/s", b"x" * 100_000)
        await client.delete("/s")
        database = engine_of(store)._commits._writer._database

        async def is_swept() -> bool:
            await client.post("/u", b"u")  # failed maintenance is done again after a write
            return not database.has_garbage

        await until(is_swept)
        await client.put("/t", b"x" * 100_000)
        cursor = _NoCommit(database._cursor, 0)
        monkeypatch.setattr(database, "_cursor", cursor)
        sweep = database.sweep

        def failing_first(rows: int, size: int) -> None:
            cursor.failures = 1
            monkeypatch.setattr(database, "sweep", sweep)
            sweep(rows, size)

        monkeypatch.setattr(database, "sweep", failing_first)
        await client.delete("/t")
        await until(is_swept)
        assert cursor.failures == 0
        rows = (
            apsw.Connection(str(tmp_path / "streams.db"))
            .execute("SELECT count(*) FROM pieces WHERE length(data) > 1")
            .fetchall()
        )
        assert rows == [(0,)]


@pytest.mark.parametrize("missing", ["position < 300", "position BETWEEN 300 AND 600", "position >= 900"])
@pytest.mark.parametrize("is_removed", [True, False])
async def test_a_read_that_finds_a_part_missing_gives_nothing(tmp_path: Path, missing: str, is_removed: bool) -> None:
    async with opened(tmp_path, store_settings(tail_bytes=0, step_bytes=500)) as (_, client):
        await client.put("/s")
        for _ in range(10):
            await client.post("/s", b"x" * 100)
        assert len((await client.get("/s")).body) == 1000
        database = apsw.Connection(str(tmp_path / "streams.db"))
        database.execute(f"DELETE FROM pieces WHERE {missing}")
        if is_removed:  # the sweep has begun
            database.execute("UPDATE streams SET path = NULL")
        response = await client.send("GET", "/s")
        if response.status == 200:
            with pytest.raises(BodyError):
                await read_all(response.body, 1 << 20)
        else:
            assert response.status == (404 if is_removed else 503)


async def test_a_stop_that_comes_while_writes_wait_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as (store, client):
        await client.put("/s")
        disk = Broken(store, monkeypatch)
        disk.fails = False
        disk.gate.clear()
        posts = []
        for _ in range(2):
            posts.append(asyncio.create_task(client.post("/s", b"x")))
            await asyncio.sleep(0.05)
        stopping = asyncio.create_task(store.aclose())
        await asyncio.sleep(0.05)
        disk.gate.set()
        async with asyncio.timeout(10):
            await stopping
            assert {(await post).status for post in posts} == {204}


async def test_a_producer_that_made_room_and_comes_back_in_one_batch_is_known_afterwards(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(producers=2)) as (_, client):
        await client.put("/s")
        for name in ("a", "b"):
            assert (await client.produce("/s", b"0", 0, producer_id=name)).status == 200
        answers = await asyncio.gather(
            client.produce("/s", b"1", 0, producer_id="c"), client.produce("/s", b"2", 0, epoch=1, producer_id="a")
        )
        assert [answer.status for answer in answers] == [200, 200]
    async with opened(tmp_path, store_settings(producers=2)) as (_, client):
        assert (await client.produce("/s", b"2", 0, epoch=1, producer_id="a")).status == 204
        assert (await client.produce("/s", b"1", 0, producer_id="c")).status == 204
        assert (await client.get("/s")).body == b"0012"


async def test_a_long_json_array_stops_nobody_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/j", content_type="application/json")
        values = list(range(100_000))
        posting = asyncio.create_task(client.post("/j", json.dumps(values).encode(), content_type="application/json"))
        turns = 0
        while not posting.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await posting).status == 204
        assert turns > 10
        assert json.loads((await client.get("/j")).body) == values


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
        store = open_store(tmp_path, store_settings())
        assert (await Client(store.handler).put("/s", b"x")).status == 201

    asyncio.run(leave())


class HangingDisk:
    """Commits of a store wait while the disk hangs."""

    def __init__(self, store: Store) -> None:
        self._database = engine_of(store)._commits._writer._database
        self._answers = threading.Event()
        self._answers.set()
        self._store = self._database.store
        self._database.store = self._slow  # type: ignore[method-assign]  # this store's own

    def _slow(self, writes: list[Write]) -> None:
        self._answers.wait()
        self._store(writes)

    def hang(self) -> None:
        self._answers.clear()

    def answer(self) -> None:
        self._answers.set()


async def test_writes_do_not_wait_for_a_disk_that_hangs_and_reads_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(stall_seconds=0.2)) as (store, client):
        disk = HangingDisk(store)
        await client.put("/s", b"kept")
        await client.produce("/s", b" one", 0)
        assert store.has_room()
        disk.hang()
        try:
            waiting = [
                client.put("/new", b"x"),
                client.produce("/s", b" two", 1),
                client.produce("/s", b" two", 1),  # whether it is a repetition is not known
                client.put("/another", b"x"),
                client.delete("/s"),
            ]
            async with asyncio.timeout(SOON):
                assert [answer.status for answer in await asyncio.gather(*waiting)] == [503] * 5
                assert not store.has_room()
                at_once = [client.put("/late"), client.produce("/s", b" two", 1), client.put("/new", b"x")]
                assert [answer.status for answer in await asyncio.gather(*at_once)] == [503] * 3
                assert (await client.get("/s")).body == b"kept one"
        finally:
            disk.answer()
        await until(store.has_room)
        assert (await client.get("/s")).status == 404  # what was answered 503 may have been done all the same
        assert (await client.put("/new", b"x")).status == 200
        assert (await client.put("/late")).status == 201


async def test_a_producer_goes_on_after_a_disk_that_hung(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(stall_seconds=0.2)) as (store, client):
        disk = HangingDisk(store)
        await client.put("/s")
        disk.hang()
        try:
            assert (await client.produce("/s", b"a", 0)).status == 503
        finally:
            disk.answer()
        await until(store.has_room)
        assert (await client.produce("/s", b"a", 0)).status == 204
        assert (await client.produce("/s", b"b", 1)).status == 200
        assert (await client.get("/s")).body == b"ab"


async def test_the_first_create_after_a_full_disk_got_room_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    async with opened(tmp_path, store_settings(min_free_bytes=free // 2)) as (store, client):
        full = os.statvfs_result([*disk[:4], 1, *disk[5:]])
        with monkeypatch.context() as patch:
            patch.setattr("os.statvfs", lambda _: full)
            engine_of(store)._commits._writer.measure_disk()
            assert not store.has_room()
            assert (await client.put("/s")).status == 507
        assert store.has_room()
        assert (await client.put("/s")).status == 201
