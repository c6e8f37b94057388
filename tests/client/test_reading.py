"""The read loop alone: whatever a connection does to the answers, the same bytes come out once each, in order."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.client.access import Place, StreamAccess
from proxy.client.errors import IncompleteStream, NetworkError, NetworkFault, ProxyError
from proxy.client.messages import Fields
from proxy.client.options import (
    RETRY_AFTER_SECONDS,
    SILENCE_SECONDS,
    SSE_ATTEMPTS,
    SSE_SILENCE_SECONDS,
    TRANSIENT_STATUSES,
    Live,
    Retry,
    Timeouts,
)
from proxy.client.reading import START, Position, Reading
from proxy.streams.names import Outcome

PATIENT = Retry(reads=100_000, first_delay=0.0, max_delay=0.0)
URL = "http://proxy.test/v1/proxy/0?expires=1&signature=s"


def lost() -> NetworkError:
    return NetworkError(NetworkFault.READ, "cut")


def plain_reading(*, data: float | None = None) -> Reading:
    return reading(data=data, catch_up=True)


def refusal(code: str) -> tuple[Fields, bytes]:
    """Head and body of an error of the proxy's own."""
    body = json.dumps({"error": {"code": code, "message": "m"}}).encode()
    return Fields([("Content-Type", "application/json; charset=utf-8")]), body


def reading(
    *,
    position: Position = START,
    retry: Retry = PATIENT,
    data: float | None = None,
    catch_up: bool = False,
) -> Reading:
    access = StreamAccess(Place("http://proxy.test", "secret"), URL)
    return Reading(access, position, retry=retry, timeouts=Timeouts(data=data), catch_up=catch_up, now=0.0)


@dataclass
class Server:
    """A stream's answers as one piece of bytes each; `visible` appends are there, and the end when all are."""

    appends: list[bytes]
    outcome: str | None = "complete"
    visible: int = 0
    page: int = 2  # appends in a plain answer
    queries: list[dict[str, str]] = field(default_factory=list)

    def answer(self, url: str) -> tuple[int, Fields, bytes]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.queries.append(query)
        first = 0 if query["offset"] == "-1" else self.appends_before(query["offset"])
        if query.get("live") == "sse":
            return 200, Fields([("Stream-SSE-Data-Encoding", "base64")]), self.events(first)
        last = min(self.visible, first + self.page)
        tail = last == self.visible
        fields = [("Stream-Next-Offset", self.token(last)), ("Stream-Up-To-Date", "true" if tail else "false")]
        if tail and self.visible == len(self.appends):
            fields.append(("Stream-Closed", "true"))
            fields += [("Upstream-Outcome", self.outcome)] if self.outcome is not None else []
        status = 204 if last == first and query.get("live") else 200
        return status, Fields(fields), b"".join(self.appends[first:last])

    def token(self, index: int) -> str:
        return f"t{index * 7919}x"

    def appends_before(self, token: str) -> int:
        return int(token[1:-1]) // 7919

    def events(self, first: int) -> bytes:
        """Data events of all that is visible, a control event after every second one and at the end."""
        out = b""
        for index in range(first, self.visible):
            out += b"event: data\ndata: %b\n\n" % base64.b64encode(self.appends[index])
            if index % 2 and index + 1 < self.visible:
                out += self.control(index + 1, closed=False)
        return out + self.control(self.visible, closed=self.visible == len(self.appends))

    def control(self, index: int, *, closed: bool) -> bytes:
        told: dict[str, object] = {"streamNextOffset": self.token(index)}
        told |= {"streamClosed": True} if closed else {"streamCursor": f"c{index}", "upToDate": True}
        told |= {"upstreamOutcome": self.outcome} if closed and self.outcome is not None else {}
        return b": keep-alive\nevent: control\ndata: %b\n\n" % json.dumps(told).encode()


PAGE = (Fields([("Content-Type", "text/html")]), b"<html>")

Mishap = Callable[[bytes], tuple[list[bytes], bool]]


def whole(body: bytes) -> tuple[list[bytes], bool]:
    return [body], False


