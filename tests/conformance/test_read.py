"""GET /v1/proxy/{id}: who may, offsets, long-poll, SSE, caching, and what every answer carries."""

import time
import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conformance.caller import Caller, Stream, claims, code, jwt
from tests.kit import oracle
from tests.kit.peers import RawClient
from tests.kit.upstream import GATE, HANG, Upstream, chunked, fixed, sse, until_close

INVALID = (401, "SIGNATURE_INVALID")


@pytest.fixture
def ended(caller: Caller, upstream: Upstream) -> Stream:
    """A stream of `hello world` that has ended."""
    stream = caller.create(upstream.serve(chunked(b"hello ", b"world")).url)
    assert stream.whole().data == b"hello world"
    return stream


@pytest.fixture
def running(caller: Caller, upstream: Upstream) -> Iterator[Stream]:
    """A stream whose upstream has said `one` and nothing more."""
    route = upstream.serve(chunked(b"one", HANG))
    stream = caller.create(route.url)
    stream.until(b"one")
    yield stream
    stream.abort()
    route.wait_cut()


# Who may


def test_the_presigned_url_reads_without_any_other_credential(ended: Stream) -> None:
    answer = ended.get()
    assert (answer.status_code, answer.content) == (200, b"hello world")


def test_the_service_secret_reads_too(caller: Caller, ended: Stream) -> None:
    assert caller.http.get(ended.path, headers=caller.bearer).content == b"hello world"
    assert caller.http.get(ended.path, params={"secret": caller.secret}).content == b"hello world"
    token = {"Authorization": f"Bearer {jwt(caller.secret, claims())}"}
    assert caller.http.get(ended.path, headers=token).content == b"hello world"


def test_without_a_credential_nobody_reads(caller: Caller, ended: Stream) -> None:
    assert code(caller.http.get(ended.path)) == (401, "MISSING_SECRET")


def test_a_wrong_secret_does_not_read(caller: Caller, ended: Stream) -> None:
    assert code(caller.http.get(ended.path, params={"secret": "wrong"})) == (401, "INVALID_SECRET")
    answer = caller.http.get(ended.path, headers={"Authorization": "Bearer wrong"})
    assert code(answer) == (401, "INVALID_SECRET")


def _flip(text: str, at: int) -> str:
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


@pytest.mark.parametrize("at", [0, 10, 21, 42])
def test_a_signature_with_another_letter_is_invalid(ended: Stream, at: int) -> None:
    assert code(ended.get(signature=_flip(ended.signed["signature"], at))) == INVALID


def test_every_spelling_of_the_last_letter_but_one_is_invalid(ended: Stream) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    signature = ended.signed["signature"]
    statuses = {letter: ended.get(signature=signature[:-1] + letter).status_code for letter in letters}
    assert [letter for letter, status in statuses.items() if status == 200] == [signature[-1]]


@pytest.mark.parametrize(
    "change",
    [
        lambda signature: signature + "=",
        lambda signature: signature + "A",
        lambda signature: signature[:-1],
        lambda signature: "",
        lambda signature: " " + signature,
        lambda signature: signature + "\n",
        lambda signature: signature.swapcase(),
        lambda signature: signature + "\u00e9",
        lambda signature: "A" * 43,
        lambda signature: "A" * 4000,
    ],
    ids=["padded", "longer", "shorter", "empty", "space", "newline", "other case", "not ASCII", "zeros", "long"],
)
def test_a_signature_spelled_otherwise_is_invalid(ended: Stream, change: Callable[[str], str]) -> None:
    assert code(ended.get(signature=change(ended.signed["signature"]))) == INVALID


@pytest.mark.parametrize(
    "change",
    [
        lambda expires: str(int(expires) + 1),
        lambda expires: str(int(expires) - 1),
        lambda expires: "1",
        lambda expires: "0" + expires,
        lambda expires: "+" + expires,
        lambda expires: " " + expires,
        lambda expires: expires + " ",
        lambda expires: expires + ".0",
        lambda expires: f"{int(expires):#x}",
        lambda expires: f"{int(expires):_}",
        lambda expires: "".join(chr(0x660 + int(digit)) for digit in expires),
        lambda expires: "9" * 400,
        lambda expires: "",
        lambda expires: "-1",
        lambda expires: "NaN",
    ],
    ids=[
        "later", "earlier", "long ago", "leading zero", "plus", "space before", "space after", "fraction", "hex",
        "underscores", "arabic digits", "400 digits", "empty", "negative", "NaN",
    ],
)  # fmt: skip
def test_an_expiry_that_was_not_signed_is_invalid_and_never_called_expired(
    ended: Stream, change: Callable[[str], str]
) -> None:
    assert code(ended.get(expires=change(ended.signed["expires"]))) == INVALID


