"""The protocol over the store: what the public suite leaves open, and what this project promises beside it."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from proxy.http.body import BodyError, BytesBody, Cut
from proxy.http.message import Request
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers
from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.store.kit import Clock, opened

ON_EVERY_ENGINE = True

TEXT = {"content_type": "text/plain"}


async def test_a_path_is_data_and_never_a_file_name(client: Client, tmp_path: Path) -> None:
    before = sorted(os.listdir(tmp_path))
    paths = [
        "/../../etc/passwd",
        "/a%2f..%2fb",
        "/" + "x" * 5000,
        "/\xff\xfe",
        "/a b",
        "//",
        "/'; DROP TABLE streams; --",
    ]
    for path in paths:
        assert (await client.put(path, path.encode("latin-1"))).status == 201
    for path in paths:
        assert (await client.get(path)).body == path.encode("latin-1")
    assert sorted(os.listdir(tmp_path)) == before


async def test_location_is_absolute_when_the_host_is_known_and_a_path_otherwise(client: Client) -> None:
    assert (await client.put("/s", host="store.example:4437"))["location"] == "http://store.example:4437/s"
    assert (await client.put("/t"))["location"] == "/t"


@pytest.mark.parametrize(
    ("method", "status"), [("PUT", 201), ("POST", 400), ("GET", 404), ("HEAD", 404), ("DELETE", 404), ("BREW", 405)]
)
async def test_every_answer_may_be_read_by_a_browser_and_never_guessed_at(
    client: Client, method: str, status: int
) -> None:
    answer = await client.call(method, "/s")
    assert answer.status == status
    assert answer["access-control-allow-origin"] == "*"
    assert answer["x-content-type-options"] == "nosniff"
    assert answer["cross-origin-resource-policy"] == "cross-origin"


async def test_a_preflight_allows_what_the_protocol_uses(client: Client) -> None:
    answer = await client.call("OPTIONS", "/s")
    allowed = answer["access-control-allow-headers"] or ""
    assert answer.status == 204
    for name in ("Authorization", "If-None-Match", "Producer-Id", "Stream-Closed", "Stream-Forked-From"):
        assert name in allowed.split(", ")


async def test_an_unknown_method_is_refused_with_those_that_exist(client: Client) -> None:
    assert "PUT" in ((await client.call("PATCH", "/s"))["allow"] or "")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("offset=-1", 200), ("offset=now", 200), ("offset=0_0", 200), ("x=1&x=2", 200), ("cursor=nonsense", 200),
        ("offset=", 400), ("offset=-2", 400), ("offset=1", 400), ("offset=-1&offset=-1", 400), ("live=sse", 400),
        ("live=long-poll", 400), ("offset=-1&live=", 400), ("offset=-1&live=poll", 400), ("cursor=1&cursor=2", 400),
    ],
)  # fmt: skip
async def test_parameters_of_a_read(client: Client, query: str, status: int) -> None:
    await client.put("/s")
    assert (await client.get(f"/s?{query}")).status == status


@pytest.mark.parametrize(
    "producer",
    [
        {"producer_id": "p"}, {"producer_epoch": "0", "producer_seq": "0"}, {"producer_id": "p", "producer_seq": "0"},
        {"producer_id": "", "producer_epoch": "0", "producer_seq": "0"},
        {"producer_id": "p", "producer_epoch": "-1", "producer_seq": "0"},
        {"producer_id": "p", "producer_epoch": "0", "producer_seq": "1e3"},
        {"producer_id": "p", "producer_epoch": "0", "producer_seq": "\xb2"},
        {"producer_id": "p", "producer_epoch": "9" * 30, "producer_seq": "0"},
        {"producer_id": "p", "producer_epoch": "9007199254740992", "producer_seq": "0"},
    ],
)  # fmt: skip
async def test_producer_headers_that_make_no_sense_are_refused(client: Client, producer: dict[str, str]) -> None:
    await client.put("/s")
    assert (await client.post("/s", b"x", **producer)).status == 400
    assert (await client.get("/s")).body == b""


@pytest.mark.parametrize(
    "given",
    [
        {"stream_ttl": "1", "stream_expires_at": "2030-01-01T00:00:00Z"}, {"stream_ttl": "01"},
        {"stream_ttl": "9" * 20},
        {"stream_expires_at": "soon"}, {"stream_expires_at": "9999-12-31T23:59:60Z"}, {"stream_fork_offset": "0_0"},
        {"stream_forked_from": "relative"}, {"stream_forked_from": "/s", "stream_fork_offset": "x"},
        {"stream_forked_from": "/s", "stream_fork_sub_offset": ""},
    ],
)  # fmt: skip
async def test_a_create_that_makes_no_sense_is_refused(client: Client, given: dict[str, str]) -> None:
    assert (await client.put("/t", **given)).status == 400
    assert (await client.head("/t")).status == 404


async def test_a_repeated_header_is_not_one_of_its_values(client: Client) -> None:
    await client.put("/s")
    given = [(b"producer-id", b"p"), (b"producer-epoch", b"0"), (b"producer-seq", b"0"), (b"producer-seq", b"0")]
    headers = Headers([(b"content-type", b"application/octet-stream"), *given])
    assert (await client.handler(Request(b"POST", b"/s", headers, BytesBody([b"x"])))).status == 400


async def test_a_producer_whose_answer_was_lost_learns_that_it_was_stored_after_the_stream_was_closed(
    client: Client,
) -> None:
    await client.put("/s")
    assert (await client.produce("/s", b"a", 0)).status == 200
    assert (await client.post("/s", stream_closed="true")).status == 204
    again = await client.produce("/s", b"a", 0)
    assert (again.status, again["stream-closed"], again["producer-seq"]) == (204, "true", "0")
    more = await client.produce("/s", b"b", 1)
    assert (more.status, more["stream-closed"]) == (409, "true")
    assert more.offset == again.offset


async def test_a_fence_stops_the_producer_before_it(client: Client) -> None:
    await client.put("/s")
    await client.produce("/s", b"a", 0)
    assert (await client.produce("/s", b"", 0, epoch=1, stream_closed="true")).status == 204
    late = await client.produce("/s", b"b", 1)
    assert (late.status, late["producer-epoch"]) == (403, "1")
    assert (await client.get("/s")).body == b"a"


async def test_a_producer_learns_the_number_that_is_missing(client: Client) -> None:
    await client.put("/s")
    first = await client.produce("/s", b"a", 3)
    assert (first.status, first["producer-expected-seq"], first["producer-received-seq"]) == (409, "0", "3")
    await client.produce("/s", b"a", 0)
    assert (await client.produce("/s", b"c", 2))["producer-expected-seq"] == "1"


async def test_only_so_many_producers_of_a_stream_are_remembered_the_latest_ones(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(producers=2)) as (_, client):
        await client.put("/s")
        for name, seq in (("a", 0), ("b", 0), ("a", 1), ("c", 0)):  # c takes the place of b
            assert (await client.produce("/s", b"x", seq, producer_id=name)).status == 200
    async with opened(tmp_path, store_settings(producers=2)) as (_, client):
        assert (await client.produce("/s", b"x", 1, producer_id="a")).status == 204
        assert (await client.produce("/s", b"x", 1, producer_id="b"))["producer-expected-seq"] == "0"


async def test_an_append_that_is_too_long_is_refused_whole(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(append_bytes=10)) as (_, client):
        await client.put("/s")
        assert (await client.post("/s", b"x" * 11)).status == 413
        assert (await client.post("/s", Arriving([b"x" * 6, b"x" * 5]))).status == 413
        assert (await client.post("/s", Arriving([b"x" * 5, b"x" * 5]))).status == 204
        assert (await client.get("/s")).body == b"x" * 10


async def test_more_bytes_than_may_wait_at_once_are_refused_for_now(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(held_bytes=10)) as (_, client):
        await client.put("/s")
        slow = Arriving([b"x" * 6])
        slow.hold()
        first = asyncio.ensure_future(client.post("/s", slow))
        await slow.waiting.wait()
        refused = await client.post("/s", b"y" * 6)
        assert (refused.status, refused["retry-after"]) == (503, "1")
        slow.release()
        assert (await first).status == 204
        assert (await client.post("/s", b"y" * 6)).status == 204


async def test_a_body_that_breaks_off_stores_nothing_and_owes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(held_bytes=10)) as (_, client):
        await client.put("/s")
        with pytest.raises(BodyError):
            await client.post("/s", Arriving([b"x" * 6], Cut.RESET))
        assert (await client.post("/s", b"y" * 10)).status == 204
        assert (await client.get("/s")).body == b"y" * 10


class Arriving:
    """A body that arrives in parts, of unknown length, and may break off."""

    def __init__(self, parts: list[bytes], cut: Cut | None = None) -> None:
        self.length = None
        self.ended = False
        self._parts = parts
        self._cut = cut
        self._gate = asyncio.Event()
        self._gate.set()
        self.waiting = asyncio.Event()

    def hold(self) -> None:
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    async def take(self) -> tuple[Buffer, ...]:
        if self._parts:
            return (memoryview(self._parts.pop(0)),)
        self.waiting.set()
        await self._gate.wait()
        if self._cut is not None:
            raise BodyError(self._cut)
        return ()

    def take_nowait(self) -> tuple[Buffer, ...]:
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        self._parts = []

    def close(self) -> None:
        self.abort()


async def test_an_etag_is_known_again_however_it_is_sent(client: Client) -> None:
    await client.put("/s", b"data", **TEXT)
    etag = (await client.get("/s"))["etag"] or ""
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await client.get("/s", if_none_match=given)
        assert (answer.status, answer.body, answer["etag"]) == (304, b"", etag)
    assert (await client.get("/s?offset=0_1", if_none_match=etag)).status == 200


async def test_closing_and_recreating_change_the_etag(client: Client, clock: Clock) -> None:
    await client.put("/s", b"data")
    tags = {(await client.get("/s"))["etag"]}
    await client.post("/s", stream_closed="true")
    tags.add((await client.get("/s"))["etag"])
    await client.delete("/s")
    clock.time += 1
    await client.put("/s", b"data")
    tags.add((await client.get("/s"))["etag"])
    assert len(tags) == 3


async def test_only_what_cannot_change_is_left_to_caches(client: Client, tmp_path: Path) -> None:
    await client.put("/s", b"data")
    assert (await client.get("/s"))["cache-control"] == "no-cache"
    assert (await client.get("/s?offset=now"))["cache-control"] == "no-store"
    await client.post("/s", stream_closed="true")
    assert (await client.get("/s"))["cache-control"] == "public, max-age=60"


async def test_a_long_stream_is_read_in_responses_that_end_where_a_piece_does(tmp_path: Path) -> None:
    settings = store_settings(piece_bytes=10, response_bytes=25, step_bytes=10, tail_bytes=0)
    body = bytes(range(100))
    async with opened(tmp_path, settings) as (_, client):
        await client.put("/s", body)
        read, offset, answers = b"", "-1", 0
        while True:
            answer = await client.get(f"/s?offset={offset}")
            read += answer.body
            offset = answer.offset
            answers += 1
            if answer["stream-up-to-date"]:
                break
            assert answer["stream-closed"] is None
            assert 25 <= len(answer.body) < 35
        assert (read, answers) == (body, 4)


async def test_a_long_json_stream_is_read_in_whole_arrays(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(piece_bytes=10, response_bytes=25, step_bytes=10, tail_bytes=0)) as (
        _,
        client,
    ):
        await client.put("/s", json.dumps(list(range(1000, 1040))).encode(), content_type="application/json")
        values: list[int] = []
        offset = "-1"
        for _ in range(100):
            response = await client.send("GET", f"/s?offset={offset}")
            assert response.body.length is not None
            taken = b""
            while parts := await response.body.take():
                taken += b"".join(parts)
            assert len(taken) == response.body.length
            values += json.loads(taken)
            offset = (response.headers.get(b"stream-next-offset") or b"").decode()
            if b"stream-up-to-date" in response.headers:
                break
        assert values == list(range(1000, 1040))


async def test_bytes_may_be_read_from_any_position(client: Client) -> None:
    await client.put("/s", b"hello")
    await client.post("/s", b" world")
    for position in range(12):
        assert (await client.get(f"/s?offset=0_{position}")).body == b"hello world"[position:]


async def test_an_offset_past_the_end_reads_nothing(client: Client) -> None:
    await client.put("/s", b"hello")
    answer = await client.get("/s?offset=0_99")
    assert (answer.status, answer.body, answer["stream-up-to-date"]) == (200, b"", "true")
    assert answer.offset.endswith("5")


async def test_what_is_being_read_breaks_off_when_the_stream_is_removed(tmp_path: Path) -> None:
    settings = store_settings(piece_bytes=1000, step_bytes=1000, tail_bytes=0)
    async with opened(tmp_path, settings) as (_, client):
        await client.put("/s", b"x" * 100_000)
        response = await client.send("GET", "/s")
        await response.body.take()
        await client.delete("/s")
        with pytest.raises(BodyError):
            await response.body.take()


async def test_a_stream_that_is_closed_at_its_creation_takes_nothing(client: Client) -> None:
    created = await client.put("/s", b"all", stream_closed="true")
    assert (created.status, created["stream-closed"]) == (201, "true")
    assert (await client.post("/s", b"more")).status == 409
    assert (await client.put("/s", stream_closed="true")).status == 200
    assert (await client.put("/s")).status == 409


async def test_two_creates_at_once_make_one_stream(client: Client) -> None:
    answers = await asyncio.gather(*(client.put("/s", b"x", **TEXT) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert (await client.get("/s")).body == b"x"


async def test_two_deletes_at_once_both_succeed_and_the_path_is_free(client: Client) -> None:
    await client.put("/s", b"old")
    answers = await asyncio.gather(client.delete("/s"), client.delete("/s"), client.put("/s", b"new"))
    assert {answer.status for answer in answers[:2]} <= {204, 404}
    assert (await client.put("/s", b"new")).status in (200, 201)


async def test_appends_and_a_delete_at_once_leave_no_stream(client: Client) -> None:
    await client.put("/s")
    appends = [client.post("/s", b"x") for _ in range(20)]
    answers = await asyncio.gather(*appends[:10], client.delete("/s"), *appends[10:])
    assert {answer.status for answer in answers} <= {204, 404}
    assert (await client.head("/s")).status == 404


async def test_after_the_store_is_closed_requests_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/s", b"x")
    for method in ("PUT", "POST", "GET", "HEAD", "DELETE"):
        assert (await client.call(method, "/s")).status == 503


@pytest.mark.parametrize("field", ["content_type", "producer_id", "stream_seq", "stream_expires_at"])
async def test_a_field_that_would_be_kept_is_bounded(client: Client, field: str) -> None:
    await client.put("/s", content_type="text/plain")
    fields = {"content_type": "text/plain", "producer_id": "p", "producer_epoch": "0", "producer_seq": "0"}
    long = "text/" + "x" * 251
    if field != "stream_expires_at":
        assert (await client.post("/s", b"x", **{**fields, field: long})).status == 400
        assert (await client.post("/s", b"x", **{**fields, field: long[:-1]})).status in (200, 409)
    if field in ("content_type", "stream_expires_at"):
        assert (await client.put("/t", **{field: long})).status == 400
        assert (await client.head("/t")).status == 404


async def test_a_refused_stream_seq_is_named_by_the_word_that_clients_know_it_by(client: Client) -> None:
    await client.put("/s", content_type="text/plain")
    await client.post("/s", b"x", content_type="text/plain", stream_seq="2")
    answer = await client.post("/s", b"x", content_type="text/plain", stream_seq="1")
    assert answer.status == 409
    assert b"sequence" in answer.body
