"""HTTP/2 as raw frames: what breaks a connection, what breaks one stream, what breaks nothing, and what floods cost."""

from collections.abc import Callable
from struct import pack

import pytest
from hpack import Encoder

from proxy.wire.frames import (
    FRAME_BYTES,
    MAX_WINDOW,
    PREFACE,
    ErrorCode,
    FrameType,
    goaway_frame,
    headers_frame,
    ping_frame,
    raw_frame,
    reset_frame,
    settings_frame,
    window_frame,
)
from proxy.wire.h2_events import DataReceived, ExchangeReset, RequestReceived, RequestRefused
from proxy.wire.h2_exchange import CodecSettings
from proxy.wire.headers import Headers
from tests.wire.h2_kit import (
    GET,
    LIMITS,
    OPENING,
    POST,
    Fields,
    client,
    data,
    feed,
    h2_side,
    heads,
    sent_by,
    server,
    tell_h2,
)

HOST = Headers([(b"host", b"h")])
BEGUN = heads(1, POST, ended=False)
ENDED = heads(1, GET)
BLOCK = heads(1, GET)[9:]
BOMB = BLOCK + Encoder().encode([(b"x-large", bytes(3000))], huffman=False) + 2000 * b"\xbe"

CONNECTION_FAULTS = {
    "not the preface": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "a first frame that is not SETTINGS": (PREFACE + ping_frame(b"12345678"), 1),
    "a first frame that acknowledges settings": (PREFACE + raw_frame(FrameType.SETTINGS, 1, 0, b""), 1),
    "DATA of no stream": (OPENING + data(0, b"x"), 1),
    "DATA before its head": (OPENING + data(1, b"x"), 1),
    "HEADERS of no stream": (OPENING + heads(0, GET), 1),
    "HEADERS of an even stream": (OPENING + heads(2, GET), 1),
    "RST_STREAM of no stream": (OPENING + reset_frame(0, 8), 1),
    "RST_STREAM before its head": (OPENING + reset_frame(1, 8), 1),
    "WINDOW_UPDATE before its head": (OPENING + window_frame(1, 8), 1),
    "WINDOW_UPDATE of nothing": (OPENING + window_frame(0, 0), 1),
    "a connection window that overflows": (OPENING + window_frame(0, MAX_WINDOW), 3),
    "PRIORITY of no stream": (OPENING + raw_frame(FrameType.PRIORITY, 0, 0, bytes(5)), 1),
    "SETTINGS of a stream": (OPENING + raw_frame(FrameType.SETTINGS, 0, 1, b""), 1),
    "PING of a stream": (OPENING + raw_frame(FrameType.PING, 0, 1, bytes(8)), 1),
    "GOAWAY of a stream": (OPENING + raw_frame(FrameType.GOAWAY, 0, 1, bytes(8)), 1),
    "a push by a client": (OPENING + raw_frame(FrameType.PUSH_PROMISE, 4, 1, bytes(4) + BLOCK), 1),
    "a large frame": (OPENING + BEGUN + raw_frame(FrameType.DATA, 0, 1, bytes(FRAME_BYTES + 1)), 6),
    "a large unknown frame": (OPENING + pack(">HBBBL", 255, 0, 77, 0, 0), 6),
    "a short PING": (OPENING + raw_frame(FrameType.PING, 0, 0, bytes(7)), 6),
    "a short RST_STREAM": (OPENING + BEGUN + raw_frame(FrameType.RST_STREAM, 0, 1, bytes(3)), 6),
    "a long WINDOW_UPDATE": (OPENING + raw_frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(5)), 6),
    "a short PRIORITY": (OPENING + raw_frame(FrameType.PRIORITY, 0, 1, bytes(4)), 6),
    "half a setting": (OPENING + raw_frame(FrameType.SETTINGS, 0, 0, bytes(7)), 6),
    "an acknowledgement with settings": (OPENING + raw_frame(FrameType.SETTINGS, 1, 0, bytes(6)), 6),
    "a short GOAWAY": (OPENING + raw_frame(FrameType.GOAWAY, 0, 0, bytes(7)), 6),
    "HEADERS shorter than their priority": (OPENING + raw_frame(FrameType.HEADERS, 0x24, 1, bytes(4)), 6),
    "padding longer than DATA": (OPENING + BEGUN + raw_frame(FrameType.DATA, 8, 1, b"\x05abcd"), 1),
    "padding longer than HEADERS": (OPENING + raw_frame(FrameType.HEADERS, 0xC, 1, b"\x05abcd"), 1),
    "padding without a length": (OPENING + BEGUN + raw_frame(FrameType.DATA, 8, 1, b""), 1),
    "DATA within a head": (OPENING + heads(1, GET, flags=0) + data(1, b""), 1),
    "an unknown frame within a head": (OPENING + heads(1, GET, flags=0) + pack(">HBBBL", 0, 0, 77, 0, 0), 1),
    "another's continuation": (OPENING + heads(1, GET, flags=0) + raw_frame(FrameType.CONTINUATION, 4, 3, b""), 1),
    "a continuation of nothing": (OPENING + raw_frame(FrameType.CONTINUATION, 4, 1, b""), 1),
    "nine continuations": (
        OPENING + heads(1, GET, flags=0) + 9 * raw_frame(FrameType.CONTINUATION, 0, 1, b""), 11,
    ),
    "a block that is too large": (OPENING + raw_frame(FrameType.HEADERS, 4, 1, bytes(LIMITS.head_bytes + 1)), 11),
    "a head that unpacks to far more": (OPENING + headers_frame(1, BOMB, ended=True), 11),
    "an index that does not exist": (OPENING + headers_frame(1, b"\xff\xff\x07", ended=True), 9),
    "a table larger than announced": (OPENING + headers_frame(1, b"\x3f\xe2\x1f" + BLOCK, ended=True), 9),
    "a number without an end": (OPENING + headers_frame(1, b"\xff" + 20 * b"\xff", ended=True), 9),
    "a window of more than 2^31-1": (PREFACE + settings_frame([(4, 2**31)]), 3),
    "a frame size below 2^14": (PREFACE + settings_frame([(5, 16_383)]), 1),
    "ENABLE_PUSH of 2": (PREFACE + settings_frame([(2, 2)]), 1),
    "33 settings": (PREFACE + settings_frame([(1000 + number, 0) for number in range(33)]), 11),
    "a stream window that settings overflow": (
        OPENING + BEGUN + window_frame(1, MAX_WINDOW - 65_535) + settings_frame([(4, 65_536)]), 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONNECTION_FAULTS)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_breaks_a_connection_ends_in_goaway(case: str, step: int) -> None:
    sent, code = CONNECTION_FAULTS[case]
    codec = server()
    story = feed(codec, [sent[at : at + step] for at in range(0, len(sent), step)])
    assert codec.failed is not None
    assert codec.failed.code == code
    assert all(not seen.end or seen.end.startswith("reset") for seen in story.values())
    assert [line for line in sent_by(codec) if line.startswith("GoAway")] == [f"GoAway 0 {code}"]
    assert codec.receive(OPENING) == []


