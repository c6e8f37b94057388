"""The proxy under test, as its clients see it. Owns the requests that the soak needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.rig.http import BrokenRun, field

__all__ = ["Target"]

_LIMIT = 1 << 20
_QUESTION = b'{"messages":[{"role":"user","content":"hello"}]}'


@dataclass(slots=True)
class Target:
    """Where the proxy listens, its secret, the model it may call, and one stream that many read."""

    port: int
    secret: str
    model: str
    popular: str = ""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection, which is reset at the end, so that no socket is left in TIME_WAIT."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_LIMIT)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def create_head(self, url: str, length: int) -> bytes:
        """The head of a create whose body has `length` bytes."""
        return (
            f"POST /v1/proxy HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {self.secret}\r\n"
            f"Upstream-URL: {url}\r\nUpstream-Method: POST\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    async def create(self, url: str) -> str:
        """The Location of a new stream. Raises BrokenRun for any answer but 201."""
        async with self.connected() as (reader, writer):
            writer.write(self.create_head(url, len(_QUESTION)) + _QUESTION)
            head = await reader.readuntil(b"\r\n\r\n")
        location = field(head[:-2], b"location")
        if not head.startswith(b"HTTP/1.1 201") or location is None:
            raise BrokenRun(head.partition(b"\r\n")[0].decode("latin-1"))
        return location.decode()

    async def read(self, location: str) -> bytes:
        """A whole stream, read live: the data of its events, joined. Raises BrokenRun, OSError, EOFError."""
        data = b""
        async with self.connected() as (reader, writer):
            writer.write(f"GET {location}&live=sse&offset=-1 HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BrokenRun(head.partition(b"\r\n")[0].decode("latin-1"))
            while b'"streamClosed":true' not in data:
                data += await reader.readuntil(b"\n")
        return data
