"""What a store is asked for and what it answers, as values. Owns no rule, no clock, no disk and no HTTP."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

__all__ = [
    "DEFAULT_TYPE", "JSON_TYPE", "NOTHING", "Append", "Content", "Fork", "Piece", "ProducerStamp", "Result", "Spec",
    "Stream", "Verdict", "View", "media_type",
]  # fmt: skip

DEFAULT_TYPE = "application/octet-stream"  # of a stream created without a content type (protocol section on PUT)
JSON_TYPE = "application/json"  # the media type of streams in JSON mode

Piece = tuple[int, bytes]
"""Position of the first byte, and the bytes as they are kept.

An append is kept as one or more pieces. In JSON mode a piece is a run of whole values, each with a comma after it.
"""


def media_type(content_type: str) -> str:
    """The media type in lower case, without parameters (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


# What is asked for


class Content(Protocol):
    """The bytes of one create or append. They are cut into pieces when it is known what kind of stream takes them."""

    @property
    def size(self) -> int:
        """Bytes received; 0: there is nothing to store."""

    async def cut(self, *, is_json: bool) -> list[bytes]:
        """The pieces to keep, in order; none when there is nothing to store.

        `is_json`: the stream is in JSON mode and the content is said to be JSON. May be called more than once. Raises
        exceptions of the caller's own; an engine lets them through.
        """


class _Nothing:
    """No content."""

    size = 0

    async def cut(self, *, is_json: bool) -> list[bytes]:
        """No piece."""
        return []


NOTHING: Content = _Nothing()


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a new stream branches off from the stream at `path`.

    `offset` is a position, None: the source's end. `sub` goes further into the append that starts at `offset`: a number
    of bytes, in JSON mode a number of values.
    """

    path: str
    offset: int | None
    sub: int


@dataclass(frozen=True, slots=True)
class Spec:
    """The settings of a stream that is to be created.

    `content_type` None: the default, for a fork that of its source. `ttl` is in seconds. `expires_at` is a time as the
    creator wrote it, and `expires` is the same time in Unix milliseconds.
    """

    content_type: str | None = None
    ttl: int | None = None
    expires_at: str | None = None
    expires: int | None = None
    closed: bool = False
    fork: Fork | None = None


@dataclass(slots=True)
class ProducerStamp:
    """What an idempotent producer puts on an append."""

    id: str
    epoch: int
    seq: int


@dataclass(slots=True)
class Append:
    """One append. With a `content` of size 0 it only closes.

    `media` is the media type of the content, `seq` the writer's own order (`Stream-Seq`). Not frozen because one is
    made for each append, and freezing would double its cost.
    """

    media: str | None
    producer: ProducerStamp | None = None
    seq: str | None = None
    close: bool = False
    content: Content = NOTHING


# What is answered


class Verdict(Enum):
    """What a store did, or why it did nothing. The value is a sentence for the caller."""

    STORED = "the append was stored"
    CREATED = "the stream was created"
    EXISTS = "the stream exists with these settings"
    DELETED = "the stream was deleted"
    DUPLICATE = "this producer's append was stored before"
    STALE_EPOCH = "a producer with a later epoch has taken over"
    EPOCH_START = "a new epoch must start with sequence number 0"
    GAP = "an earlier sequence number of this producer is missing"
    CLOSED = "the stream is closed"
    WRONG_TYPE = "the content type is not the stream's"
    OUT_OF_ORDER = "the sequence in Stream-Seq is not greater than the last one"
    DIFFERS = "the stream exists with other settings"
    HELD_BY_FORKS = "the stream was deleted, but it has forks"
    MISSING = "the stream does not exist"
    GONE = "the stream was deleted and has forks"
    SOURCE_MISSING = "the stream to fork from does not exist"
    SOURCE_GONE = "the stream to fork from was deleted"
    SOURCE_TYPE = "the content type is not that of the stream to fork from"
    BAD_FORK = "the fork's offset is not in the stream to fork from"
    FULL = "the store is full"
    FAILED = "the store failed"


@dataclass(slots=True)
class Result:
    """A verdict, and the stream's end that the caller may know: `position` and `closed`.

    `epoch` and `seq` are the producer's highest accepted ones; for GAP, `seq` is the sequence number that was expected.
    Not frozen, for the same reason as `Append`.
    """

    verdict: Verdict
    position: int = 0
    closed: bool = False
    epoch: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it was created: none of this changes while it exists.

    `id` and `created` (Unix milliseconds) together identify the stream: one that is created later on the same path
    has others. `media` is the media type of `content_type`. `is_json` says whether the stream is in JSON mode.
    """

    id: int
    path: str
    content_type: str
    media: str
    is_json: bool
    created: int
    ttl: int | None
    expires_at: str | None
    fork: Fork | None

    @classmethod
    def of(cls, number: int, path: str, spec: Spec, created: int) -> "Stream":
        """The stream `number` that `spec` describes. What a fork inherits must be in `spec` already."""
        content_type = spec.content_type or DEFAULT_TYPE
        media = media_type(content_type)
        is_json = media == JSON_TYPE
        return cls(number, path, content_type, media, is_json, created, spec.ttl, spec.expires_at, spec.fork)


@dataclass(slots=True)
class View:
    """What readers may see of a stream at one moment: everything up to `tail` is stored for good.

    `absence` is None while the stream can be read; afterwards it says why not: MISSING when its path is free again,
    GONE when it was deleted and its forks keep the path taken. Not frozen, for the same reason as `Append`: one is
    made for each commit that a reader sees.
    """

    stream: Stream
    tail: int
    closed: bool
    absence: Verdict | None
