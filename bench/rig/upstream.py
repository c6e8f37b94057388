"""A scripted origin: the path says what it answers. Owns pacing and framing. Does not know its callers.

/flat/INDEX/SIZE     a body with Content-Length, as fast as the socket takes it
/chunked/INDEX/SIZE  the same in chunks of 64 KiB; SIZE 0 never ends
/until/INDEX/SIZE    the same, never ends, but waits at SIZE for `go`
/events/INDEX/COUNT  COUNT chunks of 100 bytes, each in a write and a turn of the loop of its own
/dense/INDEX/COUNT   the same, each in a write of its own, the next at once, as a server that flushes does
/burst/INDEX/COUNT   the same, all in one write
/timed/INDEX         a head; `play` sends the events
/held/INDEX          a head and one event of 100 bytes, then silence until `finish`
"""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from typing import cast

from bench.rig.content import EVENT, flat, timed_event
from bench.rig.http import BrokenRun, number

__all__ = ["Upstream"]

_CHUNK = 65_536
_CHUNKS_A_TURN = 8
_TURN = {"events": 1, "dense": 64}  # writes in one turn of the loop: more would delay the storage in the same loop
_LAST = b"0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Upstream:
    """`start`, then `url`; `requests` counts what was asked, `closed_at` when a connection was cut in an answer."""

    def __init__(self) -> None:
        self.requests = 0
        self.open: dict[int, _Exchange] = {}
        self.closed_at: dict[int, int] = {}
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listens on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), "127.0.0.1", 0, backlog=4096)

    async def stop(self) -> None:
        """Closes every connection."""
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.transport.abort()

    def go(self, index: int) -> int:
        """Lets an `until` body run past where it waits; the moment, monotonic, in nanoseconds."""
        now = time.monotonic_ns()
        self.open[index].go()
        return now

    def finish(self, index: int) -> None:
        """Ends a `timed` or `held` body properly."""
        self.open.pop(index).finish()

    async def play(self, indices: Sequence[int], period: float, rounds: int) -> None:
        """Sends `rounds` events on each timed body, one each `period` seconds, at phases spread at random."""
        loop = asyncio.get_running_loop()
        phases = random.Random(len(indices))
        plan = sorted((phases.random() * period, index) for index in indices)
        exchanges = [(phase, index, self.open[index]) for phase, index in plan]
        begun = loop.time()
        for number_ in range(rounds):
            base = begun + number_ * period
            for phase, index, exchange in exchanges:
                ahead = base + phase - loop.time()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                exchange.push(b"64\r\n%b\r\n" % timed_event(index, number_, time.monotonic_ns()))


class _Link(asyncio.Protocol):
    """One connection: requests in, one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.exchange: _Exchange | None = None
        self.fd = -1
        self._in = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.fd = self.transport.get_extra_info("socket").fileno()
        self.upstream._links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fd = -1
        self.upstream._links.discard(self)
        if self.exchange is not None:
            self.upstream.closed_at[self.exchange.index] = time.monotonic_ns()
            self.exchange.lost()

    def data_received(self, data: bytes) -> None:
        self._in += data
        end = self._in.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._in[: end - 2]
        end += number(head, b"content-length") or 0
        if len(self._in) < end:
            return
        if len(self._in) > end or self.exchange is not None:
            raise BrokenRun("a request was pipelined to the upstream")
        self._in = b""
        self.upstream.requests += 1
        kind, index, *size = head.split(b" ", 2)[1].strip(b"/").split(b"/")
        self.exchange = _Exchange(self, int(index))
        self.exchange.begin(kind.decode(), int(size[0]) if size else 0)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.resume()


class _Exchange:
    """One answer being written."""

    def __init__(self, link: _Link, index: int) -> None:
        self.index = index
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self._offset = 0
        self._size = 0
        self._wait_at = -1
        self._turn: asyncio.Handle | None = None

    def begin(self, kind: str, size: int) -> None:
        """Starts the script called `kind`."""
        self._size = size
        transport = self._link.transport
        if kind == "flat":
            transport.write(_HEAD + b"Content-Length: %d\r\n\r\n" % size)
            transport.writelines(flat(self.index, size))
            self._link.exchange = None
        elif kind == "burst":
            self.push(_CHUNKED + b"".join(self._framed(0, size)) + _LAST)
            self._link.exchange = None
        elif kind in _TURN:
            self.push(_CHUNKED)
            self._events(_TURN[kind])
        elif kind in {"chunked", "until"}:
            if kind == "until":
                self._wait_at, self._size = size, 0
            self._link.upstream.open[self.index] = self
            transport.write(_CHUNKED)
            self._chunks()
        elif kind in {"timed", "held"}:
            self._link.upstream.open[self.index] = self
            self.push(_CHUNKED)
            if kind == "held":
                self.push(b"64\r\n%b\r\n" % b"".join(flat(self.index, EVENT)))
        else:
            raise BrokenRun(f"no script called {kind}")

    def push(self, data: bytes) -> None:
        """One write system call, at once: the loop would join writes that a flushing server keeps apart."""
        link = self._link
        if link.fd < 0 or link.transport.is_closing():  # its number may be another socket's by now
            return
        sent = 0
        if not link.transport.get_write_buffer_size():
            try:
                sent = os.write(link.fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
        if sent < len(data):
            link.transport.write(data[sent:])

    def finish(self) -> None:
        """The last chunk."""
        self.push(_LAST)
        self._link.exchange = None

    def go(self) -> None:
        """Let the script go on from where it waits."""
        self._wait_at = -1
        self._chunks()

    def pause(self) -> None:
        """The socket is full."""
        self._paused = True

    def resume(self) -> None:
        """The socket takes more."""
        if self._paused and self._link.exchange is self:
            self._paused = False
            self._chunks()

    def lost(self) -> None:
        """The peer is gone."""
        self._paused = True
        self._link.upstream.open.pop(self.index, None)

    def _framed(self, first: int, upto: int) -> list[bytes]:
        body = b"".join(flat(self.index, upto * EVENT, first * EVENT))
        return [b"64\r\n%b\r\n" % body[at : at + EVENT] for at in range(0, len(body), EVENT)]

    def _events(self, turn: int, done: int = 0) -> None:
        upto = min(done + turn, self._size)
        for chunk in self._framed(done, upto):
            self.push(chunk)
        if upto < self._size:
            self._loop.call_soon(self._events, turn, upto)
        else:
            self.finish()

    def _chunks(self) -> None:
        """Some chunks, then a turn of the loop: only there the transport finds out that the socket is full."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        transport = self._link.transport
        for _ in range(_CHUNKS_A_TURN):
            if self._paused or self._offset == self._wait_at:
                return
            upto = self._offset + _CHUNK
            if self._size:
                upto = min(upto, self._size)
            if self._offset < self._wait_at:
                upto = min(upto, self._wait_at)
            size = upto - self._offset
            transport.writelines([b"%x\r\n" % size, *flat(self.index, upto, self._offset), b"\r\n"])
            self._offset = upto
            if upto == self._size:
                transport.write(_LAST)
                self._link.upstream.open.pop(self.index, None)
                self._link.exchange = None
                return
        self._turn = self._loop.call_soon(self._chunks)
