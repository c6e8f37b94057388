"""POST /v1/proxy: who may, what is checked in which order, what the 201 says, and Idempotency-Key."""

import re
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.conformance.caller import Caller, claims, code, jwt
from tests.kit.upstream import GATE, HANG, RESET, Upstream, chunked, echo, fixed, head, sse

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
Give = Callable[[Caller, Upstream, str], httpx.Response]
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


# Who may


def test_without_a_credential_nobody_creates(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed())
    assert code(caller.post(route.url, authorized=False)) == (401, "MISSING_SECRET")
    assert route.count == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_secret_is_taken_as_a_bearer_token_in_any_case_of_the_scheme(
    caller: Caller, upstream: Upstream, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} {caller.secret}"}
    assert caller.post(upstream.serve(fixed()).url, headers=headers, authorized=False).status_code == 201


def _by_query(caller: Caller, upstream: Upstream, credential: str) -> httpx.Response:
    headers = {"Upstream-URL": upstream.serve(fixed()).url, "Upstream-Method": "GET"}
    return caller.http.post("/v1/proxy", params={"secret": credential}, headers=headers)


def _by_bearer(caller: Caller, upstream: Upstream, credential: str) -> httpx.Response:
    fields = [("Authorization", f"Bearer {credential}"), ("Upstream-URL", upstream.serve(fixed()).url)]
    headers = [(name.encode(), value.encode()) for name, value in [*fields, ("Upstream-Method", "GET")]]
    return caller.http.post("/v1/proxy", headers=headers)


def test_the_secret_is_taken_from_the_query(caller: Caller, upstream: Upstream) -> None:
    assert _by_query(caller, upstream, caller.secret).status_code == 201


@pytest.mark.parametrize("give", [_by_query, _by_bearer])
@pytest.mark.parametrize(
    "change",
    [
        lambda secret: "wrong",
        lambda secret: secret[:-1],
        lambda secret: secret + "x",
        lambda secret: secret.swapcase(),
        lambda secret: secret + "\u00e9",
        lambda secret: secret[::-1],
        lambda secret: "null",
    ],
    ids=["another", "shorter", "longer", "other case", "not ASCII", "reversed", "null"],
)
def test_a_wrong_secret_is_refused(
    caller: Caller, upstream: Upstream, give: Give, change: Callable[[str], str]
) -> None:
    assert code(give(caller, upstream, change(caller.secret))) == (401, "INVALID_SECRET")


def test_an_empty_secret_is_no_secret(caller: Caller, upstream: Upstream) -> None:
    assert code(_by_query(caller, upstream, ""))[0] == 401


@pytest.mark.parametrize("give", [_by_query, _by_bearer])
@pytest.mark.parametrize(
    "more",
    [{}, {"nbf": 1}, {"iat": 1, "sub": "user", "aud": "x"}],
    ids=["exp alone", "begun", "more claims"],
)
def test_a_token_signed_with_the_secret_is_taken(
    caller: Caller, upstream: Upstream, give: Give, more: dict[str, object]
) -> None:
    assert give(caller, upstream, jwt(caller.secret, claims(**more))).status_code == 201


def _tampered(token: str, part: int) -> str:
    parts = token.split(".")
    text = parts[part]
    parts[part] = text[:-2] + ("A" if text[-2] != "A" else "B") + text[-1]
    return ".".join(parts)


