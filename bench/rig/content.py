"""What the streams carry, and the checks of what arrives. Owns bytes, knows no HTTP.

Two kinds. A *flat* body is a function of (index, offset): a label that names the index, then text out of one pool,
begun at another place for each index, so that a byte lost, doubled or swapped between streams shows. A *timed* body
is a run of events of 100 bytes that carry their index, their number and the moment they were written.
"""

import base64
import random
from collections.abc import Iterator
from typing import Protocol

__all__ = ["EVENT", "LABEL", "Check", "FlatCheck", "TimedCheck", "flat", "timed_event"]

EVENT = 100
LABEL = 16
_PERIOD = 1_048_573  # a prime just under 1 MiB: the pool stays in the cache, and no power of two divides it
_POOL = base64.b64encode(random.Random(1).randbytes(_PERIOD))[:_PERIOD] * 2
_VIEW = memoryview(_POOL)
_PAD = b"." * (EVENT - len(b"data: 0000000 0000000 00000000000000000000 \n\n"))


def _phase(index: int) -> int:
    return index * 7919 % _PERIOD


def flat(index: int, length: int, offset: int = 0) -> Iterator[memoryview]:
    """The bytes of flat body `index` from `offset` to `length`, as slices of the pool (the label apart)."""
    if offset < min(LABEL, length):
        yield memoryview(b"%015d\n" % index)[offset:length]
        offset = LABEL
    phase = _phase(index)
    while offset < length:
        at = (phase + offset) % _PERIOD
        size = min(length - offset, _PERIOD)
        yield _VIEW[at : at + size]
        offset += size


def timed_event(index: int, number: int, now: int) -> bytes:
    """One event of 100 bytes, written at `now` (monotonic, nanoseconds)."""
    return b"data: %07d %07d %020d %b\n\n" % (index, number, now, _PAD)


class Check(Protocol):
    """Gets a stream's bytes as they arrive, and remembers whether they were right."""

    index: int
    received: int
    intact: bool

    def feed(self, data: memoryview, now: int) -> None:
        """The next bytes, arrived at `now` (monotonic, nanoseconds)."""


class FlatCheck:
    """Compares bytes with the flat body that their label names. `index` is -1 until the label is whole."""

    __slots__ = ("_label", "_phase", "index", "intact", "received")

    def __init__(self) -> None:
        self._label = b""
        self._phase = 0
        self.index = -1
        self.received = 0
        self.intact = True

    def feed(self, data: memoryview, now: int) -> None:
        """Compares in place, without copying."""
        if len(self._label) < LABEL:
            missing = LABEL - len(self._label)
            self._label += bytes(data[:missing])
            self.received += min(missing, len(data))
            data = data[missing:]
            if len(self._label) == LABEL:
                self._read_label()
        while len(data):
            piece = data[:_PERIOD]
            if not _POOL.startswith(piece, (self._phase + self.received) % _PERIOD):
                self.intact = False
            self.received += len(piece)
            data = data[_PERIOD:]

    def _read_label(self) -> None:
        try:
            self.index = int(self._label)
        except ValueError:
            self.intact = False
        self._phase = _phase(self.index)


class TimedCheck:
    """Compares bytes with a timed body, and notes the age of each event when its last byte arrived."""

    __slots__ = ("_partial", "events", "index", "intact", "latencies", "received")

    def __init__(self, latencies: list[int]) -> None:
        self._partial = b""
        self.index = -1
        self.events = 0
        self.received = 0
        self.intact = True
        self.latencies = latencies

    def feed(self, data: memoryview, now: int) -> None:
        """Appends each whole event's age, in nanoseconds, to `latencies`."""
        self.received += len(data)
        whole = self._partial + bytes(data)
        end = len(whole) - len(whole) % EVENT
        for at in range(0, end, EVENT):
            self._event(whole[at : at + EVENT], now)
        self._partial = whole[end:]

    def _event(self, event: bytes, now: int) -> None:
        try:
            index, number, written = int(event[6:13]), int(event[14:21]), int(event[22:42])
        except ValueError:
            self.intact = False
            return
        if self.index < 0:
            self.index = index
        if (index, number) != (self.index, self.events) or event != timed_event(index, number, written):
            self.intact = False
        self.events += 1
        self.latencies.append(now - written)