@pytest.mark.parametrize("name", ["expires", "signature"])
def test_a_repeated_parameter_is_invalid(caller: Caller, ended: Stream, name: str) -> None:
    params = httpx.QueryParams([*ended.signed.items(), (name, ended.signed[name])])
    assert code(caller.http.get(ended.path, params=params)) == INVALID


@pytest.mark.parametrize("name", ["expires", "signature"])
def test_half_a_presigned_url_is_invalid_even_with_the_secret(caller: Caller, ended: Stream, name: str) -> None:
    params = {name: ended.signed[name]}
    assert code(caller.http.get(ended.path, params=params, headers=caller.bearer)) == INVALID


def test_a_bad_signature_is_not_saved_by_the_secret(caller: Caller, ended: Stream) -> None:
    params = ended.signed | {"signature": "A" * 43, "secret": caller.secret}
    assert code(caller.http.get(ended.path, params=params, headers=caller.bearer)) == INVALID


def test_a_signature_opens_its_own_stream_only(caller: Caller, upstream: Upstream, ended: Stream) -> None:
    other = caller.create(upstream.serve(fixed(b"secret of another")).url)
    assert code(caller.http.get(other.path, params=ended.signed)) == INVALID


def test_the_order_of_the_parameters_does_not_matter(caller: Caller, ended: Stream) -> None:
    params = {"offset": "-1", "signature": ended.signed["signature"], "other": "x", "expires": ended.signed["expires"]}
    assert caller.http.get(ended.path, params=params).content == b"hello world"


# Which stream


def test_a_stream_that_never_was_is_not_found(caller: Caller) -> None:
    answer = caller.http.get(f"/v1/proxy/{uuid.uuid4()}", headers=caller.bearer)
    assert code(answer) == (404, "STREAM_NOT_FOUND")


