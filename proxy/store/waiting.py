"""Waiting for the next change of something in memory: many may wait, each with a deadline of its own."""

import asyncio
from typing import Protocol

__all__ = ["Waiter", "Watched"]


class Watched(Protocol):
    """What can be waited for: it wakes its waiters when it changes."""

    waiters: "set[Waiter]"


class Waiter:
    """Waits for the next change of one thing, one wait at a time.

    The caller looks at the thing, then awaits `changed`, then looks again. Nothing is lost in between: the look and the
    start of the wait happen in the loop's thread without an await. A wake-up says only that something may have
    changed, so a surplus one is harmless.
    """

    __slots__ = ("_future", "_watched")

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End the wait that is in progress, if any."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def changed(self, seconds: float | None) -> None:
        """Return at the next change, or after `seconds`. A cancelled wait leaves nothing behind."""
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), self.wake) if seconds is not None else None
        self._watched.waiters.add(self)
        try:
            await self._future
        finally:
            self._watched.waiters.discard(self)
            self._future = None
            if timer is not None:
                timer.cancel()
