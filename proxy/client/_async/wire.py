"""Requests to the proxy and their replies, over one of the HTTP library's transports."""

from asyncio import sleep
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from types import ModuleType
from typing import Any, TypeVar

from proxy.client._async.managed import AsyncManaged
from proxy.client.errors import NetworkError
from proxy.client.library import BoundedBody, ReplyHead, library_request, redact_logs, translated, transport_options
from proxy.client.messages import Plan, Send

__all__ = ["AsyncReply", "AsyncWire"]

T = TypeVar("T")


class AsyncReply(AsyncManaged, ReplyHead):
    """A response whose body is still to be read. Close it in every case, or use it as a context manager."""

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it arrives. Raises NetworkError when the connection is cut."""
        with translated(self._library):
            async for piece in self._response.aiter_bytes():
                yield piece

    async def body(self) -> bytes:
        """A small body, bounded in bytes and seconds. Raises NetworkError when the connection is cut before its end."""
        collected = BoundedBody()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                if not collected.add(piece):
                    break
        return collected.content()

    async def aclose(self) -> None:
        """Return the connection to its pool, or cut it when the body was not read to its end."""
        with suppress(self._library.HTTPError):
            await self._response.aclose()


class AsyncWire:
    """Sends to the proxy, over a transport of its own or over one that the caller gave."""

    def __init__(self, library: ModuleType, transport: object = None) -> None:
        self.library = library
        self._owned = transport is None
        self._transport: Any = transport or library.AsyncHTTPTransport(**transport_options(library))
        redact_logs(library)

    async def send(self, send: Send) -> AsyncReply:
        """Send a request; the reply's head. Raises NetworkError when none came."""
        with translated(self.library):
            response = await self._transport.handle_async_request(library_request(self.library, send))
            return AsyncReply(self.library, response)

    async def settle(self, plan: Plan[T]) -> T:
        """Send a plan's request until its answer is understood. Raises what the plan raises."""
        while True:
            await sleep(plan.delay)
            try:
                async with await self.send(plan.request()) as reply:
                    body = await reply.body()
            except NetworkError as error:
                plan.failed(error)
                continue
            if (result := plan.replied(reply.status, reply.headers, body)) is not None:
                return result

    async def aclose(self) -> None:
        """Close every connection. A transport that the caller gave stays open: the caller closes it."""
        if self._owned:
            await self._transport.aclose()
