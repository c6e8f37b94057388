"""A connection's flow control, on each loop and over TLS."""

import ast
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.net.connection import Connection
from tests.kit.certificates import Certificates
from tests.kit.loop_peers import Peer, origin
from tests.kit.waiting import SOON, until

PROXY = Path(__file__).resolve().parents[2] / "proxy"
HIGH_WATER = 64 << 10  # bytes
PIECE = bytes(16 << 10)


class Receiving(Connection):
    """A connection that keeps what it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


@asynccontextmanager
async def connected(certificates: Certificates | None) -> AsyncIterator[tuple[Receiving, Peer]]:
    """A connection with a mark of `HIGH_WATER`, and its peer, which reads nothing by itself."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        peers.put_nowait(peer)
        await ended.wait()

    tls = {} if certificates is None else {"ssl": certificates.server}
    async with origin(script, limit=1 << 10, **tls) as (_, address):
        _, connection = await asyncio.get_running_loop().create_connection(
            Receiving, address.host, address.port, ssl=None if certificates is None else certificates.client
        )
        connection.set_high_water(HIGH_WATER)
        async with asyncio.timeout(SOON):
            yield connection, await peers.get()
        connection.cut()
        ended.set()
        await until(lambda: connection.is_lost)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
async def test_a_peer_that_reads_nothing_pauses_the_writer_until_it_reads(tmp_path: Path, is_tls: bool) -> None:
    async with connected(Certificates.make(tmp_path) if is_tls else None) as (connection, peer):
        written = 0
        while not connection.is_write_paused:  # the system's buffers take megabytes first
            assert written < 1 << 30
            connection.write([PIECE])
            written += len(PIECE)
            await asyncio.sleep(0)
        assert connection.transport.get_write_buffer_size() <= HIGH_WATER + (1 << 20)
        waiting = asyncio.ensure_future(connection.drained())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        got = 0
        while got < written:
            got += len(await peer.reader.read(1 << 20))
        await waiting
        assert not connection.is_write_paused


@asynccontextmanager
async def full() -> AsyncIterator[tuple[Receiving, Peer]]:
    """A connection whose peer has stopped reading, and whose buffer is over its mark."""
    async with connected(None) as (connection, peer):
        while not connection.is_write_paused:
            connection.write([bytes(1 << 20)])
            await asyncio.sleep(0)
        yield connection, peer


async def _read_on(peer: Peer) -> None:
    while await peer.reader.read(1 << 20):
        pass


