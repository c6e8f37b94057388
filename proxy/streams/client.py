"""Durable streams over any Handler: create, append, read, head, delete. Owns paths, headers and what statuses mean.

Expected answers are values (`Reply`); `StorageError` is everything else. Nothing here retries but requests that
storage may safely see twice.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum

from proxy.http.body import EMPTY, BodyError, BytesBody, TooLarge, read_all
from proxy.http.message import ExchangeError, Handler, Request, Response
from proxy.wire.events import Buffer
from proxy.wire.headers import Field, Headers

__all__ = ["Endpoint", "Reply", "Storage", "StorageError", "discard"]

_QUICK_RETRIES = 2  # a pooled connection may die under an idempotent request, a second one rarely does


class Reply(Enum):
    """What storage did with a create or an append (Durable Streams protocol, sections on PUT and POST)."""

    ACCEPTED = "stored"
    DUPLICATE = "stored before by the same request, whose answer was lost"
    EXISTS = "the stream exists already"
    CLOSED = "the stream is closed"
    FENCED = "a producer of a later epoch has taken over"
    GAP = "an earlier sequence number is missing"
    GONE = "there is no such stream"


class StorageError(Exception):
    """Storage could not be reached or answered what the protocol does not foresee. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None, is_final: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_final = is_final  # trying again cannot help


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where storage is: a Handler, the path that stream names are appended to, fields for every request."""

    handler: Handler
    root: bytes
    headers: Headers
    timeout: float


def discard(response: Response) -> None:
    """Drop a response whose body nobody wants. One that has arrived whole costs its connection nothing."""
    if not response.body.ended:
        response.body.close()


class Storage:
    """A durable-streams backend. Stream names are ASCII path segments, chosen by the caller."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def target(self, name: str) -> bytes:
        """The request target of the stream called `name`."""
        return self._endpoint.root + name.encode("ascii")

    def headers(self, *fields: Field) -> Headers:
        """The fields of a request, those for every request first."""
        return self._endpoint.headers.plus(*fields)

    async def create(
        self, name: str, content_type: bytes, lifetime: Field, data: bytes = b"", *, closed: bool = False
    ) -> Reply:
        """Create a stream; `lifetime` is its Stream-TTL or Stream-Expires-At field.

        ACCEPTED; EXISTS when there was one already; DUPLICATE when there is one after an attempt whose answer was
        lost: probably that attempt's. Raises StorageError.
        """
        headers = self.headers((b"content-type", content_type), lifetime)
        if closed:
            headers = headers.plus((b"stream-closed", b"true"))
        response, is_repeated = await self._repeatable(b"PUT", self.target(name), headers, data)
        discard(response)
        if response.status == 201:
            return Reply.ACCEPTED
        if response.status in (200, 409):
            return Reply.DUPLICATE if is_repeated else Reply.EXISTS
        raise unexpected(response)

    async def append(self, target: bytes, headers: Headers, parts: tuple[Buffer, ...]) -> Reply:
        """Send one append attempt, its buffers by reference. StorageError: its fate is unknown, or it was refused."""
        endpoint = self._endpoint
        request = Request(b"POST", target, headers, BytesBody(parts), endpoint.timeout)
        try:
            response = await endpoint.handler(request)
        except ExchangeError as error:
            raise StorageError(str(error)) from None
        status = response.status
        discard(response)
        if status == 200:
            return Reply.ACCEPTED
        if status == 204:
            return Reply.DUPLICATE if b"producer-seq" in headers else Reply.ACCEPTED
        return _refused(response)

    async def head(self, name: str) -> Response | None:
        """The metadata of a stream, None when there is none. Raises StorageError."""
        response = await self._call(b"HEAD", self.target(name), self._endpoint.headers)
        discard(response)
        if response.status == 200:
            return response
        if response.status in (404, 410):
            return None
        raise unexpected(response)

    async def read_whole(self, name: str, max_bytes: int) -> bytes | None:
        """A small stream's content in one piece, None when there is none. Raises StorageError."""
        collected = b""
        offset = b"-1"
        while True:
            response = await self._call(b"GET", self.target(name) + b"?offset=" + offset, self._endpoint.headers)
            if response.status in (404, 410):
                discard(response)
                return None
            if response.status != 200:
                discard(response)
                raise unexpected(response)
            try:
                async with asyncio.timeout(self._endpoint.timeout):
                    collected += await read_all(response.body, max_bytes - len(collected))
            except TooLarge:
                raise StorageError("a stream is larger than it should be", is_final=True) from None
            except (BodyError, TimeoutError):
                response.body.close()
                raise StorageError("a read broke off") from None
            following = response.headers.get(b"stream-next-offset")
            if following is None or following == offset or b"stream-up-to-date" in response.headers:
                return collected
            offset = following

    async def read(self, name: str, query: bytes, headers: Headers, *, timeout: float) -> Response:
        """The response to a read, whatever its status; its body is streamed. Raises StorageError.

        `timeout` is for the response's head: that of a long-poll comes when there is something to read.
        """
        target = self.target(name) + (b"?" + query if query else b"")
        return (await self._repeatable(b"GET", target, headers, timeout=timeout))[0]

    async def delete(self, name: str) -> bool:
        """Delete a stream; False when there was none. Raises StorageError."""
        response = await self._call(b"DELETE", self.target(name), self._endpoint.headers)
        discard(response)
        if response.status in (200, 202, 204):
            return True
        if response.status in (404, 410):
            return False
        raise unexpected(response)

    async def _call(self, method: bytes, target: bytes, headers: Headers) -> Response:
        return (await self._repeatable(method, target, headers))[0]

    async def _repeatable(
        self, method: bytes, target: bytes, headers: Headers, data: bytes = b"", *, timeout: float | None = None
    ) -> tuple[Response, bool]:
        """An exchange that is repeated at once when its connection was lost (PUT, HEAD, GET, DELETE), and whether."""
        endpoint = self._endpoint
        for attempt in range(_QUICK_RETRIES + 1):
            body = BytesBody((data,)) if data else EMPTY
            try:
                return await endpoint.handler(
                    Request(method, target, headers, body, timeout or endpoint.timeout)
                ), attempt > 0
            except ExchangeError as error:
                if not error.is_loss or attempt == _QUICK_RETRIES:
                    raise StorageError(str(error)) from None
        raise AssertionError("unreachable")


def _refused(response: Response) -> Reply:
    """What a status that stores nothing says about the append."""
    headers = response.headers
    if response.status in (404, 410):
        return Reply.GONE
    if response.status == 403 and b"producer-epoch" in headers:
        return Reply.FENCED
    if response.status == 409:
        if headers.get(b"stream-closed") == b"true":
            return Reply.CLOSED
        if b"producer-expected-seq" in headers:
            return Reply.GAP
    raise unexpected(response)


def unexpected(response: Response) -> StorageError:
    """The error for a status that the operation does not foresee; 5xx, 408, 425 and 429 are worth another try."""
    status = response.status
    after = response.headers.get(b"retry-after")
    seconds = float(after) if after is not None and after.isdigit() and len(after) < 6 else None
    retryable = status >= 500 or status in (408, 425, 429)
    return StorageError(f"storage answered {status}", retry_after=seconds, is_final=not retryable)