@pytest.mark.parametrize(
    "make",
    [
        lambda secret: jwt(secret, {"exp": int(time.time()) - 5}),
        lambda secret: jwt(secret, {}),
        lambda secret: jwt(secret, {"exp": "9999999999"}),
        lambda secret: jwt(secret, {"exp": None}),
        lambda secret: jwt(secret, {"exp": True}),
        lambda secret: jwt(secret, claims(nbf=int(time.time()) + 600)),
        lambda secret: jwt(secret + "x", claims()),
        lambda secret: jwt("", claims()),
        lambda secret: jwt(secret, claims(), {"alg": "none", "typ": "JWT"}),
        lambda secret: jwt(secret, claims(), {"alg": "HS512", "typ": "JWT"}),
        lambda secret: jwt(secret, claims(), {"alg": "HS384", "typ": "JWT"}),
        lambda secret: jwt(secret, claims(), {"alg": "RS256", "typ": "JWT"}),
        lambda secret: jwt(secret, claims(), {"typ": "JWT"}),
        lambda secret: _tampered(jwt(secret, claims()), 0),
        lambda secret: _tampered(jwt(secret, claims()), 1),
        lambda secret: _tampered(jwt(secret, claims()), 2),
        lambda secret: jwt(secret, claims()).rpartition(".")[0],
        lambda secret: jwt(secret, claims()).rpartition(".")[0] + ".",
        lambda secret: jwt(secret, claims()) + ".x",
        lambda secret: jwt(secret, claims()) + "=",
        lambda secret: "..",
        lambda secret: "a.b.c",
    ],
    ids=[
        "expired", "no exp", "exp as text", "exp null", "exp true", "not begun", "another key", "empty key", "alg none",
        "HS512", "HS384", "RS256", "no alg", "header changed", "claims changed", "signature changed", "two parts",
        "empty signature", "four parts", "padded", "dots", "letters",
    ],
)  # fmt: skip
def test_a_token_that_does_not_hold_is_refused(caller: Caller, upstream: Upstream, make: Callable[[str], str]) -> None:
    assert code(_by_bearer(caller, upstream, make(caller.secret))) == (401, "INVALID_SECRET")


def test_a_presigned_url_creates_nothing(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    route = upstream.serve(fixed())
    headers = {"Upstream-URL": route.url, "Upstream-Method": "GET"}
    assert code(caller.http.post("/v1/proxy", params=stream.signed, headers=headers)) == (401, "MISSING_SECRET")
    assert route.count == 0


# The order of the checks


def test_the_secret_is_checked_before_anything_else(caller: Caller) -> None:
    assert code(caller.post(None, None, authorized=False)) == (401, "MISSING_SECRET")
    assert code(caller.post("http://other.example/", "NONSENSE", authorized=False)) == (401, "MISSING_SECRET")


def test_a_missing_url_comes_before_a_missing_method(caller: Caller) -> None:
    assert code(caller.post(None, None)) == (400, "MISSING_UPSTREAM_URL")
    assert code(caller.post(None, "NONSENSE")) == (400, "MISSING_UPSTREAM_URL")
    assert code(caller.post("", "GET")) == (400, "MISSING_UPSTREAM_URL")


def test_a_missing_method_comes_before_the_allowlist(caller: Caller) -> None:
    assert code(caller.post("http://other.example/", None)) == (400, "MISSING_UPSTREAM_METHOD")
    assert code(caller.post("http://other.example/", "")) == (400, "MISSING_UPSTREAM_METHOD")


def test_an_invalid_method_comes_before_the_allowlist(caller: Caller) -> None:
    assert code(caller.post("http://other.example/", "NONSENSE")) == (400, "INVALID_UPSTREAM_METHOD")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY", "GETT", "G ET", "GET,POST", "*"])
def test_other_methods_are_refused_and_nothing_is_sent(caller: Caller, upstream: Upstream, method: str) -> None:
    route = upstream.serve(fixed())
    assert code(caller.post(route.url, method)) == (400, "INVALID_UPSTREAM_METHOD")
    assert route.count == 0


# What the upstream is sent


@pytest.mark.parametrize("method", [*METHODS, "get", "Post", "pUt"])
def test_the_method_goes_upstream_in_upper_case(caller: Caller, upstream: Upstream, method: str) -> None:
    route = upstream.serve(fixed())
    caller.create(route.url, method)
    assert [seen.method.decode() for seen in route.requests] == [method.upper()]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", bytes(range(256)) * 4, b"GET / HTTP/1.1\r\n\r\n", b"x" * (1 << 20)],
    ids=["empty", "json", "all bytes", "http", "1 MiB"],
)
def test_the_request_body_goes_upstream_as_it_is(caller: Caller, upstream: Upstream, content: bytes) -> None:
    route = upstream.serve(fixed())
    caller.create(route.url, content=content)
    assert [seen.body for seen in route.requests] == [content]


