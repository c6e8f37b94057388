"""Create: the order of its checks, what it costs the upstream, and what is left when it does not come to a 201."""

import asyncio
import itertools
from pathlib import Path

import pytest

from proxy.http.message import Handler, Request
from proxy.store import EmbeddedStore
from tests.handlers.kit import SECRET, code, path_of, running
from tests.kit.handlers import Failing, Recording, Slow, answer, lost
from tests.kit.loop_peers import Peer, origin
from tests.kit.upstream import GATE, HANG, Part, Route, Upstream, chunked, fixed, head
from tests.kit.waiting import SOON, until


async def wait_cut(route: Route) -> None:
    """The upstream runs in a thread of its own, but its client is in this loop."""
    await asyncio.to_thread(route.wait_cut)


async def test_checks_come_in_the_protocol_s_order_and_nothing_is_sent_before_all_hold(
    tmp_path: Path, upstream: Upstream
) -> None:
    route = upstream.serve(fixed(b"x"))
    good = {
        "authorization": f"Bearer {SECRET}",
        "upstream_url": route.url,
        "upstream_method": "post",
        "idempotency_key": "k",
    }
    bad = {
        "authorization": ("Bearer wrong", (401, "INVALID_SECRET")),
        "upstream_url": ("http://elsewhere.invalid/", (403, "UPSTREAM_NOT_ALLOWED")),
        "upstream_method": ("BREW", (400, "INVALID_UPSTREAM_METHOD")),
        "idempotency_key": ("k" * 256, (400, "INVALID_REQUEST")),
    }
    missing = {
        "authorization": (401, "MISSING_SECRET"),
        "upstream_url": (400, "MISSING_UPSTREAM_URL"),
        "upstream_method": (400, "MISSING_UPSTREAM_METHOD"),
    }
    order = [
        ("authorization", missing["authorization"], None),
        ("authorization", bad["authorization"][1], bad["authorization"][0]),
        ("upstream_url", missing["upstream_url"], None),
        ("upstream_method", missing["upstream_method"], None),
        ("upstream_method", bad["upstream_method"][1], bad["upstream_method"][0]),
        ("upstream_url", bad["upstream_url"][1], bad["upstream_url"][0]),
        ("idempotency_key", bad["idempotency_key"][1], bad["idempotency_key"][0]),
    ]
    async with running(tmp_path) as house:
        for (one, first, value), (other, _, other_value) in itertools.combinations(order, 2):
            if one == other:
                continue
            headers = dict(good)
            for name, changed in ((one, value), (other, other_value)):
                if changed is None:
                    del headers[name]
                else:
                    headers[name] = changed
            assert code(await house.client.call("POST", "/v1/proxy", b"", **headers)) == first
        assert route.count == 0
        created = await house.client.call("POST", "/v1/proxy/", b"", **good)
        assert (created.status, created["cache-control"], created["upstream-status"]) == (201, "no-store", "200")
        assert (await house.whole(path_of(created))).body == b"x"


