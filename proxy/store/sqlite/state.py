"""A stream in the engine's memory, and the readers that wait for it. Used by the event loop's thread only; nothing
above the port sees an entry.

Two states of the same stream are kept apart. `tail`, `closed` and `absence` are what readers see: it is on disk. `next`
is what the next append is judged by: the state after every write that is on its way to the disk. When a commit
succeeds, what readers see follows; when one fails, `next` is wrong and is read again from the database (`suspect`).
`commits` has the argument.
"""

from dataclasses import dataclass

from proxy.store.model import Stream, Verdict, View
from proxy.store.recent import Tail
from proxy.store.rules import AppendState
from proxy.store.waiting import Waiter

__all__ = ["Entry", "Segment"]

_TTL_SLACK = 8  # the stored expiry is an eighth of the TTL too late, so that few reads cause a write


@dataclass(frozen=True, slots=True)
class Segment:
    """The bytes of positions `start` to `end` (exclusive), which are stored under the stream number `stream`."""

    stream: int
    start: int
    end: int


class Entry:
    """One stream. `start` is its first own position: a fork shares what lies before it, in the segments `inherited`.

    `expires` (Unix milliseconds) is when the stream expires, None: never. `expires_kept` is what is stored: later than
    `expires` for a TTL, because a touch is written down only when the stored time would be too early. After a crash a
    stream may therefore live an eighth of its TTL longer, but never shorter.

    `queued` and `settled` count writes: those between the two are on their way to the disk. `failures` counts failed
    commits that this stream was part of. `removing`: a removal is on its way.
    """

    __slots__ = (
        "__weakref__", "absence", "closed", "expires", "expires_kept", "failures", "inherited", "next", "queued",
        "recent", "removing", "settled", "start", "stream", "suspect", "tail", "view", "waiters",
    )  # fmt: skip

    def __init__(self, stream: Stream, start: int = 0, inherited: tuple[Segment, ...] = ()) -> None:
        self.stream = stream
        self.start = start
        self.inherited = inherited
        self.tail = start
        self.closed = False
        self.absence: Verdict | None = None
        self.view: View | None = (
            None  # of the three above; made only when a reader looks, because appends do not need it
        )
        self.next = AppendState(stream.media, start)
        self.expires: int | None = None
        self.expires_kept: int | None = None
        self.queued = self.settled = 0
        self.failures = 0
        self.removing = False
        self.suspect: object | None = None  # set after a failed commit: a new object each time
        self.waiters: set[Waiter] = set()
        self.recent = Tail()

    def look(self) -> View:
        """What readers see now."""
        view = self.view
        if view is None:
            view = self.view = View(self.stream, self.tail, self.closed, self.absence)
        return view

    def show(self, tail: int, *, closed: bool) -> None:
        """Let readers see the stream up to `tail`: it is on disk."""
        self.tail = tail
        self.closed = closed
        self.view = None

    def lose(self, absence: Verdict) -> None:
        """Let readers see that the stream was removed; `absence` as in `View`."""
        self.absence = absence
        self.view = None

    def segments(self, end: int) -> tuple[Segment, ...]:
        """Where the bytes up to `end` are stored, in order."""
        return (*self.inherited, Segment(self.stream.id, self.start, end))

    def touch(self, now: int) -> int | None:
        """Restart the TTL at `now`. Returns the expiry to store, or None when the stored one is late enough."""
        ttl = self.stream.ttl
        if ttl is None:
            return None
        self.expires = now + ttl * 1000
        if self.expires_kept is not None and self.expires <= self.expires_kept:
            return None
        self.expires_kept = self.expires + ttl * 1000 // _TTL_SLACK
        return self.expires_kept

    def bound_expiry(self, now: int) -> None:
        """A stream that was loaded at `now` has no longer to live than its TTL allows.

        What is stored was measured by an earlier process, whose clock may have been ahead of this one's by hours.
        """
        ttl = self.stream.ttl
        if ttl is not None and self.expires is not None:
            self.expires = min(self.expires, now + ttl * 1000 + ttl * 1000 // _TTL_SLACK)

    def wake(self) -> None:
        """Something changed: every waiting reader looks again."""
        for waiter in self.waiters:
            waiter.wake()
