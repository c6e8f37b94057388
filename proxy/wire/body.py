"""Body framing of HTTP/1.1, received (RFC 9112 sections 6 and 7). Owns where a body's bytes are and where it ends.

Received buffers pass through as slices; only tiny ones are copied, once, where that is cheaper than many buffers.
Refuses what RFC 9112 merely discourages: bare line feeds, long chunk extensions, and in requests blanks after a size.
In responses those blanks are read over, as other clients do: the framing stays unambiguous.
A decoder never raises on what it is fed: what it decoded is returned, and `failed` says what was wrong after it.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from proxy.wire.events import Buffer, HeadLimits, PeerError
from proxy.wire.grammar import TCHAR

__all__ = ["BodyDecoder", "ChunkedDecoder", "LengthDecoder", "UntilCloseDecoder"]

_SMALL = 2048
"""Bytes. Slices below are copied and joined with their neighbours: measured, cheaper than a view and an iovec each."""

_CRLF = b"\r\n"
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_MAX_DIGITS = 16
_EXTENSION = rb";[\x20-\x7e\x80-\xff]{0,255}"
_BLANKS = rb"[\t ]{0,256}"


class _SizeLine(NamedTuple):
    """What a chunk's size line may look like: the whole line without its CRLF, and the beginning of one."""

    whole: re.Pattern[bytes]
    begun: re.Pattern[bytes]


def _size_line(after_size: bytes) -> _SizeLine:
    size = rb"([0-9A-Fa-f]{1,16})(?:%b)?" % after_size
    return _SizeLine(re.compile(size), re.compile(rb"(?:%b\r?)?" % size))


