"""GET and HEAD of a stream: storage's answer with what the proxy knows beside it (protocol: Read)."""

import re
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.handlers.bounds import Counted
from proxy.handlers.call import Call
from proxy.handlers.events import ClosingEvents, EventSettings
from proxy.http.body import EMPTY, Body, TimeoutBody
from proxy.http.message import Response
from proxy.relay.orphans import Orphans
from proxy.relay.record import Record, Records, outcome_of
from proxy.streams.answers import Metadata, Reading, ReadRefused
from proxy.streams.client import ReadQuery, Storage
from proxy.wire.headers import Field, Headers

__all__ = ["Head", "Read", "ReadSettings"]

_LONG_POLL = b"long-poll"
_PUBLIC = re.compile(rb"\bpublic\b")
_VALUE = re.compile(rb"[!-~]{1,256}")
_NO_STREAM = "there is no such stream"
_UNKNOWN: Field = (b"upstream-content-type", b"application/octet-stream")  # of a stream without a record


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """Bounds of reads; times in seconds."""

    max_readers: int  # live readers at once; further ones are refused
    storage_timeout_seconds: float  # that storage may take over each part of a catch-up read
    storage_silence_seconds: float  # that storage may be silent during a live read
    events: EventSettings  # of reads by SSE
    shared_cache: bool  # shared caches may keep reads by a signed URL: the Cache-Control of storage passes


class Read:
    """The read operation: catch-up, long-poll and SSE."""

    def __init__(self, storage: Storage, records: Records, orphans: Orphans, settings: ReadSettings) -> None:
        self._storage = storage
        self._records = records
        self._orphans = orphans
        self._settings = settings
        self._live = Counted(settings.max_readers)

    async def __call__(self, call: Call) -> Response:
        """Storage's 200, 204 or 304. Raises Refusal, StorageError."""
        query = _read_query(call)
        if query.live is None:
            return await self._read(call, query)
        with self._live.entered() as place:
            if query.live == _LONG_POLL:  # its answer may be long in coming
                self._orphans.awaited(call.stream_id)
            response = await self._read(call, query)
            response.body = place.kept_by(response.body)
            return response

    async def _read(self, call: Call, query: ReadQuery) -> Response:
        headers = call.request.headers
        conditions = [(name, value) for name in (b"accept", b"if-none-match") for value in headers.get_all(name)]
        timeout = (
            self._settings.storage_timeout_seconds if query.live is None else self._settings.storage_silence_seconds
        )
        found = await self._storage.read(call.stream_id, query, *conditions, timeout=timeout)
        if found is ReadRefused.GONE:
            raise Refusal(Code.STREAM_NOT_FOUND, _NO_STREAM)
        if isinstance(found, ReadRefused):
            if query.live is not None and query.offset is None:
                raise Refusal(Code.INVALID_REQUEST, "a live read needs the parameter offset")
            raise Refusal(Code.INVALID_REQUEST, "storage does not accept these parameters")
        try:
            return await self._answer(call, found)
        except BaseException:
            found.body.close()
            raise

    async def _answer(self, call: Call, found: Reading) -> Response:
        stream_id, metadata = call.stream_id, found.metadata
        record = await self._records.get(stream_id, is_closed=metadata.is_closed)
        if record is not None and not metadata.is_closed:
            self._orphans.watch(stream_id, record)
        fields = _fields(metadata, record, shared=self._settings.shared_cache and call.caller.is_signed)
        body: Body = found.body
        if found.status == 200 and metadata.is_event_stream:

            async def outcome() -> bytes:
                return outcome_of(await self._records.get(stream_id, is_closed=True)).value.encode()

            body = ClosingEvents(body, outcome, self._settings.events)
        elif not body.ended:
            body = TimeoutBody(body, self._settings.storage_timeout_seconds)
        return Response(found.status, Headers.trusted(fields), body)


class Head:
    """The metadata operation."""

    def __init__(self, storage: Storage, records: Records) -> None:
        self._storage = storage
        self._records = records

    async def __call__(self, call: Call) -> Response:
        """200 without a body. Raises Refusal, StorageError."""
        metadata = await self._storage.head(call.stream_id)
        if metadata is None:
            raise Refusal(Code.STREAM_NOT_FOUND, _NO_STREAM)
        record = await self._records.get(call.stream_id, is_closed=metadata.is_closed)
        return Response(200, Headers.trusted(_fields(metadata, record, shared=False)), EMPTY)


def _read_query(call: Call) -> ReadQuery:
    """The parameters that storage sees. Raises Refusal for one that is repeated or cannot be an offset or cursor."""
    values = []
    for name in (b"offset", b"live", b"cursor"):
        value = call.single(name)
        if value is not None and (not _VALUE.fullmatch(value) or any(byte in value for byte in b"&#%+=?")):
            raise Refusal(Code.INVALID_REQUEST, f"the parameter {name.decode()} is malformed")
        values.append(value)
    return ReadQuery(*values)


def _fields(metadata: Metadata, record: Record | None, *, shared: bool) -> list[Field]:
    """What crosses from storage, and what the record adds."""
    fields = []
    for name, value in metadata.fields:
        if name == b"cache-control" and not shared:
            fields.append((name, _PUBLIC.sub(b"private", value)))
        elif name == b"vary" and value.lower() == b"origin":
            continue  # storage's origin rules; the router adds our own
        else:
            fields.append((name, value))
    fields += record.content_fields() if record is not None else [_UNKNOWN]
    if metadata.is_closed:
        fields.append((b"upstream-outcome", outcome_of(record).value.encode()))
    return fields
