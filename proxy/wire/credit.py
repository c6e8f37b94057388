"""Credit of HTTP/2, on the receiving side (RFC 9113 section 5.2): how much the peer may still send.

Two windows stand between a sender and a receiver: one for each exchange and one for the connection. A byte of DATA,
padding included, uses both.

What was received is returned in large steps, not byte by byte, because each step is a frame. A held window returns
nothing: its peer sends what it still may, then waits. So what one exchange has in memory is bounded by its window and
by the mark at which its consumer asks for the hold.
"""

__all__ = ["Credit"]


_INITIAL = 65_535
"""A peer that has not read our SETTINGS may use this window, whatever they say (section 6.9.2)."""


class Credit:
    """A window that we give the peer: at most `size` bytes that have not been returned, or the initial window."""

    __slots__ = ("_is_held", "_limit", "_step", "_used")

    def __init__(self, size: int) -> None:
        self._limit = max(size, _INITIAL)
        self._step = max(size // 2, 1)
        self._used = 0  # received and not returned
        self._is_held = False

    def receive(self, count: int) -> int:
        """A frame uses `count` bytes: how many are `due` to be returned then, -1 when the peer had not so many."""
        used = self._used = self._used + count
        if used < self._step:
            return 0
        return self.due() if used <= self._limit else -1

    def due(self) -> int:
        """Bytes that are to be returned now: 0, or at least half of the window. They count as returned."""
        if self._used < self._step or self._is_held:
            return 0
        due, self._used = self._used, 0
        return due

    def hold(self) -> None:
        """Return nothing for now."""
        self._is_held = True

    def release(self) -> None:
        """Return again what is received; `due` says what has gathered meanwhile."""
        self._is_held = False