def test_a_chunked_request_body_goes_upstream_whole(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed())
    caller.create(route.url, content=iter([b"one ", b"two ", b"three"]))
    assert [seen.body for seen in route.requests] == [b"one two three"]


def test_the_upstream_is_asked_once(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed(b"paid"))
    assert caller.create(route.url).whole().data == b"paid"
    assert route.count == 1


def test_a_caller_that_goes_before_the_201_cancels_the_upstream_request(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([HANG])
    with caller.raw() as peer:
        fields = f"Authorization: Bearer {caller.secret}\r\nUpstream-URL: {route.url}\r\nUpstream-Method: GET"
        peer.send(f"POST /v1/proxy HTTP/1.1\r\nHost: {peer.host}\r\n{fields}\r\nContent-Length: 0\r\n\r\n".encode())
        route.wait_requests()
    route.wait_cut()


# The 201


def test_the_201_carries_a_presigned_url_and_what_the_upstream_said(caller: Caller, upstream: Upstream) -> None:
    before = time.time()
    answer = caller.post(upstream.serve(sse("a")).url)
    assert answer.status_code == 201
    match = re.fullmatch(
        rf"(?:https?://[^/]+)?/v1/proxy/{UUID}\?expires=([0-9]+)&signature=([A-Za-z0-9_-]{{43}})",
        answer.headers["location"],
    )
    assert match, answer.headers["location"]
    assert int(match[1]) > before
    assert answer.headers["upstream-content-type"] == "text/event-stream"
    assert answer.headers["upstream-status"] == "200"
    assert "no-store" in answer.headers["cache-control"]
    assert answer.content == b""


def test_the_201_does_not_wait_for_the_upstreams_body(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(GATE, b"late"))
    stream = caller.create(route.url)
    assert route.finished == 0
    route.release()
    assert stream.whole().data == b"late"


def test_every_create_makes_a_stream_of_its_own(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed(b"x"))
    assert len({caller.create(route.url).id for _ in range(5)}) == 5
    assert route.count == 5


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 226, 299])
def test_every_success_of_the_upstream_makes_a_stream(caller: Caller, upstream: Upstream, status: int) -> None:
    answer = caller.post(upstream.serve(fixed(b"body", status=status)).url)
    assert (answer.status_code, answer.headers["upstream-status"]) == (201, str(status))
    assert caller.stream(answer).whole()[:2] == (b"body", "complete")


@pytest.mark.parametrize("status", [204, 205])
def test_a_success_without_content_makes_an_empty_stream_that_is_closed(
    caller: Caller, upstream: Upstream, status: int
) -> None:
    length = [("Content-Length", "0")] if status == 205 else []
    answer = caller.post(upstream.serve([head(status, *length)]).url)
    assert (answer.status_code, answer.headers["upstream-status"]) == (201, str(status))
    assert caller.stream(answer).whole()[:2] == (b"", "complete")


