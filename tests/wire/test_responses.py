"""Responses of HTTP/1.1 as a client receives them, and when its connection may serve again."""

from collections.abc import Callable, Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.events import Buffer, HeadLimits, PeerError, ResponseHead
from proxy.wire.h1 import LAST_CHUNK, ClientCodec, encode_chunk
from proxy.wire.head import response_framing, response_lines
from proxy.wire.headers import Headers
from proxy.wire.plain import is_plain_informational, plain_response_head
from tests.wire.feeding import (
    END,
    FAULT,
    LIMITS,
    NOTHING,
    SMALL_LIMITS,
    Seen,
    ask,
    byte_by_byte,
    cut_at,
    cuts,
    mutations,
    whole,
)

FEEDS = [whole, byte_by_byte]
Feed = Callable[[bytes], Iterator[bytes]]
HOST = Headers([(b"host", b"example.com")])
INFORMATIONAL = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nA: b\r\n\r\n"


def asked(method: bytes = b"GET", limits: HeadLimits = LIMITS) -> ClientCodec:
    client = ClientCodec(limits)
    client.send_head(method, b"/", HOST, 0)
    return client


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return start + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


REFUSED = {
    "content-length with transfer-encoding": response(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "the same on 204": response(b"Content-Length: 0", b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 No Content"),
    "differing content-lengths": response(b"Content-Length: 3", b"Content-Length: 4"),
    "a list of differing content-lengths": response(b"Content-Length: 3, 4"),
    "a content-length with a sign": response(b"Content-Length: +3"),
    "a negative content-length": response(b"Content-Length: -3"),
    "a content-length with an underscore": response(b"Content-Length: 1_0"),
    "a content-length of letters": response(b"Content-Length: x"),
    "an empty content-length": response(b"Content-Length:"),
    "a content-length of 20 digits": response(b"Content-Length: " + b"9" * 20),
    "a content-length of 5000 digits": response(b"Content-Length: " + b"9" * 5000),
    "a content-length in Arabic digits": response("Content-Length: ٣".encode()),
    "a control in content-length": response(b"Content-Length: 3\x01"),
    "a control in transfer-encoding": response(b"Transfer-Encoding: \x01chunked"),
    "a control in connection": response(b"Connection: clo\x01se", b"Content-Length: 0"),
    "a coding that is not chunked": response(b"Transfer-Encoding: gzip"),
    "a coding before chunked": response(b"Transfer-Encoding: gzip, chunked"),
    "identity": response(b"Transfer-Encoding: identity"),
    "chunked twice": response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked and a length in HTTP/1.0": response(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", start=b"HTTP/1.0 200 OK"
    ),
    "a bare LF in a header": response(b"A: b\nC: d"),
    "bare LFs throughout": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a bare CR in a header": response(b"A: b\rc"),
    "two CRs before an LF": response(b"A: b\r"),
    "NUL in a header": response(b"A: b\x00"),
    "NUL in the status line": response(start=b"HTTP/1.1 200 \x00"),
    "a space before the colon": response(b"A : b"),
    "a space before the colon of content-length": response(b"Content-Length : 0"),
    "an empty name": response(b": b"),
    "a header without a colon": response(b"A"),
    "status 000": response(start=b"HTTP/1.1 000 None"),
    "status 099": response(start=b"HTTP/1.1 099 None"),
    "status 600": response(start=b"HTTP/1.1 600 None"),
    "status 999": response(start=b"HTTP/1.1 999 None"),
    "a status of two digits": response(start=b"HTTP/1.1 20 OK"),
    "a status of four digits": response(start=b"HTTP/1.1 2000 OK"),
    "a negative status": response(start=b"HTTP/1.1 -20 OK"),
    "a status of letters": response(start=b"HTTP/1.1 OK"),
    "no status": response(start=b"HTTP/1.1"),
    "a switch of protocols": response(b"Upgrade: x", b"Connection: upgrade", start=b"HTTP/1.1 101 Switching"),
    "informational responses larger than a head": response(start=b"HTTP/1.1 103 Early Hints") * 1200,
    "informational responses and a head that are too large together": response(start=b"HTTP/1.1 103 Hints") * 1000
    + response(b"A: " + b"a" * 12_000, b"Content-Length: 0"),
    "an informational response of 101 fields": response(*[b"A: b"] * 101, start=b"HTTP/1.1 103 Hints"),
    "a bad informational response": response(b"A : b", start=b"HTTP/1.1 103 x") + response(b"Content-Length: 0"),
    "HTTP/2": response(start=b"HTTP/2 200 OK"),
    "HTTP/2.0": response(start=b"HTTP/2.0 200 OK"),
    "HTTP/1.2": response(start=b"HTTP/1.2 200 OK"),
    "a version in lower case": response(start=b"http/1.1 200 OK"),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "a blank line before": b"\r\n" + response(b"Content-Length: 0"),
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a head over the limit": response(b"A: " + b"a" * 32 * 1024),
    "a head without an end": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 32 * 1024,
    "a status line without an end": b"HTTP/1.1 200 " + b"a" * 33 * 1024,
    "101 fields": response(*[b"A: b"] * 101),
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("junk", [b"", b"hello\r\n\r\n"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_head_is_an_upstream_error_and_ends_the_connection(name: str, junk: bytes, feed: Feed) -> None:
    client = asked()
    assert ask(client, feed(REFUSED[name] + junk)) == [FAULT]
    assert not client.reusable
    with pytest.raises(PeerError):
        client.receive(response())
    with pytest.raises(PeerError):
        client.receive_eof()


BODIES: dict[str, tuple[bytes, bytes, int | None, bytes, bool]] = {
    # name: method, response, length, payload, reusable
    "a length": (b"GET", response(b"Content-Length: 5", body=b"hello"), 5, b"hello", True),
    "length zero": (b"GET", response(b"Content-Length: 0"), 0, b"", True),
    "equal lengths": (b"GET", response(b"Content-Length: 5", b"content-length: 5", body=b"hello"), 5, b"hello", True),
    "a list of equal lengths": (b"GET", response(b"Content-Length: 5, 5", body=b"hello"), 5, b"hello", True),
    "chunks": (
        b"GET", response(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), None, b"hello", True,
    ),
    "chunked in capitals": (b"GET", response(b"Transfer-Encoding: CHUNKED", body=b"0\r\n\r\n"), None, b"", True),
    "chunks and trailers": (
        b"GET", response(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nx: y\r\n\r\n"), None, b"a", True,
    ),
    "closing after a length": (
        b"GET", response(b"Content-Length: 5", b"Connection: close", body=b"hello"), 5, b"hello", False,
    ),
    "HTTP/1.0 with a length": (
        b"GET", response(b"Content-Length: 5", start=b"HTTP/1.0 200 OK", body=b"hello"), 5, b"hello", False,
    ),
    "HTTP/1.0 in chunks": (
        b"GET",
        response(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK", body=b"5\r\nhello\r\n0\r\n\r\n"),
        None, b"hello", False,
    ),
    "HTTP/1.0 in chunks, kept alive": (
        b"GET",
        response(
            b"Connection: keep-alive", b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK", body=b"0\r\n\r\n"
        ),
        None, b"", False,
    ),
    "blanks after sizes of chunks": (
        b"GET", response(b"Transfer-Encoding: chunked", body=b"5 \r\nhello\r\n0\t \r\n\r\n"), None, b"hello", True,
    ),
    "HTTP/1.0 kept alive": (
        b"GET", response(b"Content-Length: 0", b"Connection: keep-alive", start=b"HTTP/1.0 200 OK"), 0, b"", True,
    ),
    "HEAD with a length": (b"HEAD", response(b"Content-Length: 5"), 0, b"", True),
    "HEAD with chunks": (b"HEAD", response(b"Transfer-Encoding: chunked"), 0, b"", True),
    "HEAD without framing": (b"HEAD", response(), 0, b"", True),
    "204": (b"GET", response(start=b"HTTP/1.1 204 No Content"), 0, b"", True),
    "204 with length zero": (b"GET", response(b"Content-Length: 0", start=b"HTTP/1.1 204 No Content"), 0, b"", True),
    "204 with a length": (b"GET", response(b"Content-Length: 5", start=b"HTTP/1.1 204 No Content"), 0, b"", False),
    "204 in chunks": (b"GET", response(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 No"), 0, b"", False),
    "304": (b"GET", response(b"Content-Length: 5", start=b"HTTP/1.1 304 Not Modified"), 0, b"", True),
    "205 with length zero": (b"POST", response(b"Content-Length: 0", start=b"HTTP/1.1 205 Reset"), 0, b"", True),
    "205 without framing": (b"POST", response(start=b"HTTP/1.1 205 Reset Content"), 0, b"", False),
    "no reason": (b"GET", response(b"Content-Length: 0", start=b"HTTP/1.1 200"), 0, b"", True),
    "an empty reason": (b"GET", response(b"Content-Length: 0", start=b"HTTP/1.1 200 "), 0, b"", True),
    "a reason outside ASCII": (b"GET", response(b"Content-Length: 0", start="HTTP/1.1 200 é".encode()), 0, b"", True),
    "an unknown status": (b"GET", response(b"Content-Length: 0", start=b"HTTP/1.1 599 Odd"), 0, b"", True),
    "a continuation before": (
        b"POST", response(start=b"HTTP/1.1 100 Continue") + response(b"Content-Length: 0"), 0, b"", True,
    ),
    "many informational responses before": (
        b"GET",
        response(b"Link: </a>", start=b"HTTP/1.1 103 Early Hints") * 300
        + response(b"A: b", start=b"HTTP/1.0 102") * 300
        + response(b"Content-Length: 5", body=b"hello"),
        5, b"hello", True,
    ),
    "a hundred fields": (b"GET", response(*[b"A: b"] * 99, b"Content-Length: 0"), 0, b"", True),
}  # fmt: skip


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", BODIES)
def test_a_response_is_framed_by_its_head(name: str, feed: Feed) -> None:
    method, data, length, payload, reusable = BODIES[name]
    client = asked(method)
    assert not client.reusable
    first, *rest = ask(client, feed(data))
    assert isinstance(first, ResponseHead)
    assert first.length == length
    assert rest == ([payload, END] if payload else [END])
    assert client.reusable is reusable


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("junk", [b"\r\n", b"x", response(b"Content-Length: 0")])
@pytest.mark.parametrize("name", BODIES)
def test_a_byte_after_the_end_of_a_response_spoils_the_connection(name: str, junk: bytes, feed: Feed) -> None:
    method, data, _, payload, _ = BODIES[name]
    client = asked(method)
    _, *rest = ask(client, feed(data + junk))
    assert rest == ([payload, END] if payload else [END])
    assert not client.reusable
    with pytest.raises(RuntimeError):
        client.send_head(b"GET", b"/", HOST, 0)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK"])
def test_a_body_without_framing_ends_with_the_connection(start: bytes, feed: Feed) -> None:
    client = asked()
    first, *rest = ask(client, feed(response(start=start, body=b"hello\r\n\r\n")), eof=True)
    assert first == ResponseHead(200, Headers(), None)
    assert rest == [b"hello\r\n\r\n", END]
    assert not client.reusable


CUT = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 O",
    "an informational response alone": response(start=b"HTTP/1.1 100 Continue"),
    "a short body": response(b"Content-Length: 5", body=b"hell"),
    "no body at all": response(b"Content-Length: 5"),
    "chunks without the last": response(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
    "half a chunk": response(b"Transfer-Encoding: chunked", body=b"5\r\nhel"),
    "no empty line after the last chunk": response(b"Transfer-Encoding: chunked", body=b"0\r\n"),
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", CUT)
def test_a_response_cut_short_is_a_fault_after_what_came(name: str, feed: Feed) -> None:
    client = asked()
    seen = ask(client, feed(CUT[name]), eof=True)
    assert seen[-1] == FAULT
    assert END not in seen
    assert not client.reusable
    kept = CUT[name].partition(b"\r\n\r\n")[2]
    assert not kept.startswith(b"hell") or kept in seen


@pytest.mark.parametrize("feed", FEEDS)
def test_what_came_before_broken_framing_is_kept(feed: Feed) -> None:
    client = asked()
    data = response(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n-1\r\nbad")
    assert ask(client, feed(data)) == [
        ResponseHead(200, Headers([(b"Transfer-Encoding", b"chunked")]), None),
        b"hello",
        FAULT,
    ]
    assert not client.reusable


def test_a_fault_behind_good_events_is_reported_at_once_and_raised_by_what_follows() -> None:
    client = asked()
    _, parts, ended = client.receive(response(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\nzz"))
    assert (parts, ended) == ([b"hello"], False)
    assert client.failed is not None
    with pytest.raises(PeerError) as raised:
        client.receive_eof()
    assert raised.value is client.failed


def test_the_end_of_an_idle_connection_and_bytes_on_it_spoil_it_without_a_fault() -> None:
    client = ClientCodec(LIMITS)
    assert client.reusable
    assert not client.receive_eof()
    assert not client.reusable
    client = ClientCodec(LIMITS)
    assert client.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n") == NOTHING
    assert not client.reusable


def test_a_clean_connection_serves_many_exchanges() -> None:
    client = ClientCodec(LIMITS)
    for _ in range(3):
        client.send_head(b"HEAD", b"/", HOST, 0)
        assert client.receive(response(b"Content-Length: 5"))[2]
        client.send_head(b"GET", b"/", HOST, 0)
        assert client.receive(response(b"Content-Length: 5", body=b"hello"))[2]
    assert client.reusable


def test_an_exchange_does_not_begin_before_the_last_one_ended() -> None:
    client = asked()
    with pytest.raises(RuntimeError):
        client.send_head(b"GET", b"/", HOST, 0)


def test_informational_responses_are_counted_for_each_exchange() -> None:
    client = ClientCodec(LIMITS)
    for _ in range(3):
        client.send_head(b"GET", b"/", HOST, 0)
        hints = response(start=b"HTTP/1.1 103 Hints") * 1000
        assert client.receive(hints + response(b"Content-Length: 0"))[2]


def test_fields_whose_value_may_not_be_passed_on_are_left_out() -> None:
    client = asked()
    head = client.receive(response(b"Content-Type: text/\x01plain", b"A: \x7f", b"B: c", b"Content-Length: 0"))[0]
    assert isinstance(head, ResponseHead)
    assert list(head.headers) == [(b"b", b"c"), (b"content-length", b"0")]


def test_white_space_around_a_value_is_not_part_of_it() -> None:
    head = asked().receive(response(b"A: b ", b"C:d", b"E:   f", b"G: \t", b"Content-Length: 0"))[0]
    assert isinstance(head, ResponseHead)
    assert list(head.headers)[:-1] == [(b"a", b"b"), (b"c", b"d"), (b"e", b"f"), (b"g", b"")]
    assert plain_response_head(response(b"A: b "), 0, LIMITS) is None


def test_equal_repeated_lengths_are_one_header() -> None:
    head = asked().receive(response(b"Content-Length: 5", b"A: b", b"Content-Length: 5"))[0]
    assert isinstance(head, ResponseHead)
    assert list(head.headers) == [(b"content-length", b"5"), (b"a", b"b")]


def test_a_folded_header_becomes_one_line() -> None:
    head = asked().receive(response(b"A: b", b"  c", b"Content-Length: 0"))[0]
    assert isinstance(head, ResponseHead)
    assert head.headers.get(b"a") == b"b c"


@pytest.mark.parametrize(
    ("method", "length", "framing"),
    [
        (b"GET", 0, b""),
        (b"HEAD", 0, b""),
        (b"DELETE", 0, b""),
        (b"OPTIONS", 0, b""),
        (b"POST", 0, b"content-length: 0\r\n"),
        (b"PUT", 0, b"content-length: 0\r\n"),
        (b"GET", 5, b"content-length: 5\r\n"),
        (b"POST", 12345, b"content-length: 12345\r\n"),
        (b"POST", None, b"transfer-encoding: chunked\r\n"),
        (b"GET", None, b"transfer-encoding: chunked\r\n"),
    ],
)
def test_a_request_head_says_how_its_body_is_framed(method: bytes, length: int | None, framing: bytes) -> None:
    sent = ClientCodec(LIMITS).send_head(method, b"/a?b=c", HOST, length)
    assert sent == method + b" /a?b=c HTTP/1.1\r\nhost: example.com\r\n" + framing + b"\r\n"


@settings(max_examples=100)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=4), max_size=5))
def test_a_request_in_chunks_is_read_by_h11_as_it_was_sent(writes: list[list[bytes]]) -> None:
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(ClientCodec(LIMITS).send_head(b"PUT", b"/x", HOST, None))
    for parts in writes:
        if sent := b"".join(encode_chunk(parts)):
            oracle.receive_data(sent)
    oracle.receive_data(LAST_CHUNK)
    head = oracle.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (b"PUT", b"/x")
    payload = b""
    while isinstance(event := oracle.next_event(), h11.Data):
        payload += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert payload == b"".join(part for parts in writes for part in parts)


def test_a_chunk_holds_its_parts_by_reference_and_no_bytes_make_no_chunk() -> None:
    parts: list[Buffer] = [b"hello", memoryview(b", world")]
    size, *sent, end = encode_chunk(parts)
    assert (size, end) == (b"c\r\n", b"\r\n")
    assert [one is other for one, other in zip(sent, parts, strict=True)] == [True, True]
    assert encode_chunk([]) == encode_chunk([b""]) == []


VALID = [
    *(data for _, data, *_ in BODIES.values()),
    *CUT.values(),
    response(body=b"until close"),
    response(
        b"Content-Type: application/json",
        b"Stream-Next-Offset: 0000000000000000_0000000000000123",
        b"Date: Mon, 01 Jan 2024 00:00:00 GMT",
        b"Connection: keep-alive",
        b"Content-Length: 2",
        body=b"{}",
    ),
]
FUZZ = st.one_of(st.binary(max_size=300), mutations(VALID), mutations(list(REFUSED.values())))
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST"])


@settings(max_examples=500)
@given(METHODS, FUZZ, cuts, cuts)
def test_any_bytes_in_any_split_give_the_same_events_and_only_declared_faults(
    method: bytes, data: bytes, one: list[int], other: list[int]
) -> None:
    for limits in (LIMITS, SMALL_LIMITS):
        seen = []
        for places in (one, other):
            client = asked(method, limits)
            events = ask(client, cut_at(data, places))
            reusable = client.reusable
            seen.append((events, reusable, ask(client, [], eof=True)))
        assert seen[0] == seen[1]
        assert_valid(seen[0][0])


@settings(max_examples=100)
@given(METHODS, FUZZ)
def test_any_bytes_one_by_one_give_what_they_give_at_once(method: bytes, data: bytes) -> None:
    assert ask(asked(method), byte_by_byte(data), eof=True) == ask(asked(method), whole(data), eof=True)


def assert_valid(seen: Seen) -> None:
    """What a head tells may be passed on as it is."""
    for event in seen:
        if isinstance(event, ResponseHead):
            assert 200 <= event.status < 600
            assert Headers(event.headers) == event.headers


@settings(max_examples=600)
@given(st.one_of(mutations(VALID), mutations(list(REFUSED.values())), st.binary(max_size=200)))
def test_the_short_way_gives_what_the_long_way_gives_or_nothing(data: bytes) -> None:
    for limits in (LIMITS, SMALL_LIMITS):
        plain = plain_response_head(data, 0, limits)
        if plain is not None:
            head, end = plain
            assert end <= limits.head_bytes
            assert data.find(b"\r\n\r\n") + 4 == end
            assert _long_way(data[:end], limits) == head


def _long_way(data: bytes, limits: HeadLimits) -> ResponseHead:
    """The head of a response that keeps its connection."""
    lines = response_lines(data, limits)
    length, chunked, keep_alive = response_framing(lines, b"POST")
    assert keep_alive
    assert chunked is (length is None)
    return ResponseHead(lines.status, Headers.trusted(lines.fields), length)


@pytest.mark.parametrize("status", [b"200 OK", b"200", b"409 Conflict", b"502 "])
@pytest.mark.parametrize("framing", [b"Content-Length: 0", b"content-length: 123", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("connection", [b"Connection: Keep-Alive", b"Connections: many"])
def test_ordinary_responses_take_the_short_way(status: bytes, framing: bytes, connection: bytes) -> None:
    data = response(b"A: b c", framing, b"X_Y: z", connection, start=b"HTTP/1.1 " + status)
    for place in (0, 7):
        found = plain_response_head(b"x" * place + data, place, LIMITS)
        assert found == (_long_way(data, LIMITS), place + len(data))


def test_a_plain_204_takes_the_short_way() -> None:
    data = response(b"Stream-Next-Offset: 5", start=b"HTTP/1.1 204 No Content")
    assert plain_response_head(data, 0, LIMITS) == (_long_way(data, LIMITS), len(data))


@settings(max_examples=600)
@given(mutations([INFORMATIONAL, *REFUSED.values()]))
def test_an_informational_response_is_passed_over_only_when_the_long_way_accepts_it(data: bytes) -> None:
    if is_plain_informational(data, LIMITS):
        assert 100 <= response_lines(data, LIMITS).status < 200


def test_an_ordinary_informational_response_takes_the_short_way() -> None:
    assert is_plain_informational(INFORMATIONAL, LIMITS)
    assert not is_plain_informational(response(b"Upgrade: x", start=b"HTTP/1.1 101 Switching Protocols"), LIMITS)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"Content-Length: 1", b"Content-Length: 1"),
        (b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: gzip, chunked",),
        (b"Content-Length: 01",),
        (b"Content-Length: 1", b"Connection: close"),
        (b"Content-Length: 1", b"Connection: keep-alive, close"),
        (b"Content-Length: 1", b"A:b"),
        (b"Content-Length: 1", b"A: b "),
    ],
)
def test_a_response_that_says_more_or_less_than_its_length_goes_the_long_way(lines: tuple[bytes, ...]) -> None:
    assert plain_response_head(response(*lines), 0, LIMITS) is None


@settings(max_examples=300)
@given(mutations(VALID))
def test_what_is_accepted_h11_reads_alike(data: bytes) -> None:
    """h11 as the whole client: the same status, payload and end; what it rejects, we reject."""
    client = asked()
    seen = ask(client, [data], eof=True)
    oracle = h11.Connection(h11.CLIENT, max_incomplete_event_size=40_000)
    oracle.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    oracle.send(h11.EndOfMessage())
    status, payload, ended = 0, b"", False
    try:
        if data:
            oracle.receive_data(data)
        oracle.receive_data(b"")
        while not ended:
            event = oracle.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                payload += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                ended = True
            elif not isinstance(event, h11.InformationalResponse):
                break
    except h11.RemoteProtocolError:
        pass
    if seen[-1] == END:
        assert isinstance(seen[0], ResponseHead)
        assert (seen[0].status, ended or status == 205) == (status, True)
        assert status == 205 or b"".join(part for part in seen if isinstance(part, bytes)) == payload
