"""A body that a connection feeds and a handler takes. Owns back-pressure, the size limit and the memory budget.

Bytes of a body are in memory from the moment they are read until their taker is done with them. Two marks bound them:

- `high_water`, of one pipe. A pipe whose waiting bytes reach it pauses its source. One more read may be under way
  then, so a pipe holds at most the mark and one read.
- the `Budget`, of all pipes of one kind. While more than its limit is in use, every pipe that is fed pauses its
  source. So the total exceeds the limit by at most one read for each source.

A paused source goes on only when its taker comes again, finds nothing, *and* the budget has room:

- The taker comes again: until then it may still hold what it took last (an append that storage has not acknowledged),
  so these bytes stay counted (`_lent`), and reading more would double what one body may use.
- The budget has room: otherwise the pipe waits in the budget's list, and the first return of bytes that brings the
  budget below its limit wakes all that wait. Each of them reads once before it is asked again; a pipe without a waiting
  taker stays paused and is asked by its next `take`.

Nothing can wait for ever: bytes in use belong to takers that will take, append and come again, or close. A taker that
is stuck is ended by the deadline of what it waits for, and closes its body; `close` returns everything.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from proxy.http.body import BodyError, Cut
from proxy.wire.events import Buffer, first_bytes

__all__ = ["Budget", "Pipe", "PipeLimits", "Source"]

_BUFFER_OVERHEAD = 64  # bytes of memory that a small buffer needs in addition to its payload


class Source(Protocol):
    """What feeds a pipe: usually a connection."""

    def pause(self) -> None:
        """Stop feeding, until `resume`."""

    def resume(self) -> None:
        """Feed again."""

    def body_cut(self) -> None:
        """The consumer takes no more: close the connection, or drop what still arrives."""


class Budget:
    """Bytes that all pipes of one kind together may hold: those that wait, and those that takers still use.

    When more are in use, every pipe that is fed pauses its source.
    """

    __slots__ = ("_limit", "_paused", "used")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        self._paused: set[Pipe] = set()

    def take(self, pipe: "Pipe", size: int) -> bool:
        """Account for `size` bytes; False when `pipe` must pause until the budget has room."""
        self.used += size
        return self.admits(pipe)

    def admits(self, pipe: "Pipe") -> bool:
        """Whether `pipe` may be fed again. If not, its `budget_has_room` is called later."""
        if self.used <= self._limit:
            return True
        self._paused.add(pipe)
        return False

    def give(self, pipe: "Pipe", size: int) -> None:
        """Return `size` bytes of `pipe`. Pipes that wait for room go on when there is some."""
        self._paused.discard(pipe)
        self.hold(-size)

    def hold(self, size: int) -> None:
        """Account for `size` bytes that are held outside any pipe. A negative `size` returns them."""
        self.used += size
        if self._paused and self.used <= self._limit:
            waiting, self._paused = self._paused, set()
            for other in waiting:
                other.budget_has_room()


@dataclass(frozen=True, slots=True)
class PipeLimits:
    """`high_water`: waiting bytes at which a pipe pauses its source; `budget`: the bytes of all pipes together."""

    high_water: int
    budget: Budget


class Pipe:
    """A `Body` between one source and one taker.

    A paused source goes on when the taker comes again and finds nothing. Until then the taker may still hold what it
    took. So the budget counts what the last `take` returned until the next one begins, or until `close`.

    Exactly `max_bytes` of the body may pass. One more byte cuts the body with `Cut.LIMIT` as soon as it is fed.
    """

    __slots__ = (
        "_cut",
        "_ended",
        "_left",
        "_lent",
        "_limits",
        "_parts",
        "_paused",
        "_size",
        "_source",
        "_waiter",
        "length",
    )  # fmt: skip

    length: int | None

    def __init__(
        self, source: Source, limits: PipeLimits, length: int | None = None, max_bytes: int | None = None
    ) -> None:
        self._source: Source | None = source
        self._limits = limits
        self.length = length
        self._parts: list[Buffer] = []
        self._size = 0  # bytes that wait, with overhead, as the budget counts them
        self._lent = 0  # bytes of the last take, with overhead, which the taker may still hold
        self._left = max_bytes  # bytes that may still be fed, None: no limit
        self._cut: Cut | None = None
        self._ended = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, parts: list[Buffer]) -> None:
        """Bytes arrived. Those beyond the limit are dropped, and the source is stopped."""
        if self._ended:
            return
        size = sum(map(len, parts))
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                size += self._left
                parts = list(first_bytes(parts, size))
        weight = size + _BUFFER_OVERHEAD * len(parts)
        self._parts += parts
        self._size += weight
        if not self._limits.budget.take(self, weight) or self._size >= self._limits.high_water:
            self._pause()
        self._wake()
        if self._left is not None and self._left < 0:
            self.abort(Cut.LIMIT)

    def end(self) -> None:
        """The source has sent everything: the body is whole."""
        self._finish(None)

    def fail(self, cut: Cut) -> None:
        """The source was lost before the end."""
        self._finish(cut)

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Stop the source. Bytes that have arrived can still be taken."""
        source = self._source
        if not self._ended and source is not None:
            self._finish(cut)
            source.body_cut()

    def close(self) -> None:
        """Stop the source, drop the bytes that have arrived, and return those that the taker held."""
        self.abort()
        if self._parts:
            self._cut = Cut.ABORTED  # a later take must not see a whole body
            size, self._parts, self._size = self._size, [], 0
            self._limits.budget.give(self, size)
        self._returned()

    def _finish(self, cut: Cut | None) -> None:
        if not self._ended:
            self._ended = True
            self._cut = cut
            source, self._source = self._source, None
            if self._paused and source is not None:
                source.resume()  # something else may follow this body on the connection
            self._wake()

    def _returned(self) -> None:
        """The taker no longer holds what it took last."""
        if self._lent:
            lent, self._lent = self._lent, 0
            self._limits.budget.give(self, lent)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        if not self._paused and self._source is not None:
            self._paused = True
            self._source.pause()

    def budget_has_room(self) -> None:
        """The budget of all pipes has room again."""
        if self._waiter is not None:
            self._resume()

    def _resume(self) -> None:
        """Resume the source: no bytes wait here, and the taker holds none."""
        if self._paused and self._limits.budget.admits(self):
            self._paused = False
            if self._source is not None:
                self._source.resume()

    @property
    def ended(self) -> bool:
        """Whether the body is whole and everything was taken."""
        return self._ended and self._cut is None and not self._parts

    async def take(self) -> tuple[Buffer, ...]:
        """All buffers that wait, or the next ones; () at the end. Raises BodyError when the body was cut."""
        self._returned()
        while not self._parts:
            if self._ended:
                if self._cut is not None:
                    raise BodyError(self._cut)
                return ()
            self._resume()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._lend()

    def take_nowait(self) -> tuple[Buffer, ...]:
        """All buffers that wait; () when there are none. Raises BodyError when the body was cut."""
        self._returned()
        if not self._parts and self._cut is not None:
            raise BodyError(self._cut)
        return self._lend()

    def _lend(self) -> tuple[Buffer, ...]:
        parts = tuple(self._parts)
        self._lent, self._parts, self._size = self._size, [], 0
        return parts
