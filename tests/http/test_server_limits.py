"""The HTTP server's deadlines and bounds: slow, silent and greedy clients, back-pressure both ways."""

import asyncio
import socket
from collections import Counter

import pytest

from proxy.http.body import BytesBody, read_all
from proxy.http.message import Request, Response
from proxy.http.server import ServerConnection
from proxy.wire.headers import Headers
from tests.http.kit import Served, carrier, echo, serving
from tests.http.test_server import EXPECTING, GET, POST
from tests.kit.bodies import fed_pipe
from tests.kit.loop_peers import Peer
from tests.kit.waiting import LONG, SOON, until

SHORT = 0.05


class Unread:
    """A blocking client, used from threads, that takes nothing but what its kernel takes and what `take` asks for."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self._client.sendall, data)

    async def take(self, count: int) -> bytes:
        """So many bytes, or fewer at the end. Over TLS one call of the socket gives one record at most."""

        def taken() -> bytes:
            data = b""
            while len(data) < count and (more := self._client.recv(count - len(data))):
                data += more
            return data

        return await asyncio.to_thread(taken)

    def close(self) -> None:
        self._client.close()


async def _unread(served: Served, request: bytes, receive_buffer: int = 4096) -> Unread:
    """A client that has sent a request."""

    def connected() -> socket.socket:
        client = socket.socket()
        client.settimeout(LONG)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", served.port))
        tls = carrier.client()
        return client if tls is None else tls.wrap_socket(client, server_hostname="127.0.0.1")

    client = Unread(await asyncio.to_thread(connected))
    await client.send(request)
    return client


# Deadlines


async def test_a_silent_connection_is_closed_without_an_answer() -> None:
    async with serving(echo, head_timeout_seconds=SHORT) as served:
        peer = await served.connect()
        assert await peer.rest() == b""


async def test_of_many_connections_that_are_due_together_few_are_judged_in_one_turn_of_the_loop() -> None:
    count, turn, judged = 60, 0, Counter[int]()
    loop = asyncio.get_running_loop()

    def count_turns() -> None:
        nonlocal turn
        turn += 1
        if judged.total() < count:
            loop.call_soon(count_turns)

    async with serving(echo, swept_at_once=4, max_connections=2 * count) as served:
        peers = [await served.connect() for _ in range(count)]
        await until(lambda: len(served.server.connections) == count)
        (kind,) = {type(each) for each in served.server.connections}
        overdue = kind.overdue

        def counted(connection: ServerConnection) -> None:
            judged[turn] += 1
            overdue(connection)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "overdue", counted)
            count_turns()
            for connection in served.server.connections:
                connection.expire_in(0.0)
            assert [await peer.rest() for peer in peers] == [b""] * count
        assert max(judged.values()) == 4


@pytest.mark.over_tls
@pytest.mark.parametrize("protocol", [None, "http/1.1"])
async def test_a_silent_connection_is_closed_even_if_its_client_never_answers_that(protocol: str | None) -> None:
    """Over TLS an end asks for an answer, which this client does not give; nor need it have agreed on a protocol."""

    def connected(port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), SOON)
        tls = carrier.client()
        if tls is None:
            return client
        tls.set_alpn_protocols([protocol] if protocol else [])
        return tls.wrap_socket(client, server_hostname="127.0.0.1")

    async with serving(echo, head_timeout_seconds=SHORT, close_grace_seconds=SHORT) as served:
        client = await asyncio.to_thread(connected, served.port)
        assert await asyncio.to_thread(client.recv, 1) == b""
        async with asyncio.timeout(SOON):
            await served.all_gone()
        client.close()


async def test_a_head_that_drips_is_refused_when_its_time_is_up() -> None:
    async with serving(echo, head_timeout_seconds=SHORT) as served:
        peer = await served.connect()
        dripping = asyncio.ensure_future(_drip(peer, b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 1000))
        answer = await peer.response()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        dripping.cancel()
        peer.close()
        await served.all_gone()
        await asyncio.gather(dripping, return_exceptions=True)


async def _drip(peer: Peer, data: bytes) -> None:
    for byte in data:
        peer.send(bytes([byte]))
        await asyncio.sleep(0.005)


async def test_a_second_head_has_its_own_deadline_and_idling_another() -> None:
    async with serving(echo, head_timeout_seconds=SHORT, idle_timeout_seconds=LONG) as served:
        peer = await served.connect(GET % b"a")
        assert (await peer.response()).status == 200
        await asyncio.sleep(2 * SHORT)
        peer.send(GET % b"b")
        assert (await peer.response()).status == 200
        peer.send(b"GET /c")
        assert (await peer.response()).status == 408


async def test_half_a_pipelined_head_is_under_the_head_deadline() -> None:
    async with serving(echo, head_timeout_seconds=SHORT, idle_timeout_seconds=LONG) as served:
        peer = await served.connect(GET % b"a" + b"GET /b")
        assert (await peer.response()).status == 200
        assert (await peer.response()).status == 408


async def test_an_idle_connection_is_closed_in_order() -> None:
    async with serving(echo, idle_timeout_seconds=SHORT) as served:
        peer = await served.connect(GET % b"a")
        assert (await peer.response()).status == 200
        assert await peer.rest() == b""


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_body_that_stops_is_refused(framing: bytes) -> None:
    async with serving(echo, body_timeout_seconds=SHORT) as served:
        peer = await served.connect(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        answer = await peer.response()
        assert (answer.status, answer.body) == (408, b"REQUEST_TIMEOUT")
        peer.send(b"late body" + GET % b"never")
        assert await peer.rest() == b""


async def test_a_body_that_goes_on_is_waited_for() -> None:
    async with serving(echo, body_timeout_seconds=4 * SHORT) as served:
        peer = await served.connect(POST % 6)
        for _ in range(6):
            await asyncio.sleep(SHORT)
            peer.send(b"x")
        assert (await peer.response()).body == b"/ xxxxxx"


async def test_an_invited_body_that_does_not_come_is_refused() -> None:
    async with serving(echo, body_timeout_seconds=SHORT) as served:
        peer = await served.connect(EXPECTING)
        assert (await peer.head()).status == 100
        assert (await peer.response()).status == 408


async def test_a_slow_handler_is_not_the_clients_fault() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return Response(200, Headers(), BytesBody([b"%d" % len(await read_all(request.body, 1 << 20))]))

    size = 500_000
    async with serving(
        handler, head_timeout_seconds=SHORT, body_timeout_seconds=SHORT, idle_timeout_seconds=SHORT
    ) as served:
        peer = await served.connect(POST % size + bytes(size))
        await asyncio.sleep(4 * SHORT)  # for what must not happen
        gate.set()
        answer = await peer.response()
        assert (answer.status, answer.body) == (200, b"%d" % size)


async def test_a_refused_request_is_never_run_by_what_comes_later() -> None:
    seen = []

    async def handler(request: Request) -> Response:
        seen.append(request.target)
        return await echo(request)

    async with serving(handler, head_timeout_seconds=SHORT) as served:
        peer = await served.connect()
        await until(lambda: len(served.server.connections) == 1)
        (connection,) = served.server.connections
        connection.data_received(b"GET /late HTTP/1.1\r\n")
        (connection,) = served.server.connections  # it is known now what it speaks
        connection.overdue()
        connection.data_received(b"Host: h\r\n\r\n" + GET % b"next")  # in the same turn of the loop
        assert (await peer.response()).status == 408
        assert await peer.rest() == b""
        assert seen == []


async def test_a_client_that_never_stops_after_a_refusal_is_cut() -> None:
    async with serving(echo, close_grace_seconds=LONG, body_timeout_seconds=4 * SHORT) as served:
        peer = await served.connect(b"nonsense\r\n\r\n")
        assert (await peer.response()).status == 400
        dripping = asyncio.ensure_future(_drip(peer, bytes(10_000)))
        await served.all_gone()
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


@pytest.mark.over_tls
async def test_a_client_that_leaves_its_socket_open_after_a_refusal_is_cut() -> None:
    async with serving(echo, close_grace_seconds=SHORT) as served:
        peer = await served.connect(b"nonsense\r\n\r\n")
        assert (await peer.response()).status == 400
        await served.all_gone()


# Readers


class Endless:
    """A body that never ends; `given` counts its bytes."""

    length = None
    ended = False

    def __init__(self) -> None:
        self.given = 0

    async def take(self) -> tuple[bytes, ...]:
        self.given += 4096
        return (bytes(4096),)

    def take_nowait(self) -> tuple[bytes, ...]:
        return ()

    def abort(self, cut: object = None) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_reader_that_takes_nothing_pauses_the_body_and_is_cut() -> None:
    endless = Endless()

    async def handler(_: Request) -> Response:
        return Response(200, Headers(), endless)

    high_water = 64 << 10
    async with serving(handler, max_reader_bytes=high_water, reader_timeout_seconds=4 * SHORT) as served:
        client = await _unread(served, GET % b"")
        await until(lambda: any(each.is_write_paused for each in served.server.connections))
        (connection,) = served.server.connections
        assert connection.transport.get_write_buffer_size() <= high_water + 8192
        before = endless.given
        await asyncio.sleep(SHORT)
        assert endless.given == before
        await served.all_gone()
        client.close()


@pytest.mark.over_tls
async def test_a_reader_that_takes_a_little_is_kept() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), Endless())

    loop = asyncio.get_running_loop()
    async with serving(handler, max_reader_bytes=8 << 20, reader_timeout_seconds=10 * SHORT) as served:
        client = await _unread(served, GET % b"", receive_buffer=64 << 10)
        await until(lambda: any(each.is_write_paused for each in served.server.connections))
        end = loop.time() + 25 * SHORT
        got = 0
        while loop.time() < end:
            for _ in range(4):  # the system reports progress in steps of up to 64 KiB
                piece = await client.take(20_000)
                assert piece
                got += len(piece)
            await asyncio.sleep(SHORT / 2)
        assert got
        assert served.server.connections
        client.close()


@pytest.mark.over_tls
async def test_a_reader_that_takes_nothing_of_a_short_answer_is_cut_too() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), BytesBody([bytes(4 << 20)]))

    async with serving(
        handler, max_reader_bytes=8 << 20, idle_timeout_seconds=SHORT, reader_timeout_seconds=2 * SHORT
    ) as served:
        client = await _unread(served, GET % b"")
        await until(lambda: len(served.server.connections) == 1)
        await served.all_gone()
        client.close()


async def test_a_client_that_pipelines_without_reading_is_not_answered_without_bound() -> None:
    answered = 0

    async def handler(_: Request) -> Response:
        nonlocal answered
        answered += 1
        return Response(200, Headers(), BytesBody([bytes(2000)]))

    async with serving(handler, max_reader_bytes=16 << 10, reader_timeout_seconds=LONG) as served:
        client = await _unread(served, b"")
        sending = asyncio.ensure_future(client.send(GET % b"" * 50_000))
        await until(lambda: any(each.is_write_paused for each in served.server.connections))
        (connection,) = served.server.connections
        seen = answered
        await asyncio.sleep(SHORT)
        assert answered == seen
        assert connection.transport.get_write_buffer_size() < 32 << 10
        client.close()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        client.close()


async def test_a_body_that_drips_does_not_keep_a_reader_that_takes_nothing() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), Endless())

    async with serving(handler, reader_timeout_seconds=4 * SHORT, body_timeout_seconds=LONG) as served:
        client = await _unread(served, POST % 1000)
        await until(lambda: any(each.is_write_paused for each in served.server.connections))

        async def drip() -> None:
            for _ in range(900):
                await client.send(b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.ensure_future(drip())
        await served.all_gone()
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        client.close()


# Bodies and connections


async def test_a_handler_that_does_not_take_the_body_stops_the_client() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return Response(200, Headers(), BytesBody([b"%d" % len(await read_all(request.body, 64 << 20))]))

    size = 32 << 20
    high_water = 64 << 10
    async with serving(handler, max_waiting_bytes=high_water, max_request_bytes=size) as served:
        peer = await served.connect(POST % size)
        peer.send(bytes(size))
        await until(lambda: served.server.bodies.budget.used >= high_water)
        await asyncio.sleep(SHORT)  # for what must not happen
        assert served.server.bodies.budget.used < high_water + (512 << 10)
        gate.set()
        assert (await peer.response()).body == b"%d" % size


async def test_a_large_body_behind_a_pipelined_request_is_held_back_too() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.method == b"POST":
            await gate.wait()
        return await echo(request)

    size = 1 << 20
    async with serving(handler, max_waiting_bytes=8 << 10, max_request_bytes=size) as served:
        peer = await served.connect(GET % b"a" + POST % size + bytes(size))
        assert (await peer.response()).body == b"/a "
        await until(lambda: served.server.bodies.budget.used > 0)
        await asyncio.sleep(SHORT)  # for what must not happen
        assert served.server.bodies.budget.used < 512 << 10
        gate.set()
        assert len((await peer.response()).body) == size + 2


@pytest.mark.plain_only  # over TLS it is not known what the client has sent
async def test_what_is_pipelined_is_held_back_from_answer_to_answer() -> None:
    answered = 0
    gate = asyncio.Event()

    async def handler(_: Request) -> Response:
        nonlocal answered
        answered += 1
        if answered > 200:
            await gate.wait()
        await asyncio.sleep(0)
        return Response(200, Headers(), BytesBody())

    async with serving(handler) as served:
        peer = await served.connect()
        sent = GET % b"" * 500_000
        peer.send(sent)
        await until(lambda: answered > 200)
        held = len(sent) - peer.writer.transport.get_write_buffer_size()
        assert held < 10 << 20  # what two kernels' buffers take, and a little
        gate.set()


async def test_nothing_more_is_read_once_something_is_pipelined_and_its_memory_is_counted_and_given_back() -> None:
    began, gate = asyncio.Event(), asyncio.Event()

    async def handler(_: Request) -> Response:
        began.set()
        await gate.wait()
        return Response(200, Headers(), BytesBody([b"ok"]))

    async with serving(handler) as served:
        budget = served.server.bodies.budget
        peer = await served.connect(GET % b"")
        await asyncio.wait_for(began.wait(), SOON)
        (connection,) = served.server.connections
        assert not hasattr(connection, "__dict__")  # one of so many names would be as large as all the rest
        assert not connection.is_reading_paused
        peer.send(GET % b"" * 1000)
        await until(lambda: connection.is_reading_paused)
        assert budget.used > 0
        gate.set()
        for _ in range(1001):
            assert (await peer.response()).body == b"ok"
        await until(lambda: not connection.is_reading_paused)
        assert budget.used == 0


async def test_of_all_that_is_pipelined_few_requests_begin_together() -> None:
    clients, behind = 20, 30
    gate = asyncio.Event()
    turn, starts = 0, Counter[int]()
    loop = asyncio.get_running_loop()

    def count_turns() -> None:
        nonlocal turn
        turn += 1
        if starts.total() < clients * behind:
            loop.call_soon(count_turns)

    async def handler(request: Request) -> Response:
        if request.target == b"/first":
            await gate.wait()
        else:
            starts[turn] += 1
        return Response(200, Headers(), BytesBody([b"ok"]))

    async with serving(handler, pipelined_at_once=3) as served:
        first = (GET % b"").replace(b" / ", b" /first ")
        peers = [await served.connect(first + GET % b"" * behind) for _ in range(clients)]
        await until(lambda: sum(each.is_reading_paused for each in served.server.connections) == clients)
        count_turns()
        gate.set()
        for peer in peers:
            for _ in range(behind + 1):
                assert (await peer.response()).body == b"ok"
        assert starts.total() == clients * behind
        assert max(starts.values()) == 3


@pytest.mark.parametrize("is_refused", [False, True])
async def test_what_is_pipelined_is_dropped_with_the_connection_or_a_refusal(is_refused: bool) -> None:
    began, gate = asyncio.Event(), asyncio.Event()

    async def handler(_: Request) -> Response:
        began.set()
        await gate.wait()
        return Response(200, Headers(), BytesBody([b"ok"]))

    async with serving(handler) as served:
        budget = served.server.bodies.budget
        peer = await served.connect(GET % b"")
        await asyncio.wait_for(began.wait(), SOON)
        peer.send((b"nonsense\r\n\r\n" if is_refused else b"") + GET % b"" * 1000)
        await until(lambda: budget.used > 0)
        if is_refused:
            gate.set()
            assert [(await peer.response()).status for _ in range(2)] == [200, 400]
            await until(lambda: budget.used == 0)
        else:
            peer.reset()
            (connection,) = served.server.connections
            connection.cut()  # reading is paused: the sweep would notice the reset
            await served.all_gone()
            assert budget.used == 0


@pytest.mark.plain_only  # asyncio's client waits for an answer to the end of TLS before it closes the socket
@pytest.mark.parametrize("is_reset", [False, True])
async def test_who_pipelines_much_and_leaves_is_noticed(is_reset: bool) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(_: Request) -> Response:
        began.set()
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Response(200, Headers(), BytesBody())

    async with serving(handler, half_close_grace_seconds=SHORT) as served:
        peer = await served.connect(GET % b"")
        await asyncio.wait_for(began.wait(), SOON)
        peer.send(bytes(100_000))
        (connection,) = served.server.connections
        await until(lambda: connection.is_reading_paused)
        if is_reset:
            peer.reset()
        peer.close()
        await asyncio.wait_for(cancelled.wait(), SOON)
        await served.all_gone()


async def test_what_a_long_read_does_not_look_at_is_not_held() -> None:
    body = fed_pipe(is_open=True)

    async def handler(_: Request) -> Response:
        return Response(200, Headers(), body)

    async with serving(handler, max_waiting_bytes=64 << 10) as served:
        ask = b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000)
        peer = await served.connect(ask)
        await peer.head()
        assert served.server.bodies.budget.used == 0
        body.end()
        assert await peer.chunk() == b""


@pytest.mark.plain_only  # the client that waits would wait in its handshake
@pytest.mark.parametrize("is_left", [True, False], ids=["one leaves", "one becomes idle"])
async def test_a_client_beyond_the_bound_waits_while_every_connection_is_at_work(is_left: bool) -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with serving(handler, max_connections=2) as served:
        peers = [await served.connect(GET % b"%d" % number) for number in range(3)]
        await until(lambda: len(served.server.exchanges) == 2)
        waiting = asyncio.ensure_future(peers[2].response())
        done, _ = await asyncio.wait([waiting], timeout=SHORT)  # for what must not happen
        assert not done
        assert len(served.server.connections) == 2
        if is_left:
            peers[0].reset()
        gate.set()
        assert (await waiting).body == b"/2 "
        assert (await peers[1].response()).body == b"/1 "


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET % b"done"], ids=["silent", "half a head", "between requests"])
async def test_a_connection_without_a_request_gives_its_place_to_a_new_client(sent: bytes) -> None:
    """The one that has been so for longest; no time-out is needed."""
    async with serving(echo, max_connections=3) as served:
        idle = []
        for _ in range(3):
            idle.append(await served.connect(sent))
            await until(lambda: len(served.server.connections) == len(idle))
            if sent.endswith(b"\r\n\r\n"):
                await idle[-1].response()
        for number in range(3):
            peer = await served.connect(GET % b"new")
            assert (await peer.response()).body == b"/new "
            assert await idle[number].rest() == b""
            assert len(served.server.connections) <= 3


async def test_a_head_that_begins_makes_its_connection_the_last_to_be_closed_for_another() -> None:
    async with serving(echo, max_connections=2) as served:
        first = await served.connect()
        await until(lambda: len(served.server.connections) == 1)
        second = await served.connect()
        await until(lambda: len(served.server.connections) == 2)
        later = next(reversed(served.server.idle))
        first.send(b"GET /first HTTP/1.1\r\n")
        await until(lambda: next(reversed(served.server.idle)) is not later)
        peer = await served.connect(GET % b"new")
        assert (await peer.response()).body == b"/new "
        assert await second.rest() == b""
        first.send(b"Host: h\r\n\r\n")
        assert (await first.response()).body == b"/first "


@pytest.mark.over_tls
async def test_a_client_that_has_not_taken_its_response_keeps_its_place() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, Headers(), BytesBody([bytes(4 << 20)] if request.target == b"/large" else [b"ok"]))

    async with serving(handler, max_connections=2, max_reader_bytes=8 << 20) as served:
        client = await _unread(served, GET % b"large")
        await until(lambda: len(served.server.connections) == 1 and len(served.server.idle) == 1)
        (busy,) = served.server.connections
        idle = await served.connect()
        await until(lambda: len(served.server.connections) == 2)
        peer = await served.connect(GET % b"")
        assert (await peer.response()).body == b"ok"
        assert await idle.rest() == b""
        assert not busy.is_closing
        client.close()


async def test_a_request_that_is_cancelled_before_it_began_holds_no_memory() -> None:
    async with serving(echo) as served:
        await served.connect()
        await until(lambda: len(served.server.connections) == 1)
        (connection,) = served.server.connections
        connection.data_received(POST % 20 + b"0123456789")
        (connection,) = served.server.connections  # it is known now what it speaks
        assert served.server.bodies.budget.used > 0
        connection.connection_lost(None)  # in the same turn of the loop
        await until(lambda: len(served.server.exchanges) == 0)
        assert served.server.bodies.budget.used == 0
        connection.cut()
