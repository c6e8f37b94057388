"""Whether this machine's clock and storage's agree: a line in the log when they differ by too much.

Nothing that instances agree on by way of storage depends on a clock: leases are lengths of time (`relay.lease`). But
signed URLs and tokens carry dates, which each instance judges by its own clock, and a clock that is far off deserves to
be known.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

__all__ = ["ClockSettings", "Clocks"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClockSettings:
    """How clocks are compared; times in seconds."""

    clock_skew_seconds: float  # largest difference that is not reported
    clock_check_seconds: float  # pause between two comparisons


class Clocks:
    """Compares `wall` (Unix time in seconds) with the `Date` of storage's answers, now and then."""

    def __init__(self, wall: Callable[[], float], ticks: Callable[[], float], settings: ClockSettings) -> None:
        """`ticks`: seconds of a clock that only runs."""
        self._wall = wall
        self._ticks = ticks
        self._settings = settings
        self._next = ticks()
        self._is_reported = False

    def saw(self, date: bytes) -> None:
        """An answer of storage that has just come carries this `Date`."""
        if self._ticks() < self._next:
            return
        self._next = self._ticks() + self._settings.clock_check_seconds
        try:
            ahead = self._wall() - parsedate_to_datetime(date.decode("latin-1")).timestamp()
        except (ValueError, OverflowError):
            return
        is_skewed = abs(ahead) > self._settings.clock_skew_seconds
        if is_skewed and not self._is_reported:
            logger.warning(
                "this machine's clock is %d s %s storage's (signed URLs and tokens of other instances may be refused)",
                abs(ahead), "ahead of" if ahead > 0 else "behind",
            )  # fmt: skip
        elif self._is_reported and not is_skewed:
            logger.info("this machine's clock and storage's agree again")
        self._is_reported = is_skewed