async def test_writers_that_wait_go_on_one_by_one_in_the_order_in_which_they_came() -> None:
    """Each fills the buffer again: the next one must wait until the peer has taken that, too."""
    order: list[int] = []
    async with full() as (connection, peer):

        async def writer(number: int) -> None:
            for _ in range(2):
                await connection.drained()
                assert not connection.is_write_paused
                order.append(number)
                connection.write([bytes(8 << 20)])

        writers = [asyncio.ensure_future(writer(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        assert order == []
        reading = asyncio.ensure_future(_read_on(peer))
        await asyncio.gather(*writers)
        assert order == [0, 1, 2, 3, 0, 1, 2, 3]
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_writer_that_comes_late_does_not_overtake_those_that_wait() -> None:
    order: list[str] = []
    async with full() as (connection, peer):

        async def writer(name: str) -> None:
            await connection.drained()
            order.append(name)

        early = [asyncio.ensure_future(writer(name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        late: list[asyncio.Future[None]] = []
        resume_writing = connection.resume_writing

        def resumed() -> None:
            resume_writing()
            late.append(asyncio.ensure_future(writer("late")))

        connection.resume_writing = resumed  # type: ignore[method-assign]  # a caller in the very turn of the wake-up
        await peer.reader.read(1 << 20)
        reading = asyncio.ensure_future(_read_on(peer))
        await until(lambda: len(order) == 3)
        assert order == ["first", "second", "late"]
        reading.cancel()
        await asyncio.gather(reading, *early, *late, return_exceptions=True)


@pytest.mark.parametrize("is_woken", [False, True])
async def test_a_cancelled_writer_gives_its_turn_to_the_next(is_woken: bool) -> None:
    async with full() as (connection, _):
        first, second = waiting = [asyncio.ensure_future(connection.drained()) for _ in range(2)]
        await asyncio.sleep(0)
        if is_woken:
            connection.resume_writing()
        first.cancel()
        await asyncio.wait([first])
        if not is_woken:
            connection.resume_writing()
        await second
        assert first.cancelled()
        assert waiting[1].exception() is None


async def test_every_waiting_writer_learns_that_the_connection_is_lost() -> None:
    async with full() as (connection, _):
        waiting = [asyncio.ensure_future(connection.drained()) for _ in range(3)]
        await asyncio.sleep(0)
        connection.cut()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, ConnectionResetError)


async def test_a_half_closed_connection_still_receives() -> None:
    async with connected(None) as (connection, peer):
        connection.write([b"last"])
        assert connection.half_close()
        assert await peer.rest() == b"last"
        peer.send(b"answer")
        await until(lambda: connection.received == b"answer")


async def test_over_tls_there_is_no_half_close(tmp_path: Path) -> None:
    async with connected(Certificates.make(tmp_path)) as (connection, peer):
        assert not connection.half_close()
        connection.write([b"more"])
        assert await peer.exactly(4) == b"more"


class _Written:
    """A transport that notes what it is given."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def writelines(self, buffers: list[bytes]) -> None:
        self.sizes += map(len, buffers)
        self._transport.writelines(buffers)


async def test_over_tls_short_buffers_are_joined_to_records_and_arrive_in_order(tmp_path: Path) -> None:
    buffers = [bytes([number]) * size for number, size in enumerate([5, 9, 16_000, 500, 3, 100_000, 1, 1])]
    async with connected(Certificates.make(tmp_path)) as (connection, peer):
        connection.transport = written = _Written(connection.transport)  # type: ignore[assignment]  # as one
        connection.write(buffers)
        assert await peer.exactly(sum(map(len, buffers))) == b"".join(buffers)
        assert written.sizes == [16_014, 503, 100_000, 2]


async def test_a_connection_is_quiet_until_something_can_be_read() -> None:
    async with connected(None) as (connection, peer):
        assert connection.is_quiet()
        connection.pause()
        peer.send(b"x")
        await until(lambda: not connection.is_quiet())
        assert not connection.has_peer_left()
        peer.close()
        await until(connection.has_peer_left)


def test_no_room_above_touches_a_transport() -> None:
    """The Python client has httpx's transports. An engine's connection is below the store's port, not above."""
    names = ("transport", "get_extra_info", "get_write_buffer_size", "set_write_buffer_limits")
    wrong = []
    for path in sorted(PROXY.rglob("*.py")):
        if path.is_relative_to(PROXY / "net") or path.is_relative_to(PROXY / "client"):
            continue
        if path == PROXY / "store" / "valkey" / "connection.py":
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if (isinstance(node, ast.Attribute) and node.attr.lstrip("_") in names) or (
                isinstance(node, ast.arg) and node.arg.lstrip("_") in names
            ):
                wrong.append(f"{path.relative_to(PROXY)}:{node.lineno}")
    assert not wrong


async def test_a_write_to_a_socket_that_was_lost_in_this_turn_leaves_nothing_in_the_loop() -> None:
    async with connected(None) as (connection, _):
        descriptor = connection.transport.get_extra_info("socket").fileno()
        connection.transport.abort()  # as an error of the socket does: the connection hears of it in the next turn
        connection.write([bytes(16 << 20)])
        await until(lambda: connection.is_lost)
        assert not asyncio.get_running_loop().remove_writer(descriptor)
