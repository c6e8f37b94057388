"""Raw HTTP/1.1 peers in the test's own loop: what is sent is exactly what the test wrote.

`Peer` is one connection from either side; `origin` is a server whose connections are played by a coroutine. For tests
that must see each turn of the loop; `peers` and `upstream` do the same from a thread, with more convenience.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.net.dial import Address
from tests.kit.waiting import SOON

__all__ = ["OK", "Answer", "Origin", "Peer", "Script", "answering", "origin", "request_of"]


@dataclass
class Answer:
    """A response as a peer read it; names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """A raw connection from either side. Every wait ends within `SOON` seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> Answer:
        async with asyncio.timeout(SOON):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        fields = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(fields), f"a field is repeated: {lines}"
        return Answer(int(first.split(" ")[1]), headers, b"")

    async def response(self, to: bytes = b"GET") -> Answer:
        answer = await self.head()
        if to == b"HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        if "transfer-encoding" in answer.headers:
            while chunk := await self.chunk():
                answer.body += chunk
        elif "content-length" in answer.headers:
            answer.body = await self.exactly(int(answer.headers["content-length"]))
        else:
            answer.body = await self.rest()
        return answer

    async def chunk(self) -> bytes:
        async with asyncio.timeout(SOON):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.exactly(size + 2))[:-2]

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(SOON):
            return await self.reader.readexactly(count)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(SOON):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Everything up to the FIN; ConnectionResetError if the peer resets the connection instead."""
        async with asyncio.timeout(SOON):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Origin:
    """A server that runs `script` on every connection. `peers` are all so far, `open` are now, `most` were at once."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.peers: list[Peer] = []
        self.open = 0
        self.most = 0
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.open += 1
        self.most = max(self.most, self.open)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            self.open -= 1
            peer.close()

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        assert not self.failures, self.failures


@asynccontextmanager
async def origin(script: Script, **options: object) -> AsyncIterator[tuple[Origin, Address]]:
    """An origin on a free port (`options` are asyncio.start_server's) and the address to dial."""
    played = Origin(script)
    server = await asyncio.start_server(played.accepted, "127.0.0.1", 0, **options)  # type: ignore[arg-type]  # by name
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1], tls=options.get("ssl") is not None)
    try:
        yield played, address
    finally:
        server.close()
        await played.aclose()
        await asyncio.sleep(0)


async def request_of(peer: Peer) -> bytes:
    """The head of the next request. A body with a Content-Length is read and discarded."""
    head = await peer.reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length: "):
            await peer.reader.readexactly(int(line[16:]))
    return head


def answering(response: bytes) -> Script:
    """Answers every request of a connection with `response`."""

    async def script(peer: Peer) -> None:
        while True:
            await request_of(peer)
            peer.send(response)

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
