"""What became of an operation on a stream: values, for all of them are expected. Owns names, no HTTP."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Outcome", "Verdict"]


class Verdict(Enum):
    """What the store did, or why it did nothing."""

    STORED = "on disk"
    CREATED = "the stream was created"
    EXISTS = "the stream exists with these settings"
    DELETED = "the stream is deleted now"
    DUPLICATE = "this producer's request was stored before"
    STALE_EPOCH = "a producer of a later epoch has taken over"
    EPOCH_START = "a new epoch must start with sequence 0"
    GAP = "an earlier sequence number of this producer is missing"
    CLOSED = "the stream is closed"
    WRONG_TYPE = "the content type is not the stream's"
    OUT_OF_ORDER = "Stream-Seq is not greater than the last one"
    DIFFERS = "the stream exists with other settings"
    HELD_BY_FORKS = "the stream was deleted, but forks of it remain"
    MISSING = "there is no such stream"
    GONE = "the stream was deleted"
    SOURCE_MISSING = "there is no stream to fork from"
    SOURCE_GONE = "the stream to fork from was deleted"
    SOURCE_TYPE = "the content type is not that of the stream to fork from"
    BAD_FORK = "the fork's offset is not in the stream to fork from"
    FULL = "there is no room to store this"
    FAILED = "the database failed"


@dataclass(slots=True)
class Outcome:
    """A verdict, with the stream's end as the caller may know it.

    `epoch` and `seq` are the producer's: the highest accepted, or for GAP the sequence number that was expected.
    """

    verdict: Verdict
    position: int = 0
    closed: bool = False
    epoch: int = 0
    seq: int = 0
