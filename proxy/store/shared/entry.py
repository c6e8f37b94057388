"""A stream in the memory of one process, whose storage others write, too.

Two states of it are kept apart, and they drift apart on purpose:

- What readers see: `tail`, `closed`, `absence`, up to the write number `seen`. Pushes of other processes move it.
- What appends are judged by: `judged`, in the state that `token` names, after the write number `revision`. Only what
  this process has loaded, or stored itself, moves it. A push says nothing of producers, so no append can be judged by
  it.

`judged` may be old. Then storage refuses the write, and the append is judged again by the state that comes with the
refusal. So an old state costs a request, never a wrong answer.
"""

import asyncio

from proxy.store.model import Stream, Verdict, View
from proxy.store.recent import Tail
from proxy.store.rules import AppendState
from proxy.store.shared.backend import Ref, SharedSegment, StoredState
from proxy.store.waiting import Waiter

__all__ = ["SharedEntry"]


class SharedEntry:
    """One stream. `expires` is when storage forgets it, by storage's clock, as far as it is known here.

    `followers` counts the readers that wait for it, and `is_followed` says that pushes of it come. `lock` is held by
    the append that is on its way: appends of one process to one stream follow each other.
    """

    __slots__ = (
        "__weakref__", "absence", "closed", "expires", "followers", "inherited", "is_followed", "judged", "lock",
        "recent", "ref", "revision", "seen", "source", "start", "stream", "tail", "token", "view", "waiters",
    )  # fmt: skip

    def __init__(self, state: StoredState) -> None:
        stream = state.stream
        self.stream: Stream = stream
        self.ref = Ref(stream.path, stream.id)
        self.start = state.start
        self.inherited = state.inherited
        self.source = state.source
        self.tail = state.start
        self.closed = False
        self.absence: Verdict | None = None
        self.view: View | None = None  # of these three; made when a reader looks
        self.seen = -1
        self.judged: AppendState | None = None
        self.token = ""
        self.revision = 0
        self.expires: int | None = None
        self.lock = asyncio.Lock()
        self.followers = 0
        self.is_followed = False
        self.waiters: set[Waiter] = set()
        self.recent = Tail()
        self.judge_by(state)
        self.show(state.revision, state.judged.tail, closed=state.judged.closed)
        self.absence = state.absence

    def judge_by(self, state: StoredState) -> None:
        """The next append is judged by `state`, which storage has just given."""
        self.judged = state.judged
        self.token = state.token
        self.revision = state.revision
        self.expires = state.expires

    def show(self, revision: int, tail: int, *, closed: bool) -> None:
        """Let readers see the stream as it is after the write number `revision`: it is stored."""
        self.seen = revision
        self.tail = tail
        self.closed = closed
        self.view = None

    def lose(self, absence: Verdict) -> None:
        """Let readers see that the stream was removed; `absence` as in `View`."""
        self.absence = absence
        self.view = None
        self.wake()

    def look(self) -> View:
        """What readers see."""
        view = self.view
        if view is None:
            view = self.view = View(self.stream, self.tail, self.closed, self.absence)
        return view

    def segments(self, end: int) -> tuple[SharedSegment, ...]:
        """Where the bytes up to `end` are stored, in order."""
        return (*self.inherited, SharedSegment(self.ref, self.start, end))

    def wake(self) -> None:
        """Something changed: everyone who waits looks again."""
        for waiter in self.waiters:
            waiter.wake()
