"""The record beside each stream: what the upstream said about its answer, and how the transfer ended.

Owns the record's form in storage and a bounded memory of records. `{id}.record` is a JSON stream: the facts first, then
at most one outcome, which closes it. Which outcome that is, and when it counts, is decided in `relay.takeover`.
"""

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import JSON, Storage
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Field, Headers

__all__ = ["Record", "RecordSettings", "Records", "record_name"]

_ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a stream. Header values are as the upstream sent them.

    content_type: the upstream's media type.
    status: the upstream's status.
    content_encoding: the codings of the upstream's body, None without any.
    passed: the upstream's other header fields that reach callers.
    owner: the instance that writes the stream.
    key: the name of the lock by which an Idempotency-Key finds the stream, "" without a key.
    subject: the subject of the token that created the stream, to whom it belongs; None: it belongs to nobody.
    outcome: how the stream ended; None: not recorded. A stream that is closed without an outcome is whole.
    is_found: the outcome was recorded without knowing whether the owner's last append has closed the stream.
    """

    content_type: bytes
    status: int
    content_encoding: bytes | None = None
    passed: tuple[Field, ...] = ()
    owner: str = ""
    key: str = ""
    subject: str | None = None
    outcome: Outcome | None = None
    is_found: bool = False

    def fields(self) -> list[Field]:
        """The header fields that tell a caller about the upstream's answer, in the order in which they are sent."""
        return [(b"upstream-status", b"%d" % self.status), *self.content_fields(), *self.passed]

    def content_fields(self) -> list[Field]:
        """The header fields that a reader needs to interpret the bytes: media type and coding."""
        fields = [(b"upstream-content-type", self.content_type)]
        if self.content_encoding is not None:
            fields.append((b"upstream-content-encoding", self.content_encoding))
        return fields

    def encode(self) -> bytes:
        """The facts as the record's first JSON message."""
        facts: dict[str, object] = {"contentType": _text(self.content_type), "status": self.status}
        if self.content_encoding is not None:
            facts["contentEncoding"] = _text(self.content_encoding)
        if self.passed:
            facts["headers"] = [[_text(name), _text(value)] for name, value in self.passed]
        if self.owner:
            facts["owner"] = self.owner
        if self.key:
            facts["key"] = self.key
        if self.subject is not None:
            facts["subject"] = self.subject
        return _ENCODER.encode(facts).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Record | None":
        """The record from the JSON array that storage gives; None when it is empty: the record is being made.

        Raises ValueError when it is not a record.
        """
        try:
            messages = json.loads(content)
            if messages == []:
                return None
            facts, *later = messages
            encoding, subject = facts.get("contentEncoding"), facts.get("subject")
            record = cls(
                content_type=_value(facts["contentType"]),
                status=_status(facts["status"]),
                content_encoding=None if encoding is None else _value(encoding),
                passed=_fields(facts.get("headers", ())),
                owner=_matched("(?:[0-9a-f]{32})?", facts.get("owner", "")),
                key=_matched("(?:_proxy/keys/[0-9a-zA-Z_-]+)?", facts.get("key", "")),
                subject=None if subject is None else str(subject),
            )
            if later:
                is_found = later[0].get("found") is True
                record = replace(record, outcome=Outcome(later[0]["outcome"]), is_found=is_found)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a stream's record") from error
        return record


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _fields(pairs: Iterable[tuple[str, str]]) -> tuple[Field, ...]:
    return tuple(Headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs))


def _value(text: str) -> bytes:
    """A header value. Storage is not trusted, so it is checked again."""
    ((_, value),) = Headers([(b"x", text.encode("latin-1"))])
    return value


def _status(number: object) -> int:
    if type(number) is not int or not 200 <= number <= 599:
        raise ValueError("not a final status")
    return number


def _matched(pattern: str, text: object) -> str:
    """`text`, which becomes part of a path, if it matches `pattern`. Raises ValueError."""
    if not isinstance(text, str) or not re.fullmatch(pattern, text):
        raise ValueError("not a name of ours")
    return text


