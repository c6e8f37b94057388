"""The words of Durable Streams that storage, relay and clients share: outcomes and header names. Imports nothing."""

from enum import Enum

__all__ = [
    "PRODUCER_EPOCH", "PRODUCER_EXPECTED_SEQ", "PRODUCER_ID", "PRODUCER_SEQ", "STREAM_CLOSED", "STREAM_CURSOR",
    "STREAM_EXPIRES_AT", "STREAM_NEXT_OFFSET", "STREAM_SSE_DATA_ENCODING", "STREAM_TTL", "STREAM_UP_TO_DATE",
    "Outcome",
]  # fmt: skip

# Header fields of the protocol, in lower case, as `Headers` holds them.
STREAM_CLOSED = b"stream-closed"
STREAM_CURSOR = b"stream-cursor"
STREAM_EXPIRES_AT = b"stream-expires-at"
STREAM_NEXT_OFFSET = b"stream-next-offset"
STREAM_SSE_DATA_ENCODING = b"stream-sse-data-encoding"
STREAM_TTL = b"stream-ttl"
STREAM_UP_TO_DATE = b"stream-up-to-date"
PRODUCER_ID = b"producer-id"
PRODUCER_EPOCH = b"producer-epoch"
PRODUCER_SEQ = b"producer-seq"
PRODUCER_EXPECTED_SEQ = b"producer-expected-seq"


class Outcome(Enum):
    """Why a stream ended, as it stands in `Upstream-Outcome` and in the closing control event."""

    COMPLETE = "complete"
    ABORTED = "aborted"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    UPSTREAM_ERROR = "upstream_error"
    STORAGE_ERROR = "storage_error"
    INTERRUPTED = "interrupted"
