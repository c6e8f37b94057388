"""What storage answers, as values: statuses and header names of Durable Streams become these and go no further.

Expected answers are values; `StorageError` is everything else.
"""

from dataclasses import dataclass
from enum import Enum

from proxy.http.body import Body
from proxy.http.message import Response
from proxy.streams.names import (
    PRODUCER_EPOCH,
    PRODUCER_EXPECTED_SEQ,
    PRODUCER_SEQ,
    STREAM_CLOSED,
    STREAM_NEXT_OFFSET,
    STREAM_UP_TO_DATE,
)
from proxy.wire.headers import Field, Headers

__all__ = [
    "GONE",
    "AppendResult",
    "Metadata",
    "ReadRefused",
    "ReadResult",
    "StorageError",
    "append_result",
    "unexpected",
]

GONE = (404, 410)  # the statuses for a stream that is not there: never made or expired, deleted
_FOR_READERS = (b"etag", b"content-type", b"cache-control", b"vary")  # beside every `Stream-*`
_RETRYABLE = (408, 425, 429)  # beside every 5xx


class AppendResult(Enum):
    """What storage did with an append (Durable Streams, sections on POST, close and idempotent producers)."""

    ACCEPTED = "stored"
    DUPLICATE = "stored before by the same request, whose answer was lost"
    CLOSED = "the stream is closed"
    FENCED = "a producer of a later epoch has taken over"
    GAP = "bytes that storage had acknowledged are missing"
    GONE = "there is no such stream"


class ReadRefused(Enum):
    """Why a read has no answer."""

    GONE = "there is no such stream"
    INVALID = "storage does not accept the parameters"


class StorageError(Exception):
    """Storage could not be reached, or its answer is not one that the protocol foresees.

    `retry_after`: seconds that storage asked for, if it did. `is_final`: trying again cannot help.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, is_final: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Metadata:
    """What storage says about a stream.

    is_closed: nothing more will be appended.
    content_type: the stream's media type, None when storage named none.
    next_offset: the token to read on at, None when storage named none.
    is_up_to_date: a read reached the end as it was when storage answered.
    fields: the header fields for a reader: every `Stream-*`, ETag, Content-Type, Cache-Control, Vary.
    """

    is_closed: bool
    content_type: bytes | None
    next_offset: bytes | None
    is_up_to_date: bool
    fields: list[Field]

    @classmethod
    def of(cls, response: Response) -> "Metadata":
        """The metadata in a response's header fields."""
        headers = response.headers
        return cls(
            is_closed=headers.get(STREAM_CLOSED) == b"true",
            content_type=headers.get(b"content-type"),
            next_offset=headers.get(STREAM_NEXT_OFFSET),
            is_up_to_date=STREAM_UP_TO_DATE in headers,
            fields=[field for field in headers if field[0].startswith(b"stream-") or field[0] in _FOR_READERS],
        )

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is server-sent events."""
        return (self.content_type or b"").partition(b";")[0].strip() == b"text/event-stream"


@dataclass(slots=True)
class ReadResult:
    """The answer to a read. Its receiver takes `body` to the end or closes it.

    status: 200, 204 when nothing new came during a long-poll, 304 when the reader's copy is current.
    """

    status: int
    metadata: Metadata
    body: Body


def append_result(response: Response, sent: Headers) -> AppendResult:
    """What the answer to an append means, whose header fields were `sent`. Raises StorageError."""
    status, headers = response.status, response.headers
    if status == 200:
        return AppendResult.ACCEPTED
    if status == 204:
        return AppendResult.DUPLICATE if PRODUCER_SEQ in sent else AppendResult.ACCEPTED
    if status in GONE:
        return AppendResult.GONE
    if status == 403 and PRODUCER_EPOCH in headers:
        return AppendResult.FENCED
    if status == 409:
        if headers.get(STREAM_CLOSED) == b"true":
            return AppendResult.CLOSED
        if PRODUCER_EXPECTED_SEQ in headers:
            return AppendResult.GAP
    raise unexpected(response)


def unexpected(response: Response) -> StorageError:
    """The error for a status that the operation does not foresee; 5xx, 408, 425 and 429 are worth another try."""
    status = response.status
    after = response.headers.get(b"retry-after")
    seconds = float(after) if after is not None and after.isdigit() and len(after) < 6 else None
    is_retryable = status >= 500 or status in _RETRYABLE
    return StorageError(f"storage answered {status}", retry_after=seconds, is_final=not is_retryable)
