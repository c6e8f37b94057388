"""Work that can wait: some of it at a time, with a pause for what is urgent.

The pause is real time, not a turn of the event loop: a loop that is never idle never lets go of the interpreter, so
that the thread that writes the store would wait for its switch interval at each step.
"""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Calls that wait for their turn, in the order in which they came."""

    def __init__(self, at_once: int, pause_seconds: float) -> None:
        """At most `at_once` calls are made together; the next ones no sooner than `pause_seconds` later."""
        self._at_once = at_once
        self._pause = pause_seconds
        self._waiting: deque[Callable[[], None]] = deque()
        self._next_at = 0.0  # in the loop's time
        self._is_scheduled = False

    def wait(self, call: Callable[[], None]) -> None:
        """Make `call` when its turn comes, not before this returns. It is made even if nobody wants it any more."""
        self._waiting.append(call)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            loop = asyncio.get_running_loop()
            if (delay := self._next_at - loop.time()) > 0:
                loop.call_later(delay, self._run)
            else:
                loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        self._next_at = asyncio.get_running_loop().time() + self._pause
        try:
            for _ in range(min(self._at_once, len(self._waiting))):
                self._waiting.popleft()()
        finally:
            self._schedule()
