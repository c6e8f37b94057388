"""Requests to one instance, each on a connection of its own, and the events of a live read."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.rig.http import Chunks, field

__all__ = ["Answer", "Caller", "Ended", "NoAnswer"]

_ANSWER_SECONDS = 100.0  # longer than the longest time-out of a proxy
_SILENCE_SECONDS = 100.0
_LIMIT = 1 << 22


class NoAnswer(Exception):
    """The connection was refused, lost or silent, or the read broke off."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, head and body."""

    status: int
    head: bytes
    body: bytes

    def field(self, name: bytes) -> str:
        """A header field, empty when it is absent."""
        return (field(self.head, name) or b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a stream as a reader heard it."""

    outcome: str


class Caller:
    """A client of the instance at `port`."""

    def __init__(self, port: int, secret: str, via: int) -> None:
        self.port = port
        self._secret = secret
        self._via = via

    async def create(self, url: str, key: str = "") -> Answer:
        """Ask for a new stream. Raises NoAnswer."""
        fields = f"Upstream-URL: {url}\r\nUpstream-Method: POST\r\nX-Soak-Via: {self._via}\r\n"
        if key:
            fields += f"Idempotency-Key: {key}\r\n"
        return await self.ask("POST", "/v1/proxy", fields)

    async def ask(self, method: str, target: str, fields: str = "") -> Answer:
        """The whole answer. Raises NoAnswer."""
        async with self._asked(method, target, fields) as (reader, head):
            body = b"" if method == "HEAD" else await _rest(reader, head)
        return Answer(int(head[9:12]), head, body)

    async def events(self, target: str, offset: str) -> AsyncIterator[tuple[bytes, str] | Ended]:
        """Data with the offset after it, as it comes, and the end if it comes. Raises NoAnswer."""
        async with self._asked("GET", f"{target}&live=sse&offset={offset}") as (reader, head):
            if head[9:12] != b"200":
                raise NoAnswer(head[:40].decode("latin-1"))
            data, kind = b"", b""
            async for line in _lines(reader):
                if line.startswith(b"event:"):
                    kind = line[6:].strip()
                elif line.startswith(b"data:") and kind == b"data":
                    data += base64.b64decode(line[5:])
                elif line.startswith(b"data:") and kind == b"control":
                    control = json.loads(line[5:])
                    yield data, control["streamNextOffset"]
                    data = b""
                    if control.get("streamClosed"):
                        yield Ended(control["upstreamOutcome"])
                        return

    @asynccontextmanager
    async def _asked(
        self, method: str, target: str, fields: str = ""
    ) -> AsyncIterator[tuple[asyncio.StreamReader, bytes]]:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_LIMIT)
            secret = "" if "signature=" in target else f"Authorization: Bearer {self._secret}\r\n"
            length = "" if method in ("GET", "HEAD") else "Content-Length: 0\r\n"
            writer.write(
                f"{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{secret}{fields}{length}\r\n".encode()
            )
            async with asyncio.timeout(_ANSWER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            yield reader, head[:-2]
        except (OSError, EOFError, TimeoutError) as error:
            raise NoAnswer(f"{type(error).__name__} {error}") from None
        finally:
            if writer is not None:
                writer.transport.abort()


async def _rest(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """A body. Raises EOFError when it is not whole."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        length = field(head, b"content-length")
        if length is not None:
            return await reader.readexactly(int(length))
        collected: list[bytes] = []
        if field(head, b"transfer-encoding") is None:
            return await reader.read()
        chunks = Chunks(lambda piece: collected.append(bytes(piece)))
        while not chunks.done:
            data = await reader.read(65_536)
            if not data:
                raise EOFError("a body broke off")
            chunks.feed(data)
        return b"".join(collected)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a chunked event stream, without their ends."""
    held = b""
    collected: list[bytes] = []
    chunks = Chunks(lambda piece: collected.append(bytes(piece)))
    while not chunks.done:
        async with asyncio.timeout(_SILENCE_SECONDS):
            data = await reader.read(65_536)
        if not data:
            raise EOFError("an event stream broke off")
        chunks.feed(data)
        held += b"".join(collected)
        collected.clear()
        *whole, held = held.split(b"\n")
        for line in whole:
            yield line
