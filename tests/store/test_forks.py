"""Forks: shared bytes, places to branch off, and sources that outlive their path."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.store.kit import Clock, opened

ON_EVERY_ENGINE = True

TEXT = {"content_type": "text/plain"}
JSON = {"content_type": "application/json"}
START = "0000000000000000_0000000000000000"


async def fork(client: Client, target: str, source: str, offset: str | None = None, sub: int | None = None) -> int:
    given = {"stream_forked_from": source}
    if offset is not None:
        given["stream_fork_offset"] = offset
    if sub is not None:
        given["stream_fork_sub_offset"] = str(sub)
    return (await client.put(target, **given)).status


async def test_a_fork_of_a_fork_of_a_fork_reads_as_one_stream_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        offset = (await client.put("/0", b"zero ", **TEXT)).offset
        for number in range(1, 5):
            assert await fork(client, f"/{number}", f"/{number - 1}", offset) == 201
            await client.post(f"/{number - 1}", b"UNSEEN", **TEXT)
            offset = (await client.post(f"/{number}", f"{number} ".encode(), **TEXT)).offset
    async with opened(tmp_path) as (_, client):
        assert (await client.get("/4")).body == b"zero 1 2 3 4 "
        assert (await client.get("/4?offset=0_6")).body == b" 2 3 4 "
        assert (await client.get("/1")).body == b"zero 1 UNSEEN"


async def test_a_fork_before_its_sources_own_fork_shares_only_the_first(client: Client) -> None:
    await client.put("/a", b"0123456789", **TEXT)
    await fork(client, "/b", "/a")
    await client.post("/b", b"bbb", **TEXT)
    assert await fork(client, "/c", "/b", "0_4") == 201
    await client.post("/c", b"ccc", **TEXT)
    assert (await client.get("/c")).body == b"0123ccc"


async def test_a_sub_offset_counts_from_the_append_at_the_offset_however_it_was_cut(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(piece_bytes=3)) as (_, client):
        first = await client.put("/a", b"0123456789", **TEXT)
        await client.post("/a", b"abcdef", **TEXT)
        assert await fork(client, "/f", "/a", START, 8) == 201
        assert await fork(client, "/g", "/a", first.offset, 5) == 201
        assert await fork(client, "/h", "/a", START, 11) == 400
        assert (await client.get("/f")).body == b"01234567"
        assert (await client.get("/g")).body == b"0123456789abcde"


async def test_json_branches_off_between_values_only(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(piece_bytes=8)) as (_, client):
        first = await client.put("/a", json.dumps([[1], "two", {"three": 3}, 4]).encode(), **JSON)
        await client.post("/a", b"5", **JSON)
        assert await fork(client, "/f", "/a", START, 3) == 201
        assert json.loads((await client.get("/f")).body) == [[1], "two", {"three": 3}]
        assert await fork(client, "/g", "/f", START, 2) == 201
        await client.post("/g", b'["x"]', **JSON)
        assert json.loads((await client.get("/g")).body) == [[1], "two", "x"]
        assert await fork(client, "/h", "/a", "0_1") == 400
        assert await fork(client, "/h", "/a", first.offset, 2) == 400
        assert await fork(client, "/h", "/a", first.offset, 1) == 201


async def test_a_fork_may_leave_out_what_it_inherits_when_it_is_created_again(client: Client) -> None:
    await client.put("/a", b"x", stream_ttl="60", **TEXT)
    assert await fork(client, "/f", "/a") == 201
    assert await fork(client, "/f", "/a") == 200
    assert await fork(client, "/f", "/a", START) == 409
    assert (await client.put("/f", stream_forked_from="/a", stream_ttl="61")).status == 409
    assert (await client.put("/f", **TEXT)).status == 409
    assert (await client.head("/f"))["stream-ttl"] == "60"


async def test_a_deleted_source_lives_for_its_forks_also_over_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/a", b"shared", **TEXT)
        await fork(client, "/f", "/a")
        await fork(client, "/g", "/f")
        await client.delete("/a")
    async with opened(tmp_path) as (_, client):
        for method, status in (("GET", 410), ("HEAD", 410), ("POST", 410), ("DELETE", 410), ("PUT", 409)):
            body = b"x" if method == "POST" else b""
            assert (await client.call(method, "/a", body, **TEXT)).status == status
        assert await fork(client, "/h", "/a") == 409
        await client.delete("/f")
        assert (await client.get("/g")).body == b"shared"
        assert (await client.head("/a")).status == 410
        await client.delete("/g")
        assert (await client.head("/a")).status == 404
        assert (await client.head("/f")).status == 404
        assert (await client.put("/a")).status == 201


async def test_the_last_fork_takes_a_long_chain_of_deleted_sources_along(client: Client) -> None:
    await client.put("/0", b"x", **TEXT)
    for number in range(1, 120):
        await fork(client, f"/{number}", f"/{number - 1}")
        await client.delete(f"/{number - 1}")
    assert (await client.get("/119")).body == b"x"
    await client.delete("/119")
    assert (await client.put("/0")).status == 201


async def test_an_expired_source_is_gone_but_its_forks_read_on(client: Client, clock: Clock) -> None:
    await client.put("/a", b"x", stream_ttl="10", **TEXT)
    await client.put("/f", stream_forked_from="/a", stream_ttl="100")
    clock.time += 20
    assert (await client.get("/a")).status == 410
    assert (await client.get("/f")).body == b"x"
    clock.time += 120
    assert (await client.get("/f")).status == 404
    assert (await client.get("/a")).status == 404


async def test_a_fork_of_itself_has_no_source(client: Client) -> None:
    assert await fork(client, "/a", "/a") == 404
    assert (await client.put("/a")).status == 201


async def test_producers_are_not_inherited(client: Client) -> None:
    await client.put("/a")
    await client.produce("/a", b"x", 0)
    await fork(client, "/f", "/a")
    assert (await client.produce("/f", b"y", 0)).status == 200
    assert (await client.get("/f")).body == b"xy"


@pytest.mark.parametrize("reopen", [False, True])
def test_any_tree_of_forks_reads_as_if_each_were_a_copy(tmp_path_factory: pytest.TempPathFactory, reopen: bool) -> None:
    import asyncio

    @settings(max_examples=15)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        asyncio.run(grow(data, tmp_path_factory.mktemp("store")))

    async def grow(data: st.DataObject, directory: Path) -> None:
        expected = {"/0": b""}
        numbers = store_settings(piece_bytes=4, step_bytes=8, tail_bytes=16 if not reopen else 200)
        async with opened(directory, numbers) as (_, client):
            await client.put("/0", **TEXT)
            for number in range(1, data.draw(st.integers(1, 12))):
                source = data.draw(st.sampled_from(sorted(expected)))
                more = data.draw(st.binary(min_size=1, max_size=12))
                await client.post(source, more, **TEXT)
                expected[source] += more
                place = data.draw(st.integers(0, len(expected[source])))
                assert await fork(client, f"/{number}", source, f"0_{place}") == 201
                expected[f"/{number}"] = expected[source][:place]
            if not reopen:
                await check(client, expected)
        if reopen:
            async with opened(directory, numbers) as (_, client):
                await check(client, expected)

    async def check(client: Client, expected: dict[str, bytes]) -> None:
        for path, content in expected.items():
            assert (await client.get(path)).body == content
            middle = len(content) // 2
            assert (await client.get(f"{path}?offset=0_{middle}")).body == content[middle:]

    run()
