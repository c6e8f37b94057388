"""The life of a stream from its head to its outcome, and the answers that are about no stream at all."""

import threading
import uuid

import httpx
import pytest

from tests.conformance.caller import Caller, code
from tests.kit import oracle
from tests.kit.upstream import (
    FIN,
    GATE,
    LAST_CHUNK,
    RESET,
    Script,
    Upstream,
    chunk,
    chunked,
    fixed,
    head,
    sse,
    until_close,
)

CHUNKED = head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
TWENTY = b"0123456789abcdefghij"
LENGTH_9 = head(200, ("Content-Type", "text/plain"), ("Content-Length", "9"))

# How a body ends: what is stored, and why it ended


@pytest.mark.parametrize(
    ("script", "data"),
    [
        (fixed(b"whole"), b"whole"),
        (fixed(b""), b""),
        ([LENGTH_9[:20], LENGTH_9[20:], b"who", b"le...."], b"whole...."),
        (chunked(b"a", b"bc", b"def"), b"abcdef"),
        (chunked(), b""),
        ([CHUNKED, b"3;name=value\r\nabc\r\n", LAST_CHUNK], b"abc"),
        ([CHUNKED, b"0003\r\nabc\r\n", b"A\r\n0123456789\r\n", b"a\r\nabcdefghij\r\n", LAST_CHUNK], b"abc" + TWENTY),
        ([CHUNKED, *(bytes([byte]) for byte in chunk(b"one by one") + LAST_CHUNK)], b"one by one"),
        ([CHUNKED, chunk(b"abc"), b"0\r\nX-Trailer: dropped\r\n\r\n"], b"abc"),
        (until_close(b"to ", b"the end"), b"to the end"),
        (until_close(), b""),
        ([b"HTTP/1.0 200 OK\r\n\r\nold", FIN], b"old"),
    ],
    ids=[
        "fixed", "fixed and empty", "fixed in pieces", "chunked", "chunked and empty", "chunk extension", "chunk sizes",
        "byte by byte", "trailers", "until close", "until close and empty", "HTTP/1.0",
    ],
)  # fmt: skip
def test_a_body_that_ends_as_it_promised_is_complete(
    caller: Caller, upstream: Upstream, script: Script, data: bytes
) -> None:
    assert caller.create(upstream.serve(script).url).whole()[:2] == (data, "complete")


@pytest.mark.parametrize(
    ("script", "data"),
    [
        ([LENGTH_9 + b"short", FIN], b"short"),
        ([LENGTH_9 + b"short", RESET], b"short"),
        ([LENGTH_9, FIN], b""),
        ([CHUNKED, chunk(b"one"), FIN], b"one"),
        ([CHUNKED, chunk(b"one"), RESET], b"one"),
        ([CHUNKED, FIN], b""),
        ([CHUNKED, chunk(b"one"), b"9\r\ntwo", FIN], b"onetwo"),
        ([CHUNKED, chunk(b"one"), b"0\r\n", FIN], b"one"),
        ([CHUNKED, chunk(b"one"), b"xyz\r\n", FIN], b"one"),
        ([CHUNKED, chunk(b"one"), b"-1\r\n", FIN], b"one"),
        ([CHUNKED, chunk(b"one"), b"+3\r\ntwo\r\n", LAST_CHUNK], b"one"),
        ([CHUNKED, chunk(b"one"), b"0x3\r\ntwo\r\n", LAST_CHUNK], b"one"),
        ([CHUNKED, chunk(b"one"), b"3_3\r\ntwo\r\n", LAST_CHUNK], b"one"),
        ([CHUNKED, chunk(b"one"), b"fffffffffffffffff\r\ntwo", FIN], b"one"),
        ([CHUNKED, chunk(b"one"), b"3\ntwo\r\n", LAST_CHUNK], b"one"),
        ([CHUNKED, chunk(b"one"), b"\r\n" + LAST_CHUNK], b"one"),
    ],
    ids=[
        "short", "short and reset", "no byte", "no last chunk", "reset between chunks", "no chunk at all",
        "cut in a chunk", "cut in the last chunk", "no size", "negative size", "size with plus", "size with prefix",
        "size with underscore", "size of 17 digits", "bare LF", "empty size",
    ],
)  # fmt: skip
def test_a_body_that_breaks_its_promise_is_an_upstream_error_and_what_came_stays(
    caller: Caller, upstream: Upstream, script: Script, data: bytes
) -> None:
    stream = caller.create(upstream.serve(script).url)
    assert stream.whole()[:2] == (data, "upstream_error")
    assert stream.head().headers["upstream-outcome"] == "upstream_error"


