"""A function that stops an upstream call from elsewhere, given nothing but the stream's signed URL."""

from collections.abc import Awaitable, Callable

from proxy.client._async.wire import AsyncWire
from proxy.client.aborting import Aborting
from proxy.client.library import installed_library
from proxy.client.options import Retry

__all__ = ["create_async_abort"]


def create_async_abort(stream_url: str) -> Callable[[], Awaitable[None]]:
    """A function that stops the upstream call behind `response.stream_url`. A stream that is gone is no error.

    Raises ValueError for a URL that is not absolute; the function raises ProxyError or NetworkError.
    """
    plan = Aborting(stream_url, Retry())

    async def abort() -> None:
        wire = AsyncWire(installed_library())
        try:
            await wire.settle(plan)
        finally:
            await wire.aclose()

    return abort
