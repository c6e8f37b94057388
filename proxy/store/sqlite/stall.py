"""Whether the disk takes writes. A disk that hangs answers nothing, not even an error, so only time tells."""

import asyncio
import logging
from collections.abc import Callable

__all__ = ["Stall"]

logger = logging.getLogger(__name__)


class Stall:
    """The disk is stalled when no write was settled for `seconds` although some are on their way.

    `began` is called at the start of each stall. One timer serves all writes; it looks only when it rings.
    """

    def __init__(self, seconds: float, began: Callable[[], None]) -> None:
        self._seconds = seconds
        self._began = began
        self._loop = asyncio.get_running_loop()
        self._writes = 0  # on their way
        self._since = 0.0  # the last write was settled, or the first one handed over
        self._timer: asyncio.TimerHandle | None = None
        self.is_stalled = False

    def handed_over(self, count: int) -> None:
        """So many writes are on their way to the disk from now on."""
        if not self._writes:
            self._since = self._loop.time()
        self._writes += count
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def settled(self, count: int) -> None:
        """So many writes are on disk, or have failed."""
        self._writes -= count
        self._since = self._loop.time()
        if self.is_stalled:
            self.is_stalled = False
            logger.warning("the disk answers again")

    def _look(self) -> None:
        timer, self._timer = self._timer, None
        if not self._writes:
            return
        now, due = self._loop.time(), self._since + self._seconds
        if timer is not None and now - timer.when() > self._seconds / 4:
            due = now + self._seconds  # this process itself was stopped: what was settled meanwhile is not known yet
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self.is_stalled = True
        logger.error("the disk has not answered for %g s (writes get 503 until it does)", self._seconds)
        self._began()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
