"""Server-sent events from bytes (WHATWG HTML section 9.2): any split of the same bytes gives the same events.

An event counts when its blank line has arrived. One that was cut off is dropped with its decoder. No I/O.
"""

import re
from dataclasses import dataclass

__all__ = ["Event", "EventDecoder", "EventTooLarge"]

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(Exception):
    """An event is larger than the decoder's limit."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type ("message" when it names none) and its data, with lines joined by LF."""

    name: bytes
    data: bytes


class EventDecoder:
    """Bytes in, whole events out. Comments, `id` and `retry` fields are ignored: the protocol gives them no meaning.

    `max_bytes` bounds what is held: the line that is not complete and the event's data lines.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._line: list[bytes] = []  # pieces of a line whose end has not arrived
        self._size = 0  # bytes held, in the line and in the event's data
        self._skip_lf = False  # the last piece ended with CR, so an LF that follows belongs to it
        self._started = False
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises EventTooLarge above `max_bytes`."""
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        if b"\n" not in data and b"\r" not in data:
            self._keep(data)
            return []
        *lines, rest = _LINE_END.split(b"".join([*self._line, data]))
        self._skip_lf = data.endswith(b"\r")
        self._line = []
        events = [event for line in lines if (event := self._end_of_line(line)) is not None]
        self._size = sum(map(len, self._data))
        self._keep(rest)
        return events

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._size += len(piece)
        if self._size > self._max_bytes:
            raise EventTooLarge

    def _end_of_line(self, line: bytes) -> Event | None:
        if not self._started:
            self._started = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            event = Event(self._name or b"message", b"\n".join(self._data)) if self._data else None
            self._name, self._data = b"", []
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        return None
