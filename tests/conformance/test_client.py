"""The Python client, against any proxy: what it asks, what answers become, resuming, aborting, errors told apart."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from proxy.client import (
    DurableFetch,
    FileStorage,
    IncompleteStream,
    Live,
    MemoryStorage,
    Outcome,
    ProxyError,
    Retry,
    Timeouts,
    create_abort,
    create_async_durable_fetch,
    create_durable_fetch,
    durable_request,
)
from proxy.client.httpx2 import DurableTransport
from tests.conformance.caller import Caller, claims, jwt
from tests.kit import oracle
from tests.kit.relay import Cut, Relay, Way
from tests.kit.scripts import GATE, HANG, RESET, chunked, echo, fixed, sse, until_close
from tests.kit.upstream import Upstream

pytestmark = pytest.mark.http1_only  # the client chooses its version by itself

QUICK = Retry(reads=8, first_delay=0.01, max_delay=0.1)
PATIENT = Timeouts(answer=15, data=15)  # seconds: a test may fail, but never hang
Connect = Callable[..., DurableFetch]


@pytest.fixture
def connect(caller: Caller) -> Iterator[Connect]:
    """Makes durable fetches to the proxy."""
    made: list[DurableFetch] = []

    def connect(proxy_url: str | None = None, **options: object) -> DurableFetch:
        defaults: dict[str, object] = {"proxy_authorization": caller.secret, "retry": QUICK, "timeouts": PATIENT}
        made.append(create_durable_fetch(proxy_url or caller.url, **(defaults | options)))  # type: ignore[arg-type]  # any
        return made[-1]

    yield connect
    for fetch in made:
        fetch.close()


@pytest.fixture
def fetch(connect: Connect) -> DurableFetch:
    """A durable fetch with default options."""
    return connect()


def fresh_id() -> str:
    return f"conformance-{uuid.uuid4()}"


# A request and its answer


def test_an_answer_comes_as_the_upstream_sent_it(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"data: 1\n\n", b"\x00\xff\n", content_type="text/event-stream; charset=utf-8"))
    with fetch(route.url, json={"q": 1}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.read() == b"data: 1\n\n\x00\xff\n"
        assert (response.outcome, response.was_resumed) == (Outcome.COMPLETE, False)
    assert route.count == 1


def test_pieces_arrive_while_the_upstream_still_speaks(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    pieces = fetch(route.url).iter_bytes()
    assert next(pieces) == b"one"
    route.release()
    assert b"".join(pieces) == b"two"


def test_everything_given_is_aimed_at_the_upstream(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(echo)
    headers = [("Authorization", "Bearer sk-1"), ("X-Twice", "1"), ("X-Twice", "2"), ("Content-Type", "text/csv")]
    fetch(f"{route.url}?a=%2F", method="PUT", headers=headers, content=b"\x00body").read()
    (seen,) = route.requests
    assert (seen.method, seen.body) == (b"PUT", b"\x00body")
    assert seen.target.endswith(b"?a=%2F")
    assert (seen.get("authorization"), seen.get("content-type")) == ("Bearer sk-1", "text/csv")
    assert seen.get_all("x-twice") == ["1", "2"]
    assert not [name for name, _ in seen.headers if name.lower().startswith((b"upstream-", b"durable-"))]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_method_goes_through(fetch: DurableFetch, upstream: Upstream, method: str) -> None:
    route = upstream.serve(fixed(b"ok"))
    assert fetch(route.url, method=method.lower()).read() == b"ok"
    assert route.requests[0].method == method.encode()


def test_an_empty_answer_is_whole(fetch: DurableFetch, upstream: Upstream) -> None:
    assert fetch(upstream.serve(fixed(b"")).url).read() == b""


@pytest.mark.parametrize("live", Live)
def test_a_large_answer_is_identical_either_way_of_waiting(connect: Connect, upstream: Upstream, live: Live) -> None:
    size = 2_000_000
    body = b"".join(oracle.pieces(1, 7, size // oracle.SIZE))
    route = upstream.serve(chunked(*(body[at : at + 9999] for at in range(0, len(body), 9999))))
    oracle.check(connect(retry=Retry(live=live))(route.url).read(), 1, 7, length=len(body))


async def test_the_asynchronous_fetch_does_the_same(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    async with (
        create_async_durable_fetch(caller.url, proxy_authorization=caller.secret) as fetch,
        await fetch(route.url) as response,
    ):
        pieces = response.iter_bytes()
        assert await anext(pieces) == b"one"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(pieces), 0.05)
        route.release()
        assert await response.read() == b"two"
        assert response.outcome is Outcome.COMPLETE


def test_a_json_web_token_in_place_of_the_secret(connect: Connect, caller: Caller, upstream: Upstream) -> None:
    fetch = connect(proxy_authorization=lambda: jwt(caller.secret, claims()))
    assert fetch(upstream.serve(fixed(b"ok")).url).read() == b"ok"


# Errors


def test_an_upstreams_error_stays_a_response(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(fixed(b'{"e": 1}', ("Retry-After", "7"), status=429, content_type="application/json"))
    response = fetch(route.url)
    assert (response.status_code, response.read(), response.stream_url) == (429, b'{"e": 1}', None)
    assert (response.headers["retry-after"], response.headers["content-type"]) == ("7", "application/json")
    assert route.count == 1


def test_the_proxys_refusals_are_recognised_by_their_codes(
    connect: Connect, fetch: DurableFetch, upstream: Upstream
) -> None:
    def code(act: Callable[[], object]) -> str:
        with pytest.raises(ProxyError) as raised:
            act()
        return raised.value.code

    route = upstream.serve(fixed(b"no"))
    redirect = upstream.serve(fixed(b"", ("Location", "http://elsewhere.test/"), status=302))
    assert code(lambda: connect(proxy_authorization="wrong")(route.url)) == "INVALID_SECRET"
    assert code(lambda: fetch("https://not-allowed.test/")) == "UPSTREAM_NOT_ALLOWED"
    assert code(lambda: fetch(route.url, method="TRACE")) == "INVALID_UPSTREAM_METHOD"
    assert code(lambda: fetch(redirect.url)) == "REDIRECT_NOT_ALLOWED"
    assert code(lambda: fetch("http://localhost:1/")) == "UPSTREAM_ERROR"
    assert route.count == 0


def test_an_upstream_that_breaks_off_never_looks_whole(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"half", RESET))
    response = fetch(route.url)
    with pytest.raises(IncompleteStream) as raised:
        response.read()
    assert (raised.value.outcome, raised.value.bytes_read) == (Outcome.UPSTREAM_ERROR, 4)


def test_a_body_that_ends_with_its_connection_is_whole(fetch: DurableFetch, upstream: Upstream) -> None:
    assert fetch(upstream.serve(until_close(b"all")).url).read() == b"all"


# Resuming


def test_the_same_request_under_the_same_id_calls_the_upstream_once(connect: Connect, upstream: Upstream) -> None:
    storage, request_id = MemoryStorage(), fresh_id()
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    first = connect(storage=storage)(route.url, json=1, request_id=request_id)
    assert next(first.iter_bytes()) == b"one"
    first.close()
    route.release()
    second = connect(storage=storage)(route.url, json=1, request_id=request_id)
    assert (second.was_resumed, second.read()) == (True, b"onetwo")
    assert second.headers["content-type"] == "text/event-stream"
    assert route.count == 1


def test_from_the_offset_only_the_rest_comes(connect: Connect, upstream: Upstream) -> None:
    fetch, request_id = connect(resume_from="offset"), fresh_id()
    route = upstream.serve(chunked(b"one", GATE, b"two", GATE, b"three"))
    first = fetch(route.url, request_id=request_id)
    pieces = first.iter_bytes()
    assert next(pieces) == b"one"
    route.release()
    assert next(pieces) == b"two"
    first.close()
    route.release()
    second = fetch(route.url, request_id=request_id)
    assert second.read() == b"twothree"  # "two" was not consumed, because nothing asked for more after it
    assert route.count == 1


def test_another_request_under_the_same_id_is_another_call(fetch: DurableFetch, upstream: Upstream) -> None:
    request_id = fresh_id()
    route = upstream.serve(fixed(b"one"), fixed(b"two"))
    fetch(route.url, json=1, request_id=request_id).close()
    assert fetch(route.url, json=2, request_id=request_id).read() == b"two"
    assert route.count == 2


def test_after_the_end_the_same_request_is_another_call(fetch: DurableFetch, upstream: Upstream) -> None:
    request_id = fresh_id()
    route = upstream.serve(fixed(b"one"), fixed(b"two"))
    assert fetch(route.url, request_id=request_id).read() == b"one"
    assert fetch.resume(request_id) is None
    assert fetch(route.url, request_id=request_id).read() == b"two"


def test_a_stream_that_was_deleted_is_created_again(fetch: DurableFetch, caller: Caller, upstream: Upstream) -> None:
    request_id = fresh_id()
    route = upstream.serve(fixed(b"one"), fixed(b"two"))
    response = fetch(route.url, request_id=request_id)
    response.close()
    assert caller.http.delete(f"/v1/proxy/{response.stream_id}", headers=caller.bearer).status_code == 204
    assert fetch.resume(request_id) is None
    assert fetch(route.url, request_id=request_id).read() == b"two"


def test_another_process_reads_what_a_killed_one_asked_for(
    connect: Connect, caller: Caller, upstream: Upstream, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from proxy.client import FileStorage, create_durable_fetch\n"
        "proxy, secret, url, folder = sys.argv[1:]\n"
        "fetch = create_durable_fetch(proxy, proxy_authorization=secret, storage=FileStorage(folder))\n"
        "for piece in fetch(url, request_id='turn').iter_bytes():\n"
        "    print(len(piece), flush=True)\n"
    )
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    command = [sys.executable, "-c", script, caller.url, caller.secret, route.url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    assert line == "3\n"
    route.release()
    response = connect(storage=FileStorage(tmp_path))(route.url, request_id="turn")
    assert (response.was_resumed, response.read()) == (True, b"onetwo")
    assert route.count == 1


# Connections


def test_cut_connections_lose_and_repeat_nothing(connect: Connect, caller: Caller, upstream: Upstream) -> None:
    body = b"".join(oracle.pieces(2, 3, 400))
    route = upstream.serve(lambda _: chunked(*(body[at : at + 640] for at in range(0, len(body), 640))))
    handshake = 2000 if caller.url.startswith("https:") else 0  # bytes; within it no create could succeed
    with Relay(caller.url) as relay:
        fetch = connect(f"{relay.url}/v1/proxy", retry=Retry(reads=50, first_delay=0.0))
        for after in (900, 2500, 6000, 12_000, 30_000):
            relay.cut_next(*(Cut(Way.TO_CLIENT, handshake + after, how) for how in ("fin", "rst", "fin")))
            oracle.check(fetch(route.url).read(), 2, 3, length=len(body))
            relay.cut_all()
    assert route.count == 5


def test_a_create_whose_answer_is_lost_calls_the_upstream_once(
    connect: Connect, caller: Caller, upstream: Upstream
) -> None:
    with Relay(caller.url) as relay:
        for after in (0, 40, 200):
            route = upstream.serve(fixed(b"ok"))
            fetch = connect(f"{relay.url}/v1/proxy")
            relay.cut_next(Cut(Way.TO_CLIENT, after, "rst"))
            response = fetch(route.url)
            assert response.read() == b"ok"
            assert route.count == 1
            fetch.close()


# Aborting


def test_abort_cuts_the_upstream_and_the_answer_says_so(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    response = fetch(route.url)
    pieces = response.iter_bytes()
    assert next(pieces) == b"one"
    response.abort()
    route.wait_cut()
    with pytest.raises(IncompleteStream) as raised:
        next(pieces)
    assert raised.value.outcome is Outcome.ABORTED
    response.abort()


def test_create_abort_needs_only_the_streams_url(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    url = fetch(route.url).stream_url
    assert url is not None
    create_abort(url)()
    route.wait_cut()


def test_closing_early_aborts_what_nobody_can_resume(fetch: DurableFetch, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    with fetch(route.url) as response:
        assert next(response.iter_bytes()) == b"one"
    route.wait_cut()


def test_abort_by_id(fetch: DurableFetch, upstream: Upstream) -> None:
    request_id = fresh_id()
    route = upstream.serve(chunked(b"one", HANG))
    with fetch(route.url, request_id=request_id) as response:
        assert next(response.iter_bytes()) == b"one"
    assert route.cuts == 0
    assert fetch.abort(request_id)
    route.wait_cut()
    assert fetch.resume(request_id) is None


# The transport


def test_an_http_client_on_the_durable_transport(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(sse("a", "b"), fixed(b"slow down", status=429), chunked(b"half", RESET))
    transport = DurableTransport(caller.url, proxy_authorization=caller.secret, retry=QUICK)
    with httpx2.Client(transport=transport) as client:
        with durable_request(fresh_id()), client.stream("POST", route.url, json={"q": 1}) as response:
            assert [line for line in response.iter_lines() if line] == ['data: {"token": "a"}', 'data: {"token": "b"}']
        answer = client.post(route.url)
        assert (answer.status_code, answer.text) == (429, "slow down")
        with pytest.raises(httpx2.ReadError):
            client.post(route.url)
        refused = client.post("https://not-allowed.test/")
        assert (refused.status_code, refused.headers["durable-proxy-error"]) == (403, "UPSTREAM_NOT_ALLOWED")
    assert route.count == 3
