"""The HTTP/2 server: many answers at once on one connection, credit, deadlines, refusals, the end of a connection."""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.body import BodyError, BytesBody, Cut, read_all
from proxy.http.message import Request, Response
from proxy.http.pipe import Pipe
from proxy.wire.events import Buffer
from proxy.wire.frames import MAX_WINDOW, PREFACE, data_header, ping_frame, reset_frame
from proxy.wire.headers import Headers
from tests.http.kit import echo, serving
from tests.kit.bodies import fed_pipe
from tests.kit.h2_peers import H2Peer
from tests.kit.waiting import LONG, until

SHORT = 0.05
KIB = 1024


@pytest.mark.over_tls
async def test_many_answers_on_one_connection_each_at_its_own_pace() -> None:
    bodies = {f"/{number}": fed_pipe(is_open=True) for number in range(30)}

    async def handler(request: Request) -> Response:
        return Response(200, Headers(), bodies[request.target.decode()])

    async with serving(handler) as served:
        peer = await served.connect2()
        streams = {path: peer.ask(path) for path in bodies}
        for stream in streams.values():
            assert (await peer.head(stream)).status == 200
        for path in reversed(bodies):
            bodies[path].feed([path.encode()])
            bodies[path].end()
            assert (await peer.response(streams[path])).body == path.encode()
        assert len(served.server.connections) == 1


async def test_both_versions_are_served_on_the_same_port() -> None:
    async with serving(echo) as served:
        assert (await (await served.connect2()).fetch("/two")).body == b"/two "
        assert (await served.ask(b"GET /one HTTP/1.1\r\nHost: h\r\n\r\n")).body == b"/one "


@pytest.mark.plain_only
@pytest.mark.parametrize("cut", range(1, len(PREFACE) + 1))
async def test_the_version_is_seen_however_the_first_bytes_are_cut(cut: int) -> None:
    async with serving(echo) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        held = bytearray()
        write = writer.write
        writer.write = held.extend  # type: ignore[method-assign,assignment]  # to send the greeting in pieces
        peer = H2Peer(reader, writer)
        stream = peer.ask("/cut")
        writer.write = write  # type: ignore[method-assign]  # as it was
        write(bytes(held[:cut]))
        await until(lambda: all(connection.deadline < LONG * 1e6 for connection in served.server.connections))
        await asyncio.sleep(0)
        write(bytes(held[cut:]))
        assert (await peer.response(stream)).body == b"/cut "
        peer.close()


@pytest.mark.parametrize(
    ("method", "status", "length", "body"),
    [
        ("GET", 200, "5", b"12345"),
        ("HEAD", 200, "5", b""),
        ("GET", 204, None, b""),
        ("GET", 304, None, b""),
        ("HEAD", 404, "5", b""),
    ],
)
async def test_a_response_says_its_length_and_has_a_body_only_where_it_may(
    method: str, status: int, length: str | None, body: bytes
) -> None:
    async def handler(_: Request) -> Response:
        return Response(status, Headers([(b"connection", b"close")]), BytesBody([b"123", b"45"]))

    async with serving(handler) as served:
        peer = await served.connect2()
        response = await peer.fetch(method=method)
        assert (response.status, response.headers.get("content-length"), response.body) == (status, length, body)
        assert response.headers["date"].endswith(" GMT")
        assert "connection" not in response.headers


async def test_an_empty_response_is_one_frame() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers())

    async with serving(handler) as served:
        peer = await served.connect2()
        response = await peer.fetch()
        assert response.headers["content-length"] == "0"
        assert [kind for kind, stream in peer.seen if stream == 1] == [1]


async def test_a_head_leaves_before_its_body_begins() -> None:
    body = fed_pipe(is_open=True)

    async def handler(_: Request) -> Response:
        return Response(200, Headers([(b"content-type", b"text/event-stream")]), body)

    async with serving(handler) as served:
        peer = await served.connect2()
        stream = peer.ask()
        assert (await peer.head(stream)).headers["content-type"] == "text/event-stream"
        for part in (b"one", b"two"):
            body.feed([part])
            expected = peer.responses[stream].body + part
            await peer.until(lambda expected=expected: peer.responses[stream].body == expected)  # type: ignore[misc]  # bound now
        body.end()
        assert (await peer.response(stream)).ended


async def test_request_bodies_arrive_whole_and_credit_is_returned() -> None:
    async with serving(echo, max_waiting_bytes=64 * KIB) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", body=None)
        sent = b""
        while len(sent) < 800 * KIB:
            piece = b"%06d" % len(sent) * 2_000
            await peer.until(lambda: peer.h2.local_flow_control_window(stream) >= 12_000)
            peer.body(stream, piece)
            sent += piece
        peer.body(stream, b"", ended=True)
        assert (await peer.response(stream)).body == b"/ " + sent


