"""The HTTP server: framing, order, keep-alive, refusals. Deadlines and back-pressure are in `test_server_limits`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.body import EMPTY, BodyError, BytesBody, Cut, read_all
from proxy.http.message import Request, Response
from proxy.net.listen import ServerTls
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers
from tests.http.kit import Served, echo, serving
from tests.kit.bodies import fed_pipe
from tests.kit.certificates import Certificates
from tests.kit.waiting import LONG, SOON, until

GET = b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
async def echoing() -> AsyncIterator[Served]:
    async with serving(echo) as served:
        yield served


@pytest.mark.over_tls
async def test_requests_follow_each_other_on_one_connection(echoing: Served) -> None:
    peer = await echoing.connect()
    for number in range(3):
        peer.send(GET % b"%d" % number)
        answer = await peer.response()
        assert (answer.status, answer.body) == (200, b"/%d " % number)
        assert "connection" not in answer.headers


async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    running = most = 0

    async def handler(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01 if request.target == b"/0" else 0)
        running -= 1
        return await echo(request)

    async with serving(handler) as served:
        peer = await served.connect(GET % b"0" + POST % 3 + b"abc" + GET % b"2")
        assert [(await peer.response()).body for _ in range(3)] == [b"/0 ", b"/ abc", b"/2 "]
        assert most == 1


async def test_every_response_has_a_date(echoing: Served) -> None:
    peer = await echoing.connect(GET % b"" + b"GET nonsense\r\n\r\n")
    for _ in range(2):
        stamp = (await peer.response()).headers["date"]
        assert stamp.endswith(" GMT")
        assert parsedate_to_datetime(stamp).tzinfo is not None


async def test_a_date_that_the_handler_gave_stays() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers([(b"date", b"Mon, 01 Jan 2024 00:00:00 GMT")]))

    async with serving(handler) as served:
        assert (await served.ask(GET % b"")).headers["date"] == "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [(b"HEAD", 200, "5"), (b"GET", 204, None), (b"GET", 304, None), (b"HEAD", 404, "5")],
)
async def test_what_has_no_body_sends_none_and_the_connection_goes_on(
    method: bytes, status: int, length: str | None
) -> None:
    async def handler(request: Request) -> Response:
        return Response(200 if request.target == b"/next" else status, Headers(), BytesBody([b"12345"]))

    async with serving(handler) as served:
        peer = await served.connect(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n" + GET % b"next")
        answer = await peer.response(method)
        assert answer.status == status
        assert answer.headers.get("content-length") == length
        assert (await peer.response()).body == b"12345"


@pytest.mark.over_tls
async def test_a_body_of_unknown_length_is_chunked_and_its_head_leaves_first() -> None:
    body = fed_pipe(is_open=True)

    async def handler(_: Request) -> Response:
        return Response(200, Headers(), body)

    async with serving(handler) as served:
        peer = await served.connect(GET % b"")
        assert (await peer.head()).headers["transfer-encoding"] == "chunked"
        for part in (b"one", b"two"):
            body.feed([part])
            assert await peer.chunk() == part
        body.end()
        assert await peer.chunk() == b""


async def test_to_http_10_a_body_of_unknown_length_ends_with_the_connection() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), fed_pipe(b"one", b"two"))

    async with serving(handler) as served:
        peer = await served.connect(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await peer.response()
        assert answer.body == b"onetwo"
        assert "transfer-encoding" not in answer.headers


async def test_http_10_keeps_the_connection_only_when_it_asks(echoing: Served) -> None:
    peer = await echoing.connect(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n")
    assert (await peer.response()).headers["connection"] == "keep-alive"
    assert (await peer.response()).headers["connection"] == "close"
    assert await peer.rest() == b""


async def test_connection_close_is_answered_and_then_the_connection_ends(echoing: Served) -> None:
    peer = await echoing.connect(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET % b"never")
    assert (await peer.response()).headers["connection"] == "close"
    assert await peer.rest() == b""


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_bodies_arrive_whole_however_they_are_cut(echoing: Served, size: int) -> None:
    requests = (
        POST % 5
        + b"fixed"
        + b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"3\r\nchu\r\n4;x=y\r\nnked\r\n0\r\na: b\r\n\r\n"
    )
    peer = await echoing.connect()
    for at in range(0, len(requests), size):
        peer.send(requests[at : at + size])
        await asyncio.sleep(0)
    assert [(await peer.response()).body for _ in range(2)] == [b"/ fixed", b"/ chunked"]


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"OPTIONS", b"HEAD"])
async def test_a_body_that_is_not_looked_at_is_never_the_next_request(method: bytes) -> None:
    seen = []

    async def handler(request: Request) -> Response:
        seen.append(request.target)
        return Response(200, Headers(), EMPTY)

    smuggled = GET % b"smuggled"
    head = method + b" /first HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    async with serving(handler) as served:
        whole = await served.connect(head + smuggled + GET % b"second")
        assert [(await whole.response(to)).status for to in (method, b"GET")] == [200, 200]
        assert seen == [b"/first", b"/second"]
        late = await served.connect(head)
        assert (await late.response(method)).headers["connection"] == "close"
        late.send(smuggled)
        assert await late.rest() == b""
        assert seen == [b"/first", b"/second", b"/first"]


async def test_a_handler_that_raises_gives_500_without_internals_and_the_server_lives_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: Request) -> Response:
        if request.target.startswith(b"/bad"):
            raise ValueError("inside")
        return await echo(request)

    async with serving(handler) as served:
        peer = await served.connect(GET % b"bad?signature=s3cret" + GET % b"good")
        answer = await peer.response()
        assert (answer.status, answer.body) == (500, b"INTERNAL_ERROR")
        assert (await peer.response()).body == b"/good "
    assert "inside" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_refusal_by_the_handler_keeps_the_connection() -> None:
    async def handler(_: Request) -> Response:
        raise Refusal(Code.NOT_FOUND, "no")

    async with serving(handler) as served:
        peer = await served.connect(GET % b"a" + GET % b"b")
        assert [(await peer.response()).status for _ in range(2)] == [404, 404]


async def test_after_a_malformed_request_nothing_that_was_pipelined_runs() -> None:
    seen = []

    async def handler(request: Request) -> Response:
        seen.append(request.target)
        return await echo(request)

    async with serving(handler) as served:
        peer = await served.connect(GET % b"good" + b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n" + GET % b"never")
        assert (await peer.response()).status == 200
        answer = await peer.response()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        peer.send(GET % b"never")
        assert await peer.rest() == b""
        assert seen == [b"/good"]


@pytest.mark.over_tls
async def test_a_refused_client_that_is_still_sending_sees_the_answer_and_no_reset(echoing: Served) -> None:
    peer = await echoing.connect(POST % (1 << 30))
    answer = await peer.response()
    assert (answer.status, answer.body) == (413, b"REQUEST_TOO_LARGE")
    for _ in range(64):
        peer.send(bytes(1 << 16))
        await peer.writer.drain()
    assert await peer.rest() == b""
    peer.close()
    await echoing.all_gone()


async def test_a_chunked_body_over_the_limit_is_refused_while_the_handler_reads_it() -> None:
    async with serving(echo, max_request_bytes=10) as served:
        peer = await served.connect(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            peer.send(b"4\r\nabcd\r\n")
        assert (await peer.response()).status == 413
        assert await peer.rest() == b""


async def test_a_chunk_that_is_announced_too_large_is_refused_at_once() -> None:
    async with serving(echo) as served:  # nothing else would end it within the test
        peer = await served.connect(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
        )
        answer = await peer.response()
        assert (answer.status, answer.body) == (413, b"REQUEST_TOO_LARGE")
        assert await peer.rest() == b""


async def test_a_body_that_breaks_its_framing_is_refused_whatever_the_handler_would_say() -> None:
    saw = []

    async def handler(request: Request) -> Response:
        try:
            await read_all(request.body, 100)
        except BodyError as error:
            saw.append(error.cut)
        return Response(201, Headers())

    async with serving(handler) as served:
        peer = await served.connect(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX")
        assert (await peer.response()).status == 400
        assert saw == [Cut.FRAMING]


@pytest.mark.over_tls
async def test_an_answer_before_the_body_has_come_ends_the_connection_in_order() -> None:
    async def handler(_: Request) -> Response:
        raise Refusal(Code.INVALID_SECRET, "no")

    async with serving(handler) as served:
        peer = await served.connect(POST % 100_000)
        answer = await peer.response()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        peer.send(bytes(100_000) + GET % b"never")
        assert await peer.rest() == b""


# Expect: 100-continue


EXPECTING = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"


async def test_continue_is_sent_when_the_handler_takes_the_body() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with serving(handler) as served:
        peer = await served.connect(EXPECTING)
        await until(lambda: len(served.server.exchanges) == 1)
        gate.set()
        assert (await peer.head()).status == 100
        peer.send(b"body" + GET % b"next")
        assert (await peer.response()).body == b"/ body"
        assert (await peer.response()).body == b"/next "


async def test_no_continue_when_the_request_is_refused() -> None:
    async def handler(_: Request) -> Response:
        raise Refusal(Code.MISSING_SECRET, "no")

    async with serving(handler) as served:
        peer = await served.connect(EXPECTING)
        answer = await peer.response()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await peer.rest() == b""


async def test_no_continue_when_the_body_is_there_already(echoing: Served) -> None:
    peer = await echoing.connect(EXPECTING + b"body")
    assert (await peer.response()).body == b"/ body"


async def test_no_continue_in_the_middle_of_a_response() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, Headers(), request.body)

    async with serving(handler) as served:
        peer = await served.connect(EXPECTING.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked"))
        assert (await peer.head()).status == 200
        peer.send(b"4\r\nbody\r\n0\r\n\r\n")
        assert await peer.rest() == b"4\r\nbody\r\n0\r\n\r\n"


async def test_another_expectation_is_refused(echoing: Served) -> None:
    answer = await echoing.ask(b"GET / HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\n\r\n")
    assert answer.status == 417


@pytest.mark.plain_only
async def test_over_tls_requests_are_answered_while_other_clients_are_silent_in_their_handshakes(
    tmp_path: Path,
) -> None:
    certificates = Certificates.make(tmp_path)
    async with serving(echo, tls=ServerTls(lambda: certificates.server, LONG, SOON, b"no TLS")) as served:
        silent = [await served.connect() for _ in range(5)]
        peer = await served.connect(GET % b"a" + POST % 4 + b"body", tls=certificates.client)
        assert [(await peer.response()).body for _ in range(2)] == [b"/a ", b"/ body"]
        assert len(served.server.connections) == 1
        for each in silent:
            each.close()


@pytest.mark.plain_only
async def test_the_oldest_unfinished_handshake_gives_its_place_to_a_new_client(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    async with serving(
        echo, tls=ServerTls(lambda: certificates.server, LONG, SOON, b"no TLS"), max_connections=2
    ) as served:
        silent = [await served.connect() for _ in range(2)]
        peer = await served.connect(GET % b"a", tls=certificates.client)
        assert (await peer.response()).body == b"/a "
        with suppress(ConnectionResetError):
            assert await silent[0].rest() == b""
        for each in silent:
            each.close()


# Responses that break off


@pytest.mark.parametrize("length", [None, 100])
async def test_a_body_that_is_cut_is_never_ended_as_if_whole(length: int | None) -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), fed_pipe(b"some", length=length, cut=Cut.RESET))

    async with serving(handler) as served:
        peer = await served.connect(GET % b"")
        await peer.head()
        assert (await peer.rest()) in (b"4\r\nsome\r\n", b"some")


@pytest.mark.over_tls
async def test_a_cut_body_without_framing_ends_by_reset() -> None:
    body = fed_pipe(b"some", is_open=True)

    async def handler(_: Request) -> Response:
        return Response(200, Headers(), body)

    async with serving(handler) as served:
        peer = await served.connect(b"GET / HTTP/1.0\r\n\r\n")
        await peer.head()
        assert await peer.exactly(4) == b"some"
        body.fail(Cut.RESET)
        with pytest.raises(ConnectionResetError):
            await peer.rest()


async def test_a_server_that_closes_in_a_body_without_framing_resets_it() -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), fed_pipe(b"some", is_open=True))

    async with serving(handler) as served:
        peer = await served.connect(b"GET / HTTP/1.0\r\n\r\n")
        await peer.until(b"some")
        async with asyncio.timeout(SOON):  # not only at the end of the close grace
            await served.server.aclose()
        with pytest.raises(ConnectionResetError):
            await peer.rest()


class _Failing:
    """A body whose take fails as it should not."""

    length = None
    ended = False

    async def take(self) -> tuple[Buffer, ...]:
        raise ValueError("a fault of ours")

    def take_nowait(self) -> tuple[Buffer, ...]:
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        pass

    def close(self) -> None:
        self.abort()


async def test_a_body_that_raises_what_it_should_not_breaks_the_response_off_and_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(_: Request) -> Response:
        return Response(200, Headers(), _Failing())

    async with serving(handler) as served:
        peer = await served.connect(GET % b"")
        await peer.head()
        assert await peer.rest() == b""
        peer.close()
        await served.all_gone()
    assert "a fault of ours" in caplog.text


# Clients that go


async def test_a_client_that_goes_cancels_its_handler() -> None:
    cancelled = asyncio.Event()

    async def handler(_: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(handler) as served:
        peer = await served.connect(GET % b"")
        await until(lambda: len(served.server.exchanges) == 1)
        peer.reset()
        async with asyncio.timeout(2):
            await cancelled.wait()
        await served.all_gone()


@pytest.mark.parametrize("size", [200_000, 64 << 10])
async def test_a_client_that_goes_after_a_large_body_cancels_its_handler(size: int) -> None:
    cancelled, taken = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Response:
        await read_all(request.body, 1 << 20)
        taken.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(handler) as served:
        peer = await served.connect(POST % size + bytes(size))
        async with asyncio.timeout(2):
            await taken.wait()
        peer.reset()
        async with asyncio.timeout(2):
            await cancelled.wait()


async def test_a_client_that_goes_within_its_body_leaves_nothing_waiting() -> None:
    async with serving(echo) as served:
        for _ in range(20):
            peer = await served.connect(POST % 100 + b"half")
            await peer.writer.drain()
            peer.reset()
        await served.all_gone()
        assert served.server.bodies.budget.used == 0


@pytest.mark.plain_only
async def test_a_quick_answer_reaches_a_client_that_has_half_closed(echoing: Served) -> None:
    peer = await echoing.connect(GET % b"a" + GET % b"b")
    peer.writer.write_eof()
    assert [(await peer.response()).body for _ in range(2)] == [b"/a ", b"/b "]
    assert await peer.rest() == b""
    await echoing.all_gone()


@pytest.mark.plain_only
async def test_a_half_closed_client_counts_as_gone_after_the_grace() -> None:
    cancelled = asyncio.Event()

    async def handler(_: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(handler, half_close_grace_seconds=0.05) as served:
        peer = await served.connect(GET % b"")
        peer.writer.write_eof()
        async with asyncio.timeout(2):
            await cancelled.wait()
        assert await peer.rest() == b""


@pytest.mark.plain_only  # it brings its own certificates
async def test_over_tls_a_client_that_ends_its_side_ends_the_exchange(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The loops close the transport then. They complain when they are asked not to."""
    certificates = Certificates.make(tmp_path)
    cancelled = asyncio.Event()

    async def handler(_: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(handler, tls=ServerTls(lambda: certificates.server, LONG, LONG, b"")) as served:
        peer = await served.connect(GET % b"", tls=certificates.client)
        await until(lambda: len(served.server.exchanges) == 1)
        peer.close()
        async with asyncio.timeout(SOON):
            await cancelled.wait()
            await served.all_gone()
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"GET / HT", POST % 10 + b"half"])
@pytest.mark.plain_only
async def test_half_a_request_before_the_end_is_refused(echoing: Served, sent: bytes) -> None:
    peer = await echoing.connect(sent)
    peer.writer.write_eof()
    assert (await peer.response()).status == 400
    assert await peer.rest() == b""