def record_name(stream_id: str) -> str:
    """The name of the record beside the stream `stream_id`."""
    return f"{stream_id}.record"


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """How records are stored and remembered: times in seconds, sizes in bytes."""

    record_ttl_seconds: int  # lifetime of a record in storage, longer than its stream's
    record_cache: int  # records remembered in memory
    max_record_bytes: int  # largest record that is read
    record_refresh_seconds: float  # age at which a remembered record is read again, which also renews its lifetime


@dataclass(slots=True)
class _Remembered:
    record: Record
    is_final: bool
    until: float


class Records:
    """All records, in storage and, the recently used ones, in memory."""

    def __init__(self, storage: Storage, retry: RetryPolicy, settings: RecordSettings) -> None:
        self._storage = storage
        self._retry = retry
        self._settings = settings
        self._known: OrderedDict[str, _Remembered] = OrderedDict()

    async def create(self, stream_id: str, record: Record, retry: RetryPolicy) -> None:
        """Write a new record. Raises StorageError."""
        await self._storage.create(
            record_name(stream_id), JSON, self._settings.record_ttl_seconds, record.encode(), retry=retry
        )
        self._remember(stream_id, record, is_final=False)

    async def append(
        self, stream_id: str, outcome: Outcome, *, epoch: int, is_found: bool, budget: float | None = None
    ) -> AppendResult:
        """Append an outcome under `epoch`, and close the record with it. A repetition is stored once.

        CLOSED or FENCED when it has an outcome already, GONE when there is no record. `budget`: seconds for all
        attempts, in place of the policy's. Raises StorageError. Even a full store takes it, because it closes the
        record.
        """
        self.forget(stream_id)
        message: dict[str, object] = {"outcome": outcome.value}
        if is_found:
            message["found"] = True
        producer = Producer(self._storage, record_name(stream_id), JSON, self._retry, epoch=epoch)
        return await producer.append((json.dumps(message).encode(),), close=True, budget=budget)

    async def get(self, stream_id: str) -> Record | None:
        """The record, which may be out of date; None when there is none. Raises StorageError.

        Only its outcome can be out of date. Ask `relay.takeover` for the outcome.
        """
        known = self._remembered(stream_id)
        return known.record if known is not None else await self.read(stream_id)

    def final(self, stream_id: str) -> Record | None:
        """The record with its final outcome, if that is in memory."""
        known = self._remembered(stream_id)
        return known.record if known is not None and known.is_final else None

    async def read(self, stream_id: str) -> Record | None:
        """The record from storage; None when there is none. Raises StorageError, a final one for a malformed record.

        This also renews the lock of its key, so that the key names the stream for as long as the stream is read.
        """
        self.forget(stream_id)
        content = await self._storage.read_whole(record_name(stream_id), self._settings.max_record_bytes)
        if content is None:
            return None
        try:
            record = Record.decode(content)
        except ValueError as error:
            raise StorageError(str(error), is_final=True) from None
        if record is not None:
            if record.key:
                with suppress(StorageError):
                    await self._storage.touch(record.key)
            self._remember(stream_id, record, is_final=False)
        return record

    def settle(self, stream_id: str, record: Record) -> None:
        """Remember `record`, whose outcome is final."""
        self._remember(stream_id, record, is_final=True)

    async def delete(self, stream_id: str) -> None:
        """Remove the record. Raises StorageError."""
        self.forget(stream_id)
        await self._storage.delete(record_name(stream_id))

    def forget(self, stream_id: str) -> None:
        """Drop what is remembered of the stream."""
        self._known.pop(stream_id, None)

    def _remembered(self, stream_id: str) -> _Remembered | None:
        known = self._known.get(stream_id)
        if known is None or known.until <= asyncio.get_running_loop().time():
            return None
        self._known.move_to_end(stream_id)
        return known

    def _remember(self, stream_id: str, record: Record, *, is_final: bool) -> None:
        until = asyncio.get_running_loop().time() + self._settings.record_refresh_seconds
        self._known[stream_id] = _Remembered(record, is_final, until)
        self._known.move_to_end(stream_id)
        if len(self._known) > self._settings.record_cache:
            self._known.popitem(last=False)
