"""What is known of a stream in memory, and the requests that change it. Owned by the event loop's thread.

A stream has two ends: `tail`, up to which it is on disk and readers may see it, and `next_tail`, where the next
append goes: past appends that are on their way to the disk. The next append is judged by the state after those.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

__all__ = [
    "DEFAULT_TYPE", "JSON_TYPE", "Append", "Fork", "Producer", "Segment", "Spec", "Stream", "Watch", "media_type",
]  # fmt: skip

DEFAULT_TYPE = "application/octet-stream"  # the protocol's, section on PUT
JSON_TYPE = "application/json"  # appends are values, reads are arrays of them

_TTL_SLACK = 8  # the kept expiry lies an eighth of the TTL late, so that few reads must be written down


@dataclass(frozen=True, slots=True)
class Segment:
    """The bytes of positions `start` to `end` (exclusive), kept under the stream number `stream`."""

    stream: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a new stream branches off: at `offset` of the stream at `path` (None: its end), and `sub` further.

    `sub` counts bytes of the append at `offset`, in JSON mode values.
    """

    path: str
    offset: int | None
    sub: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What a stream is created with. `content_type` None: the default, or the fork source's.

    `ttl` is in seconds; `expires_at` is the text given and `expires` the same in Unix milliseconds.
    """

    content_type: str | None = None
    ttl: int | None = None
    expires_at: str | None = None
    expires: int | None = None
    closed: bool = False
    fork: Fork | None = None


@dataclass(slots=True)
class Producer:
    """What an idempotent producer says of its request."""

    id: str
    epoch: int
    seq: int


@dataclass(slots=True)
class Append:
    """One append: its pieces as they will be kept (none: it only closes), `size` bytes in all."""

    pieces: list[bytes]
    size: int
    media: str | None
    producer: Producer | None = None
    seq: str | None = None
    close: bool = False


def media_type(content_type: str) -> str:
    """The media type in lower case, without parameters (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


class Stream:
    """One stream. `inherited` are the segments that a fork shares, before its own first position `start`.

    `producers` maps an id to (epoch, last seq). `suspect` is set when the state after writes that failed is wrong
    and must be read again before the next append is judged.
    """

    __slots__ = (
        "__weakref__", "closed", "content_type", "created", "deleted", "expires", "expires_at", "expires_kept",
        "failures", "fork", "gone", "id", "inherited", "is_json", "last_seq", "media", "next_closed", "next_tail",
        "path", "producers", "queued", "recent", "recent_bytes", "removing", "settled", "start", "suspect", "tail",
        "ttl", "watches",
    )  # fmt: skip

    def __init__(self, number: int, path: str, spec: Spec, created: int) -> None:
        self.id = number
        self.path = path
        self.content_type = spec.content_type or DEFAULT_TYPE
        self.media = media_type(self.content_type)
        self.is_json = self.media == JSON_TYPE
        self.created = created
        self.ttl = spec.ttl
        self.expires_at = spec.expires_at
        self.fork = spec.fork
        self.expires: int | None = None
        self.expires_kept: int | None = None
        self.inherited: tuple[Segment, ...] = ()
        self.start = self.tail = self.next_tail = 0
        self.closed = self.next_closed = False
        self.deleted = False  # kept for its forks alone
        self.gone = False  # its path is free again
        self.last_seq: str | None = None
        self.producers: dict[str, tuple[int, int]] = {}
        self.queued = self.settled = 0  # writes: those between the two are on their way to the disk
        self.failures = 0
        self.removing = False
        self.suspect: object | None = None
        self.watches: set[Watch] = set()
        self.recent: deque[tuple[int, bytes]] = deque()
        self.recent_bytes = 0

    def segments(self, end: int) -> tuple[Segment, ...]:
        """Where the bytes up to `end` are kept, in order."""
        return (*self.inherited, Segment(self.id, self.start, end))

    def is_expired(self, now: int) -> bool:
        """Whether its time is over at Unix time `now` (milliseconds)."""
        return self.expires is not None and self.expires <= now

    def touch(self, now: int) -> int | None:
        """A read or write at `now` restarts a TTL; the expiry to keep on disk when the one kept there is too early."""
        if self.ttl is None:
            return None
        self.expires = now + self.ttl * 1000
        if self.expires_kept is not None and self.expires <= self.expires_kept:
            return None
        self.expires_kept = self.expires + self.ttl * 1000 // _TTL_SLACK
        return self.expires_kept

    def wake(self) -> None:
        """Something changed: whoever watches looks again."""
        for watch in self.watches:
            watch.wake()


class Watch:
    """One reader's wait for a change of a stream. Nothing is lost between two waits that look in between."""

    __slots__ = ("_future", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End the present wait."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Return at the next change, or after `seconds`. A cancelled wait leaves nothing behind."""
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), self.wake) if seconds is not None else None
        self._stream.watches.add(self)
        try:
            await self._future
        finally:
            self._stream.watches.discard(self)
            self._future = None
            if timer is not None:
                timer.cancel()
