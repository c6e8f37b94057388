"""The accept loop: the bound on connections over several sockets, TLS, shortages, stopping."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.net.bind import bind_tcp, bind_unix
from proxy.net.connection import Connection
from proxy.net.listen import AcceptSettings, Listener, ServerTls
from tests.kit.certificates import Certificates
from tests.kit.waiting import LONG, SOON, until

BACKLOG = 64
ACCEPT = AcceptSettings(accept_retry_seconds=0.01, accept_report_seconds=60.0)


class Counted:
    """Connections that a listener accepted, at most `bound`."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.open: set[Connection] = set()
        self.most = 0
        self.asked = 0  # how often to make room
        self.spares_handshakes = False
        self.listener: Listener | None = None

    def has_room(self) -> bool:
        return len(self.open) + (len(self.listener) if self.listener is not None else 0) < self.bound

    def make_room(self) -> None:
        self.asked += 1
        if self.spares_handshakes and self.listener is not None:
            self.listener.drop_oldest_handshake()

    def factory(self) -> Connection:
        counted = self

        class Accepted(Connection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                counted.open.add(self)
                counted.most = max(counted.most, len(counted.open))
                self.write([b"!"])

            def lost(self) -> None:
                counted.open.discard(self)
                assert counted.listener is not None
                counted.listener.made_room()

        return Accepted()


async def test_the_bound_holds_over_all_sockets_and_everybody_is_served_in_the_end() -> None:
    counted = Counted(2)
    sockets = bind_tcp(["127.0.0.1"], 0, BACKLOG) + bind_tcp(["127.0.0.1"], 0, BACKLOG)
    counted.listener = Listener(sockets, counted.factory, counted, ACCEPT)

    async def visit(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(1) == b"!"
        await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(SOON):
        await asyncio.gather(*(visit(bound.getsockname()[1]) for bound in sockets for _ in range(10)))
    assert counted.most == 2
    await counted.listener.aclose()
    await until(lambda: not counted.open)


async def test_a_client_that_was_accepted_but_not_served_is_let_go_when_listening_ends() -> None:
    counted = Counted(1)
    one, two = sockets = bind_tcp(["127.0.0.1"], 0, BACKLOG) + bind_tcp(["127.0.0.1"], 0, BACKLOG)
    ports = [bound.getsockname()[1] for bound in (one, two)]
    counted.listener = Listener(sockets, counted.factory, counted, ACCEPT)
    await asyncio.sleep(0)  # both sockets wait for a client
    async with asyncio.timeout(SOON):
        first, held = await asyncio.open_connection("127.0.0.1", ports[0])
        assert await first.readexactly(1) == b"!"
        second, waiting = await asyncio.open_connection("127.0.0.1", ports[1])
        await asyncio.sleep(0.01)
        await counted.listener.aclose()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await second.readexactly(1)
        for writer in (held, waiting):
            writer.close()
        await until(lambda: not counted.open)


# A socket that a cancelled `sock_accept` had in hand is closed by its last reference, which Python remarks on.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("turns", range(8))
async def test_listening_that_ends_while_a_client_connects_forgets_nobody(turns: int) -> None:
    counted = Counted(10)
    sockets = bind_tcp(["127.0.0.1"], 0, BACKLOG)
    counted.listener = Listener(sockets, counted.factory, counted, ACCEPT)
    with socket.create_connection(sockets[0].getsockname()):
        for _ in range(turns):
            await asyncio.sleep(0)
        await counted.listener.aclose()
        async with asyncio.timeout(SOON):
            await asyncio.sleep(0.01)
            while counted.open:
                for each in list(counted.open):
                    each.cut()
                await asyncio.sleep(0.002)


async def test_a_shortage_of_descriptors_is_reported_once_a_minute_with_a_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    calls = 0

    async def accept(_: socket.socket) -> tuple[socket.socket, None]:
        """Fails thrice, succeeds once, fails on; the report is due again at the tenth call."""
        nonlocal calls
        calls += 1
        if calls == 4:
            return socket.socket(), None
        if calls > 12:
            await asyncio.Event().wait()
        if calls == 10:
            now = loop.time()
            monkeypatch.setattr(loop, "time", lambda: now + 61)
        raise OSError(errno.EMFILE, "too many open files")

    async def connect(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(loop, "sock_accept", accept)
    monkeypatch.setattr(loop, "connect_accepted_socket", connect)
    counted = Counted(1)
    listener = Listener(bind_tcp(["127.0.0.1"], 0, BACKLOG), counted.factory, counted, AcceptSettings(0.0, 60.0))
    for _ in range(50):
        await asyncio.sleep(0)
    assert calls == 13
    reports = [record.getMessage() for record in caplog.records]
    said = "cannot accept connections: too many open files (failures since the last report: {})"
    assert reports == [said.format(1), said.format(8)]
    await listener.aclose()


# TLS


@asynccontextmanager
async def tls_listening(
    tmp_path: Path, bound: int = 100, handshake_timeout: float = LONG
) -> AsyncIterator[tuple[Counted, tuple[str, int], ssl.SSLContext]]:
    """A listener with TLS: what it accepted, where it listens, and a client's context."""
    certificates = Certificates.make(tmp_path)
    counted = Counted(bound)
    sockets = bind_tcp(["127.0.0.1"], 0, BACKLOG)
    place = sockets[0].getsockname()
    tls = ServerTls(lambda: certificates.server, handshake_timeout, SOON, b"no TLS")
    counted.listener = Listener(sockets, counted.factory, counted, ACCEPT, tls)
    try:
        async with asyncio.timeout(SOON):
            yield counted, place, certificates.client
    finally:
        await counted.listener.aclose()
        assert not len(counted.listener)
        for each in list(counted.open):
            each.cut()
        await until(lambda: not counted.open)


async def _greeted(place: tuple[str, int], context: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection(*place, ssl=context)
    assert await reader.readexactly(1) == b"!"
    writer.transport.abort()


async def test_a_client_that_is_silent_in_its_handshake_delays_nobody(tmp_path: Path) -> None:
    async with tls_listening(tmp_path) as (counted, place, context):
        silent = [await asyncio.open_connection(*place) for _ in range(20)]
        for _ in range(3):
            await _greeted(place, context)
        assert counted.listener is not None
        assert len(counted.listener) == 20
        for _, writer in silent:
            writer.close()


async def test_a_handshake_that_does_not_end_in_time_is_given_up_and_makes_room(tmp_path: Path) -> None:
    async with tls_listening(tmp_path, bound=1, handshake_timeout=0.05) as (counted, place, context):
        reader, writer = await asyncio.open_connection(*place)
        assert await reader.read() == b""
        writer.close()
        await _greeted(place, context)
        assert counted.most == 1


async def test_unfinished_handshakes_count_as_connections(tmp_path: Path) -> None:
    async with tls_listening(tmp_path, bound=2) as (counted, place, context):
        silent = [await asyncio.open_connection(*place) for _ in range(2)]
        assert counted.listener is not None
        await until(lambda: len(counted.listener or ()) == 2)
        waiting = asyncio.ensure_future(_greeted(place, context))
        await asyncio.sleep(0.01)  # for what must not happen
        assert len(counted.listener) == 2
        assert not waiting.done()
        silent[0][1].close()
        await waiting
        silent[1][1].close()


async def test_the_oldest_handshake_is_given_up_when_room_is_needed(tmp_path: Path) -> None:
    async with tls_listening(tmp_path, bound=2) as (counted, place, context):
        counted.spares_handshakes = True
        silent = []
        for number in range(2):
            silent.append(await asyncio.open_connection(*place))
            await until(lambda number=number: len(counted.listener or ()) == number + 1)  # type: ignore[misc]  # bound
        assert counted.asked == 0  # nobody waits
        await _greeted(place, context)
        assert counted.listener is not None
        assert len(counted.listener) == 1
        with suppress(ConnectionResetError):
            assert await silent[0][0].read() == b""
        for _, writer in silent:
            writer.close()


async def test_a_client_that_speaks_no_tls_is_let_go_and_the_next_one_is_served(tmp_path: Path) -> None:
    async with tls_listening(tmp_path) as (counted, place, context):
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b"no TLS"
        writer.close()
        await _greeted(place, context)
        assert counted.most == 1


async def test_handshakes_are_let_go_when_listening_ends(tmp_path: Path) -> None:
    async with tls_listening(tmp_path) as (counted, place, _):
        reader, writer = await asyncio.open_connection(*place)
        assert counted.listener is not None
        await until(lambda: len(counted.listener or ()) == 1)
        await counted.listener.aclose()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_each_handshake_asks_for_the_context_of_its_moment(tmp_path: Path) -> None:
    old, new = (Certificates.make(tmp_path) for _ in range(2))
    contexts = [old.server, new.server]
    counted = Counted(10)
    sockets = bind_tcp(["127.0.0.1"], 0, BACKLOG)
    tls = ServerTls(lambda: contexts.pop(0), SOON, SOON, b"no TLS")
    counted.listener = Listener(sockets, counted.factory, counted, ACCEPT, tls)
    for client in (old.client, new.client):
        await _greeted(sockets[0].getsockname(), client)
    await counted.listener.aclose()
    await until(lambda: not counted.open)


async def test_a_unix_socket_goes_when_listening_ends(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    counted = Counted(1)
    counted.listener = Listener([bind_unix(path, BACKLOG)], counted.factory, counted, ACCEPT)
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, str(path))
        assert await loop.sock_recv(client, 1) == b"!"
        await counted.listener.aclose()
        assert not path.exists()
    async with asyncio.timeout(SOON):
        while counted.open:  # there is no event to wait for
            for each in list(counted.open):
                each.cut()
            await asyncio.sleep(0.002)
