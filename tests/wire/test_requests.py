"""Requests of HTTP/1.1 as a server receives them: every fault gets its code, however the bytes are split."""

import contextlib
import re
from collections.abc import Callable, Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.events import HeadLimits, PeerError, RequestHead
from proxy.wire.h1 import ServerCodec
from proxy.wire.head import origin_of, request_head
from proxy.wire.headers import Headers
from proxy.wire.plain import plain_request_head
from tests.wire.feeding import (
    END,
    LIMITS,
    MAX_BODY,
    NOTHING,
    SMALL_LIMITS,
    Seen,
    byte_by_byte,
    cut_at,
    cuts,
    mutations,
    serve,
    whole,
)

FEEDS = [whole, byte_by_byte]
Feed = Callable[[bytes], Iterator[bytes]]


def codec(limits: HeadLimits = LIMITS, max_body: int = MAX_BODY) -> ServerCodec:
    return ServerCodec(limits, max_body)


def request(
    *lines: bytes, start: bytes = b"POST /v1/proxy HTTP/1.1", host: bytes = b"Host: localhost:4440\r\n"
) -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def with_target(target: bytes) -> bytes:
    return request(start=b"GET " + target + b" HTTP/1.1")


def with_host(value: bytes) -> bytes:
    return request(host=b"Host: " + value + b"\r\n")