def test_what_came_before_a_fault_in_the_same_read_is_good() -> None:
    codec = server()
    events = codec.receive(OPENING + BEGUN + data(1, b"body", ended=True) + ping_frame(b"12345678") + data(0, b"x"))
    assert isinstance(events[0], RequestReceived)
    assert events[1] == DataReceived(1, [b"body"], True)
    assert codec.failed is not None
    assert sent_by(codec)[-2:] == ["Ping 0", "GoAway 0 1"]


STREAM_FAULTS = {
    "a window that overflows": (BEGUN, window_frame(1, MAX_WINDOW), 3),
    "a window widened by nothing": (BEGUN, window_frame(1, 0), 1),
    "DATA after its end": (ENDED, data(1, b"x"), 5),
    "a second head after the end": (ENDED, heads(1, GET), 5),
    "more data than the window": (BEGUN, 5 * data(1, bytes(16_000)), 3),
}


@pytest.mark.parametrize("case", STREAM_FAULTS)
def test_what_breaks_a_stream_resets_it_and_nothing_else(case: str) -> None:
    begin, sent, code = STREAM_FAULTS[case]
    codec = server()
    codec.receive(OPENING + begin)
    codec.pause(1)
    events = codec.receive(sent)
    assert events[-1] == ExchangeReset(1, ErrorCode(code), is_ours=True)
    assert f"RstStream 1 {code}" in sent_by(codec)
    codec.release(1)
    assert isinstance(codec.receive(heads(3, GET))[0], RequestReceived)
    assert codec.failed is None


