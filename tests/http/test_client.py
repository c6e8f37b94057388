"""One exchange at a time over a pool of one connection: framing, losses, deadlines, back-pressure."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.http.body import BodyError, BytesBody, Cut, read_all
from proxy.http.client import ClientConnection, ClientLimits
from proxy.http.client1 import Http1Client
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.http.pool import Pool
from proxy.net.dial import Address
from proxy.wire.headers import Headers
from tests.http.kit import HEAD, dialler, get, listening, pooling
from tests.kit.bodies import fed_pipe
from tests.kit.certificates import Certificates
from tests.kit.loop_peers import OK, Peer, Script, answering, origin, request_of
from tests.kit.waiting import SOON, until

HOST = (b"host", b"origin")


async def _read(response: Response) -> bytes:
    async with asyncio.timeout(SOON):
        return await read_all(response.body, 1 << 24)


async def _read_to_the_cut(response: Response) -> tuple[bytes, Cut | None]:
    got = b""
    try:
        async with asyncio.timeout(SOON):
            while parts := await response.body.take():
                got += b"".join(parts)
    except BodyError as error:
        return got, error.cut
    return got, None


async def _error(pool: Pool, address: Address, request: Request | None = None) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        async with asyncio.timeout(SOON):
            await pool.at(address)(request or get())
    return caught.value


def once(*pieces: bytes, then: Callable[[Peer], None] | None = None) -> Script:
    """Answers one request with these pieces, then ends the connection (`then`, or in order)."""

    async def script(peer: Peer) -> None:
        await request_of(peer)
        for piece in pieces:
            peer.send(piece)
            await peer.writer.drain()
            await asyncio.sleep(0.001)
        if then is not None:
            then(peer)

    return script


@pytest.mark.parametrize(
    ("response", "body", "is_kept"),
    [
        (OK, b"ok", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (OK + b"stray", b"ok", False),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", b"", False),
    ],
    ids=["length", "chunked", "204", "informational", "close", "http-1.0", "stray", "redirect"],
)
async def test_a_response_is_read_whole_and_a_clean_connection_is_used_again(
    response: bytes, body: bytes, is_kept: bool
) -> None:
    async with origin(answering(response)) as (served, address), pooling() as pool:
        for _ in range(3):
            assert await _read(await pool.at(address)(get())) == body
            await until(lambda: len(pool) == int(is_kept))
        assert len(served.peers) == (1 if is_kept else 3)


async def test_a_redirected_connection_is_kept_where_that_is_wanted() -> None:
    redirect = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"
    async with origin(answering(redirect)) as (served, address), pooling(is_careful=False) as pool:
        for _ in range(2):
            await _read(await pool.at(address)(get()))
        assert len(served.peers) == 1


async def test_a_body_that_ends_with_the_connection_is_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    async with origin(once(head, b"one", b"two")) as (_, address), pooling() as pool:
        assert await _read(await pool.at(address)(get())) == b"onetwo"
        await until(lambda: len(pool) == 0)


@pytest.mark.parametrize(
    ("pieces", "cut"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"some"), Cut.RESET),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nsome\r\n"), Cut.RESET),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nsome\r\nX"), Cut.FRAMING),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsomeX",), Cut.FRAMING),
    ],
)
async def test_what_came_before_a_cut_can_be_taken_and_the_cut_is_raised(pieces: tuple[bytes, ...], cut: Cut) -> None:
    async with origin(once(*pieces)) as (_, address), pooling() as pool:
        response = await pool.at(address)(get())
        assert await _read_to_the_cut(response) == (b"some", cut)
        await until(lambda: len(pool) == 0)


async def test_a_reset_in_a_body_that_ends_with_the_connection_is_a_cut() -> None:
    script = once(b"HTTP/1.1 200 OK\r\n\r\nsome", then=Peer.reset)
    async with origin(script) as (_, address), pooling() as pool:
        with pytest.raises(BodyError):
            await _read(await pool.at(address)(get()))


@pytest.mark.parametrize(
    ("pieces", "exchange"),
    [
        ((), Fault.RESET),
        ((b"HTTP/1.1 200 O",), Fault.RESET),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",), Fault.PROTOCOL),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), Fault.PROTOCOL),
        ((b"HTTP/1.1 200 OK\r\nX: " + b"x" * 5000,), Fault.PROTOCOL),
        ((b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",), Fault.PROTOCOL),
    ],
)
async def test_no_response_is_an_error_that_says_why(pieces: tuple[bytes, ...], exchange: Fault) -> None:
    async with origin(once(*pieces)) as (served, address), pooling() as pool:
        error = await _error(pool, address)
        assert (error.fault, error.sent) == (exchange, True)
        await until(lambda: len(pool) == 0)
        assert len(served.peers) == 1  # and is never sent twice


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "differing content-lengths"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: s3cret\r\n\r\n", "a bad content-length"),
        (b"HTTP/1.1 200 OK\r\nX-Token s3cret\r\n\r\n", "a bad header line"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "a transfer-encoding that cannot be trusted"),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "a control character or a line not ended by CRLF"),
    ],
)
async def test_a_malformed_response_is_an_error_with_the_reason_and_none_of_its_bytes(
    response: bytes, detail: str
) -> None:
    async with origin(once(response)) as (_, address), pooling() as pool:
        error = await _error(pool, address)
        assert (error.fault, error.detail) == (Fault.PROTOCOL, detail)
        assert str(error) == f"the response was not valid HTTP: {detail}"


async def test_a_head_that_does_not_come_in_time_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        peer.send(b"HTTP/1.1 200 OK\r\n")
        assert await peer.rest() == b""

    async with origin(script) as (_, address), pooling() as pool:
        error = await _error(pool, address, get(timeout=0.03))
        assert error.fault is Fault.TIMEOUT
        await until(lambda: len(pool) == 0)


async def test_the_deadline_is_for_the_head_only() -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.1)
        peer.send(b"ok")

    async with origin(script) as (_, address), pooling() as pool:
        assert await _read(await pool.at(address)(get(timeout=0.03))) == b"ok"


# Requests


async def _receive(peer: Peer) -> None:
    """Sends back the request as it stood on the wire."""
    head = await peer.until(b"\r\n\r\n")
    if b"chunked" in head:
        body = await peer.until(b"0\r\n\r\n")
    else:
        body = await peer.exactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    answer = head + body
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
    await peer.rest()


@pytest.mark.parametrize(
    ("request_", "framing", "sent"),
    [
        (Request(b"POST", b"/", Headers([HOST]), BytesBody([b"ab", b"cd"])), b"content-length: 4", b"abcd"),
        (Request(b"POST", b"/", Headers([HOST]), fed_pipe(b"ab", b"cd", length=4)), b"content-length: 4", b"abcd"),
        (
            Request(b"POST", b"/", Headers([HOST]), fed_pipe(b"ab", b"cd")),
            b"transfer-encoding: chunked",
            b"4\r\nabcd\r\n0\r\n\r\n",
        ),
        (Request(b"POST", b"/", Headers([HOST])), b"content-length: 0", b""),
    ],
)
async def test_a_request_is_framed_by_what_is_known_of_its_body(request_: Request, framing: bytes, sent: bytes) -> None:
    request = Request(request_.method, request_.target, request_.headers, request_.body)
    if isinstance(request.body, BytesBody) and request.body.length:
        request.body = BytesBody([b"ab", b"cd"])
    elif not isinstance(request.body, BytesBody):
        request.body = fed_pipe(b"ab", b"cd", length=request.body.length)
    async with origin(_receive) as (_, address), pooling() as pool:
        head, _, body = (await _read(await pool.at(address)(request))).partition(b"\r\n\r\n")
        assert framing in head
        assert body == sent


async def test_a_streamed_body_is_sent_as_it_comes_and_the_connection_is_kept() -> None:
    body = fed_pipe(is_open=True)

    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        for part in (b"one", b"two"):
            body.feed([part])
            assert await peer.chunk() == part
        body.end()
        assert await peer.chunk() == b""
        peer.send(OK)
        await request_of(peer)
        peer.send(OK)
        await peer.rest()

    async with origin(script) as (served, address), pooling() as pool:
        request = Request(b"POST", b"/", Headers([HOST]), body)
        assert await _read(await pool.at(address)(request)) == b"ok"
        assert await _read(await pool.at(address)(get())) == b"ok"
        assert len(served.peers) == 1


async def test_a_response_before_the_request_was_sent_is_returned_and_ends_the_connection() -> None:
    body = fed_pipe(is_open=True)

    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        assert await peer.rest() == b""

    async with origin(script) as (served, address), pooling() as pool:
        response = await pool.at(address)(Request(b"POST", b"/", Headers([HOST]), body))
        assert (response.status, await _read(response)) == (413, b"no")
        await until(lambda: len(pool) == 0 and served.open == 0)
        with pytest.raises(BodyError):
            await body.take()


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_response_to_a_request_that_nobody_reads_is_returned(is_streamed: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
        peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(SOON)

    size = 32 << 20
    body = fed_pipe(*[bytes(size // 4)] * 4, length=size) if is_streamed else BytesBody([bytes(size)])
    async with origin(script) as (_, address), pooling() as pool:
        async with asyncio.timeout(SOON):
            response = await pool.at(address)(Request(b"POST", b"/", Headers([HOST]), body))
        assert response.status == 503
        await until(lambda: len(pool) == 0)


EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"


async def test_an_early_response_is_read_though_the_reset_behind_it_was_noticed_first() -> None:
    loop = asyncio.get_running_loop()
    body = fed_pipe(is_open=True)
    with listening() as bound:
        async with pooling() as pool:
            asking = asyncio.ensure_future(
                pool.at(Address(*bound.getsockname()))(Request(b"POST", b"/", Headers([HOST]), body))
            )
            accepted, _ = await loop.sock_accept(bound)
            await loop.sock_recv(accepted, 4)  # the rest is unread: closing resets
            accepted.send(EARLY)
            accepted.close()
            (connection,) = pool._connections
            connection.write([bytes(1 << 20)])  # fails, before the loop has read
            async with asyncio.timeout(SOON):
                response = await asking
            assert (response.status, await _read(response)) == (413, b"no")


@pytest.mark.parametrize("is_tls", [False, True])
async def test_what_can_be_read_is_read_before_more_of_a_request_is_written(tmp_path: Path, is_tls: bool) -> None:
    certificates = Certificates.make(tmp_path)
    options = {"ssl": certificates.server} if is_tls else {}
    body = fed_pipe(is_open=True)
    began = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        began.set()
        await asyncio.sleep(SOON)

    async with origin(script, **options) as (served, address), pooling(dialler(tls=certificates.client)) as pool:
        asking = asyncio.ensure_future(pool.at(address)(Request(b"POST", b"/", Headers([HOST]), body)))
        async with asyncio.timeout(SOON):
            await began.wait()
            served.peers[0].send(EARLY)
            served.peers[0].reset()  # in the next turn of the loop,
            body.feed([bytes(1 << 20)])  # and then this is due to be written
            response = await asking
        assert (response.status, await _read(response)) == (413, b"no")


class Watched(BytesBody):
    """A body that knows when its sender holds nothing of it any more."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__(parts)
        self.is_let_go = False

    def close(self) -> None:
        super().close()
        self.is_let_go = True


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_large_body_that_is_here_goes_on_being_sent_beside_its_response(tmp_path: Path, is_tls: bool) -> None:
    certificates = Certificates.make(tmp_path)
    options = {"ssl": certificates.server} if is_tls else {}
    reading = asyncio.Event()
    sent = [bytes([number]) * (5 << 20) for number in range(4)]
    received = b""

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
        await reading.wait()
        received = await peer.exactly(sum(map(len, sent)))
        peer.send(b"0\r\n\r\n")
        await asyncio.sleep(SOON)

    async with origin(script, **options) as (_, address), pooling(dialler(tls=certificates.client)) as pool:
        body = Watched(*sent)
        async with asyncio.timeout(SOON):
            response = await pool.at(address)(Request(b"POST", b"/", Headers([HOST]), body))
            assert await response.body.take() == (b"early",)
        assert not body.is_let_go
        reading.set()
        assert await _read(response) == b""
        assert body.is_let_go
        assert received == b"".join(sent)