def test_informational_responses_are_passed_over(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([head(100), head(103, ("Link", "</x>")), *fixed(b"after")])
    assert caller.create(route.url).whole().data == b"after"


@pytest.mark.parametrize(
    "content_type",
    [
        "text/event-stream",
        "text/event-stream; charset=utf-8",
        "application/json",
        "Application/X-NDJSON",
        'multipart/mixed; boundary="a b"',
        "audio/mpeg",
    ],
)
def test_the_upstreams_content_type_is_passed_on_as_spelled(
    caller: Caller, upstream: Upstream, content_type: str
) -> None:
    answer = caller.post(upstream.serve(fixed(b"x", content_type=content_type)).url)
    assert answer.headers["upstream-content-type"] == content_type


@pytest.mark.parametrize("content_type", [None, ""])
def test_a_body_without_content_type_is_an_octet_stream(
    caller: Caller, upstream: Upstream, content_type: str | None
) -> None:
    answer = caller.post(upstream.serve(fixed(b"x", content_type=content_type)).url)
    assert answer.headers["upstream-content-type"] == "application/octet-stream"


def test_a_trailing_slash_is_accepted(caller: Caller, upstream: Upstream) -> None:
    headers = caller.bearer | {"Upstream-URL": upstream.serve(fixed()).url, "Upstream-Method": "GET"}
    answer = caller.http.post("/v1/proxy/", headers=headers)
    assert answer.status_code == 201
    assert caller.stream(answer).whole().outcome == "complete"


# Expect: 100-continue (RFC 9110 section 10.1.1)


def _expecting(caller: Caller, url: str, secret: str, host: str) -> bytes:
    fields = [
        "POST /v1/proxy HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {secret}", f"Upstream-URL: {url}",
        "Upstream-Method: POST", "Expect: 100-continue", "Content-Length: 4", "", "",
    ]  # fmt: skip
    return "\r\n".join(fields).encode()


def test_an_expectant_caller_gets_100_continue_once_the_checks_have_passed(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed(b"ok"))
    with caller.raw() as peer:
        peer.send(_expecting(caller, route.url, caller.secret, peer.host))
        assert peer.response_head().status == 100
        assert route.count == 0
        peer.send(b"body")
        assert peer.response().status == 201
    assert [seen.body for seen in route.requests] == [b"body"]


@pytest.mark.parametrize("fault", ["secret", "url"])
def test_an_expectant_caller_is_refused_before_it_sends_its_body(
    caller: Caller, upstream: Upstream, fault: str
) -> None:
    secret = "wrong" if fault == "secret" else caller.secret
    url = "http://other.example/" if fault == "url" else upstream.serve(fixed()).url
    with caller.raw() as peer:
        peer.send(_expecting(caller, url, secret, peer.host))
        assert peer.response_head().status == (401 if fault == "secret" else 403)


# Idempotency-Key


def _key() -> dict[str, str]:
    return {"Idempotency-Key": f"key-{time.time_ns()}"}


@pytest.mark.parametrize("when", ["while it runs", "after its end"])
def test_the_same_key_answers_with_the_same_stream_and_calls_no_upstream(
    caller: Caller, upstream: Upstream, when: str
) -> None:
    route, key = upstream.serve(chunked(b"one", GATE, b"two")), _key()
    first = caller.create(route.url, headers=key, content=b"question")
    if when == "after its end":
        route.release()
        first.whole()
    replay = caller.post(route.url, headers=key, content=b"question")
    assert (replay.status_code, replay.headers["idempotent-replay"]) == (200, "true")
    assert replay.headers["upstream-content-type"] == "text/event-stream"
    stream = caller.stream(replay)
    assert stream.id == first.id
    if when == "while it runs":
        route.release()
    assert stream.whole()[:2] == (b"onetwo", "complete")
    assert route.count == 1


def test_a_first_answer_is_no_replay(caller: Caller, upstream: Upstream) -> None:
    answer = caller.post(upstream.serve(fixed()).url, headers=_key())
    assert answer.status_code == 201
    assert "idempotent-replay" not in answer.headers


@pytest.mark.parametrize("difference", ["url", "method", "body"])
def test_the_same_key_for_another_request_is_a_conflict(caller: Caller, upstream: Upstream, difference: str) -> None:
    first, second, key = upstream.serve(fixed()), upstream.serve(fixed()), _key()
    caller.create(first.url, "POST", headers=key, content=b"one")
    answer = caller.post(
        second.url if difference == "url" else first.url,
        "PUT" if difference == "method" else "POST",
        headers=key,
        content=b"two" if difference == "body" else b"one",
    )
    assert code(answer) == (409, "IDEMPOTENCY_CONFLICT")
    assert (first.count, second.count) == (1, 0)


@pytest.mark.parametrize("status", [302, 400, 429, 500])
def test_a_first_call_that_failed_leaves_the_key_free(caller: Caller, upstream: Upstream, status: int) -> None:
    route, key = upstream.serve(fixed(b"no", status=status), fixed(b"yes")), _key()
    assert caller.post(route.url, headers=key).status_code in (400, 502)
    assert caller.create(route.url, headers=key).whole().data == b"yes"
    assert route.count == 2


def test_a_refused_request_leaves_the_key_free(caller: Caller, upstream: Upstream) -> None:
    route, key = upstream.serve(fixed(b"yes")), _key()
    assert code(caller.post("http://other.example/", headers=key)) == (403, "UPSTREAM_NOT_ALLOWED")
    assert caller.create(route.url, headers=key).whole().data == b"yes"


def test_two_at_once_with_one_key_make_one_upstream_call(caller: Caller, upstream: Upstream) -> None:
    route, key = upstream.serve([head(200, ("Content-Length", "4")), GATE, b"once"], fixed(b"twice")), _key()
    answers: list[httpx.Response] = []
    callers = [threading.Thread(target=lambda: answers.append(caller.post(route.url, headers=key))) for _ in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(15)
    route.release()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    streams = {caller.stream(answer).id for answer in answers}
    assert len(streams) == 1
    assert route.count == 1
    assert caller.stream(answers[0]).whole().data == b"once"


def test_two_at_once_wait_for_an_upstream_that_is_slow_with_its_head(caller: Caller, upstream: Upstream) -> None:
    route, key = upstream.serve([GATE, head(200, ("Content-Length", "4")) + b"once"], fixed(b"twice")), _key()
    answers: list[httpx.Response] = []
    callers = [threading.Thread(target=lambda: answers.append(caller.post(route.url, headers=key))) for _ in range(2)]
    for each in callers:
        each.start()
    route.wait_requests()
    route.release()
    for each in callers:
        each.join(15)
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert route.count == 1


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda key: key + "x",
        lambda key: "../" + key,
        lambda key: key.ljust(255, "k"),
        lambda key: key + "\u00e9",
    ],
    ids=["upper case", "longer", "a path", "255 bytes", "not ASCII"],
)
def test_keys_are_opaque_and_compared_exactly(caller: Caller, upstream: Upstream, change: Callable[[str], str]) -> None:
    route, [key] = upstream.serve(fixed()), _key().values()
    plain = [*caller.bearer.items(), ("Upstream-URL", route.url), ("Upstream-Method", "GET")]
    ids = set()
    for each in (key, change(key)):
        headers = [(name.encode(), value.encode()) for name, value in [*plain, ("Idempotency-Key", each)]]
        ids.add(caller.stream(caller.http.post("/v1/proxy", headers=headers)).id)
    assert len(ids) == 2
    assert route.count == 2


def test_a_key_of_more_than_255_bytes_is_refused(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed())
    assert code(caller.post(route.url, headers={"Idempotency-Key": "k" * 256}))[0] == 400
    assert route.count == 0


def test_the_key_goes_upstream_too(caller: Caller, upstream: Upstream) -> None:
    route, key = upstream.serve(echo), _key()
    caller.create(route.url, headers=key)
    assert route.requests[0].get("Idempotency-Key") == key["Idempotency-Key"]


def test_a_deleted_stream_frees_its_key(caller: Caller, upstream: Upstream) -> None:
    route, key = upstream.serve(fixed(b"one"), fixed(b"two")), _key()
    first = caller.create(route.url, headers=key)
    first.whole()
    assert first.delete().status_code == 204
    assert caller.create(route.url, headers=key).whole().data == b"two"


def test_a_stream_that_broke_off_later_keeps_its_key(caller: Caller, upstream: Upstream) -> None:
    route, key = upstream.serve([*chunked(b"one")[:-1], RESET]), _key()
    stream = caller.create(route.url, headers=key)
    assert stream.whole()[:2] == (b"one", "upstream_error")
    assert caller.stream(caller.post(route.url, headers=key)).id == stream.id
    assert route.count == 1
