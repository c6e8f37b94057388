"""The clocks of a store: one for lifetimes, which only runs, and one for dates, which somebody may set.

A lifetime (`Stream-TTL`) is a length of time. Proxies find dead instances by it, so it must not depend on whether the
machine's clock is right: it is measured by a clock that runs evenly while the store is open. A date
(`Stream-Expires-At`) means what the machine's clock says.
"""

from collections.abc import Callable

__all__ = ["StoreClock"]


class StoreClock:
    """`wall` is Unix time and may jump; `ticks` only runs. Both in seconds."""

    def __init__(self, wall: Callable[[], float], ticks: Callable[[], float]) -> None:
        self._wall = wall
        self._ticks = ticks
        self._start = wall() - ticks()
        self._latest = 0

    def now(self) -> int:
        """Unix milliseconds for lifetimes: `wall` when the clock was made, and what has passed since by `ticks`."""
        return int((self._start + self._ticks()) * 1000)

    def date(self) -> int:
        """Unix milliseconds for dates. Never goes back: what has expired stays expired when `wall` is set back."""
        self._latest = max(self._latest, int(self._wall() * 1000))
        return self._latest