def step(loop: Reading, server: Server, mishap: Mishap, now: float = 0.0) -> bytes:
    """One request and its answer, which `mishap` splits and perhaps cuts."""
    status, fields, body = server.answer(loop.request(now).url)
    got = b""
    try:
        if not loop.head(status, fields, framed=True):
            loop.refused(status, fields, b"", now)
            return b""
        pieces, cut = mishap(body)
        for piece in pieces:
            got += loop.receive(piece, now)
            if loop.satisfied:
                break
        if cut:
            raise lost()
        loop.ended(now)
    except NetworkError as error:
        loop.lost(error, now)
    return got


def read(loop: Reading, server: Server, mishap: Mishap = whole) -> bytes:
    """To the end."""
    got = b""
    while loop.outcome is None:
        got += step(loop, server, mishap)
    return got


def mishaps(data: st.DataObject) -> Mishap:
    """Any split, and for a while any cut."""
    left = 25

    def mishap(body: bytes) -> tuple[list[bytes], bool]:
        nonlocal left
        left -= 1
        cut = left > 0 and data.draw(st.booleans(), label="cut")
        kept = body[: data.draw(st.integers(0, len(body)), label="kept")] if cut else body
        at = sorted(data.draw(st.lists(st.integers(0, len(kept)), max_size=4), label="split"))
        return [kept[a:b] for a, b in zip([0, *at], [*at, len(kept)], strict=True)], cut

    return mishap


appends = st.lists(st.binary(min_size=1, max_size=20), max_size=8)


@given(appends, st.sampled_from(Live), st.booleans(), st.sampled_from(Outcome), st.data())
def test_any_split_and_any_cut_gives_identical_bytes(
    content: list[bytes], live: Live, catch_up: bool, outcome: Outcome, data: st.DataObject
) -> None:
    server = Server(content, outcome.value)
    loop = reading(retry=Retry(reads=100_000, first_delay=0.0, live=live), catch_up=catch_up)
    mishap, got = mishaps(data), b""
    while loop.outcome is None:
        server.visible = data.draw(st.integers(server.visible, len(content)), label="visible") if content else 0
        server.page = data.draw(st.integers(1, 4), label="page")
        if len(server.queries) > 60:
            server.visible = len(content)
        got += step(loop, server, mishap)
        assert b"".join(content).startswith(got)
    assert (got, loop.outcome, loop.bytes_read) == (b"".join(content), outcome, len(got))


@given(appends, st.sampled_from(Live), st.data())
def test_a_position_taken_anywhere_continues_exactly_there_in_another_reader(
    content: list[bytes], live: Live, data: st.DataObject
) -> None:
    server = Server(content, visible=len(content))
    retry = Retry(reads=100_000, first_delay=0.0, live=live)
    first = reading(retry=retry)
    mishap, before = mishaps(data), b""
    for _ in range(data.draw(st.integers(0, 5), label="answers")):
        if first.outcome is None:
            before += step(first, server, mishap)
    second = reading(position=first.position, retry=retry, catch_up=data.draw(st.booleans(), label="catch up"))
    assert before + read(second, server, mishap) == b"".join(content)


def test_a_stream_that_was_just_created_is_followed_live_at_once() -> None:
    server = Server([b"a", b"b"], visible=2)
    assert read(reading(), server) == b"ab"
    assert [query.get("live") for query in server.queries] == ["sse"]


def test_what_is_there_already_is_read_plainly_and_then_followed_live() -> None:
    server = Server([b"a", b"b", b"c", b"d"], visible=3)
    loop = reading(catch_up=True)
    assert step(loop, server, whole) + step(loop, server, whole) == b"abc"
    server.visible = 4
    assert read(loop, server) == b"d"
    assert [query.get("live") for query in server.queries] == [None, None, "sse"]


