"""Durable streams over any Handler: create, append, read, head, delete. Owns paths and request headers.

A request that storage may safely see twice is repeated at once when its connection was lost. Everything else is retried
only where a caller brings a `RetryPolicy`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.http.body import EMPTY, BodyError, BytesBody, TooLarge, read_all
from proxy.http.message import ExchangeError, Handler, Request, Response
from proxy.streams.answers import (
    GONE,
    AppendResult,
    Metadata,
    ReadRefused,
    ReadResult,
    StorageError,
    append_result,
    unexpected,
)
from proxy.streams.names import STREAM_NEXT_OFFSET, STREAM_TTL
from proxy.streams.retry import RetryPolicy, retried
from proxy.wire.events import Buffer
from proxy.wire.headers import Field, Headers

__all__ = ["JSON", "OCTETS", "Endpoint", "ReadQuery", "Storage"]

JSON: Final = b"application/json"
OCTETS: Final = b"application/octet-stream"
_START = b"-1"
_NO_SPACE = 507  # Insufficient Storage (RFC 4918 section 11.5)
_NO_SUCH_PATH = (404, 405)  # never the answer of a durable-streams server to a create


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where storage is, and how it is asked."""

    handler: Handler  # answers requests to storage: a pool's, or the embedded store's own
    root: bytes  # with its final slash: the path that stream names are appended to
    headers: Headers  # fields for every request
    timeout: float  # seconds for the head of a response, and for a small body
    quick_retries: int  # retries without a pause of a repeatable request whose connection was lost
    place: str  # URL of the streams for messages, with its final slash and without credentials


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """The parameters of a read; None: absent. Values are well-formed query values, as the caller has checked.

    offset: a token of storage's, or `-1`, or `now`.
    live: `long-poll` or `sse`; None: a catch-up read.
    cursor: what storage gave the last live read to send back.
    """

    offset: bytes | None = None
    live: bytes | None = None
    cursor: bytes | None = None

    def encode(self) -> bytes:
        """The query part of the target, without its question mark; empty without parameters."""
        pairs = ((b"offset", self.offset), (b"live", self.live), (b"cursor", self.cursor))
        return b"&".join(name + b"=" + value for name, value in pairs if value is not None)


