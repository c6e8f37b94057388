"""What the durable transports of httpx and httpx2 share: their requests as upstream requests, our errors as theirs.

A response, a stream and an exception must be of the very library whose client asked: `proxy.client.httpx` and
`proxy.client.httpx2` each bind this to one. An error of the proxy becomes a response that no SDK retries, and says
whose error it is; an upstream's becomes the response that it was.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

from proxy.client.access import Authorization, Place
from proxy.client.aio import AsyncDurableFetch, AsyncDurableResponse
from proxy.client.context import REQUEST_ID_HEADER, current_request_id
from proxy.client.create import DEFAULT_PREFIX, OnCloseName
from proxy.client.creating import UpstreamRequest
from proxy.client.errors import DurableError, NetworkError, ProxyError
from proxy.client.fetch import DurableFetch, DurableResponse
from proxy.client.options import OnClose, Retry, Timeouts
from proxy.client.session import Settings
from proxy.client.storage import MemoryStorage, Storage
from proxy.client.upstream import bare_url

__all__ = ["AsyncTransport", "SyncTransport"]

_RETRY_COUNT = "x-stainless-retry-count"  # how the openai and anthropic SDKs tell that they repeat a request


@dataclass(frozen=True, slots=True)
class _Asking:
    """A library's request, understood."""

    upstream: UpstreamRequest
    request_id: str | None
    timeouts: Timeouts
    attempt: int | None


class _Options:
    """What both kinds of transport are made of. The options mean what they do in `create_durable_fetch`."""

    library: ClassVar[ModuleType]

    def __init__(  # noqa: PLR0913  # the options of create_durable_fetch, under their names
        self,
        proxy_url: str,
        *,
        proxy_authorization: Authorization,
        auto_resume: bool = True,
        storage: Storage | None = None,
        storage_prefix: str = DEFAULT_PREFIX,
        on_close: OnCloseName = "auto",
        retry: Retry | None = None,
        transport: object = None,
    ) -> None:
        self._settings = Settings(
            place=Place(proxy_url, proxy_authorization),
            storage=MemoryStorage() if storage is None else storage,
            storage_prefix=storage_prefix,
            auto_resume=auto_resume,
            resume_from="start",  # who reads from the middle does not parse
            on_close=OnClose(on_close),
            retry=retry or Retry(),
            timeouts=Timeouts(),
        )
        self._inner = transport
        self._prepare()

    def _prepare(self) -> None:
        """Make the fetch behind this transport."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} through {self._settings.place.url}>"

    def _asking(self, request: Any, content: bytes) -> _Asking:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        fields = [(name, value) for name, value in pairs if name.lower() != REQUEST_ID_HEADER]
        try:
            upstream = UpstreamRequest(request.method, bare_url(request.url), tuple(fields), content)
        except ValueError as error:
            raise self.library.UnsupportedProtocol(str(error)) from None
        waits = request.extensions.get("timeout", {})
        read = waits.get("read")
        count = request.headers.get(_RETRY_COUNT)
        return _Asking(
            upstream,
            request.headers.get(REQUEST_ID_HEADER) or current_request_id(),
            Timeouts(waits.get("connect"), waits.get("write"), waits.get("pool"), answer=read, data=read),
            None if count is None else int(count != "0"),
        )

    def _response(self, response: DurableResponse | AsyncDurableResponse, stream: Any) -> Any:
        """The library's response. Its extension `durable_response` is ours, for who wants to abort or see an offset."""
        return self.library.Response(
            response.status_code,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.pairs],
            stream=stream(response),
            extensions={"http_version": b"HTTP/1.1", "durable_response": response},
        )

    def _refusal(self, error: ProxyError) -> Any:
        headers = [("Durable-Proxy-Error", error.code), ("X-Should-Retry", "false")]
        if error.retry_after is not None:
            headers.append(("Retry-After", f"{error.retry_after:g}"))
        headers.append(("Content-Type", "application/json"))
        body = json.dumps({"error": {"code": error.code, "message": error.message}})
        return self.library.Response(error.status if error.status >= 400 else 502, headers=headers, content=body)


class SyncTransport(_Options):
    """The synchronous half: `relay` is `handle_request` of whichever library."""

    def _prepare(self) -> None:
        self.durable = DurableFetch(self._settings, self.library, self._inner)

    def relay(self, request: Any) -> Any:
        """The response to a library's request; its exceptions are the library's."""
        asking = self._asking(request, request.read())
        with _raised(self.library):
            try:
                response = self.durable.perform(
                    asking.upstream, asking.request_id, asking.timeouts, attempt=asking.attempt
                )
            except ProxyError as error:
                return self._refusal(error)
        return self._response(response, _stream(self.library))

    def close(self) -> None:
        """Close the connections."""
        self.durable.close()


class AsyncTransport(_Options):
    """The asynchronous half: `relay` is `handle_async_request`."""

    def _prepare(self) -> None:
        self.durable = AsyncDurableFetch(self._settings, self.library, self._inner)

    async def relay(self, request: Any) -> Any:
        """The response to a library's request; its exceptions are the library's."""
        asking = self._asking(request, await request.aread())
        with _raised(self.library):
            try:
                response = await self.durable.perform(
                    asking.upstream, asking.request_id, asking.timeouts, attempt=asking.attempt
                )
            except ProxyError as error:
                return self._refusal(error)
        return self._response(response, _async_stream(self.library))

    async def aclose(self) -> None:
        """Close the connections."""
        await self.durable.aclose()


@contextmanager
def _raised(library: ModuleType) -> Iterator[None]:
    """Our errors as the library's; ours is the cause, and tells outcome and code."""
    try:
        yield
    except NetworkError as error:
        raise getattr(library, error.fault.value)(str(error)) from error
    except DurableError as error:
        raise library.RemoteProtocolError(str(error)) from error


@cache
def _stream(library: ModuleType) -> type:
    base: Any = library.SyncByteStream

    class DurableByteStream(base):  # type: ignore[misc]  # the base is known when the library is
        def __init__(self, response: DurableResponse) -> None:
            self._response = response

        def __iter__(self) -> Iterator[bytes]:
            with _raised(library):
                yield from self._response.iter_raw()

        def close(self) -> None:
            self._response.close()

    return DurableByteStream


@cache
def _async_stream(library: ModuleType) -> type:
    base: Any = library.AsyncByteStream

    class AsyncDurableByteStream(base):  # type: ignore[misc]  # the base is known when the library is
        def __init__(self, response: AsyncDurableResponse) -> None:
            self._response = response

        async def __aiter__(self) -> AsyncIterator[bytes]:
            with _raised(library):
                async for piece in self._response.iter_raw():
                    yield piece

        async def aclose(self) -> None:
            await self._response.aclose()

    return AsyncDurableByteStream
