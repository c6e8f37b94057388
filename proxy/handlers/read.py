"""GET and HEAD of a stream: storage's answer, with fields from the stream's record (protocol: Read)."""

import re
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.handlers.bounds import Counted
from proxy.handlers.call import Call
from proxy.handlers.events import ClosingEvents, EventSettings
from proxy.handlers.heartbeat import Heartbeat, HeartbeatSettings
from proxy.handlers.subjects import check_subject, no_stream
from proxy.http.body import EMPTY, Body, TimeoutBody
from proxy.http.message import Response
from proxy.relay.orphans import Watcher
from proxy.relay.record import Record
from proxy.relay.takeover import Endings
from proxy.streams.answers import Metadata, ReadRefused, ReadResult, StorageError
from proxy.streams.client import ReadQuery, Storage
from proxy.wire.headers import Field, Headers

__all__ = ["Head", "Read", "ReadSettings"]

_LONG_POLL = b"long-poll"
_PUBLIC = re.compile(rb"\bpublic\b")
_VALUE = re.compile(rb"[!-~]{1,256}")
_UNBUFFERED: Field = (b"x-accel-buffering", b"no")  # reverse proxies like nginx then pass each event at once
_NO_STORE: Field = (b"cache-control", b"no-cache, no-store")


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """Bounds of reads; times in seconds."""

    max_readers: int  # live readers at once; further ones are refused
    max_readers_per_stream: int  # live readers of one stream at once; further ones are refused
    storage_timeout_seconds: float  # longest wait for the head, and for each part, of a catch-up read
    storage_silence_seconds: float  # longest wait for the head of a long-poll's answer
    heartbeat: HeartbeatSettings  # bounds of storage's silence on reads by SSE
    events: EventSettings  # bounds of reads by SSE
    shared_cache: bool  # shared caches may keep reads by a signed URL: storage's Cache-Control is passed unchanged


class Read:
    """The read operation: catch-up, long-poll and SSE."""

    def __init__(self, storage: Storage, endings: Endings, orphans: Watcher, settings: ReadSettings) -> None:
        self._storage = storage
        self._endings = endings
        self._orphans = orphans
        self._settings = settings
        self._heartbeat = Heartbeat(settings.heartbeat)
        self._live = Counted(total=settings.max_readers, each=settings.max_readers_per_stream)

    async def __call__(self, call: Call) -> Response:
        """Storage's 200, 204 or 304. Raises Refusal, StorageError."""
        query = _read_query(call)
        await check_subject(call, self._endings.records)
        if query.live is None:
            return await self._read(call, query)
        with self._live.entered(call.stream_id) as place:
            if query.live == _LONG_POLL:  # its answer may take long
                self._orphans.awaited(call.stream_id)
            response = await self._read(call, query)
            response.body = place.kept_by(response.body)
            return response

    async def _read(self, call: Call, query: ReadQuery) -> Response:
        headers = call.request.headers
        conditions = [(name, value) for name in (b"accept", b"if-none-match") for value in headers.get_all(name)]
        settings = self._settings
        timeout = settings.storage_silence_seconds if query.live == _LONG_POLL else settings.storage_timeout_seconds
        found = await self._storage.read(call.stream_id, query, *conditions, timeout=timeout)
        if found is ReadRefused.GONE:
            raise no_stream()
        if isinstance(found, ReadRefused):
            if query.live is not None and query.offset is None:
                raise Refusal(Code.INVALID_REQUEST, "a live read needs the parameter offset")
            raise Refusal(Code.INVALID_REQUEST, "storage does not accept these parameters")
        try:
            return await self._answer(call, found)
        except BaseException:
            found.body.close()
            raise

    async def _answer(self, call: Call, found: ReadResult) -> Response:
        stream_id, metadata = call.stream_id, found.metadata
        record = await self._endings.record(stream_id, is_closed=metadata.is_closed)
        if record is None:
            raise no_stream()
        if not metadata.is_closed:
            self._orphans.watch(stream_id, record)
        fields = _fields(metadata, record, is_shared=self._settings.shared_cache and call.caller.is_signed)
        body: Body = found.body
        if found.status == 200 and metadata.is_event_stream:

            async def outcome() -> bytes:
                ended = await self._endings.record(stream_id, is_closed=True)
                if ended is None or ended.outcome is None:
                    raise StorageError("the stream was deleted during a read")
                return ended.outcome.value.encode()

            body = ClosingEvents(body, outcome, self._heartbeat, self._settings.events)
        elif not body.ended:
            body = TimeoutBody(body, self._settings.storage_timeout_seconds)
        return Response(found.status, Headers.trusted(fields), body)


class Head:
    """The metadata operation."""

    def __init__(self, storage: Storage, endings: Endings, orphans: Watcher) -> None:
        self._storage = storage
        self._endings = endings
        self._orphans = orphans

    async def __call__(self, call: Call) -> Response:
        """200 without a body. Raises Refusal, StorageError."""
        await check_subject(call, self._endings.records)
        metadata = await self._storage.head(call.stream_id)
        if metadata is None:
            raise no_stream()
        record = await self._endings.record(call.stream_id, is_closed=metadata.is_closed)
        if record is None:
            raise no_stream()
        if not metadata.is_closed:
            self._orphans.watch(call.stream_id, record)
        return Response(200, Headers.trusted(_fields(metadata, record, is_shared=False)), EMPTY)


def _read_query(call: Call) -> ReadQuery:
    """The parameters that are passed to storage. Raises Refusal for a repeated or malformed one."""
    values = []
    for name in (b"offset", b"live", b"cursor"):
        value = call.single(name)
        if value is not None and (not _VALUE.fullmatch(value) or any(byte in value for byte in b"&#%+=?")):
            raise Refusal(Code.INVALID_REQUEST, f"the parameter {name.decode()} is malformed")
        values.append(value)
    return ReadQuery(*values)


def _fields(metadata: Metadata, record: Record, *, is_shared: bool) -> list[Field]:
    """The fields of the response: storage's, and those from the record. `is_shared`: shared caches may keep it."""
    fields = []
    is_live = metadata.is_event_stream
    for name, value in metadata.fields:
        if name == b"cache-control":
            if not is_live:
                fields.append((name, value if is_shared else _PUBLIC.sub(b"private", value)))
        elif name == b"vary" and value.lower() == b"origin":
            continue  # storage's CORS rules do not apply; the router adds ours
        else:
            fields.append((name, value))
    if is_live:
        fields += [_NO_STORE, _UNBUFFERED]
    fields += record.content_fields()
    if record.outcome is not None and metadata.is_closed:
        fields.append((b"upstream-outcome", record.outcome.value.encode()))
    return fields
