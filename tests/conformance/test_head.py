"""HEAD /v1/proxy/{id}: metadata, with the service secret only."""

import uuid

import pytest

from tests.conformance.caller import Caller, claims, jwt
from tests.kit.upstream import GATE, HANG, RESET, Script, Upstream, chunked, fixed, head, sse


def test_the_head_of_an_open_stream(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(sse("one", GATE))
    stream = caller.create(route.url)
    tail = stream.until(b'data: {"token": "one"}\n\n')
    answer = stream.head()
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["stream-next-offset"] == tail
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["upstream-content-type"] == "text/event-stream"
    assert "stream-closed" not in answer.headers
    assert "upstream-outcome" not in answer.headers
    route.release()
    stream.whole()


def test_the_head_of_a_closed_stream(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed(b"whole")).url)
    last = stream.whole().last
    answer = stream.head()
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["stream-closed"] == "true"
    assert answer.headers["upstream-outcome"] == "complete"
    assert answer.headers["stream-next-offset"] == last.headers["stream-next-offset"]


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (fixed(b"x"), "complete"),
        ([head(200, ("Content-Length", "5")) + b"x", RESET], "upstream_error"),
        ([*chunked(b"x")[:-1], RESET], "upstream_error"),
    ],
    ids=["complete", "short", "cut"],
)
def test_the_head_tells_the_outcome(caller: Caller, upstream: Upstream, script: Script, outcome: str) -> None:
    stream = caller.create(upstream.serve(script).url)
    stream.whole()
    assert stream.head().headers["upstream-outcome"] == outcome


def test_the_head_is_not_cached(caller: Caller, upstream: Upstream) -> None:
    answer = caller.create(upstream.serve(fixed()).url).head()
    assert "public" not in answer.headers.get("cache-control", "")


@pytest.mark.parametrize("how", ["bearer", "query", "token"])
def test_the_service_secret_is_taken_in_every_form(caller: Caller, upstream: Upstream, how: str) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    token = {"Authorization": f"Bearer {jwt(caller.secret, claims())}"}
    headers = {"bearer": caller.bearer, "query": {}, "token": token}[how]
    params = {"secret": caller.secret} if how == "query" else {}
    assert caller.http.head(stream.path, params=params, headers=headers).status_code == 200


def test_the_presigned_url_is_not_enough(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    assert caller.http.head(stream.path, params=stream.signed).status_code == 401
    assert caller.http.head(stream.path).status_code == 401
    assert caller.http.head(stream.path, params={"secret": "wrong"}).status_code == 401


def test_the_head_of_no_stream_is_not_found(caller: Caller) -> None:
    assert caller.http.head(f"/v1/proxy/{uuid.uuid4()}", headers=caller.bearer).status_code == 404
    assert caller.http.head("/v1/proxy/none", headers=caller.bearer).status_code == 404


@pytest.mark.parametrize("authorized", [True, False])
def test_a_head_answer_has_no_body_on_the_wire_and_the_connection_goes_on(
    caller: Caller, upstream: Upstream, authorized: bool
) -> None:
    stream = caller.create(upstream.serve(fixed(b"body")).url)
    stream.whole()
    field = f"Authorization: {caller.bearer['Authorization']}\r\n" if authorized else ""
    with caller.raw() as peer:
        peer.send(f"HEAD {stream.path} HTTP/1.1\r\nHost: {peer.host}\r\n{field}\r\n".encode())
        assert peer.response(to=b"HEAD").status == (200 if authorized else 401)
        peer.send(f"GET /health HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
        assert peer.response().body == b'{"status":"ok"}'


def test_a_head_does_not_end_the_transfer(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    stream = caller.create(route.url)
    assert stream.head().status_code == 200
    assert route.cuts == 0
    stream.abort()
    route.wait_cut()
