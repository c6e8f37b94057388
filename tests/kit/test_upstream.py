"""The scripted upstream and the npm storage do what other tests rely on."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.kit import oracle
from tests.kit.npm_storage import NpmStorage
from tests.kit.upstream import (
    FIN,
    GATE,
    HANG,
    RESET,
    Upstream,
    chunk,
    chunked,
    echo,
    endless,
    fixed,
    head,
    sse,
    until_close,
)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def test_a_request_is_recorded_as_it_was_spelled_and_ordered(upstream: Upstream) -> None:
    route = upstream.serve(fixed(b"ok"), path="/a/b?c=%2F")
    with socket.create_connection(("127.0.0.1", upstream.port)) as peer:
        target = route.url.removeprefix(upstream.url).encode()
        peer.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nX-B: 1\r\nx-b:2\r\nContent-Length: 3\r\n\r\nabc" % target)
        assert peer.recv(4096).endswith(b"ok")
    [seen] = route.requests
    assert (seen.method, seen.target, seen.body) == (b"POST", target, b"abc")
    assert seen.headers == [(b"Host", b"x"), (b"X-B", b"1"), (b"x-b", b"2"), (b"Content-Length", b"3")]
    assert seen.get_all("X-b") == ["1", "2"]


def test_a_gate_holds_the_script_until_the_test_opens_it(upstream: Upstream) -> None:
    route = upstream.serve(sse("one", GATE, "two"))
    with httpx.stream("GET", route.url) as answer:
        lines = answer.iter_lines()
        assert next(lines) == 'data: {"token": "one"}'
        assert route.finished == 0
        route.release()
        assert [line for line in lines if line] == ['data: {"token": "two"}']
    route.wait_finished()
    assert route.cuts == 0


@pytest.mark.parametrize("ending", [HANG, GATE])
def test_a_peer_that_closes_in_mid_script_is_reported_as_a_cut(upstream: Upstream, ending: object) -> None:
    assert ending in (HANG, GATE)
    route = upstream.serve(chunked(b"one", HANG if ending is HANG else GATE))
    with httpx.stream("GET", route.url) as answer:
        assert next(answer.iter_bytes()) == b"one"
    route.wait_cut()
    route.wait_closed()
    assert upstream.open_connections == 0


def test_an_endless_script_is_held_back_by_a_reader_that_does_not_read(upstream: Upstream) -> None:
    route = upstream.serve(endless(bytes(65536)))
    with httpx.stream("GET", route.url) as answer:
        next(answer.iter_raw())
    route.wait_cut()


def test_reset_and_fin_end_a_connection_differently(upstream: Upstream) -> None:
    whole = upstream.serve(until_close(b"body"))
    broken = upstream.serve([head(200, ("Content-Length", "9")) + b"body", RESET])
    assert httpx.get(whole.url).content == b"body"
    with pytest.raises(httpx.ReadError):
        httpx.get(broken.url)
    short = upstream.serve([head(200, ("Content-Length", "9")) + b"body", FIN])
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(short.url)


def test_scripts_are_played_one_request_after_the_other_and_echo_tells_what_came(upstream: Upstream) -> None:
    route = upstream.serve(fixed(status=503), [head(200), chunk(b""), FIN], echo)
    with httpx.Client() as client:
        assert client.get(route.url).status_code == 503
        assert client.get(route.url).content == b"0\r\n\r\n"
        told = client.put(route.url, content=iter([b"by ", b"chunks"])).json()
    assert (told["method"], told["body"]) == ("PUT", "by chunks")
    assert route.count == 3
    assert not upstream.strays


def test_the_oracle_names_the_piece_that_is_missing() -> None:
    data = b"".join(oracle.pieces(7, 1, 10))
    oracle.check(data, 7, 1, length=10 * oracle.SIZE)
    oracle.check(data[:100], 7, 1)
    with pytest.raises(AssertionError, match=r"piece 3 of stream 1 expected, next label there is <7/1/4>"):
        oracle.check(data[: 3 * oracle.SIZE] + data[4 * oracle.SIZE :], 7, 1)
    with pytest.raises(AssertionError, match=r"640 bytes of stream 1, expected 641"):
        oracle.check(data, 7, 1, length=641)


def test_the_npm_storage_speaks_the_base_protocol_and_ends_cleanly() -> None:
    with NpmStorage() as storage:
        url = f"{storage.url}/v1/streams/one"
        assert httpx.put(url, headers={"Content-Type": "text/plain"}).status_code == 201
        assert httpx.post(url, headers={"Content-Type": "text/plain"}, content=b"hello").status_code == 204
        assert httpx.get(url).content == b"hello"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
