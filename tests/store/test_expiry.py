"""Expiry: sliding and fixed, over restarts, and what the sweep gives back."""

import os
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.kit.waiting import until
from tests.store.kit import Clock, embedded, opened

ON_EVERY_ENGINE = True


async def test_reads_and_writes_restart_a_ttl(client: Client, clock: Clock) -> None:
    await client.put("/s", stream_ttl="10")
    for target in ("/s", "/s?offset=now", "/s?offset=-1"):
        clock.time += 9
        assert (await client.get(target)).status == 200
        clock.time += 9
        assert (await client.post("/s", b"x")).status == 204
    clock.time += 10
    assert (await client.get("/s")).status == 404


async def test_metadata_restarts_no_ttl(client: Client, clock: Clock) -> None:
    await client.put("/s", stream_ttl="10")
    clock.time += 9
    assert (await client.head("/s")).status == 200
    clock.time += 1
    assert (await client.head("/s")).status == 404


async def test_a_fixed_time_stays_where_it_is(client: Client, clock: Clock) -> None:
    then = datetime.fromtimestamp(clock.time + 10, UTC).isoformat()
    await client.put("/s", stream_expires_at=then)
    assert (await client.head("/s"))["stream-expires-at"] == then
    clock.time += 9
    assert (await client.post("/s", b"x")).status == 204
    clock.time += 1
    assert (await client.post("/s", b"x")).status == 404


async def test_a_path_whose_stream_expired_is_free(client: Client, clock: Clock) -> None:
    await client.put("/s", b"old", stream_ttl="10")
    clock.time += 11
    assert (await client.put("/s", b"new", content_type="text/plain")).status == 201
    assert (await client.get("/s")).body == b"new"


async def test_a_stream_that_is_read_all_the_time_outlives_a_restart(tmp_path: Path, clock: Clock) -> None:
    async with opened(tmp_path, clock=clock) as (_, client):
        await client.put("/s", b"x", stream_ttl="100")
        for _ in range(50):
            clock.time += 7
            assert (await client.get("/s")).status == 200
    clock.time += 99
    async with opened(tmp_path, clock=clock) as (_, client):
        assert (await client.get("/s")).status == 200
        clock.time += 200
    async with opened(tmp_path, clock=clock) as (_, client):
        assert (await client.get("/s")).status == 404


async def test_a_read_that_moves_the_expiry_leaves_all_else_as_it_was(tmp_path: Path, clock: Clock) -> None:
    async with opened(tmp_path, clock=clock) as (_, client):
        await client.put("/s", stream_ttl="100")
        await client.post("/s", b"x", stream_seq="5", stream_closed="true")
        clock.time += 90
        await client.get("/s")
    async with opened(tmp_path, clock=clock) as (_, client):
        assert (await client.get("/s"))["stream-closed"] == "true"
        assert (await client.post("/s", b"y", stream_seq="6")).status == 409


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.embedded
async def test_a_lifetime_is_what_has_passed_even_if_the_clock_is_set(client: Client, clock: Clock, hours: int) -> None:
    await client.put("/s", stream_ttl="10")
    await client.put("/kept", stream_ttl="10")
    clock.ahead += 3600 * hours
    clock.time += 9
    assert (await client.get("/kept")).status == 200
    assert (await client.head("/s")).status == 200
    clock.time += 1
    assert (await client.head("/s")).status == 404
    clock.time += 8
    assert (await client.head("/kept")).status == 200


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.embedded
async def test_the_sweep_goes_by_what_has_passed_and_for_dates_by_the_clock(
    tmp_path: Path, clock: Clock, hours: int
) -> None:
    async with embedded(tmp_path, store_settings(sweep_seconds=0.01), clock) as (store, client):
        then = datetime.fromtimestamp(clock.time + 1800, UTC).isoformat()
        await client.put("/short", stream_ttl="10")
        await client.put("/long", stream_ttl="1000")
        await client.put("/date", stream_expires_at=then)
        clock.ahead += 3600 * hours
        clock.time += 60
        left = ["/date", "/long"] if hours < 0 else ["/long"]

        async def is_swept() -> bool:
            return len(await store.open_streams("", 9)) == len(left)

        await until(is_swept)
        assert await store.open_streams("", 9) == left


@pytest.mark.embedded
async def test_a_date_that_has_passed_stays_passed_when_the_clock_goes_back(client: Client, clock: Clock) -> None:
    then = datetime.fromtimestamp(clock.time + 10, UTC).isoformat()
    await client.put("/s", stream_expires_at=then)
    clock.ahead += 11
    await client.head("/another")
    await client.post("/s", b"x")
    clock.ahead -= 3600
    assert (await client.head("/s")).status == 404


@pytest.mark.embedded
async def test_a_clock_that_went_back_over_a_restart_lengthens_no_lifetime_by_more_than_itself(
    tmp_path: Path, clock: Clock
) -> None:
    async with opened(tmp_path, clock=clock) as (_, client):
        await client.put("/s", stream_ttl="8")
    clock.ahead -= 3600
    async with opened(tmp_path, clock=clock) as (_, client):
        assert (await client.head("/s")).status == 200
        clock.time += 9
        assert (await client.head("/s")).status == 404


@pytest.mark.embedded
@pytest.mark.embedded
async def test_the_sweep_removes_what_expired_and_shrinks_the_file(tmp_path: Path, clock: Clock) -> None:
    settings = store_settings(sweep_seconds=0.01, vacuum_bytes=0, sweep_rows=64, checkpoint_bytes=1 << 16)
    async with embedded(tmp_path, settings, clock) as (store, client):
        for number in range(40):
            life = {"stream_ttl": "10"} if number % 2 else {}
            await client.put(f"/{number}", b"x" * 99_999, **life)
            await client.produce(f"/{number}", b"x", 0)
        kept = [f"/{number}" for number in range(0, 40, 2)]
        assert len(await store.open_streams("", 100)) == 40
        clock.time += 60

        async def is_swept() -> bool:
            return len(await store.open_streams("", 100)) == 20

        await until(is_swept)
        assert sorted(await store.open_streams("", 100)) == sorted(kept)

        async def is_small() -> bool:
            assert (await client.put("/still", b"x")).status in (200, 201)  # the log moves when there are writes
            return os.stat(tmp_path / "streams.db").st_size < 40 * 100_000 * 0.6

        await until(is_small)
        for path in kept:
            assert (await client.get(path)).body == b"x" * 100_000
    connection = apsw.Connection(str(tmp_path / "streams.db"))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for table in ("pieces", "producers"):
        orphans = f"SELECT count(*) FROM {table} WHERE stream NOT IN (SELECT id FROM streams WHERE path IS NOT NULL)"
        assert connection.execute(orphans).fetchall() == [(0,)]
    connection.close()


@pytest.mark.parametrize("ttl", ["0", "1"])
async def test_the_shortest_lives(client: Client, clock: Clock, ttl: str) -> None:
    assert (await client.put("/s", stream_ttl=ttl)).status == 201
    clock.time += float(ttl)
    assert (await client.head("/s")).status == 404