def test_the_cursor_of_the_last_answer_goes_along() -> None:
    server = Server([b"a", b"b"], visible=1)
    loop = reading()
    step(loop, server, whole)
    server.visible = 2
    read(loop, server)
    assert [query.get("cursor") for query in server.queries] == [None, "c1"]


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.COMPLETE])
@pytest.mark.parametrize("live", Live)
def test_only_a_complete_stream_passes_the_verdict(outcome: Outcome, live: Live) -> None:
    loop = reading(retry=Retry(live=live))
    assert read(loop, Server([b"abc"], outcome.value, visible=1)) == b"abc"
    with pytest.raises(IncompleteStream) as raised:
        loop.verdict()
    assert (raised.value.outcome, raised.value.bytes_read) == (outcome, 3)


def test_an_outcome_that_the_events_do_not_tell_is_looked_up_at_the_end() -> None:
    server = Server([b"abc"], "truncated", visible=1)

    class Untold(Server):
        def control(self, index: int, *, closed: bool) -> bytes:
            return server.control(index, closed=closed).replace(b"upstreamOutcome", b"other")

    untold = Untold([b"abc"], "truncated", visible=1)
    loop = reading()
    assert read(loop, untold) == b"abc"
    assert loop.outcome is Outcome.TRUNCATED
    assert [query.get("live") for query in untold.queries] == ["sse", None]


@pytest.mark.parametrize("live", Live)
def test_a_stream_that_closes_without_any_outcome_is_complete(live: Live) -> None:
    loop = reading(retry=Retry(live=live))
    assert read(loop, Server([b"abc"], None, visible=1)) == b"abc"
    assert loop.outcome is Outcome.COMPLETE


def test_an_outcome_that_nobody_knows_is_no_success() -> None:
    with pytest.raises(ProxyError, match="INVALID_RESPONSE"):
        read(reading(), Server([b"abc"], "splendid", visible=1))


def test_a_stream_shorter_than_what_was_delivered_is_no_success() -> None:
    with pytest.raises(ProxyError, match="INVALID_RESPONSE"):
        read(reading(position=Position("-1", 9)), Server([b"abc"], visible=1))


def test_bytes_before_a_broken_event_are_delivered_and_the_event_asked_for_again() -> None:
    server = Server([b"a", b"b"], visible=2)
    loop = reading()
    head = b"event: data\ndata: %b\n\n" % base64.b64encode(b"a")
    assert step(loop, server, lambda _: ([head + b"event: data\ndata: %%%\n\n"], False)) == b"a"
    assert loop.position == Position("-1", 1)
    assert read(loop, server) == b"b"


def test_nothing_after_the_closing_event_matters() -> None:
    server = Server([b"a"], visible=1)
    loop = reading(retry=Retry(reads=1))
    assert step(loop, server, lambda body: ([body + b"event: control\ndata: {\n\n"], False)) == b"a"
    assert loop.outcome is Outcome.COMPLETE


@pytest.mark.parametrize(
    "control",
    [
        b"{",
        b"[" * 99_999,
        b"{}",
        b"[]",
        b'{"streamNextOffset": 7}',
        b'{"streamNextOffset": null, "streamClosed": true}',
    ],
)
def test_a_control_event_that_makes_no_sense_is_a_failure_and_never_the_end(control: bytes) -> None:
    loop = reading(retry=Retry(reads=3))
    events = b"event: control\ndata: %b\n\n" % control
    server = Server([b"a"], visible=1)
    for _ in range(2):
        step(loop, server, lambda _: ([events], False))
    with pytest.raises(NetworkError):
        step(loop, server, lambda _: ([events], False))
    assert loop.outcome is None


def test_live_text_is_not_trusted_with_bytes_and_long_poll_takes_over() -> None:
    loop = reading()
    fields = Fields([("Content-Type", "text/event-stream")])
    assert not loop.head(200, fields, framed=True)
    loop.refused(200, fields, b"", 0.0)
    assert read(loop, server := Server([b"a"], visible=1)) == b"a"
    assert server.queries[0]["live"] == "long-poll"


