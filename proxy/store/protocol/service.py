"""The protocol as a Handler: methods, status codes and headers of the Durable Streams base protocol.

The path of a request is the stream's name, unchanged. It is data, never a file name. Holds no state of streams.
"""

import asyncio
import logging

from proxy.http.body import EMPTY, BytesBody
from proxy.http.message import Request, Response
from proxy.store.model import Append, Result, Stream, Verdict, View
from proxy.store.port import Engine, Reader, Unreadable
from proxy.store.protocol.cursors import next_cursor
from proxy.store.protocol.intake import Intake, Overloaded, TooLong
from proxy.store.protocol.json_mode import InvalidJson, TooManyValues, as_array
from proxy.store.protocol.live import LiveBody, LiveLimits, SharedSteps
from proxy.store.protocol.offsets import format_offset
from proxy.store.protocol.requests import BadRequest, Fields, LiveMode, Query, parse_append, parse_query, parse_spec
from proxy.store.protocol.snapshot import SnapshotBody
from proxy.store.protocol.sse import Encoding, encoding_of
from proxy.store.settings import StoreSettings
from proxy.wire.headers import Field, Headers

__all__ = ["BASE_FIELDS", "StreamService"]

logger = logging.getLogger(__name__)

_KEEP_SECONDS = 60  # for this long a cache may still serve a stream that was deleted
_METHODS = b"GET, POST, PUT, DELETE, HEAD, OPTIONS"