async def test_a_handler_that_does_not_take_stops_its_own_client_body_and_no_other() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.target == b"/held":
            await gate.wait()
        return Response(200, Headers(), BytesBody([b"%d" % len(await read_all(request.body, 1 << 30))]))

    async with serving(handler, max_waiting_bytes=64 * KIB, max_request_bytes=1 << 30) as served:
        peer = await served.connect2()
        held = peer.ask("/held", "POST", body=None)
        await peer.until(lambda: peer.h2.remote_settings.initial_window_size == 64 * KIB)
        sent = 0
        with suppress(TimeoutError):
            while True:
                window = min(peer.h2.local_flow_control_window(held), 16_000)
                sent += window
                peer.body(held, bytes(window))
                async with asyncio.timeout(4 * SHORT):  # for what must not happen
                    await peer.until(lambda: peer.h2.local_flow_control_window(held) > 0)
        assert 64 * KIB <= sent <= 192 * KIB
        assert served.server.bodies.budget.used <= 200 * KIB
        other = peer.ask("/free", "POST", body=None)
        for _ in range(20):
            await peer.until(lambda: peer.h2.local_flow_control_window(other) >= 16_000)
            peer.body(other, bytes(16_000))
        peer.body(other, b"", ended=True)
        assert (await peer.response(other)).body == b"320000"
        gate.set()
        peer.body(held, b"", ended=True)
        assert (await peer.response(held)).body == b"%d" % sent


async def test_a_reader_that_gives_no_credit_loses_its_own_answer_only() -> None:
    bodies = {b"/slow": fed_pipe(bytes(1 << 20)), b"/live": fed_pipe(is_open=True)}

    async def handler(request: Request) -> Response:
        return Response(200, Headers(), bodies[request.target])

    async with serving(handler, reader_timeout_seconds=4 * SHORT) as served:
        peer = await served.connect2(gives_credit=False)
        slow, live = peer.ask("/slow"), peer.ask("/live")
        await peer.head(live)
        peer.give_credit(1 << 20)
        assert (await peer.response(slow)).reset == 8
        assert len(peer.responses[slow].body) == 65_535
        bodies[b"/live"].feed([b"still here"])
        bodies[b"/live"].end()
        assert (await peer.response(live)).body == b"still here"
        await until(lambda: not len(served.server.exchanges))


async def test_a_slow_reader_that_takes_something_keeps_its_answer() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), fed_pipe(bytes(80_000)))

    async with serving(handler, reader_timeout_seconds=6 * SHORT) as served:
        peer = await served.connect2(gives_credit=False)
        stream = peer.ask()
        await peer.until(lambda: len(peer.responses[stream].body) == 65_535)
        peer.give_credit(1 << 20)
        while not peer.responses[stream].is_over:
            await asyncio.sleep(2 * SHORT)
            before = len(peer.responses[stream].body)
            peer.give_credit(2_000, stream)
            await peer.until(lambda before=before: len(peer.responses[stream].body) > before)  # type: ignore[misc]  # bound now
        assert len(peer.responses[stream].body) == 80_000


async def test_a_client_that_takes_nothing_at_all_is_cut() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), fed_pipe(bytes(64 << 20)))

    async with serving(handler, reader_timeout_seconds=4 * SHORT) as served:
        peer = await served.connect2(gives_credit=False)
        peer.h2.update_settings({4: MAX_WINDOW})
        peer.give_credit(1 << 30)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio.Transport
        peer.ask()
        await served.all_gone()
        peer.writer.transport.abort()


async def test_an_abort_cancels_its_own_handler_only() -> None:
    cancelled = asyncio.Event()
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.target != b"/aborted":
            await gate.wait()
            return await echo(request)
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async with serving(handler) as served:
        peer = await served.connect2()
        others = [peer.ask(f"/{number}") for number in range(50)]
        aborted = peer.ask("/aborted")
        others += [peer.ask(f"/{number}") for number in range(49)]
        await until(lambda: len(served.server.exchanges) == 100)
        peer.reset(aborted)
        await cancelled.wait()
        gate.set()
        for stream in others:
            assert (await peer.response(stream)).status == 200


async def test_a_body_that_fails_resets_its_stream() -> None:
    for length in (None, 10):
        body = fed_pipe(b"partly", is_open=True)
        body.length = length

        async def handler(_: Request, body: Pipe = body) -> Response:
            return Response(200, Headers(), body)

        async with serving(handler) as served:
            peer = await served.connect2()
            stream = peer.ask()
            await peer.until(lambda peer=peer, stream=stream: peer.responses[stream].body == b"partly")  # type: ignore[misc]  # bound now
            body.fail(Cut.RESET)
            response = await peer.response(stream)
            assert (response.ended, response.reset) == (False, 2)