async def test_the_stream_and_its_record_are_there_when_the_answer_is(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        created = await house.create(upstream.serve(chunked(b"one", GATE)).url)
        stream_id = path_of(created).rpartition("/")[2]
        for name in (stream_id, f"{stream_id}.record"):
            assert isinstance(house._store, EmbeddedStore)
            assert (await house.get(f"/v1/proxy/{stream_id}")).status == 200
            assert await house.transfers._desk.storage.head(name) is not None


@pytest.mark.parametrize("what", ["", ".record"])
async def test_storage_that_cannot_make_the_stream_cuts_the_upstream(
    tmp_path: Path, upstream: Upstream, what: str
) -> None:
    def failing(handler: Handler) -> Handler:
        failing = Failing(handler, when=lambda r: r.method == b"PUT" and r.target.endswith(b".record") is bool(what))
        failing.always = answer(503)
        return failing

    async with running(tmp_path, failing, storage_timeout_seconds=0.3) as house:  # how long a create is retried
        route = upstream.serve(chunked(b"one", HANG))
        assert code(await house.create(route.url)) == (502, "STORAGE_ERROR")
        await wait_cut(route)
        await until(lambda: len(house.transfers) == 0)


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_caller_who_leaves_while_the_upstream_thinks_leaves_nothing(
    tmp_path: Path, upstream: Upstream, keyed: bool
) -> None:
    recordings: list[Recording] = []

    def recorded(handler: Handler) -> Handler:
        recordings.append(Recording(handler))
        return recordings[0]

    async with running(tmp_path, recorded) as house:
        route = upstream.serve([HANG], fixed(b"second"))
        headers: dict[str, str] = {"idempotency_key": "key"} if keyed else {}
        calling = asyncio.ensure_future(house.create(route.url, b"", **headers))
        await asyncio.to_thread(route.wait_requests)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await wait_cut(route)
        await house._keys.aclose()
        assert isinstance(house._store, EmbeddedStore)
        assert [path for path in await house._store.open_streams("", 10) if "_proxy/keys" not in path] == []
        second = await house.create(route.url, b"", **headers)  # the key is free again
        assert (second.status, route.count) == (201, 2)


async def test_a_caller_who_leaves_while_storage_is_slow_leaves_nothing(tmp_path: Path, upstream: Upstream) -> None:
    slows: list[Slow] = []

    def slowed(handler: Handler) -> Handler:
        slows.append(Slow(handler, when=lambda r: r.method == b"PUT" and b"_proxy/" not in r.target))
        return slows[0]

    async with running(tmp_path, slowed) as house:
        route = upstream.serve(chunked(b"one", HANG), fixed(b"second"))
        calling = asyncio.ensure_future(house.create(route.url, idempotency_key="key"))
        await slows[0].arrived.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        slows[0].open()
        await wait_cut(route)
        second = await house.create(route.url, idempotency_key="key")
        assert second.status == 201
        assert (await house.whole(path_of(second))).body == b"second"


async def test_more_than_max_transfers_get_503_before_anything_is_sent(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path, max_transfers=1) as house:
        route = upstream.serve(chunked(b"one", GATE), fixed(b"two"))
        first = await house.create(route.url)
        refused = await house.create(route.url)
        assert code(refused) == (503, "OVERLOADED")
        assert refused["retry-after"] is not None
        assert route.count == 1
        route.release()
        await house.whole(path_of(first))
        assert (await house.create(route.url)).status == 201


async def test_a_request_body_counts_until_its_upstream_has_answered(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path, max_request_bytes=8, max_request_bytes_total=10) as house:
        thinking = upstream.serve([GATE, *chunked(b"one", HANG)], [GATE, *fixed(b"no", status=500)])
        quick = upstream.serve(*[fixed(b"yes")] * 4)
        for status in (201, 502):
            first = asyncio.ensure_future(house.create(thinking.url, b"12345678"))
            await asyncio.to_thread(thinking.wait_requests)
            refused = await house.create(quick.url, b"123")
            assert code(refused) == (503, "OVERLOADED")
            assert refused["retry-after"] is not None
            assert (await house.create(quick.url, b"12")).status == 201
            thinking.release()
            assert (await first).status == status
            assert (await house.create(quick.url, b"12345678")).status == 201
        assert quick.count == 4


@pytest.mark.parametrize("is_read", [True, False], ids=["read at last", "never read"])
async def test_a_request_body_counts_until_its_upstream_has_read_it_or_is_lost(
    tmp_path: Path, upstream: Upstream, is_read: bool
) -> None:
    size = 16 << 20
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nearly")
        await go_on.wait()
        if not is_read:
            peer.reset()
        await peer.exactly(size)
        await asyncio.sleep(SOON)

    quick = upstream.serve(fixed(b"yes"))
    async with (
        origin(script) as (_, address),
        running(tmp_path, max_request_bytes=size, max_request_bytes_total=size) as house,
    ):
        early = await house.create(f"http://localhost:{address.port}/", bytes(size))
        assert early.status == 201
        assert code(await house.create(quick.url, b"1")) == (503, "OVERLOADED")
        go_on.set()

        async def is_let_in() -> bool:
            return (await house.create(quick.url, b"1")).status != 503

        await until(is_let_in)
        assert (await house.create(quick.url, bytes(size))).status == 201


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "key"}], ids=["a connection", "another's call"])
async def test_a_body_that_waits_for_its_turn_counts(
    tmp_path: Path, upstream: Upstream, headers: dict[str, str]
) -> None:
    async with running(
        tmp_path, max_request_bytes=8, max_request_bytes_total=16, upstream_connections_per_origin=1
    ) as house:
        route = upstream.serve([HANG])
        calls = [asyncio.ensure_future(house.create(route.url, b"12345678", **headers)) for _ in range(2)]
        await asyncio.to_thread(route.wait_requests)
        assert code(await house.create(route.url, b"1")) == (503, "OVERLOADED")
        assert route.count == 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (await house.create(upstream.serve(fixed(b"yes")).url, b"12345678")).status == 201