@pytest.mark.parametrize("is_said", [True, False], ids=["alert and FIN", "FIN alone"])
async def test_a_body_that_ends_with_its_connection_is_whole_over_tls_only_when_the_origin_says_so(
    tmp_path: Path, is_said: bool
) -> None:
    certificates = Certificates.make(tmp_path)

    async def script(peer: Peer) -> None:
        await request_of(peer)
        peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await peer.writer.drain()
        if not is_said:
            peer.writer.transport.abort()

    async with (
        origin(script, ssl=certificates.server) as (_, address),
        pooling(dialler(tls=certificates.client)) as pool,
    ):
        response = await pool.at(address)(get())
        assert await response.body.take() == (b"part",)
        if is_said:
            assert await response.body.take() == ()
        else:
            with pytest.raises(BodyError) as raised:
                await response.body.take()
            assert raised.value.cut is Cut.RESET


@pytest.mark.parametrize("is_lost", [True, False], ids=["reset", "given up"])
async def test_a_large_body_is_let_go_with_its_connection(is_lost: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nearly")
        await asyncio.sleep(SOON)

    async with origin(script) as (served, address), pooling() as pool:
        body = Watched(bytes(32 << 20))
        async with asyncio.timeout(SOON):
            response = await pool.at(address)(Request(b"POST", b"/", Headers([HOST]), body))
            assert await response.body.take() == (b"early",)
        assert not body.is_let_go
        if is_lost:
            served.peers[0].reset()
        else:
            response.body.close()
        await until(lambda: body.is_let_go and len(pool) == 0)


@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20])
async def test_a_body_that_is_here_arrives_whole_and_is_let_go(size: int) -> None:
    received = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.until(b"\r\n\r\n")
            received.append(await peer.exactly(size))
            peer.send(OK)

    async with origin(script) as (served, address), pooling() as pool:
        sent = bytes(range(256)) * (size // 256 + 1)
        for _ in range(2):
            body = Watched(sent[: size // 2], sent[size // 2 : size])
            request = Request(b"POST", b"/", Headers([HOST]), body)
            assert await _read(await pool.at(address)(request)) == b"ok"
            assert body.is_let_go
        assert received == [sent[:size]] * 2
        assert len(served.peers) == 1


async def test_a_request_body_that_is_cut_ends_the_exchange() -> None:
    async def script(peer: Peer) -> None:
        assert await peer.rest() != b""

    body = fed_pipe(b"half", cut=Cut.RESET)
    async with origin(script) as (_, address), pooling() as pool:
        with pytest.raises(BodyError):
            await pool.at(address)(Request(b"POST", b"/", Headers([HOST]), body))
        await until(lambda: len(pool) == 0)


# Back-pressure and giving up


async def test_a_body_that_nobody_takes_pauses_its_origin() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await request_of(peer)
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.send(bytes(4096))
            await peer.writer.drain()
            sent += 4096

    async with origin(script) as (_, address), pooling() as pool:
        response = await pool.at(address)(get())
        budget = pool.bodies.budget
        await until(lambda: budget.used >= 16 << 10)
        await asyncio.sleep(0.05)  # for what must not happen
        assert budget.used < 512 << 10
        held = sum(map(len, await response.body.take()))
        await asyncio.sleep(0.05)  # what was taken is still in hand
        assert held <= budget.used < 512 << 10
        assert await response.body.take()  # the next take gets more
        response.body.close()
        await until(lambda: len(pool) == 0)
        assert budget.used == 0


async def test_a_limit_lets_exactly_so_many_bytes_pass_and_cuts_the_origin() -> None:
    script = once(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", bytes(60), bytes(40))
    async with origin(script) as (_, address), pooling() as pool:
        response = await pool.at(address)(replace(get(), max_response_bytes=70))
        assert await _read_to_the_cut(response) == (bytes(70), Cut.LIMIT)
        await until(lambda: len(pool) == 0)


async def test_a_body_given_up_cuts_its_connection() -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        assert await peer.rest() == b""

    async with origin(script) as (served, address), pooling() as pool:
        (await pool.at(address)(get())).body.close()
        await until(lambda: len(pool) == 0 and served.open == 0)


class Nobody:
    """The owner of a connection that is not lent out."""

    def released(self, connection: ClientConnection) -> None:
        pass

    def settled(self, connection: ClientConnection) -> None:
        pass

    def gone(self, connection: ClientConnection) -> None:
        pass


@pytest.mark.parametrize("is_tls", [False, True])
async def test_an_idle_connection_that_is_reset_can_be_asked_about_in_every_turn_of_the_loop(
    tmp_path: Path, is_tls: bool
) -> None:
    certificates = Certificates.make(tmp_path)
    options = {"ssl": certificates.server} if is_tls else {}
    async with origin(answering(OK), **options) as (served, address):
        limits = ClientLimits(HEAD, PipeLimits(1 << 20, Budget(1 << 20)), piece=1 << 20, keeps_redirected=False)
        connection = await dialler(tls=certificates.client).dial(lambda: Http1Client(Nobody(), limits), address)
        assert await _read(await connection.exchange(get())) == b"ok"
        assert connection.is_fit(look=False)
        assert connection.is_quiet()
        served.peers[0].reset()
        async with asyncio.timeout(SOON):
            while not connection.is_lost:  # every turn is looked at
                assert not (connection.is_fit(look=True) and connection.transport.is_closing())
                await asyncio.sleep(0)
        assert not connection.is_fit(look=False)


async def test_a_connection_keeps_no_response_while_its_body_arrives() -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await asyncio.Event().wait()

    async with origin(script) as (_, address), pooling() as pool:
        response = await pool.at(address)(get())
        assert await response.body.take() == (b"ok",)
        await asyncio.sleep(0)  # in the turn that brought it, the loop holds it, too
        held = sys.getrefcount(response)
        assert held == 2  # by this test and by the call
        response.body.close()
