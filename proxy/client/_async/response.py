"""An upstream's answer, read from its durable stream: asks, waits and hands out bytes as `reading` decides."""

import time
from asyncio import sleep
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from proxy.client._async.link import AsyncLink
from proxy.client._async.managed import AsyncManaged
from proxy.client._async.pieces import AsyncPieces
from proxy.client._async.wire import AsyncReply
from proxy.client.creating import Answered
from proxy.client.errors import DurableError, NetworkError, ProxyError
from proxy.client.library import translated
from proxy.client.reading import Reading
from proxy.client.responses import DurableHead
from proxy.client.session import Delivery

__all__ = ["AsyncDurableResponse"]


class AsyncDurableResponse(AsyncManaged, DurableHead):
    """An upstream's answer, to be read once. Close it, use it as a context manager, or read it to its end.

    One task or thread at a time may use it.
    """

    def __init__(self, link: AsyncLink, source: Delivery | Answered) -> None:
        super().__init__(source)
        self._link = link
        self._reply: AsyncReply | None = None
        self._raw = AsyncPieces(self._read, restartable=True)
        self._decoded = AsyncPieces(self._decode, restartable=False) if self._encoded else self._raw
        self._whole: bytes | None = None

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """The body as it comes, with any `Content-Encoding` undone. Another call goes on where this one was left.

        A piece counts as consumed when the next one is asked for. A task that is cancelled in its wait loses nothing.
        Raises IncompleteStream after the last byte of a stream that is not whole, NetworkError when the proxy stays
        out of reach, ProxyError when it refuses to go on.
        """
        return self._decoded

    def iter_raw(self) -> AsyncIterator[bytes]:
        """The body as the upstream sent it, with any `Content-Encoding` left in place. Use this or `iter_bytes`.

        Raises as `iter_bytes` does.
        """
        return self._raw

    async def read(self) -> bytes:
        """The whole body; calling it again returns the same bytes. Raises as `iter_bytes` does."""
        if self._whole is None:
            self._whole = b"".join([piece async for piece in self.iter_bytes()])
        return self._whole

    async def abort(self) -> None:
        """Stop the upstream call. What it has sent can still be read, and ends with IncompleteStream.

        Repeating it, or calling it after the stream's end, does no harm. Raises ProxyError or NetworkError.
        """
        if self.stream_url is not None:
            await self._link.abort(self.stream_url)

    async def aclose(self) -> None:
        """Stop reading. The option `on_close` decides whether this aborts the upstream call."""
        try:
            await self._decoded.stop()
            await self._raw.stop()
            await self._close_reply()
        finally:
            if self._aborts_on_close() and self.stream_url is not None:
                await self._link.abort_quietly(self.stream_url)

    async def open(self) -> bool:
        """Wait for the answer to the first read. False when the stream no longer exists.

        Raises ProxyError or NetworkError when that cannot be found out.
        """
        if self._delivery is None or self._reading is None:
            return False
        try:
            self._reply = await self._next_reply(self._reading)
        except BaseException as error:
            if isinstance(error, DurableError):
                self._delivery.failed(error)
            self._delivery.over = True  # no caller will hold this response, so nobody can close it
            if isinstance(error, ProxyError) and error.gone:
                return False
            raise
        return True

    async def _read(self) -> AsyncGenerator[bytes]:
        if self._delivery is None or self._reading is None:
            yield self._answer
            return
        try:
            async with aclosing(self._stream(self._delivery, self._reading)) as pieces:
                async for piece in pieces:
                    yield piece
            self._reading.verdict()
            self._delivery.finished()
        except DurableError as error:
            self._delivery.failed(error)
            raise

    async def _decode(self) -> AsyncGenerator[bytes]:
        library = self._link.wire.library
        fields = [("Content-Encoding", self.headers["content-encoding"])]
        with translated(library):
            async for piece in library.Response(200, headers=fields, content=self._raw).aiter_bytes():
                yield piece

    async def _stream(self, delivery: Delivery, reading: Reading) -> AsyncGenerator[bytes]:
        while reading.outcome is None:
            if self._reply is None:
                self._reply = await self._next_reply(reading)
            try:
                async with aclosing(self._reply.pieces()) as pieces:
                    async for data in pieces:
                        if piece := reading.receive(data, time.monotonic()):
                            delivery.took(piece)
                            yield piece
                            reading.consumed(time.monotonic())
                        delivery.consumed(reading.position)
                        if reading.satisfied:
                            break
                reading.ended(time.monotonic())
                delivery.consumed(reading.position)
            except NetworkError as error:
                reading.lost(error, time.monotonic())
            finally:
                await self._close_reply()

    async def _next_reply(self, reading: Reading) -> AsyncReply:
        """Ask until a read is answered with the stream's bytes. Raises ProxyError or NetworkError when it gives up."""
        while True:
            await sleep(reading.delay)
            try:
                reply = await self._link.wire.send(reading.request(time.monotonic()))
                if reading.head(reply.status, reply.headers, framed=reply.framed):
                    return reply
                async with reply:
                    body = await reply.body() if reply.status >= 400 else b""
                reading.refused(reply.status, reply.headers, body, time.monotonic())
            except NetworkError as error:
                reading.lost(error, time.monotonic())

    async def _close_reply(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            await reply.aclose()
