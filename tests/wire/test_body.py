"""Body framing: what h11 decodes, we decode; what it rejects, we reject; where we are stricter, the test says so."""

import re
from collections.abc import Callable, Iterable, Iterator

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.wire.body import BodyDecoder, ChunkedDecoder, LengthDecoder, UntilCloseDecoder
from proxy.wire.events import HeadLimits
from tests.wire.feeding import LIMITS, byte_by_byte, cut_at, cuts, decode, mutations, whole

FEEDS = [whole, byte_by_byte]
Feed = Callable[[bytes], Iterator[bytes]]


def chunked(limits: HeadLimits = LIMITS) -> ChunkedDecoder:
    return ChunkedDecoder(limits)


def chunks(*payloads: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads)


GOOD = {
    "nothing": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "a size in upper case": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "leading zeros": (b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", b"hello"),
    "several chunks": (chunks(b"a", b"bc", b"d" * 300) + b"0\r\n\r\n", b"abc" + b"d" * 300),
    "a payload that looks like framing": (chunks(b"0\r\n\r\n") + b"0\r\n\r\n", b"0\r\n\r\n"),
    "a chunk extension": (b"5;name=value\r\nhello\r\n0;last\r\n\r\n", b"hello"),
    "an extension of 256 bytes": (b"5;" + b"x" * 255 + b"\r\nhello\r\n0\r\n\r\n", b"hello"),
    "a longest size and a longest extension": (b"0" * 15 + b"5;" + b"x" * 255 + b"\r\nhello\r\n0\r\n\r\n", b"hello"),
    "an extension outside ASCII": (b"5;a=\xc3\xa9\r\nhello\r\n0\r\n\r\n", b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nDigest: abc\r\nX-Empty:\r\n\r\n", b"hello"),
    "a hundred trailers": (b"0\r\n" + b"a: b\r\n" * 100 + b"\r\n", b""),
}

BAD = {
    "no size": b"\r\nhello\r\n",
    "a size that is no number": b"xyz\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "a minus": b"-5\r\nhello\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "an underscore": b"1_0\r\n0123456789abcdef\r\n",
    "a space before the size": b" 5\r\nhello\r\n",
    "a space after the size": b"5 \r\nhello\r\n",
    "a tab after the size": b"5\t\r\nhello\r\n",
    "a space before the extension": b"5 ;a\r\nhello\r\n",
    "17 digits": b"00000000000000005\r\nhello\r\n",
    "17 significant digits": b"10000000000000000\r\nhello\r\n",
    "digits of another script": "٥\r\nhello\r\n".encode(),
    "an extension of 257 bytes": b"5;" + b"x" * 256 + b"\r\nhello\r\n",
    "an extension without an end": b"5;" + b"x" * 100_000,
    "a control in an extension": b"5;a=\x01\r\nhello\r\n",
    "NUL in an extension": b"5;a=\x00\r\nhello\r\n",
    "a tab in an extension": b"5;\ta\r\nhello\r\n",
    "a bare LF after the size": b"5\nhello\r\n",
    "a bare LF in an extension": b"5;a\nhello\r\n",
    "a bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "a bare CR after the size": b"5\rhello\r\n",
    "a bare LF after the size of the last chunk": b"0\n\n",
    "a bare LF at the very end": b"0\r\n\n",
    "a bare CR at the very end": b"0\r\n\rx",
    "a trailer without a colon": b"0\r\ntrailer\r\n\r\n",
    "a trailer without a name": b"0\r\n: value\r\n\r\n",
    "a trailer with a space before its colon": b"0\r\nname : value\r\n\r\n",
    "a folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "a control in a trailer": b"0\r\na: \x07\r\n\r\n",
    "a trailer ended by a bare LF": b"0\r\na: b\n\r\n",
    "101 trailers": b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    "a trailer without an end": b"0\r\na: " + b"x" * 100_000,
    "trailers of too many bytes": b"0\r\n" + (b"a: " + b"x" * 1000 + b"\r\n") * 40 + b"\r\n",
}

BAD_AFTER_PAYLOAD = {
    "data longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "data followed by a bare LF": b"5\r\nhello\n0\r\n\r\n",
    "data followed by CR alone": b"5\r\nhello\rX0\r\n\r\n",
    "data followed by the next size": b"5\r\nhello0\r\n\r\n",
    "a broken second size": b"5\r\nhello\r\nzz\r\n",
    "a negative second size": b"5\r\nhello\r\n-1\r\n",
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("rest", [b"", b"\r\n", b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("name", GOOD)
def test_a_good_chunked_body_gives_its_payload_and_leaves_what_follows(name: str, rest: bytes, feed: Feed) -> None:
    stream, payload = GOOD[name]
    decoder = chunked()
    assert decode(decoder, feed(stream + rest)) == (payload, rest)
    assert decoder.done
    assert decoder.failed is None


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_chunked_body_fails_without_payload(name: str, feed: Feed) -> None:
    decoder = chunked()
    assert decode(decoder, feed(BAD[name])) == (b"", b"")
    assert decoder.failed is not None
    assert decoder.failed.status == 400
    assert not decoder.done


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", BAD_AFTER_PAYLOAD)
def test_payload_before_a_fault_is_kept(name: str, feed: Feed) -> None:
    decoder = chunked()
    assert decode(decoder, feed(BAD_AFTER_PAYLOAD[name])) == (b"hello", b"")
    assert decoder.failed is not None
    assert not decoder.done


@pytest.mark.parametrize("name", GOOD)
def test_a_chunked_body_cut_anywhere_is_neither_done_nor_whole(name: str) -> None:
    stream, payload = GOOD[name]
    for length in range(len(stream)):
        decoder = chunked()
        given_payload, _ = decode(decoder, [stream[:length]])
        assert payload.startswith(given_payload)
        assert decoder.failed is None
        assert not decoder.done
        decoder.receive_eof()
        assert decoder.failed is not None
        assert not decoder.done


LENIENT = {
    "a space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a tab after the size": b"5\t\r\nhello\r\n0\r\n\r\n",
    "many blanks after each size": b"5" + b" " * 256 + b"\r\nhello\r\n0 \t \r\n\r\n",
}


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", LENIENT)
def test_blanks_after_a_size_are_read_over_in_a_response(name: str, feed: Feed) -> None:
    decoder = ChunkedDecoder(LIMITS, is_lenient=True)
    assert decode(decoder, feed(LENIENT[name] + b"rest")) == (b"hello", b"rest")
    assert decoder.done


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", sorted(BAD.keys() - LENIENT.keys()))
def test_nothing_else_is_read_over_in_a_response(name: str, feed: Feed) -> None:
    decoder = ChunkedDecoder(LIMITS, is_lenient=True)
    assert decode(decoder, feed(BAD[name])) == (b"", b"")
    assert decoder.failed is not None


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize(
    ("stream", "payload"),
    [
        (chunks(b"x" * 10, b"y" * 11), b"x" * 10),
        (chunks(b"x" * 20, b"y"), b"x" * 20),
        (chunks(b"x" * 10) + b"b\r\n", b"x" * 10),
        (b"15\r\n", b""),
        (b"ffffffffffffffff\r\n", b""),
        (chunks(*[b"x"] * 21), b"x" * 20),
    ],
)
def test_a_chunk_that_exceeds_the_bound_fails_as_soon_as_its_size_is_known(
    stream: bytes, payload: bytes, feed: Feed
) -> None:
    decoder = ChunkedDecoder(LIMITS, 20)
    assert decode(decoder, feed(stream)) == (payload, b"")
    assert decoder.failed is not None
    assert decoder.failed.status == 413


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=8), cuts, st.booleans())
def test_a_body_of_exactly_the_bound_passes_in_any_split(
    payloads: list[bytes], places: list[int], is_over: bool
) -> None:
    size = sum(map(len, payloads))
    decoder = ChunkedDecoder(LIMITS, size - is_over)
    payload, _ = decode(decoder, cut_at(chunks(*payloads) + b"0\r\n\r\n", places))
    if is_over and payloads:
        assert (payload, decoder.done) == (b"".join(payloads[:-1]), False)
    elif not is_over:
        assert (payload, decoder.done) == (b"".join(payloads), True)


def test_an_unfinished_size_line_is_refused_once_it_is_too_long_to_be_one() -> None:
    decoder = chunked()
    fed = 0
    while decoder.failed is None:
        decoder.receive(b"5;x" if fed == 0 else b"x")
        fed += 1
    assert fed < 300


def test_large_chunks_pass_through_as_views_of_the_received_buffer() -> None:
    for size in (64 * 1024, 256 * 1024):
        data = chunks(b"x" * size)
        (part,) = chunked().receive(data)
        assert isinstance(part, memoryview)
        assert part.obj is data
        assert len(part) == size


def test_a_chunk_larger_than_a_read_passes_through_as_the_received_buffers() -> None:
    decoder = chunked()
    decoder.receive(b"30000\r\n")
    data = b"y" * 0x10000
    assert [decoder.receive(data)[0] is data for _ in range(3)] == [True] * 3
    decoder.receive(b"\r\n0\r\n\r\n")
    assert decoder.done


def test_tiny_chunks_of_one_read_are_joined() -> None:
    assert chunked().receive(chunks(*[b"token"] * 1000)) == [b"token" * 1000]


def test_tiny_chunks_are_joined_around_large_ones_in_order() -> None:
    large = b"L" * 10_000
    parts = chunked().receive(chunks(b"a", b"b", large, b"c", large, large, b"d"))
    assert [bytes(part) for part in parts] == [b"ab", large, b"c", large, large, b"d"]


@pytest.mark.parametrize("feed", FEEDS)
def test_a_body_of_known_length_ends_at_its_length(feed: Feed) -> None:
    decoder = LengthDecoder(5)
    assert decode(decoder, feed(b"hello, and more")) == (b"hello", b", and more")
    assert decoder.done


def test_a_body_of_length_zero_is_done_at_once() -> None:
    assert LengthDecoder(0).done


def test_a_body_of_known_length_passes_whole_reads_through_uncopied() -> None:
    data = b"z" * 100_000
    assert LengthDecoder(1_000_000).receive(data)[0] is data
    (part,) = LengthDecoder(99_999).receive(data)
    assert isinstance(part, memoryview)
    assert part.obj is data


def test_a_body_that_starts_within_a_read_is_taken_from_there() -> None:
    head, body = b"HEAD", b"x" * 5000
    for decoder in (LengthDecoder(5000), UntilCloseDecoder()):
        (part,) = decoder.receive(head + body, 4)
        assert bytes(part) == body
    (part,) = chunked().receive(head + chunks(body), 4)
    assert bytes(part) == body


def test_a_short_body_is_a_fault() -> None:
    decoder = LengthDecoder(10)
    decoder.receive(b"123")
    decoder.receive_eof()
    assert decoder.failed is not None
    assert "7 bytes short" in decoder.failed.fault
    assert not decoder.done


def test_a_body_until_close_is_done_at_the_end_of_the_connection() -> None:
    decoder = UntilCloseDecoder()
    assert decode(decoder, [b"a", b"bc"]) == (b"abc", b"")
    assert not decoder.done
    decoder.receive_eof()
    assert decoder.done
    assert decoder.failed is None


STRICTER = [
    re.compile(rb"(?:^|\n)[0-9A-Fa-f]+[ \t]+(?:\r\n|;)"),  # white space after the size
    re.compile(rb"[0-9A-Fa-f]{17}"),  # h11 takes 20 digits
    re.compile(rb";[^\n]*[\x00-\x0c\x0e-\x1f\x7f]"),  # controls in an extension
    re.compile(rb";[^\n]*\r[^\n]"),  # a bare CR in an extension
    re.compile(rb"0\r\n(?:[^\n]*\n)*[ \t]"),  # a folded trailer
    re.compile(rb"0\r\n(?:[^\n]*\n)*[^\n]*:[^\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),  # controls in a trailer
    re.compile(rb"0(?:;[^\n]*)?\r\n(?:[^\n]*\n)*[^\n]*(?<!\r)\n"),  # a bare LF in trailers
    re.compile(rb"0(?:;[^\n]*)?\r\n(?:[^\n]*\n)*[^\n]*\r[^\n]"),  # a bare CR in trailers
]
"""What we refuse by contract and h11 does not. Nothing else may differ."""


class Oracle:
    """h11 as a client that receives a response body."""

    def __init__(self, framing: bytes) -> None:
        self.connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
        self.connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
        self.connection.send(h11.EndOfMessage())
        self.connection.receive_data(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        assert isinstance(self.connection.next_event(), h11.Response)
        self.payload = b""
        self.done = False
        self.failed = False

    def feed(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            if self.failed or self.done or not piece:  # to h11 an empty piece is the end
                continue
            self.connection.receive_data(piece)
            self._read()

    def eof(self) -> None:
        if not self.failed and not self.done:
            self.connection.receive_data(b"")
            self._read()

    def _read(self) -> None:
        try:
            while not self.done:
                event = self.connection.next_event()
                if isinstance(event, h11.Data):
                    self.payload += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.done = True
                else:
                    return
        except h11.RemoteProtocolError:
            self.failed = True


FRAGMENTS = st.one_of(
    st.binary(max_size=12),
    st.binary(max_size=40).map(lambda payload: chunks(payload) if payload else b"0\r\n\r\n"),
    st.sampled_from(
        [
            b"0\r\n",
            b"\r\n",
            b"5\r\n",
            b"5;a\r\n",
            b"hello",
            b"a: b\r\n",
            b" ",
            b"\n",
            b"\r",
            b"0;x\r\n\r\n",
            b"ffff\r\n",
        ]
    ),
)
STREAMS = st.one_of(
    st.binary(max_size=60),
    st.lists(FRAGMENTS, max_size=8).map(b"".join),
    mutations([stream for stream, _ in GOOD.values()] + list(BAD_AFTER_PAYLOAD.values())),
)


@settings(max_examples=600)
@given(STREAMS, cuts)
@example(b"5\r\nhello\r\n0\r\nx\r\n\r\n", [])
@example(b"zz", [1])
@example(b"0 ", [])
def test_any_chunked_bytes_in_any_split_give_what_h11_gives(stream: bytes, places: list[int]) -> None:
    decoder = chunked()
    payload, rest = decode(decoder, cut_at(stream, places))
    oracle = Oracle(b"Transfer-Encoding: chunked")
    oracle.feed([stream])
    if decoder.failed is None:
        assert (payload, decoder.done, False) == (oracle.payload, oracle.done, oracle.failed)
        assert not decoder.done or rest == (oracle.connection.trailing_data[0] or b"")
        return
    assert oracle.payload.startswith(payload)
    line_ends = b"\r\n\r\n"  # h11 looks at a line when it is whole, we while it grows
    oracle.feed([line_ends])
    if not oracle.failed or payload != oracle.payload:
        assert any(pattern.search(stream + line_ends) for pattern in STRICTER)


@settings(max_examples=300)
@given(STREAMS, cuts, cuts)
def test_the_split_does_not_change_what_is_decoded(stream: bytes, one: list[int], other: list[int]) -> None:
    seen = []
    for places in (one, other):
        decoder = chunked(HeadLimits(head_bytes=20, fields=2, target_bytes=1))
        result = decode(decoder, cut_at(stream, places))
        seen.append((result, decoder.done, decoder.failed is not None))
    assert seen[0] == seen[1]


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=20), cuts)
def test_what_is_encoded_in_chunks_is_decoded_to_the_same(payloads: list[bytes], places: list[int]) -> None:
    decoder: BodyDecoder = chunked()
    stream = chunks(*payloads) + b"0\r\n\r\n"
    assert decode(decoder, cut_at(stream, places)) == (b"".join(payloads), b"")
    assert decoder.done


@settings(max_examples=100)
@given(st.binary(max_size=60), st.integers(0, 50), cuts)
def test_any_bytes_of_known_length_give_what_h11_gives(stream: bytes, length: int, places: list[int]) -> None:
    decoder = LengthDecoder(length)
    oracle = Oracle(b"Content-Length: %d" % length)
    oracle.feed([stream])
    oracle._read()
    payload, rest = decode(decoder, cut_at(stream, places))
    assert (payload, decoder.done) == (oracle.payload, oracle.done)
    assert rest == stream[length:]
    if not decoder.done:
        decoder.receive_eof()
        oracle.eof()
        assert decoder.failed is not None
        assert oracle.failed


@settings(max_examples=50)
@given(st.binary(max_size=60), cuts)
def test_any_bytes_until_close_give_what_h11_gives(stream: bytes, places: list[int]) -> None:
    decoder = UntilCloseDecoder()
    oracle = Oracle(b"Connection: close")
    oracle.feed([stream])
    oracle.eof()
    payload, _ = decode(decoder, cut_at(stream, places))
    decoder.receive_eof()
    assert (payload, decoder.done) == (oracle.payload, oracle.done) == (stream, True)
