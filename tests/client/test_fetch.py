"""Creating, and what each answer becomes, with both drivers against a scripted proxy."""

import gzip
import json

import pytest

from proxy.client import IncompleteStream, NetworkError, NetworkFault, Outcome, ProxyError, Retry, Timeouts
from tests.client.conftest import QUICK, Connect
from tests.client.drivers import Driver
from tests.client.scripted_proxy import ScriptedProxy, error_answer

URL = "http://upstream.test:81/v1/chat?x=%2F"


# What is asked


def test_everything_given_is_aimed_at_the_upstream(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello")
    headers = {"Authorization": "Bearer sk-1", "X-Own": "7", "Content-Type": "text/csv"}
    response = fetch(URL, method="put", headers=headers, content="é")
    assert (response.status_code, response.read()) == (200, b"hello")
    (asked,) = proxy.creates
    assert (asked.method, asked.path, asked.query, asked.body) == ("POST", "/v1/proxy", {}, "é".encode())
    sent = {"upstream-url": URL, "upstream-method": "PUT", "upstream-authorization": "Bearer sk-1", "x-own": "7"}
    assert sent.items() <= asked.headers.items()
    assert asked.headers["authorization"] == f"Bearer {proxy.secret}"
    assert asked.headers["content-type"] == "text/csv"
    assert len(asked.headers["idempotency-key"]) >= 22


def test_json_is_encoded_and_named(proxy: ScriptedProxy, fetch: Driver) -> None:
    fetch(URL, json={"q": "é", "n": [1, None]}).read()
    (asked,) = proxy.creates
    assert json.loads(asked.body) == {"q": "é", "n": [1, None]}
    assert asked.headers["content-type"] == "application/json"
    fetch(URL, json=[], headers=[("content-type", "application/x-own")]).read()
    assert proxy.creates[1].headers["content-type"] == "application/x-own"


def test_connection_fields_and_the_protocols_own_names_do_not_go_along(proxy: ScriptedProxy, fetch: Driver) -> None:
    own = {"Connection": "x", "Host": "evil", "TE": "x", "Upstream-URL": "http://evil", "Accept-Encoding": "br"}
    fetch(URL, headers=own, content=b"abc").read()
    (asked,) = proxy.creates
    assert asked.headers["host"] == f"127.0.0.1:{proxy.port}"
    assert asked.headers["upstream-url"] == URL
    assert asked.headers["content-length"] == "3"
    assert not {"te", "accept-encoding"} & asked.headers.keys()


def test_header_bytes_beyond_ascii_pass_both_ways_as_they_are(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.answers.append(b"HTTP/1.1 201 x\r\nLocation: /v1/proxy/x\r\nX-Own: \xe9\xff\r\nContent-Length: 0\r\n\r\n")
    response = fetch(URL, headers={"X-Own": "\xe9"})
    assert proxy.creates[0].headers["x-own"] == "\xe9"
    assert response.headers["x-own"] == "\xe9\xff"
    with pytest.raises(ValueError, match="Latin-1") as raised:
        fetch(URL, headers={"Authorization": "Bearer sk-CANARY\u2026"})
    assert "CANARY" not in repr(raised.value)


def test_repeated_fields_are_sent_as_they_were_given(proxy: ScriptedProxy, fetch: Driver) -> None:
    fetch(URL, headers=[("X-A", "1"), ("X-B", "2"), ("X-A", "3")]).read()
    assert proxy.creates[0].headers["x-a"] == "1, 3"


def test_an_idempotency_key_of_the_callers_is_used(proxy: ScriptedProxy, fetch: Driver) -> None:
    fetch(URL, headers={"Idempotency-Key": "mine"}).read()
    assert proxy.creates[0].headers["idempotency-key"] == "mine"


def test_two_requests_never_share_a_key_of_ours(proxy: ScriptedProxy, fetch: Driver) -> None:
    fetch(URL).read()
    fetch(URL).read()
    first, second = (asked.headers["idempotency-key"] for asked in proxy.creates)
    assert first != second


@pytest.mark.parametrize("path", ["", "/", "/v1/proxy", "/v1/proxy/"])
def test_the_proxys_url_may_leave_out_its_path(proxy: ScriptedProxy, connect: Connect, path: str) -> None:
    proxy.stream(b"hello")
    assert connect(proxy_url=proxy.base + path)(URL).read() == b"hello"


@pytest.mark.parametrize(
    "url", ["", "proxy.test", "ftp://proxy.test", "http://", "http://a:b@proxy.test", "http://proxy.test?secret=x"]
)
def test_a_proxy_url_that_cannot_be_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="proxy_url"):
        connect(proxy_url=url)


@pytest.mark.parametrize("option", [{"on_close": "explode"}, {"resume_from": "end"}])
def test_an_option_that_cannot_be_is_refused(connect: Connect, option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"explode|resume_from"):
        connect(**option)


@pytest.mark.parametrize(
    "url", ["/v1", "ftp://upstream.test/", "http://", "http://user:pass@upstream.test/", "http://a:x/"]
)
def test_an_upstream_url_that_cannot_be_is_refused_before_anything_is_sent(
    proxy: ScriptedProxy, fetch: Driver, url: str
) -> None:
    with pytest.raises(ValueError, match="url"):
        fetch(url)
    assert proxy.creates == []


def test_an_upstreams_error_that_came_encoded_is_decoded_once(proxy: ScriptedProxy, fetch: Driver) -> None:
    packed = gzip.compress(b"why")
    for name in ("Content-Encoding", "Upstream-Content-Encoding"):
        fields = f"Upstream-Status: 429\r\n{name}: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        proxy.answers.append(f"HTTP/1.1 502 x\r\n{fields}".encode() + packed)
        response = fetch(URL)
        assert (response.status_code, response.read()) == (429, b"why")


def test_two_bodies_or_a_method_that_is_none_are_refused(fetch: Driver) -> None:
    with pytest.raises(ValueError, match="both"):
        fetch(URL, content=b"a", json={})
    with pytest.raises(ValueError, match="method"):
        fetch(URL, method="GET\r\nX: y")


def test_a_token_is_fetched_again_for_every_create(proxy: ScriptedProxy, connect: Connect) -> None:
    tokens = iter(["stale", proxy.secret])
    fetch = connect(proxy_authorization=lambda: next(tokens))
    with pytest.raises(ProxyError, match="INVALID_SECRET"):
        fetch(URL)
    fetch(URL).read()
    assert [asked.headers["authorization"] for asked in proxy.creates] == ["Bearer stale", f"Bearer {proxy.secret}"]


# What the answer becomes


def test_a_created_stream_becomes_the_upstreams_response(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello", content_type="text/event-stream; charset=utf-8")
    response = fetch(URL)
    assert dict(response.headers) == {"x-request-id": "req-1", "content-type": "text/event-stream; charset=utf-8"}
    assert response.headers["X-REQUEST-ID"] == "req-1"
    assert (response.inner.stream_id, response.stream_url) == (stream.id, proxy.stream_url(stream))
    assert (response.was_resumed, response.outcome) == (False, None)
    assert response.read() == response.read() == b"hello"
    assert response.outcome is Outcome.COMPLETE
    assert response.offset == stream.token(1)


def test_an_absolute_location_is_used_as_it_is(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello")
    proxy.streams[stream.id] = stream
    location = proxy.stream_url(stream).replace("127.0.0.1", "localhost")
    proxy.answers.append(b"HTTP/1.1 201 x\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location.encode())
    response = fetch(URL)
    assert response.stream_url == location
    assert response.read() == b"hello"


@pytest.mark.parametrize(("told", "seen"), [("204", 204), ("201", 201), ("404", 200), ("abc", 200), ("-1", 200)])
def test_the_status_is_the_upstreams_if_it_is_a_success(
    proxy: ScriptedProxy, fetch: Driver, told: str, seen: int
) -> None:
    head = f"HTTP/1.1 201 x\r\nLocation: /v1/proxy/x\r\nUpstream-Status: {told}\r\nContent-Length: 0\r\n\r\n"
    proxy.answers.append(head.encode())
    assert fetch(URL).status_code == seen


@pytest.mark.parametrize("status", [400, 401, 404, 408, 429, 500, 503, 529])
def test_an_upstreams_error_stays_a_response(proxy: ScriptedProxy, fetch: Driver, status: int) -> None:
    told = {"Upstream-Status": str(status), "Upstream-Content-Type": "application/problem+json", "Retry-After": "7"}
    proxy.answers.append(error_answer(502, "X", message="the upstream's own words", headers=told))
    response = fetch(URL)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "7"
    assert b"the upstream's own words" in response.read()
    assert (response.stream_url, response.outcome, response.offset) == (None, None, None)
    response.abort()
    response.close()
    assert len(proxy.creates) == 1


NOT_OURS = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"error": "X"}',
    b'{"error": {"code": "A\\r\\nB: c", "message": "m"}}',
    b'{"error": {"code": 7, "message": "m"}}',
    b'{"error": {"code": "X", "message": 7}}',
    b'{"error": {"code": "HTTP_503", "message": "m"}}',
    b'{"error": {"code": "INVALID_RESPONSE", "message": "m"}}',
    b"\xff\xfe",
    b"[" * 99_999,
]


@pytest.mark.parametrize("body", NOT_OURS, ids=range(len(NOT_OURS)))
def test_an_error_body_that_is_not_the_proxys_gives_no_code_but_the_status(
    proxy: ScriptedProxy, fetch: Driver, body: bytes
) -> None:
    head = b"HTTP/1.1 403 x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    proxy.answers.append(head + body)
    with pytest.raises(ProxyError) as raised:
        fetch(URL)
    assert raised.value.code == "HTTP_403"


@pytest.mark.parametrize("told", ["", "NaN", "0", "099", "200", "302", "1000", "50x"])
def test_a_502_without_a_valid_upstream_status_is_the_proxys(proxy: ScriptedProxy, fetch: Driver, told: str) -> None:
    proxy.answers.append(error_answer(502, "UPSTREAM_ERROR", message="refused", headers={"Upstream-Status": told}))
    with pytest.raises(ProxyError) as raised:
        fetch(URL)
    assert (raised.value.code, raised.value.message, raised.value.status) == ("UPSTREAM_ERROR", "refused", 502)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "REDIRECT_NOT_ALLOWED"), (401, "INVALID_SECRET"), (403, "UPSTREAM_NOT_ALLOWED"), (504, "UPSTREAM_TIMEOUT")],
)
def test_the_proxys_refusal_is_raised_with_its_code_and_not_repeated(
    proxy: ScriptedProxy, fetch: Driver, status: int, code: str
) -> None:
    proxy.answers.append(error_answer(status, code))
    with pytest.raises(ProxyError) as raised:
        fetch(URL)
    assert (raised.value.code, raised.value.status) == (code, status)
    assert len(proxy.creates) == 1


