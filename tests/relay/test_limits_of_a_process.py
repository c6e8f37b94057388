"""A proxy process with small limits and short time-outs: what each of them does to a stream, seen from outside."""

import itertools
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.caller import Caller, Stream, code
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess
from tests.kit.relay import Cut, Relay, Way
from tests.kit.upstream import (
    FIN,
    GATE,
    HANG,
    Part,
    Script,
    Upstream,
    chunked,
    endless,
    fixed,
    head,
    sse_event,
    until_close,
)

SECRET = "the service secret"
LIMIT = 1000
ALLOW = ["--allow", "http://localhost:*/**"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def storage() -> Iterator[NpmStorage]:
    with NpmStorage() as storage:
        yield storage


def running(storage_url: str, *args: str) -> ProxyProcess:
    """A proxy on this storage."""
    return ProxyProcess([*ALLOW, "--durable-streams-url", storage_url, *args], env={"PROXY_SECRET": SECRET})


@pytest.fixture(scope="module")
def strict(storage: NpmStorage) -> Iterator[Caller]:
    """A caller of a proxy in which everything is small or short."""
    small = ["--max-response-bytes", str(LIMIT), "--max-request-bytes", str(LIMIT), "--url-expiration-seconds", "1"]
    short = [
        "--upstream-timeout-seconds",
        "0.5",
        "--inactivity-timeout-seconds",
        "0.5",
        "--max-transfer-seconds",
        "1.5",
    ]
    with running(storage.url, *small, *short) as proxy:
        caller = Caller(proxy.url, SECRET)
        yield caller
        caller.http.close()
        assert "Traceback" not in proxy.output, proxy.output


def by_secret(stream: Stream) -> Stream:
    """The same stream, read with the service secret: its signature may have expired."""
    return Stream(stream.caller, f"{stream.path}?secret={SECRET.replace(' ', '%20')}")


# Sizes


@pytest.mark.parametrize("framing", ["fixed", "chunked", "until close"])
def test_a_body_of_exactly_the_limit_is_complete(strict: Caller, upstream: Upstream, framing: str) -> None:
    data = bytes(range(250)) * 4
    scripts: dict[str, Script] = {
        "fixed": fixed(data),
        "chunked": chunked(data[:1], data[1:]),
        "until close": until_close(data),
    }
    stream = strict.create(upstream.serve(scripts[framing]).url)
    assert by_secret(stream).whole()[:2] == (data, "complete")


@pytest.mark.parametrize("sizes", [[1001], [999, 2], [1000, 1], [1] * 1001, [500, 500, 500]])
@pytest.mark.parametrize("framing", ["chunked", "until close"])
def test_a_longer_body_is_cut_at_exactly_the_limit(
    strict: Caller, upstream: Upstream, framing: str, sizes: list[int]
) -> None:
    data = (bytes(range(250)) * 8)[: sum(sizes)]
    ends = list(itertools.accumulate(sizes))
    parts = [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    script = chunked(*parts, HANG) if framing == "chunked" else until_close(*parts, HANG)
    route = upstream.serve(script)
    stream = strict.create(route.url)
    assert by_secret(stream).whole()[:2] == (data[:LIMIT], "truncated")
    assert stream.head().headers["upstream-outcome"] == "truncated"
    route.wait_cut()


def test_an_endless_body_is_cut_and_its_connection_closed(strict: Caller, upstream: Upstream) -> None:
    route = upstream.serve(endless(b"x" * 64))
    stream = strict.create(route.url)
    assert by_secret(stream).whole()[:2] == (b"x" * LIMIT, "truncated")
    route.wait_cut()


def test_a_declared_length_over_the_limit_is_refused_and_stores_nothing(strict: Caller, upstream: Upstream) -> None:
    route = upstream.serve([head(200, ("Content-Length", str(LIMIT + 1))), HANG])
    assert code(strict.post(route.url)) == (502, "RESPONSE_TOO_LARGE")
    route.wait_cut()


@pytest.mark.parametrize("by_chunks", [False, True])
def test_a_request_body_over_the_limit_is_refused_before_the_upstream_is_dialled(
    strict: Caller, upstream: Upstream, by_chunks: bool
) -> None:
    route, accepted = upstream.serve(fixed()), upstream.accepted
    too_large = b"x" * (LIMIT + 1)
    answer = strict.post(route.url, content=iter([too_large[:500], too_large[500:]]) if by_chunks else too_large)
    assert code(answer) == (413, "REQUEST_TOO_LARGE")
    assert (route.count, upstream.accepted) == (0, accepted)
    assert strict.create(route.url, content=b"x" * LIMIT)


# Times


def test_an_upstream_without_a_head_in_time_is_a_timeout(strict: Caller, upstream: Upstream) -> None:
    route = upstream.serve([HANG])
    assert code(strict.post(route.url)) == (504, "UPSTREAM_TIMEOUT")
    assert route.count == 1
    route.wait_cut()


def test_a_head_that_drips_is_a_timeout_too(strict: Caller, upstream: Upstream) -> None:
    drip: Iterator[Part] = itertools.cycle([b"X-Slow: 1\r\n", 0.05])
    route = upstream.serve(lambda _: itertools.chain([b"HTTP/1.1 200 OK\r\n"], drip))
    assert code(strict.post(route.url)) == (504, "UPSTREAM_TIMEOUT")
    route.wait_cut()


@pytest.mark.parametrize("before", [[], [b"so far"]])
def test_a_body_that_falls_silent_ends_as_timeout(strict: Caller, upstream: Upstream, before: list[bytes]) -> None:
    route = upstream.serve(chunked(*before, HANG))
    stream = by_secret(strict.create(route.url))
    with strict.http.stream("GET", f"{stream.url}&offset=-1&live=sse") as live:
        assert '"upstreamOutcome":"timeout"' in live.read().decode().replace(" ", "")
    assert stream.whole()[:2] == (b"".join(before), "timeout")
    route.wait_cut()


def test_a_transfer_that_never_ends_ends_as_timeout(strict: Caller, upstream: Upstream) -> None:
    route = upstream.serve(lambda _: itertools.chain([until_close()[0]], itertools.cycle([b".", 0.1])))
    data, outcome, _ = by_secret(strict.create(route.url)).whole()
    route.wait_cut()
    assert outcome == "timeout"
    assert data
    assert data == b"." * len(data)


def test_a_genuine_url_that_has_expired_is_called_so(strict: Caller, upstream: Upstream) -> None:
    stream = strict.create(upstream.serve(fixed(b"x")).url)
    while time.time() <= int(stream.signed["expires"]):
        time.sleep(0.05)  # the wall clock is what is waited for
    assert code(stream.get()) == (401, "SIGNATURE_EXPIRED")
    assert code(stream.abort()) == (401, "SIGNATURE_EXPIRED")
    assert code(stream.get(signature="A" * 43)) == (401, "SIGNATURE_INVALID")
    assert strict.http.get(stream.path, headers=strict.bearer).content == b"x"


# Numbers, origins, URLs


@pytest.fixture(scope="module")
def other(storage: NpmStorage) -> Iterator[Caller]:
    """A caller of a proxy with room for two transfers, one origin and a public URL."""
    origin = ["--cors-origin", "https://app.example.com", "--cors-origin", "https://b.example.com:8443"]
    public = ["--public-url", "https://proxy.example.com/base"]
    with running(storage.url, "--max-transfers", "2", *origin, *public) as proxy:
        caller = Caller(proxy.url, SECRET)
        yield caller
        caller.http.close()


def test_more_streams_than_there_is_room_for_are_refused_at_once(other: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    first, second = [Stream(other, other.create(route.url).path) for _ in range(2)]
    refused = other.post(route.url)
    assert code(refused) == (503, "OVERLOADED")
    assert int(refused.headers["retry-after"]) > 0
    assert route.count == 2
    assert other.http.delete(f"/v1/proxy/{first.id}", headers=other.bearer).status_code == 204
    assert other.post(route.url).status_code == 201
    assert other.http.delete(f"/v1/proxy/{second.id}", headers=other.bearer).status_code == 204


def test_the_location_is_absolute_when_the_public_url_is_known(other: Caller, upstream: Upstream) -> None:
    answer = other.post(upstream.serve(fixed()).url)
    assert answer.headers["location"].startswith("https://proxy.example.com/base/v1/proxy/")


@pytest.mark.parametrize("origin", ["https://app.example.com", "https://b.example.com:8443"])
def test_a_configured_origin_is_let_in_by_name(other: Caller, origin: str) -> None:
    for answer in (
        other.http.get("/health", headers={"Origin": origin}),
        other.http.options("/v1/proxy", headers={"Origin": origin}),
        other.post(None, headers={"Origin": origin}),
    ):
        assert answer.headers.get_list("access-control-allow-origin") == [origin]
        assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.com.evil.example", "null", None])
def test_another_origin_is_not_let_in(other: Caller, origin: str | None) -> None:
    answer = other.http.get("/health", headers={} if origin is None else {"Origin": origin})
    assert answer.headers.get("access-control-allow-origin") != "*"
    assert answer.headers.get("access-control-allow-origin") != origin or origin is None
    assert "origin" in answer.headers["vary"].lower()


# Storage in trouble


@pytest.fixture
def relayed(storage: NpmStorage) -> Iterator[tuple[Caller, Relay]]:
    """A caller of a proxy whose storage is behind a relay."""
    with (
        Relay(storage.url) as relay,
        running(relay.url, "--storage-timeout-seconds", "2", "--append-budget-seconds", "3") as proxy,
    ):
        caller = Caller(proxy.url, SECRET)
        yield caller, relay
        caller.http.close()
        assert "Traceback" not in proxy.output, proxy.output


def test_without_storage_every_operation_says_so_and_the_upstream_is_let_go(
    relayed: tuple[Caller, Relay], upstream: Upstream
) -> None:
    caller, relay = relayed
    stream = caller.create(upstream.serve(fixed(b"x")).url)
    stream.whole()
    relay.refuse()
    relay.cut_all()
    route = upstream.serve(chunked(b"one", HANG))
    assert code(caller.post(route.url)) == (502, "STORAGE_ERROR")
    route.wait_cut()
    assert code(stream.get()) == (502, "STORAGE_ERROR")
    assert code(stream.delete()) == (502, "STORAGE_ERROR")
    assert stream.head().status_code == 502
    relay.refuse(False)
    assert stream.whole()[:2] == (b"x", "complete")


def test_a_cut_connection_to_storage_costs_no_byte_and_doubles_none(
    relayed: tuple[Caller, Relay], storage: NpmStorage, upstream: Upstream
) -> None:
    caller, relay = relayed
    tokens = [sse_event(f"token {number}") for number in range(12)]
    route = upstream.serve(chunked(*(step for token in tokens for step in (token, GATE))))
    created = caller.create(route.url)
    with running(storage.url) as reading:  # the reader's own way to storage is not cut
        stream = Stream(Caller(reading.url, SECRET), created.url)
        for number in range(len(tokens)):
            stream.until(b"".join(tokens[: number + 1]))
            way = Way.TO_CLIENT if number % 2 else Way.TO_SERVER
            relay.cut_open(Cut(way, number * 20, "rst" if number % 3 else "fin"))
            route.release()
        assert stream.whole()[:2] == (b"".join(tokens), "complete")
        stream.caller.http.close()
    assert (route.count, route.cuts) == (1, 0)
    assert relay.cuts_made > 0


def test_storage_that_stays_away_ends_the_stream_as_storage_error(
    relayed: tuple[Caller, Relay], upstream: Upstream
) -> None:
    caller, relay = relayed
    route = upstream.serve(chunked(b"one", GATE, b"two", HANG))
    stream = caller.create(route.url)
    stream.until(b"one")
    relay.refuse()
    relay.cut_all()
    route.release()
    route.wait_cut()
    relay.refuse(False)
    assert stream.whole()[:2] == (b"one", "storage_error")


def test_a_read_that_storage_breaks_off_is_broken_off_too(relayed: tuple[Caller, Relay], upstream: Upstream) -> None:
    caller, relay = relayed
    stream = caller.create(upstream.serve(chunked(b"one", HANG)).url)
    with stream.live() as live:
        live.until(b"one")
        relay.refuse()
        relay.cut_all()
        with pytest.raises(httpx.RemoteProtocolError):
            live.to_end()


# Restart, and two on one storage


def test_what_one_proxy_stored_any_other_can_tell(storage: NpmStorage, upstream: Upstream) -> None:
    scripts: dict[str, Script] = {
        "complete": fixed(b"whole", content_type="text/x-special"),
        "upstream_error": [head(200, ("Content-Type", "text/x-special"), ("Content-Length", "9")) + b"short", FIN],
    }
    key = {"Idempotency-Key": f"{storage.url} {upstream.port}"}
    with running(storage.url) as first, running(storage.url) as second:
        one, two = Caller(first.url, SECRET), Caller(second.url, SECRET)
        for outcome, script in scripts.items():
            route = upstream.serve(script)
            created = one.create(route.url)
            here, there = created.whole(), Stream(two, created.url).whole()
            assert here[:2] == there[:2]
            assert there.outcome == outcome
            assert there.last.headers["upstream-content-type"] == "text/x-special"
        route = upstream.serve(chunked(b"one", GATE))
        stream = one.create(route.url, headers=key)
        replay = two.post(route.url, headers=key)
        assert (replay.status_code, replay.headers["idempotent-replay"]) == (200, "true")
        assert two.stream(replay).id == stream.id
        assert two.post(route.url, headers=key, content=b"other").status_code == 409
        route.release()
        assert two.stream(replay).whole()[:2] == (b"one", "complete")
        assert route.count == 1
        first.stop()
        one.http.close()
        assert Stream(two, stream.url).whole()[:2] == (b"one", "complete")
        two.http.close()