async def test_a_refused_request_is_answered_and_the_connection_goes_on() -> None:
    async with serving(echo, max_request_bytes=1000) as served:
        peer = await served.connect2()
        refused = {
            peer.ask("/a#b"): 400,
            peer.ask("/" + "a" * 2000): 414,
            peer.ask(method="CONNECTED", headers=(("expect", "nonsense"),)): 417,
            peer.ask(headers=(("x", "a" * 5000),)): 431,
            peer.ask(method="POST", headers=(("content-length", "1001"),), body=None): 413,
        }
        for stream, status in refused.items():
            assert (await peer.response(stream)).status == status
        assert (await peer.fetch("/good")).body == b"/good "


async def test_a_body_without_a_declared_length_is_refused_when_it_is_too_large() -> None:
    async with serving(echo, max_request_bytes=1000) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", body=None)
        peer.body(stream, bytes(1000))
        peer.body(stream, b"x")
        assert (await peer.response(stream)).status == 413
        await peer.until(lambda: (3, stream) in peer.seen)
        assert (await peer.fetch("/good")).body == b"/good "


async def test_a_response_before_the_end_of_the_request_stops_the_rest_without_an_error() -> None:
    async def handler(_: Request) -> Response:
        raise Refusal(Code.INVALID_SECRET, "no")

    async with serving(handler) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", body=None)
        assert (await peer.response(stream)).status == 401
        await peer.until(lambda: (3, stream) in peer.seen)
        peer.send(data_header(5, stream, ended=True) + b"12345")  # it was on its way
        assert (await peer.fetch()).status == 401


async def test_a_client_that_waits_for_100_is_invited_by_a_handler_that_reads() -> None:
    async with serving(echo) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", headers=(("expect", "100-continue"),), body=None)
        await peer.until(lambda: peer.responses[stream].informational == [100])
        peer.body(stream, b"invited", ended=True)
        assert (await peer.response(stream)).body == b"/ invited"


async def test_a_client_that_waits_for_100_is_not_invited_by_a_refusal() -> None:
    async def handler(_: Request) -> Response:
        raise Refusal(Code.INVALID_SECRET, "no")

    async with serving(handler) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", headers=(("expect", "100-continue"),), body=None)
        response = await peer.response(stream)
        assert (response.status, response.informational) == (401, [])


async def test_a_body_that_stops_coming_is_refused_and_others_go_on() -> None:
    async with serving(echo, body_timeout_seconds=4 * SHORT) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", body=None)
        peer.body(stream, b"begun")
        assert (await peer.response(stream)).status == 408
        assert (await peer.fetch("/good")).body == b"/good "


async def test_an_upload_that_was_cut_is_seen_by_the_handler() -> None:
    seen: list[object] = []

    async def handler(request: Request) -> Response:
        try:
            await read_all(request.body, 1 << 20)
        except BodyError as error:
            seen.append(error.cut)
            raise
        raise AssertionError

    async with serving(handler) as served:
        peer = await served.connect2()
        stream = peer.ask(method="POST", headers=(("content-length", "5"),), body=None)
        peer.send(data_header(3, stream, ended=True) + b"abc")
        assert (await peer.response(stream)).status == 400
        assert seen == [Cut.FRAMING]


# Time and ends of a connection


async def test_a_silent_connection_is_closed_and_an_idle_one_with_goaway() -> None:
    async with serving(echo, head_timeout_seconds=4 * SHORT) as served:
        await served.connect()
        await until(lambda: len(served.server.connections) == 1)
        await served.all_gone()
    async with serving(echo, idle_timeout_seconds=4 * SHORT) as served:
        peer = await served.connect2()
        await peer.fetch()
        await peer.rest()
        assert peer.gone == [(1, 0)]


async def test_a_head_that_never_ends_is_cut() -> None:
    async with serving(echo, head_timeout_seconds=6 * SHORT) as served:
        peer = await served.connect2()
        await peer.fetch()
        with suppress(RuntimeError, ConnectionError):  # the connection is gone
            while served.server.connections:
                peer.send(b"\0")
                await asyncio.sleep(SHORT)


