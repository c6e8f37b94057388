"""The upstream: answers whose bytes follow from their number, and a record of every call."""

import asyncio
import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Call", "Model", "Plan", "content"]

_PIECE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer: how long its head takes, how many pieces it has, and the pause after each; times in seconds."""

    number: int
    head: float
    pieces: int
    pause: float

    @property
    def target(self) -> str:
        """The path that asks for it."""
        return f"/{self.number}/{self.head}/{self.pieces}/{self.pause}"

    @property
    def seconds(self) -> float:
        """How long it takes when nothing is wrong."""
        return self.head + self.pieces * self.pause


def content(number: int, pieces: int) -> bytes:
    """The bytes of an answer."""
    return b"".join(_piece(number, index) for index in range(pieces))


def _piece(number: int, index: int) -> bytes:
    label = b"<%d/%d>" % (number, index)
    return (label + hashlib.blake2b(label).hexdigest().encode())[: _PIECE - 1].ljust(_PIECE - 1, b".") + b"\n"


@dataclass(slots=True)
class Call:
    """A request that came. `via`: the instance that was asked. Times are of the monotonic clock; `ended` None: runs."""

    number: int
    via: int
    began: float
    ended: float | None = None
    was_cut: bool = False


class Model:
    """The upstream's server. `calls` are all so far, by the number of their answer."""

    def __init__(self) -> None:
        self.calls: dict[int, list[Call]] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def listen(self) -> None:
        """Accept connections on a free port."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # asyncio's own callback runs in one
        self._tasks.add(task)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            parts = head.split(" ")[1].split("/")
            plan = Plan(int(parts[1]), float(parts[2]), int(parts[3]), float(parts[4]))
            via = int(head.lower().partition("\r\nx-soak-via: ")[2].partition("\r\n")[0])
            call = Call(plan.number, via, time.monotonic())
            self.calls.setdefault(plan.number, []).append(call)
            await self._answer(plan, call, reader, writer)
        writer.transport.abort()
        self._tasks.discard(task)

    async def _answer(self, plan: Plan, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer for as long as the proxy listens."""
        answering = asyncio.ensure_future(_send(plan, writer))
        leaving = asyncio.ensure_future(_left(reader))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            call.ended = time.monotonic()
            call.was_cut = not answering.done()
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(4096):
            pass


async def _send(plan: Plan, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(plan.head)
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for index in range(plan.pieces):
        piece = _piece(plan.number, index)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(plan.pause)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
