"""Durable transports for httpx: with `httpx.Client(transport=DurableTransport(…))` all goes through the proxy."""

from types import ModuleType
from typing import ClassVar

import httpx

from proxy.client.transport import AsyncTransport, SyncTransport

__all__ = ["AsyncDurableTransport", "DurableTransport"]


class DurableTransport(SyncTransport, httpx.BaseTransport):
    """Sends what an `httpx.Client` asks through the proxy. Takes the options of `create_durable_fetch`.

    `durable_request`, or a header `Durable-Request-Id`, names a request so that its answer can be resumed.
    `durable` is the fetch behind it: `transport.durable.abort(request_id)`.
    """

    library: ClassVar[ModuleType] = httpx

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The upstream's response, by way of a durable stream. Raises httpx's exceptions."""
        response: httpx.Response = self.relay(request)
        return response


class AsyncDurableTransport(AsyncTransport, httpx.AsyncBaseTransport):
    """The same for an `httpx.AsyncClient`."""

    library: ClassVar[ModuleType] = httpx

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The upstream's response, by way of a durable stream. Raises httpx's exceptions."""
        response: httpx.Response = await self.relay(request)
        return response
