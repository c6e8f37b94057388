"""The part of HTTP/1.1 that the rig's own three parties speak. They expect correct peers.

Owns finding fields in a head and decoding a response's body. Input that it cannot read fails the run.
"""

from collections.abc import Callable
from enum import Enum, auto

__all__ = ["BrokenRun", "Chunks", "field", "number"]


class BrokenRun(Exception):
    """A run whose output is wrong, or that cannot go on. Its figures are void."""


def field(head: bytes, name: bytes) -> bytes | None:
    """The value of a field, None without it. `head` ends with its last CRLF; `name` is in lower case."""
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return None
    at += len(name) + 3
    return head[at : head.index(b"\r\n", at)].strip()


def number(head: bytes, name: bytes) -> int | None:
    """A field's value as a number."""
    value = field(head, name)
    return None if value is None else int(value)


class _At(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    LAST_LINE = auto()
    DONE = auto()


class Chunks:
    """Decodes a chunked body without trailers and hands its pieces to `deliver`."""

    def __init__(self, deliver: Callable[[memoryview], None]) -> None:
        self._deliver = deliver
        self._at = _At.SIZE
        self._left = 0
        self._line = b""

    @property
    def done(self) -> bool:
        """The last chunk has been read."""
        return self._at is _At.DONE

    def feed(self, data: bytes) -> None:
        """The next bytes from the wire."""
        view = memoryview(data)
        at = 0
        while at < len(data):
            if self._at is _At.DATA:
                end = min(at + self._left, len(data))
                self._deliver(view[at:end])
                self._left -= end - at
                at = end
                if not self._left:
                    self._at = _At.DATA_END
                continue
            end = data.find(b"\n", at) + 1
            if not end:
                self._line += data[at:]
                return
            self._end_of_line((self._line + data[at:end]).strip())
            self._line = b""
            at = end

    def _end_of_line(self, line: bytes) -> None:
        if self._at is _At.SIZE:
            self._left = int(line.partition(b";")[0], 16)
            self._at = _At.DATA if self._left else _At.LAST_LINE
        elif line or self._at is _At.DONE:
            raise BrokenRun(f"not a chunked body: {line[:40]!r}")
        else:
            self._at = _At.DONE if self._at is _At.LAST_LINE else _At.SIZE
