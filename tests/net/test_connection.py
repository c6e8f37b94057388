"""A connection's flow control, on each loop and over TLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.net.connection import Connection
from tests.kit.certificates import Certificates
from tests.kit.loop_peers import Peer, origin
from tests.kit.waiting import SOON, until

HIGH_WATER = 64 << 10  # bytes
PIECE = bytes(16 << 10)


@asynccontextmanager
async def connected(certificates: Certificates | None) -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection with a mark of `HIGH_WATER`, and its peer, which reads nothing by itself."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        peers.put_nowait(peer)
        await ended.wait()

    tls = {} if certificates is None else {"ssl": certificates.server}
    async with origin(script, limit=1 << 10, **tls) as (_, address):
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, address.host, address.port, ssl=None if certificates is None else certificates.client
        )
        connection.transport.set_write_buffer_limits(high=HIGH_WATER)
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