@pytest.mark.parametrize(
    "spell",
    [
        str.upper,
        lambda name: name.replace("-", ""),
        lambda name: "{" + name + "}",
        lambda name: "urn:uuid:" + name,
        lambda name: name + "x",
        lambda name: name[:-1],
        lambda name: name[:-1] + "g",
        lambda name: f"%{ord(name[0]):02x}{name[1:]}",
        lambda name: name + "%00",
        lambda name: name + "%2f..",
        lambda name: name + ".record",
        lambda name: "..%2f" + name,
    ],
    ids=[
        "upper case", "no hyphens", "braces", "urn", "longer", "shorter", "not hex", "encoded", "NUL", "encoded slash",
        "the record", "encoded dots",
    ],
)  # fmt: skip
def test_an_id_spelled_otherwise_is_no_stream(caller: Caller, ended: Stream, spell: Callable[[str], str]) -> None:
    path = ended.path.replace(ended.id, spell(ended.id))
    assert path != ended.path
    with caller.raw() as peer:
        fields = f"Host: {peer.host}\r\nAuthorization: {caller.bearer['Authorization']}"
        peer.send(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        answer = peer.response()
    assert answer.status == 404
    assert b'"STREAM_NOT_FOUND"' in answer.body


# Offsets


def test_without_offset_a_read_starts_at_the_beginning(ended: Stream) -> None:
    assert ended.get().content == ended.get(offset="-1").content == b"hello world"


def test_a_read_tells_where_to_go_on(ended: Stream) -> None:
    answer = ended.get(offset="-1")
    assert answer.headers["stream-next-offset"]
    assert answer.headers["stream-up-to-date"] == "true"
    assert answer.headers["stream-closed"] == "true"
    assert answer.headers["content-type"] == "application/octet-stream"
    tail = ended.get(offset=answer.headers["stream-next-offset"])
    assert (tail.status_code, tail.content) == (200, b"")
    assert tail.headers["stream-closed"] == "true"
    assert tail.headers["stream-next-offset"] == answer.headers["stream-next-offset"]


def test_offset_now_is_the_tail(ended: Stream) -> None:
    answer = ended.get(offset="now")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["stream-next-offset"] == ended.get().headers["stream-next-offset"]


def test_reading_on_at_every_offset_gives_every_byte_once(caller: Caller, upstream: Upstream) -> None:
    pieces = list(oracle.pieces(1, 1, 20))
    route = upstream.serve(chunked(*(part for piece in pieces for part in (piece, GATE))))
    stream = caller.create(route.url)
    data, offset = b"", "-1"
    for index in range(len(pieces)):
        while len(data) < (index + 1) * oracle.SIZE:
            answer = stream.get(offset=offset, live="long-poll")
            data += answer.content
            offset = answer.headers["stream-next-offset"]
        oracle.check(data, 1, 1, length=(index + 1) * oracle.SIZE)
        route.release()
    assert stream.whole(offset)[:2] == (b"", "complete")


@pytest.mark.parametrize("offset", ["", "x", "-2", "0", "1_2_3", "../1", "1 2", "%00", "NOW", "\u0661_\u0662"])
def test_an_offset_that_is_none_is_refused(ended: Stream, offset: str) -> None:
    assert code(ended.get(offset=offset)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("name", ["offset", "live", "cursor"])
def test_a_repeated_read_parameter_is_refused(caller: Caller, ended: Stream, name: str) -> None:
    values = {"offset": "-1", "live": "long-poll", "cursor": "1"}
    params = httpx.QueryParams([*ended.signed.items(), *values.items(), (name, values[name])])
    assert code(caller.http.get(ended.path, params=params)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("live", ["long-poll", "sse"])
def test_a_live_read_needs_an_offset(ended: Stream, live: str) -> None:
    assert code(ended.get(live=live)) == (400, "INVALID_REQUEST")


def test_other_parameters_do_no_harm(ended: Stream) -> None:
    assert ended.get(offset="-1", utm="x", Offset="y").content == b"hello world"


# What every answer carries


@pytest.mark.parametrize("how", ["catch-up", "tail", "now", "long-poll at the end", "sse"])
def test_every_success_carries_the_upstreams_content_type(caller: Caller, upstream: Upstream, how: str) -> None:
    stream = caller.create(upstream.serve(sse("a")).url)
    tail = stream.whole().last.headers["stream-next-offset"]
    params = {
        "catch-up": {"offset": "-1"},
        "tail": {"offset": tail},
        "now": {"offset": "now"},
        "long-poll at the end": {"offset": tail, "live": "long-poll"},
        "sse": {"offset": "-1", "live": "sse"},
    }[how]
    answer = stream.get(headers=None, **params)
    assert answer.status_code == (204 if how.startswith("long-poll") else 200)
    assert answer.headers["upstream-content-type"] == "text/event-stream"


def test_a_closed_stream_says_why_on_every_kind_of_read(ended: Stream) -> None:
    first = ended.get(offset="-1")
    tail = first.headers["stream-next-offset"]
    at_tail = [ended.get(offset=tail), ended.get(offset="now"), ended.get(offset=tail, live="long-poll")]
    for answer in [first, *at_tail]:
        assert answer.headers["stream-closed"] == "true"
        assert answer.headers["upstream-outcome"] == "complete"


def test_an_open_stream_has_no_outcome(running: Stream) -> None:
    for answer in (running.get(offset="-1"), running.get(offset="now")):
        assert answer.status_code == 200
        assert "stream-closed" not in answer.headers
        assert "upstream-outcome" not in answer.headers


def test_a_read_is_not_for_shared_caches(ended: Stream, running: Stream) -> None:
    for answer in (ended.get(offset="-1"), ended.get(offset="now"), running.get(offset="-1")):
        assert "public" not in answer.headers.get("cache-control", "")


def test_an_etag_seen_before_is_answered_with_304(ended: Stream) -> None:
    first = ended.get(offset="-1")
    again = ended.get(offset="-1", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert ended.get(offset="-1", headers={"If-None-Match": '"another"'}).content == b"hello world"


def test_the_etag_changes_with_the_stream(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    stream.until(b"one")
    etag = stream.get(offset="-1").headers["etag"]
    assert stream.get(offset="-1", headers={"If-None-Match": etag}).status_code == 304
    route.release()
    stream.whole()
    answer = stream.get(offset="-1", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (200, b"onetwo")


# Bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(range(256)),
        b"\r\n\r\n0\r\n\r\n",
        "caf\u00e9 \u2713".encode(),
        b"\xff\xfe\x00",
        b"[1,2]",
        b"\x1f\x8b\x08",
    ],
    ids=["none", "all bytes", "framing", "utf-8", "not utf-8", "json", "gzip magic"],
)
@pytest.mark.parametrize("framing", [fixed, chunked, until_close])
def test_bytes_are_stored_as_the_body_carried_them(
    caller: Caller, upstream: Upstream, framing: Callable[..., list[bytes]], data: bytes
) -> None:
    script = framing(data) if data else framing()
    assert caller.create(upstream.serve(script).url).whole()[:2] == (data, "complete")


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain; charset=latin-1"])
def test_no_content_type_changes_how_bytes_are_stored(caller: Caller, upstream: Upstream, content_type: str) -> None:
    data = b'[{"a": 1}, {"b": 2}]\n \xff'
    answer = caller.create(upstream.serve(fixed(data, content_type=content_type)).url).whole()
    assert answer.data == data
    assert answer.last.headers["upstream-content-type"] == content_type


def test_a_large_body_arrives_whole(caller: Caller, upstream: Upstream) -> None:
    count = 3 * (1 << 20) // oracle.SIZE
    data = b"".join(oracle.pieces(2, 1, count))
    stream = caller.create(upstream.serve(fixed(data, content_type="application/octet-stream")).url)
    whole = stream.whole()
    oracle.check(whole.data, 2, 1, length=len(data))
    assert whole.outcome == "complete"


# Long-poll


def _parked(caller: Caller, stream: Stream, offset: str) -> RawClient:
    """A connection on which a long-poll waits."""
    peer = caller.raw()
    query = httpx.QueryParams(stream.signed | {"offset": offset, "live": "long-poll"})
    peer.send(f"GET {stream.path}?{query} HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
    assert peer.silent(0.1)
    return peer


def test_a_long_poll_returns_at_once_when_there_is_something(running: Stream) -> None:
    answer = running.get(offset="-1", live="long-poll")
    assert (answer.status_code, answer.content) == (200, b"one")
    assert answer.headers["stream-next-offset"]


def test_a_long_poll_waits_for_what_comes(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two", HANG))
    stream = caller.create(route.url)
    offset = stream.until(b"one")
    with _parked(caller, stream, offset) as peer:
        route.release()
        answer = peer.response()
    assert (answer.status, answer.body) == (200, b"two")
    assert answer.get("Stream-Closed") is None
    stream.abort()


def test_a_long_poll_that_waits_learns_of_the_end(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE))
    stream = caller.create(route.url)
    offset = stream.until(b"one")
    with _parked(caller, stream, offset) as peer:
        route.release()
        answer = peer.response()
    assert (answer.status, answer.body) == (204, b"")
    assert (answer.get("Stream-Closed"), answer.get("Upstream-Outcome")) == ("true", "complete")


def test_last_bytes_that_come_with_the_end_are_not_lost_to_a_long_poll(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([*chunked(b"one", GATE)[:-1], b"3\r\ntwo\r\n0\r\n\r\n"])
    stream = caller.create(route.url)
    offset = stream.until(b"one")
    with _parked(caller, stream, offset) as peer:
        route.release()
        answer = peer.response()
    assert answer.body == b"two"
    next_offset = answer.get("Stream-Next-Offset")
    assert next_offset is not None
    assert stream.whole(next_offset)[:2] == (b"", "complete")


# SSE


def test_a_live_read_of_an_ended_stream_gives_all_of_it_and_its_outcome(ended: Stream) -> None:
    with ended.live() as live:
        assert live.response.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert live.response.headers["stream-sse-data-encoding"] == "base64"
        assert live.to_end() == b"hello world"
    assert live.controls[-1]["streamClosed"] is True
    assert live.controls[-1]["upstreamOutcome"] == "complete"
    assert live.controls[-1]["streamNextOffset"] == ended.get().headers["stream-next-offset"]


def test_a_live_read_follows_the_upstream_event_by_event(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two", GATE, b"three"))
    stream = caller.create(route.url)
    with stream.live() as live:
        live.until(b"one")
        assert "streamClosed" not in live.controls[-1]
        assert "upstreamOutcome" not in live.controls[-1]
        route.release()
        live.until(b"onetwo")
        route.release()
        assert live.to_end() == b"onetwothree"
    assert (live.controls[-1]["streamClosed"], live.controls[-1]["upstreamOutcome"]) == (True, "complete")


def test_a_live_read_goes_on_at_an_offset(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    offset = stream.until(b"one")
    with stream.live(offset) as live:
        route.release()
        assert live.to_end() == b"two"


def test_a_live_read_from_now_gives_what_comes(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    stream.until(b"one")
    with stream.live("now") as live:
        while not live.controls:
            live.event()
        route.release()
        assert live.to_end() == b"two"


def test_the_offsets_of_control_events_are_good_for_any_read(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    with stream.live() as live:
        live.until(b"one")
    route.release()
    assert stream.whole(str(live.controls[-1]["streamNextOffset"])).data == b"two"


def test_a_reader_that_leaves_changes_nothing(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    with stream.live() as live:
        live.until(b"one")
    route.release()
    assert stream.whole()[:2] == (b"onetwo", "complete")
    assert (route.count, route.cuts) == (1, 0)


def test_two_readers_get_the_same(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    with stream.live() as first, stream.live() as second:
        first.until(b"one")
        second.until(b"one")
        route.release()
        assert first.to_end() == second.to_end() == b"onetwo"
    assert route.count == 1


def test_a_stream_is_read_again_and_again(ended: Stream) -> None:
    assert {ended.whole()[:2] for _ in range(3)} == {(b"hello world", "complete")}


def test_the_presigned_url_lasts(ended: Stream) -> None:
    assert int(ended.signed["expires"]) > time.time()