async def test_while_draining_nothing_is_sent_upstream_and_health_says_so(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        route = upstream.serve(fixed(b"x"))
        assert (await house.client.get("/health")).body == b'{"status":"ok"}'
        await house.transfers.drain(1)
        refused = await house.create(route.url)
        assert code(refused) == (503, "DRAINING")
        assert refused["retry-after"] is not None
        health = await house.client.get("/health")
        assert (health.status, health.body) == (503, b'{"status":"draining"}')
        assert route.count == 0


async def test_a_place_comes_back_after_every_kind_of_refusal(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path, max_transfers=1, max_request_bytes=10, upstream_timeout_seconds=0.2) as house:
        cases = [
            (upstream.serve([head(302, ("Location", "/x"), ("Content-Length", "0"))]), b"", 400),
            (upstream.serve(fixed(b"no", status=404)), b"", 502),
            (upstream.serve([HANG]), b"", 504),
            (upstream.serve([b"nonsense\r\n\r\n", HANG]), b"", 502),
            (upstream.serve(fixed(b"")), b"x" * 11, 413),
        ]
        for route, body, status in cases:
            assert (await house.create(route.url, body)).status == status
        assert (await house.create(upstream.serve(fixed(b"x")).url)).status == 201


async def test_an_error_s_body_is_cut_off_when_its_caller_leaves(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        error: list[Part] = [head(500, ("Content-Type", "text/plain"), ("Content-Length", "100")) + b"why", HANG]
        route = upstream.serve(error)
        calling = asyncio.ensure_future(house.create(route.url))
        await asyncio.to_thread(route.wait_requests)
        await until(lambda: len(house._pools.upstream) > 0)
        await asyncio.sleep(0.1)  # the head arrives; if it has not yet, this tests the wait for the head
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await wait_cut(route)
        assert len(house._pools.upstream) == 0


# Idempotency-Key


async def test_two_at_once_are_one_upstream_call_and_a_failure_frees_the_key(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with running(tmp_path) as house:
        route = upstream.serve([GATE, *fixed(b"no", status=500)], [GATE, *fixed(b"yes")])
        calls = [asyncio.ensure_future(house.create(route.url, b"q", idempotency_key="key")) for _ in range(3)]
        await asyncio.to_thread(route.wait_requests)
        conflict = await house.create(route.url, b"another question", idempotency_key="key")
        assert code(conflict) == (409, "IDEMPOTENCY_CONFLICT")
        route.release(2)
        answers = await asyncio.gather(*calls)
        assert sorted(answered.status for answered in answers) == [200, 201, 502]
        assert route.count == 2
        replay = await house.create(route.url, b"q", idempotency_key="key")
        paths = {path_of(answered) for answered in [*answers, replay] if answered.status != 502}
        assert len(paths) == 1
        assert (replay.status, replay["idempotent-replay"], replay["upstream-status"]) == (200, "true", "200")
        assert (await house.whole(paths.pop())).body == b"yes"
        for other in (b"p", b""):
            assert code(await house.create(route.url, other, idempotency_key="key")) == (409, "IDEMPOTENCY_CONFLICT")
        assert (await house.create(route.url, b"q", idempotency_key="key", upstream_method="PUT")).status == 409
        assert route.count == 2


async def test_with_a_key_storage_is_asked_before_the_upstream(tmp_path: Path, upstream: Upstream) -> None:
    def failing(handler: Handler) -> Handler:
        failing = Failing(handler)
        failing.always = lost()
        return failing

    async with running(tmp_path, failing) as house:
        route = upstream.serve(fixed(b"x"))
        answer = await house.create(route.url, idempotency_key="key")
        assert (code(answer), answer["retry-after"]) == ((503, "STORAGE_UNAVAILABLE"), "1")
        assert route.count == 0


async def test_after_a_delete_the_key_makes_a_new_call(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        route = upstream.serve(chunked(b"one", HANG), fixed(b"two"))
        first = await house.create(route.url, idempotency_key="key")
        deleted = await house.client.call("DELETE", f"{path_of(first)}?secret={SECRET.replace(' ', '%20')}")
        assert deleted.status == 204
        await wait_cut(route)
        second = await house.create(route.url, b"another", idempotency_key="key")
        assert second.status == 201
        assert (await house.whole(path_of(second))).body == b"two"


def _puts(request: Request) -> bool:
    return request.method == b"PUT"


@pytest.mark.parametrize("times", [1, 2])
async def test_lost_answers_to_the_creating_requests_cost_nothing(
    tmp_path: Path, upstream: Upstream, times: int
) -> None:
    def failing(handler: Handler) -> Handler:
        return Failing(handler, when=_puts).then(lost(), times=times, after=True)

    async with running(tmp_path, failing) as house:
        route = upstream.serve(fixed(b"x"))
        created = await house.create(route.url, idempotency_key="key")
        assert created.status == 201
        assert (await house.whole(path_of(created))).body == b"x"
        assert route.count == 1