# Stopping


@pytest.mark.over_tls
async def test_draining_closes_idle_connections_and_ends_others_with_their_answer() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with serving(handler) as served:
        idle, busy = await served.connect(), await served.connect(GET % b"busy")
        await until(lambda: len(served.server.connections) == 2 and len(served.server.exchanges) == 1)
        served.server.drain()
        assert await idle.rest() == b""
        gate.set()
        answer = await busy.response()
        assert (answer.body, answer.headers["connection"]) == (b"/busy ", "close")
        assert await busy.rest() == b""


@pytest.mark.over_tls
async def test_what_was_written_still_reaches_the_client_of_a_server_that_closes() -> None:
    size = 8 << 20

    async def handler(_: Request) -> Response:
        return Response(200, Headers(), BytesBody([bytes(size)]))

    async with serving(handler, max_reader_bytes=size * 2) as served:
        peer = await served.connect(GET % b"")
        await peer.head()
        await until(lambda: len(served.server.exchanges) == 0)
        closing = asyncio.ensure_future(served.server.aclose())
        assert len(await peer.exactly(size)) == size
        await closing


@pytest.mark.over_tls
async def test_closing_cancels_what_runs_and_leaves_no_socket() -> None:
    async def handler(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(handler) as served:
        peers = [await served.connect(GET % b"" if number % 2 else b"GET") for number in range(6)]
        await until(lambda: len(served.server.exchanges) == 3)
        async with asyncio.timeout(SOON):  # not only at the end of the close grace
            await served.server.aclose()
        for peer in peers:
            assert await peer.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await served.connect()