def test_a_proxy_that_refuses_live_events_is_asked_by_long_poll() -> None:
    loop = reading()
    assert not loop.head(400, refusal("INVALID_REQUEST")[0], framed=True)
    loop.refused(400, *refusal("INVALID_REQUEST"), 0.0)
    assert read(loop, server := Server([b"a"], visible=1)) == b"a"
    assert server.queries[0]["live"] == "long-poll"


def test_a_plain_body_whose_end_cannot_be_told_from_a_cut_is_not_used() -> None:
    server = Server([b"abc"], visible=1)
    loop = reading(catch_up=True)
    status, fields, _ = server.answer(loop.request(0.0).url)
    assert not loop.head(status, fields, framed=False)
    loop.refused(status, fields, b"", 0.0)
    assert read(loop, server) == b"abc"
    assert [query.get("live") for query in server.queries] == [None, "sse"]


CUT = NetworkError(NetworkFault.READ, "cut")
MUTE = NetworkError(NetworkFault.READ_TIMEOUT, "nothing came")


def cut_before_its_head(loop: Reading) -> None:
    loop.lost(CUT, 0.0)


def muted(loop: Reading) -> None:
    loop.head(200, Fields([("Stream-SSE-Data-Encoding", "base64")]), framed=True)
    loop.lost(MUTE, 0.0)


def cut_within_an_event(loop: Reading) -> None:
    loop.head(200, Fields([("Stream-SSE-Data-Encoding", "base64")]), framed=True)
    assert loop.receive(b": keep-alive\n\nevent: data\ndata: YW", 0.0) == b""
    loop.lost(CUT, 0.0)


