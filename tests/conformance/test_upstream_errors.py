"""What the caller gets when the upstream refuses, redirects, or does not speak HTTP; and that it is asked once."""

import pytest

from tests.conformance.caller import Caller, code
from tests.kit.ports import refusing_port
from tests.kit.upstream import FIN, GATE, HANG, RESET, Script, Upstream, chunked, endless, fixed, head

UPSTREAM_ERROR = (502, "UPSTREAM_ERROR")
KIB_64 = 64 * 1024


@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 422, 429, 451, 500, 501, 502, 503, 504, 529, 599]
)
def test_an_error_of_the_upstream_is_passed_on_as_502(caller: Caller, upstream: Upstream, status: int) -> None:
    body = b'{"error": {"type": "overloaded_error", "message": "later"}}'
    route = upstream.serve(fixed(body, status=status, content_type="application/json"))
    answer = caller.post(route.url)
    assert (answer.status_code, answer.content) == (502, body)
    assert answer.headers["upstream-status"] == str(status)
    assert answer.headers["upstream-content-type"] == "application/json"
    assert answer.headers["content-type"] == "application/json"
    assert "location" not in answer.headers
    assert route.count == 1


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "text/html", "application/problem+json"])
def test_the_content_type_of_an_error_is_passed_on(caller: Caller, upstream: Upstream, content_type: str) -> None:
    answer = caller.post(upstream.serve(fixed(b"<p>", status=500, content_type=content_type)).url)
    assert answer.headers["upstream-content-type"] == content_type
    assert answer.headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("script", "body"),
    [
        (fixed(b"", status=500), b""),
        (fixed(bytes(range(256)), status=500), bytes(range(256))),
        (chunked(b"one ", b"two", status=503), b"one two"),
        ([head(500), b"until ", b"close", FIN], b"until close"),
        (fixed(b"x" * KIB_64, status=500), b"x" * KIB_64),
    ],
    ids=["empty", "binary", "chunked", "until close", "64 KiB"],
)
def test_the_body_of_an_error_is_passed_on(caller: Caller, upstream: Upstream, script: Script, body: bytes) -> None:
    answer = caller.post(upstream.serve(script).url)
    assert (answer.status_code, answer.content) == (502, body)


@pytest.mark.parametrize(
    "script",
    [
        fixed(b"x" * (KIB_64 + 1), status=500),
        fixed(b"x" * (1 << 20), status=500),
        chunked(*[b"x" * 999] * 99, status=500),
    ],
    ids=["one byte more", "1 MiB", "chunked"],
)
def test_of_a_larger_error_body_the_first_64_kib_are_passed_on(
    caller: Caller, upstream: Upstream, script: Script
) -> None:
    answer = caller.post(upstream.serve(script).url)
    assert (answer.status_code, answer.headers["upstream-status"]) == (502, "500")
    assert answer.content == b"x" * KIB_64


def test_an_error_body_without_end_is_cut(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(endless(b"x" * 4096, status=500))
    answer = caller.post(route.url)
    assert (answer.status_code, answer.content) == (502, b"x" * KIB_64)
    route.wait_cut()


def test_an_error_body_that_stalls_is_cut_and_still_an_error(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([head(429, ("Content-Length", "99"), ("Retry-After", "3")) + b"so far", HANG])
    answer = caller.post(route.url)
    assert (answer.status_code, answer.headers["upstream-status"]) == (502, "429")
    assert answer.headers["retry-after"] == "3"
    assert answer.content == b"so far"
    route.wait_cut()


def test_an_error_body_that_breaks_off_is_still_an_error(caller: Caller, upstream: Upstream) -> None:
    answer = caller.post(upstream.serve([head(500, ("Content-Length", "99")) + b"so far", FIN]).url)
    assert (answer.status_code, answer.content) == (502, b"so far")


# Redirects


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 399])
def test_a_redirect_is_refused_and_never_followed(caller: Caller, upstream: Upstream, status: int) -> None:
    target = upstream.serve(fixed(b"no"))
    to_target = ("Location", target.url)
    route = upstream.serve([head(304, to_target)] if status == 304 else fixed(b"elsewhere", to_target, status=status))
    answer = caller.post(route.url)
    assert code(answer) == (400, "REDIRECT_NOT_ALLOWED")
    assert "location" not in answer.headers
    assert target.url not in answer.text
    assert (route.count, target.count) == (1, 0)
    route.wait_closed()


def test_a_redirect_without_target_is_refused_too(caller: Caller, upstream: Upstream) -> None:
    assert code(caller.post(upstream.serve(fixed(b"", status=302)).url)) == (400, "REDIRECT_NOT_ALLOWED")


# No answer, or none that is HTTP


def test_an_upstream_that_refuses_the_connection_is_an_upstream_error(caller: Caller) -> None:
    with refusing_port() as port:
        assert code(caller.post(f"http://localhost:{port}/")) == UPSTREAM_ERROR


