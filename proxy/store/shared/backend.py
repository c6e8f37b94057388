"""What the shared engine needs of a storage: one conditional write, and what is read, followed and removed around it.

A storage knows no rule of the protocol. It keeps for each path the state of a stream, with a token that each write
replaces, and stores a change only when the token is still the one that the writer knows. A writer that lost the race
gets the current state, and judges again.

Times are Unix milliseconds by the storage's own clock, so that the clocks of instances need not agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proxy.store.model import Piece, ProducerStamp, Spec, Stream, Verdict
from proxy.store.rules import AppendState

__all__ = [
    "Backend",
    "Change",
    "Creation",
    "Hold",
    "News",
    "NewsListener",
    "Ref",
    "Removed",
    "SharedSegment",
    "Stored",
    "StoredState",
    "Unavailable",
]  # fmt: skip


class Unavailable(Exception):
    """The storage did not do what was asked, or it is not known whether it did. The message is for the log.

    `is_full`: it has no room; then nothing was stored.
    """

    def __init__(self, message: str, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full


@dataclass(frozen=True, slots=True)
class Ref:
    """One stream, and no other that had or will have its path: `id` is the model's `Stream.id`."""

    path: str
    id: int


@dataclass(frozen=True, slots=True)
class SharedSegment:
    """The bytes of positions `start` to `end` (exclusive), which are stored with the stream `ref`."""

    ref: Ref
    start: int
    end: int


@dataclass(slots=True)
class StoredState:
    """A stream as it is stored at one moment.

    `token` names the last write, and belongs to this state alone. `revision` counts writes, for pushes. `absence` as in
    `View`, but never MISSING. `start` is the first own position, and what lies before is in `inherited`. `source` is
    the stream forked from. `expires` is the moment at which the storage forgets the stream, None: never.
    """

    stream: Stream
    revision: int
    token: str
    judged: AppendState
    start: int = 0
    inherited: tuple[SharedSegment, ...] = ()
    source: Ref | None = None
    expires: int | None = None
    absence: Verdict | None = None

    @classmethod
    def of_creation(cls, creation: "Creation", stream: Stream, expires: int | None) -> "StoredState":
        """The state after a creation."""
        judged = AppendState(stream.media, creation.tail, creation.spec.closed)
        return cls(stream, 0, creation.token, judged, creation.start, creation.inherited, creation.source, expires)


@dataclass(slots=True)
class Change:
    """One append as it is to be stored, in the state of `ref` that the token `expected` names.

    `token` will name the state after it. `tail` is the stream's end then, and `revision` its number. `forgets` is the
    producer that is forgotten for the new one. `closes` and `seq` as in `Append`. `is_first`: these are the first bytes
    of its own that the stream gets.
    """

    ref: Ref
    expected: str
    token: str
    revision: int
    tail: int
    pieces: Sequence[bytes] = ()
    closes: bool = False
    seq: str | None = None
    producer: ProducerStamp | None = None
    forgets: str | None = None
    is_first: bool = False


@dataclass(slots=True)
class Creation:
    """A stream as it is to be created on a path that is free. The storage gives it its id and its time."""

    path: str
    spec: Spec
    token: str
    pieces: Sequence[bytes] = ()
    start: int = 0
    tail: int = 0
    inherited: tuple[SharedSegment, ...] = ()
    source: Ref | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A write was stored. `id` and `created` are those of the stream, and `expires` as in `StoredState`."""

    id: int
    expires: int | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did. `done`: there was something to remove, or to mark as removed.

    `freed` is a source that loses a fork by it: `release` comes next.
    """

    done: bool
    freed: Ref | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """The bytes of a source are kept. When `is_longer` than before, its own source `source` must be, too."""

    is_longer: bool
    source: Ref | None


@dataclass(slots=True)
class News:
    """What a push says about a write: the state's number and what readers see afterwards.

    `data` holds the bytes that end at `tail`, when they are few enough to be pushed. `is_removed`: the path is free or
    held by forks; nothing else counts then.
    """

    id: int
    revision: int
    tail: int
    closed: bool = False
    is_removed: bool = False
    data: list[bytes] = field(default_factory=list)


class NewsListener(Protocol):
    """What a storage calls back, in the loop's thread."""

    def heard(self, path: str, news: News) -> None:
        """A push for a stream that is followed."""

    def missed(self, paths: Sequence[str]) -> None:
        """The connection that pushes come over was lost and is back: any number of pushes may be missing."""


class Backend(Protocol):
    """A storage that several processes share. Every method may raise Unavailable.

    A method that writes repeats its request by itself while it is safe and worth while: a change carries its token, so
    that one whose answer was lost is stored once. A cancelled call may have happened or not.
    """

    def now(self) -> int:
        """The storage's time as far as it is known here, in Unix milliseconds; it never goes back."""

    @property
    def is_full(self) -> bool:
        """Whether the last write was refused for want of room."""

    async def load(self, path: str, *, is_final: bool = False) -> StoredState | None:
        """The stream at `path` as it is now; None when there is none, or it has expired.

        `is_final`: an answer will rest on it, so that it must be as durable as an acknowledged write. The states that
        `create` and `commit` give are.
        """

    async def create(self, creation: Creation) -> Stored | StoredState:
        """Create a stream; the state of the one that is there instead."""

    async def commit(self, change: Change) -> Stored | StoredState | None:
        """Store a change. A state, or None for no stream: what it was made for is no longer the state."""

    async def touch(self, ref: Ref) -> int | None:
        """A TTL starts again; when the stream expires now. Nothing happens when there is no such stream."""

    async def remove(self, ref: Ref) -> Removed:
        """Remove a stream. While forks hold it, it is only marked as removed, and frees nothing."""

    async def hold(self, source: Ref, fork: str, until: int | None) -> Hold | None:
        """Keep the bytes of `source` at least until `until` (None: until `release`), for the fork at the path `fork`.

        None when they are not there. Called before the fork is created, and before its own expiry is moved.
        """

    async def release(self, source: Ref, fork: str) -> Removed:
        """The fork is gone; with the last one goes a source that was removed or has expired before."""

    async def pieces(self, ref: Ref, position: int, end: int, size: int) -> list[Piece]:
        """Pieces from `position` up to `end`, until `size` bytes are reached; the first one may begin earlier and the
        last one end later. None at all when the stream is not there.
        """

    async def boundary(self, ref: Ref, position: int) -> int | None:
        """The first place from `position` on where a piece ends; None when there is none."""

    async def rest_of_append(self, ref: Ref, position: int) -> list[Piece]:
        """The pieces of the append that `position` is in; the first one may begin earlier."""

    def listen(self, listener: NewsListener) -> None:
        """Where pushes go. Called once, before anything else."""

    async def follow(self, path: str) -> None:
        """Pushes of the stream at `path` come from now on, until `unfollow`."""

    def unfollow(self, path: str) -> None:
        """No more pushes; harmless when there were none."""

    async def aclose(self) -> None:
        """Close every connection. Nothing is left running."""
