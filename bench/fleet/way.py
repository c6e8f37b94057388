"""The way from one instance to storage: a TCP relay that hangs, goes deaf, refuses, or cuts connections."""

import asyncio
import random
import socket
import struct
from contextlib import suppress
from enum import Enum

__all__ = ["Fault", "Way"]


class Fault(Enum):
    """What is wrong with a way."""

    NONE = "works"
    HOLD = "hangs: nothing passes, and comes later"
    LOSE = "loses: nothing passes on open connections, never"
    REFUSE = "refuses: connections are reset, new ones too"
    CUT = "cuts: each connection is reset after a random number of bytes"


class Way:
    """Relays connections to `port`; `listen` says where. `fault` is for all connections, open and new ones."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self._target = port
        self._dice = dice
        self._flows = asyncio.Event()
        self._flows.set()
        self._fault = Fault.NONE
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._deaf: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        """Accept connections on a free port."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def fault(self, fault: Fault) -> None:
        """Have this fault from now on. Connections that have gone deaf stay so."""
        self._fault = fault
        if fault is Fault.HOLD:
            self._flows.clear()
        else:
            self._flows.set()
        if fault is Fault.LOSE:
            self._deaf |= self._pairs.keys()
        if fault in (Fault.REFUSE, Fault.CUT):
            for pair in self._pairs.values():
                _reset(*pair)

    async def aclose(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._pairs):
            task.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # asyncio's own callback runs in one
        if self._fault is Fault.REFUSE:
            _reset(writer)
            return
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        self._pairs[task] = (writer, far)
        left = [self._dice.randrange(20_000)] if self._fault is Fault.CUT else []
        try:
            await asyncio.gather(self._copy(task, reader, far, left), self._copy(task, far_reader, writer, left))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            del self._pairs[task]
            self._deaf.discard(task)
            _reset(writer, far)

    async def _copy(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]
    ) -> None:
        while data := await reader.read(65_536):
            await self._flows.wait()
            if task in self._deaf:
                continue
            passed = data[: left[0]] if left else data
            writer.write(passed)
            await writer.drain()
            if left:
                left[0] -= len(passed)
                if len(passed) < len(data):
                    raise ConnectionResetError
        with suppress(OSError):
            writer.write_eof()


def _reset(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        opened = writer.get_extra_info("socket")
        if opened is not None and opened.fileno() >= 0:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
