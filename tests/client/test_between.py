"""Servers between the client and the proxy answer in its place. The client takes none of it for the stream."""

import time

import pytest

from proxy.client import NetworkError, ProxyError
from proxy.client.options import TRANSIENT_STATUSES
from tests.client.conftest import Connect
from tests.client.drivers import Driver
from tests.client.scripted_proxy import ScriptedProxy, error_answer

ID = "turn"

PAGE = b"<html>somebody else's page</html>"


def page(status: int, *fields: str) -> bytes:
    """A gateway's own answer."""
    lines = [f"HTTP/1.1 {status} x", "Content-Type: text/html", f"Content-Length: {len(PAGE)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + PAGE


STATUSES = [200, 302, 400, 401, 403, 404, 407, 410, 418, 451, *sorted(TRANSIENT_STATUSES)]


# Reads


@pytest.mark.parametrize("status", STATUSES)
def test_a_read_answered_by_somebody_else_is_repeated_and_not_a_byte_of_that_answer_is_delivered(
    proxy: ScriptedProxy, fetch: Driver, status: int
) -> None:
    proxy.stream(b"hello ", b"world")
    response = fetch(request_id=ID)
    proxy.answers.append(page(status))
    assert response.read() == b"hello world"
    assert not proxy.answers
    assert len(proxy.creates) == 1


@pytest.mark.parametrize("status", STATUSES)
def test_a_resumed_answer_is_not_forgotten_when_somebody_else_answers_its_first_read(
    proxy: ScriptedProxy, fetch: Driver, status: int
) -> None:
    proxy.stream(b"hello ", b"world")
    fetch(request_id=ID).close()
    proxy.answers.append(page(status))
    response = fetch(request_id=ID)
    assert (response.was_resumed, response.read()) == (True, b"hello world")
    assert len(proxy.creates) == 1


@pytest.mark.parametrize("status", [200, 403, 404, 410, 502])
def test_somebody_who_answers_every_read_costs_an_error_but_never_the_answer(
    proxy: ScriptedProxy, fetch: Driver, status: int
) -> None:
    proxy.stream(b"hello ", b"world")
    response = fetch(request_id=ID)
    for ask in (response.read, lambda: fetch.resume(ID), lambda: fetch(request_id=ID)):
        proxy.answers += [page(status)] * 6
        with pytest.raises(ProxyError, match=f"HTTP_{status}"):
            ask()
        assert not proxy.answers
    again = fetch(request_id=ID)
    assert again.read() == b"hello world"
    assert len(proxy.creates) == 1


@pytest.mark.parametrize("code", ["NOT_FOUND", "INVALID_REQUEST", "INTERNAL_ERROR", "METHOD_NOT_ALLOWED"])
def test_even_the_proxys_own_errors_forget_nothing_unless_they_say_that_the_stream_is_gone(
    proxy: ScriptedProxy, fetch: Driver, code: str
) -> None:
    proxy.stream(b"hello ", b"world")
    fetch(request_id=ID).close()
    proxy.answers += [error_answer(410, code)] * 6
    with pytest.raises(ProxyError, match=code):
        fetch(request_id=ID)
    proxy.answers.clear()
    assert fetch(request_id=ID).read() == b"hello world"
    assert len(proxy.creates) == 1


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("what", ["create", "read", "abort"])
def test_no_redirect_is_followed_so_no_credential_goes_elsewhere(
    proxy: ScriptedProxy, fetch: Driver, status: int, what: str
) -> None:
    with ScriptedProxy() as elsewhere:
        redirect = page(status, f"Location: {elsewhere.url}/x?expires=1&signature=s")
        proxy.stream(b"hello", outcome=None)
        headers = {"Authorization": "Bearer sk-upstream"}
        if what == "create":
            proxy.answers.append(redirect)
            with pytest.raises(ProxyError, match=f"HTTP_{status}"):
                fetch(headers=headers)
        else:
            response = fetch(headers=headers)
            proxy.answers.append(redirect)
            if what == "read":
                assert response.take(5) == b"hello"
            else:
                response.abort()
                assert len(proxy.aborts) == 1
            response.close()
        assert not proxy.answers
        assert (elsewhere.creates, elsewhere.reads, elsewhere.aborts, elsewhere.streams) == ([], [], [], {})


def test_a_stream_on_another_origin_is_read_without_the_secret(proxy: ScriptedProxy, fetch: Driver) -> None:
    with ScriptedProxy() as elsewhere:
        stream = elsewhere.stream(b"hello")
        elsewhere.streams[stream.id] = stream
        head = f"HTTP/1.1 201 x\r\nUpstream-Status: 200\r\nLocation: {elsewhere.stream_url(stream)}"
        proxy.answers.append(f"{head}\r\nContent-Length: 0\r\n\r\n".encode())
        assert fetch().read() == b"hello"
        assert all("authorization" not in asked.headers for asked in elsewhere.reads)


# Aborts


@pytest.mark.parametrize("status", [200, 302, 403, 404, 410, 503])
def test_an_abort_answered_by_somebody_else_is_sent_again(proxy: ScriptedProxy, fetch: Driver, status: int) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    fetch(request_id=ID).close()
    proxy.answers.append(page(status))
    assert fetch.abort(ID)
    assert proxy.aborts == [stream.id]


@pytest.mark.parametrize("status", [200, 404])
def test_an_abort_that_never_reached_the_proxy_raises_and_forgets_nothing(
    proxy: ScriptedProxy, fetch: Driver, status: int
) -> None:
    proxy.stream(b"hello", outcome=None)
    fetch(request_id=ID).close()
    proxy.answers += [page(status)] * 3
    with pytest.raises(ProxyError, match=f"HTTP_{status}"):
        fetch.abort(ID)
    assert fetch.abort(ID)


def test_an_abort_does_not_wait_for_long_because_a_close_waits_for_it(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello", outcome=None)
    fetch(request_id=ID).close()
    proxy.answers.append(page(503, "Retry-After: 30"))
    with pytest.raises(ProxyError, match="HTTP_503"):
        fetch.abort(ID)


# Creates


LATER = [page(403), page(500), error_answer(503, "DRAINING"), error_answer(401, "INVALID_SECRET")]


@pytest.mark.parametrize("later", LATER, ids=["page 403", "page 500", "draining", "other secret"])
def test_a_key_whose_answer_was_lost_is_kept_whatever_is_answered_after_that(
    proxy: ScriptedProxy, connect: Connect, later: bytes
) -> None:
    fetch = connect()
    proxy.stream(b"hello")
    proxy.lose_creates = 3
    with pytest.raises(NetworkError):
        fetch(request_id=ID)
    proxy.answers += [later] * 3
    with pytest.raises(ProxyError):
        fetch(request_id=ID)
    proxy.answers.clear()
    response = fetch(request_id=ID)
    assert (response.was_resumed, response.read()) == (True, b"hello")
    assert len(proxy.streams) == 1
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1


@pytest.mark.parametrize("status", [200, *sorted(TRANSIENT_STATUSES)])
def test_a_create_answered_by_somebody_else_is_repeated_under_its_key_after_the_wait_that_was_asked_for(
    proxy: ScriptedProxy, fetch: Driver, status: int
) -> None:
    proxy.stream(b"hello")
    proxy.answers.append(page(status, "Retry-After: 0.1"))
    began = time.monotonic()
    assert fetch().read() == b"hello"
    assert time.monotonic() - began >= 0.1
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1
    assert len(proxy.creates) == 2


@pytest.mark.parametrize("status", [200, 403, 502])
def test_a_create_that_somebody_else_answered_may_have_been_carried_out_so_its_key_is_kept(
    proxy: ScriptedProxy, fetch: Driver, status: int
) -> None:
    proxy.answers += [page(status)] * 3
    with pytest.raises(ProxyError):
        fetch(request_id=ID)
    proxy.answers.clear()
    fetch(request_id=ID).read()
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1