def test_a_chunk_that_does_not_end_where_it_says_is_an_upstream_error(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve([CHUNKED, chunk(b"one"), b"3\r\ntwoX\r\n", LAST_CHUNK]).url)
    data, outcome, _ = stream.whole()
    assert data in (b"one", b"onetwo")
    assert outcome == "upstream_error"


def test_a_reset_of_a_body_without_framing_is_an_upstream_error(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([until_close()[0], b"one", GATE, RESET])
    stream = caller.create(route.url)
    stream.until(b"one")
    route.release()
    assert stream.whole()[:2] == (b"one", "upstream_error")


def test_bytes_after_the_bodys_end_are_no_part_of_it_and_end_the_connection(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([LENGTH_9 + b"nine bytes and more", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nFORGE"])
    assert caller.create(route.url).whole()[:2] == (b"nine byte", "complete")
    route.wait_closed()
    assert caller.create(upstream.serve(fixed(b"genuine")).url).whole().data == b"genuine"


@pytest.mark.parametrize("script", [[LENGTH_9 + b"a", RESET], [CHUNKED, chunk(b"a"), RESET]], ids=["fixed", "chunked"])
def test_a_live_reader_learns_of_the_break(caller: Caller, upstream: Upstream, script: list[bytes]) -> None:
    route = upstream.serve([script[0], GATE, *script[1:]])
    stream = caller.create(route.url)
    with stream.live() as live:
        route.release()
        assert live.to_end() == b"a"
    assert (live.controls[-1]["streamClosed"], live.controls[-1]["upstreamOutcome"]) == (True, "upstream_error")


def test_what_can_be_read_before_the_end_stays_readable_after_it(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(sse("one", GATE, "two"))
    stream = caller.create(route.url)
    first = b'data: {"token": "one"}\n\n'
    offset = stream.until(first)
    before = stream.get(offset="-1").content
    route.release()
    assert stream.whole(offset).data == b'data: {"token": "two"}\n\n'
    assert stream.whole().data.startswith(before)


def test_many_streams_at_once_do_not_mix(caller: Caller, upstream: Upstream) -> None:
    count, pieces = 12, 40
    routes = [upstream.serve(chunked(*oracle.pieces(3, number, pieces))) for number in range(count)]
    streams: dict[int, bytes] = {}

    def run(number: int) -> None:
        streams[number] = caller.create(routes[number].url).whole().data

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(streams) == list(range(count))
    for number, data in streams.items():
        oracle.check(data, 3, number, length=pieces * oracle.SIZE)


def test_upstream_connections_are_used_again_only_when_they_are_clean(caller: Caller, upstream: Upstream) -> None:
    whole = upstream.serve(fixed(b"x"))
    for _ in range(3):
        caller.create(whole.url).whole()
    broken = upstream.serve([*chunked(b"x")[:-1], b"zz\r\n"])
    caller.create(broken.url).whole()
    broken.wait_closed()
    assert not {seen.connection for seen in whole.requests[-1:]} & {seen.connection for seen in broken.requests[1:]}
    assert caller.create(whole.url).whole().data == b"x"
    assert not [stray for stray in upstream.strays if stray.startswith(b"malformed")]


# Answers about no stream


def test_health_is_for_anyone(caller: Caller) -> None:
    answer = caller.http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["content-type"].partition(";")[0] == "application/json"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/proxy", "/v1/proxyx", "/V1/proxy", "/healthz", "/health/", "/favicon.ico"]
)
def test_a_path_that_is_none_is_not_found(caller: Caller, path: str) -> None:
    assert code(caller.http.get(path, headers=caller.bearer)) == (404, "NOT_FOUND")


def test_a_stream_has_no_paths_below_it(caller: Caller) -> None:
    for path in ("/x", "/..", "/../x"):
        with caller.raw() as peer:
            fields = f"Host: {peer.host}\r\nAuthorization: {caller.bearer['Authorization']}"
            peer.send(f"GET /v1/proxy/{uuid.uuid4()}{path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            assert peer.response().status == 404


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/v1/proxy", "GET", {"POST"}),
        ("/v1/proxy", "PUT", {"POST"}),
        ("/v1/proxy", "DELETE", {"POST"}),
        ("/v1/proxy", "PATCH", {"POST"}),
        ("/v1/proxy/{id}", "POST", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/v1/proxy/{id}", "PUT", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/health", "POST", {"GET"}),
        ("/health", "DELETE", {"GET"}),
    ],
)
def test_a_known_path_tells_which_methods_it_has(caller: Caller, path: str, method: str, allowed: set[str]) -> None:
    answer = caller.http.request(method, path.format(id=uuid.uuid4()), headers=caller.bearer)
    assert code(answer) == (405, "METHOD_NOT_ALLOWED")
    assert {each.strip() for each in answer.headers["allow"].split(",")} >= allowed


def test_a_query_does_not_change_the_path(caller: Caller) -> None:
    assert caller.http.get("/health?x=/v1/proxy").status_code == 200


def test_errors_do_not_end_the_connection(caller: Caller) -> None:
    with caller.raw() as peer:
        for path, status in (("/nothing", 404), ("/v1/proxy", 405), ("/health", 200)):
            peer.send(f"GET {path} HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
            assert peer.response().status == status


def test_pipelined_requests_are_answered_in_order(caller: Caller) -> None:
    with caller.raw() as peer:
        get = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
        peer.send("".join(get.format(path) for path in ("/health", "/nothing", "/health")).encode())
        assert [peer.response().status for _ in range(3)] == [200, 404, 200]


def test_the_body_of_a_refused_create_is_not_the_next_request(caller: Caller) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with caller.raw() as peer:
        peer.send(b"POST /v1/proxy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled)
        assert peer.response().status == 401
        peer.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        rest = peer.rest()
    assert b"200" not in rest.partition(b"\r\n")[0]


def test_http_1_0_is_answered_and_closed(caller: Caller) -> None:
    with caller.raw() as peer:
        peer.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert peer.rest().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "request_line",
    [b"GET /health HTTP/1.1\r\n\r\n", b"GET /health\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
    ids=["no host", "no version", "TLS"],
)
def test_what_is_no_http_request_is_refused_and_the_connection_closed(caller: Caller, request_line: bytes) -> None:
    with caller.raw() as peer:
        peer.send(request_line)
        answer = peer.response()
        assert 400 <= answer.status < 600
        assert b'"error"' in answer.body
        assert peer.rest() == b""
    assert caller.http.get("/health").status_code == 200


def test_a_caller_that_asks_for_close_gets_it(caller: Caller) -> None:
    with caller.raw() as peer:
        peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert peer.rest().endswith(b'{"status":"ok"}')


def test_errors_say_nothing_about_the_inside(caller: Caller, upstream: Upstream) -> None:
    answers: list[httpx.Response] = [
        caller.post(upstream.serve([b"garbage\r\n\r\n", FIN]).url),
        caller.post("http://other.example/"),
        caller.http.get("/nothing"),
        caller.http.get("/v1/proxy/x", headers=caller.bearer),
    ]
    for answer in answers:
        assert not [word for word in ("Traceback", ".py", "Error(", "asyncio", "0x", "h11") if word in answer.text]
        assert caller.secret not in answer.text