BAD_REQUEST = {
    "content-length together with transfer-encoding": request(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "transfer-encoding together with content-length": request(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "content-length together with an unknown coding": request(b"Transfer-Encoding: gzip", b"Content-Length: 3"),
    "two content-lengths": request(b"Content-Length: 3", b"Content-Length: 4"),
    "two equal content-lengths": request(b"Content-Length: 3", b"Content-Length: 3"),
    "a list of content-lengths": request(b"Content-Length: 3, 3"),
    "a content-length with a sign": request(b"Content-Length: +3"),
    "a negative content-length": request(b"Content-Length: -3"),
    "a content-length with an underscore": request(b"Content-Length: 1_0"),
    "a content-length with leading zeros": request(b"Content-Length: 03"),
    "a content-length of two zeros": request(b"Content-Length: 00"),
    "a content-length in hexadecimal": request(b"Content-Length: 0x3"),
    "a content-length with a fraction": request(b"Content-Length: 3.0"),
    "an empty content-length": request(b"Content-Length:"),
    "a content-length in Arabic digits": request("Content-Length: ٣".encode()),
    "a content-length with a space within": request(b"Content-Length: 1 0"),
    "a quoted content-length": request(b'Content-Length: "3"'),
    "transfer-encoding in HTTP/1.0": request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"),
    "a bare LF between header lines": request(b"A: b\nC: d"),
    "a bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LFs throughout": b"GET / HTTP/1.1\nHost: a\n\n",
    "a bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "a bare CR in a value": request(b"A: b\rc"),
    "a bare CR between header lines": request(b"A: b\rC: d"),
    "two CRs before an LF": request(b"A: b\r"),
    "NUL in a value": request(b"A: b\x00c"),
    "NUL in a name": request(b"A\x00: b"),
    "NUL in the request line": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a control in a value": request(b"A: b\x01c"),
    "an escape in a value": request(b"A: \x1b[31m"),
    "a vertical tab in a value": request(b"A: b\x0bc"),
    "a form feed in a value": request(b"A: b\x0cc"),
    "DEL in a value": request(b"A: b\x7fc"),
    "a backspace in a name": request(b"A\x08: b"),
    "a folded header": request(b"A: b", b" c"),
    "a header folded by a tab": request(b"A: b", b"\tc"),
    "a folded first header": request(host=b" Host: localhost\r\n"),
    "a line of white space": request(b" "),
    "a space before the colon": request(b"A : b"),
    "a tab before the colon": request(b"A\t: b"),
    "a space before the colon of transfer-encoding": request(b"Transfer-Encoding : chunked"),
    "an empty name": request(b": b"),
    "a name outside ASCII": request("É: b".encode()),
    "a name in Latin-1": request(b"\xc9: b"),
    "a name with a slash": request(b"a/b: c"),
    "a name in quotes": request(b'"a": c'),
    "a header without a colon": request(b"Authorization"),
    "Transfer_Encoding": request(b"Transfer_Encoding: chunked"),
    "Content_Length": request(b"CONTENT_LENGTH: 3"),
    "a transfer-encoding after a vertical tab": request(b"Transfer-Encoding: \x0bchunked"),
    "an absolute target": with_target(b"http://localhost/v1/proxy"),
    "an absolute target of another scheme": with_target(b"file:///etc/passwd"),
    "an authority": request(start=b"CONNECT example.com:443 HTTP/1.1"),
    "a target of two slashes": with_target(b"//example.com/v1"),
    "a target without a leading slash": with_target(b"v1/proxy"),
    "an asterisk for GET": with_target(b"*"),
    "a query alone": with_target(b"?a=b"),
    "a fragment": with_target(b"/v1/proxy#top"),
    "a backslash": with_target(b"/v1\\proxy"),
    "a leading backslash": with_target(b"\\v1"),
    "a control in the target": with_target(b"/v1/\x07proxy"),
    "a tab in the target": with_target(b"/v1/\tproxy"),
    "DEL in the target": with_target(b"/v1/\x7f"),
    "a space in the target": with_target(b"/v1/a b"),
    "a target outside ASCII": with_target("/é".encode()),
    "no target": request(start=b"GET HTTP/1.1"),
    "an empty target": request(start=b"GET  HTTP/1.1"),
    "two spaces after the method": request(start=b"GET  / HTTP/1.1"),
    "a space after the version": request(start=b"GET / HTTP/1.1 "),
    "a space before the method": request(start=b" GET / HTTP/1.1"),
    "a tab in the request line": request(start=b"GET\t/ HTTP/1.1"),
    "no version": request(start=b"GET /"),
    "a method that is no token": request(start=b"GE(T / HTTP/1.1"),
    "a method outside ASCII": request(start="GÉT / HTTP/1.1".encode()),
    "a version in lower case": request(start=b"GET / http/1.1"),
    "a version of another protocol": request(start=b"GET / ICY/1.1"),
    "a version without a number": request(start=b"GET / HTTP/"),
    "a version with letters": request(start=b"GET / HTTP/1.x"),
    "no request line": b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
    "no host": request(host=b""),
    "two hosts": request(b"Host: localhost"),
    "two equal hosts": request(b"host: localhost:4440"),
    "an empty host": with_host(b""),
    "a host of white space": with_host(b"  "),
    "a host with userinfo": with_host(b"user@localhost"),
    "a host with a password": with_host(b"user:password@localhost"),
    "a host with an empty port": with_host(b"localhost:"),
    "a host with a port of letters": with_host(b"localhost:http"),
    "a host with a negative port": with_host(b"localhost:-1"),
    "a host with a port too high": with_host(b"localhost:65536"),
    "a host with port 0": with_host(b"localhost:0"),
    "a host with a long port": with_host(b"localhost:000080"),
    "a host with two ports": with_host(b"localhost:80:80"),
    "a port alone": with_host(b":80"),
    "a host with a path": with_host(b"localhost/path"),
    "a host with a query": with_host(b"localhost?q"),
    "a host with a fragment": with_host(b"localhost#f"),
    "a host with a space": with_host(b"local host"),
    "two hosts in one": with_host(b"a, b"),
    "a host with a backslash": with_host(b"a\\b"),
    "a host outside ASCII": with_host("ł".encode()),
    "IPv6 without brackets": with_host(b"::1"),
    "IPv6 with one bracket": with_host(b"[::1"),
    "an empty host in HTTP/1.0": request(start=b"GET / HTTP/1.0", host=b"Host: \r\n"),
}

OTHER_STATUSES = {
    "a content-length of 20 digits": (request(b"Content-Length: " + b"9" * 20), 413),
    "a content-length of 5000 digits": (request(b"Content-Length: " + b"9" * 5000), 413),
    "a content-length of 19 digits": (request(b"Content-Length: " + b"9" * 19), 413),
    "a content-length over the limit": (request(b"Content-Length: 1001"), 413),
    "a coding that is not chunked": (request(b"Transfer-Encoding: gzip"), 501),
    "a coding before chunked": (request(b"Transfer-Encoding: gzip, chunked"), 501),
    "a coding after chunked": (request(b"Transfer-Encoding: chunked, gzip"), 501),
    "identity": (request(b"Transfer-Encoding: identity"), 501),
    "chunked twice": (request(b"Transfer-Encoding: chunked, chunked"), 501),
    "chunked in two lines": (request(*[b"Transfer-Encoding: chunked"] * 2), 501),
    "chunked with a parameter": (request(b"Transfer-Encoding: chunked;q=1"), 501),
    "chunked in quotes": (request(b'Transfer-Encoding: "chunked"'), 501),
    "chunked with a comma": (request(b"Transfer-Encoding: chunked,"), 501),
    "xchunked": (request(b"Transfer-Encoding: xchunked"), 501),
    "an empty transfer-encoding": (request(b"Transfer-Encoding:"), 501),
    "HTTP/2.0": (request(start=b"GET / HTTP/2.0"), 505),
    "HTTP/2": (request(start=b"GET / HTTP/2"), 505),
    "HTTP/1.2": (request(start=b"GET / HTTP/1.2"), 505),
    "HTTP/0.9": (request(start=b"GET / HTTP/0.9"), 505),
    "HTTP/1.10": (request(start=b"GET / HTTP/1.10"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "an unknown expectation": (request(b"Expect: 200-ok"), 417),
    "an expectation beside the known one": (request(b"Expect: 100-continue, x"), 417),
    "an unknown expectation in a second line": (
        request(b"Expect: 100-continue", b"Expect: x"),
        417,
    ),
    "an empty expectation": (request(b"Expect:"), 417),
    "a head over the limit": (request(b"A: " + b"a" * 32 * 1024), 431),
    "a head over the limit in many fields": (request(*[b"A: " + b"a" * 900] * 40), 431),
    "a head without an end": (b"GET / HTTP/1.1\r\nA: " + b"a" * 33 * 1024, 431),
    "a method without an end": (b"A" * 33 * 1024, 431),
    "101 fields": (request(*[b"A: b"] * 100), 431),
    "a target over the limit": (with_target(b"/" + b"a" * 8192), 414),
    "a target over the limit of heads": (with_target(b"/" + b"a" * 100_000), 414),
    "a target without an end": (b"GET /" + b"a" * 8192, 414),
}

REFUSED = {name: (data, 400) for name, data in BAD_REQUEST.items()} | OTHER_STATUSES


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("junk", [b"", b"\r\n", b"hello", request(b"Content-Length: 0")])
@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_head_is_refused_with_its_status_and_nothing_after_it_runs(name: str, junk: bytes, feed: Feed) -> None:
    data, status = REFUSED[name]
    assert serve(codec(), feed(data + junk)) == [status]


@pytest.mark.parametrize("name", ["two hosts", "a target over the limit", "a TLS hello", "a head without an end"])
def test_a_refused_connection_goes_on_refusing(name: str) -> None:
    server = codec()
    assert serve(server, [REFUSED[name][0]]) == [REFUSED[name][1]]
    with pytest.raises(PeerError):
        server.receive(request())
    with pytest.raises(PeerError):
        server.receive_eof()
    with pytest.raises(PeerError):
        server.next_request()


def head(data: bytes) -> RequestHead:
    found = codec().receive(data)[0]
    assert found is not None
    return found


ACCEPTED = {
    "a plain GET": with_target(b"/health"),
    "a query": with_target(b"/v1/proxy/a?offset=-1&live=sse"),
    "a query of URLs": with_target(b"/v1/proxy?u=http://a/b//c?d"),
    "percent and sub-delimiters": with_target(b"/%41/a;b=c,d!$&'()*+@:~"),
    "characters that browsers leave raw": with_target(b'/a?q={"b":["c|d"]}^`'),
    "an asterisk for OPTIONS": request(start=b"OPTIONS * HTTP/1.1"),
    "an unknown method": request(start=b"PURGE / HTTP/1.1"),
    "a method of odd characters": request(start=b"M-SEARCH!#$ / HTTP/1.1"),
    "a host without a port": with_host(b"example.com"),
    "a host of IPv4": with_host(b"127.0.0.1:4440"),
    "a host of IPv6": with_host(b"[::1]:4440"),
    "a host with the highest port": with_host(b"localhost:65535"),
    "a host with an underscore": with_host(b"proxy_1:80"),
    "a header without a space after the colon": request(b"A:b"),
    "a header with white space around its value": request(b"A: \t b \t"),
    "a space after a value": request(b"A: b "),
    "two spaces before a value": request(b"A:  b"),
    "an empty value": request(b"A:"),
    "a tab within a value": request(b"A: b\tc"),
    "a value in UTF-8": request("A: é".encode()),
    "colons in a value": request(b"A: b: c:"),
    "equal names": request(b"A: b", b"a: c"),
    "a name of every character": request(b"!#$%&'*+-.^_`|~09azAZ: b"),
    "ninety-nine fields and host": request(*[b"A: b"] * 99),
    "a longest target": with_target(b"/" + b"a" * 8191),
    "a longest head": request(b"A: " + b"a" * (32 * 1024 - len(request(b"A: ")))),
    "HTTP/1.0": request(start=b"GET / HTTP/1.0"),
    "HTTP/1.0 without a host": request(start=b"GET / HTTP/1.0", host=b""),
    "one blank line before": b"\r\n" + request(),
    "two blank lines before": b"\r\n\r\n" + request(),
    "keep-alive": request(b"Connection: keep-alive"),
    "close": request(b"Connection: close"),
    "other connection options": request(b"Connection: x, close"),
    "a name that only looks like framing": request(b"X-Content_Length: 3", b"Transfer-Encodings: x"),
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_good_head_is_read_the_same_in_any_split(name: str, feed: Feed) -> None:
    data = ACCEPTED[name]
    seen = serve(codec(), feed(data))
    assert len(seen) == 2
    request_seen, end = seen
    assert isinstance(request_seen, RequestHead)
    assert end == END
    start, *lines = data.strip(b"\r\n").split(b"\r\n")
    assert b"%b %b" % (request_seen.method, request_seen.target) == start.rpartition(b" ")[0]
    pairs = [line.partition(b":")[::2] for line in lines]
    assert list(request_seen.headers) == [(name.lower(), value.strip(b" \t")) for name, value in pairs]


@pytest.mark.parametrize(
    ("data", "keeps"),
    [
        (request(), True),
        (request(b"Connection: keep-alive"), True),
        (request(b"Connection: close"), False),
        (request(b"Connection: Close"), False),
        (request(b"Connection: keep-alive, close"), False),
        (request(b"Connection: te", b"Connection: close"), False),
        (request(b"Connection: closed"), True),
        (request(b"Upgrade: websocket", b"Connection: Upgrade"), False),
        (request(b"Upgrade: h2c"), False),
        (request(start=b"GET / HTTP/1.0"), False),
        (request(b"Connection: keep-alive", start=b"GET / HTTP/1.0"), True),
        (request(b"Connection: Keep-Alive", start=b"GET / HTTP/1.0"), True),
        (request(b"Connection: keep-alive, close", start=b"GET / HTTP/1.0"), False),
    ],
)
def test_whether_the_connection_goes_on_is_read_from_the_head(data: bytes, keeps: bool) -> None:
    assert head(data).keep_alive is keeps


@pytest.mark.parametrize(
    ("data", "expects"),
    [
        (request(b"Expect: 100-continue", b"Content-Length: 3"), True),
        (request(b"Expect: 100-Continue", b"Transfer-Encoding: chunked"), True),
        (request(b"Expect: 100-continue"), False),
        (request(b"Expect: 100-continue", b"Content-Length: 0"), False),
        (request(b"Expect: 100-continue", b"Content-Length: 3", start=b"POST / HTTP/1.0"), False),
        (request(b"Content-Length: 3"), False),
    ],
)
def test_a_continuation_is_expected_only_where_a_body_may_wait_for_it(data: bytes, expects: bool) -> None:
    assert head(data).expect_continue is expects


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize(
    ("lines", "body", "length", "payload"),
    [
        ([], b"", 0, b""),
        ([b"Content-Length: 0"], b"", 0, b""),
        ([b"Content-Length: 5"], b"hello", 5, b"hello"),
        ([b"Content-Length: 1000"], b"x" * 1000, 1000, b"x" * 1000),
        ([b"Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", None, b"hello"),
        ([b"Transfer-Encoding: Chunked"], b"0\r\n\r\n", None, b""),
        ([b"Transfer-Encoding: chunked"], b"3e8\r\n%b\r\n0\r\na: b\r\n\r\n" % (b"x" * 1000), None, b"x" * 1000),
    ],
)
def test_a_body_follows_as_the_head_says(
    lines: list[bytes], body: bytes, length: int | None, payload: bytes, feed: Feed
) -> None:
    first, *rest = serve(codec(), feed(request(*lines) + body + request()))
    assert isinstance(first, RequestHead)
    assert first.length == length
    assert rest[:-2] == ([payload, END] if payload else [END])
    assert isinstance(rest[-2], RequestHead)
    assert rest[-1] == END


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize(
    ("body", "payload", "status"),
    [
        (b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", b"", 413),
        (b"f" * 16 + b"\r\n", b"", 413),
        (b"5\r\nhello\r\n" + b"f" * 16 + b"\r\n", b"hello", 413),
        (b"1f4\r\n%b\r\n" % (b"x" * 500) * 3, b"x" * 1000, 413),
        (b"5\r\nhello\r\n" + b"x\r\n", b"hello", 400),
        (b"5\r\nhello!\r\n", b"hello", 400),
        (b"5 \r\nhello\r\n", b"", 400),
        (b"5\nhello", b"", 400),
    ],
)
def test_a_bad_body_is_a_fault_after_the_payload_before_it(
    body: bytes, payload: bytes, status: int, feed: Feed
) -> None:
    _, *rest = serve(codec(), feed(request(b"Transfer-Encoding: chunked") + body + request()))
    assert rest == ([payload, status] if payload else [status])


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("blank", [b"", b"\r\n", b"\r\n\r\n"])
def test_blank_lines_before_a_request_do_not_shift_its_body(blank: bytes, feed: Feed) -> None:
    data = blank + request(b"Content-Length: 5") + b"hello"
    assert serve(codec(), feed(data * 2))[1::3] == [b"hello", b"hello"]


def test_a_fault_behind_good_events_is_reported_at_once_and_raised_by_what_follows() -> None:
    server = codec()
    asked, parts, ended = server.receive(request(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\nzz")
    assert asked is not None
    assert (parts, ended) == ([b"hello"], False)
    assert server.failed is not None
    with pytest.raises(PeerError) as raised:
        server.receive(b"0\r\n\r\n")
    assert raised.value is server.failed


def test_a_head_over_the_limit_is_refused_before_it_ends() -> None:
    server = codec(SMALL_LIMITS)
    server.receive(b"GET / HTTP/1.1\r\nA: " + b"a" * (200 - 19))
    with pytest.raises(PeerError) as raised:
        server.receive(b"a")
    assert raised.value.status == 431


def test_pipelined_requests_wait_until_the_one_before_is_answered() -> None:
    server = codec()
    first = server.receive(with_target(b"/1") + with_target(b"/2") + with_target(b"/3"))
    assert first[0] is not None
    assert first[0].target == b"/1"
    waiting = 2 * len(with_target(b"/2"))
    assert waiting <= server.buffered <= 2 * waiting
    assert not server.idle
    assert server.receive(b"\r\n") == NOTHING
    assert server.buffered >= waiting + 2
    second = server.next_request()
    assert second[0] is not None
    assert second[0].target == b"/2"
    third = server.next_request()
    assert third[0] is not None
    assert third[0].target == b"/3"
    assert server.next_request() == NOTHING
    assert server.buffered == 0
    assert server.idle


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_however_many_requests_are_pipelined_each_comes_out_and_no_memory_is_left(size: int) -> None:
    server = ServerCodec(LIMITS, MAX_BODY)
    stream = b"".join(request(b"Content-Length: %d" % (number % 3)) + b"x" * (number % 3) for number in range(2000))
    seen = 0
    for piece in (stream[at : at + size] for at in range(0, len(stream), size)):
        _, _, ended = server.receive(piece)
        while ended:
            seen += 1
            assert server.buffered <= 2 * len(piece)
            _, _, ended = server.next_request()
    assert (seen, server.buffered, server.idle) == (2000, 0, True)


def test_what_waits_is_dropped_when_nothing_more_is_read() -> None:
    server = codec()
    server.receive(request() + request())
    server.close()
    assert server.buffered == 0
    assert server.receive(request()) == NOTHING


def test_after_a_request_that_closes_nothing_more_is_read() -> None:
    server = codec()
    server.receive(request(b"Connection: close") + request())
    assert server.buffered == 0
    assert server.receive(request()) == NOTHING
    assert server.next_request() == NOTHING
    assert server.receive(b"\x00 not HTTP") == NOTHING
    assert server.next_request() == NOTHING
    server.receive_eof()


def test_after_a_response_that_closes_nothing_more_is_read() -> None:
    server = codec()
    asked = server.receive(request() + request())[0]
    server.send_head(200, Headers(), 0, request=asked, keep_alive=False)
    assert not server.keep_alive
    assert server.next_request() == NOTHING
    assert server.receive(request()) == NOTHING


def test_asking_for_the_next_request_before_the_end_of_this_one_is_a_mistake() -> None:
    server = codec()
    server.receive(request(b"Content-Length: 3"))
    with pytest.raises(RuntimeError):
        server.next_request()


def test_a_connection_is_idle_until_a_byte_of_a_head_has_come() -> None:
    server = codec()
    assert server.idle
    server.receive(b"G")
    assert not server.idle


def test_the_end_of_input_between_requests_is_nothing() -> None:
    server = codec()
    server.receive_eof()
    server = codec()
    server.receive(request())
    server.receive_eof()
    assert server.next_request() == NOTHING


@pytest.mark.parametrize(
    "data",
    [b"G", request()[:-1], request(b"Content-Length: 3"), request(b"Content-Length: 3") + b"ab"],
)
def test_the_end_of_input_within_a_request_is_a_fault(data: bytes) -> None:
    assert serve(codec(), [data], eof=True)[-1] == 400


def test_a_request_cut_behind_another_is_found_when_its_turn_comes() -> None:
    for cut in (request()[:-1], b"G"):
        server = codec()
        server.receive(request() + cut)
        server.receive_eof()
        with pytest.raises(PeerError):
            server.next_request()
    server = codec()
    server.receive(request() + request(b"Content-Length: 3"))
    server.receive_eof()
    assert server.next_request()[0] is not None
    assert server.failed is not None


VALID = [
    *ACCEPTED.values(),
    request(b"Content-Length: 5")
    + b"hello"
    + request(b"Transfer-Encoding: chunked")
    + b"1\r\na\r\n0\r\n\r\n"
    + request(),
    request(b"Transfer-Encoding: chunked") + b"5;x=y\r\nhello\r\n0\r\na: b\r\n\r\n",
    b"\r\n" + request(b"Expect: 100-continue", b"Content-Length: 1") + b"x",
    request(b"Upgrade: x", b"Connection: upgrade") + request(),
]
FUZZ = st.one_of(st.binary(max_size=300), mutations(VALID), mutations([data for data, _ in REFUSED.values()]))


@settings(max_examples=500)
@given(FUZZ, cuts, cuts)
def test_any_bytes_in_any_split_give_the_same_events_and_only_declared_faults(
    data: bytes, one: list[int], other: list[int]
) -> None:
    for limits in (LIMITS, SMALL_LIMITS):
        seen = [serve(codec(limits, 20), cut_at(data, places), eof=True) for places in (one, other)]
        assert seen[0] == seen[1]
        assert_valid(seen[0])


@settings(max_examples=100)
@given(FUZZ)
def test_any_bytes_one_by_one_give_what_they_give_at_once(data: bytes) -> None:
    assert serve(codec(SMALL_LIMITS), byte_by_byte(data)) == serve(codec(SMALL_LIMITS), whole(data))


def assert_valid(seen: Seen) -> None:
    """What a head tells may be passed on as it is."""
    for event in seen:
        if isinstance(event, RequestHead):
            assert Headers(event.headers) == event.headers
            assert len(event.headers) <= LIMITS.fields
            assert event.target.isascii()
            assert b"\r" not in event.target


@settings(max_examples=500)
@given(st.one_of(mutations(VALID), mutations(list(BAD_REQUEST.values())), st.binary(max_size=200)))
def test_the_short_way_gives_what_the_long_way_gives_or_nothing(data: bytes) -> None:
    for limits in (LIMITS, SMALL_LIMITS):
        plain = plain_request_head(data, 0, limits)
        if plain is not None:
            found, end = plain
            assert end <= limits.head_bytes
            assert data[:end].endswith(b"\r\n\r\n")
            assert data.find(b"\r\n\r\n") + 4 == end
            long = request_head(data[:end], limits)
            assert long == (found, False)
            assert long[0].headers.as_spelled() == found.headers.as_spelled()


@pytest.mark.parametrize("name", ["a plain GET", "a query", "keep-alive", "a host of IPv4", "a longest target"])
def test_ordinary_requests_take_the_short_way(name: str) -> None:
    assert plain_request_head(ACCEPTED[name], 0, LIMITS) is not None
    assert plain_request_head(b"123" + ACCEPTED[name], 3, LIMITS) is not None


@settings(max_examples=300)
@given(mutations(list(ACCEPTED.values())))
def test_what_is_accepted_h11_accepts_too(data: bytes) -> None:
    seen = serve(codec(), [data])
    if not isinstance(seen[0] if seen else None, RequestHead):
        return
    oracle = h11.Connection(h11.SERVER, max_incomplete_event_size=40_000)
    oracle.receive_data(data.lstrip(b"\r\n"))
    event = oracle.next_event()
    assert isinstance(event, h11.Request)
    assert isinstance(seen[0], RequestHead)
    assert (event.method, event.target) == (seen[0].method, seen[0].target)
    assert [(bytes(name), bytes(value)) for name, value in event.headers] == list(seen[0].headers)


@pytest.mark.parametrize("status", [200, 201, 204, 299, 304, 404, 502, 599])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("length", [0, 5, None])
@pytest.mark.parametrize("start", [b"1.1", b"1.0", b"1.0 kept"])
def test_a_response_head_is_framed_so_that_h11_reads_the_body(
    status: int, method: bytes, length: int | None, start: bytes
) -> None:
    server = codec()
    lines = [b"Connection: keep-alive"] if start == b"1.0 kept" else []
    asked = server.receive(request(*lines, start=method + b" / HTTP/" + start[:3]))[0]
    assert isinstance(asked, RequestHead)
    sent, is_chunked = server.send_head(status, Headers([(b"X-A", b"b")]), length, request=asked, keep_alive=True)
    has_body = method != b"HEAD" and status not in (204, 304)
    assert is_chunked is (has_body and length is None and start == b"1.1")

    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
    oracle.send(h11.EndOfMessage())
    body = b"" if not has_body else b"5\r\nhello\r\n0\r\n\r\n" if is_chunked else b"hello" if length != 0 else b""
    oracle.receive_data(sent + body)
    response = oracle.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    assert (b"x-a", b"b") in list(response.headers)
    payload = b""
    while isinstance(event := oracle.next_event(), h11.Data):
        payload += bytes(event.data)
    if has_body and length is None and start != b"1.1":
        assert event is h11.NEED_DATA
        oracle.receive_data(b"")
        event = oracle.next_event()
        assert not server.keep_alive
    else:
        assert server.keep_alive is (start != b"1.0")
    assert isinstance(event, h11.EndOfMessage)
    assert payload == (b"hello" if body else b"")
    assert ((b"connection", b"close") in list(response.headers)) is not server.keep_alive
    assert ((b"connection", b"keep-alive") in list(response.headers)) is (server.keep_alive and start == b"1.0 kept")


def test_a_response_to_head_keeps_the_length_that_get_would_have() -> None:
    server = codec()
    asked = server.receive(request(start=b"HEAD / HTTP/1.1"))[0]
    assert isinstance(asked, RequestHead)
    headers = Headers([(b"content-length", b"1234")])
    for given_headers, length in ((headers, 0), (headers, 1234), (Headers(), 1234)):
        sent, is_chunked = server.send_head(200, given_headers, length, request=asked, keep_alive=True)
        assert sent == b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
        assert not is_chunked


def test_an_answer_to_what_could_not_be_read_has_its_length_and_closes() -> None:
    server = codec()
    with pytest.raises(PeerError):
        server.receive(b"\x00")
    sent, is_chunked = server.send_head(400, Headers(), 7, request=None, keep_alive=False)
    assert sent == b"HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\nconnection: close\r\n\r\n"
    assert not is_chunked
    assert not server.keep_alive


def test_a_status_without_a_phrase_is_sent_without_one() -> None:
    sent, _ = codec().send_head(299, Headers(), 0, request=None, keep_alive=True)
    assert sent.startswith(b"HTTP/1.1 299 \r\n")


# The Origin of what was refused


@pytest.mark.parametrize(
    "lines",
    [
        b"Origin: https://a.test\r\n",
        b"origin:https://a.test \t\r\n",
        b"Host: h\r\nORIGIN: \t https://a.test\r\nX: \x00",
        b"X-Origin: https://b.test\r\nOrigin: https://a.test\r\nOrigin-X: https://b.test\r\n",
        b"Origin: https://a.test\r\n\r\nOrigin: https://b.test\r\n",
    ],
)
def test_one_plain_line_is_the_origin_of_a_refused_head(lines: bytes) -> None:
    assert origin_of(b"\r\nGET / HTTP/1.1\r\n" + lines) == b"https://a.test"


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"Origin: \r\n",
        b"Origin: https://a.test",
        b"Origin: https://a.test\r",
        b"Origin: https://a.test\n",
        b"Origin: https://a.test https://b.test\r\n",
        b"Origin: https://a.test\r\n b\r\n",
        b"Origin : https://a.test\r\n",
        b" Origin: https://a.test\r\n",
        b"X: 1\nOrigin: https://a.test\r\n",
        b"Origin: https://a.test\r\nOrigin: https://a.test\r\n",
        b"Origin: https://a.test\r\nOrigin : https://a.test\r\n",
        b"Origin: https://a.test\r\nX: 1\norigin: https://b.test\r\n",
        b"\r\nOrigin: https://a.test\r\n",
    ],
)
def test_an_origin_that_is_not_said_plainly_and_once_is_none(lines: bytes) -> None:
    assert origin_of(b"GET /?\r\n" + lines) is None


@given(
    st.lists(st.sampled_from([b"Origin: ", b"https://a.test", b"\r\n", b"\n", b" ", b"X: 1", b"\x00"])).map(b"".join)
)
def test_a_codec_that_refuses_still_tells_an_origin_and_only_a_plain_one(lines: bytes) -> None:
    server = codec()
    with contextlib.suppress(PeerError):
        assert server.receive(b"GET / HTTP/9\r\n" + lines) == NOTHING
    origin = server.origin
    assert origin is None or re.search(rb"(?:\A|\r\n)Origin: +" + re.escape(origin), lines)