BASE_FIELDS = Headers(
    [
        (b"access-control-allow-origin", b"*"),
        (
            b"access-control-expose-headers",
            b"Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-TTL, Stream-Expires-At,"
            b" Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq,"
            b" ETag, Content-Type, Location, Retry-After",
        ),
        (b"x-content-type-options", b"nosniff"),
        (b"cross-origin-resource-policy", b"cross-origin"),
    ]
)
_PREFLIGHT = BASE_FIELDS.plus(
    (b"access-control-allow-methods", _METHODS),
    (
        b"access-control-allow-headers",
        b"Content-Type, Authorization, If-None-Match, Stream-Seq, Stream-TTL, Stream-Expires-At, Stream-Closed,"
        b" Producer-Id, Producer-Epoch, Producer-Seq, Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset",
    ),
    (b"access-control-max-age", b"86400"),
)
_EVENTS = BASE_FIELDS.plus(
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_CLOSED: Field = (b"stream-closed", b"true")
_UP_TO_DATE: Field = (b"stream-up-to-date", b"true")
_NO_STORE: Field = (b"cache-control", b"no-store")
_RETRY: Field = (b"retry-after", b"1")

_STATUS = {
    Verdict.CREATED: 201,
    Verdict.EXISTS: 200,
    Verdict.DELETED: 204,
    Verdict.DUPLICATE: 204,
    Verdict.STALE_EPOCH: 403,
    Verdict.EPOCH_START: 400,
    Verdict.GAP: 409,
    Verdict.CLOSED: 409,
    Verdict.WRONG_TYPE: 409,
    Verdict.OUT_OF_ORDER: 409,
    Verdict.DIFFERS: 409,
    Verdict.HELD_BY_FORKS: 409,
    Verdict.MISSING: 404,
    Verdict.GONE: 410,
    Verdict.SOURCE_MISSING: 404,
    Verdict.SOURCE_GONE: 409,
    Verdict.SOURCE_TYPE: 409,
    Verdict.BAD_FORK: 400,
    Verdict.FULL: 507,
    Verdict.FAILED: 503,
}


class StreamService:
    """A durable-streams server over `engine`. Unless `is_public`, shared caches may not keep its responses."""

    def __init__(self, engine: Engine, settings: StoreSettings, *, is_public: bool) -> None:
        self._scheme = settings.scheme.encode("ascii")
        self._engine = engine
        self._settings = settings
        self._intake = Intake(settings)
        self._steps = SharedSteps(settings.shared_event_bytes)
        self._live = LiveLimits(
            settings.keep_alive_seconds, settings.sse_seconds, settings.cursor_seconds, settings.event_bytes
        )
        self._keep: Field = (
            b"cache-control",
            b"%s, max-age=%d" % (b"public" if is_public else b"private", _KEEP_SECONDS),
        )

    async def __call__(self, request: Request) -> Response:
        """Answer one request. Raises BodyError when the request's body was cut."""
        if self._engine.is_closing:
            return _failed(Result(Verdict.FAILED))
        path, _, query = request.target.partition(b"?")
        name = path.decode("latin-1")
        method = request.method
        try:
            if method == b"POST":
                return await self._append(name, request)
            if method == b"GET":
                return await self._read(name, parse_query(query), request.headers.joined())
            if method == b"PUT":
                return await self._create(name, request)
            if method == b"HEAD":
                return await self._head(name)
            if method == b"DELETE":
                return await self._delete(name)
            if method == b"OPTIONS":
                return Response(204, _PREFLIGHT)
        except (BadRequest, InvalidJson) as error:
            return _refused(400, str(error))
        except TooLong:
            return _refused(413, f"an append holds at most {self._settings.append_bytes} bytes")
        except TooManyValues:
            return _refused(413, f"an append holds at most {self._settings.append_values} JSON values")
        except Overloaded:
            return _refused(503, "too many bytes are being stored already", _RETRY)
        except Unreadable as error:
            logger.error("%r: stored data cannot be read: %s (answered 503)", request, error)
            return _failed(Result(Verdict.FAILED))
        return _refused(405, "the method is not one of this protocol", (b"allow", _METHODS))

    async def aclose(self) -> None:
        """End the threads that check JSON."""
        await self._intake.aclose()

    # Writing

    async def _create(self, name: str, request: Request) -> Response:
        spec = parse_spec(request.headers.joined())
        content = await self._intake.take(request.body, may_be_empty=True)
        try:
            result, stream = await self._engine.create(name, spec, content)
        finally:
            content.release()
        if stream is None or result.verdict not in (Verdict.CREATED, Verdict.EXISTS):
            return _failed(result)
        fields = [_content_type(stream), _next_offset(result.position)]
        if result.verdict is Verdict.CREATED:
            host = request.headers.get(b"host")
            path = name.encode("latin-1")
            fields.append((b"location", path if host is None else b"%s://%s%s" % (self._scheme, host, path)))
        if result.closed:
            fields.append(_CLOSED)
        return Response(_STATUS[result.verdict], BASE_FIELDS.plus(*fields))

    async def _append(self, name: str, request: Request) -> Response:
        append = parse_append(request.headers.joined())
        append.content = content = await self._intake.take(request.body, may_be_empty=False)
        try:
            if not content.size and not append.close:
                return _refused(400, "the body is empty")
            if content.size and append.media is None:
                return _refused(400, "Content-Type is needed")
            return _appended(append, await self._engine.append(name, append))
        finally:
            content.release()

    async def _delete(self, name: str) -> Response:
        result = await self._engine.delete(name)
        return Response(204, BASE_FIELDS) if result.verdict is Verdict.DELETED else _failed(result)

    # Reading

    async def _head(self, name: str) -> Response:
        reader = await self._engine.find(name)
        view = None if reader is None else reader.view()
        if view is None or view.absence is not None:
            return Response(404 if view is None else 410, BASE_FIELDS.plus(_NO_STORE))
        stream, tail, closed = view.stream, view.tail, view.closed
        fields = [_content_type(stream), _next_offset(tail), _NO_STORE, _etag(stream, 0, tail, is_closed=closed)]
        if closed:
            fields.append(_CLOSED)
        if stream.ttl is not None:
            fields.append((b"stream-ttl", b"%d" % stream.ttl))
        if stream.expires_at is not None:
            fields.append((b"stream-expires-at", stream.expires_at.encode("latin-1")))
        return Response(200, BASE_FIELDS.plus(*fields))

    async def _read(self, name: str, query: Query, fields: Fields) -> Response:
        reader = await self._engine.find(name)
        if reader is None:
            return _failed(Result(Verdict.MISSING))
        view = reader.view()
        if view.absence is not None:
            return _failed(Result(view.absence))
        reader.touch()
        position = view.tail if query.position is None else query.position
        if query.live is LiveMode.SSE:
            is_binary = encoding_of(view.stream.media) is Encoding.BASE64
            headers = _EVENTS.plus((b"stream-sse-data-encoding", b"base64")) if is_binary else _EVENTS
            return Response(
                200, headers, LiveBody(self._engine, reader, (position, query.cursor), self._steps, self._live)
            )
        if query.live is LiveMode.LONG_POLL:
            if position == view.tail:
                return await self._long_poll(reader, position, query, fields)
            return await self._catch_up(reader, view, position, fields, self._cursor(query))
        if query.position is None:
            return _at_tail(200, view, b"[]" if view.stream.is_json else b"")
        return await self._catch_up(reader, view, position, fields)

    def _cursor(self, query: Query) -> Field:
        cursor = next_cursor(query.cursor, self._engine.now() / 1000, self._settings.cursor_seconds)
        return (b"stream-cursor", cursor.encode())

    async def _long_poll(self, reader: Reader, position: int, query: Query, fields: Fields) -> Response:
        """Wait at the stream's end until more arrives, the stream closes or disappears, or time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.long_poll_seconds
        try:
            while (view := reader.view()).tail == position and not view.closed and view.absence is None:
                left = until - loop.time()
                if left <= 0 or self._engine.is_closing:
                    break
                await reader.changed(left)
        finally:
            reader.close()
        reader.touch()
        if view.absence is not None:
            return _failed(Result(view.absence))
        if position < view.tail:
            return await self._catch_up(reader, view, position, fields, self._cursor(query))
        return _at_tail(204, view, b"", self._cursor(query))

    async def _catch_up(self, reader: Reader, view: View, position: int, fields: Fields, *cursor: Field) -> Response:
        """The stream from `position` on: up to its end in `view`, or as much as one response carries."""
        stream, tail, closed = view.stream, view.tail, view.closed
        end = tail
        if tail - position > self._settings.response_bytes:
            end = await reader.boundary(position + self._settings.response_bytes)
        is_end = end == tail
        etag = _etag(stream, position, end, is_closed=closed and is_end)
        about = [etag, self._keep if closed or not is_end else (b"cache-control", b"no-cache"), *cursor]
        if _matches(fields.get(b"if-none-match"), etag[1]):
            return Response(304, BASE_FIELDS.plus(*about))
        about += [_content_type(stream), _next_offset(end)]
        if is_end:
            about.append(_UP_TO_DATE)
            if closed:
                about.append(_CLOSED)
        headers = BASE_FIELDS.plus(*about)
        if position >= end:
            return Response(200, headers, BytesBody([b"[]"]) if stream.is_json else EMPTY)
        step = self._settings.step_bytes
        pieces = await reader.read(position, end, step)
        if not pieces:
            return _failed(Result(Verdict.MISSING))
        if pieces[-1][0] + len(pieces[-1][1]) < end:
            return Response(200, headers, SnapshotBody(self._engine, reader, pieces, end, step))
        parts = [data for _, data in pieces]
        return Response(200, headers, BytesBody(as_array(parts) if stream.is_json else parts))


def _appended(append: Append, result: Result) -> Response:
    if result.verdict is Verdict.STORED or result.verdict is Verdict.DUPLICATE:
        fields = [_next_offset(result.position)]
        if append.producer is not None:
            fields += [(b"producer-epoch", b"%d" % result.epoch), (b"producer-seq", b"%d" % result.seq)]
        if result.closed:
            fields.append(_CLOSED)
        is_new = result.verdict is Verdict.STORED and append.producer is not None and append.content.size
        return Response(200 if is_new else 204, BASE_FIELDS.plus(*fields))
    if result.verdict is Verdict.STALE_EPOCH:
        return _failed(result, (b"producer-epoch", b"%d" % result.epoch))
    if result.verdict is Verdict.GAP and append.producer is not None:
        expected = (b"producer-expected-seq", b"%d" % result.seq)
        return _failed(result, expected, (b"producer-received-seq", b"%d" % append.producer.seq))
    if result.verdict is Verdict.CLOSED:
        return _failed(result, _CLOSED, _next_offset(result.position))
    return _failed(result)


def _at_tail(status: int, view: View, body: bytes, *fields: Field) -> Response:
    """The answer to a reader that has everything."""
    about = [_next_offset(view.tail), _UP_TO_DATE, _NO_STORE, *fields]
    if status == 200:
        about.append(_content_type(view.stream))
    if view.closed:
        about.append(_CLOSED)
    return Response(status, BASE_FIELDS.plus(*about), BytesBody([body]))


def _failed(result: Result, *fields: Field) -> Response:
    if result.verdict is Verdict.FAILED:
        fields += (_RETRY,)
    return _refused(_STATUS[result.verdict], result.verdict.value, *fields)


def _refused(status: int, message: str, *fields: Field) -> Response:
    about = ((b"content-type", b"text/plain; charset=utf-8"), _NO_STORE, *fields)
    return Response(status, BASE_FIELDS.plus(*about), BytesBody([message.encode() + b"\n"]))


def _content_type(stream: Stream) -> Field:
    return (b"content-type", stream.content_type.encode("latin-1"))


def _next_offset(position: int) -> Field:
    return (b"stream-next-offset", format_offset(position).encode())


def _etag(stream: Stream, start: int, end: int, *, is_closed: bool) -> Field:
    """The ETag of the bytes between two positions. A later stream on the same path never gets the same one."""
    suffix = b"c" if is_closed else b""
    return (b"etag", b'"%x-%x-%x-%x%s"' % (stream.id, stream.created, start, end, suffix))


def _matches(given: bytes | None, etag: bytes) -> bool:
    """If-None-Match by weak comparison (RFC 9110 section 13.1.2)."""
    if given is None:
        return False
    return given.strip() == b"*" or any(each.strip().removeprefix(b"W/") == etag for each in given.split(b","))
