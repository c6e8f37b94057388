"""The raw client, the relay, the handler wrappers and the certificates do what other tests rely on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy.http.body import BytesBody, read_all
from proxy.http.message import ExchangeError, Request, Response
from proxy.wire.headers import Headers
from tests.kit.certificates import Certificates
from tests.kit.handlers import Failing, Recording, Slow, answer, lost
from tests.kit.peers import End, RawClient
from tests.kit.relay import Cut, Relay, Way
from tests.kit.upstream import FIN, GATE, HANG, RESET, Upstream, chunked, fixed, head, until_close


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def get(peer: RawClient, url: str) -> None:
    path = httpx.URL(url).raw_path
    peer.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, peer.host.encode()))


def test_the_raw_client_reads_pipelined_responses_of_every_framing(upstream: Upstream) -> None:
    first = upstream.serve([head(103, ("Link", "x")), *chunked(b"a", b"b")])
    second = upstream.serve(fixed(b"", status=204))
    third = upstream.serve(until_close(b"to the end"))
    with RawClient(upstream.url) as peer:
        get(peer, first.url)
        assert peer.response().body == b"ab"
        get(peer, second.url)
        assert peer.response().status == 204
        get(peer, third.url)
        assert peer.response().body == b"to the end"
        assert peer.end is End.FIN


def test_the_raw_client_tells_reset_from_end_and_from_silence(upstream: Upstream) -> None:
    for step, end in ((RESET, End.RST), (FIN, End.FIN), (HANG, End.OPEN)):
        route = upstream.serve([b"x", step])
        with RawClient(upstream.url) as peer:
            get(peer, route.url)
            if end is End.OPEN:
                with pytest.raises(TimeoutError):
                    peer.rest(0.1)
                assert not peer.silent(0.01)  # the x has not been read
            else:
                assert peer.rest() == b"x"
            assert peer.end is end


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("after", [0, 1, 17, 70])
def test_the_relay_cuts_after_exactly_so_many_bytes_to_the_client(upstream: Upstream, how: str, after: int) -> None:
    assert how in ("fin", "rst")
    route = upstream.serve(fixed(b"x" * 1000))
    with Relay(upstream.url) as relay:
        relay.cut_next(Cut(Way.TO_CLIENT, after, "fin" if how == "fin" else "rst"))
        with RawClient(relay.url) as peer:
            get(peer, route.url)
            assert len(peer.rest()) == after
            assert peer.end is (End.FIN if how == "fin" else End.RST)
        relay.wait_cut()
        assert httpx.get(relay.url + httpx.URL(route.url).path).content == b"x" * 1000
        assert relay.accepted == 2


def test_the_relay_cuts_on_the_way_to_the_server_and_lets_the_other_side_know(upstream: Upstream) -> None:
    with Relay(upstream.url) as relay:
        relay.cut_next(Cut(Way.TO_SERVER, 5))
        with RawClient(relay.url) as peer:
            get(peer, upstream.serve(fixed()).url)
            assert peer.rest() == b""
        assert relay.passed[Way.TO_SERVER] == 5


def test_a_hanging_relay_passes_nothing_and_ends_nothing(upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    with Relay(upstream.url) as relay:
        with RawClient(relay.url) as peer:
            get(peer, route.url)
            peer.response_head()
            assert peer.chunk() == b"one"
            relay.cut_all("hang")
            route.release()
            route.wait_finished()
            assert peer.silent(0.1)
        route.wait_closed()


def test_tls_peers_trust_each_other_and_nobody_else(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    with Upstream(tls=certificates.server) as upstream:
        route = upstream.serve(fixed(b"secret"), until_close(b"more"))
        with httpx.Client(verify=certificates.client) as client:
            assert client.get(route.url).content == b"secret"
            assert client.get(route.url).content == b"more"
        with pytest.raises(httpx.ConnectError):
            httpx.get(route.url)


async def teapot(request: Request) -> Response:
    return Response(200, Headers(), BytesBody([b"tea for ", request.target]))


async def test_wrapped_handlers_record_fail_and_wait() -> None:
    recording = Recording(teapot)
    failing = (
        Failing(recording, when=lambda request: request.method == b"POST").then(answer(503)).then(lost(), after=True)
    )
    slow = Slow(failing, when=lambda request: request.target == b"/slow")
    post = Request(b"POST", b"/1", Headers(), BytesBody([b"body"]))
    assert (await slow(post)).status == 503
    with pytest.raises(ExchangeError):
        await slow(post)
    assert (recording.seen[0].body, recording.seen[0].status) == (b"body", 200)
    task = asyncio.create_task(_body(slow, b"/slow"))
    await slow.arrived.wait()
    assert slow.waiting == 1
    slow.release()
    assert await task == b"tea for /slow"
    assert failing.met == 2


async def _body(handler: Slow, target: bytes) -> bytes:
    return await read_all((await handler(Request(b"GET", target, Headers()))).body, 100)