@pytest.mark.parametrize("code", ["OVERLOADED", "DRAINING"])
def test_an_overloaded_proxy_is_asked_again_with_the_same_key(proxy: ScriptedProxy, fetch: Driver, code: str) -> None:
    proxy.stream(b"hello")
    proxy.answers.append(error_answer(503, code, headers={"Retry-After": "0"}))
    assert fetch(URL).read() == b"hello"
    first, second = (asked.headers["idempotency-key"] for asked in proxy.creates)
    assert first == second


@pytest.mark.parametrize(("wait", "asked"), [("0", 3), ("120", 1)])
def test_a_proxy_that_stays_overloaded_is_an_error_and_a_long_wait_is_left_to_the_caller(
    proxy: ScriptedProxy, fetch: Driver, wait: str, asked: int
) -> None:
    proxy.answers += [error_answer(503, "OVERLOADED", headers={"Retry-After": wait})] * asked
    with pytest.raises(ProxyError) as raised:
        fetch(URL)
    assert (raised.value.code, raised.value.retry_after) == ("OVERLOADED", float(wait))
    assert len(proxy.creates) == asked


@pytest.mark.parametrize(
    "head",
    [
        "200 x\r\nContent-Type: text/html",
        "200 x\r\nLocation: /welcome",
        "201 x\r\nUpstream-Status: 200",
        "201 x\r\nUpstream-Status: 200\r\nLocation: javascript:alert(1)",
        "201 x\r\nUpstream-Status: 200\r\nLocation: http://[/",
        "201 x\r\nUpstream-Status: 200\r\nLocation: /a b",
        "204 x\r\nServer: x",
    ],
)
def test_a_success_that_names_no_stream_is_not_believed_and_asked_again_under_the_same_key(
    proxy: ScriptedProxy, fetch: Driver, head: str
) -> None:
    body = b"" if head.startswith("204") else b"<html>"
    answer = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    proxy.answers.append(answer)
    proxy.stream(b"hello")
    assert fetch(URL).read() == b"hello"
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1
    proxy.answers += [answer] * 3
    with pytest.raises(ProxyError, match="HTTP_20"):
        fetch(URL)


