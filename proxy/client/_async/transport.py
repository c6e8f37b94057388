"""A durable transport of httpx or httpx2: one request of the library in, one response of the library out."""

from collections.abc import AsyncIterator
from functools import cache
from types import ModuleType
from typing import Any

from proxy.client._async.fetch import AsyncDurableFetch
from proxy.client._async.response import AsyncDurableResponse
from proxy.client.errors import ProxyError
from proxy.client.transport import TransportOptions, raised_as

__all__ = ["AsyncTransport"]


class AsyncTransport(TransportOptions):
    """What a durable transport does, for whichever library; `relay` is its handler of requests."""

    def _prepare(self) -> None:
        self.durable = AsyncDurableFetch(self._settings, self.library, self._inner)

    async def relay(self, request: Any) -> Any:
        """The response to a request of the library. Raises exceptions of the library."""
        asking = self._asking(request, await request.aread())
        with raised_as(self.library):
            try:
                response = await self.durable.perform(
                    asking.upstream, asking.request_id, asking.timeouts, attempt=asking.attempt
                )
            except ProxyError as error:
                return self._refusal(error)
        return self._response(response, _stream_class(self.library)(response))

    async def aclose(self) -> None:
        """Close every unfinished response, then the connections."""
        await self.durable.aclose()


@cache
def _stream_class(library: ModuleType) -> type:
    base: Any = library.AsyncByteStream

    class AsyncDurableByteStream(base):  # type: ignore[misc]  # the base is known when the library is
        def __init__(self, response: AsyncDurableResponse) -> None:
            self._response = response

        async def __aiter__(self) -> AsyncIterator[bytes]:
            with raised_as(library):
                async for piece in self._response.iter_raw():
                    yield piece

        async def aclose(self) -> None:
            await self._response.aclose()

    return AsyncDurableByteStream
