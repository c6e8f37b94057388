"""The asynchronous driver, twin of `proxy.client.fetch`: the same steps, awaited. For asyncio.

A cancelled call closes its connection, and leaves nothing running but the abort that a close owes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from types import ModuleType, TracebackType
from typing import Self
from weakref import WeakSet

from proxy.client.aborting import Aborting
from proxy.client.creating import Answered, Asked, UpstreamRequest
from proxy.client.errors import DurableError, NetworkError, ProxyError
from proxy.client.fetch import create_abort, in_thread
from proxy.client.messages import Plan
from proxy.client.options import Retry, Timeouts
from proxy.client.reading import Reading
from proxy.client.responses import ResponseHead
from proxy.client.session import Call, Delivery, Session, Settings
from proxy.client.upstream import Content, HeaderInput, Json, upstream_request
from proxy.client.wire import AsyncReply, AsyncWire, installed_library, library_of, translated

__all__ = ["AsyncDurableFetch", "AsyncDurableResponse", "create_async_abort"]

logger = logging.getLogger(__name__)


class AsyncPieces:
    """`Pieces` for asyncio. A call that was cancelled has lost nothing when the source can begin again where it was."""

    def __init__(self, make: Callable[[], AsyncGenerator[bytes]], *, again: bool) -> None:
        self._make = make
        self._again = again
        self._source = make()
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._error = error
            raise
        except BaseException:
            if self._again:
                self._source = self._make()
            else:
                self._error = RuntimeError("reading was cancelled")
            raise

    async def stop(self) -> None:
        """No more from here; the source is closed."""
        self._error = self._error or RuntimeError("the response is closed")
        with suppress(RuntimeError):  # another task is in it, and will see its connection close
            await self._source.aclose()


class AsyncDurableResponse(ResponseHead):
    """An upstream's answer, to be read once. Close it, or use it as a context manager, or read it to its end."""

    def __init__(self, fetch: "AsyncDurableFetch", source: Delivery | Answered) -> None:
        super().__init__(source)
        self._fetch = fetch
        self._reply: AsyncReply | None = None
        self._raw = AsyncPieces(self._read, again=True)
        self._decoded = AsyncPieces(self._decode, again=False) if self._encoded else self._raw
        self._whole: bytes | None = None

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """The body as it comes, any `Content-Encoding` undone. Another call goes on where this one was left.

        A piece counts as consumed when the next one is asked for; a wait that is cancelled loses nothing. Raises
        IncompleteStream after the last byte of a stream that is not whole, NetworkError when the proxy stays out of
        reach, ProxyError when it refuses to go on.
        """
        return self._decoded

    def iter_raw(self) -> AsyncIterator[bytes]:
        """The same bytes as the upstream sent them, encoded or not. Use this or `iter_bytes`."""
        return self._raw

    async def read(self) -> bytes:
        """The whole body; the same again when called again. Raises as `iter_bytes`."""
        if self._whole is None:
            self._whole = b"".join([piece async for piece in self.iter_bytes()])
        return self._whole

    async def abort(self) -> None:
        """Stop the upstream call; what it sent until now can still be read, and ends with IncompleteStream.

        Harmless when repeated, or when the stream has ended. Raises ProxyError or NetworkError.
        """
        if self.stream_url is not None:
            await self._fetch.send_abort(self.stream_url)

    async def aclose(self) -> None:
        """Read no more. Whether that aborts the upstream call is told by `on_close`."""
        try:
            await self._decoded.stop()
            await self._raw.stop()
            await self._close_reply()
        finally:
            if self._aborts_on_close() and self.stream_url is not None:
                await self._fetch.abort_quietly(self.stream_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> bool:
        """Have the first read answered, for whoever resumes; False when the stream is there no more."""
        if self._delivery is None or self._reading is None:
            return False
        try:
            self._reply = await self._next_reply(self._reading)
        except DurableError as error:
            self._delivery.failed(error)
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
        library = self._fetch.wire.library
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
        """Ask until a read is answered with the stream's bytes. Raises ProxyError or NetworkError when that is vain."""
        while True:
            await asyncio.sleep(reading.delay)
            try:
                reply = await self._fetch.wire.send(reading.request(time.monotonic()))
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


class AsyncDurableFetch:
    """Requests to upstreams through one proxy; await a call of it. Made by `create_async_durable_fetch`."""

    def __init__(self, settings: Settings, library: ModuleType | None = None, transport: object = None) -> None:
        self._session = Session(settings)
        self._library = library if transport is None else library_of(transport)
        self._transport = transport
        self._wire: AsyncWire | None = None
        self._responses: WeakSet[AsyncDurableResponse] = WeakSet()

    def __repr__(self) -> str:
        return f"<AsyncDurableFetch through {self._session.settings.place.url}>"

    async def __call__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: HeaderInput = None,
        content: Content = None,
        json: Json = None,
        request_id: str | None = None,
    ) -> AsyncDurableResponse:
        """Send this request to `url` through the proxy and answer with what the upstream answers.

        All as in `DurableFetch`. A call that is cancelled before the answer cancels the upstream call too, because
        the proxy sees its caller go.
        """
        upstream = upstream_request(self.wire.library, url, method, headers, content, json)
        return await self.perform(upstream, request_id, self._session.settings.timeouts)

    async def perform(
        self, upstream: UpstreamRequest, request_id: str | None, timeouts: Timeouts, *, attempt: int | None = None
    ) -> AsyncDurableResponse:
        """The same for a request that is ready. `attempt`: as in `Session.call`."""
        call = self._session.call(upstream, request_id, timeouts=timeouts, attempt=attempt)
        if (delivery := call.resumption()) is not None:
            response = AsyncDurableResponse(self, delivery)
            if await response.open():
                return self._held(response)
        asked = await self._ask(call)
        return self._held(AsyncDurableResponse(self, asked if isinstance(asked, Answered) else call.created(asked)))

    async def resume(self, request_id: str) -> AsyncDurableResponse | None:
        """The answer that is remembered under the id; None when none is, or its stream is gone. Asks no upstream."""
        delivery = self._session.kept(request_id)
        if delivery is None:
            return None
        response = AsyncDurableResponse(self, delivery)
        return self._held(response) if await response.open() else None

    async def abort(self, request_id: str) -> bool:
        """Stop the upstream call of the id and forget it; False when nothing is remembered under it."""
        delivery = self._session.kept(request_id)
        if delivery is None:
            return False
        await self.send_abort(delivery.created.stream_url)
        delivery.finished()
        return True

    def remembers(self, request_id: str) -> bool:
        """Whether a stream is remembered under the id; that it is still there is not asked."""
        return self._session.kept(request_id) is not None

    def forget(self, request_id: str) -> None:
        """Remember nothing under the id; the upstream call goes on."""
        self._session.ledger.forget(request_id)

    async def aclose(self) -> None:
        """Close what is unfinished, as its own close does, then the connections."""
        try:
            await asyncio.gather(*(response.aclose() for response in list(self._responses) if response.unfinished))
        finally:
            if self._wire is not None:
                await self._wire.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def wire(self) -> AsyncWire:
        """The connections, made when first needed."""
        if self._wire is None:
            self._wire = AsyncWire(self._library or installed_library(), self._transport)
        return self._wire

    async def send_abort(self, stream_url: str) -> None:
        """Abort the stream of this signed URL. Raises ProxyError or NetworkError."""
        await self.wire.settle(Aborting(stream_url, self._session.settings.retry))

    async def abort_quietly(self, stream_url: str) -> None:
        """The same, whatever comes of it. A cancellation that hits it is obeyed, and a thread sends the abort."""
        try:
            await self.send_abort(stream_url)
        except DurableError as error:
            logger.info("a response that was closed could not be aborted: %s", error)
        except asyncio.CancelledError:
            if self._transport is None:
                in_thread(create_abort(stream_url))
            raise

    def _held(self, response: AsyncDurableResponse) -> AsyncDurableResponse:
        """The same, to be closed with this fetch unless it is forgotten before."""
        self._responses.add(response)
        return response

    async def _ask(self, call: Call) -> Asked:
        try:
            plan: Plan[Asked] = call.creating()
            asked = await self.wire.settle(plan)
        except DurableError as error:
            call.failed(error)
            raise
        if isinstance(asked, Answered):
            call.failed(None)
        return asked


def create_async_abort(stream_url: str) -> Callable[[], Awaitable[None]]:
    """`create_abort` for asyncio."""
    plan = Aborting(stream_url, Retry())

    async def abort() -> None:
        wire = AsyncWire(installed_library())
        try:
            await wire.settle(plan)
        finally:
            await wire.aclose()

    return abort
