"""One synchronous surface over both drivers, so that every test of a fetch is a test of two."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from proxy.client import (
    AsyncDurableResponse,
    DurableResponse,
    create_async_durable_fetch,
    create_durable_fetch,
)
from proxy.client.messages import Fields
from proxy.streams.names import Outcome

__all__ = ["AsyncDriver", "Driver", "Response", "SyncDriver"]


class Response:
    """A response of either kind."""

    def __init__(self, inner: DurableResponse | AsyncDurableResponse, runner: asyncio.Runner | None) -> None:
        self.inner = inner
        self._runner = runner

    def _run(self, result: Any) -> Any:
        return result if self._runner is None else self._runner.run(result)

    @property
    def status_code(self) -> int:
        return self.inner.status_code

    @property
    def headers(self) -> Fields:
        return self.inner.headers

    @property
    def stream_url(self) -> str | None:
        return self.inner.stream_url

    @property
    def offset(self) -> str | None:
        return self.inner.offset

    @property
    def was_resumed(self) -> bool:
        return self.inner.was_resumed

    @property
    def outcome(self) -> Outcome | None:
        return self.inner.outcome

    def read(self) -> bytes:
        content = self._run(self.inner.read())
        assert isinstance(content, bytes)
        return content

    def pieces(self) -> Iterator[bytes]:
        if isinstance(self.inner, DurableResponse):
            yield from self.inner.iter_bytes()
            return
        assert self._runner is not None
        pieces = self.inner.iter_bytes()

        async def following() -> bytes | None:
            return await anext(pieces, None)

        while (piece := self._runner.run(following())) is not None:
            yield piece

    def take(self, size: int) -> bytes:
        """Pieces until there are `size` bytes, the last one not yet consumed."""
        got = b""
        for piece in self.pieces():
            got += piece
            if len(got) >= size:
                break
        return got

    def abort(self) -> None:
        self._run(self.inner.abort())

    def close(self) -> None:
        if isinstance(self.inner, DurableResponse):
            self.inner.close()
        else:
            self._run(self.inner.aclose())


class Driver(ABC):
    """A fetch of either kind; the arguments of `create_durable_fetch`."""

    _runner: asyncio.Runner | None = None
    fetch: Any

    def __call__(self, url: str = "http://upstream.test/v1", **request: Any) -> Response:
        return Response(self._run(self.fetch(url, **request)), self._runner)

    def _run(self, result: Any) -> Any:
        return result if self._runner is None else self._runner.run(result)

    def resume(self, request_id: str) -> Response | None:
        inner = self._run(self.fetch.resume(request_id))
        return None if inner is None else Response(inner, self._runner)

    def abort(self, request_id: str) -> bool:
        return bool(self._run(self.fetch.abort(request_id)))

    def forget(self, request_id: str) -> None:
        self.fetch.forget(request_id)

    @abstractmethod
    def close(self) -> None:
        """Close the fetch."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncDriver(Driver):
    """The synchronous fetch."""

    def __init__(self, proxy_url: str, **options: Any) -> None:
        self.fetch = create_durable_fetch(proxy_url, **options)

    def close(self) -> None:
        self.fetch.close()


class AsyncDriver(Driver):
    """The asynchronous fetch in a loop that runs while something is waited for."""

    def __init__(self, proxy_url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._closed = False
        self.fetch = create_async_durable_fetch(proxy_url, **options)

    def close(self) -> None:
        assert self._runner is not None
        if not self._closed:
            self._closed = True
            self._runner.run(self.fetch.aclose())
            self._runner.close()