BROKEN: dict[str, Script] = {
    "closed at once": [FIN],
    "reset at once": [RESET],
    "closed in the head": [b"HTTP/1.1 200 OK\r\nContent-Ty", FIN],
    "reset in the head": [b"HTTP/1.1 200 OK\r\nContent-Ty", RESET],
    "not HTTP": [b"220 mail.example.com ESMTP\r\n\r\n", FIN],
    "binary": [b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n", FIN],
    "HTTP/0.9": [b"<html>hello</html>\r\n\r\n", FIN],
    "HTTP/2.0": [b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", FIN],
    "no status": [b"HTTP/1.1\r\n\r\n", FIN],
    "status of two digits": [b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", FIN],
    "status of four digits": [b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", FIN],
    "status 600": fixed(status=600),
    "status 999": fixed(status=999),
    "status 101": [head(101, ("Upgrade", "x"), ("Connection", "Upgrade")), HANG],
    "length and chunked": [head(200, ("Content-Length", "3"), ("Transfer-Encoding", "chunked")) + b"0\r\n\r\n", FIN],
    "two lengths": [head(200, ("Content-Length", "3"), ("Content-Length", "4")) + b"abcd", FIN],
    "two lengths in one": [head(200, ("Content-Length", "3, 4")) + b"abcd", FIN],
    "negative length": [head(200, ("Content-Length", "-1")) + b"abcd", FIN],
    "length with plus": [head(200, ("Content-Length", "+4")) + b"abcd", FIN],
    "length with underscore": [head(200, ("Content-Length", "1_0")) + b"abcd", FIN],
    "length that is none": [head(200, ("Content-Length", "many")) + b"abcd", FIN],
    "unknown coding": [head(200, ("Transfer-Encoding", "gzip")) + b"abcd", FIN],
    "bare LF": [b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", FIN],
    "one bare LF": [b"HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 2\r\nContent-Length: 2\r\n\r\nok", FIN],
    "bare CR": [b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\nok", FIN],
    "NUL in a header": [b"HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 2\r\n\r\nok", FIN],
    "no colon": [b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok", FIN],
    "space before the colon": [b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", FIN],
    "empty name": [b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nok", FIN],
    "a head of more than 64 KiB": [head(200, ("X-Long", "x" * (KIB_64 + 1)), ("Content-Length", "0"))],
    "a head that never ends": lambda _: [b"HTTP/1.1 200 OK\r\n", *[b"X-More: and more\r\n"] * 20000],
    "informational responses without end": lambda _: [head(103)] * 20000,
}


@pytest.mark.parametrize("how", list(BROKEN))
def test_what_is_no_http_response_is_an_upstream_error(caller: Caller, upstream: Upstream, how: str) -> None:
    route = upstream.serve(BROKEN[how])
    assert code(caller.post(route.url)) == UPSTREAM_ERROR
    assert route.count == 1
    route.wait_closed()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("script", [[FIN], [RESET], [b"HTTP/1.1 200", RESET]], ids=["closed", "reset", "in the head"])
def test_an_upstream_request_is_never_sent_twice(
    caller: Caller, upstream: Upstream, method: str, script: Script
) -> None:
    route = upstream.serve(script, fixed(b"a second call costs money"))
    assert code(caller.post(route.url, method, content=b"question")) == UPSTREAM_ERROR
    assert route.count == 1


def test_an_idle_connection_that_the_upstream_closed_is_not_used_for_the_next_request(
    caller: Caller, upstream: Upstream
) -> None:
    route = upstream.serve(fixed(b"x"))
    for _ in range(4):
        assert caller.create(route.url).whole().data == b"x"
        upstream.close_idle()
        route.wait_closed()
    assert route.count == 4


def test_a_declared_length_above_every_limit_stores_nothing(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([head(200, ("Content-Length", str(10**15))) + b"x", HANG])
    answer = caller.post(route.url)
    assert code(answer) == (502, "RESPONSE_TOO_LARGE")
    assert "location" not in answer.headers
    route.wait_closed()


def test_a_message_says_which_error_it_was(caller: Caller, upstream: Upstream) -> None:
    with refusing_port() as port:
        refused = caller.post(f"http://localhost:{port}/").json()["error"]["message"]
    reset = caller.post(upstream.serve([RESET]).url).json()["error"]["message"]
    garbage = caller.post(upstream.serve([b"garbage\r\n\r\n", FIN]).url).json()["error"]["message"]
    assert len({refused, reset, garbage}) == 3


def test_after_every_error_the_next_create_works(caller: Caller, upstream: Upstream) -> None:
    scripts: list[Script] = [[RESET], fixed(status=500), fixed(status=302), [b"garbage\r\n\r\n", FIN]]
    for script in scripts:
        caller.post(upstream.serve(script).url)
        assert caller.create(upstream.serve(fixed(b"fine")).url).whole()[:2] == (b"fine", "complete")


def test_a_slow_head_is_waited_for(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([b"HTTP/1.1 200 OK\r\nContent-", GATE, b"Length: 4\r\n", GATE, b"\r\nslow"])
    with caller.raw() as peer:
        fields = f"Authorization: {caller.bearer['Authorization']}\r\nUpstream-URL: {route.url}\r\nUpstream-Method: GET"
        peer.send(f"POST /v1/proxy HTTP/1.1\r\nHost: x\r\n{fields}\r\nContent-Length: 0\r\n\r\n".encode())
        route.wait_requests()
        assert peer.silent(0.05)
        route.release(2)
        assert peer.response().status == 201