class Storage:
    """A durable-streams backend. Stream names are ASCII paths below the root, chosen by the caller."""

    def __init__(self, endpoint: Endpoint, saw_date: Callable[[bytes], None] = lambda _: None) -> None:
        """`saw_date` is called with the `Date` of answers, though not of all of them."""
        self._endpoint = endpoint
        self._saw_date = saw_date
        self.is_full = False
        """Storage had no space for the last stream that was to be created."""

    def target(self, name: str) -> bytes:
        """The request target of the stream called `name`."""
        return self._endpoint.root + name.encode("ascii")

    def headers(self, *fields: Field) -> Headers:
        """The fields of a request, those for every request first."""
        return self._endpoint.headers.plus(*fields)

    async def create(
        self, name: str, content_type: bytes, ttl: int, data: bytes = b"", *, retry: RetryPolicy | None = None
    ) -> bool:
        """Create a stream that holds `data` and expires `ttl` seconds after its last read or write (HEAD is neither).

        False when there was one of that name already: also when an earlier attempt made it whose answer was lost. So
        a caller who alone knows the name has made it in either case. With `retry`, failures that may pass are tried
        again. Raises StorageError. A cancelled call may or may not have created it.
        """
        headers = self.headers((b"content-type", content_type), (STREAM_TTL, b"%d" % ttl))
        try:
            return await self._create(name, headers, data)
        except StorageError as error:
            if retry is None:
                raise
            return await retried(lambda: self._create(name, headers, data), error, retry)

    async def _create(self, name: str, headers: Headers, data: bytes) -> bool:
        response = await self._repeatable(b"PUT", self.target(name), headers, data)
        _discard(response)
        self.is_full = response.status == _NO_SPACE
        if response.status == 201:
            return True
        if response.status in (200, 409):
            return False
        if response.status in _NO_SUCH_PATH:
            raise StorageError(
                f"storage answered {response.status} to PUT {self._endpoint.place}{name}:"
                " if its streams are under another path, that path belongs into --durable-streams-url",
                is_final=True,
            )
        raise unexpected(response)

    async def append(self, target: bytes, headers: Headers, parts: tuple[Buffer, ...]) -> AppendResult:
        """Send one append; as `append_at`, for callers that do not ask where the stream ends."""
        return (await self.append_at(target, headers, parts))[0]

    async def append_at(
        self, target: bytes, headers: Headers, parts: tuple[Buffer, ...]
    ) -> tuple[AppendResult, bytes | None]:
        """Send one append, its buffers by reference; a producer makes `target` and `headers` once for all.

        Returns what storage did, and the offset of the stream's end if storage named it. Raises StorageError: the
        append may or may not have been stored.
        """
        endpoint = self._endpoint
        request = Request(b"POST", target, headers, BytesBody(parts), endpoint.timeout)
        try:
            response = await endpoint.handler(request)
        except ExchangeError as error:
            raise StorageError(str(error)) from None
        _discard(response)
        return append_result(response, headers), response.headers.get(STREAM_NEXT_OFFSET)

    async def head(self, name: str) -> Metadata | None:
        """The metadata of a stream, None when there is none. Raises StorageError."""
        response = await self._repeatable(b"HEAD", self.target(name), self._endpoint.headers)
        _discard(response)
        if response.status == 200:
            return Metadata.of(response)
        if response.status in GONE:
            return None
        raise unexpected(response)

    async def read_whole(self, name: str, max_bytes: int, *, timeout: float | None = None) -> bytes | None:
        """A small stream's content in one piece, None when there is no such stream.

        `timeout`: seconds for each request, None: as for every request. Raises StorageError, a final one when the
        content is larger than `max_bytes`.
        """
        collected = b""
        offset = _START
        while True:
            query = ReadQuery(offset)
            target = self.target(name) + b"?" + query.encode()
            response = await self._repeatable(b"GET", target, self._endpoint.headers, timeout=timeout)
            if response.status in GONE:
                _discard(response)
                return None
            if response.status != 200:
                _discard(response)
                raise unexpected(response)
            if (date := response.headers.get(b"date")) is not None:
                self._saw_date(date)
            collected += await _small_body(response, self._endpoint.timeout, max_bytes - len(collected))
            metadata = Metadata.of(response)
            if metadata.is_up_to_date or metadata.next_offset in (None, offset):
                return collected
            offset = metadata.next_offset or offset

    async def read(self, name: str, query: ReadQuery, *conditions: Field, timeout: float) -> ReadResult | ReadRefused:
        """A read whose body is streamed; `conditions` are the reader's Accept and If-None-Match.

        `timeout`: seconds until the head of the answer; that of a long-poll comes when there is something to read.
        Raises StorageError.
        """
        parameters = query.encode()
        target = self.target(name) + (b"?" + parameters if parameters else b"")
        response = await self._repeatable(b"GET", target, self.headers(*conditions), timeout=timeout)
        if response.status in (200, 204, 304):
            return ReadResult(response.status, Metadata.of(response), response.body)
        _discard(response)
        if response.status in GONE:
            return ReadRefused.GONE
        if response.status == 400:
            return ReadRefused.INVALID
        raise unexpected(response)

    async def poll(
        self, name: str, offset: bytes | None, *, timeout: float, max_bytes: int
    ) -> tuple[bytes, bytes] | None:
        """Wait for what follows `offset` (None: the start) in a small stream: its bytes, and the offset after them.

        None when there is no such stream; no bytes when none came before storage answered. `timeout`: seconds for the
        answer's head, and again for its body. Raises StorageError.
        """
        at = offset or _START
        found = await self.read(name, ReadQuery(at, b"long-poll"), timeout=timeout)
        if found is ReadRefused.GONE:
            return None
        if isinstance(found, ReadRefused):
            raise StorageError(f"a long-poll was refused: {found.value}", is_final=True)
        content = await _small_body(found, timeout, max_bytes)
        return content, found.metadata.next_offset or at

    async def delete(self, name: str) -> bool:
        """Delete a stream; False when there was none. Raises StorageError."""
        response = await self._repeatable(b"DELETE", self.target(name), self._endpoint.headers)
        _discard(response)
        if response.status in (200, 202, 204):
            return True
        if response.status in GONE:
            return False
        raise unexpected(response)

    async def touch(self, name: str) -> None:
        """Restart the time after which a stream expires; no error when there is none. Raises StorageError."""
        query = ReadQuery(b"now").encode()
        response = await self._repeatable(b"GET", self.target(name) + b"?" + query, self._endpoint.headers)
        _discard(response)
        if response.status != 200 and response.status not in GONE:
            raise unexpected(response)

    async def _repeatable(
        self, method: bytes, target: bytes, headers: Headers, data: bytes = b"", *, timeout: float | None = None
    ) -> Response:
        """The response to a PUT, HEAD, GET or DELETE, which is sent again at once when its connection was lost."""
        endpoint = self._endpoint
        for attempt in range(endpoint.quick_retries + 1):
            body = BytesBody((data,)) if data else EMPTY
            try:
                return await endpoint.handler(Request(method, target, headers, body, timeout or endpoint.timeout))
            except ExchangeError as error:
                if not error.is_loss or attempt == endpoint.quick_retries:
                    raise StorageError(str(error)) from None
        raise AssertionError("unreachable")


async def _small_body(answer: Response | ReadResult, timeout: float, max_bytes: int) -> bytes:
    """The whole body within `timeout` seconds. Raises StorageError, a final one past `max_bytes`."""
    try:
        async with asyncio.timeout(timeout):
            return await read_all(answer.body, max_bytes)
    except TooLarge:
        raise StorageError("a stream is larger than it should be", is_final=True) from None
    except (BodyError, TimeoutError):
        answer.body.close()
        raise StorageError("a read was cut") from None


def _discard(response: Response) -> None:
    """Drop a response whose body nobody wants. One that has arrived whole costs its connection nothing."""
    if not response.body.ended:
        response.body.close()