def ended_at_once(loop: Reading) -> None:
    loop.head(200, Fields([("Stream-SSE-Data-Encoding", "base64")]), framed=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("random.uniform", lambda low, high: low)
        try:
            loop.ended(0.0)
        except NetworkError as error:
            loop.lost(error, 0.0)


def answered_by_a_page(loop: Reading) -> None:
    loop.refused(200, *PAGE, 0.0)


@pytest.mark.parametrize("stop", [cut_before_its_head, muted, cut_within_an_event, ended_at_once, answered_by_a_page])
def test_three_live_reads_without_an_event_turn_to_long_poll(stop: Callable[[Reading], None]) -> None:
    loop = reading()
    for _ in range(SSE_ATTEMPTS):
        assert "live=sse" in loop.request(0.0).url
        stop(loop)
    assert "live=long-poll" in loop.request(0.0).url
    server = Server([b"a", b"b"], visible=2)
    assert read(loop, server) == b"ab"
    assert {query["live"] for query in server.queries} == {"long-poll"}


def test_one_event_is_enough_to_go_on_with_events() -> None:
    loop = reading(retry=Retry(reads=100, first_delay=0.0))
    server = Server([b"a"] * 9, visible=0)
    for visible in range(1, 9):
        server.visible = visible
        for _ in range(SSE_ATTEMPTS - 1):
            loop.request(0.0)
            muted(loop)
        assert step(loop, server, whole) == b"a"
    assert {query["live"] for query in server.queries} == {"sse"}


def test_a_proxy_that_cannot_be_reached_says_nothing_about_events() -> None:
    loop = reading()
    for fault in (NetworkFault.CONNECT, NetworkFault.CONNECT_TIMEOUT, NetworkFault.POOL_TIMEOUT) * 3:
        loop.request(0.0)
        loop.lost(NetworkError(fault, "refused"), 0.0)
    assert "live=sse" in loop.request(0.0).url


def test_an_event_larger_than_the_limit_turns_to_long_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.client.reading.EVENT_BYTES", 100)
    server = Server([b"small", b"x" * 500], visible=2)
    in_fifties = lambda body: ([body[at : at + 50] for at in range(0, len(body), 50)], False)  # noqa: E731  # a mishap
    assert read(reading(), server, in_fifties) == b"small" + b"x" * 500
    assert [query["live"] for query in server.queries] == ["sse", "long-poll"]


# Failures


def failures(loop: Reading) -> list[float]:
    """Lose answers until the loop gives up; the waits in between."""
    delays: list[float] = []
    while len(delays) < 1000:
        loop.request(0.0)
        try:
            loop.lost(lost(), 0.0)
        except NetworkError:
            break
        delays.append(loop.delay)
    return delays


def test_waits_double_up_to_a_maximum_and_are_drawn_from_the_whole_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    loop = reading(retry=Retry(reads=6, first_delay=1.0, max_delay=5.0))
    assert failures(loop) == [0.5, 1.0, 2.0, 2.5, 2.5]


def test_a_new_byte_starts_the_count_again() -> None:
    server = Server([b"a", b"b"], visible=1)
    loop = reading(retry=Retry(reads=3, first_delay=0.0))
    for visible in (1, 2):
        server.visible = visible
        loop.request(0.0)
        loop.lost(lost(), 0.0)
        step(loop, server, lambda body: ([body[:-4]], True))
    assert read(loop, server) == b""


def test_bytes_that_were_there_before_are_no_progress() -> None:
    server = Server([b"abc"], visible=1)
    loop = reading(retry=Retry(reads=4, first_delay=0.0))
    assert step(loop, server, lambda body: ([body[:-30]], True)) == b"abc"
    for _ in range(2):
        step(loop, server, lambda body: ([body[:40]], True))
    with pytest.raises(NetworkError):
        step(loop, server, lambda body: ([body[:40]], True))


DATE = ("Date", "Fri, 31 Dec 1999 23:59:30 GMT")


@pytest.mark.parametrize(
    ("value", "date", "wait"),
    [
        ("3", None, 3.0),
        ("0.5", None, 0.5),
        ("3000", None, RETRY_AFTER_SECONDS),
        ("Fri, 31 Dec 1999 23:59:59 GMT", DATE, 29.0),
        ("Sat, 01 Jan 2000 23:59:59 GMT", DATE, RETRY_AFTER_SECONDS),
        ("Fri, 31 Dec 1999 23:59:00 GMT", DATE, 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None, 0.0),
        ("Fri, 31 Dec 1999 23:59:59 -0000", DATE, 0.0),
        ("tomorrow", DATE, 0.0),
        ("-1", None, 0.0),
        ("9" * 400, None, 0.0),
    ],
)
def test_retry_after_is_honoured_as_a_number_and_as_a_date_up_to_a_minute(
    value: str, date: tuple[str, str] | None, wait: float
) -> None:
    loop = reading(retry=Retry(first_delay=0.0, max_delay=0.0))
    fields = [("Retry-After", value)] + ([date] if date is not None else [])
    loop.refused(503, Fields(fields), b"", 0.0)
    assert loop.delay == wait


def test_no_wait_outlasts_the_callers_patience() -> None:
    loop = reading(retry=Retry(first_delay=0.0, max_delay=0.0), data=10.0)
    loop.refused(503, Fields([("Retry-After", "30")]), b"", 4.0)
    assert loop.delay == 6.0


@pytest.mark.parametrize("status", sorted(TRANSIENT_STATUSES))
def test_an_error_of_the_proxys_that_can_pass_is_asked_again_then_raised_with_its_code(status: int) -> None:
    loop = reading(retry=Retry(reads=3, first_delay=0.0))
    loop.refused(status, *refusal("STORAGE_ERROR"), 0.0)
    loop.refused(status, *refusal("STORAGE_ERROR"), 0.0)
    with pytest.raises(ProxyError) as raised:
        loop.refused(status, *refusal("STORAGE_ERROR"), 0.0)
    assert (raised.value.code, raised.value.status) == ("STORAGE_ERROR", status)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 501])
def test_an_error_of_the_proxys_that_will_not_change_is_raised_at_once(status: int) -> None:
    with pytest.raises(ProxyError, match="SOME_CODE"):
        reading(catch_up=True).refused(status, *refusal("SOME_CODE"), 0.0)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 410, 418, 451, 501, 502])
