"""RESP, the protocol of Redis and Valkey: commands to bytes, and bytes to replies (RESP2 and RESP3).

Replies become None, int, float, bool, bytes and lists of these; a map is a flat list of its keys and values. An error
is a value of its own class, because one inside an array is no reason to stop.
"""

from collections.abc import Sequence
from typing import Union

__all__ = ["Malformed", "Parser", "Push", "Reply", "ServerError", "encoded"]

Argument = bytes | str | int


class Malformed(Exception):
    """What came is not RESP."""


class ServerError(Exception):
    """The server's error reply; `code` is its first word, such as MOVED, READONLY or OOM."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


class Push(list["Reply"]):
    """What the server sends unasked."""


Reply = Union[None, int, float, bytes, ServerError, list["Reply"]]  # noqa: UP007  # `|` takes no forward reference

_LONGEST_LINE = 64 << 10  # bytes of a line; a server's errors and numbers are far shorter
_DEEPEST = 32  # levels of arrays in arrays


def encoded(arguments: Sequence[Argument]) -> bytes:
    """A command as an array of strings."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, int):
            argument = b"%d" % argument  # noqa: PLW2901  # its spelling
        elif isinstance(argument, str):
            argument = argument.encode("latin-1")  # noqa: PLW2901  # the same
        parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
    return b"".join(parts)


class _Incomplete(Exception):
    """More bytes are needed."""


class Parser:
    """Replies from the bytes of one connection, however they are cut."""

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of what was not parsed yet
        self._wanted = 0  # bytes from there on, without which another try is in vain

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete with `data`. Raises Malformed."""
        data = self._data = self._data[self._start :] + data if self._start < len(self._data) else data
        here = self._start = 0
        replies: list[Reply] = []
        if len(data) < self._wanted:
            return replies
        self._wanted = 0
        try:
            while here < len(data):
                reply, here = self._parse(here, 0)
                self._start = here
                replies.append(reply)
        except _Incomplete:
            pass
        return replies

    def _line(self, here: int) -> tuple[bytes, int]:
        end = self._data.find(b"\r\n", here)
        if end < 0:
            if len(self._data) - here > _LONGEST_LINE:
                raise Malformed("a line without an end")
            raise _Incomplete
        return self._data[here:end], end + 2

    def _parse(self, here: int, depth: int) -> tuple[Reply, int]:
        kind = self._data[here]
        line, here = self._line(here + 1)
        try:
            if kind == 0x3A:  # :
                return int(line), here
            if kind == 0x24:  # $
                return self._string(int(line), here)
            if kind == 0x2B:  # +
                return line, here
            if kind == 0x2D:  # -
                return ServerError(line.decode("utf-8", "replace")), here
            if kind in b"*~>":
                return self._array(int(line), here, depth, Push() if kind == 0x3E else [])
            if kind in b"%|":
                found, here = self._array(2 * int(line), here, depth, [])
                return (found, here) if kind == 0x25 else self._parse_more(here, depth)
            return self._rare(kind, line, here)
        except ValueError:
            raise Malformed(f"{line[:40]!r} is not a number") from None

    def _parse_more(self, here: int, depth: int) -> tuple[Reply, int]:
        """What follows an attribute, which says something about it and is left out."""
        if here >= len(self._data):
            raise _Incomplete
        return self._parse(here, depth)

    def _string(self, length: int, here: int) -> tuple[Reply, int]:
        if length < 0:
            return None, here
        end = here + length
        if end + 2 > len(self._data):
            self._wanted = max(self._wanted, end + 2 - self._start)
            raise _Incomplete
        if self._data[end : end + 2] != b"\r\n":
            raise Malformed("a string without its end")
        return self._data[here:end], end + 2

    def _array(self, length: int, here: int, depth: int, found: list[Reply]) -> tuple[Reply, int]:
        if length < 0:
            return None, here
        if depth >= _DEEPEST:
            raise Malformed("arrays in arrays without end")
        for _ in range(length):
            if here >= len(self._data):
                raise _Incomplete
            reply, here = self._parse(here, depth + 1)
            found.append(reply)
        return found, here

    def _rare(self, kind: int, line: bytes, here: int) -> tuple[Reply, int]:
        """Types of RESP3 that our commands seldom or never get."""
        if kind == 0x5F:  # _
            return None, here
        if kind == 0x23:  # #
            return line == b"t", here
        if kind == 0x2C:  # ,
            return float(line), here
        if kind == 0x28:  # (
            return int(line), here
        if kind in b"=!":
            text, here = self._string(int(line), here)
            if not isinstance(text, bytes):
                return text, here
            return (text[4:] if kind == 0x3D else ServerError(text.decode("utf-8", "replace"))), here
        raise Malformed(f"no reply begins with {kind:#04x}")
