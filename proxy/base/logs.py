"""What a fault repeats is logged once a minute: a filter for the handlers of a process of our own.

A fault of storage or of a peer meets every request, and a log that grows with the load hides what else is in it. Lines
count as one kind when they come from the same call, whatever is put into them. Of each kind some pass in a minute, and
of equal lines one. The next line that passes says how many were left out.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["LogLimits", "Repeats"]


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of what is repeated is logged."""

    log_window_seconds: float  # time for which lines of a kind are counted together
    log_lines: int  # different lines of a kind that pass in that time


@dataclass(slots=True)
class _Kind:
    until: float
    passed: set[str] = field(default_factory=set)
    left_out: int = 0


class Repeats(logging.Filter):
    """Lets a record pass, with the number of those left out before it, or counts it."""

    def __init__(self, limits: LogLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        super().__init__()
        self._limits = limits
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}  # as many as there are calls in the code

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record. Called by handlers, each under its lock."""
        now, text = self._clock(), record.getMessage()
        kind = self._kinds.setdefault((record.name, str(record.msg)), _Kind(now + self._limits.log_window_seconds))
        left_out = 0
        if now >= kind.until:
            kind.until, left_out = now + self._limits.log_window_seconds, kind.left_out
            kind.passed, kind.left_out = set(), 0
        if text in kind.passed or len(kind.passed) >= self._limits.log_lines:
            kind.left_out += 1
            return False
        kind.passed.add(text)
        if left_out:
            record.msg, record.args = f"{text} ({left_out} lines like this were left out before it)", None
        return True
