"""The connections of one durable fetch, and the aborts that go over them."""

import threading
from types import ModuleType

from proxy.client._async.wire import AsyncWire
from proxy.client.aborting import Aborting
from proxy.client.flavours import AsyncAborts
from proxy.client.library import installed_library, library_of
from proxy.client.options import Retry

__all__ = ["AsyncLink"]


class AsyncLink:
    """A wire that is made when it is first needed, so that importing and configuring a client loads no HTTP library."""

    def __init__(self, retry: Retry, library: ModuleType | None, transport: object) -> None:
        self._retry = retry
        self._library = library if transport is None else library_of(transport)
        self._transport = transport
        self._wire: AsyncWire | None = None
        self._lock = threading.Lock()  # one wire for all threads; never held during a wait
        self._aborts = AsyncAborts()

    @property
    def wire(self) -> AsyncWire:
        """The connections."""
        with self._lock:
            if self._wire is None:
                self._wire = AsyncWire(self._library or installed_library(), self._transport)
            return self._wire

    async def abort(self, stream_url: str) -> None:
        """Abort the stream of this signed URL. Raises ProxyError or NetworkError."""
        await self.wire.settle(Aborting(stream_url, self._retry))

    async def abort_quietly(self, stream_url: str) -> None:
        """Abort the stream of this signed URL, as a close does: a failure is logged and not raised."""

        async def abort() -> None:
            await self.abort(stream_url)

        await self._aborts.send(abort, stream_url, own_connections=self._transport is None)

    async def aclose(self) -> None:
        """Wait for aborts under way, then close the connections."""
        try:
            await self._aborts.settle()
        finally:
            if self._wire is not None:
                await self._wire.aclose()
