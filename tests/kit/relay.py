"""A TCP relay that cuts a connection where the test says: after a number of bytes, by FIN, RST or silence.

It runs in its own thread.
"""

import asyncio
import socket
import struct
import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal
from urllib.parse import urlsplit

from tests.kit.loops import LoopThread
from tests.kit.stopping import Stopping

__all__ = ["Cut", "Relay", "Way"]


class Way(Enum):
    """Which bytes a cut counts."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


@dataclass(frozen=True)
class Cut:
    """End a connection when `after` bytes have passed `way` and one more arrives."""

    way: Way
    after: int  # bytes
    how: Literal["fin", "rst", "hang"] = "rst"  # both sides are closed, or reset, or nothing more passes either way


@dataclass(eq=False)
class _Pair:
    """The two sockets of a relayed connection, and what passed."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    cut: Cut | None
    passed: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    hung: bool = False

    def end(self, how: str) -> None:
        for writer in (self.client, self.server):
            if how == "rst":
                sock = writer.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class Relay(Stopping):
    """A TCP relay in front of `url`: `with Relay(storage.url) as relay: … relay.url`.

    With `others` it leads to each of them in turn, by connection. `cut_next` is for connections to come, `cut_open` and
    `cut_all` for those that are open. `accepted` counts connections, `passed` the bytes each way.
    """

    def __init__(self, url: str, *others: str) -> None:
        parts = urlsplit(url)
        self._targets = [(each.hostname or "localhost", each.port or 80) for each in map(urlsplit, (url, *others))]
        self._cuts: list[Cut] = []
        self._pairs: set[_Pair] = set()
        self._through = asyncio.Event()
        self._through.set()
        self._changed = threading.Condition()
        self._refusing = False
        self.accepted = 0
        self.cuts_made = 0
        self.passed = dict.fromkeys(Way, 0)
        self._loop = LoopThread("relay")
        self._server = self._loop.run(self._listen())
        self.url = f"{parts.scheme}://127.0.0.1:{self.port}{parts.path}"

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        return server

    def cut_next(self, *cuts: Cut) -> None:
        """Queue cuts, one for each of the next connections."""
        self._loop.run(self._queue(cuts))

    async def _queue(self, cuts: tuple[Cut, ...]) -> None:
        self._cuts += cuts

    def cut_open(self, cut: Cut) -> None:
        """Apply the cut to every open connection, counting bytes from now."""

        async def work() -> None:
            for pair in self._pairs:
                pair.cut = Cut(cut.way, pair.passed[cut.way] + cut.after, cut.how)

        self._loop.run(work())

    def cut_all(self, how: Literal["fin", "rst", "hang"] = "rst") -> None:
        """Cut every open connection now."""

        async def work() -> None:
            for pair in list(self._pairs):
                self._cut(pair, how)

        self._loop.run(work())

    def hold(self) -> None:
        """Let nothing pass, in either direction, until `flow`: the network hangs."""
        self._loop.post(self._through.clear)

    def flow(self) -> None:
        """Let everything pass again."""
        self._loop.post(self._through.set)

    def refuse(self, refusing: bool = True) -> None:
        """Reset every new connection, until `refuse(False)`."""
        self._refusing = refusing

    def wait_cut(self, count: int = 1, timeout: float = 10) -> None:
        """Wait until `count` connections have been cut."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.cuts_made >= count, timeout), f"{self.cuts_made} cuts made"

    def stop(self) -> None:
        """Cut everything and end."""
        self._loop.post(self._server.close)
        self.cut_all()
        self._loop.stop()

    def _cut(self, pair: _Pair, how: str) -> None:
        pair.hung = how == "hang"
        if not pair.hung:
            pair.end(how)
        with self._changed:
            self.cuts_made += 1
            self._changed.notify_all()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            _Pair(writer, writer, None).end("rst")
            return
        cut = self._cuts.pop(0) if self._cuts else None
        target = self._targets[self.accepted % len(self._targets)]
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.transport.abort()
            return
        for each in (writer, far_writer):
            each.transport.set_write_buffer_limits(0)  # `drain` waits for all: a reset would throw away what is left
        pair = _Pair(writer, far_writer, cut)
        self._pairs.add(pair)
        try:
            ways = [self._copy(pair, reader, Way.TO_SERVER), self._copy(pair, far_reader, Way.TO_CLIENT)]
            await asyncio.gather(*ways)
        finally:
            self._pairs.discard(pair)
            pair.end("fin")

    async def _copy(self, pair: _Pair, reader: asyncio.StreamReader, way: Way) -> None:
        writer = pair.server if way is Way.TO_SERVER else pair.client
        try:
            while data := await reader.read(65536):
                await self._through.wait()
                if not pair.hung:
                    await self._pass(pair, data, way)
            if pair.hung or writer.is_closing():
                pair.end("rst")
            else:
                writer.write_eof()
        except OSError:
            pair.end("rst")

    async def _pass(self, pair: _Pair, data: bytes, way: Way) -> None:
        writer = pair.server if way is Way.TO_SERVER else pair.client
        cut = pair.cut if pair.cut is not None and pair.cut.way is way else None
        left = cut.after - pair.passed[way] if cut is not None else len(data)
        writer.write(data[:left])
        pair.passed[way] += len(data[:left])
        self.passed[way] += len(data[:left])
        await writer.drain()
        if cut is not None and len(data) > left:
            self._cut(pair, cut.how)
