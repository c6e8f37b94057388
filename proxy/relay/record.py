"""The record beside each stream: what the upstream said about its answer, and how the transfer ended.

Owns the record's form in storage (`{id}.record`, a JSON stream: facts first, then outcomes, of which the last counts
that was not withdrawn) and a bounded memory of records. A closed stream whose record holds no outcome is complete.
"""

import asyncio
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, replace

from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import JSON, Storage, ttl
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Field, Headers

__all__ = ["Record", "RecordSettings", "Records", "outcome_of", "record_name"]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a stream. Header values are as the upstream sent them.

    `transfer` tells the streams apart that one idempotency key may have had, one after the other. `owner` is the
    instance that writes the stream, empty when others could not see whether it is alive.
    """

    content_type: bytes
    status: int
    content_encoding: bytes | None = None
    passed: tuple[Field, ...] = ()
    fingerprint: str = ""
    transfer: str = ""
    owner: str = ""
    outcome: Outcome | None = None

    def fields(self) -> list[Field]:
        """The header fields that tell a caller about the upstream's answer, in the order in which they are sent."""
        return [(b"upstream-status", b"%d" % self.status), *self.content_fields(), *self.passed]

    def content_fields(self) -> list[Field]:
        """Those of them that a reader needs to understand the bytes: media type and coding."""
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
        if self.fingerprint:
            facts["fingerprint"] = self.fingerprint
        if self.transfer:
            facts["transfer"] = self.transfer
        if self.owner:
            facts["owner"] = self.owner
        return json.dumps(facts, ensure_ascii=True).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Record":
        """The record from the JSON array that storage gives. Raises ValueError when it is none of ours."""
        try:
            facts, *rest = json.loads(content)
            encoding = facts.get("contentEncoding")
            record = cls(
                content_type=_value(facts["contentType"]),
                status=_status(facts["status"]),
                content_encoding=None if encoding is None else _value(encoding),
                passed=tuple(Headers((n.encode("latin-1"), v.encode("latin-1")) for n, v in facts.get("headers", ()))),
                fingerprint=str(facts.get("fingerprint", "")),
                transfer=str(facts.get("transfer", "")),
                owner=_token(facts.get("owner", "")),
            )
            outcomes: list[Outcome] = []
            for message in rest:
                if "withdrawn" not in message:
                    outcomes.append(Outcome(message["outcome"]))
                elif message["withdrawn"] == record.transfer:  # not by one who meant a former stream of the same key
                    outcomes = outcomes[:-1]
            record = replace(record, outcome=outcomes[-1] if outcomes else None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a stream's record") from error
        return record


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _value(text: str) -> bytes:
    """A header value as it was sent: what storage holds is not trusted to be one."""
    ((_, value),) = Headers([(b"x", text.encode("latin-1"))])
    return value


def _status(number: object) -> int:
    if type(number) is not int or not 200 <= number <= 599:
        raise ValueError("not a final status")
    return number


def _token(text: object) -> str:
    """An instance's name, which becomes part of a path."""
    if not isinstance(text, str) or not re.fullmatch("(?:[0-9a-f]{32})?", text):
        raise ValueError("not an instance")
    return text


def record_name(stream_id: str) -> str:
    """The name of the record beside the stream `stream_id`."""
    return f"{stream_id}.record"


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """How records are stored and remembered: times in seconds, sizes in bytes."""

    record_ttl_seconds: int  # lifetime of a record in storage, longer than its stream's
    record_cache: int  # records remembered in memory
    max_record_bytes: int  # of one record
    record_refresh_seconds: float  # after which a remembered record is read again, which also renews its lifetime
    is_shared: bool  # other instances use this storage: streams of idempotency keys are not remembered


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
        self._lifetime = ttl(settings.record_ttl_seconds)
        self._known: OrderedDict[str, _Remembered] = OrderedDict()

    async def create(self, stream_id: str, record: Record) -> AppendResult:
        """Write a new record: ACCEPTED, DUPLICATE, or EXISTS when there was another. Raises StorageError."""
        reply = await self._storage.create(record_name(stream_id), JSON, self._lifetime, record.encode())
        if reply is not AppendResult.EXISTS:
            self._remember(stream_id, record, is_final=False)
        return reply

    async def end(
        self, stream_id: str, record: Record, outcome: Outcome, *, budget: float, fence: int = 0
    ) -> AppendResult:
        """Append `outcome`; sent twice it is stored once. Raises StorageError past `budget` seconds.

        `fence` is the epoch to write under: one who takes over from a dead owner uses a later one. A record that is
        gone, was taken over, or says already how the stream ended, is left as it is: GONE, FENCED, CLOSED.

        Nothing comes after the outcome but the withdrawal of one that was not the owner's: it closes the record, which
        even a full store lets it do.
        """
        name = record_name(stream_id)
        producer = Producer(self._storage, name, JSON, self._retry, epoch=fence, life=record.transfer)
        content = json.dumps({"outcome": outcome.value}).encode()
        reply = await producer.append((content,), close=not (fence and self._settings.is_shared), budget=budget)
        if reply is AppendResult.ACCEPTED:
            self._remember(stream_id, replace(record, outcome=outcome), is_final=True)
        else:
            self.forget(stream_id)
        return reply

    async def withdraw(self, stream_id: str, record: Record, *, fence: int) -> None:
        """Take back the outcome that was appended last, under an epoch after its own. Raises StorageError."""
        name = record_name(stream_id)
        producer = Producer(self._storage, name, JSON, self._retry, epoch=fence, life=record.transfer)
        await producer.append((json.dumps({"withdrawn": record.transfer}).encode(),))
        self.forget(stream_id)

    def completed(self, stream_id: str, record: Record) -> None:
        """The stream was closed without another outcome: nothing is written, the record will not change."""
        self._remember(stream_id, record, is_final=True)

    async def get(self, stream_id: str, *, is_closed: bool = False) -> Record | None:
        """The record, None when there is none. For a closed stream it is the final one. Raises StorageError."""
        known = self._known.get(stream_id)
        now = asyncio.get_running_loop().time()
        if known is not None and known.until > now and (known.is_final or not is_closed):
            self._known.move_to_end(stream_id)
            return known.record
        content = await self._storage.read_whole(record_name(stream_id), self._settings.max_record_bytes)
        if content is None:
            self.forget(stream_id)
            return None
        try:
            record = Record.decode(content)
        except ValueError as error:
            raise StorageError(str(error), is_final=True) from None
        self._remember(stream_id, record, is_final=is_closed)
        return record

    async def delete(self, stream_id: str) -> None:
        """Remove the record. Raises StorageError."""
        self.forget(stream_id)
        await self._storage.delete(record_name(stream_id))

    def forget(self, stream_id: str) -> None:
        """Drop what is remembered of the stream."""
        self._known.pop(stream_id, None)

    def _remember(self, stream_id: str, record: Record, *, is_final: bool) -> None:
        if record.transfer and self._settings.is_shared:
            return
        until = asyncio.get_running_loop().time() + self._settings.record_refresh_seconds
        self._known[stream_id] = _Remembered(record, is_final, until)
        self._known.move_to_end(stream_id)
        if len(self._known) > self._settings.record_cache:
            self._known.popitem(last=False)


def outcome_of(record: Record | None) -> Outcome:
    """The outcome of a closed stream with this record; without a record nobody can say that it is whole."""
    if record is None:
        return Outcome.INTERRUPTED
    return record.outcome or Outcome.COMPLETE