@pytest.mark.over_tls
async def test_draining_ends_in_two_goaways_and_loses_no_request() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with serving(handler) as served:
        peer = await served.connect2()
        first = peer.ask("/first")
        await until(lambda: len(served.server.exchanges) == 1)
        served.server.drain()
        second = peer.ask("/second")  # sent before the client knows
        await peer.until(lambda: len(peer.gone) == 2)
        assert peer.gone == [(MAX_WINDOW, 0), (second, 0)]
        gate.set()
        for stream, path in ((first, b"/first "), (second, b"/second ")):
            assert (await peer.response(stream)).body == path
        await peer.rest()


async def test_a_drained_connection_without_a_request_closes_at_once() -> None:
    async with serving(echo) as served:
        peer = await served.connect2()
        await peer.fetch()
        served.server.drain()
        await peer.rest()
        assert peer.gone == [(MAX_WINDOW, 0), (1, 0)]


async def test_a_client_that_does_not_answer_is_not_waited_for_when_draining() -> None:
    async with serving(echo, close_grace_seconds=4 * SHORT) as served:
        peer = await served.connect2()
        await peer.fetch()
        served.server.drain()
        await served.all_gone()


async def test_a_flood_gets_enhance_your_calm_and_its_answers_end() -> None:
    async with serving(echo) as served:
        peer = await served.connect2()
        await peer.fetch()
        peer.send(2_000 * ping_frame(b"12345678"))
        await peer.rest()
        assert peer.gone == [(1, 11)]
        await until(lambda: not len(served.server.exchanges))


async def test_a_rapid_reset_reaches_the_handler_no_more_than_the_limits_say() -> None:
    begun = 0

    async def handler(_: Request) -> Response:
        nonlocal begun
        begun += 1
        await asyncio.sleep(LONG)
        raise AssertionError

    async with serving(handler, exchanges_per_connection=10) as served:
        peer = await served.connect2()
        await peer.until(lambda: bool(peer.seen))
        peer.h2.update_settings({})
        flood = bytearray()
        for stream in range(1, 4_000, 2):
            peer.h2.send_headers(stream, [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/")])
            peer.h2.reset_stream(stream, 8)
            flood += peer.h2.data_to_send()
        peer.send(bytes(flood))
        await peer.rest()
        assert peer.gone[-1][1] == 11
        assert begun <= 340


async def test_exchanges_of_all_connections_together_are_bounded() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with serving(handler, max_exchanges=3) as served:
        peers = [await served.connect2() for _ in range(2)]
        streams = [(peer, peer.ask(f"/{number}")) for number in range(2) for peer in peers]
        await until(lambda: len(served.server.exchanges) == 3)
        gate.set()
        ended = [(await peer.response(stream)).reset for peer, stream in streams]
        assert sorted(ended, key=str) == [7, None, None, None]
        for peer in peers:
            assert (await peer.fetch("/again")).status == 200


async def test_a_lost_connection_cancels_every_handler() -> None:
    async def handler(_: Request) -> Response:
        await asyncio.sleep(LONG)
        raise AssertionError

    async with serving(handler) as served:
        peer = await served.connect2()
        for number in range(20):
            peer.ask(f"/{number}", "POST", body=None)
        await until(lambda: len(served.server.exchanges) == 20)
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.writer.transport.abort()
        await until(lambda: not len(served.server.exchanges))
        await served.all_gone()


async def test_a_reset_in_the_same_read_as_its_request_never_reaches_the_handler() -> None:
    seen: list[bytes] = []

    async def handler(request: Request) -> Response:
        seen.append(request.target)
        return await echo(request)

    async with serving(handler) as served:
        peer = await served.connect2()
        await peer.fetch("/before")
        peer.h2.send_headers(3, [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/never")])
        peer.send(peer.h2.data_to_send() + reset_frame(3, 8))
        peer._next = 5
        assert (await peer.fetch("/after")).status == 200
        assert seen == [b"/before", b"/after"]


async def test_the_answers_of_one_turn_of_the_loop_share_a_write() -> None:
    bodies = [fed_pipe(is_open=True) for _ in range(50)]

    async def handler(request: Request) -> Response:
        return Response(200, Headers(), bodies[int(request.target[1:])])

    async with serving(handler) as served:
        peer = await served.connect2()
        streams = [peer.ask(f"/{number}") for number in range(50)]
        for stream in streams:
            await peer.head(stream)
        (connection,) = served.server.connections
        writes = []
        write = connection.write

        def counted(buffers: Iterable[Buffer]) -> None:
            writes.append(1)
            write(buffers)

        connection.write = counted  # type: ignore[method-assign]  # counts
        for body in bodies:
            body.feed([b"event"])
        await peer.until(lambda: all(peer.responses[stream].body == b"event" for stream in streams))
        assert len(writes) <= 2
        for body in bodies:
            body.end()