_STRICT = _size_line(_EXTENSION)
_LENIENT = _size_line(_EXTENSION + b"|" + _BLANKS)
_SIZE_LINE_BYTES = _MAX_DIGITS + 256 + len(_CRLF)
_SIZES = {form % size: size for size in range(1, 1024) for form in (b"%x", b"%X")}
"""The size lines that tokens have: one look-up in place of a check and a conversion."""
_TRAILER = re.compile(TCHAR + rb"++:[\t\x20-\x7e\x80-\xff]*+")
_BROKEN_LINE = re.compile(rb"(?<!\r)\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class BodyDecoder(Protocol):
    """Takes what was received, gives the payload. Neither method is called after the end or a failure."""

    done: bool
    """The body has ended as its framing promised."""
    end: int
    """Once done: where in the data that was received last the body ended."""
    failed: PeerError | None
    """The framing was broken or cut, after all the payload returned so far."""

    def receive(self, data: bytes, start: int = 0) -> list[Buffer]:
        """The payload in `data[start:]`, in order, in slices of `data` or tiny ones joined. No part is empty."""

    def receive_eof(self) -> None:
        """No more bytes will come: sets `done`, or `failed` when the framing had promised more."""


class LengthDecoder:
    """A body of `length` bytes (Content-Length)."""

    __slots__ = ("_left", "done", "end", "failed")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.end = 0
        self.failed: PeerError | None = None

    def receive(self, data: bytes, start: int = 0) -> list[Buffer]:
        """See BodyDecoder."""
        end = min(start + self._left, len(data))
        self._left -= end - start
        if not self._left:
            self.done = True
            self.end = end
        return [_slice(data, start, end)] if end > start else []

    def receive_eof(self) -> None:
        """See BodyDecoder."""
        self.failed = PeerError(f"the body ended {self._left} bytes short of its content-length")


class UntilCloseDecoder:
    """A body that ends where the connection does (RFC 9112 section 6.3, item 8)."""

    __slots__ = ("done", "end", "failed")

    def __init__(self) -> None:
        self.done = False
        self.end = 0
        self.failed: PeerError | None = None

    def receive(self, data: bytes, start: int = 0) -> list[Buffer]:
        """See BodyDecoder."""
        return [_slice(data, start, len(data))] if start < len(data) else []

    def receive_eof(self) -> None:
        """See BodyDecoder."""
        self.done = True


class ChunkedDecoder:
    """The chunked transfer coding (RFC 9112 section 7.1). Trailers are checked, bounded by `limits` and dropped.

    `max_bytes` of payload pass; the chunk that would exceed them fails with status 413 as soon as its size is known,
    and nothing of it is returned. `is_lenient`: blanks may stand between a chunk's size and the end of its line.
    """

    __slots__ = (
        "_left",
        "_limits",
        "_line",
        "_missing",
        "_read",
        "_room",
        "_tail",
        "_trailers",
        "done",
        "end",
        "failed",
    )

    def __init__(self, limits: HeadLimits, max_bytes: int | None = None, *, is_lenient: bool = False) -> None:
        self._limits = limits
        self._room = max_bytes  # payload that may still be announced, None: any
        self._line = _LENIENT if is_lenient else _STRICT
        self._read: Callable[[ChunkedDecoder, bytes, int, list[Buffer]], int] = ChunkedDecoder._read_chunks
        self._tail = b""  # the begun line that the last read ended in
        self._left = 0  # payload bytes of the present chunk still to come
        self._missing = _CRLF  # what of the CRLF after the payload is still to come
        self._trailers = (0, 0)  # fields, bytes
        self.done = False
        self.end = 0
        self.failed: PeerError | None = None

    def receive(self, data: bytes, start: int = 0) -> list[Buffer]:
        """See BodyDecoder."""
        parts: list[Buffer] = []
        position = start
        while position < len(data) and not self.done and self.failed is None:
            position = self._read(self, data, position, parts)
        if self.done:
            self.end = position
        return parts if len(parts) < 2 else _gather(parts)

    def receive_eof(self) -> None:
        """See BodyDecoder."""
        self._fail("the body ended without its last chunk")

    def _read_chunks(self, data: bytes, position: int, parts: list[Buffer]) -> int:
        """Size lines, and the chunks that are whole in this read: the loop that every token passes through.

        It does not compare with the bound: a read that could exceed it goes the long way, chunk by chunk.
        """
        size = len(data)
        if self._tail or (self._room is not None and size - position > self._room):
            return self._read_size_line(data, position)
        first = len(parts)
        find = data.find
        append = parts.append
        while True:
            end_of_line = find(_CRLF, position, position + _SIZE_LINE_BYTES)
            if end_of_line < 0:
                self._count(parts, first)
                return self._keep_size_line(data[position : position + _SIZE_LINE_BYTES], size)
            line = data[position:end_of_line]
            count = _SIZES.get(line) or _chunk_size(line, self._line)
            if count is None:
                return self._fail("a bad chunk-size line", size)
            begin = end_of_line + 2
            end = begin + count
            if not count or end + 2 > size:
                self._count(parts, first)
                return self._begin_chunk(count, begin)
            append(data[begin:end] if count < _SMALL else memoryview(data)[begin:end])
            position = end + 2
            if data[end:position] != _CRLF:
                return self._fail("a chunk is longer than its size", size)
            if position == size:
                self._count(parts, first)
                return size

    def _count(self, parts: list[Buffer], first: int) -> None:
        """The chunks from `parts[first]` on have come whole: what they use of the bound."""
        if self._room is not None:
            self._room -= sum(map(len, parts[first:]))

    def _read_size_line(self, data: bytes, position: int) -> int:
        """One size line, perhaps begun in an earlier read."""
        begun = len(self._tail)
        joined = self._tail + data[position : position + _SIZE_LINE_BYTES]
        end_of_line = joined.find(_CRLF)
        if end_of_line < 0:
            return self._keep_size_line(joined, len(data))
        count = _chunk_size(joined[:end_of_line], self._line)
        if count is None:
            return self._fail("a bad chunk-size line", len(data))
        self._tail = b""
        return self._begin_chunk(count, position + end_of_line + 2 - begun)

    def _keep_size_line(self, begun: bytes, end: int) -> int:
        """Wait for the rest of a size line, unless it can only be a bad one."""
        if self._line.begun.fullmatch(begun) is None:
            return self._fail("a bad chunk-size line", end)
        self._tail = begun
        return end

    def _begin_chunk(self, count: int, position: int) -> int:
        if self._room is not None:
            self._room -= count
            if self._room < 0:
                self.failed = PeerError("the body is too large", 413)
        self._left = count
        self._read = ChunkedDecoder._read_payload if count else ChunkedDecoder._read_trailers
        return position

    def _read_payload(self, data: bytes, position: int, parts: list[Buffer]) -> int:
        end = min(position + self._left, len(data))
        self._left -= end - position
        parts.append(_slice(data, position, end))
        if not self._left:
            self._missing = _CRLF
            self._read = ChunkedDecoder._read_payload_end
        return end

    def _read_payload_end(self, data: bytes, position: int, _parts: list[Buffer]) -> int:
        received = data[position : position + len(self._missing)]
        if not self._missing.startswith(received):
            return self._fail("a chunk is longer than its size", len(data))
        self._missing = self._missing[len(received) :]
        if not self._missing:
            self._read = ChunkedDecoder._read_chunks
        return position + len(received)

    def _read_trailers(self, data: bytes, position: int, _parts: list[Buffer]) -> int:
        """One trailer line, or the empty one that ends the body (RFC 9112 section 7.1.2)."""
        begun = len(self._tail)
        fields, used = self._trailers
        room = self._limits.head_bytes - used
        joined = self._tail + data[position : position + room + 1]
        end_of_line = joined.find(_CRLF)
        broken = _BROKEN_LINE.search(joined, max(begun - 1, 0), end_of_line if end_of_line >= 0 else len(joined))
        line_bytes = end_of_line + 2 if end_of_line >= 0 else len(joined)
        if broken or line_bytes > room:
            return self._fail("bad or too many trailers", len(data))
        if end_of_line < 0:
            self._tail = joined
            return len(data)
        self._tail = b""
        if end_of_line == 0:
            self.done = True
        elif fields == self._limits.fields or _TRAILER.fullmatch(joined, 0, end_of_line) is None:
            return self._fail("bad or too many trailers", len(data))
        self._trailers = (fields + 1, used + line_bytes)
        return position + line_bytes - begun

    def _fail(self, fault: str, position: int = 0) -> int:
        self.failed = PeerError(fault)
        return position


def _chunk_size(line: bytes, form: _SizeLine) -> int | None:
    """What a size line says, None when it is not one."""
    if not line.strip(_HEX_DIGITS) and 0 < len(line) <= _MAX_DIGITS:
        return int(line, 16)
    match = form.whole.fullmatch(line)
    return None if match is None else int(match[1], 16)


def _slice(data: bytes, start: int, end: int) -> Buffer:
    """`data[start:end]`, copied only when small."""
    if end - start == len(data):
        return data
    return data[start:end] if end - start < _SMALL else memoryview(data)[start:end]


def _gather(parts: list[Buffer]) -> list[Buffer]:
    """The same bytes with neighbouring small parts joined."""
    gathered: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < _SMALL:
            small.append(part)
            continue
        if small:
            gathered.append(b"".join(small))
            small = []
        gathered.append(part)
    if small:
        gathered.append(b"".join(small))
    return gathered