def test_data_that_was_on_its_way_when_we_reset_is_dropped_and_its_credit_returned() -> None:
    codec = server(CodecSettings(LIMITS, 1 << 20, 10), 1 << 30)
    codec.receive(OPENING + BEGUN)
    codec.reset(1, ErrorCode.CANCEL)
    codec.release(1)
    codec.take_output()
    assert codec.receive(300 * data(1, bytes(16_000))) == []
    assert sent_by(codec) == []
    assert codec.failed is None
    stray = server()
    stray.receive(OPENING + BEGUN + reset_frame(1, 8))
    stray.release(1)
    stray.take_output()
    stray.receive(data(1, b"x") + data(1, b"x"))
    assert sent_by(stray) == ["RstStream 1 5"]


BAD_HEADS: dict[str, tuple[Fields, int]] = {
    "a path with a space": ([*GET[:3], (b":path", b"/a b")], 400),
    "a path with a control": ([*GET[:3], (b":path", b"/a\x01")], 400),
    "a path with a line end": ([*GET[:3], (b":path", b"/ HTTP/1.1\r\nx: y")], 400),
    "a path with a fragment": ([*GET[:3], (b":path", b"/a#b")], 400),
    "a path with a backslash": ([*GET[:3], (b":path", b"/\\\\h")], 400),
    "two slashes": ([*GET[:3], (b":path", b"//h/")], 400),
    "the absolute form": ([*GET[:3], (b":path", b"http://h/")], 400),
    "an asterisk of GET": ([*GET[:3], (b":path", b"*")], 400),
    "an empty path": ([*GET[:3], (b":path", b"")], 400),
    "no path": (GET[:3], 400),
    "a path that is too long": ([*GET[:3], (b":path", b"/" + b"a" * LIMITS.target_bytes)], 414),
    "an empty method": ([(b":method", b""), *GET[1:]], 400),
    "no method": (GET[1:], 400),
    "a method with a space": ([(b":method", b"GET /x HTTP/1.1"), *GET[1:]], 400),
    "CONNECT": ([(b":method", b"CONNECT"), (b":authority", b"h:443")], 501),
    "an unknown scheme": ([GET[0], (b":scheme", b"ftp"), *GET[2:]], 400),
    "no scheme": ([GET[0], *GET[2:]], 400),
    "an empty authority": ([*GET[:2], (b":authority", b""), GET[3]], 400),
    "no authority": ([*GET[:2], GET[3]], 400),
    "an authority with a user": ([*GET[:2], (b":authority", b"u@h"), GET[3]], 400),
    "an authority with a port of 0": ([*GET[:2], (b":authority", b"h:0"), GET[3]], 400),
    "an authority and another host": ([*GET, (b"host", b"other")], 400),
    "two hosts": ([*GET, (b"host", b"h"), (b"host", b"h")], 400),
    "a repeated path": ([*GET, (b":path", b"/")], 400),
    "an unknown pseudo-header field": ([*GET, (b":protocol", b"websocket")], 400),
    "a status": ([*GET, (b":status", b"200")], 400),
    "a pseudo-header field behind others": ([*GET[:3], (b"a", b"b"), GET[3]], 400),
    "a name in upper case": ([*GET, (b"X-A", b"b")], 400),
    "an empty name": ([*GET, (b"", b"b")], 400),
    "a name with a colon": ([*GET, (b"a:b", b"c")], 400),
    "a name with a space": ([*GET, (b"a b", b"c")], 400),
    "a name with a line end": ([*GET, (b"a\r\nb", b"c")], 400),
    "a value with a line end": ([*GET, (b"a", b"b\r\nc: d")], 400),
    "a value with a bare line feed": ([*GET, (b"a", b"b\nc")], 400),
    "a value with a zero": ([*GET, (b"a", b"b\0")], 400),
    "a value with a blank before it": ([*GET, (b"a", b" b")], 400),
    "a value with a tab behind it": ([*GET, (b"a", b"b\t")], 400),
    "connection": ([*GET, (b"connection", b"close")], 400),
    "transfer-encoding": ([*GET, (b"transfer-encoding", b"chunked")], 400),
    "upgrade": ([*GET, (b"upgrade", b"h2c")], 400),
    "keep-alive": ([*GET, (b"keep-alive", b"1")], 400),
    "proxy-connection": ([*GET, (b"proxy-connection", b"close")], 400),
    "te of gzip": ([*GET, (b"te", b"gzip")], 400),
    "content_length": ([*GET, (b"content_length", b"5")], 400),
    "transfer_encoding": ([*GET, (b"transfer_encoding", b"chunked")], 400),
    "a length of nothing": ([*GET, (b"content-length", b"")], 400),
    "a length with a sign": ([*GET, (b"content-length", b"+5")], 400),
    "two lengths": ([*GET, (b"content-length", b"0"), (b"content-length", b"0")], 400),
    "a length without a body": ([*GET, (b"content-length", b"5")], 400),
    "a length beyond every limit": ([*GET, (b"content-length", b"9" * 20)], 413),
    "an unknown expectation": ([*GET, (b"expect", b"200-ok")], 417),
    "too many fields": ([*GET, *[(b"a", b"b")] * (LIMITS.fields + 1)], 431),
    "a head that is too large": ([*GET, (b"a", b"b" * (LIMITS.head_bytes - 50)), (b"c", b"d" * 50)], 431),
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_bad_head_is_a_fault_of_its_own_stream(case: str) -> None:
    fields, status = BAD_HEADS[case]
    codec = server()
    codec.receive(OPENING)
    block = Encoder().encode([(name, value, True) for name, value in fields], huffman=True)
    refused, good = codec.receive(headers_frame(1, block, ended=True) + heads(3, GET))
    assert isinstance(refused, RequestRefused)
    assert refused.error.status == status
    assert isinstance(good, RequestReceived)
    assert codec.failed is None
    codec.send_head(1, status, Headers(), 0, ended=True)
    codec.release(1)
    assert "RstStream" not in " ".join(sent_by(codec))


@pytest.mark.parametrize(
    ("origins", "expected"), [([b"http://o"], b"http://o"), ([b"a", b"b"], None), ([b"a b"], None)]
)
def test_a_refused_head_tells_its_origin_if_that_can_be_trusted(origins: list[bytes], expected: bytes | None) -> None:
    codec = server()
    bad = [*GET[:3], (b":path", b"nonsense"), *[(b"origin", origin) for origin in origins]]
    (refused,) = codec.receive(OPENING + heads(1, bad))
    assert isinstance(refused, RequestRefused)
    assert refused.origin == expected


def test_crumbs_of_a_cookie_are_joined_and_the_authority_is_the_host() -> None:
    (event,) = server().receive(OPENING + heads(1, [*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]))
    assert isinstance(event, RequestReceived)
    assert list(event.head.headers) == [(b"host", b"h"), (b"cookie", b"a=1; b=2"), (b"x", b"y")]


LENGTHS = {
    "as declared": (5, [b"hello"], "end"),
    "as declared, in two frames": (5, [b"he", b"llo"], "end"),
    "as declared, ended by an empty frame": (5, [b"hello", b""], "end"),
    "nothing declared": (None, [b"hello"], "end"),
    "nothing at all": (None, [b""], "end"),
    "zero": (0, [b""], "end"),
    "longer": (5, [b"hello!"], "refused 400"),
    "shorter": (5, [b"hell"], "refused 400"),
    "shorter, ended by an empty frame": (5, [b"hell", b""], "refused 400"),
    "zero and a body": (0, [b"x"], "refused 400"),
}


@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize("pad", [None, 0, 9])
@pytest.mark.parametrize("step", [1, 1000])
def test_a_body_is_as_long_as_was_declared(case: str, pad: int | None, step: int) -> None:
    length, pieces, end = LENGTHS[case]
    declared = [] if length is None else [(b"content-length", b"%d" % length)]
    sent = OPENING + heads(1, [*POST, *declared], ended=False)
    for piece in pieces[:-1]:
        sent += data(1, piece, pad=pad)
    sent += data(1, pieces[-1], ended=True, pad=pad)
    codec = server()
    story = feed(codec, [sent[at : at + step] for at in range(0, len(sent), step)])
    assert story[1].end == end
    assert codec.failed is None


@pytest.mark.parametrize("status", [b"200", b"204", b"304"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("declared", [None, 0, 5])
@pytest.mark.parametrize("body", [None, b"", b"hell", b"hello", b"hello!"])
def test_a_response_is_whole_only_if_it_is_as_long_as_declared(
    status: bytes, method: bytes, declared: int | None, body: bytes | None
) -> None:
    codec = client()
    codec.send_head(method, b"https", b"/", HOST, 0)
    head = [(b":status", status), *([] if declared is None else [(b"content-length", b"%d" % declared)])]
    sent = settings_frame([]) + heads(1, head, ended=body is None)
    sent += b"" if body is None else data(1, body, ended=True)
    is_bodiless = method == b"HEAD" or status != b"200"
    is_good = not body if is_bodiless else declared in (None, len(body or b""))
    assert feed(codec, [sent])[1].end == ("end" if is_good else "reset 1")
    assert codec.failed is None


BAD_RESPONSES: dict[str, Fields] = {
    "no status": [(b"a", b"b")],
    "a word": [(b":status", b"abc")],
    "four digits": [(b":status", b"2000")],
    "two digits": [(b":status", b"99")],
    "101": [(b":status", b"101")],
    "600": [(b":status", b"600")],
    "an informational end": [(b":status", b"103")],
    "a request": GET,
    "a name in upper case": [(b":status", b"200"), (b"A", b"b")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "differing lengths": [(b":status", b"200"), (b"content-length", b"0"), (b"content-length", b"1")],
    "a bad length": [(b":status", b"200"), (b"content-length", b"0x")],
}


@pytest.mark.parametrize("case", BAD_RESPONSES)
def test_a_bad_response_ends_its_exchange_alone(case: str) -> None:
    codec = client()
    codec.receive(settings_frame([]))
    for _ in range(2):
        codec.send_head(b"GET", b"https", b"/", HOST, 0)
    story = feed(codec, [heads(1, BAD_RESPONSES[case]) + heads(3, [(b":status", b"200")])])
    assert story[1].end == "reset 1"
    assert story[3].end == "end"
    assert codec.failed is None


def test_a_client_refuses_pushes_streams_of_the_server_and_bodies_without_a_head() -> None:
    for sent in (
        raw_frame(FrameType.PUSH_PROMISE, 4, 1, pack(">L", 2) + BLOCK),
        heads(2, [(b":status", b"200")]),
        heads(3, [(b":status", b"200")]),
        data(1, b"x"),
    ):
        codec = client()
        codec.send_head(b"GET", b"https", b"/", HOST, 0)
        codec.receive(settings_frame([]) + sent)
        assert codec.failed is not None
        assert codec.failed.code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(("count", "end"), [(16, "end"), (17, "reset 11")])
def test_informational_heads_are_bounded(count: int, end: str) -> None:
    codec = client()
    codec.send_head(b"GET", b"https", b"/", HOST, 0)
    sent = count * heads(1, [(b":status", b"103")], ended=False) + heads(1, [(b":status", b"200")])
    assert feed(codec, [settings_frame([]) + sent])[1].end == end


@pytest.mark.parametrize("fields", [[(b":path", b"/")], [(b"connection", b"close")], [(b"A", b"b")]])
def test_bad_trailers_spoil_the_body(fields: Fields) -> None:
    codec = server()
    story = feed(codec, [OPENING + BEGUN + data(1, b"x") + heads(1, fields) + heads(3, GET)])
    assert story[1].end == "refused 400"
    assert story[3].end == "end"


def test_trailers_must_end_the_stream() -> None:
    story = feed(server(), [OPENING + BEGUN + heads(1, [(b"a", b"b")], ended=False) + heads(3, GET)])
    assert story[1].end == "refused 400"
    assert story[3].end == "end"


# What a peer may do to our memory and our CPU


def test_one_stream_too_many_is_refused_and_the_client_may_ask_again() -> None:
    codec = server(CodecSettings(LIMITS, 65_535, 2))
    story = feed(codec, [OPENING + b"".join([heads(stream, GET, ended=False) for stream in (1, 3, 5, 7)])])
    assert sorted(story) == [1, 3]
    assert sent_by(codec)[-2:] == ["RstStream 5 7", "RstStream 7 7"]
    codec.receive(reset_frame(1, 8))
    codec.release(1)
    assert isinstance(codec.receive(heads(9, GET))[0], RequestReceived)


def test_exchanges_that_were_reset_count_until_they_are_released() -> None:
    codec = server(CodecSettings(LIMITS, 65_535, 2))
    codec.receive(OPENING)
    begun = [stream for stream in range(1, 40, 2) if codec.receive(heads(stream, GET) + reset_frame(stream, 8))]
    assert begun == [1, 3, 5, 7]


def test_the_table_of_a_peer_is_used_up_to_a_bound_and_changes_are_announced() -> None:
    for sizes in ([65_536], [2**32 - 1], [0], [0, 0], [0, 4096], [100, 0, 100, 100], [8192, 0, 50]):
        peer = h2_side(is_client=True)
        codec = server()
        codec.receive(peer.data_to_send())
        for stream in range(1, 2 * len(sizes) + 30, 2):
            peer.send_headers(stream, GET, end_stream=True)
        for size in sizes:
            peer.update_settings({1: size})
        codec.receive(peer.data_to_send())
        for stream in range(1, 2 * len(sizes) + 30, 2):
            headers = Headers([(b"content-type", b"t/%d" % stream), (b"x-secret", b"s")])
            codec.send_head(stream, 200, headers, 0, ended=True)
        story = tell_h2({}, peer.receive_data(b"".join(codec.take_output())))
        for stream, seen in story.items():
            fields = [(b":status", b"200"), (b"content-length", b"0"), (b"content-type", b"t/%d" % stream)]
            assert seen.heads == [[*fields, (b"x-secret", b"s")]]


def test_what_varies_and_what_is_secret_is_never_indexed() -> None:
    codec = server()
    codec.receive(OPENING + heads(1, GET) + heads(3, GET))
    headers = Headers([(b"content-type", b"text/event-stream"), (b"set-cookie", b"secret-cookie")])
    sent = []
    for stream in (1, 3):
        codec.take_output()
        codec.send_head(stream, 200, headers, None, date=b"a-date")
        sent.append(b"".join(codec.take_output()))
    assert b"text/event-stream" in sent[0]
    assert b"text/event-stream" not in sent[1]
    for literal in (b"secret-cookie", b"a-date"):
        assert literal in sent[1]


def test_a_long_value_is_sent_without_huffman_coding() -> None:
    codec = server()
    codec.receive(OPENING + heads(1, GET))
    codec.send_head(1, 200, Headers([(b"x-long", b"long" * 1000)]), 0, ended=True)
    assert b"long" * 1000 in b"".join(codec.take_output())


Flood = Callable[[int], bytes]
FLOODS: dict[str, Flood] = {
    "pings": lambda _: ping_frame(b"12345678"),
    "answers to pings that were not sent": lambda _: raw_frame(FrameType.PING, 1, 0, bytes(8)),
    "settings": lambda number: settings_frame([(4, 65_535 + number % 2)]),
    "acknowledged settings": lambda _: raw_frame(FrameType.SETTINGS, 1, 0, b""),
    "empty data": lambda _: data(1, b""),
    "padding alone": lambda _: data(1, b"", pad=1),
    "windows of one byte": lambda _: window_frame(1, 1),
    "connection windows of one byte": lambda _: window_frame(0, 1),
    "priorities": lambda _: raw_frame(FrameType.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda _: pack(">HBBBL", 0, 0, 77, 0, 0),
    "goaways": lambda _: goaway_frame(0, 0),
    "rapid resets": lambda number: heads(number, GET) + reset_frame(number, 8),
    "resets that we are made to send": lambda number: heads(number, POST, ended=False) + window_frame(number, 0),
    "bodies after their end": lambda number: heads(number, GET) + data(number, b"x"),
    "resets of ended streams": lambda _: reset_frame(1, 8),
    "bad heads": lambda number: heads(number, GET[:3]),
    "streams that are refused": lambda number: heads(number, POST, ended=False),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_after_a_bounded_number_of_frames(name: str) -> None:
    flood = FLOODS[name]
    codec = server()
    codec.receive(OPENING + BEGUN)
    codec.take_output()
    begun = 0
    for number in range(10_000):
        for event in codec.receive(flood(2 * number + 3)):
            if isinstance(event, RequestReceived):
                begun += 1
            elif isinstance(event, ExchangeReset | RequestRefused) and event.stream != 1:
                codec.release(event.stream)
        if codec.failed is not None:
            break
    assert codec.failed is not None
    assert codec.failed.code == ErrorCode.ENHANCE_YOUR_CALM
    assert number <= 1_100
    assert begun <= 500
    assert len(b"".join(codec.take_output())) < 50_000


def test_a_peer_that_uses_its_connection_never_runs_out_of_allowance() -> None:
    """Pings, windows and aborts for a long time, each beside something that moves."""
    codec = server()
    codec.receive(OPENING)
    for number in range(3_000):
        stream = 2 * number + 1
        sent = heads(stream, POST, ended=False) + data(stream, b"x" * 100, ended=True)
        codec.receive(sent + window_frame(0, 100) + ping_frame(b"12345678") + window_frame(stream, 100))
        if number % 3:
            codec.send_head(stream, 200, Headers(), 3)
            codec.send_body(stream, [b"abc"])
        else:
            codec.receive(reset_frame(stream, 8))
        codec.release(stream)
        codec.take_output()
    assert codec.failed is None


@pytest.mark.parametrize("step", [512, 4096])
def test_a_client_that_gives_credit_in_small_steps_gets_a_large_body(step: int) -> None:
    codec = server()
    codec.receive(OPENING + heads(1, GET))
    codec.send_head(1, 200, Headers(), 4 << 20)
    codec.send_body(1, [bytes(4 << 20)])
    while codec.unsent(1):
        codec.receive(window_frame(0, step) + window_frame(1, step))
        codec.take_output()
    assert codec.failed is None


def test_ten_thousand_exchanges_are_enough_for_one_connection() -> None:
    codec = server()
    codec.receive(OPENING)
    codec.take_output()
    codec.receive(heads(19_999, GET))
    assert sent_by(codec) == []
    codec.receive(heads(20_001, GET))
    assert sent_by(codec) == ["GoAway 0 0", "Ping 0"]


# GOAWAY


def test_draining_takes_what_was_on_its_way_and_refuses_what_comes_after() -> None:
    codec = server()
    codec.receive(OPENING + heads(1, GET))
    codec.take_output()
    codec.drain()
    codec.drain()
    first = b"".join(codec.take_output())
    assert first.startswith(goaway_frame(MAX_WINDOW, 0))
    ping = first[len(goaway_frame(0, 0)) :]
    assert isinstance(codec.receive(heads(3, GET))[0], RequestReceived)
    assert codec.receive(raw_frame(FrameType.PING, 1, 0, ping[9:])) == []
    assert b"".join(codec.take_output()) == goaway_frame(3, 0)
    assert codec.receive(heads(5, GET)) == []
    assert sent_by(codec) == ["RstStream 5 7"]
    for stream in (1, 3):
        assert not codec.is_drained
        codec.send_head(stream, 200, Headers(), 0, ended=True)
        codec.release(stream)
    assert codec.is_drained


@pytest.mark.parametrize("before", range(5))
def test_a_goaway_between_any_frames_ends_what_it_must_and_nothing_else(before: int) -> None:
    """nginx sends one every thousand requests; the exchanges up to its last stream run to their end."""
    codec = client()
    codec.receive(settings_frame([]))
    for _ in range(3):
        codec.send_head(b"POST", b"https", b"/", HOST, None)
    frames = [
        heads(1, [(b":status", b"200")], ended=False),
        data(1, b"one"),
        heads(3, [(b":status", b"200"), (b"content-length", b"5")], ended=False) + data(3, b"three"),
        data(1, b"", ended=True),
    ]
    frames.insert(before, goaway_frame(3, 0))
    story = feed(codec, frames)
    assert (story[1].body, story[1].end) == (b"one", "end")
    assert (story[3].body, story[3].end) == (b"three", "")
    assert story[5].end == "reset 7"
    assert codec.room == 0
    assert codec.is_spent
    codec.send_body(1, [b"the request still goes on"])
    assert b"still goes on" in b"".join(codec.take_output())


def test_a_server_goes_on_with_what_a_leaving_client_has_asked() -> None:
    codec = server()
    codec.receive(OPENING + heads(1, GET) + goaway_frame(0, 0))
    assert not codec.is_drained
    codec.send_head(1, 200, Headers(), 2)
    codec.send_body(1, [b"ok"])
    codec.release(1)
    assert sent_by(codec)[-2:] == ["Headers 1", "Data 1"]
    assert codec.is_drained