@pytest.mark.parametrize("status", [301, 403, 404, 418, 501])
def test_an_error_page_that_will_not_change_is_raised_at_once(proxy: ScriptedProxy, fetch: Driver, status: int) -> None:
    head = f"HTTP/1.1 {status} x\r\nLocation: http://elsewhere.test/\r\nContent-Length: 5\r\n\r\n"
    proxy.answers.append(head.encode() + b"<html")
    with pytest.raises(ProxyError, match=f"HTTP_{status}"):
        fetch(URL)
    assert len(proxy.creates) == 1


def test_an_encoded_answer_is_decoded_and_always_read_from_its_start(proxy: ScriptedProxy, connect: Connect) -> None:
    packed = gzip.compress(b"hello " * 100)
    stream = proxy.stream(packed[:9], packed[9:])
    proxy.streams[stream.id] = stream
    location = proxy.stream_url(stream)
    fields = f"Location: {location}\r\nUpstream-Content-Type: text/plain\r\nUpstream-Content-Encoding: gzip\r\n"
    proxy.answers.append(f"HTTP/1.1 201 x\r\n{fields}Content-Length: 0\r\n\r\n".encode())
    fetch = connect(resume_from="offset")
    response = fetch(URL, request_id="packed")
    assert response.headers["content-encoding"] == "gzip"
    assert response.take(1)
    response.close()
    again = fetch.resume("packed")
    assert again is not None
    assert again.read() == b"hello " * 100


