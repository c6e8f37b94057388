"""The HTTP/2 client and its pool: what ends one exchange, what ends all, what is asked again, and how many connections.

Origins are whole h2 over TLS, scripted frame by frame, and our own server. nginx is one in `tests/test_tls.py`.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from proxy.http.body import BodyError, BytesBody, Cut, ReleasingBody, read_all
from proxy.http.client1 import Http1Client
from proxy.http.client2 import Http2Client, Http2Settings
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pool import Pool
from proxy.net.dial import Address
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers
from tests.http.kit import carrier, dialler, echo, pool_limits, serving
from tests.kit.certificates import Authority, Certificates
from tests.kit.h2_origin import H2Origin, origin2
from tests.kit.loop_peers import OK, Peer, answering, origin
from tests.kit.nginx import Nginx, needs_nginx
from tests.kit.waiting import LONG, SOON, until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return Certificates.make(directory)


@asynccontextmanager
async def pooling2(
    certificates: Certificates, exchanges: int = 100, ping: float = LONG, pong: float = LONG, **limits: object
) -> AsyncIterator[Pool]:
    """A pool that offers HTTP/2; at the end it must close at once and leave nothing."""
    offers: dict[bool, ssl.SSLContext] = {}
    for http2 in (False, True):
        context = offers[http2] = ssl.create_default_context(cafile=str(certificates.ca_file))
        context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    dial = dialler(contexts=lambda _host, _port, http2: offers[http2])
    connect2 = partial(Http2Client, settings=Http2Settings(exchanges, ping, pong))
    pool = Pool("test", dial, pool_limits(**limits), Http1Client, connect2)
    try:
        yield pool
    finally:
        async with asyncio.timeout(SOON):
            await pool.aclose()
        assert len(pool) == 0
    assert pool.bodies.budget.used == 0


def get(target: bytes = b"/", timeout: float | None = SOON, max_bytes: int | None = None) -> Request:
    return Request(b"GET", target, Headers([(b"host", b"origin")]), timeout=timeout, max_response_bytes=max_bytes)


def post(body: bytes, *, timeout: float = SOON) -> Request:
    return Request(b"POST", b"/", Headers([(b"host", b"origin")]), BytesBody([body]), timeout)


async def ask(pool: Pool, address: Address, request: Request | None = None) -> bytes:
    async with asyncio.timeout(SOON):
        response: Response = await pool.at(address)(request or get())
        assert response.status == 200
        return await read_all(response.body, 1 << 24)


async def fault(pool: Pool, address: Address, request: Request | None = None) -> Fault:
    with pytest.raises(ExchangeError) as raised:
        await ask(pool, address, request)
    return raised.value.fault


async def cut(pool: Pool, address: Address, request: Request | None = None) -> Cut:
    with pytest.raises(BodyError) as raised:
        await ask(pool, address, request)
    return raised.value.cut


async def together(*asking: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*asking))


async def answers(served: H2Origin) -> None:
    """Answer every request with its target and its body."""
    number = 1
    while True:
        asked = await served.request(number)
        served.answer(asked.stream, asked.fields[b":path"] + b" " + asked.body)
        number += 1


async def test_a_request_and_its_response_arrive_whole(certificates: Certificates) -> None:
    asked = []

    async def script(served: H2Origin) -> None:
        asked.append(await served.request())
        served.head(1, 200, ("content-length", "5"), ("x-kept", "yes"))
        served.body(1, b"he")
        served.body(1, b"llo", ended=True)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        response = await pool.at(address)(post(b"question"))
        assert await read_all(response.body, 100) == b"hello"
        assert (response.headers.get(b"x-kept"), response.body.length) == (b"yes", 5)
    fields = asked[0].fields
    assert (fields[b":method"], fields[b":scheme"], fields[b":authority"]) == (b"POST", b"https", b"origin")
    assert (fields[b"content-length"], asked[0].body) == (b"8", b"question")


async def test_exchanges_share_one_connection(certificates: Certificates) -> None:
    async with origin2(answers, certificates.server) as (served, address), pooling2(certificates) as pool:
        found = await asyncio.gather(*(ask(pool, address, get(b"/%d" % n)) for n in range(50)))
        assert found == [b"/%d " % n for n in range(50)]
        assert len(served.peers) == 1


async def test_an_origin_that_speaks_only_http1_is_served_over_it(certificates: Certificates) -> None:
    certificates.server.set_alpn_protocols(["http/1.1"])
    async with (
        origin(answering(OK), ssl=certificates.server) as (served, address),
        pooling2(certificates) as pool,
    ):
        found = await asyncio.gather(*(ask(pool, address) for _ in range(5)))
        assert found == [b"ok"] * 5
        assert 1 <= len(served.peers) <= 5


async def test_more_exchanges_than_one_connection_carries_open_as_many_as_they_need(certificates: Certificates) -> None:
    gate = asyncio.Event()

    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == 10)
        await gate.wait()
        for stream in list(served.asked):
            served.answer(stream)
        await served.until(lambda: False)

    async with origin2(script, certificates.server, {3: 10}) as (served, address), pooling2(certificates) as pool:
        asking = [asyncio.ensure_future(ask(pool, address)) for _ in range(50)]
        await until(lambda: len(served.peers) == 5)
        gate.set()
        assert await asyncio.gather(*asking) == [b"ok"] * 50
        assert len(served.peers) == 5


async def test_a_stalled_reader_holds_up_no_other(certificates: Certificates) -> None:
    size = 4 << 20

    async def script(served: H2Origin) -> None:
        await served.until(lambda: 1 in served.asked and 3 in served.asked)
        left = {1: size, 3: size}
        for stream in left:
            served.head(stream)
        while left[3]:
            for stream, size_left in left.items():
                room = min(served.h2.local_flow_control_window(stream), 16_384, size_left)
                if room > 0:
                    left[stream] = size_left - room
                    served.body(stream, bytes(room), ended=room == size_left)
            if served.h2.local_flow_control_window(3) <= 0 < left[3]:
                await served.receive()
        sent.append(size - left[1])
        await served.until(lambda: False)

    sent: list[int] = []
    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        first, second = await asyncio.gather(pool.at(address)(get()), pool.at(address)(get()))
        assert len(await read_all(second.body, size)) == size
        assert sent[0] <= 65_535 + 16_384  # its window and what was read before it was paused
        first.body.close()


async def test_a_body_that_waits_keeps_no_other_in_memory(certificates: Certificates) -> None:
    """Both bodies come in the same reads, as large pieces."""

    async def script(served: H2Origin) -> None:
        await served.until(lambda: 1 in served.asked and 3 in served.asked)
        for stream in (1, 3):
            served.head(stream)
        for stream in (3, 3, 1, 3, 1, 3, 1, 3):
            served.h2.send_data(stream, bytes(3000))
        served.flush()
        served.body(1, b"", ended=True)
        served.body(3, b"", ended=True)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        first, second = await asyncio.gather(pool.at(address)(get()), pool.at(address)(get()))
        assert len(await read_all(second.body, 100_000)) == 3000 * 5
        kept: list[Buffer] = []
        while parts := await first.body.take():
            kept += parts
        assert sum(map(len, kept)) == 9000
        behind = {id(owner): len(owner) for part in kept if isinstance(owner := getattr(part, "obj", part), bytes)}
        assert sum(behind.values()) <= 2 * 9000
        first.body.close()


async def test_an_abort_ends_its_exchange_alone(certificates: Certificates) -> None:
    count = 100

    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == count)
        for stream in served.asked:
            served.head(stream)
            served.body(stream, b"first ")
        await served.until(lambda: any(asked.reset is not None for asked in served.asked.values()))
        resets.append({stream: asked.reset for stream, asked in served.asked.items() if asked.reset is not None})
        for stream, asked in served.asked.items():
            if asked.reset is None:
                served.body(stream, b"last", ended=True)
        await served.until(lambda: False)

    resets: list[dict[int, int]] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        responses = await asyncio.gather(*(pool.at(address)(get()) for _ in range(count)))
        responses[42].body.close()
        rest = [response for at, response in enumerate(responses) if at != 42]
        assert await asyncio.gather(*(read_all(each.body, 100) for each in rest)) == [b"first last"] * 99
        assert len(served.peers) == 1
        assert list(resets[0].values()) == [8]


async def test_a_caller_that_is_cancelled_resets_its_exchange(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.request(1)
        asked.set()
        await served.until(lambda: served.asked[1].reset is not None)
        code.append(served.asked[1].reset)
        await served.request(2)
        served.answer(3)
        await served.until(lambda: False)

    asked, code = asyncio.Event(), list[int | None]()
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        task = asyncio.ensure_future(ask(pool, address))
        await asked.wait()
        task.cancel()
        assert await ask(pool, address) == b"ok"
        assert (code, len(served.peers)) == ([8], 1)
        await asyncio.wait([task])


async def test_a_late_head_ends_its_exchange_alone(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == 2)
        late = next(stream for stream, asked in served.asked.items() if asked.fields[b":path"] == b"/late")
        await served.until(lambda: served.asked[late].reset is not None)
        served.answer(4 - late)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        found = await together(ask(pool, address), fault(pool, address, get(b"/late", timeout=0.05)))
        assert found == [b"ok", Fault.TIMEOUT]
        assert len(served.peers) == 1


# GOAWAY, RST and loss


@pytest.mark.parametrize("at", range(5))
async def test_a_goaway_before_or_after_any_frame_of_a_response_leaves_it_whole(
    certificates: Certificates, at: int
) -> None:
    async def script(served: H2Origin) -> None:
        if begun:
            await answers(served)
        begun.append(served)
        await served.request()
        steps: list[Callable[[], None]] = [
            partial(served.head, 1, 103),
            partial(served.head, 1),
            partial(served.body, 1, b"one"),
            partial(served.body, 1, b" two", ended=True),
        ]
        steps.insert(at, partial(served.goaway, 1))
        for step in steps:
            step()
            await asyncio.sleep(0)
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        assert await ask(pool, address) == b"one two"
        assert await ask(pool, address, get(b"/next")) == b"/next "
        assert len(served.peers) == 2
        await until(lambda: len(pool) == 1)


@pytest.mark.parametrize("refuse", ["goaway", "rst"])
async def test_a_request_that_was_not_acted_on_is_sent_once_more_elsewhere(
    certificates: Certificates, refuse: str
) -> None:
    async def script(served: H2Origin) -> None:
        if begun:
            await answers(served)
        begun.append(served)
        await served.request(1)
        if refuse == "goaway":
            served.goaway(0)
        else:
            served.reset(1, 7)
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        assert await ask(pool, address, post(b"question")) == b"/ question"
        assert len(served.peers) == 2


@pytest.mark.parametrize("refuse", ["goaway", "rst"])
async def test_a_request_is_sent_twice_at_most(certificates: Certificates, refuse: str) -> None:
    async def script(served: H2Origin) -> None:
        await served.request(1)
        if refuse == "goaway":
            served.goaway(0)
        else:
            served.reset(1, 7)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        expected = Fault.LEAVING if refuse == "goaway" else Fault.REFUSED
        assert await fault(pool, address, post(b"question")) is expected
        assert len(served.peers) == 2


async def test_an_origin_that_asks_for_http1_gets_it_and_is_remembered(certificates: Certificates) -> None:
    spoken = []

    async def play(peer: Peer) -> None:
        spoken.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        if spoken[-1] == "h2":
            served = H2Origin(peer)
            await served.request()
            served.reset(1, 13)
            await served.until(lambda: False)
        await answering(OK)(peer)

    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    async with origin(play, ssl=certificates.server) as (_, address), pooling2(certificates) as pool:
        assert await ask(pool, address, post(b"question")) == b"ok"
        assert await asyncio.gather(*(ask(pool, address) for _ in range(3))) == [b"ok"] * 3
    assert spoken[0] == "h2"
    assert set(spoken[1:]) == {"http/1.1"}


async def test_a_goaway_ends_the_exchanges_above_its_last_stream_and_no_other(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        if begun:
            await answers(served)
        begun.append(served)
        await served.until(lambda: len(served.asked) == 3 and all(asked.ended for asked in served.asked.values()))
        served.goaway(3)
        for stream in (1, 3):
            served.answer(stream, b"first " + served.asked[stream].body)
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        found = await asyncio.gather(*(ask(pool, address, post(b"%d" % n)) for n in range(3)))
        assert sorted(each.split(b" ")[0] for each in found) == [b"/", b"first", b"first"]
        assert sorted(each.split(b" ")[1] for each in found) == [b"0", b"1", b"2"]
        assert len(served.peers) == 2


async def test_two_goaways_are_understood(certificates: Certificates) -> None:
    """The first one of an orderly end names no last stream: what is on its way is still acted on."""

    async def script(served: H2Origin) -> None:
        if begun:
            await answers(served)
        begun.append(served)
        await served.request()
        served.goaway((1 << 31) - 1)
        served.head(1)
        served.goaway(1)
        served.body(1, b"ok", ended=True)
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        assert await ask(pool, address) == b"ok"
        assert await ask(pool, address) == b"/ "
        assert len(served.peers) == 2


async def test_a_request_whose_connection_was_lost_is_never_sent_again(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.request()
        served.peer.reset()

    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        assert await fault(pool, address, post(b"once")) is Fault.RESET
        assert len(served.peers) == 1


async def test_an_exchange_goes_on_where_another_one_was_asked_over_http1(certificates: Certificates) -> None:
    async def play(peer: Peer) -> None:
        if peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            await answering(OK)(peer)
        served = H2Origin(peer)
        await served.until(lambda: len(served.asked) == 2)
        served.head(1)
        served.reset(3, 13)
        await done.wait()
        served.body(1, b"over HTTP/2", ended=True)
        await served.until(lambda: False)

    done = asyncio.Event()
    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    async with origin(play, ssl=certificates.server) as (_, address), pooling2(certificates) as pool:
        first = asyncio.ensure_future(ask(pool, address))
        second = asyncio.ensure_future(ask(pool, address))
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        done.set()
        assert await together(first, second) == [b"over HTTP/2", b"ok"]
        await until(lambda: len(pool) == 1)


async def test_other_connections_are_not_asked_once_an_origin_wants_http1(certificates: Certificates) -> None:
    async def play(peer: Peer) -> None:
        if peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            await answering(OK)(peer)
        served = H2Origin(peer, {3: 1})
        await served.request(1)
        begun.append(served)
        await both.wait()
        served.answer(1)
        await served.request(2)
        served.reset(3, 13)
        await served.until(lambda: False)

    begun, both = list[H2Origin](), asyncio.Event()
    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    async with origin(play, ssl=certificates.server) as (_, address), pooling2(certificates) as pool:
        asking = [asyncio.ensure_future(ask(pool, address)) for _ in range(2)]
        await until(lambda: len(begun) == 2)
        both.set()
        assert await asyncio.gather(*asking) == [b"ok"] * 2
        assert await ask(pool, address) == b"ok"
        await until(lambda: len(pool) == 1)


@pytest.mark.parametrize("code", [0, 1, 2, 8, 11, 13, 99])
@pytest.mark.parametrize("has_head", [False, True])
async def test_a_reset_ends_its_exchange_alone_and_is_not_asked_again(
    certificates: Certificates, code: int, has_head: bool
) -> None:
    if code == 13 and not has_head:
        return  # asked again, over HTTP/1.1

    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == 2)
        lost = next(stream for stream, asked in served.asked.items() if asked.fields[b":path"] == b"/lost")
        if has_head:
            served.head(lost)
        served.reset(lost, code)
        served.answer(4 - lost)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        ends = cut(pool, address, get(b"/lost")) if has_head else fault(pool, address, get(b"/lost"))
        found = await together(ask(pool, address), ends)
        assert found == [b"ok", Cut.RESET if has_head else Fault.RESET]
        assert len(served.peers) == 1


async def test_an_end_of_the_connection_without_end_stream_cuts_every_body(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == 3)
        for stream in served.asked:
            served.head(stream)
            served.body(stream, b"not whole")

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        assert await asyncio.gather(*(cut(pool, address) for _ in range(3))) == [Cut.RESET] * 3


# Messages


async def test_a_body_that_is_not_as_long_as_it_says_is_cut(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == 2)
        for stream, asked in served.asked.items():
            served.raw_head(stream, [(b":status", b"200"), (b"content-length", b"4")])
            payload = b"12345" if asked.fields[b":path"] == b"/long" else b"123"
            served.peer.send(len(payload).to_bytes(3, "big") + b"\0\1" + stream.to_bytes(4, "big") + payload)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        found = await together(cut(pool, address, get(b"/long")), cut(pool, address, get(b"/short")))
        assert found == [Cut.FRAMING] * 2


@pytest.mark.parametrize("count", [16, 17])
async def test_informational_heads_are_passed_over_and_bounded(certificates: Certificates, count: int) -> None:
    async def script(served: H2Origin) -> None:
        await served.request()
        for _ in range(count):
            served.head(1, 103)
        served.answer(1)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        if count == 16:
            assert await ask(pool, address) == b"ok"
        else:
            assert await fault(pool, address) is Fault.PROTOCOL


async def test_trailers_are_dropped(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.request()
        served.head(1)
        served.body(1, b"body")
        served.h2.send_headers(1, [("x-trailer", "1")], end_stream=True)
        served.flush()
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        assert await ask(pool, address) == b"body"


async def test_a_connection_error_ends_every_exchange_with_a_reason(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.until(lambda: len(served.asked) == 2)
        served.peer.send(b"\0\0\0\0\0\0\0\0\0")  # DATA of stream 0
        await served.until(lambda: served.gone)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        assert await together(fault(pool, address), fault(pool, address)) == [Fault.PROTOCOL] * 2


async def test_a_requests_body_is_closed_once_its_response_has_come_and_it_was_sent(certificates: Certificates) -> None:
    closed = list[bytes]()
    body = ReleasingBody(BytesBody([b"question"]), lambda: closed.append(b"now"))

    async def script(served: H2Origin) -> None:
        asked = await served.request()
        assert not closed
        if not begun:
            begun.append(served)
            served.reset(1, 7)
        else:
            served.answer(1, asked.body)
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        request = Request(b"POST", b"/", Headers([(b"host", b"origin")]), body, SOON)
        assert await ask(pool, address, request) == b"question"
        assert closed == [b"now"]


async def test_a_flood_ends_its_connection_alone(certificates: Certificates) -> None:
    async def flood(served: H2Origin) -> None:
        await served.request()
        served.peer.send((b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 2000)  # PING
        await served.until(lambda: served.gone)

    async with (
        origin2(flood, certificates.server) as (_, hostile),
        origin2(answers, certificates.server) as (_, good),
        pooling2(certificates) as pool,
    ):
        found = await together(fault(pool, hostile), ask(pool, good))
        assert found == [Fault.PROTOCOL, b"/ "]


@pytest.mark.parametrize("last", [0, 1])
async def test_a_goaway_during_an_upload_ends_it_only_when_it_says_so(certificates: Certificates, last: int) -> None:
    async def script(served: H2Origin) -> None:
        if begun:
            served.gives_credit = True
            asked = await served.request()
            served.answer(1, b"again %d" % len(asked.body))
            await served.until(lambda: False)
        begun.append(served)
        served.gives_credit = False
        await served.until(lambda: 1 in served.asked and len(served.asked[1].body) > 0)
        served.goaway(last)
        served.gives_credit = True
        received = len(served.asked[1].body)
        served.h2.increment_flow_control_window(received)
        served.h2.increment_flow_control_window(received, 1)
        served.flush()
        asked = await served.request()
        served.answer(1, b"first %d" % len(asked.body))
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        expected = b"first 300000" if last else b"again 300000"
        assert await ask(pool, address, post(bytes(300_000))) == expected
        assert len(served.peers) == 2 - last


async def test_a_large_request_waits_for_the_origins_credit_and_delays_no_other(certificates: Certificates) -> None:
    body = bytes(300_000)

    async def script(served: H2Origin) -> None:
        served.gives_credit = False
        await served.until(lambda: 3 in served.asked)
        served.answer(3)
        served.gives_credit = True
        served.h2.increment_flow_control_window(len(served.asked[1].body))
        served.h2.increment_flow_control_window(len(served.asked[1].body), 1)
        served.flush()
        asked = await served.request(1)
        served.answer(1, b"%d" % len(asked.body))
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        large = asyncio.ensure_future(ask(pool, address, post(body)))
        await until(lambda: len(pool) == 1)
        assert await ask(pool, address) == b"ok"
        assert await large == b"300000"


async def test_a_response_that_comes_before_the_request_is_sent_ends_the_exchange(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        served.gives_credit = False
        await served.until(lambda: 1 in served.asked)
        served.answer(1, b"no need")
        await served.until(lambda: served.asked[1].reset is not None)
        await served.request(2)
        served.answer(3)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (served, address), pooling2(certificates) as pool:
        assert await ask(pool, address, post(bytes(300_000))) == b"no need"
        assert await ask(pool, address) == b"ok"
        assert len(served.peers) == 1


async def test_a_body_over_the_limit_is_cut_and_reset(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.request()
        served.head(1)
        served.body(1, b"12345")
        await served.until(lambda: served.asked[1].reset == 8)
        reset.set()
        await served.until(lambda: False)

    reset = asyncio.Event()
    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        assert await cut(pool, address, get(max_bytes=4)) is Cut.LIMIT
        await asyncio.wait_for(reset.wait(), SOON)


# Silence


async def test_a_silent_connection_is_asked_and_kept_when_it_answers(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.request()
        await served.until(lambda: served.pings == 3)
        served.answer(1)
        await served.until(lambda: False)

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates, ping=0.03) as pool:
        assert await ask(pool, address) == b"ok"


async def test_a_connection_that_answers_no_ping_is_given_up(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        await served.request()
        served.head(1)
        await asyncio.sleep(SOON)

    async with (
        origin2(script, certificates.server) as (_, address),
        pooling2(certificates, ping=0.03, pong=0.03) as pool,
    ):
        assert await cut(pool, address) is Cut.RESET


async def test_after_a_late_head_a_silent_connection_is_not_used_again(certificates: Certificates) -> None:
    async def script(served: H2Origin) -> None:
        if begun:
            await answers(served)
        begun.append(served)
        await served.until(lambda: False)

    begun: list[H2Origin] = []
    async with origin2(script, certificates.server) as (served, address), pooling2(certificates, pong=0.0) as pool:
        patient = asyncio.ensure_future(ask(pool, address))
        assert await fault(pool, address, get(timeout=0.03)) is Fault.TIMEOUT
        assert await ask(pool, address) == b"/ "
        assert len(served.peers) == 2
        patient.cancel()
        await asyncio.wait([patient])


# The pool


async def test_a_call_that_is_cancelled_in_any_turn_of_the_loop_gives_everything_back(
    certificates: Certificates,
) -> None:
    """The pool has one place, so that one which is not given back is missed."""
    async with (
        origin2(answers, certificates.server) as (_, address),
        pooling2(certificates, connections=1, connections_per_origin=1) as pool,
    ):
        done = 0
        for turns in range(200):
            asking = [asyncio.ensure_future(ask(pool, address)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            asking[0].cancel()
            results = await asyncio.gather(*asking, return_exceptions=True)
            assert results[1:] == [b"/ "] * 2
            done += results[0] == b"/ "
            if turns % 3 == 0:  # begin with a dial
                for connection in list(pool._connections):
                    connection.cut()
                await until(lambda: not len(pool))
            if done == 5:
                break
        assert done == 5


async def test_those_that_wait_for_the_first_dial_fail_with_it(certificates: Certificates) -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.exactly(1)

    async with origin(hang_up) as (served, plain), pooling2(certificates) as pool:
        address = plain._replace(tls=True)
        assert await asyncio.gather(*(fault(pool, address) for _ in range(10))) == [Fault.TLS] * 10
        assert len(served.peers) == 1


async def test_when_the_first_dial_is_cancelled_another_one_dials(certificates: Certificates) -> None:
    async with origin2(answers, certificates.server) as (_, address), pooling2(certificates) as pool:
        first = asyncio.ensure_future(ask(pool, address))
        rest = [asyncio.ensure_future(ask(pool, address)) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*rest) == [b"/ "] * 5
        await asyncio.wait([first])


async def test_an_end_that_nobody_has_read_yet_is_noticed_before_the_connection_is_used(
    certificates: Certificates,
) -> None:
    async with origin2(answers, certificates.server) as (served, address), pooling2(certificates) as pool:
        await ask(pool, address)
        with socket.socket(fileno=os.dup(served.peers[0].writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)
        # In the same turn of the loop: the pool's connection cannot have read it.
        assert await ask(pool, address) == b"/ "
        assert len(served.peers) == 2


async def test_one_exchange_begins_before_the_origins_settings_are_here(certificates: Certificates) -> None:
    async def play(peer: Peer) -> None:
        preface = await peer.exactly(24)
        heads = 0
        while True:
            header = await asyncio.wait_for(peer.reader.readexactly(9), None if heads else SOON)
            await peer.exactly(int.from_bytes(header[:3], "big"))
            heads += header[3] == 1
            if heads == 1 and not begun.is_set():
                begun.set()
                waiting.append(peer)
            if heads == 3:
                assert preface.startswith(b"PRI")
                all_begun.set()

    begun, all_begun, waiting = asyncio.Event(), asyncio.Event(), list[Peer]()
    certificates.server.set_alpn_protocols(["h2"])
    async with origin(play, ssl=certificates.server) as (served, address), pooling2(certificates) as pool:
        asking = [asyncio.ensure_future(fault(pool, address)) for _ in range(3)]
        await begun.wait()
        for _ in range(5):
            await asyncio.sleep(0.01)  # for what must not happen
        assert not all_begun.is_set()
        waiting[0].send(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        await asyncio.wait_for(all_begun.wait(), SOON)
        assert len(served.peers) == 1
        waiting[0].reset()
        assert await asyncio.gather(*asking) == [Fault.RESET] * 3


async def test_a_connection_whose_origin_has_left_is_not_used_again(certificates: Certificates) -> None:
    async with origin2(answers, certificates.server) as (served, address), pooling2(certificates) as pool:
        await ask(pool, address)
        served.peers[0].close()
        await until(lambda: len(pool) == 0)
        assert await ask(pool, address) == b"/ "
        assert len(served.peers) == 2


@pytest.mark.parametrize("at", range(60))
async def test_a_connection_that_is_lost_at_any_byte_of_a_response_cuts_it(certificates: Certificates, at: int) -> None:
    """A response of 9 + 1 bytes of a head, and 9 + 40 of a body: up to the last byte it is not whole."""
    response = b"\0\0\1\1\4\0\0\0\1\x88" + b"\0\0\x28\0\1\0\0\0\1" + bytes(40)

    async def script(served: H2Origin) -> None:
        await served.request()
        served.peer.send(response[:at])

    async with origin2(script, certificates.server) as (_, address), pooling2(certificates) as pool:
        if at < 10:
            assert await fault(pool, address) is Fault.RESET
        elif at < len(response):
            assert await cut(pool, address) is Cut.RESET
        else:
            assert await ask(pool, address) == bytes(40)


async def test_a_thousand_exchanges_with_our_own_server_need_ten_connections(certificates: Certificates) -> None:
    """Each is in progress until all are."""
    begun = asyncio.Event()
    count = 1000
    asked = []

    async def handle(request: Request) -> Response:
        asked.append(request)
        if len(asked) == count:
            begun.set()
        await begun.wait()
        return Response(200, Headers(), BytesBody([request.target]))

    carrier.certificates = certificates
    async with serving(handle) as served, pooling2(certificates) as pool:
        address = Address("127.0.0.1", served.port, tls=True)
        found = await asyncio.gather(*(ask(pool, address, get(b"/%d" % n)) for n in range(count)))
        assert found == [b"/%d" % n for n in range(count)]
        assert len(pool) == 10


@needs_nginx
async def test_an_nginx_that_says_goaway_every_three_requests_answers_all(
    certificates: Certificates, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.pair("nginx")
    server = (
        f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key};"
        ' location / { return 200 "$server_protocol $request_uri"; }'
    )
    trusted = Certificates(certificates.server, authority.client, authority.ca_file)
    with Nginx(tmp_path, server, http2=True) as nginx:
        address = Address("localhost", nginx.port, tls=True)
        async with pooling2(trusted, connections=100, connections_per_origin=100) as pool:
            for width in (1, 2, 3, 10, 50):
                asking = (ask(pool, address, get(b"/%d" % n)) for n in range(width))
                assert await asyncio.gather(*asking) == [b"HTTP/2.0 /%d" % n for n in range(width)]


async def test_our_own_server_drains_without_a_loss(certificates: Certificates) -> None:
    carrier.certificates = certificates
    async with pooling2(certificates) as pool, serving(echo) as served:
        address = Address("127.0.0.1", served.port, tls=True)
        assert await ask(pool, address, post(b"first")) == b"/ first"
        asking = [asyncio.ensure_future(ask(pool, address, post(bytes(200_000)))) for _ in range(10)]
        await asyncio.sleep(0)
        for connection in list(served.server.connections):
            connection.close_if_idle()
        for each in await asyncio.gather(*asking):
            assert len(each) == 200_002
