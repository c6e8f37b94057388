"""Cursors: what a live reader sends back, so that a cache between us collapses readers but never loops.

A cursor is the number of an interval of time; one that the reader has sent already is answered with a later one.
"""

import random
import re

__all__ = ["next_cursor"]

_EPOCH = 1_728_432_000  # 2024-10-09T00:00:00Z in Unix seconds, the protocol's (section on cursors)
_LONGEST_JUMP = 3600  # seconds, the protocol's
_CURSOR = re.compile(r"[0-9]{1,18}")


def next_cursor(sent: str | None, now: float, interval: int) -> str:
    """The cursor at Unix time `now` for a reader that sent `sent`: always later than what it sent."""
    current = int((now - _EPOCH) // interval)
    if sent is None or not _CURSOR.fullmatch(sent) or int(sent) < current:
        return str(current)
    jump = random.randint(1, _LONGEST_JUMP)  # noqa: S311  # spreads readers, guards nothing
    return str(int(sent) + max(1, -(-jump // interval)))
