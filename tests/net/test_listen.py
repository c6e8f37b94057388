"""Listening: addresses, Unix sockets, the bound on connections over several sockets, stopping."""

import asyncio
import errno
import socket
import stat
from pathlib import Path

import pytest

from proxy.net import listen
from proxy.net.connection import Connection
from proxy.net.listen import Listener, bind_tcp, bind_unix
from tests.kit.waiting import SOON, until


def test_localhost_is_both_loopback_addresses_on_one_port() -> None:
    sockets = bind_tcp("localhost", 0)
    names = [bound.getsockname()[:2] for bound in sockets]
    for bound in sockets:
        bound.close()
    assert [name[0] for name in names] in (["127.0.0.1", "::1"], ["127.0.0.1"])
    assert len({name[1] for name in names}) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken_is_named_and_nothing_stays_bound(host: str) -> None:
    (taken,) = bind_tcp("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1 port {port}"):
        bind_tcp(host, port)
    taken.close()
    for bound in bind_tcp(host, port):
        bound.close()


def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on nowhere\.invalid"):
        bind_tcp("nowhere.invalid", 0)


def test_a_unix_socket_is_private_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bound = bind_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another process does") as caught:
        bind_unix(path)
    assert caught.value.errno == errno.EADDRINUSE
    bound.close()
    bind_unix(path).close()


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="cannot listen on"):
        bind_unix(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_for_a_socket_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*too long"):
        bind_unix(tmp_path / ("x" * 120))


class Counted:
    """Connections that a listener accepted, at most `bound`."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.open: set[Connection] = set()
        self.most = 0
        self.listener: Listener | None = None

    def has_room(self) -> bool:
        return len(self.open) < self.bound

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
    sockets = bind_tcp("127.0.0.1", 0) + bind_tcp("127.0.0.1", 0)
    counted.listener = Listener(sockets, counted.factory, counted.has_room)

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
    one, two = sockets = bind_tcp("127.0.0.1", 0) + bind_tcp("127.0.0.1", 0)
    ports = [bound.getsockname()[1] for bound in (one, two)]
    counted.listener = Listener(sockets, counted.factory, counted.has_room)
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
    sockets = bind_tcp("127.0.0.1", 0)
    counted.listener = Listener(sockets, counted.factory, counted.has_room)
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


async def test_want_of_descriptors_is_said_once_until_an_accept_succeeds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def accept(_: socket.socket) -> tuple[socket.socket, None]:
        nonlocal calls
        calls += 1
        if calls == 4:
            return socket.socket(), None
        if calls > 7:
            await asyncio.Event().wait()
        raise OSError(errno.EMFILE, "too many open files")

    async def connect(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(listen, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_accept", accept)
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", connect)
    counted = Counted(1)
    listener = Listener(bind_tcp("127.0.0.1", 0), counted.factory, lambda: True)
    for _ in range(50):
        await asyncio.sleep(0)
    assert calls == 8
    assert caplog.messages == ["cannot accept: too many open files"] * 2
    await listener.aclose()


async def test_a_unix_socket_goes_when_listening_ends(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    counted = Counted(1)
    counted.listener = Listener([bind_unix(path)], counted.factory, counted.has_room)
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
