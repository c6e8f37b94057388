"""The words that storage, relay, handlers and clients share about streams. Owns names, imports nothing of ours."""

from enum import Enum

__all__ = ["Outcome"]


class Outcome(Enum):
    """Why a stream ended, as it stands in `Upstream-Outcome` and in the closing control event."""

    COMPLETE = "complete"
    ABORTED = "aborted"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    UPSTREAM_ERROR = "upstream_error"
    STORAGE_ERROR = "storage_error"
    INTERRUPTED = "interrupted"
