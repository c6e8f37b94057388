"""DELETE /v1/proxy/{id}: abort and delete, with the service secret only."""

import contextlib
import uuid

import httpx
import pytest

from tests.conformance.caller import Caller, claims, code, jwt
from tests.kit.upstream import GATE, HANG, Upstream, chunked, fixed


def test_a_deleted_stream_is_gone(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed(b"gone")).url)
    stream.whole()
    answer = stream.delete()
    assert (answer.status_code, answer.content) == (204, b"")
    assert code(stream.get()) == (404, "STREAM_NOT_FOUND")
    assert code(stream.get(offset="-1", live="sse")) == (404, "STREAM_NOT_FOUND")
    assert code(stream.get(offset="-1", live="long-poll")) == (404, "STREAM_NOT_FOUND")
    assert code(caller.http.get(stream.path, headers=caller.bearer)) == (404, "STREAM_NOT_FOUND")
    assert stream.head().status_code == 404


def test_a_delete_may_be_repeated(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    assert [stream.delete().status_code for _ in range(3)] == [204, 204, 204]


def test_deleting_what_never_was_is_no_error(caller: Caller) -> None:
    answer = caller.http.delete(f"/v1/proxy/{uuid.uuid4()}", headers=caller.bearer)
    assert answer.status_code == 204


def test_an_id_spelled_otherwise_is_no_stream(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed(b"stays")).url)
    path = stream.path.replace(stream.id, stream.id.upper())
    assert code(caller.http.delete(path, headers=caller.bearer)) == (404, "STREAM_NOT_FOUND")
    assert stream.whole().data == b"stays"


def test_deleting_a_running_stream_cuts_its_upstream(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    stream = caller.create(route.url)
    stream.until(b"one")
    assert stream.delete().status_code == 204
    route.wait_cut()
    assert code(stream.get()) == (404, "STREAM_NOT_FOUND")


def test_deleting_before_the_first_byte_cuts_the_upstream(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve([chunked()[0], HANG])
    stream = caller.create(route.url)
    assert stream.delete().status_code == 204
    route.wait_cut()
    assert code(stream.get()) == (404, "STREAM_NOT_FOUND")


def test_a_delete_in_full_flow_leaves_nothing(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(*[bytes(4096)] * 500, HANG))
    stream = caller.create(route.url)
    assert stream.delete().status_code == 204
    route.wait_cut()
    for _ in range(3):
        assert code(stream.get()) == (404, "STREAM_NOT_FOUND")


def test_a_live_reader_of_a_deleted_stream_does_not_wait_for_ever(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(chunked(b"one", HANG)).url)
    with stream.live() as live:
        live.until(b"one")
        assert stream.delete().status_code == 204
        with contextlib.suppress(httpx.RemoteProtocolError):  # broken off is an end too
            assert live.to_end() == b"one"
    assert live.controls[-1].get("upstreamOutcome") != "complete"


def test_a_long_poll_on_a_deleted_stream_does_not_wait_for_ever(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(chunked(b"one", HANG)).url)
    offset = stream.until(b"one")
    with caller.raw() as peer:
        query = httpx.QueryParams(stream.signed | {"offset": offset, "live": "long-poll"})
        peer.send(f"GET {stream.path}?{query} HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
        assert peer.silent(0.1)
        assert stream.delete().status_code == 204
        answer = peer.response()
    assert answer.status == 404 or answer.get("Stream-Closed") == "true"


def test_a_delete_touches_its_own_stream_only(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    kept, deleted = caller.create(route.url), caller.create(upstream.serve(fixed()).url)
    assert deleted.delete().status_code == 204
    route.release()
    assert kept.whole()[:2] == (b"onetwo", "complete")


def test_the_presigned_url_of_a_deleted_stream_aborts_nothing_and_brings_nothing_back(
    caller: Caller, upstream: Upstream
) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    assert stream.delete().status_code == 204
    assert stream.abort().status_code in (204, 404)
    assert code(stream.get()) == (404, "STREAM_NOT_FOUND")


@pytest.mark.parametrize("how", ["bearer", "query", "token"])
def test_the_service_secret_is_taken_in_every_form(caller: Caller, upstream: Upstream, how: str) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    token = {"Authorization": f"Bearer {jwt(caller.secret, claims())}"}
    headers = {"bearer": caller.bearer, "query": {}, "token": token}[how]
    params = {"secret": caller.secret} if how == "query" else {}
    assert caller.http.delete(stream.path, params=params, headers=headers).status_code == 204
    assert code(stream.get()) == (404, "STREAM_NOT_FOUND")


def test_who_lacks_the_secret_deletes_nothing(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    missing = (401, "MISSING_SECRET")
    assert code(caller.http.delete(stream.path)) == missing
    assert code(caller.http.delete(stream.path, params=stream.signed)) == missing
    assert code(caller.http.delete(stream.path, params={"secret": "wrong"})) == (401, "INVALID_SECRET")
    route.release()
    assert stream.whole()[:2] == (b"onetwo", "complete")
