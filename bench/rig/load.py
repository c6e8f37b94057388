"""The callers: keep-alive connections that send requests and read answers, and a fixed number of jobs at a time.

Owns sending requests and timing answers. The caller's `deliver` checks an answer's body.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import cast

from bench.rig.http import BrokenRun, Chunks, field, number

__all__ = ["Link", "Reply", "at_a_time", "for_seconds", "until"]

Deliver = Callable[[memoryview, int], None]

_BUFFER = memoryview(bytearray(262_144))  # shared: the bytes of a read are used before the loop reads again


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, its head for `field`, and when the head came (monotonic, nanoseconds)."""

    status: int
    head: bytes
    at: int

    def field(self, name: bytes) -> bytes | None:
        """A field's value; `name` in lower case."""
        return field(self.head, name)


class Link(asyncio.BufferedProtocol):
    """A connection with one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._reply: Reply | None = None
        self._deliver: Deliver | None = None
        self._left: int | None = 0
        self._chunks: Chunks | None = None
        self._head_done: asyncio.Future[Reply] | None = None
        self._done: asyncio.Future[Reply] | None = None
        self._headless = False
        self._now = 0

    @classmethod
    async def open(cls, port: int) -> "Link":
        """Connects to 127.0.0.1."""
        _, link = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return link

    async def ask(self, request: bytes, deliver: Deliver | None = None) -> Reply:
        """Sends a whole request and waits for the whole answer; its body goes to `deliver` as it comes."""
        self._send(request, deliver)
        assert self._done is not None
        return await self._done

    async def begin(self, request: bytes, deliver: Deliver | None = None) -> Reply:
        """Sends a whole request and waits for the answer's head; `finished` waits for its end."""
        self._send(request, deliver)
        assert self._head_done is not None
        return await self._head_done

    async def finished(self) -> Reply:
        """Waits for the end of the answer that `begin` began."""
        assert self._done is not None
        return await self._done

    def close(self) -> None:
        """Cuts the connection."""
        self.transport.abort()

    def _send(self, request: bytes, deliver: Deliver | None) -> None:
        if self._done is not None and not self._done.done():
            raise BrokenRun("asked while an answer was coming")
        self._head, self._reply, self._deliver, self._chunks = b"", None, deliver, None
        self._headless = request.startswith(b"HEAD ")
        self._head_done = self._loop.create_future()
        self._done = self._loop.create_future()
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and self._left is None and self._chunks is None:
            self._end()
            return
        for future in (self._head_done, self._done):
            if future is not None and not future.done():
                future.set_exception(BrokenRun("the connection was lost before the answer was whole"))
                future.exception()  # one of the two may have no waiter

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._now = time.monotonic_ns()
        data = _BUFFER[:nbytes]
        if self._reply is None:
            before = len(self._head)
            self._head += bytes(data)
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            self._begin_body(self._head[: end - 2])
            data = data[end - before :]
        if len(data) or self._left == 0:
            self._body(data)

    def _begin_body(self, head: bytes) -> None:
        self._reply = Reply(int(head[9:12]), head, self._now)
        if self._headless or self._reply.status in {204, 304}:
            self._left = 0
        elif (length := number(head, b"content-length")) is not None:
            self._left = length
        else:
            self._left = None
            if field(head, b"transfer-encoding") is not None:
                self._chunks = Chunks(self._pass)
        if self._head_done is not None and not self._head_done.done():
            self._head_done.set_result(self._reply)

    def _pass(self, data: memoryview) -> None:
        if self._deliver is not None and len(data):
            self._deliver(data, self._now)

    def _body(self, data: memoryview) -> None:
        if self._chunks is not None:
            self._chunks.feed(bytes(data))
            if self._chunks.done:
                self._end()
        elif self._left is None:
            self._pass(data)
        else:
            if len(data) > self._left:
                raise BrokenRun("bytes after the end of an answer")
            self._left -= len(data)
            self._pass(data)
            if not self._left:
                self._end()

    def _end(self) -> None:
        if self._done is not None and not self._done.done() and self._reply is not None:
            self._done.set_result(self._reply)


Job = Callable[[Link, int], Awaitable[None]]


async def at_a_time(port: int, width: int, indices: range, job: Job) -> None:
    """Runs `job` once for each index, `width` at a time, each worker on a connection of its own."""
    waiting = iter(indices)

    async def work() -> None:
        link = await Link.open(port)
        try:
            for index in waiting:
                await job(link, index)
        finally:
            link.close()

    await _all(work, min(width, len(indices)))


async def for_seconds(port: int, width: int, seconds: float, begin: int, job: Job) -> int:
    """Start jobs for `seconds`, `width` at a time, and wait for the last; how many. Numbers start at `begin`."""
    until = time.monotonic() + seconds
    started = 0

    async def work() -> None:
        nonlocal started
        link = await Link.open(port)
        try:
            while time.monotonic() < until:
                index = begin + started
                started += 1
                await job(link, index)
        finally:
            link.close()

    await _all(work, width)
    return started


async def until(holds: Callable[[], bool], every: float = 0.002) -> None:
    """Wait until `holds` is true of another process. Checked each `every` seconds."""
    while not holds():  # noqa: ASYNC110  # what is waited for happens elsewhere: there is no event to set
        await asyncio.sleep(every)


async def _all(work: Callable[[], Coroutine[None, None, None]], width: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(work())
