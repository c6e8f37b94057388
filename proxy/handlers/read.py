"""GET and HEAD of a stream: storage's answer with what the proxy knows beside it (protocol: Read)."""

import re
import time
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.handlers.bounds import Counted
from proxy.handlers.call import Call
from proxy.handlers.events import ClosingEvents
from proxy.http.body import EMPTY, Body, TimeoutBody
from proxy.http.message import Response
from proxy.policy.auth import Keyring
from proxy.relay.orphans import Orphans
from proxy.relay.record import Record, Records, outcome_of
from proxy.streams.client import Storage, discard, unexpected
from proxy.wire.headers import Field, Headers

__all__ = ["Head", "Read", "ReadSettings"]

_PASSED_NAMES = (b"etag", b"content-type", b"cache-control", b"vary")
_PUBLIC = re.compile(rb"\bpublic\b")
_VALUE = re.compile(rb"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """`at_once`: live readers; `keep_alive`: silent seconds before a comment; `shared_cache`: CDNs may keep reads.

    Storage gets `patience` seconds for each part of a catch-up read, `silence` for each of a live one.
    """

    at_once: int
    keep_alive: float
    patience: float
    silence: float
    shared_cache: bool


class Read:
    """The read operation: catch-up, long-poll and SSE."""

    def __init__(
        self, keyring: Keyring, storage: Storage, records: Records, orphans: Orphans, settings: ReadSettings
    ) -> None:
        self._keyring = keyring
        self._storage = storage
        self._records = records
        self._orphans = orphans
        self._settings = settings
        self._live = Counted(settings.at_once)

    async def __call__(self, call: Call) -> Response:
        """Storage's 200, 204 or 304. Raises Refusal, StorageError."""
        headers = call.request.headers
        self._keyring.check_read(call.stream_id, call.query, headers.get_all(b"authorization"), time.time())
        live = call.single(b"live")
        query = _storage_query(call)
        request_headers = self._storage.headers(
            *((name, value) for name in (b"accept", b"if-none-match") for value in headers.get_all(name))
        )
        if live is None:
            return await self._read(call.stream_id, query, request_headers, live=False)
        with self._live.entered() as place:
            if live == b"long-poll":  # whose answer may be long in coming
                self._orphans.awaited(call.stream_id)
            response = await self._read(call.stream_id, query, request_headers, live=True)
            response.body = place.kept_by(response.body)
            return response

    async def _read(self, stream_id: str, query: bytes, headers: Headers, *, live: bool) -> Response:
        timeout = self._settings.silence if live else self._settings.patience
        response = await self._storage.read(stream_id, query, headers, timeout=timeout)
        try:
            if response.status == 400 and live and b"offset=" not in query:
                raise Refusal(Code.INVALID_REQUEST, "a live read needs the parameter offset")
            return await self._answer(stream_id, response)
        except BaseException:
            response.body.close()
            raise

    async def _answer(self, stream_id: str, response: Response) -> Response:
        status = response.status
        if status in (404, 410):
            raise Refusal(Code.STREAM_NOT_FOUND, "there is no such stream")
        if status == 400:
            raise Refusal(Code.INVALID_REQUEST, "storage does not accept these parameters")
        if status not in (200, 204, 304):
            raise unexpected(response)
        is_closed = response.headers.get(b"stream-closed") == b"true"
        record = await self._records.get(stream_id, is_closed=is_closed)
        if record is not None and not is_closed:
            self._orphans.watch(stream_id, record)
        fields = _fields(response.headers, record, is_closed=is_closed, shared=self._settings.shared_cache)
        body: Body = response.body
        kind = response.headers.get(b"content-type") or b""
        if status == 200 and kind.partition(b";")[0] == b"text/event-stream":

            async def outcome() -> bytes:
                return outcome_of(await self._records.get(stream_id, is_closed=True)).value.encode()

            body = ClosingEvents(body, outcome, self._settings.keep_alive, self._settings.silence)
        elif not body.ended:
            body = TimeoutBody(body, self._settings.patience)
        return Response(status, Headers.trusted(fields), body)


class Head:
    """The metadata operation, for the service secret only."""

    def __init__(self, keyring: Keyring, storage: Storage, records: Records) -> None:
        self._keyring = keyring
        self._storage = storage
        self._records = records

    async def __call__(self, call: Call) -> Response:
        """200 without a body. Raises Refusal, StorageError."""
        self._keyring.check_service(
            query=call.values(b"secret"),
            authorization=call.request.headers.get_all(b"authorization"),
            now=time.time(),
        )
        metadata = await self._storage.head(call.stream_id)
        if metadata is None:
            raise Refusal(Code.STREAM_NOT_FOUND, "there is no such stream")
        is_closed = metadata.headers.get(b"stream-closed") == b"true"
        record = await self._records.get(call.stream_id, is_closed=is_closed)
        discard(metadata)
        return Response(
            200, Headers.trusted(_fields(metadata.headers, record, is_closed=is_closed, shared=False)), EMPTY
        )


def _storage_query(call: Call) -> bytes:
    """The parameters that storage sees. Raises Refusal for one that is repeated or cannot be an offset or cursor."""
    pairs = []
    for name in (b"offset", b"live", b"cursor"):
        value = call.single(name)
        if value is None:
            continue
        if not _VALUE.fullmatch(value) or any(byte in value for byte in b"&#%+=?"):
            raise Refusal(Code.INVALID_REQUEST, f"the parameter {name.decode()} is malformed")
        pairs.append(name + b"=" + value)
    return b"&".join(pairs)


def _fields(headers: Headers, record: Record | None, *, is_closed: bool, shared: bool) -> list[Field]:
    """What crosses from storage, and what the record adds."""
    fields = []
    for name, value in headers:
        if name == b"cache-control" and not shared:
            fields.append((name, _PUBLIC.sub(b"private", value)))
        elif name == b"vary" and value.lower() == b"origin":
            continue  # the router speaks for our own origin rules
        elif name in _PASSED_NAMES or name.startswith(b"stream-"):
            fields.append((name, value))
    if record is None:
        fields.append((b"upstream-content-type", b"application/octet-stream"))
    else:
        fields.append((b"upstream-content-type", record.content_type))
        if record.content_encoding is not None:
            fields.append((b"upstream-content-encoding", record.content_encoding))
    if is_closed:
        fields.append((b"upstream-outcome", outcome_of(record).value.encode()))
    return fields