def test_an_encoding_that_is_broken_is_an_error_and_no_success(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"this is not gzip")
    proxy.streams[stream.id] = stream
    fields = f"Location: {proxy.stream_url(stream)}\r\nUpstream-Content-Encoding: gzip\r\n"
    proxy.answers.append(f"HTTP/1.1 201 x\r\n{fields}Content-Length: 0\r\n\r\n".encode())
    with pytest.raises(NetworkError):
        fetch(URL).read()


def test_text_from_elsewhere_is_escaped_in_an_error_so_that_no_log_line_is_forged(
    proxy: ScriptedProxy, fetch: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = error_answer(403, "SOME_CODE", message="a\r\nERROR forged\x1b[0m")
    stream = proxy.stream(b"hello", outcome=None)
    response = fetch(URL)
    assert response.take(5) == b"hello"
    proxy.answers.append(hostile)
    caplog.set_level("INFO")
    response.close()
    fetch.close()
    assert r"SOME_CODE: a\r\nERROR forged\x1b[0m" in caplog.text
    assert "\x1b" not in caplog.text
    assert stream.id not in proxy.aborts


# When no answer comes


def test_a_lost_answer_costs_no_second_upstream_call(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello")
    proxy.lose_creates = 2
    response = fetch(URL)
    assert response.read() == b"hello"
    assert response.was_resumed
    assert len(proxy.creates) == 3
    assert len(proxy.streams) == 1


def test_a_proxy_that_is_not_there_is_a_network_error_soon(connect: Connect) -> None:
    with pytest.raises(NetworkError) as raised:
        connect(proxy_url="http://127.0.0.1:1")(URL)
    assert raised.value.fault is NetworkFault.CONNECT


def test_no_answer_in_time_is_raised_and_not_repeated(proxy: ScriptedProxy, connect: Connect) -> None:
    proxy.answers.append(b"")
    with pytest.raises(NetworkError) as raised:
        connect(timeouts=Timeouts(answer=0.05))(URL)
    assert raised.value.fault is NetworkFault.READ_TIMEOUT
    assert len(proxy.creates) == 1


def test_a_header_that_cannot_be_sent_is_an_error_that_does_not_show_it(proxy: ScriptedProxy, fetch: Driver) -> None:
    with pytest.raises(NetworkError) as raised:
        fetch(URL, headers={"Authorization": "Bearer sk-CANARY\n"})
    assert raised.value.fault is NetworkFault.REQUEST
    assert "CANARY" not in f"{raised.value!r} {raised.value.__cause__!r}"
    assert raised.value.__suppress_context__
    assert proxy.creates == []


# Reading under faults


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.COMPLETE])
def test_an_incomplete_stream_gives_its_bytes_and_then_raises(
    proxy: ScriptedProxy, fetch: Driver, outcome: Outcome
) -> None:
    proxy.stream(b"hello ", b"wor", outcome=outcome.value)
    response = fetch(URL)
    assert response.take(9) == b"hello wor"
    with pytest.raises(IncompleteStream) as raised:
        list(response.pieces())
    assert (raised.value.outcome, raised.value.bytes_read) == (outcome, 9)
    assert response.outcome is outcome


