"""Cursors: a live reader sends back the cursor of its last response (protocol section on cursors).

Readers with the same cursor ask for the same URL, so a cache between us can answer all of them with one request. A
cursor is the number of an interval of time. A reader always gets a later cursor than the one it sent: otherwise a cache
would answer its next request with the same response, for ever.
"""

import random
import re

__all__ = ["next_cursor"]

_EPOCH = 1_728_432_000  # Unix seconds of 2024-10-09T00:00:00Z, from which the protocol counts intervals
_LONGEST_JUMP = 3600  # seconds, from the protocol
_CURSOR = re.compile(r"[0-9]{1,18}")


def next_cursor(sent: str | None, now: float, interval: int) -> str:
    """The cursor at Unix time `now` for a reader that sent `sent`: always later than what it sent."""
    current = int((now - _EPOCH) // interval)
    if sent is None or not _CURSOR.fullmatch(sent) or int(sent) < current:
        return str(current)
    jump = random.randint(1, _LONGEST_JUMP)  # noqa: S311  # spreads readers, guards nothing
    return str(int(sent) + max(1, -(-jump // interval)))
