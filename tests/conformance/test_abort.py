"""PATCH /v1/proxy/{id}?action=abort: the pre-signed URL alone, the upstream cut, what came stays."""

import httpx
import pytest

from tests.conformance.caller import Caller, claims, code, jwt
from tests.kit.upstream import GATE, HANG, Script, Upstream, chunked, endless, fixed, head, until_close


def test_an_abort_cuts_the_upstream_and_keeps_what_came(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    stream = caller.create(route.url)
    stream.until(b"one")
    answer = stream.abort()
    assert (answer.status_code, answer.content) == (204, b"")
    route.wait_cut()
    assert stream.whole()[:2] == (b"one", "aborted")
    assert stream.head().headers["upstream-outcome"] == "aborted"


@pytest.mark.parametrize(
    "script",
    [chunked(HANG), [head(200, ("Content-Length", "9")), HANG], until_close(HANG)],
    ids=["chunked", "fixed", "until close"],
)
def test_an_abort_before_the_first_byte_leaves_an_empty_closed_stream(
    caller: Caller, upstream: Upstream, script: Script
) -> None:
    route = upstream.serve(script)
    stream = caller.create(route.url)
    assert stream.abort().status_code == 204
    route.wait_cut()
    assert stream.whole()[:2] == (b"", "aborted")


def test_an_abort_may_be_repeated(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    stream = caller.create(route.url)
    stream.until(b"one")
    assert [stream.abort().status_code for _ in range(3)] == [204, 204, 204]
    assert stream.whole()[:2] == (b"one", "aborted")
    assert stream.abort().status_code == 204
    route.wait_closed()
    assert (route.count, route.cuts) == (1, 1)


def test_an_abort_after_the_end_changes_nothing(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed(b"whole")).url)
    assert stream.whole().outcome == "complete"
    assert stream.abort().status_code == 204
    assert stream.whole()[:2] == (b"whole", "complete")


def test_a_live_reader_learns_of_the_abort(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(chunked(b"one", HANG)).url)
    with stream.live() as live:
        live.until(b"one")
        assert stream.abort().status_code == 204
        assert live.to_end() == b"one"
    assert (live.controls[-1]["streamClosed"], live.controls[-1]["upstreamOutcome"]) == (True, "aborted")


def test_a_long_poll_that_waits_learns_of_the_abort(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(chunked(b"one", HANG)).url)
    offset = stream.until(b"one")
    with caller.raw() as peer:
        query = httpx.QueryParams(stream.signed | {"offset": offset, "live": "long-poll"})
        peer.send(f"GET {stream.path}?{query} HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
        assert peer.silent(0.1)
        assert stream.abort().status_code == 204
        answer = peer.response()
    assert (answer.get("Stream-Closed"), answer.get("Upstream-Outcome")) == ("true", "aborted")


def test_an_abort_touches_its_own_stream_only(caller: Caller, upstream: Upstream) -> None:
    routes = [upstream.serve(chunked(b"one", GATE, b"two")) for _ in range(2)]
    first, second = [caller.create(route.url) for route in routes]
    first.until(b"one")
    assert first.abort().status_code == 204
    routes[0].wait_cut()
    routes[1].release()
    assert second.whole()[:2] == (b"onetwo", "complete")
    assert routes[1].cuts == 0


def test_an_endless_body_is_aborted_in_full_flow(caller: Caller, upstream: Upstream) -> None:
    piece = bytes(range(256)) * 64
    route = upstream.serve(endless(piece))
    stream = caller.create(route.url)
    assert stream.abort().status_code == 204
    route.wait_cut()
    data, outcome, _ = stream.whole()
    assert outcome == "aborted"
    whole, rest = divmod(len(data), len(piece))
    assert data == piece * whole + piece[:rest]


# Who may


def test_only_the_presigned_url_aborts(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    stream.until(b"one")
    missing = (401, "MISSING_SIGNATURE")
    abort = {"action": "abort"}
    token = {"Authorization": f"Bearer {jwt(caller.secret, claims())}"}
    assert code(caller.http.patch(stream.path, params=abort)) == missing
    assert code(caller.http.patch(stream.path, params=abort, headers=caller.bearer)) == missing
    assert code(caller.http.patch(stream.path, params=abort, headers=token)) == missing
    assert code(caller.http.patch(stream.path, params=abort | {"secret": caller.secret})) == missing
    route.release()
    assert stream.whole()[:2] == (b"onetwo", "complete")


@pytest.mark.parametrize("kept", ["expires", "signature"])
def test_half_a_presigned_url_aborts_nothing(caller: Caller, upstream: Upstream, kept: str) -> None:
    stream = caller.create(upstream.serve(fixed()).url)
    params = {"action": "abort", kept: stream.signed[kept]}
    assert code(caller.http.patch(stream.path, params=params, headers=caller.bearer))[0] == 401


@pytest.mark.parametrize(
    "change", [{"signature": "A" * 43}, {"expires": "1"}, {"expires": "99999999999"}, {"signature": ""}]
)
def test_a_signature_that_does_not_hold_aborts_nothing(
    caller: Caller, upstream: Upstream, change: dict[str, str]
) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    assert code(stream.abort(**change)) == (401, "SIGNATURE_INVALID")
    route.release()
    assert stream.whole()[:2] == (b"onetwo", "complete")


def test_a_signature_aborts_no_other_stream(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    other, stream = caller.create(upstream.serve(fixed()).url), caller.create(route.url)
    params = other.signed | {"action": "abort"}
    assert code(caller.http.patch(stream.path, params=params)) == (401, "SIGNATURE_INVALID")
    route.release()
    assert stream.whole().outcome == "complete"


@pytest.mark.parametrize("action", [None, "", "Abort", "delete", "abort "])
def test_another_action_is_refused_and_aborts_nothing(caller: Caller, upstream: Upstream, action: str | None) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = caller.create(route.url)
    params = stream.signed | ({} if action is None else {"action": action})
    assert code(caller.http.patch(stream.path, params=params))[0] == 400
    route.release()
    assert stream.whole()[:2] == (b"onetwo", "complete")


def test_the_url_of_a_replay_aborts_too(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", HANG))
    key = {"Idempotency-Key": f"abort {upstream.port} {route.url}"}
    caller.create(route.url, headers=key)
    assert caller.stream(caller.post(route.url, headers=key)).abort().status_code == 204
    route.wait_cut()