def test_a_proxy_that_goes_away_and_comes_back_is_waited_for(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello ", outcome=None)
    response = fetch(URL)
    assert response.take(6) == b"hello "
    refusal = b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"
    proxy.answers += [refusal, error_answer(502, "STORAGE_ERROR"), refusal]
    proxy.drop_connections()
    proxy.close(stream, "complete", b"world")
    assert b"".join(response.pieces()) == b"world"


def test_a_proxy_that_stays_away_is_given_up(proxy: ScriptedProxy, connect: Connect) -> None:
    proxy.stream(b"hello ", outcome=None)
    response = connect(retry=Retry(reads=3, first_delay=0.001))(URL)
    assert response.take(6) == b"hello "
    proxy.answers += [b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"] * 9
    proxy.drop_connections()
    with pytest.raises(ProxyError, match="HTTP_503"):
        list(response.pieces())
    assert response.outcome is None


def test_a_stream_that_is_deleted_under_its_reader_is_an_error(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello ", outcome=None)
    response = fetch(URL)
    assert response.take(6) == b"hello "
    del proxy.streams[stream.id]
    proxy.drop_connections()
    with pytest.raises(ProxyError, match="STREAM_NOT_FOUND"):
        list(response.pieces())


def test_the_end_is_the_closing_event_whether_or_not_the_connection_ends(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.silent_end = True
    proxy.stream(b"hello")
    assert fetch(URL).read() == b"hello"


def test_live_reads_that_the_server_ends_now_and_then_are_begun_again(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.events = 1
    stream = proxy.stream(b"a", outcome=None)
    pieces = fetch(URL).pieces()
    assert next(pieces) == b"a"
    for append in (b"b", b"c"):
        proxy.append(stream, append)
        assert next(pieces) == append
    proxy.close(stream)
    assert list(pieces) == []


def test_patience_counts_data_and_not_keep_alives(proxy: ScriptedProxy, connect: Connect) -> None:
    proxy.keep_alive_seconds = 0.02
    proxy.stream(b"hello", outcome=None)
    response = connect(timeouts=Timeouts(data=0.3))(URL)
    assert response.take(5) == b"hello"
    with pytest.raises(NetworkError) as raised:
        list(response.pieces())
    assert raised.value.fault is NetworkFault.READ_TIMEOUT
    assert len(proxy.reads) == 1


def test_slow_storage_is_waited_for_without_a_timeout(proxy: ScriptedProxy, connect: Connect) -> None:
    proxy.long_poll_seconds = 0.01
    stream = proxy.stream(outcome=None)
    fetch = connect(retry=Retry(reads=2, first_delay=0.001, live=QUICK.live.LONG_POLL))
    pieces = fetch(URL).pieces()
    proxy.on_read(5, lambda: proxy.close(stream, "complete", b"late"))
    assert next(pieces) == b"late"
    assert len(proxy.reads) >= 5


def test_a_server_whose_signature_has_expired_is_asked_with_the_secret(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello ", outcome=None)
    response = fetch(URL)
    assert response.take(6) == b"hello "
    stream.expired = True
    proxy.drop_connections()
    proxy.close(stream, "complete", b"world")
    assert b"".join(response.pieces()) == b"world"
    assert "signature" not in proxy.reads[-1].query