@pytest.mark.parametrize("catch_up", [False, True])
@pytest.mark.parametrize("live", Live)
def test_an_answer_from_something_between_says_nothing_about_the_stream_and_the_read_is_repeated(
    status: int, catch_up: bool, live: Live
) -> None:
    loop = reading(retry=Retry(reads=3, first_delay=0.0, live=live), catch_up=catch_up)
    for _ in range(2):
        before = loop.request(0.0).url
        assert not loop.head(status, PAGE[0], framed=True)
        loop.refused(status, *PAGE, 0.0)
        assert loop.request(0.0).url == before
    with pytest.raises(ProxyError, match=f"HTTP_{status}") as raised:
        loop.refused(status, *PAGE, 0.0)
    assert not raised.value.gone
    assert not raised.value.unauthorized
    assert loop.bytes_read == 0


@pytest.mark.parametrize("code", ["SIGNATURE_EXPIRED", "SIGNATURE_INVALID"])
def test_a_signature_that_is_refused_is_replaced_by_the_secret_once(code: str) -> None:
    loop = reading()
    assert "signature=s" in loop.request(0.0).url
    assert not any(name == "Authorization" for name, _ in loop.request(0.0).headers)
    loop.refused(401, *refusal(code), 0.0)
    send = loop.request(0.0)
    assert "signature" not in send.url
    assert ("Authorization", "Bearer secret") in send.headers
    assert "secret" not in send.url
    with pytest.raises(ProxyError, match=code):
        loop.refused(401, *refusal(code), 0.0)


def test_a_401_from_something_between_does_not_give_up_the_signed_url() -> None:
    loop = reading()
    loop.refused(401, *PAGE, 0.0)
    assert "signature=s" in loop.request(0.0).url


def test_an_idle_stream_is_asked_again_without_spinning_and_without_giving_up() -> None:
    for live in Live:
        server = Server([b"a"], visible=0)
        loop = reading(position=Position(server.token(0), 0), retry=Retry(reads=2, first_delay=1.0, live=live))
        for _ in range(20):
            assert step(loop, server, whole) == b""
            assert 0.5 <= loop.delay <= 1.0
        server.visible = 1
        assert read(loop, server) == b"a"


# Time


def test_a_wait_for_data_longer_than_the_callers_patience_is_a_read_timeout_whatever_else_comes() -> None:
    loop = reading(data=10.0)
    server = Server([b"a"], visible=0)
    _, fields, body = server.answer(loop.request(0.0).url)
    assert loop.head(200, fields, framed=True)
    assert loop.receive(body, 9.9) == b""
    with pytest.raises(NetworkError) as raised:
        loop.receive(b": keep-alive\n\n", 10.0)
    assert raised.value.fault is NetworkFault.READ_TIMEOUT


def test_each_new_byte_restarts_the_wait_and_so_does_the_caller_who_comes_back_for_more() -> None:
    loop = reading(data=10.0)
    server = Server([b"a", b"b"], visible=1)
    _, fields, body = server.answer(loop.request(0.0).url)
    loop.head(200, fields, framed=True)
    assert loop.receive(body, 9.0) == b"a"
    loop.consumed(500.0)
    assert loop.receive(b": keep-alive\n\n", 509.0) == b""


def test_a_socket_is_given_what_is_left_of_the_patience() -> None:
    loop = reading(data=10.0)
    assert loop.request(0.0).timeouts.answer == 10.0
    assert loop.request(7.0).timeouts.answer == 3.0
    for kind, silence in ((reading, SSE_SILENCE_SECONDS), (plain_reading, SILENCE_SECONDS)):
        assert kind(data=1000.0).request(0.0).timeouts.answer == silence
        assert kind().request(5.0).timeouts.answer == silence


def test_a_silent_connection_is_given_up_and_the_read_goes_on_while_there_is_patience() -> None:
    silent = NetworkError(NetworkFault.READ_TIMEOUT, "nothing came")
    loop = reading(retry=Retry(reads=3, first_delay=0.0), data=200.0)
    loop.request(0.0)
    loop.lost(silent, 90.0)
    loop.request(90.0)
    loop.lost(silent, 180.0)
    with pytest.raises(NetworkError):
        loop.lost(silent, 200.0)
