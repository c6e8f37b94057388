"""Durable transports for httpx2: `httpx2.Client(transport=DurableTransport(…))` sends everything through the proxy."""

from types import ModuleType
from typing import ClassVar

import httpx2

from proxy.client._async.transport import AsyncTransport
from proxy.client._sync.transport import Transport

__all__ = ["AsyncDurableTransport", "DurableTransport"]


class DurableTransport(Transport, httpx2.BaseTransport):
    """Sends the requests of an `httpx2.Client` through the proxy. Takes the options of `create_durable_fetch`.

    `durable_request`, or a header `Durable-Request-Id`, names a request, so that its answer can be resumed.
    `durable` is the fetch behind it: `transport.durable.abort(request_id)`.
    """

    library: ClassVar[ModuleType] = httpx2

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The upstream's response, read from a durable stream. Raises httpx2's exceptions."""
        response: httpx2.Response = self.relay(request)
        return response


class AsyncDurableTransport(AsyncTransport, httpx2.AsyncBaseTransport):
    """Sends the requests of an `httpx2.AsyncClient` through the proxy, as `DurableTransport` does for a `Client`."""

    library: ClassVar[ModuleType] = httpx2

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The upstream's response, read from a durable stream. Raises httpx2's exceptions."""
        response: httpx2.Response = await self.relay(request)
        return response
